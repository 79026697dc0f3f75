//! The kernel's array of `struct page`: one structure for each frame, which says what the frame is used for.
//!
//! Offsets, sizes and most flags come from the kernel's note. What it does not give (the page type of page tables, the bit
//! of reserved pages) is in tables by kernel version, which are believed only where the note's own numbers agree
//! with the row. The encodings of page types changed three times between Linux 5.10 and 6.12.

use std::ops::Range;

use rayon::prelude::*;

use super::GuestClass;
use super::kernel::Kernel;
use super::physical::{FrameMap, Physical};
use super::vmcoreinfo::VmcoreInfo;
use crate::page::{PAGE_SIZE, Page};
use crate::source::PageSource;

/// Bytes of a `struct page` that are looked at; real ones have 56 to 80.
const MAX_STRUCT: u64 = 256;
/// Orders of free blocks that are believed: below this one.
const MAX_ORDER: u64 = 15;
/// Frames classed by one task: a free block never reaches beyond.
const TASK_FRAMES: u64 = 1 << MAX_ORDER;
/// Bits of a section's entry that are flags; its memory map is aligned to pages.
const SECTION_FLAGS: u64 = 0xfff;
/// Reference counts above this are not believed.
const MAX_COUNT: i32 = 1 << 24;

/// Where the members are that classing needs, in bytes.
#[derive(Clone, Copy, Debug)]
struct Fields {
    size: u64,
    flags: usize,
    count: usize,
    mapping: usize,
    /// Map count, or page type.
    kind: usize,
    private: usize,
    /// Head of a compound page.
    compound: usize,
    /// Whether that can be a mask of the structure's own address (from 7.1 on).
    compound_mask: bool,
}

/// How page types are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Types {
    /// A type is a bit that is 0 in a word whose other bits in `base` are 1 (until 6.11).
    ClearedBit { base: u32 },
    /// A type is the top byte (from 6.12 on).
    TopByte,
}

/// How huge pages of hugetlbfs are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HugeTlb {
    /// They are not.
    Unknown,
    /// By page type (from 6.9 on).
    Type(u32),
    /// By a flag of the structure after the head's (6.6 to 6.8).
    SecondFlag(u32),
    /// By the byte at an offset from the head's start, which says how to free it (until 6.5).
    Destructor { offset: u64, value: u8 },
}

/// Numbers that depend on the kernel.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    types: Types,
    buddy: u32,
    offline: Option<u32>,
    unaccepted: Option<u32>,
    table: Option<u32>,
    slab_type: Option<u32>,
    slab_flag: Option<u32>,
    hugetlb: HugeTlb,
    lru: u32,
    swapbacked: u32,
    /// Of the first page of a compound page.
    head: Option<u32>,
    reserved: Option<u32>,
    orders: u64,
}

/// How to find and read `struct page`s.
#[derive(Debug)]
pub(crate) struct MemMap {
    fields: Fields,
    numbers: Numbers,
    sections: Sections,
}

/// Where the structures lie in virtual memory.
#[derive(Clone, Copy, Debug)]
enum Sections {
    /// One array for all frames, at this address.
    Flat(u64),
    /// By sections of so many frames; a section's entry gives the address that its frame 0 would have.
    Sparse { frames: u64, roots: u64, per_root: u64, entry_size: u64, map_offset: u64, table: u64 },
}

/// What the array says of every page.
#[derive(Debug)]
pub(crate) struct Classed {
    /// For each page of the source.
    pub(crate) classes: Vec<GuestClass>,
    /// Pages that have a structure of their own or are in a free block.
    pub(crate) known: u64,
    /// Pages that hold the array itself, with the virtual page number of each.
    pub(crate) array: Vec<(u64, u64)>,
}

fn single_bit(value: u32) -> Option<u32> {
    (!value).is_power_of_two().then_some(!value)
}

impl HugeTlb {
    fn new(info: &VmcoreInfo) -> Self {
        let number = |name| info.number(name).map(|value| value as u32);
        let size = info.size("page").unwrap_or(0);
        // Of the structure after the head's, or of both as one.
        let second = info.offset("page.compound_dtor").and_then(|offset| offset.checked_add(size));
        let destructor = second.or_else(|| info.offset("folio._folio_dtor"));
        let value = number("HUGETLB_PAGE_DTOR").and_then(|value| u8::try_from(value).ok());
        match (number("PAGE_HUGETLB_MAPCOUNT_VALUE"), number("PG_hugetlb"), destructor, value) {
            (Some(value), ..) => HugeTlb::Type(value),
            (_, Some(bit), ..) if bit < 64 => HugeTlb::SecondFlag(bit),
            (_, _, Some(offset), Some(value)) if (size..2 * size).contains(&offset) => {
                HugeTlb::Destructor { offset, value }
            }
            _ => HugeTlb::Unknown,
        }
    }
}

