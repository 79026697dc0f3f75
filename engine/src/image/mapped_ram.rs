//! QEMU's migration files with the `mapped-ram` capability (QEMU 9.0 and later).
//!
//! Such a file is a migration stream in which the RAM section has no pages. Instead, each RAM block in
//! the section's list is followed by a header that gives its place in the file: a bitmap of the pages that
//! were written, and the pages themselves, each at its fixed offset. Pages that are zero were never
//! written and are holes.
//!
//! With one exception: a page that was written in one round of a live migration and was zero at the end
//! keeps its old bytes in the file, and only its bit says that it is zero. Such stale bytes are no guest
//! memory. They are left out of the segments, so the file still comes back bit for bit (they are
//! opaque), while the guest's memory reads as zero there.
//!
//! A stream has no lengths, so sections before `ram` can't be skipped. If there are any, the start of
//! the RAM section is searched for; whatever is found is checked like everything else.
//!
//! Blocks don't say where they are in the guest. For the usual machine types on x86-64 and arm64 the
//! main block's place is known (below); video memory and ROMs have no address here.

use std::ops::Range;

use super::arrange::Arranger;
use super::input::Input;
use super::{ImageError, ImageLayout, PAGE, is_zero};

pub(super) const MAGIC: &[u8] = b"QEVM";

const VERSION: u32 = 3;
const SECTION_START: u8 = 0x01;
const SUBSECTION: u8 = 0x05;
const CONFIGURATION: u8 = 0x07;
const COMMAND: u8 = 0x08;

/// What follows the section id at the start of the RAM section: name, instance 0, version 4.
const RAM_START: &[u8] = b"\x03ram\0\0\0\0\0\0\0\x04";
/// Where it is searched if something unknown comes first. Device state of that kind is kilobytes.
const SEARCH: usize = 1 << 20;

/// The lowest bits of a RAM record: this one lists the blocks.
const MEM_SIZE: u64 = 0x04;
const FLAGS: u64 = 0xfff;

const BLOCK_HEADER: u64 = 28;
/// QEMU knows some thirty.
const MAX_CAPABILITIES: u32 = 4096;
/// Real machines have about ten blocks; one with hundreds of memory devices has hundreds.
const MAX_BLOCKS: usize = 1 << 16;
/// More runs of stale pages than this, and they count as memory after all.
const MAX_STALE: usize = 1 << 16;

const GIB: u64 = 1 << 30;

/// What the configuration section says.
struct Configuration {
    machine: String,
    mapped_ram: bool,
    /// Each block's entry has 8 bytes more then.
    ignore_shared: bool,
}

/// One RAM block: its name and where its pages and their bitmap are in the file.
struct Block {
    name: Vec<u8>,
    len: u64,
    page_size: u64,
    pages: u64,
    bitmap: u64,
}

pub(super) fn parse(input: Input<'_>) -> Result<ImageLayout, ImageError> {
    if !input.bytes.starts_with(MAGIC) {
        let why = "it does not begin with the magic QEVM";
        return Err(ImageError::WrongFormat { format: input.format, why });
    }
    let version = input.u32_be("version of the stream", 4)?;
    if version != VERSION {
        return Err(input.bad("version of the stream", 4, version.into(), "only version 3 is known"));
    }
    let (configuration, after) = configuration(input)?;
    if !configuration.mapped_ram {
        return Err(ImageError::Stream);
    }
    let blocks = blocks(input, ram_section(input, after)?, configuration.ignore_shared)?;

    let main = main_block(blocks.iter().map(|block| &block.name[..]));
    let mut arranger = Arranger::new(input.format);
    for (index, block) in blocks.iter().enumerate() {
        let regions = if main == Some(index) { regions(&configuration.machine, block.len) } else { None };
        let mut at = block.pages;
        for stale in stale_pages(input, block)? {
            add(&mut arranger, block.pages, at..stale.start, regions.as_ref())?;
            at = stale.end;
        }
        add(&mut arranger, block.pages, at..block.pages + block.len, regions.as_ref())?;
    }
    arranger.finish(input.len())
}

