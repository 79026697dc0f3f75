//! ELF cores: QEMU's `dump-guest-memory`, `virsh dump --memory-only`, kdump's `vmcore`.
//!
//! Memory is what the `PT_LOAD` program headers with bytes in the file point at, at their physical
//! addresses. The headers may lie anywhere (QEMU 7.2 puts them after its section headers), their entries
//! may be longer than ours, and a count above 65534 hides in the first section header. `p_memsz` beyond
//! `p_filesz` is memory that was not written; it has no pages here.
//!
//! A core made with paging (`dump-guest-memory -p`) holds all of memory, but its headers list only what
//! some page table maps. So larger stretches that no header mentions, from the first that one does, are
//! memory at no known address. Notes and the rest stay opaque.
//!
//! Not for 32-bit or big-endian cores, which are packed as raw bytes.

use super::arrange::Arranger;
use super::input::Input;
use super::{ImageError, ImageLayout, PAGE};

pub(super) const MAGIC: &[u8] = b"\x7fELF";

const CLASS: u64 = 4;
const CLASS_64: u8 = 2;
const DATA: u64 = 5;
const DATA_LITTLE: u8 = 1;
const TYPE: u64 = 16;
const TYPE_CORE: u16 = 4;
const PHOFF: u64 = 32;
const SHOFF: u64 = 40;
const PHENTSIZE: u64 = 54;
const PHNUM: u64 = 56;

/// `e_phnum` that says: the count is in `sh_info` of section header 0.
const PHNUM_ELSEWHERE: u16 = 0xffff;
const SH_INFO: u64 = 44;

/// Bytes of a program header, and the fields we use.
const PROGRAM_HEADER: u64 = 56;
const P_TYPE_LOAD: u32 = 1;
const P_OFFSET: u64 = 8;
const P_PADDR: u64 = 24;
const P_FILESZ: u64 = 32;

/// The most program headers we go through. A core made with paging has one a mapping: 65,664 for a guest of
/// 256 MiB that had just booted, nearly all of them the same few pages.
const MAX_HEADERS: u32 = 1 << 22;

/// The least stretch of bytes that is taken for memory though no header mentions it.
const REST: u64 = 16 * PAGE;

/// Whether the file begins as a core that [`parse`] can read.
pub(super) fn is_core(input: Input<'_>) -> bool {
    input.bytes.starts_with(MAGIC)
        && input.u8("class", CLASS).is_ok_and(|class| class == CLASS_64)
        && input.u8("byte order", DATA).is_ok_and(|data| data == DATA_LITTLE)
        && input.u16_le("type", TYPE).is_ok_and(|kind| kind == TYPE_CORE)
}

pub(super) fn parse(input: Input<'_>) -> Result<ImageLayout, ImageError> {
    if !is_core(input) {
        let why = "it does not begin with the header of a 64-bit little-endian ELF core";
        return Err(ImageError::WrongFormat { format: input.format, why });
    }
    let table = input.u64_le("offset of the program headers", PHOFF)?;
    let size = input.u16_le("size of a program header", PHENTSIZE)?;
    if u64::from(size) < PROGRAM_HEADER {
        return Err(input.bad("size of a program header", PHENTSIZE, size.into(), "it is less than 56"));
    }
    let count = header_count(input)?;
    if count > MAX_HEADERS {
        return Err(ImageError::TooManySegments { format: input.format });
    }
    // One check for the whole table, so that offsets into it can't overflow.
    input.slice("table of program headers", table, u64::from(count) * u64::from(size))?;

    let mut arranger = Arranger::new(input.format);
    for index in 0..u64::from(count) {
        let header = table + index * u64::from(size);
        if input.u32_le("type of a program header", header)? != P_TYPE_LOAD {
            continue;
        }
        let offset = input.u64_le("p_offset", header + P_OFFSET)?;
        let len = input.u64_le("p_filesz", header + P_FILESZ)?;
        let address = input.u64_le("p_paddr", header + P_PADDR)?;
        if len > 0 {
            input.slice("memory of a program header", offset, len)?;
            arranger.add(offset..offset + len, Some(address))?;
        }
    }
    arranger.add_rest(input.len(), REST)?;
    arranger.finish(input.len())
}

fn header_count(input: Input<'_>) -> Result<u32, ImageError> {
    match input.u16_le("count of program headers", PHNUM)? {
        PHNUM_ELSEWHERE => {
            let section = input.u64_le("offset of the section headers", SHOFF)?;
            let field = section.checked_add(SH_INFO).ok_or_else(|| {
                input.bad("offset of the section headers", SHOFF, section, "it is past the end of the file")
            })?;
            input.u32_le("count of program headers in section 0", field)
        }
        count => Ok(count.into()),
    }
}
