//! The kernel's image as a reference that both ends can make from the guest's disk.
//!
//! The largest single thing in a guest's memory that is on its disk and still equal to no block of it is the kernel: there it
//! is compressed, and not yet relocated. Decompressed, laid out, and slid by what address space randomisation chose, it
//! equals the guest's kernel in most pages, and differs in a few words in most others (code that the kernel patches, data that it
//! writes). The recipe is in the stream's header ([`Derivation`]): which bytes of the disk, how they are compressed, what goes
//! where, what to relocate. So a decoder needs neither a file system nor an ELF reader, and makes the same image.
//!
//! Finding the kernel and working out the recipe is the encoder's work ([`find`]).

mod bzimage;
mod cache;
mod derivation;
mod disk;
mod elf;
mod image;
mod payload;

use std::io;
use std::sync::Arc;

pub use cache::KernelCache;
pub use derivation::Derivation;
pub(crate) use image::Derived;

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
    /// Guest-physical frame of its first page.
    pub(crate) frame: u64,
    /// What the file is called.
    pub(crate) name: String,
}

/// Finds the kernel that a guest runs on one of its disks, and makes its image; `None` if it is on none of them, or is none that
/// can be made use of. `disks` are the references that are disks, with their numbers.
pub(crate) fn find(
    guest: &Guest,
    disks: &[(u8, Arc<dyn BlockSource + Send + Sync>)],
    cache: Option<&KernelCache>,
) -> Option<Found> {
    let (slide, physical) = (guest.kernel_offset()?, guest.kernel_physical_base()?);
    for (parent, disk) in disks {
        for file in disk::kernels(disk).into_iter().filter(|file| file.head.release == guest.release()) {
            match make(guest, disk.as_ref(), &file, cache) {
                Ok(Some(unslid)) => {
                    let frame = unslid.physical.wrapping_add(slide).wrapping_add(physical) >> 12;
                    let identity = unslid.payload;
                    let (extents, layout) = (file.payload, unslid.layout.clone());
                    let derivation = Derivation { parent: *parent, extents, layout, slide };
                    match unslid.slid(slide) {
                        Ok(image) => {
                            return Some(Found { derivation, identity, image, frame, name: file.name });
                        }
                        Err(error) => log::debug!("kernel {}: {error}", file.name),
                    }
                }
                Ok(None) => log::debug!("kernel {}: another build than the guest's", file.name),
                Err(error) => log::debug!("kernel {}: {error}", file.name),
            }
        }
    }
    None
}

/// Lays out a kernel file; `None` if it is of another build than the guest's.
fn make(
    guest: &Guest,
    disk: &dyn BlockSource,
    file: &disk::KernelFile,
    cache: Option<&KernelCache>,
) -> io::Result<Option<Unslid>> {
    let unslid = Unslid::of_payload(&disk::read_ranges(disk, &file.payload)?, cache)?;
    let differs = matches!((&unslid.build_id, guest.build_id()), (Some(one), Some(other)) if one != other);
    Ok((!differs).then_some(unslid))
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
