//! Classes of residual pages: what the guest uses a page for, or else what kind of bytes it holds.
//!
//! Pages of one class are coded together, which suits the coder and costs little. A guest that can be read
//! ([`crate::guest`]) says what its pages are; of others, the scan's counters tell as much as is worth knowing: grouping by
//! content makes zstd's output 0.5 % smaller than physical order, finer classes do not help (`docs/benchmarks.md`). A
//! class steers how bytes are coded, never what they are.

use crate::guest::GuestClass;
use mig_simd::{PAGE_WORDS, Page, PageRecord};

/// The class of a residual page. The numbers are the format's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Already compressed or encrypted: stored without trying.
    Incompressible = 0,
    /// Mostly words of eight ASCII bytes.
    Text = 1,
    /// User-space pointers among the words: heaps, stacks.
    UserPointers = 2,
    /// Kernel pointers among the words: slabs, kernel data.
    KernelPointers = 3,
    /// At least half of the words are zero.
    Sparse = 4,
    /// Anything else.
    Other = 5,
    /// The guest's page tables.
    PageTable = 6,
    /// Its array of `struct page`.
    MemMap = 7,
    /// Kernel objects.
    Slab = 8,
    /// Other memory of the kernel.
    Kernel = 9,
    /// Reserved since boot: the kernel's image, firmware.
    Reserved = 10,
    /// Files in memory.
    Shmem = 11,
    /// Heaps, stacks and private copies of files' pages.
    Anonymous = 12,
    /// Page cache that no reference holds.
    File = 13,
    /// Free memory, with what it held before.
    Free = 14,
    /// Huge pages.
    HugeTlb = 15,
}

impl Class {
    /// All classes in the format's order.
    pub const ALL: [Class; 16] = [
        Class::Incompressible,
        Class::Text,
        Class::UserPointers,
        Class::KernelPointers,
        Class::Sparse,
        Class::Other,
        Class::PageTable,
        Class::MemMap,
        Class::Slab,
        Class::Kernel,
        Class::Reserved,
        Class::Shmem,
        Class::Anonymous,
        Class::File,
        Class::Free,
        Class::HugeTlb,
    ];

    pub(crate) fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(id as usize).copied()
    }

    /// A word for reports.
    pub fn name(self) -> &'static str {
        match self {
            Class::Incompressible => "incompressible",
            Class::Text => "text",
            Class::UserPointers => "user pointers",
            Class::KernelPointers => "kernel pointers",
            Class::Sparse => "sparse",
            Class::Other => "other",
            Class::PageTable => "page tables",
            Class::MemMap => "memmap",
            Class::Slab => "slab",
            Class::Kernel => "other kernel",
            Class::Reserved => "reserved",
            Class::Shmem => "shmem",
            Class::Anonymous => "anonymous",
            Class::File => "file",
            Class::Free => "free",
            Class::HugeTlb => "hugetlb",
        }
    }

    /// The class of a page whose content is of class `self`, if the guest says what it is for. What no coder shrinks is that whoever owns it.
    pub(crate) fn refined(self, guest: GuestClass) -> Self {
        if self == Class::Incompressible {
            return self;
        }
        match guest {
            GuestClass::Unknown => self,
            GuestClass::Free => Class::Free,
            GuestClass::File => Class::File,
            GuestClass::Shmem => Class::Shmem,
            GuestClass::Anonymous => Class::Anonymous,
            GuestClass::Slab => Class::Slab,
            GuestClass::PageTable => Class::PageTable,
            GuestClass::MemMap => Class::MemMap,
            GuestClass::HugeTlb => Class::HugeTlb,
            GuestClass::Reserved => Class::Reserved,
            GuestClass::Kernel => Class::Kernel,
        }
    }

    /// The decision table: counters of the scan first, the sampled bytes where those say nothing. A GPU has the same one
    /// (`shaders/wgsl/classify.wgsl`).
    pub fn of(record: &PageRecord, page: &Page) -> Self {
        if is_incompressible(record, page) {
            Class::Incompressible
        } else if record.text_words >= MIN_TEXT {
            Class::Text
        } else if record.user_pointers >= MIN_POINTERS {
            Class::UserPointers
        } else if record.kernel_pointers >= MIN_POINTERS {
            Class::KernelPointers
        } else if record.zero_words >= MIN_SPARSE {
            Class::Sparse
        } else {
            Class::Other
        }
    }
}

/// Text words of a page of text, at least.
pub(crate) const MIN_TEXT: u16 = 256;
/// Pointers of a page of pointers, at least.
pub(crate) const MIN_POINTERS: u16 = 64;
/// Zero words of a sparse page, at least.
pub(crate) const MIN_SPARSE: u16 = 256;
/// Zero and small words of a page that may be incompressible, at most: these mean repeated bytes.
pub(crate) const MAX_PLAIN: usize = PAGE_WORDS / 32;
/// Sum of squared counts below which 256 sampled bytes are as good as random. Random bytes give about 511.
pub(crate) const RANDOM_LIMIT: u32 = 600;

/// Whether no coder is likely to shrink the page, judged by the spread of 256 of its bytes.
///
/// Found 35 of 35 incompressible pages in the lab with 4 false alarms of 6,144, at 2.8 kB lost on 24 MiB.
fn is_incompressible(record: &PageRecord, page: &Page) -> bool {
    // Most pages end here.
    let plain = usize::from(record.zero_words) + usize::from(record.small_words);
    if plain > MAX_PLAIN {
        return false;
    }
    let mut counts = [0u16; 256];
    for group in page.chunks_exact(16) {
        counts[usize::from(group[7])] += 1;
    }
    counts.iter().map(|&count| u32::from(count) * u32::from(count)).sum::<u32>() < RANDOM_LIMIT
}
