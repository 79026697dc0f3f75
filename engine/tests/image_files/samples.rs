//! Small memory images of each format, written by hand from the formats' descriptions, not with the
//! code under test.

pub(crate) const PAGE: usize = 4096;

/// `count` pages, each different and full of data, except that every third one is zero.
pub(crate) fn memory(count: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; count * PAGE];
    for (page, content) in bytes.chunks_mut(PAGE).enumerate().filter(|(page, _)| page % 3 != 2) {
        for (at, byte) in content.iter_mut().enumerate() {
            *byte = (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed ^ (page as u8).wrapping_mul(7) | 1;
        }
    }
    bytes
}

/// A `PT_LOAD` of an ELF core.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) paddr: u64,
    pub(crate) bytes: Vec<u8>,
    /// Point at the bytes of this earlier load (from this offset in it on) instead of having some.
    pub(crate) shares: Option<(usize, u64)>,
    pub(crate) memsz: u64,
}

impl Load {
    pub(crate) fn new(paddr: u64, bytes: Vec<u8>) -> Self {
        Self { paddr, memsz: bytes.len() as u64, bytes, shares: None }
    }
}

/// Where the program headers of a core are, and how many it says it has.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Headers {
    /// Right behind the file header, as most programs do it.
    First,
    /// Behind two section headers, as QEMU 7.2 does it, with its odd `e_ehsize`.
    Qemu72,
    /// At the end of the file, each 8 bytes longer than it need be, and the count in section header 0.
    LastAndCounted,
}

