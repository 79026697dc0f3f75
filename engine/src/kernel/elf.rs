//! From a decompressed kernel to how its image is laid out.
//!
//! What a payload decompresses to is the kernel as an ELF file, stripped, and behind it the addresses of what to relocate: signed
//! 32-bit numbers in lists, each with a zero before it, to be read from the end. 32-bit values come last, then, until
//! Linux 6.15, values from which the slide is subtracted, then 64-bit values. Source: Linux' `arch/x86/boot/compressed/misc.c` and
//! `arch/x86/tools/relocs.c`.

use super::derivation::{Layout, MAX_LEN, MAX_PIECES, Piece, Table, overlap};
use super::payload::Codec;
use crate::page::PAGE_SIZE;

const X86_64: u16 = 62;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
const BUILD_ID: u32 = 3;

/// A kernel file, understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) layout: Layout,
    /// Physical address that the image's first byte is linked at.
    pub(super) physical: u64,
    /// In hexadecimal digits.
    pub(super) build_id: Option<String>,
}

struct File<'f>(&'f [u8]);

impl File<'_> {
    fn bytes<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        self.0.get(usize::try_from(at).ok()?..)?.first_chunk().copied()
    }

    fn int16(&self, at: u64) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn int32(&self, at: u64) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn int64(&self, at: u64) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }
}

impl Kernel {
    /// Reads what a payload decompressed to; `None` where it is not a kernel that can be laid out.
    pub(super) fn read(raw: &[u8], codec: Codec) -> Option<Self> {
        let file = File(raw);
        let is_elf = raw.starts_with(b"\x7fELF\x02\x01") && file.int16(18)? == X86_64;
        if !is_elf || raw.len() as u64 > MAX_LEN {
            return None;
        }
        let (first, size) = (file.int64(32)?, u64::from(file.int16(54)?));
        let count = u64::from(file.int16(56)?).min(MAX_PIECES);
        let (mut loads, mut build_id) = (Vec::new(), None);
        for index in 0..count {
            let at = first.checked_add(index * size)?;
            let offset = file.int64(at + 8)?;
            match file.int32(at)? {
                LOAD => loads.push(Load {
                    raw: offset,
                    address: file.int64(at + 16)?,
                    physical: file.int64(at + 24)?,
                    len: file.int64(at + 32)?,
                    memory: file.int64(at + 40)?,
                }),
                NOTE => build_id = build_id.or_else(|| find_build_id(&file, offset, file.int64(at + 32)?)),
                _ => {}
            }
        }
        let lowest = loads.iter().min_by_key(|load| load.physical)?;
        let physical = lowest.physical & !(PAGE_SIZE as u64 - 1);
        let base = lowest.address.wrapping_sub(lowest.physical - physical);
        let mut pages = 0;
        let mut pieces = Vec::new();
        for load in &loads {
            let image = load.physical - physical;
            let end = image.checked_add(load.memory.max(load.len)).filter(|&end| end <= MAX_LEN)?;
            pages = pages.max(end.div_ceil(PAGE_SIZE as u64));
            load.raw.checked_add(load.len).filter(|&end| end <= raw.len() as u64)?;
            pieces.push(Piece { raw: load.raw, image, len: load.len });
        }
        if overlap(&pieces) {
            return None;
        }
        // Section headers are the last of the ELF file proper.
        let sections = u64::from(file.int16(60)?) * u64::from(file.int16(58)?);
        let tables = relocations(raw, file.int64(40)?.checked_add(sections)?)?;
        let layout = Layout { codec, raw_len: raw.len() as u64, pages, pieces, base, tables };
        Some(Kernel { layout, physical, build_id })
    }
}

struct Load {
    raw: u64,
    address: u64,
    physical: u64,
    len: u64,
    memory: u64,
}