/// Reads the configuration section; returns it and the offset after it.
fn configuration(input: Input<'_>) -> Result<(Configuration, u64), ImageError> {
    let mut found = Configuration { machine: String::new(), mapped_ram: false, ignore_shared: false };
    let mut at = 8;
    if input.u8("type of the first section", at)? != CONFIGURATION {
        // Very old machine types have none, and no capability to speak of.
        return Ok((found, at));
    }
    let len = input.u32_be("length of the machine type", at + 1)?;
    let machine = input.slice("machine type", at + 5, len.into())?;
    found.machine = String::from_utf8_lossy(machine).into_owned();
    at += 5 + u64::from(len);
    while input.u8("type of a section", at)? == SUBSECTION {
        let len = u64::from(input.u8("length of a subsection's name", at + 1)?);
        let name = input.slice("name of a subsection", at + 2, len)?;
        // After the name: its version.
        let body = at + 2 + len + 4;
        at = match name {
            b"configuration/target-page-bits" => body + 4,
            b"configuration/uuid" => body + 16,
            b"configuration/capabilities" => capabilities(input, body, &mut found)?,
            _ => {
                let why = "the subsection is unknown, and streams have no lengths to skip it by";
                return Err(input.bad("name of a subsection", at + 2, len, why));
            }
        };
    }
    Ok((found, at))
}

fn capabilities(input: Input<'_>, at: u64, found: &mut Configuration) -> Result<u64, ImageError> {
    let count = input.u32_be("count of capabilities", at)?;
    if count > MAX_CAPABILITIES {
        return Err(input.bad("count of capabilities", at, count.into(), "it is more than QEMU has"));
    }
    let mut at = at + 4;
    for _ in 0..count {
        let len = u64::from(input.u8("length of a capability's name", at)?);
        match input.slice("name of a capability", at + 1, len)? {
            b"mapped-ram" => found.mapped_ram = true,
            b"x-ignore-shared" => found.ignore_shared = true,
            _ => {}
        }
        at += 1 + len;
    }
    Ok(at)
}

/// The offset of the body of the RAM section's start.
fn ram_section(input: Input<'_>, mut at: u64) -> Result<u64, ImageError> {
    while input.u8("type of a section", at)? == COMMAND {
        at += 5 + u64::from(input.u16_be("length of a command", at + 3)?);
    }
    // After the type and the section's id.
    let header = |at: usize| {
        input.bytes.get(at) == Some(&SECTION_START)
            && input.bytes.get(at + 5..).is_some_and(|rest| rest.starts_with(RAM_START))
    };
    let start = usize::try_from(at).unwrap_or(usize::MAX).min(input.bytes.len());
    let end = start.saturating_add(SEARCH).min(input.bytes.len());
    match (start..end).find(|&at| header(at)) {
        Some(found) => Ok((found + 5 + RAM_START.len()) as u64),
        None => Err(input.bad(
            "section",
            at,
            input.u8("type of a section", at)?.into(),
            "no RAM section begins here or in the next 1 MiB",
        )),
    }
}

/// Reads the list of blocks, and each one's header.
fn blocks(input: Input<'_>, at: u64, ignore_shared: bool) -> Result<Vec<Block>, ImageError> {
    let total = input.u64_be("total size of RAM", at)?;
    if total & FLAGS != MEM_SIZE {
        return Err(input.bad("first record of the RAM section", at, total, "it does not list the blocks"));
    }
    let mut left = total & !FLAGS;
    let mut at = at + 8;
    let mut blocks = Vec::new();
    while left > 0 {
        if blocks.len() == MAX_BLOCKS {
            return Err(ImageError::TooManySegments { format: input.format });
        }
        let name_len = u64::from(input.u8("length of a block's name", at)?);
        let name = input.slice("name of a block", at + 1, name_len)?.to_vec();
        at += 1 + name_len;
        let len = input.u64_be("length of a block", at)?;
        left = left.checked_sub(len).ok_or_else(|| {
            input.bad("length of a block", at, len, "it is more than what the total leaves")
        })?;
        at += 8 + if ignore_shared { 8 } else { 0 };

        let header = at;
        input.slice("header of a block", header, BLOCK_HEADER)?;
        let version = input.u32_be("version of a block", header)?;
        if version != 1 {
            return Err(input.bad("version of a block", header, version.into(), "only version 1 is known"));
        }
        let page_size = input.u64_be("page size of a block", header + 4)?;
        if !page_size.is_power_of_two() || page_size < PAGE {
            let why = "it is not a power of two of 4096 or more";
            return Err(input.bad("page size of a block", header + 4, page_size, why));
        }
        let bitmap = input.u64_be("bitmap of a block", header + 12)?;
        let pages = input.u64_be("pages of a block", header + 20)?;
        at = header + BLOCK_HEADER;
        if bitmap == 0 && pages == 0 {
            // Shared memory that was left out of the file: only the entry is there.
            continue;
        }
        input.slice("pages of a block", pages, len)?;
        if pages < at {
            return Err(input.bad("pages of a block", header + 20, pages, "they lie before their header"));
        }
        at = pages + len;
        blocks.push(Block { name, len, page_size, pages, bitmap });
    }
    Ok(blocks)
}

