//! Reading a Linux guest from its memory: what each page is used for, whose it is, and at what virtual address.
//!
//! No agent and no symbols are needed: the kernel describes itself in a note (VMCOREINFO), which is found by what it starts
//! with, believed once the kernel's own page tables lead to the release that it names, and then tells how to read the
//! array of `struct page`. The recipe follows what makedumpfile does, and agrees with its counts.
//!
//! Everything here is read from memory that the guest controls. It is bounded (each table page is visited once, every walk
//! has a budget), never recursive, and never believed where it matters: a class steers how a page is coded, not what it
//! holds, so a guest that lies gets a larger stream.

mod kernel;
mod memmap;
pub(crate) mod physical;
mod spaces;
mod tables;
pub(crate) mod vmcoreinfo;

use rayon::prelude::*;

use crate::image::{ImageLayout, Run};
use crate::page::{PAGE_SIZE, Page};
use crate::source::PageSource;
use kernel::Kernel;
use memmap::{Classed, MemMap};
use physical::{FrameMap, Physical};

/// What the guest uses a page for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum GuestClass {
    /// The guest does not say.
    Unknown = 0,
    /// Free: in the page allocator's lists, given back to the host, or not accepted yet.
    Free = 1,
    /// Page cache of a file on a disk.
    File = 2,
    /// Page cache of a file in memory (tmpfs, shared memory), and of swap.
    Shmem = 3,
    /// Heaps, stacks and private copies of files' pages.
    Anonymous = 4,
    /// Kernel objects.
    Slab = 5,
    /// Page tables.
    PageTable = 6,
    /// The array of `struct page`.
    MemMap = 7,
    /// Huge pages of hugetlbfs.
    HugeTlb = 8,
    /// Reserved since boot: the kernel's image, firmware.
    Reserved = 9,
    /// Any other memory of the kernel.
    Kernel = 10,
}

impl GuestClass {
    /// All classes, in the order of their numbers.
    pub const ALL: [GuestClass; 11] = [
        GuestClass::Unknown,
        GuestClass::Free,
        GuestClass::File,
        GuestClass::Shmem,
        GuestClass::Anonymous,
        GuestClass::Slab,
        GuestClass::PageTable,
        GuestClass::MemMap,
        GuestClass::HugeTlb,
        GuestClass::Reserved,
        GuestClass::Kernel,
    ];

    /// A word for reports.
    pub fn name(self) -> &'static str {
        match self {
            GuestClass::Unknown => "unknown",
            GuestClass::Free => "free",
            GuestClass::File => "file",
            GuestClass::Shmem => "shmem",
            GuestClass::Anonymous => "anonymous",
            GuestClass::Slab => "slab",
            GuestClass::PageTable => "page table",
            GuestClass::MemMap => "memmap",
            GuestClass::HugeTlb => "hugetlb",
            GuestClass::Reserved => "reserved",
            GuestClass::Kernel => "other kernel",
        }
    }
}

/// An address space of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Physical address of its top page table.
    pub root: u64,
    /// Pages that are mapped here and in no space before.
    pub pages: u64,
    /// The program's path, as it was started.
    pub name: Option<String>,
}

/// A Linux guest, as its own structures describe it.
#[derive(Clone, Debug)]
pub struct Guest {
    release: String,
    build_id: Option<String>,
    /// The kernel's note, page by page.
    note: Vec<(u64, Box<Page>)>,
    kernel_offset: Option<u64>,
    kernel_physical_base: Option<u64>,
    frames: FrameMap,
    classes: Vec<GuestClass>,
    /// For each page, its space's number plus one, or 0.
    owners: Vec<u16>,
    /// For each page, the virtual page number of its first mapping; 0 where none is known.
    virtual_pages: Vec<u64>,
    spaces: Vec<Space>,
    /// Pages of the memory map, with their virtual page numbers.
    array: Vec<(u64, u64)>,
}

/// Pages that one task looks at for notes.
const NOTE_TASK_PAGES: u64 = 1 << 12;