impl Numbers {
    fn new(info: &VmcoreInfo) -> Option<Self> {
        let flag = |name| info.number(name).and_then(|bit| u32::try_from(bit).ok()).filter(|&bit| bit < 64);
        let kind = |name| info.number(name).map(|value| value as u32);
        let buddy = kind("PAGE_BUDDY_MAPCOUNT_VALUE")?;
        let (lru, swapbacked) = (flag("PG_lru")?, flag("PG_swapbacked")?);
        let types = if buddy & 0x00ff_ffff == 0 {
            Types::TopByte
        } else {
            let base = if single_bit(buddy)? < 1 << 16 { 0xf000_0000 } else { 0x8000_0000 };
            Types::ClearedBit { base }
        };
        // By version, confirmed by the type that the note does give.
        let table = match (info.version()?, buddy) {
            ((..=5, ..=10) | (..=4, _), 0xffff_ff7f) => Some(!0x400),
            (_, 0xffff_ff7f) => Some(!0x200),
            (_, 0xbfff_ffff) => Some(!0x1000_0000),
            (_, 0xf000_0000) => Some(0xf200_0000),
            _ => None,
        };
        let reserved = match (lru, swapbacked, flag("PG_private")) {
            (4, 19, Some(13)) => Some(12),
            (5, 19, Some(15)) => Some(14),
            (5, 17 | 18, Some(14)) => Some(13),
            _ => None,
        };
        let slab_type = kind("PAGE_SLAB_MAPCOUNT_VALUE");
        Some(Numbers {
            types,
            buddy,
            offline: kind("PAGE_OFFLINE_MAPCOUNT_VALUE"),
            unaccepted: kind("PAGE_UNACCEPTED_MAPCOUNT_VALUE"),
            table,
            slab_type,
            slab_flag: if slab_type.is_some() { None } else { flag("PG_slab") },
            hugetlb: HugeTlb::new(info),
            lru,
            swapbacked,
            // The note has it as a mask.
            head: info.number("PG_head_mask").map(|mask| mask.cast_unsigned().trailing_zeros()),
            reserved,
            orders: info.length("zone.free_area")?.min(MAX_ORDER),
        })
    }

    /// Whether a page's type word says `value`.
    fn is(&self, word: u32, value: Option<u32>) -> bool {
        let Some(value) = value else { return false };
        match self.types {
            Types::TopByte => word >> 24 == value >> 24,
            Types::ClearedBit { base } => word & (base | !value) == base,
        }
    }
}

impl Fields {
    fn new(info: &VmcoreInfo) -> Option<Self> {
        let size = info.size("page").filter(|size| (32..=MAX_STRUCT).contains(size))?;
        let offset = |name: &str, len: u64| {
            let offset = info.offset(&format!("page.{name}"))?;
            (offset.checked_add(len)? <= size).then_some(offset as usize)
        };
        let compound_info = offset("compound_info", 8);
        Some(Fields {
            size,
            flags: offset("flags", 8)?,
            count: offset("_refcount", 4)?,
            mapping: offset("mapping", 8)?,
            kind: offset("_mapcount", 4)?,
            private: offset("private", 8)?,
            compound: offset("compound_head", 8).or(compound_info)?,
            compound_mask: compound_info.is_some(),
        })
    }
}

/// The members of one `struct page`.
#[derive(Clone, Copy, Debug)]
struct PageStruct {
    flags: u64,
    count: i32,
    mapping: u64,
    kind: u32,
    private: u64,
    compound: u64,
}

impl Fields {
    fn read(&self, bytes: &[u8]) -> PageStruct {
        let long = |at: usize| bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let int = |at: usize| bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        PageStruct {
            flags: long(self.flags),
            count: int(self.count) as i32,
            mapping: long(self.mapping),
            kind: int(self.kind),
            private: long(self.private),
            compound: long(self.compound),
        }
    }
}