/// An ELF core with a note, and pages at odd offsets.
pub(crate) fn elf(loads: &[Load], headers: Headers) -> Vec<u8> {
    const NOTE: &[u8] = b"\x05\0\0\0\x04\0\0\0\x01\0\0\0CORE\0\0\0\0note";
    let count = loads.len() + 1;
    let (shoff, phoff) = match headers {
        Headers::First => (0u64, 64u64),
        Headers::Qemu72 => (64, 192),
        Headers::LastAndCounted => (64, 0),
    };
    let entry_size = if headers == Headers::LastAndCounted { 64 } else { 56 };
    let table = count * entry_size;
    let body = match headers {
        Headers::First => 64 + table,
        Headers::Qemu72 => 192 + table,
        Headers::LastAndCounted => 192,
    };
    let data: u64 = (body + NOTE.len()) as u64;
    let mut offsets = Vec::new();
    let mut at = data;
    for load in loads {
        match load.shares {
            Some((earlier, from)) => offsets.push(offsets[earlier] + from),
            // Nothing in the file, so where it is means nothing.
            None if load.bytes.is_empty() => offsets.push(1 << 60),
            None => {
                offsets.push(at);
                at += load.bytes.len() as u64;
            }
        }
    }
    let phoff = if headers == Headers::LastAndCounted { at } else { phoff };

    let mut entries = Vec::new();
    let mut entry = |kind: u32, offset: u64, paddr: u64, filesz: u64, memsz: u64| {
        entries.extend_from_slice(&kind.to_le_bytes());
        entries.extend_from_slice(&0u32.to_le_bytes());
        let vaddr = paddr ^ 0xffff_8880_0000_0000;
        for field in [offset, vaddr, paddr, filesz, memsz, 0] {
            entries.extend_from_slice(&field.to_le_bytes());
        }
        entries.resize(entries.len().next_multiple_of(entry_size), 0xcc);
    };
    entry(4, body as u64, 0, NOTE.len() as u64, NOTE.len() as u64);
    for (load, &offset) in loads.iter().zip(&offsets) {
        entry(1, offset, load.paddr, load.bytes.len() as u64, load.memsz);
    }

    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend_from_slice(&4u16.to_le_bytes());
    file.extend_from_slice(&62u16.to_le_bytes());
    file.extend_from_slice(&1u32.to_le_bytes());
    for field in [0, phoff, shoff] {
        file.extend_from_slice(&field.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    let phnum = if headers == Headers::LastAndCounted { 0xffff } else { count as u16 };
    let ehsize = if headers == Headers::Qemu72 { 8 } else { 64 };
    for field in [ehsize, entry_size as u16, phnum, 64, 2, 1] {
        file.extend_from_slice(&field.to_le_bytes());
    }
    assert_eq!(file.len(), 64);
    if shoff != 0 {
        let mut sections = [0u8; 128];
        sections[44..48].copy_from_slice(&(count as u32).to_le_bytes());
        file.extend_from_slice(&sections);
    }
    if headers != Headers::LastAndCounted {
        file.extend_from_slice(&entries);
    }
    file.extend_from_slice(NOTE);
    for load in loads.iter().filter(|load| load.shares.is_none()) {
        file.extend_from_slice(&load.bytes);
    }
    if headers == Headers::LastAndCounted {
        file.extend_from_slice(&entries);
    }
    file
}

/// A LiME file of ranges that begin at these addresses.
pub(crate) fn lime(ranges: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    for (start, bytes) in ranges {
        file.extend_from_slice(&0x4c69_4d45u32.to_le_bytes());
        file.extend_from_slice(&1u32.to_le_bytes());
        file.extend_from_slice(&start.to_le_bytes());
        file.extend_from_slice(&(start + bytes.len() as u64 - 1).to_le_bytes());
        file.extend_from_slice(&[0; 8]);
        file.extend_from_slice(bytes);
    }
    file
}

/// A RAM block of a mapped-ram file. Zero pages have a clear bit.
pub(crate) struct Block {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// Pages that keep old bytes in the file although they are zero now.
    pub(crate) stale: Vec<usize>,
}

/// A mapped-ram file. QEMU aligns pages to 1 MiB; a smaller `align` keeps tests small.
pub(crate) fn mapped_ram(machine: &str, blocks: &[Block], align: usize) -> Vec<u8> {
    let mut file = stream_start(machine, &["mapped-ram"]);
    // A command (ping) that comes before the first section, if return-path is on.
    file.extend_from_slice(b"\x08\0\x02\0\x04\0\0\0\x01");
    file.extend_from_slice(b"\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04");
    let total: u64 = blocks.iter().map(|block| block.bytes.len() as u64).sum();
    file.extend_from_slice(&(total | 4).to_be_bytes());
    for block in blocks {
        file.push(block.name.len() as u8);
        file.extend_from_slice(block.name.as_bytes());
        file.extend_from_slice(&(block.bytes.len() as u64).to_be_bytes());
        let pages = block.bytes.len() / PAGE;
        let mut bitmap = vec![0u8; pages.div_ceil(64) * 8];
        for (page, bytes) in block.bytes.chunks(PAGE).enumerate() {
            if bytes.iter().any(|&byte| byte != 0) {
                bitmap[page / 8] |= 1 << (page % 8);
            }
        }
        let bitmap_at = file.len() + 28;
        let pages_at = (bitmap_at + bitmap.len()).next_multiple_of(align);
        file.extend_from_slice(&1u32.to_be_bytes());
        for field in [PAGE as u64, bitmap_at as u64, pages_at as u64] {
            file.extend_from_slice(&field.to_be_bytes());
        }
        file.extend_from_slice(&bitmap);
        file.resize(pages_at, 0);
        let mut stored = block.bytes.clone();
        for &page in &block.stale {
            assert!(stored[page * PAGE..][..PAGE].iter().all(|&byte| byte == 0));
            stored[page * PAGE + 5] = 0xee;
        }
        file.extend_from_slice(&stored);
    }
    // End of the RAM section, and what stands for the state of devices.
    file.extend_from_slice(&0x10u64.to_be_bytes());
    file.extend_from_slice(b"\x7e\0\0\0\x02\x04device state\0");
    file
}

/// The start of a migration stream: header and configuration.
pub(crate) fn stream_start(machine: &str, capabilities: &[&str]) -> Vec<u8> {
    let mut file = b"QEVM\0\0\0\x03\x07".to_vec();
    file.extend_from_slice(&(machine.len() as u32).to_be_bytes());
    file.extend_from_slice(machine.as_bytes());
    let mut subsection = |name: &str, body: &[u8]| {
        file.extend_from_slice(&[5, name.len() as u8]);
        file.extend_from_slice(name.as_bytes());
        file.extend_from_slice(&1u32.to_be_bytes());
        file.extend_from_slice(body);
    };
    subsection("configuration/target-page-bits", &12u32.to_be_bytes());
    if !capabilities.is_empty() {
        let mut body = (capabilities.len() as u32).to_be_bytes().to_vec();
        for name in capabilities {
            body.push(name.len() as u8);
            body.extend_from_slice(name.as_bytes());
        }
        subsection("configuration/capabilities", &body);
    }
    subsection("configuration/uuid", &[7; 16]);
    file
}