/// The pages that start as a kernel's note does, ascending. Packing finds them on its way; this is for those who only
/// look. Runs on the current rayon pool.
pub fn find_notes<S: PageSource + ?Sized>(source: &S) -> Vec<u64> {
    let count = source.page_count();
    let task = |task: u64| {
        let mut found = Vec::new();
        let mut page = task * NOTE_TASK_PAGES;
        let end = count.min(page + NOTE_TASK_PAGES);
        while page < end {
            let run = source.run(page, end - page);
            if let Run::Data(bytes) = run {
                let (pages, _) = bytes.as_chunks::<PAGE_SIZE>();
                let notes = (page..).zip(pages).filter(|(_, bytes)| vmcoreinfo::begins_here(bytes));
                found.extend(notes.map(|(page, _)| page));
            }
            page += run.pages().max(1);
        }
        found
    };
    (0..count.div_ceil(NOTE_TASK_PAGES)).into_par_iter().flat_map_iter(task).collect()
}

/// Free pages that are looked at to see what the guest does to freed memory.
const FREE_SAMPLE: usize = 1024;
/// What a kernel that poisons freed pages fills them with.
const POISON: u8 = 0xaa;

/// Why a guest's free pages must be sent as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FreePagesError {
    /// It is not known which pages are free.
    #[error(
        "the guest cannot be read: it is no Linux guest that describes itself, so its free pages are not known"
    )]
    Unknown,
    /// It would find them changed.
    #[error("the guest poisons freed memory, and checks the pattern when it uses a page again (page_poison)")]
    Poisoned,
}

/// Finds the kernel, and classes all pages by its array of `struct page`, with memory where the layout has it or at one of the
/// places where it may be.
///
/// A raw file claims to be memory from address 0 on; whoever wrote it may have left out the hole below 4 GiB. The kernel can be
/// below the hole and then agrees with any of the places: only the right one has a structure for every page.
fn read_where_it_lies<S: PageSource + ?Sized>(
    source: &S,
    layout: Option<&ImageLayout>,
    notes: &[u64],
) -> Option<(Kernel, FrameMap, Classed)> {
    let pages = source.page_count();
    let known = layout.and_then(FrameMap::of_layout);
    let others = FrameMap::guesses(pages).into_iter().filter(|frames| Some(frames) != known.as_ref());
    let candidates: Vec<FrameMap> = known.iter().cloned().chain(others).collect();
    let mut best: Option<(Kernel, FrameMap, Classed)> = None;
    for frames in candidates {
        let memory = Physical { source, frames: &frames };
        let read = || {
            let kernel = Kernel::find(memory, notes)?;
            let classed = MemMap::new(&kernel, memory, &frames)?.class_all(&kernel, memory, &frames)?;
            Some((kernel, classed))
        };
        let Some((kernel, classed)) = read() else { continue };
        if best.as_ref().is_none_or(|(.., best)| classed.known > best.known) {
            // Images also have what is no RAM, such as firmware.
            let enough = classed.known >= pages - pages / 100;
            best = Some((kernel, frames, classed));
            if enough {
                break;
            }
        }
    }
    best
}

impl Guest {
    /// Reads the guest whose kernel's note starts in one of the pages `notes`; `None` where there is no Linux kernel that
    /// describes itself, or one that cannot be understood. `layout` says where pages lie in the guest, as far as it is known.
    ///
    /// Runs on the current rayon pool, in time proportional to the memory's size whatever it holds.
    pub fn read<S: PageSource + ?Sized>(
        source: &S,
        layout: Option<&ImageLayout>,
        notes: &[u64],
    ) -> Option<Self> {
        let (kernel, frames, classed) = read_where_it_lies(source, layout, notes)?;
        let memory = Physical { source, frames: &frames };
        let pages = source.page_count() as usize;
        let note = kernel.info.frames().filter_map(|frame| {
            let (page, content) = (frames.page_of(frame)?, memory.frame(frame)?);
            Some((page, Box::new(*content)))
        });
        let mut guest = Guest {
            release: kernel.info.release().to_owned(),
            build_id: kernel.info.build_id().map(str::to_owned),
            note: note.collect(),
            kernel_offset: kernel.info.kernel_offset(),
            kernel_physical_base: kernel.info.number("phys_base").map(i64::cast_unsigned),
            frames: frames.clone(),
            classes: classed.classes,
            owners: vec![0; pages],
            virtual_pages: vec![0; pages],
            spaces: Vec::new(),
            array: classed.array,
        };
        spaces::find(&kernel, memory, &mut guest);
        Some(guest)
    }

