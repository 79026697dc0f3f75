//! Kernel images: laid out once for a build of a kernel, then slid for a guest.

use std::io::{self, Read};

use super::cache::KernelCache;
use super::derivation::{Layout, Table};
use super::elf::Kernel;
use super::payload::Codec;
use crate::page::PAGE_SIZE;
use crate::reference::{BlockSource, DiskRun, ReferenceError};
use xxhash_rust::xxh3::xxh3_128;

/// Bytes decompressed at a time.
const STEP: usize = 1 << 16;
/// A page that holds nothing has no slot.
const NO_SLOT: u32 = 0;

/// An image's pages; those that are zero take no room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pages {
    /// For each page, one more than its place in `bytes`, in pages.
    pub(super) slots: Vec<u32>,
    pub(super) bytes: Vec<u8>,
}

impl Pages {
    fn new(pages: u64) -> Self {
        Pages { slots: vec![NO_SLOT; pages as usize], bytes: Vec::new() }
    }

    /// A page that is not zero.
    pub(super) fn get(&self, page: u64) -> Option<&[u8]> {
        let slot = usize::try_from(*self.slots.get(page as usize)?).ok()?.checked_sub(1)?;
        self.bytes.get(slot * PAGE_SIZE..(slot + 1) * PAGE_SIZE)
    }

    /// A page to write to.
    fn get_mut(&mut self, page: u64) -> &mut [u8] {
        let slot = &mut self.slots[page as usize];
        if *slot == NO_SLOT {
            self.bytes.resize(self.bytes.len() + PAGE_SIZE, 0);
            *slot = (self.bytes.len() / PAGE_SIZE) as u32;
        }
        let start = (*slot as usize - 1) * PAGE_SIZE;
        &mut self.bytes[start..start + PAGE_SIZE]
    }

    /// Writes bytes that lie within the image.
    fn write(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let offset = (at % PAGE_SIZE as u64) as usize;
            let (now, rest) = bytes.split_at(bytes.len().min(PAGE_SIZE - offset));
            let page = at / PAGE_SIZE as u64;
            if self.get(page).is_some() || now.iter().any(|&byte| byte != 0) {
                self.get_mut(page)[offset..offset + now.len()].copy_from_slice(now);
            }
            (at, bytes) = (at + now.len() as u64, rest);
        }
    }

    /// Changes a little-endian number of `N` bytes that lies within the image.
    fn change<const N: usize>(&mut self, at: u64, change: impl Fn([u8; N]) -> [u8; N]) {
        let offset = (at % PAGE_SIZE as u64) as usize;
        if offset + N <= PAGE_SIZE {
            if let Some(bytes) = self.get_mut(at / PAGE_SIZE as u64)[offset..].first_chunk_mut() {
                *bytes = change(*bytes);
            }
            return;
        }
        let bytes = std::array::from_fn(|i| {
            let at = at + i as u64;
            self.get(at / PAGE_SIZE as u64).map_or(0, |page| page[(at % PAGE_SIZE as u64) as usize])
        });
        self.write(at, &change(bytes));
    }
}

/// An image at the addresses that it was linked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unslid {
    pub(super) layout: Layout,
    /// XXH3-128 of the payload.
    pub(super) payload: u128,
    /// Physical address that the first page is linked at; for encoders.
    pub(super) physical: u64,
    pub(super) build_id: Option<String>,
    pub(super) pages: Pages,
    /// What the layout's tables hold.
    pub(super) relocations: [Vec<u8>; 3],
}

impl Unslid {
    /// The image of a payload whose layout is to be found out.
    pub(super) fn of_payload(payload: &[u8], cache: Option<&KernelCache>) -> io::Result<Self> {
        let hash = xxh3_128(payload);
        if let Some(found) = cache.and_then(|cache| cache.load(hash)) {
            return Ok(found);
        }
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let codec = Codec::detect(payload).ok_or(invalid("it is compressed in a way that is not known"))?;
        let mut raw = Vec::new();
        let limit = super::derivation::MAX_LEN + 1;
        codec.reader(payload)?.take(limit).read_to_end(&mut raw)?;
        let kernel = Kernel::read(&raw, codec).ok_or(invalid("it is no kernel that can be laid out"))?;
        let mut image = Self::build(kernel.layout, hash, &mut raw.as_slice())?;
        (image.physical, image.build_id) = (kernel.physical, kernel.build_id);
        if let Some(cache) = cache {
            cache.store(&image);
        }
        Ok(image)
    }

