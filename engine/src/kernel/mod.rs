//! The kernel's image as a reference that both ends can make from the guest's disk.
//!
//! The largest single thing in a guest's memory that is on its disk and still equal to no block of it is the kernel: there it
//! is compressed, and not yet relocated. Decompressed, laid out, and slid by what address space randomisation chose, it
//! equals the guest's kernel in most pages, and differs in a few words in most others (code that the kernel patches, data that it
//! writes). The recipe is in the stream's header ([`Derivation`]): which bytes of the disk, how they are compressed, what goes
//! where, what to relocate. So a decoder needs neither a file system nor an ELF reader, and makes the same image.
//!
//! Finding the kernel and working out the recipe is the encoder's work ([`Kernels`]).

mod bzimage;
mod cache;
mod derivation;
mod disk;
mod elf;
mod image;
mod lookout;
mod payload;

use std::io;
use std::sync::Arc;

pub(crate) use bzimage::begins_here;
pub use cache::KernelCache;
pub use derivation::Derivation;
use disk::KernelFile;
pub(crate) use image::Derived;
pub(crate) use lookout::Lookout;

use crate::guest::Guest;
use crate::reference::BlockSource;
use image::Unslid;
use xxhash_rust::xxh3::xxh3_128;

/// A kernel image at hand, for packing.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) derivation: Derivation,
    /// XXH3-128 of the payload.
    pub(crate) identity: u128,
    pub(crate) image: Derived,
    /// Where the guest has it.
    pub(crate) place: Place,
    /// What the file is called.
    pub(crate) name: String,
}

/// Where a guest has its kernel's first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In this guest-physical frame.
    Frame(u64),
    /// In this page of its image, the others behind it.
    Page(u64),
}

impl Found {
    /// The kernel of a file on the disk with this number, as a guest has it.
    fn new(disk: u8, file: &KernelFile, unslid: Unslid, slide: u64, place: Place) -> io::Result<Self> {
        let (layout, identity) = (unslid.layout.clone(), unslid.payload);
        let derivation = Derivation { parent: disk, extents: file.payload.clone(), layout, slide };
        Ok(Found { derivation, identity, image: unslid.slid(slide)?, place, name: file.name.clone() })
    }
}

/// A disk that may have the guest's kernel.
pub(crate) struct Disk {
    /// Its number among the references.
    pub(crate) number: u8,
    pub(crate) source: Arc<dyn BlockSource + Send + Sync>,
    /// Blocks that start as a kernel file does.
    pub(crate) starts: Vec<u64>,
}

/// The kernels of some disks.
pub(crate) struct Kernels<'a> {
    disks: &'a [Disk],
    cache: Option<&'a KernelCache>,
    /// Each with the place of its disk.
    files: Vec<(usize, KernelFile)>,
    /// The image of the only one.
    only: Option<io::Result<Unslid>>,
}

impl<'a> Kernels<'a> {
    /// Lists the kernels, and prepares the image if there is just one: that takes a while, and needs nothing of the guest.
    pub(crate) fn list(disks: &'a [Disk], cache: Option<&'a KernelCache>) -> Self {
        let files = files(disks);
        let only = match &files[..] {
            [(place, file)] => Some(prepare(disks[*place].source.as_ref(), file, cache)),
            _ => None,
        };
        Kernels { disks, cache, files, only }
    }

    /// The kernel that a guest runs; `None` if it is none of these.
    pub(crate) fn of_guest(mut self, guest: &Guest) -> Option<Found> {
        let (slide, physical) = (guest.kernel_offset()?, guest.kernel_physical_base()?);
        for (place, file) in self.files {
            if file.head.release != guest.release() {
                continue;
            }
            let disk = &self.disks[place];
            let unslid = self.only.take();
            let unslid = unslid.unwrap_or_else(|| prepare(disk.source.as_ref(), &file, self.cache));
            let slid = unslid.and_then(|unslid| {
                if matches!((&unslid.build_id, guest.build_id()), (Some(one), Some(other)) if one != other) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "another build than the guest's"));
                }
                let frame = unslid.physical.wrapping_add(slide).wrapping_add(physical) >> 12;
                Found::new(disk.number, &file, unslid, slide, Place::Frame(frame))
            });
            match slid {
                Ok(found) => return Some(found),
                Err(error) => log::info!("kernel {}: {error}", file.name),
            }
        }
        None
    }
}

/// The kernel files on these disks, each with the place of its disk.
fn files(disks: &[Disk]) -> Vec<(usize, KernelFile)> {
    let list = |(place, disk): (usize, &Disk)| {
        let files = disk::kernels(&disk.source, &disk.starts).into_iter();
        files.map(move |file| (place, file))
    };
    disks.iter().enumerate().flat_map(list).collect()
}

/// Lays out a kernel file.
fn prepare(disk: &dyn BlockSource, file: &KernelFile, cache: Option<&KernelCache>) -> io::Result<Unslid> {
    Unslid::of_payload(&disk::read_ranges(disk, &file.payload)?, cache)
}

impl Derivation {
    /// Makes the image from the disk that has the payload, whose XXH3-128 must be `identity`.
    ///
    /// # Errors
    ///
    /// The disk has other bytes there, or none; or what they decompress to is not what the recipe says.
    pub(crate) fn derive(
        &self,
        disk: &dyn BlockSource,
        identity: u128,
        cache: Option<&KernelCache>,
    ) -> io::Result<Derived> {
        let payload = disk::read_ranges(disk, &self.extents)?;
        if xxh3_128(&payload) != identity {
            let why = "the disk has other bytes where the kernel should be";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Unslid::of_layout(&self.layout, &payload, cache)?.slid(self.slide)
    }
}