fn find_build_id(file: &File<'_>, start: u64, len: u64) -> Option<String> {
    let end = start.checked_add(len)?;
    let mut at = start;
    while at.checked_add(12)? <= end {
        let (name_len, text_len, kind) = (file.int32(at)?, file.int32(at + 4)?, file.int32(at + 8)?);
        let text = at + 12 + u64::from(name_len).next_multiple_of(4);
        if kind == BUILD_ID && file.bytes(at + 12) == Some(*b"GNU\0") {
            let bytes = file.0.get(text as usize..)?.get(..text_len as usize)?;
            return Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        at = text + u64::from(text_len).next_multiple_of(4);
    }
    None
}

/// The tables between `start` and the end, in the order of [`Layout::tables`]; none for a kernel that cannot be moved.
fn relocations(raw: &[u8], start: u64) -> Option<[Table; 3]> {
    let words = raw.get(usize::try_from(start).ok()?..)?.len() as u64 / 4;
    if words == 0 {
        return Some([Table::default(); 3]);
    }
    // From the end: a list, and the zero before it.
    let first = raw.len() as u64 - words * 4;
    let (mut lists, mut count, mut at) = (Vec::new(), 0, raw.len() as u64);
    while at > first && lists.len() < 3 {
        at -= 4;
        let word: [u8; 4] = raw[at as usize..].first_chunk().copied()?;
        if word == [0; 4] {
            lists.push(Table { raw: at + 4, count });
            count = 0;
        } else {
            count += 1;
        }
    }
    match lists[..] {
        [int32, differences, int64] => Some([int64, int32, differences]),
        [int32, int64] => Some([int64, int32, Table::default()]),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file with one segment of two pages, one of half a page, a build id and relocations.
    pub(in super::super) fn file(lists: &[&[i32]]) -> Vec<u8> {
        let mut raw = vec![0; 64 + 3 * 56];
        raw[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
        put(18, &X86_64.to_le_bytes());
        put(32, &64u64.to_le_bytes());
        put(54, &56u16.to_le_bytes());
        put(56, &3u16.to_le_bytes());
        put(58, &64u16.to_le_bytes());
        put(60, &1u16.to_le_bytes());
        let loads = [
            (LOAD, 0x1000u64, 0xffff_ffff_8100_0000u64, 0x100_0000u64, 0x2000u64, 0x2000u64),
            (LOAD, 0x3000, 0, 0x100_4000, 0x800, 0x1800),
            (NOTE, 0x3800, 0, 0, 0x24, 0x24),
        ];
        for (index, (kind, offset, address, physical, len, memory)) in loads.into_iter().enumerate() {
            let at = 64 + 56 * index;
            put(at, &kind.to_le_bytes());
            for (place, value) in [(8, offset), (16, address), (24, physical), (32, len), (40, memory)] {
                put(at + place, &value.to_le_bytes());
            }
        }
        put(40, &0x3900u64.to_le_bytes());
        raw.resize(0x3940, 0);
        for (at, byte) in raw[0x1000..0x3800].iter_mut().enumerate() {
            *byte = (at / 3) as u8;
        }
        raw[0x3800..0x3810].copy_from_slice(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0");
        raw[0x3810..0x3824].copy_from_slice(&[0xab; 20]);
        for list in lists {
            raw.extend_from_slice(&0i32.to_le_bytes());
            list.iter().for_each(|value| raw.extend_from_slice(&value.to_le_bytes()));
        }
        raw
    }

    #[test]
    fn segments_relocations_and_build_id_are_read() {
        let raw = file(&[&[1, 2, 3], &[4], &[5, 6]]);
        let kernel = Kernel::read(&raw, Codec::Zstd).unwrap();
        let Layout { pages, ref pieces, base, tables, .. } = kernel.layout;
        assert_eq!((kernel.physical, base, pages), (0x100_0000, 0xffff_ffff_8100_0000, 6));
        let pieces: Vec<_> = pieces.iter().map(|piece| (piece.raw, piece.image, piece.len)).collect();
        assert_eq!(pieces, [(0x1000, 0, 0x2000), (0x3000, 0x4000, 0x800)]);
        assert_eq!(kernel.build_id, Some("ab".repeat(20)));
        let table = |raw, count| Table { raw, count };
        assert_eq!(tables, [table(0x3944, 3), table(0x395c, 2), table(0x3954, 1)]);
        // Without the middle list, and without any.
        let kernel = Kernel::read(&file(&[&[1, 2, 3], &[5, 6]]), Codec::Zstd).unwrap();
        assert_eq!(kernel.layout.tables, [table(0x3944, 3), table(0x3954, 2), Table::default()]);
        let kernel = Kernel::read(&file(&[]), Codec::Zstd).unwrap();
        assert_eq!(kernel.layout.tables, [Table::default(); 3]);
    }

    #[test]
    fn damage_anywhere_neither_panics_nor_leaves_the_file() {
        let raw = file(&[&[1, 2, 3], &[4], &[5, 6]]);
        for at in (0..256).chain(0x3800..raw.len()) {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut damaged = raw.clone();
                damaged[at] = byte;
                if let Some(Kernel { layout, .. }) = Kernel::read(&damaged, Codec::None) {
                    let mut bytes = Vec::new();
                    layout.write(&mut bytes);
                    let again = Layout::read(&mut crate::format::wire::Input::new(&bytes));
                    assert_eq!(again.unwrap(), layout, "byte {at}: the format takes what was read");
                }
            }
        }
        for len in 0..raw.len() {
            let _ = Kernel::read(&raw[..len], Codec::None);
        }
    }
}