/// Which block is the guest's main memory.
fn main_block<'n>(names: impl Iterator<Item = &'n [u8]> + Clone) -> Option<usize> {
    const NAMES: [&[u8]; 2] = [b"pc.ram", b"mach-virt.ram"];
    if let Some(index) = names.clone().position(|name| NAMES.contains(&name)) {
        return Some(index);
    }
    // A memory backend of the user's naming. With several, their order would be a guess.
    let mut named = names.enumerate().filter(|(_, name)| name.starts_with(b"/objects/"));
    named.next().filter(|_| named.next().is_none()).map(|(index, _)| index)
}

/// Where the pages of a QEMU machine's blocks are in the guest: pieces of them in order, each with its pages and its
/// address, if that is known. Blocks come as name and pages.
pub(crate) fn addresses(machine: &str, blocks: &[(&[u8], u64)]) -> Vec<(u64, Option<u64>)> {
    let mut pieces = Vec::new();
    // Pages with an address come first in a layout, so those of a later block can have none.
    let main = main_block(blocks.iter().map(|(name, _)| *name)).filter(|&index| index == 0);
    for (index, &(_, pages)) in blocks.iter().enumerate() {
        let low = if main == Some(index) { regions(machine, pages * PAGE) } else { None };
        let Some(low) = low else {
            pieces.push((pages, None));
            continue;
        };
        let below = pages.min((low.end - low.start) / PAGE);
        pieces.push((below, Some(low.start)));
        if pages > below {
            pieces.push((pages - below, Some(4 * GIB)));
        }
    }
    pieces
}

/// Where main memory of `len` bytes lies in guests of this machine type: at `low.start`, and what doesn't
/// fit below `low.end` from 4 GiB on.
///
/// These are QEMU's defaults; `max-ram-below-4g` changes them, and nothing in the file would tell.
fn regions(machine: &str, len: u64) -> Option<Range<u64>> {
    if machine.starts_with("pc-i440fx-") {
        Some(if len < 3 * GIB + GIB / 2 { 0..len } else { 0..3 * GIB })
    } else if machine.starts_with("pc-q35-") {
        Some(if len < 2 * GIB + 3 * GIB / 4 { 0..len } else { 0..2 * GIB })
    } else if machine.starts_with("virt-") {
        // All of it above 1 GiB, in one piece.
        len.checked_add(GIB).map(|end| GIB..end)
    } else {
        None
    }
}

/// Adds the bytes `file` of a block whose pages begin at `pages`, at the addresses that `low` gives them.
fn add(
    arranger: &mut Arranger,
    pages: u64,
    file: Range<u64>,
    low: Option<&Range<u64>>,
) -> Result<(), ImageError> {
    let Some(low) = low else { return arranger.add(file, None) };
    let border = (pages + (low.end - low.start)).clamp(file.start, file.end);
    arranger.add(file.start..border, Some(low.start + (file.start - pages)))?;
    let high = 4 * GIB + (border - pages).saturating_sub(low.end - low.start);
    arranger.add(border..file.end, Some(high))
}

/// The pages of a block that hold bytes though their bit says that they are zero, as ranges of the file.
///
/// Holes are passed over, so this reads nothing of a file as QEMU writes it.
fn stale_pages(input: Input<'_>, block: &Block) -> Result<Vec<Range<u64>>, ImageError> {
    let count = block.len / block.page_size;
    let bitmap = input.slice("bitmap of a block", block.bitmap, count.div_ceil(64) * 8)?;
    let memory = input.slice("pages of a block", block.pages, block.len)?;
    let end = block.pages + block.len;
    let mut stale: Vec<Range<u64>> = Vec::new();
    let mut next = 0;
    let first = input.extents.partition_point(|extent| extent.end <= block.pages);
    for extent in input.extents[first..].iter().take_while(|extent| extent.start < end) {
        // The pages that this extent touches and the last one didn't.
        let from = next.max(extent.start.saturating_sub(block.pages) / block.page_size);
        next = (extent.end.min(end) - block.pages).div_ceil(block.page_size).min(count).max(next);
        for page in from..next {
            let written = bitmap[(page / 8) as usize] >> (page % 8) & 1 == 1;
            let at = page * block.page_size;
            if written || is_zero(&memory[at as usize..(at + block.page_size) as usize]) {
                continue;
            }
            let range = block.pages + at..block.pages + at + block.page_size;
            if let Some(last) = stale.last_mut()
                && last.end == range.start
            {
                last.end = range.end;
            } else if stale.len() < MAX_STALE {
                stale.push(range);
            } else {
                log::warn!("too many stale pages in a mapped-ram file: they are packed as memory");
                return Ok(Vec::new());
            }
        }
    }
    Ok(stale)
}