impl Numbers {
    /// What a structure that is no tail says of its page.
    fn class(&self, page: &PageStruct) -> GuestClass {
        let flag = |bit: u32| page.flags >> bit & 1 != 0;
        let slab = self.slab_flag.is_some_and(flag) || self.is(page.kind, self.slab_type);
        if self.is(page.kind, Some(self.buddy)) && !slab
            || self.is(page.kind, self.unaccepted)
            || self.is(page.kind, self.offline)
        {
            GuestClass::Free
        } else if slab {
            GuestClass::Slab
        } else if self.is(page.kind, self.table) {
            GuestClass::PageTable
        } else if matches!(self.hugetlb, HugeTlb::Type(value) if self.is(page.kind, Some(value))) {
            GuestClass::HugeTlb
        } else if page.mapping & 1 != 0 {
            GuestClass::Anonymous
        } else if flag(self.lru) && page.mapping & 3 == 0 {
            if flag(self.swapbacked) { GuestClass::Shmem } else { GuestClass::File }
        } else if self.reserved.is_some_and(flag) {
            GuestClass::Reserved
        } else {
            GuestClass::Kernel
        }
    }

    /// The order of a free block that starts here.
    fn free_order(&self, page: &PageStruct) -> Option<u64> {
        if self.is(page.kind, self.unaccepted) {
            return self.orders.checked_sub(1);
        }
        let buddy = self.is(page.kind, Some(self.buddy));
        (buddy && page.private < self.orders).then_some(page.private)
    }

    /// Whether the structure can be one at all.
    fn plausible(&self, page: &PageStruct, frame: u64) -> bool {
        let buddy = self.is(page.kind, Some(self.buddy));
        let order_fits = !buddy
            || self.free_order(page).is_some_and(|order| frame.is_multiple_of(1 << order))
            || self.slab_flag.is_some_and(|bit| page.flags >> bit & 1 != 0);
        (0..MAX_COUNT).contains(&page.count) && order_fits
    }
}

impl MemMap {
    /// What the kernel says of its array; `None` if it does not say enough.
    pub(crate) fn new<S: PageSource + ?Sized>(
        kernel: &Kernel,
        memory: Physical<'_, S>,
        frames: &FrameMap,
    ) -> Option<Self> {
        let info = &kernel.info;
        let (fields, numbers) = (Fields::new(info)?, Numbers::new(info)?);
        let some_frame = frames.pieces().iter().max_by_key(|piece| piece.pages)?.frame;
        let fits = |sections: Sections| {
            let map = MemMap { fields, numbers, sections };
            let address = map.address(kernel, memory, some_frame)?;
            kernel.paging.translate(memory, kernel.root, address)?;
            Some(map)
        };
        let flat = info.symbol("vmemmap").and_then(|base| fits(Sections::Flat(base)));
        flat.or_else(|| {
            let section_bits = u32::try_from(info.number("SECTION_SIZE_BITS").unwrap_or(27)).ok()?;
            let entry_size = info.size("mem_section").filter(|size| (8..=4096).contains(size))?;
            let map_offset = info.offset("mem_section.section_mem_map")?;
            let sparse = |table| Sections::Sparse {
                frames: 1 << section_bits.clamp(20, 40).saturating_sub(12),
                roots: info.length("mem_section").unwrap_or(1 << 20),
                per_root: PAGE_SIZE as u64 / entry_size,
                entry_size,
                map_offset,
                table,
            };
            // The symbol is the table of roots, or a pointer to it.
            let symbol = info.symbol("mem_section")?;
            let pointed = kernel.word(memory, symbol);
            fits(sparse(symbol)).or_else(|| fits(sparse(pointed?)))
        })
    }

    /// The virtual address of a frame's structure.
    fn address<S: PageSource + ?Sized>(
        &self,
        kernel: &Kernel,
        memory: Physical<'_, S>,
        frame: u64,
    ) -> Option<u64> {
        let base = match self.sections {
            Sections::Flat(base) => base,
            Sections::Sparse { frames, roots, per_root, entry_size, map_offset, table } => {
                let section = frame / frames;
                let root = Some(section / per_root).filter(|&root| root < roots)?;
                let root = kernel.word(memory, table.wrapping_add(root * 8))?;
                let entry = root.wrapping_add(section % per_root * entry_size).wrapping_add(map_offset);
                let map = kernel.word(memory, entry)?;
                (map & 1 != 0).then_some(map & !SECTION_FLAGS)?
            }
        };
        Some(base.wrapping_add(frame.wrapping_mul(self.fields.size)))
    }