    /// The image of a payload that is laid out as `layout` says.
    pub(super) fn of_layout(
        layout: &Layout,
        payload: &[u8],
        cache: Option<&KernelCache>,
    ) -> io::Result<Self> {
        let hash = xxh3_128(payload);
        let cached = cache.and_then(|cache| cache.load(hash)).filter(|found| found.layout == *layout);
        if let Some(found) = cached {
            return Ok(found);
        }
        let image = Self::build(layout.clone(), hash, &mut layout.codec.reader(payload)?)?;
        if let Some(cache) = cache {
            cache.store(&image);
        }
        Ok(image)
    }

    /// Lays out what `raw` gives, without holding all of it.
    fn build(layout: Layout, payload: u128, raw: &mut dyn Read) -> io::Result<Self> {
        let mut pages = Pages::new(layout.pages);
        let mut relocations = layout.tables.map(|table| Vec::with_capacity(table.count as usize * 4));
        let mut buffer = vec![0; STEP];
        let mut start = 0;
        while start < layout.raw_len {
            let len = STEP.min((layout.raw_len - start) as usize);
            let now = &mut buffer[..len];
            raw.read_exact(now)?;
            let end = start + len as u64;
            for piece in &layout.pieces {
                let (from, to) = (piece.raw.max(start), (piece.raw + piece.len).min(end));
                if from < to {
                    pages.write(
                        piece.image + (from - piece.raw),
                        &now[(from - start) as usize..(to - start) as usize],
                    );
                }
            }
            for (table, list) in layout.tables.iter().zip(&mut relocations) {
                let (from, to) = (table.raw.max(start), table.range().end.min(end));
                if from < to {
                    list.extend_from_slice(&now[(from - start) as usize..(to - start) as usize]);
                }
            }
            start = end;
        }
        Ok(Unslid { layout, payload, physical: 0, build_id: None, pages, relocations })
    }

    /// The image as it is when moved by `slide`.
    pub(super) fn slid(self, slide: u64) -> io::Result<Derived> {
        let Unslid { layout, mut pages, relocations, .. } = self;
        let len = layout.pages * PAGE_SIZE as u64;
        for (kind, list) in relocations.iter().enumerate() {
            let width = if kind == 0 { 8 } else { 4 };
            for entry in list.as_chunks().0 {
                let address = i64::from(i32::from_le_bytes(*entry)) as u64;
                let at = address.wrapping_sub(layout.base);
                if at.checked_add(width).is_none_or(|end| end > len) {
                    let why = "a relocation lies beyond the image";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
                match kind {
                    0 => pages.change(at, |old| u64::from_le_bytes(old).wrapping_add(slide).to_le_bytes()),
                    1 => pages
                        .change(at, |old| u32::from_le_bytes(old).wrapping_add(slide as u32).to_le_bytes()),
                    _ => pages
                        .change(at, |old| u32::from_le_bytes(old).wrapping_sub(slide as u32).to_le_bytes()),
                }
            }
        }
        Ok(Derived { pages })
    }
}

/// A list of the relocations that a layout has, for what is kept of them.
pub(super) fn table_len(table: &Table) -> usize {
    table.count as usize * 4
}

/// A kernel image as a guest has it.
#[derive(Debug)]
pub(crate) struct Derived {
    pages: Pages,
}

impl BlockSource for Derived {
    fn blocks(&self) -> u64 {
        self.pages.slots.len() as u64
    }

    fn run(&self, block: u64, max: u64) -> DiskRun<'_> {
        if block >= self.blocks() || max == 0 {
            return DiskRun::Hole(0);
        }
        self.pages.get(block).map_or(DiskRun::Hole(1), DiskRun::Mapped)
    }

