//! Memory image files: from the bytes of a file to numbered guest pages, and back to the same file.
//!
//! Hypervisors write guest memory in several formats, but each comes down to this: somewhere in the
//! file lie runs of whole guest pages ([`Segment`]s), and around them lie other bytes (headers, notes,
//! device state, padding). So a file is its [`ImageLayout`], its pages, and its *opaque* bytes, and
//! whoever keeps the three can write the file again, bit for bit, whatever its format. The parsers
//! here only find the segments. They never change, drop or interpret a byte, so a file that is damaged
//! or odd is at worst packed less well.
//!
//! | format | what it is | how it is known |
//! |---|---|---|
//! | `raw` | guest-physical memory from address 0 (`pmemsave`, a `.vmem`) | anything else of a page or more |
//! | `elf` | 64-bit little-endian ELF core (QEMU's `dump-guest-memory`, `virsh dump --memory-only`, kdump's `vmcore`) | ELF header |
//! | `lime` | LiME's format | magic of the first range |
//! | `mapped-ram` | QEMU's migration file with the `mapped-ram` capability (9.0 and later) | stream header and capability |
//! | `qemu` | QEMU's migration stream (`migrate exec:cat > FILE`); its memory is copied out, or see [`crate::qemu`] | stream header |
//! | `firecracker` | Firecracker's memory file on x86-64: flat, without the device holes | only by name: it has no header |
//! | `cloud-hypervisor` | the `memory-ranges` file of a Cloud Hypervisor snapshot | the folder, or `state.json` beside it |
//!
//! The last three are [`ImageFormat::Raw`] with guest addresses taken from elsewhere.
//!
//! Page numbers: a page's number is its index in the guest's memory in address order, and after all
//! pages whose address is known come those whose address isn't (video memory and ROMs of a
//! `mapped-ram` file, a second copy of a page in a core).
//!
//! Every file is hostile input: offsets and lengths are checked before use, loops and allocations are
//! bounded by the size of the file and by [`MAX_SEGMENTS`], and nothing here panics on any bytes.
//! Not for the memory of a running guest (see [`crate::map`]).

#![forbid(unsafe_code)]

mod arrange;
mod cloud_hypervisor;
mod detect;
mod elf;
mod error;
mod firecracker;
mod format;
mod input;
mod layout;
mod lime;
pub(crate) mod mapped_ram;
mod memory;
mod spool;
mod writer;

pub use detect::parse_layout;
pub use error::ImageError;
pub use format::{FormatChoice, ImageFormat};
pub use layout::{ImageLayout, MAX_SEGMENTS, Segment};
pub use memory::{MemoryImage, Run};
pub use writer::{ImageWriter, WriteAs};

/// Bytes of a guest page, whatever the guest's own idea of a page is.
const PAGE: u64 = 4096;

/// Whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    // A page at a time against one of zeros is a `memcmp`, which stops at the first difference.
    const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}