    /// Frames whose structures lie one after the other, from a multiple of this on.
    fn stride(&self) -> u64 {
        match self.sections {
            Sections::Flat(_) => TASK_FRAMES,
            Sections::Sparse { frames, .. } => frames.min(TASK_FRAMES),
        }
    }

    /// Classes every page; `None` where the structures can't be what they should be. Runs on the current rayon pool.
    pub(crate) fn class_all<S: PageSource + ?Sized>(
        &self,
        kernel: &Kernel,
        memory: Physical<'_, S>,
        frames: &FrameMap,
    ) -> Option<Classed> {
        let stride = self.stride();
        let mut tasks: Vec<(u64, Range<u64>)> = Vec::new();
        for piece in frames.pieces() {
            let end = piece.frame + piece.pages;
            let mut start = piece.frame;
            while start < end {
                let next = end.min((start / stride + 1) * stride);
                tasks.push((piece.page + (start - piece.frame), start..next));
                start = next;
            }
        }
        let read = |(first_page, range): &(u64, Range<u64>)| {
            (*first_page, Reader::new(self, kernel, memory).class(range.clone()))
        };
        let parts: Vec<(u64, Part)> = tasks.par_iter().map(read).collect();
        let mut classed = Classed {
            classes: vec![GuestClass::Unknown; memory.source.page_count() as usize],
            known: 0,
            array: Vec::new(),
        };
        let (mut seen, mut odd) = (0, 0);
        for (first_page, part) in parts {
            seen += part.seen;
            odd += part.odd;
            classed.classes[first_page as usize..][..part.classes.len()].copy_from_slice(&part.classes);
            classed.array.extend(part.array);
            classed.known +=
                part.classes.iter().filter(|&&class| class != GuestClass::Unknown).count() as u64;
        }
        if seen == 0 || odd > seen / 100 {
            log::debug!("guest memory map: {odd} of {seen} structures are not plausible");
            return None;
        }
        for &(page, _) in &classed.array {
            classed.classes[page as usize] = GuestClass::MemMap;
        }
        Some(classed)
    }
}

/// What some consecutive frames are.
struct Part {
    classes: Vec<GuestClass>,
    array: Vec<(u64, u64)>,
    seen: u64,
    odd: u64,
}

/// Reads structures one after the other.
struct Reader<'a, S: ?Sized> {
    map: &'a MemMap,
    kernel: &'a Kernel,
    memory: Physical<'a, S>,
    /// The virtual page that was read last, and its bytes.
    last: Option<(u64, &'a Page)>,
    /// The head that was read last, and its class.
    head: Option<(u64, GuestClass)>,
}

impl<'a, S: PageSource + ?Sized> Reader<'a, S> {
    fn new(map: &'a MemMap, kernel: &'a Kernel, memory: Physical<'a, S>) -> Self {
        Reader { map, kernel, memory, last: None, head: None }
    }