    /// The kernel's release, as `uname -r` prints it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The kernel's build id in hexadecimal digits, where it gives one.
    pub fn build_id(&self) -> Option<&str> {
        self.build_id.as_deref()
    }

    /// Whether its kernel can still be the one that was read, after the pages that `changed` gives got new contents. A kernel never
    /// changes its note; where that has changed, the guest was started anew, and what was read is of another one.
    pub fn outlives<'p>(&self, changed: impl Fn(u64) -> Option<&'p Page>) -> bool {
        self.note.iter().all(|(page, content)| changed(*page).is_none_or(|new| *new == **content))
    }

    /// How far address space randomisation moved the kernel, in bytes.
    pub fn kernel_offset(&self) -> Option<u64> {
        self.kernel_offset
    }

    /// How far the kernel's image is in guest-physical memory from where its virtual addresses would have it, modulo 2^64. Of
    /// x86-64 kernels.
    pub(crate) fn kernel_physical_base(&self) -> Option<u64> {
        self.kernel_physical_base
    }

    /// What a page is used for.
    pub fn class(&self, page: u64) -> GuestClass {
        self.classes.get(page as usize).copied().unwrap_or(GuestClass::Unknown)
    }

    /// The class of every page.
    pub fn classes(&self) -> &[GuestClass] {
        &self.classes
    }

    /// The place in [`spaces`](Self::spaces) of the process that a page belongs to.
    pub fn owner(&self, page: u64) -> Option<usize> {
        self.owners.get(page as usize).and_then(|&owner| usize::from(owner).checked_sub(1))
    }

    /// The virtual page number (canonical address divided by 4096) at which the guest uses a page.
    pub fn virtual_page(&self, page: u64) -> Option<u64> {
        self.virtual_pages.get(page as usize).copied().filter(|&number| number != 0)
    }

    /// Whether the guest will not miss what its free pages hold, if it gets zeros instead. A kernel does not look at freed memory,
    /// unless it was told to fill it with a pattern and to check that; what is filled with zeros stays so.
    ///
    /// # Errors
    ///
    /// [`FreePagesError::Poisoned`].
    pub fn may_drop_free_pages<S: PageSource + ?Sized>(&self, source: &S) -> Result<(), FreePagesError> {
        let free = self.classes.iter().filter(|&&class| class == GuestClass::Free).count();
        let pages = (0u64..).zip(&self.classes).filter(|(_, class)| **class == GuestClass::Free);
        let sampled = pages.step_by((free / FREE_SAMPLE).max(1)).filter_map(|(page, _)| source.page(page));
        let (mut seen, mut poisoned) = (0, 0);
        for page in sampled {
            seen += usize::from(page.iter().any(|&byte| byte != 0));
            poisoned += usize::from(page.iter().all(|&byte| byte == POISON));
        }
        // One or two such pages may be anything.
        if poisoned > 2 && poisoned > seen / 8 { Err(FreePagesError::Poisoned) } else { Ok(()) }
    }

    /// The processes' address spaces, by the place of their tables.
    pub fn spaces(&self) -> &[Space] {
        &self.spaces
    }

    /// The guest-physical frame (address divided by 4096) that a page holds.
    pub fn frame(&self, page: u64) -> Option<u64> {
        self.frames.frame_of(page)
    }

    /// For each space its place in an order that puts processes of one program side by side.
    pub(crate) fn space_order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.spaces.len() as u32).collect();
        order.sort_by_key(|&index| &self.spaces[index as usize].name);
        let mut places = vec![0; order.len()];
        for (place, index) in (0..).zip(order) {
            places[index as usize] = place;
        }
        places
    }

    /// Where a page comes in the guest's own order: its process, given the order of those, and its address there; without
    /// either, its number.
    pub(crate) fn place(&self, page: u64, spaces: &[u32]) -> (u32, u64) {
        match (self.owner(page), self.virtual_page(page)) {
            (Some(owner), Some(number)) => (spaces[owner] + 1, number),
            _ => (0, page),
        }
    }
}
