//! Small memory images in each file format, written from the formats' descriptions.
//!
//! A [`File`] knows what guest-physical memory it holds, so that unpacking as raw memory has a truth of its own. No code
//! is shared with the engine's parsers.

use crate::reference::PAGE;

/// An image file and what it holds.
#[derive(Clone, Debug)]
pub struct File {
    /// What to call it in messages.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Guest-physical memory, byte for byte from address 0 on; gaps are zero. `None` where no address is known.
    pub physical: Option<Vec<u8>>,
}

/// One file for each format and each shape of it that is worth telling apart. `memory` has at least 64 pages.
///
/// # Panics
///
/// If `memory` is shorter.
pub fn all(memory: &[u8]) -> Vec<File> {
    let part = |first: usize, pages: usize| memory[first * PAGE..][..pages * PAGE].to_vec();
    let loads = [(0x9000, part(20, 7)), (0, part(0, 9)), (0x4_0000, part(30, 34))];
    let physical = placed(&loads);
    let blocks = [("pc.ram", part(0, 40)), ("vga.vram", part(40, 5))];
    let tail = [&part(0, 50)[..], b"a tail that is no whole page"].concat();
    vec![
        File { name: "raw", bytes: part(0, 64), physical: Some(part(0, 64)) },
        File { name: "raw with a tail", bytes: tail, physical: Some(part(0, 50)) },
        File { name: "elf core, headers first", bytes: elf(&loads, false), physical: Some(physical.clone()) },
        File {
            name: "elf core, headers after section headers",
            bytes: elf(&loads, true),
            physical: Some(physical.clone()),
        },
        File { name: "lime", bytes: lime(&loads), physical: Some(physical) },
        File {
            name: "mapped-ram",
            bytes: mapped_ram("pc-i440fx-9.1", &blocks, Some(3)),
            physical: Some(part_without(&part(0, 40), 3)),
        },
        File {
            name: "mapped-ram of a machine whose layout is not known",
            bytes: mapped_ram("microvm", &blocks, None),
            physical: None,
        },
    ]
}

/// Pieces of memory at their addresses.
fn placed(pieces: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let end = pieces.iter().map(|(at, bytes)| *at as usize + bytes.len()).max().unwrap_or(0);
    let mut all = vec![0; end];
    for (at, bytes) in pieces {
        all[*at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    all
}

fn part_without(memory: &[u8], page: usize) -> Vec<u8> {
    let mut memory = memory.to_vec();
    memory[page * PAGE..][..PAGE].fill(0);
    memory
}

/// An ELF core: a note, then the loads at offsets that are multiples of nothing. With `late`, program headers come after
/// section headers, as QEMU 7.2 writes them.
pub fn elf(loads: &[(u64, Vec<u8>)], late: bool) -> Vec<u8> {
    let note = b"\x05\0\0\0\x04\0\0\0\x01\0\0\0CORE\0\0\0\0note".as_slice();
    let (shoff, phoff): (u64, u64) = if late { (64, 64 + 64) } else { (0, 64) };
    let note_at = phoff + 56 * (loads.len() as u64 + 1);
    let mut headers = program_header(4, note_at, 0, note.len() as u64);
    let mut at = note_at + note.len() as u64;
    for (address, bytes) in loads {
        headers.extend(program_header(1, at, *address, bytes.len() as u64));
        at += bytes.len() as u64;
    }
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(4u16.to_le_bytes()); // a core
    file.extend(62u16.to_le_bytes()); // of x86-64
    file.extend(1u32.to_le_bytes());
    for field in [0, phoff, shoff] {
        file.extend(field.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for field in [64, 56, loads.len() as u16 + 1, 64, u16::from(late), 0] {
        file.extend(field.to_le_bytes());
    }
    if late {
        file.extend([0; 64]);
    }
    file.extend(headers);
    file.extend(note);
    for (_, bytes) in loads {
        file.extend(bytes);
    }
    file
}

fn program_header(kind: u32, offset: u64, address: u64, len: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend(7u32.to_le_bytes());
    for field in [offset, address | 0xffff_8880_0000_0000, address, len, len, 0] {
        header.extend(field.to_le_bytes());
    }
    header
}

/// A LiME file of ranges at these addresses.
pub fn lime(ranges: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    for (start, bytes) in ranges {
        file.extend(b"EMiL");
        file.extend(1u32.to_le_bytes());
        file.extend(start.to_le_bytes());
        file.extend((start + bytes.len() as u64 - 1).to_le_bytes());
        file.extend([0; 8]);
        file.extend(bytes);
    }
    file
}

/// A QEMU migration file with mapped pages. Page `stale` of the first block is zero in the guest but keeps old bytes in
/// the file. QEMU puts pages at multiples of 1 MiB; ours are closer together, and not at multiples of a page.
pub fn mapped_ram(machine: &str, blocks: &[(&str, Vec<u8>)], stale: Option<usize>) -> Vec<u8> {
    let mut file = b"QEVM\0\0\0\x03\x07".to_vec();
    file.extend((machine.len() as u32).to_be_bytes());
    file.extend(machine.as_bytes());
    let capabilities = [&2u32.to_be_bytes()[..], b"\x0amapped-ram\x06events"].concat();
    for (name, body) in [
        ("configuration/target-page-bits", &12u32.to_be_bytes()[..]),
        ("configuration/capabilities", &capabilities),
    ] {
        file.extend([5, name.len() as u8]);
        file.extend(name.as_bytes());
        file.extend(1u32.to_be_bytes());
        file.extend(body);
    }
    file.extend(b"\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04");
    let total: usize = blocks.iter().map(|(_, bytes)| bytes.len()).sum();
    file.extend((total as u64 | 4).to_be_bytes());
    for (number, (name, bytes)) in blocks.iter().enumerate() {
        let stale = stale.filter(|_| number == 0);
        file.push(name.len() as u8);
        file.extend(name.as_bytes());
        file.extend((bytes.len() as u64).to_be_bytes());
        let pages = bytes.len().div_ceil(PAGE);
        let bitmap_at = file.len() + 28;
        let bitmap_len = pages.div_ceil(64) * 8;
        let pages_at = (bitmap_at + bitmap_len).next_multiple_of(512);
        file.extend(1u32.to_be_bytes());
        for field in [PAGE, bitmap_at, pages_at] {
            file.extend((field as u64).to_be_bytes());
        }
        let mut bitmap = vec![0u8; bitmap_len];
        for (page, bytes) in bytes.chunks(PAGE).enumerate() {
            let written = bytes.iter().any(|&byte| byte != 0) && stale != Some(page);
            bitmap[page / 8] |= u8::from(written) << (page % 8);
        }
        file.extend(bitmap);
        file.resize(pages_at, 0);
        file.extend(bytes);
    }
    file.extend(0x10u64.to_be_bytes());
    file.extend(b"\x7e\0\0\0\x02\x04device state\0");
    file
}