    fn virtual_page(&mut self, number: u64) -> Option<&'a Page> {
        match self.last {
            Some((last, page)) if last == number => Some(page),
            _ => {
                let physical = self.kernel.paging.translate(self.memory, self.kernel.root, number << 12)?;
                let page = self.memory.frame(physical >> 12)?;
                self.last = Some((number, page));
                Some(page)
            }
        }
    }

    /// The byte at a virtual address.
    fn byte(&mut self, address: u64) -> Option<u8> {
        Some(self.virtual_page(address >> 12)?[(address & 0xfff) as usize])
    }

    /// The structure at a virtual address.
    fn at(&mut self, address: u64) -> Option<PageStruct> {
        let size = self.map.fields.size as usize;
        let (number, offset) = (address >> 12, (address & 0xfff) as usize);
        let page = self.virtual_page(number)?;
        if let Some(bytes) = page.get(offset..offset + size) {
            return Some(self.map.fields.read(bytes));
        }
        let mut bytes = [0; MAX_STRUCT as usize];
        let head = &page[offset..];
        bytes[..head.len()].copy_from_slice(head);
        let rest = size - head.len();
        bytes[head.len()..size].copy_from_slice(&self.virtual_page(number + 1)?[..rest]);
        Some(self.map.fields.read(&bytes[..size]))
    }

    /// The class of a page that is no tail, given the address of its structure.
    fn class_of_head(&mut self, page: &PageStruct, own: u64) -> GuestClass {
        let numbers = &self.map.numbers;
        let class = numbers.class(page);
        // Huge pages look like others of their owner's, or like the kernel's while nobody has them.
        let other = !matches!(class, GuestClass::Anonymous | GuestClass::File | GuestClass::Kernel);
        if other || numbers.head.is_none_or(|bit| page.flags >> bit & 1 == 0) {
            return class;
        }
        let huge = match numbers.hugetlb {
            HugeTlb::Unknown | HugeTlb::Type(_) => false,
            HugeTlb::SecondFlag(bit) => {
                let second = self.at(own.wrapping_add(self.map.fields.size));
                second.is_some_and(|second| second.flags >> bit & 1 != 0)
            }
            HugeTlb::Destructor { offset, value } => self.byte(own.wrapping_add(offset)) == Some(value),
        };
        if huge { GuestClass::HugeTlb } else { class }
    }

    /// The class of a page, given the address of its structure; of a compound page's tail, that of its head.
    fn class_of(&mut self, page: &PageStruct, own: u64) -> GuestClass {
        if page.compound & 1 == 0 {
            return self.class_of_head(page, own);
        }
        let mut address = page.compound - 1;
        if self.map.fields.compound_mask && (!address).wrapping_add(1).is_power_of_two() {
            address &= own;
        }
        if let Some((head, class)) = self.head
            && head == address
        {
            return class;
        }
        // A head that is a tail itself is nobody's.
        let head = self.at(address).filter(|head| head.compound & 1 == 0);
        let class = head.map_or(GuestClass::Kernel, |head| self.class_of_head(&head, address));
        self.head = Some((address, class));
        class
    }

    fn class(mut self, range: Range<u64>) -> Part {
        let count = (range.end - range.start) as usize;
        let mut part = Part { classes: vec![GuestClass::Unknown; count], array: Vec::new(), seen: 0, odd: 0 };
        let Some(first) = self.map.address(self.kernel, self.memory, range.start) else { return part };
        let size = self.map.fields.size;
        let mut place = 0;
        while place < count {
            let frame = range.start + place as u64;
            let own = first.wrapping_add(place as u64 * size);
            let Some(page) = self.at(own) else {
                place += 1;
                continue;
            };
            part.seen += 1;
            part.odd += u64::from(!self.map.numbers.plausible(&page, frame));
            let class = self.class_of(&page, own);
            // Only the first page of a free block is marked; the others say what they were.
            let pages = match self.map.numbers.free_order(&page) {
                Some(order) if class == GuestClass::Free => 1 << order,
                _ => 1,
            };
            let end = count.min(place + pages);
            part.classes[place..end].fill(class);
            place = end;
        }
        self.list_array(first, count as u64 * size, &mut part);
        part
    }

    /// The pages that hold the structures themselves.
    fn list_array(&self, first: u64, len: u64, part: &mut Part) {
        for number in first >> 12..=(first.wrapping_add(len - 1)) >> 12 {
            let physical = self.kernel.paging.translate(self.memory, self.kernel.root, number << 12);
            let page = physical.and_then(|physical| self.memory.frames.page_of(physical >> 12));
            part.array.extend(page.map(|page| (page, number)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::physical::FrameMap;
    use super::*;

    /// Lines that notes of these releases have, put together from Linux' documentation. Real notes are read by
    /// `tests/tests/kernels.rs`, but none of a release from 6.2 to 6.11.
    const NOTES: [(&str, &str); 5] = [
        (
            "5.10.0-32-amd64",
            "NUMBER(PG_lru)=4 NUMBER(PG_private)=13 NUMBER(PG_swapbacked)=19 NUMBER(PG_slab)=9 \
            NUMBER(PG_head_mask)=65536 NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129 \
            NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-257 NUMBER(HUGETLB_PAGE_DTOR)=2 OFFSET(page.compound_dtor)=16",
        ),
        (
            "6.1.0-50-amd64",
            "NUMBER(PG_lru)=4 NUMBER(PG_private)=13 NUMBER(PG_swapbacked)=19 NUMBER(PG_slab)=9 \
            NUMBER(PG_head_mask)=65536 NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129 \
            NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-257 NUMBER(HUGETLB_PAGE_DTOR)=2 OFFSET(page.compound_dtor)=16",
        ),
        (
            "6.4.0",
            "NUMBER(PG_lru)=4 NUMBER(PG_private)=13 NUMBER(PG_swapbacked)=19 NUMBER(PG_slab)=9 \
            NUMBER(PG_head_mask)=65536 NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129 \
            NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-257 NUMBER(HUGETLB_PAGE_DTOR)=2 OFFSET(folio._folio_dtor)=80",
        ),
        (
            "6.6.0",
            "NUMBER(PG_lru)=5 NUMBER(PG_private)=15 NUMBER(PG_swapbacked)=19 NUMBER(PG_slab)=11 \
            NUMBER(PG_head_mask)=64 NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129 \
            NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-257 NUMBER(PG_hugetlb)=8",
        ),
        (
            "6.12.117+deb13-amd64",
            "NUMBER(PG_lru)=5 NUMBER(PG_private)=14 NUMBER(PG_swapbacked)=17 NUMBER(PG_head_mask)=64 \
            NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-268435456 NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-251658240 \
            NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)=-184549376 NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)=-201326592",
        ),
    ];

    fn numbers(place: usize) -> Numbers {
        let (release, lines) = NOTES[place];
        let text = format!("OSRELEASE={release}\nSIZE(page)=64\nLENGTH(zone.free_area)=11\n{lines}");
        let mut page = [0; PAGE_SIZE];
        let text = text.split_whitespace().collect::<Vec<_>>().join("\n");
        page[..text.len()].copy_from_slice(text.as_bytes());
        let frames = &FrameMap::guesses(1)[0];
        let info = VmcoreInfo::read(Physical { source: &page[..], frames }, 0).unwrap();
        Numbers::new(&info).unwrap()
    }

    fn class(numbers: &Numbers, flags: u64, mapping: u64, kind: u32) -> GuestClass {
        numbers.class(&PageStruct { flags, count: 1, mapping, kind, private: 0, compound: 0 })
    }

    #[test]
    fn page_types_are_read_as_each_release_writes_them() {
        // The words of a free page, one of a page table, a slab and a page without a type.
        let untyped = u32::MAX;
        let old = [0xffff_ff7f, 0xffff_fbff, untyped, untyped];
        let middle = [0xffff_ff7f, 0xffff_fdff, untyped, untyped];
        let new = [0xf000_0000, 0xf200_0001, 0xf500_1234, untyped];
        let words = [(0, old), (1, middle), (2, middle), (3, middle), (4, new)];
        for (place, [free, table, slab, untyped]) in words {
            let (release, numbers) = (NOTES[place].0, numbers(place));
            let slab_flag = numbers.slab_flag.map_or(0, |bit| 1 << bit);
            assert_eq!(class(&numbers, 0, 0, free), GuestClass::Free, "{release}");
            assert_eq!(class(&numbers, 0, 0, table), GuestClass::PageTable, "{release}");
            // What a slab keeps in these members may look like anything.
            assert_eq!(class(&numbers, slab_flag, 1, slab), GuestClass::Slab, "{release}");
            assert_eq!(class(&numbers, 0, 0, untyped), GuestClass::Kernel, "{release}");
            assert_eq!(class(&numbers, 0, 0, 0), GuestClass::Kernel, "{release}: mapped once");
            assert_eq!(class(&numbers, 1 << numbers.lru, 1, 0), GuestClass::Anonymous, "{release}");
            assert_eq!(class(&numbers, 1 << numbers.lru, 8, untyped), GuestClass::File, "{release}");
            let shmem = 1 << numbers.lru | 1 << numbers.swapbacked;
            assert_eq!(class(&numbers, shmem, 8, untyped), GuestClass::Shmem, "{release}");
            let reserved = 1 << numbers.reserved.unwrap();
            assert_eq!(class(&numbers, reserved, 0, untyped), GuestClass::Reserved, "{release}");
        }
        // The bit of page tables was another type's before 5.11.
        assert_eq!(class(&numbers(0), 0, 0, 0xffff_fdff), GuestClass::Kernel);
    }

    #[test]
    fn huge_pages_are_told_as_each_release_tells_them() {
        let destructor = HugeTlb::Destructor { offset: 80, value: 2 };
        let kinds = [destructor, destructor, destructor, HugeTlb::SecondFlag(8), HugeTlb::Type(0xf400_0000)];
        for (place, kind) in kinds.into_iter().enumerate() {
            let numbers = numbers(place);
            assert_eq!(numbers.hugetlb, kind, "{}", NOTES[place].0);
            assert_eq!(numbers.head, Some(if place < 3 { 16 } else { 6 }), "{}", NOTES[place].0);
        }
        assert_eq!(class(&numbers(4), 1 << 6, 1, 0xf400_0000), GuestClass::HugeTlb);
    }
}
