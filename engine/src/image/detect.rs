//! What a file is, from its first bytes.

use std::ops::Range;

use super::arrange::Arranger;
use super::input::Input;
use super::{FormatChoice, ImageError, ImageFormat, ImageLayout};
use super::{cloud_hypervisor, elf, firecracker, lime, mapped_ram};

/// First bytes of files that people have where they want a memory image, what such a file is, and what to
/// do with it. Packing them as raw bytes would work and be useless.
const FOREIGN: [(&[u8], &str, &str); 21] = [
    (b"\x1f\x8b\x08", "gzip-compressed", DECOMPRESS),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", DECOMPRESS),
    (b"\xfd7zXZ\0", "xz-compressed", DECOMPRESS),
    (b"\x04\x22\x4d\x18", "lz4-compressed", DECOMPRESS),
    (b"BZh91AY&SY", "bzip2-compressed", DECOMPRESS),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", DECOMPRESS),
    (b"PK\x03\x04", "a zip archive", DECOMPRESS),
    (b"LibvirtQemudSave", "a libvirt save file", DUMP),
    (b"LibvirtQemudPart", "an unfinished libvirt save file", DUMP),
    (b"KDUMP   ", "a compressed kdump dump", DUMP),
    (b"DISKDUMP", "a diskdump dump", DUMP),
    (b"makedumpfile\0", "a flattened makedumpfile dump", DUMP),
    (b"AVML\x02\0\0\0", "a compressed AVML dump", "convert it first, as with avml-convert"),
    (b"PAGEDU64", "a Windows crash dump", HYPERVISOR),
    (b"PAGEDUMP", "a 32-bit Windows crash dump", HYPERVISOR),
    (b"\xd0\xbe\xd2\xbe", "a VMware state file", VMEM),
    (b"\xd1\xba\xd1\xba", "a VMware state file", VMEM),
    (b"\xd2\xbe\xd2\xbe", "a VMware state file", VMEM),
    (b"\xd3\xbe\xd3\xbe", "a VMware state file", VMEM),
    (b"QFI\xfb", "a qcow2 disk image", "give it as a reference"),
    (b"KDMV", "a VMDK disk image", "give it as a reference"),
];

const DECOMPRESS: &str = "decompress it first";
const DUMP: &str = "dump the memory as an ELF core, as with `virsh dump --memory-only --format elf`";
const HYPERVISOR: &str = "take the memory from the hypervisor instead";
const VMEM: &str = "the memory is in the .vmem file beside it";

/// Finds the pages of an image that lies in memory.
///
/// `choice` overrides what the bytes look like. `state_json` is the content of `state.json` of a Cloud
/// Hypervisor snapshot, which is needed for [`FormatChoice::CloudHypervisor`] and ignored otherwise.
/// [`MemoryImage::open`](super::MemoryImage::open) does this for files.
///
/// # Errors
///
/// Any of [`ImageError`] that speaks of the content of a file.
pub fn parse_layout(
    bytes: &[u8],
    choice: Option<FormatChoice>,
    state_json: Option<&[u8]>,
) -> Result<ImageLayout, ImageError> {
    // All of it data, however it is stored.
    let all = 0..bytes.len() as u64;
    parse(bytes, std::slice::from_ref(&all), choice, state_json)
}

/// As [`parse_layout`], for bytes that are holes outside `extents`.
pub(super) fn parse(
    bytes: &[u8],
    extents: &[Range<u64>],
    choice: Option<FormatChoice>,
    state_json: Option<&[u8]>,
) -> Result<ImageLayout, ImageError> {
    let input = |format| Input { format, bytes, extents };
    let choice = match choice {
        Some(choice) => choice,
        None => detect(input(ImageFormat::Raw))?,
    };
    let input = input(choice.format());
    match choice {
        FormatChoice::Raw => {
            let mut arranger = Arranger::new(input.format);
            arranger.add(0..input.len(), Some(0))?;
            arranger.finish(input.len())
        }
        FormatChoice::Elf => elf::parse(input),
        FormatChoice::Lime => lime::parse(input),
        FormatChoice::MappedRam => mapped_ram::parse(input),
        FormatChoice::Qemu => Err(ImageError::Stream),
        FormatChoice::Firecracker => firecracker::parse(input.len()),
        FormatChoice::CloudHypervisor => {
            let state = state_json.ok_or(ImageError::Snapshot { why: "it is missing" })?;
            cloud_hypervisor::parse(input, state)
        }
    }
}

/// The format that the first bytes speak for: raw, unless they speak for another.
fn detect(input: Input<'_>) -> Result<FormatChoice, ImageError> {
    if elf::is_core(input) {
        return Ok(FormatChoice::Elf);
    }
    if input.bytes.starts_with(lime::MAGIC) {
        return Ok(FormatChoice::Lime);
    }
    if input.bytes.starts_with(mapped_ram::MAGIC) {
        return Ok(FormatChoice::MappedRam);
    }
    if let Some((_, kind, advice)) = FOREIGN.iter().find(|(magic, ..)| input.bytes.starts_with(magic)) {
        return Err(ImageError::Foreign { kind, advice });
    }
    if input.bytes.starts_with(elf::MAGIC) {
        log::warn!("an ELF file, but no 64-bit little-endian core: it is packed as raw bytes");
    }
    Ok(FormatChoice::Raw)
}