    fn read_blocks(&self, block: u64, buf: &mut [u8]) -> Result<(), ReferenceError> {
        crate::reference::check_range(block, buf.len(), self.blocks())?;
        for (block, to) in (block..).zip(buf.chunks_exact_mut(PAGE_SIZE)) {
            match self.pages.get(block) {
                Some(page) => to.copy_from_slice(page),
                None => to.fill(0),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::file;
    use super::*;

    const BASE: i64 = 0xffff_ffff_8100_0000u64 as i64;

    fn at(offset: i64) -> i32 {
        (BASE + offset) as i32
    }

    fn read(image: &Derived) -> Vec<u8> {
        let mut bytes = vec![0xee; image.blocks() as usize * PAGE_SIZE];
        image.read_blocks(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn an_image_is_laid_out_and_slid() {
        // The last 64-bit value crosses from one page into the next.
        let raw = file(&[&[at(16), at(0x1ffc), at(0x3ffc)], &[at(100)], &[at(200), at(0x2004)]]);
        let payload = zstd::bulk::compress(&raw, 1).unwrap();
        let unslid = Unslid::of_payload(&payload, None).unwrap();
        assert_eq!(unslid.physical, 0x100_0000);
        let again = Unslid::of_layout(&unslid.layout, &payload, None).unwrap();
        assert_eq!((&again.pages, &again.relocations), (&unslid.pages, &unslid.relocations));
        let mut expected = vec![0; 6 * PAGE_SIZE];
        expected[..0x2000].copy_from_slice(&raw[0x1000..0x3000]);
        expected[0x4000..0x4800].copy_from_slice(&raw[0x3000..0x3800]);
        assert!(read(&unslid.clone().slid(0).unwrap()) == expected);
        let slide = 0x3220_0000u64;
        for offset in [16, 0x1ffc, 0x3ffc] {
            let value = u64::from_le_bytes(*expected[offset..].first_chunk().unwrap());
            expected[offset..offset + 8].copy_from_slice(&(value + slide).to_le_bytes());
        }
        for (offset, down) in [(100, true), (200, false), (0x2004, false)] {
            let value = u32::from_le_bytes(*expected[offset..].first_chunk().unwrap());
            let value =
                if down { value.wrapping_sub(slide as u32) } else { value.wrapping_add(slide as u32) };
            expected[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        }
        let slid = unslid.slid(slide).unwrap();
        assert!(read(&slid) == expected);
        assert_eq!(slid.run(5, 1), DiskRun::Hole(1));
        assert_eq!(slid.run(6, 1), DiskRun::Hole(0));
        assert_eq!(slid.run(1, 9), DiskRun::Mapped(&expected[PAGE_SIZE..2 * PAGE_SIZE]));
    }

    #[test]
    fn relocations_beyond_the_image_are_errors() {
        for offset in [-1, 6 * PAGE_SIZE as i64 - 7, 1 << 30] {
            let unslid = Unslid::of_payload(&file(&[&[at(offset)], &[], &[]]), None).unwrap();
            assert!(unslid.slid(1).is_err(), "{offset:#x}");
        }
        let last = Unslid::of_payload(&file(&[&[at(6 * PAGE_SIZE as i64 - 8)], &[], &[]]), None).unwrap();
        assert!(last.slid(1).is_ok());
    }

    #[test]
    fn payloads_that_are_no_kernels_are_errors() {
        for payload in [b"MZ".to_vec(), b"\x7fELF".to_vec(), zstd::bulk::compress(&[7; 1000], 1).unwrap()] {
            assert!(Unslid::of_payload(&payload, None).is_err());
        }
        let raw = file(&[&[], &[], &[]]);
        let unslid = Unslid::of_payload(&raw, None).unwrap();
        let longer = Layout { raw_len: unslid.layout.raw_len + 1, ..unslid.layout };
        assert!(Unslid::of_layout(&longer, &raw, None).is_err());
    }
}
