//! A tiny x86-64 Linux guest, made by hand: structure for tests, and **no real memory**; no figure may come from it.
//!
//! It has what the engine reads of a guest, laid out as Linux 6.1 does, from the kernel's own documentation of its dump
//! format and memory model: the note in which a kernel describes itself, its page tables (image, direct map, memory map, one
//! stack), sections, an array of `struct page`, and processes with code, heap, shared memory and a stack. Their pages lie in
//! no order in physical memory. What each page is, whose, and at what address is kept beside it as the truth.
//!
//! Nothing is shared with the engine's readers but the names of classes.

mod contents;
mod memory;
mod note;

use mig_engine::guest::GuestClass;

use crate::handmade::Random;
use crate::reference::PAGE;
pub use memory::Memory;
pub use note::Note;

/// Where kernels are linked to run.
const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where this one runs: 16 MiB above, moved by 48 MiB.
pub const IMAGE: u64 = IMAGE_BASE + 0x400_0000;
/// How far it was moved.
pub const KERNEL_OFFSET: u64 = 0x300_0000;
/// Its first frame: 2 MiB.
const IMAGE_FRAME: u64 = 512;
/// Its length in frames.
const IMAGE_FRAMES: u64 = 32;
/// Within the image: where the names of the system are, the pointer to the sections, and the top page table.
const NAMES: u64 = 16 * 4096;
const SECTIONS: u64 = NAMES + 0x800;
const TOP_TABLE: u64 = 17 * 4096;
/// The direct map, the area of kernel stacks, and the memory map.
const DIRECT: u64 = 0xffff_8880_0000_0000;
const STACKS: u64 = 0xffff_c900_0004_0000;
const MEMORY_MAP: u64 = 0xffff_ea00_0000_0000;
/// Bytes of a `struct page`, and where its members are.
pub const STRUCT: u64 = 64;
/// Members of a `struct page` by name: offset and bytes.
pub const MEMBERS: [(&str, u64, u64); 6] = [
    ("flags", 0, 8),
    ("compound_head", 8, 8),
    ("mapping", 24, 8),
    ("private", 40, 8),
    ("_mapcount", 48, 4),
    ("_refcount", 52, 4),
];
/// Flags of a page.
const LRU: u64 = 1 << 4;
const SLAB: u64 = 1 << 9;
const RESERVED: u64 = 1 << 12;
const HEAD: u64 = 1 << 16;
const SWAP_BACKED: u64 = 1 << 19;
/// Types of a page that no process maps.
const BUDDY: u32 = !0x80;
const TABLE: u32 = !0x200;
/// Orders of free blocks.
const ORDERS: u32 = 11;
/// Where processes have their code, heap, shared memory and the end of their stack.
const CODE: u64 = 0x5555_5555_4000;
const HEAP: u64 = 0x5555_5580_0000;
const SHARED: u64 = 0x7f12_3400_0000;
const STACK_END: u64 = 0x7fff_ffff_f000;

/// How large a guest is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Pages: at least 1024, at most 32768, a multiple of 512.
    pub pages: u64,
    /// Pages of each process' heap.
    pub heap: u64,
}

impl Size {
    /// As small as it can be: 4 MiB.
    pub const SMALL: Size = Size { pages: 1024, heap: 40 };

    /// With more pages than one block holds of those that the disk and the older image do not have as a whole: 80 MiB.
    pub const LARGE: Size = Size { pages: 20480, heap: 5000 };
}

/// A process.
#[derive(Clone, Debug)]
pub struct Process {
    /// The path of its program.
    pub name: &'static str,
    /// The frame of its top page table.
    pub root: u64,
    /// What it maps: virtual page number and frame, ascending.
    pub mappings: Vec<(u64, u64)>,
}

/// A guest and the truth about it.
#[derive(Clone, Debug)]
pub struct Linux {
    /// Its memory, from address 0 on.
    pub memory: Vec<u8>,
    /// The same guest earlier: some heap pages were as they are but for a few words, some at other places.
    pub older: Vec<u8>,
    /// Blocks of its disk, on which the processes' code is.
    pub disk: Vec<u8>,
    /// The class of each page.
    pub classes: Vec<GuestClass>,
    /// The number of the process that has each page, and the virtual page number by which it is known.
    pub places: Vec<(Option<usize>, u64)>,
    /// The processes, in the order of their roots.
    pub processes: Vec<Process>,
    /// Where its structures are.
    pub parts: Parts,
}

/// Where the structures of a guest are, for those who break them.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// The frame of the note.
    pub note: u64,
    /// The note.
    pub text: Note,
    /// The frame of the kernel's top page table.
    pub root: u64,
    /// Frames of page tables, the tops among them.
    pub tables: Vec<u64>,
    /// Physical addresses of the pointer to the sections, of the first root's entry, and of the first section.
    pub sections: [u64; 3],
    /// The physical address of the names of the system.
    pub names: u64,
    /// The first frame of the array of `struct page`; the others follow it.
    pub array: u64,
}

impl Parts {
    /// The physical address of a member of a frame's `struct page`.
    pub fn member(&self, frame: u64, offset: u64) -> u64 {
        self.array * PAGE as u64 + frame * STRUCT + offset
    }
}

/// What is known of a frame while the guest is built.
#[derive(Clone, Copy, Debug)]
struct Frame {
    class: GuestClass,
    /// The frame of the head of its compound page, for a tail.
    head: Option<u64>,
    /// Whether it is such a head.
    is_head: bool,
}

/// A guest that is being built.
struct Build {
    size: Size,
    memory: Memory,
    frames: Vec<Option<Frame>>,
    random: Random,
    tables: Vec<u64>,
}

impl Build {
    fn take(&mut self, frame: u64, class: GuestClass) -> u64 {
        let taken = self.frames[frame as usize].replace(Frame { class, head: None, is_head: false });
        assert!(taken.is_none(), "frame {frame} is taken twice");
        frame
    }

    /// So many free frames one after the other, from the lowest on that have room.
    fn take_low(&mut self, count: u64, class: GuestClass) -> u64 {
        let free = |first: &u64| (*first..first + count).all(|frame| self.frames[frame as usize].is_none());
        let first = (2..self.size.pages - count).find(free).expect("room for the kernel");
        for frame in first..first + count {
            self.take(frame, class);
        }
        first
    }

    /// A free frame anywhere above the kernel's image.
    fn take_any(&mut self, class: GuestClass) -> u64 {
        let from = IMAGE_FRAME + IMAGE_FRAMES;
        loop {
            let frame = from + self.random.below(self.size.pages - from);
            if self.frames[frame as usize].is_none() {
                return self.take(frame, class);
            }
        }
    }

    /// Maps a page of 4 KiB, or one of 2 MiB; makes the tables that are missing.
    fn map(&mut self, root: u64, address: u64, frame: u64, large: bool) {
        let mut table = root;
        let last = if large { 1 } else { 0 };
        for level in (last + 1..4).rev() {
            let entry = table * 4096 + (address >> (12 + 9 * level) & 511) * 8;
            if self.memory.word(entry) == 0 {
                let next = self.take_low(1, GuestClass::PageTable);
                self.tables.push(next);
                // Present, writable, for user space, accessed, dirty.
                self.memory.set_word(entry, next << 12 | 0x67);
            }
            table = self.memory.word(entry) >> 12 & 0xf_ffff;
        }
        let entry = table * 4096 + (address >> (12 + 9 * last) & 511) * 8;
        let attributes = if large { 0x80e3 } else { 0x63 };
        self.memory.set_word(entry, frame << 12 | attributes | 1 << 63);
    }
}

/// A guest of this size.
///
/// # Panics
///
/// If that is no size that it can have.
pub fn guest(size: Size) -> Linux {
    assert!((1024..=32768).contains(&size.pages) && size.pages.is_multiple_of(512), "{size:?}");
    let mut build = Build {
        size,
        memory: Memory::new(size.pages),
        frames: vec![None; size.pages as usize],
        random: Random::new(2024),
        tables: vec![],
    };
    let mut parts = Parts { root: IMAGE_FRAME + TOP_TABLE / 4096, ..Parts::default() };
    build.take(0, GuestClass::Reserved);
    parts.note = build.take(1, GuestClass::Kernel);
    for frame in 0..IMAGE_FRAMES {
        build.take(IMAGE_FRAME + frame, GuestClass::Reserved);
    }
    build.kernel_map(&mut parts);
    let mut places: Vec<(Option<usize>, u64)> =
        (0..size.pages).map(|frame| (None, virtual_page(DIRECT) + frame)).collect();
    for frame in 0..IMAGE_FRAMES {
        places[(IMAGE_FRAME + frame) as usize].1 = virtual_page(IMAGE) + frame;
    }
    for frame in 0..size.pages * STRUCT / 4096 {
        places[(parts.array + frame) as usize].1 = virtual_page(MEMORY_MAP) + frame;
    }
    build.kernel_objects(&parts, &mut places);
    let disk = contents::disk(&mut build.random);
    let processes = build.processes(&parts, &disk);
    for (number, process) in processes.iter().enumerate() {
        for &(page, frame) in &process.mappings {
            let place = &mut places[frame as usize];
            *place = if place.0.is_none() { (Some(number), page) } else { *place };
        }
    }
    let older = build.leftovers_and_older();
    let classes = build.structs(&parts);
    let mut linux = Linux { memory: vec![], older: vec![], disk, classes, places, processes, parts };
    linux.parts.text = Note::new();
    linux.parts.tables = build.tables.clone();
    linux.parts.tables.push(linux.parts.root);
    let note = linux.parts.text.page();
    build.memory.page_mut(linux.parts.note).copy_from_slice(&note);
    linux.memory = build.memory.into_bytes();
    linux.older = linux.memory.clone();
    for (frame, page) in older {
        linux.older[frame as usize * PAGE..][..PAGE].copy_from_slice(&page);
    }
    linux
}

/// A virtual address' page number, as the engine gives it: 52 bits.
fn virtual_page(address: u64) -> u64 {
    address >> 12
}

impl Build {
    /// The kernel's image, its page tables, sections and the frames of the memory map.
    fn kernel_map(&mut self, parts: &mut Parts) {
        let pages = self.size.pages;
        let root = parts.root;
        let image = IMAGE_FRAME * 4096;
        contents::image(&mut self.memory, &mut self.random, IMAGE_FRAME, IMAGE_FRAMES);
        self.memory.page_mut(IMAGE_FRAME + NAMES / 4096).fill(0);
        self.memory.page_mut(root).fill(0);
        parts.names = image + NAMES;
        let names = ["Linux", "hand-made", note::RELEASE, "#1 SMP", "x86_64", "(none)"];
        for (number, name) in (0..).zip(names) {
            self.memory.set_bytes(parts.names + number * 65, name.as_bytes());
        }
        self.map(root, IMAGE, IMAGE_FRAME, true);
        for frame in (0..pages).step_by(512) {
            self.map(root, DIRECT + frame * 4096, frame, true);
        }
        parts.array = self.take_low(pages * STRUCT / 4096, GuestClass::MemMap);
        for frame in 0..pages * STRUCT / 4096 {
            self.map(root, MEMORY_MAP + frame * 4096, parts.array + frame, false);
        }
        // The symbol holds a pointer to the table of roots, the first of which points to the first sections. A section's entry
        // is where the structure of frame 0 would be, and flags.
        let (table, sections) = (self.take_low(1, GuestClass::Kernel), self.take_low(1, GuestClass::Kernel));
        parts.sections = [image + SECTIONS, table * 4096, sections * 4096];
        self.memory.set_word(parts.sections[0], DIRECT + table * 4096);
        self.memory.set_word(parts.sections[1], DIRECT + sections * 4096);
        self.memory.set_word(parts.sections[2], MEMORY_MAP | 7);
        self.memory.set_word(parts.sections[2] + 8, DIRECT + 0x100);
    }

    /// A kernel stack in a mapping of its own, slabs (one of two pages), and what is none of these.
    fn kernel_objects(&mut self, parts: &Parts, places: &mut [(Option<usize>, u64)]) {
        for number in 0..4 {
            // Not in the 2 MiB that are mapped for the kernel's image.
            let frame = self.take_low(1, GuestClass::Kernel);
            let address = STACKS + number * 4096;
            self.map(parts.root, address, frame, false);
            places[frame as usize].1 = virtual_page(address);
            contents::pointers(self.memory.page_mut(frame), &mut self.random, address);
        }
        for class in [GuestClass::Slab, GuestClass::Slab, GuestClass::Slab, GuestClass::Kernel] {
            let frame = self.take_low(2, class);
            if class == GuestClass::Slab {
                self.frames[frame as usize].as_mut().expect("taken").is_head = true;
                self.frames[frame as usize + 1].as_mut().expect("taken").head = Some(frame);
            }
            for frame in [frame, frame + 1] {
                let address = DIRECT + frame * 4096;
                contents::pointers(self.memory.page_mut(frame), &mut self.random, address);
            }
        }
    }

    /// Three processes: the second is a fork of the first, which has changed little since; the third runs another program.
    fn processes(&mut self, parts: &Parts, disk: &[u8]) -> Vec<Process> {
        let names = ["/usr/bin/alpha", "/usr/bin/alpha", "/usr/sbin/beta"];
        let roots = names.map(|_| self.take_low(1, GuestClass::PageTable));
        self.tables.extend(roots);
        let code: Vec<u64> = (0..6).map(|_| self.take_any(GuestClass::File)).collect();
        for (&frame, block) in code.iter().zip(disk.chunks_exact(PAGE)) {
            self.memory.page_mut(frame).copy_from_slice(block);
        }
        let shared: Vec<u64> = (0..4).map(|_| self.take_any(GuestClass::Shmem)).collect();
        for &frame in &shared {
            contents::text(self.memory.page_mut(frame), &mut self.random);
        }
        let mut processes: Vec<Process> = vec![];
        for (number, (name, root)) in names.into_iter().zip(roots).enumerate() {
            // The kernel's half is the kernel's own.
            for entry in 256..512 {
                let word = self.memory.word(parts.root * 4096 + entry * 8);
                self.memory.set_word(root * 4096 + entry * 8, word);
            }
            let mut mappings = vec![];
            for (address, frames) in [(CODE, &code), (SHARED, &shared)] {
                mappings.extend((virtual_page(address)..).zip(frames.iter().copied()));
            }
            for page in 0..self.size.heap {
                let frame = self.take_any(GuestClass::Anonymous);
                let address = HEAP + page * 4096;
                if number == 1 {
                    let parent =
                        processes[0].mappings.iter().find(|mapping| mapping.0 == virtual_page(address));
                    let parent = *self.memory.page_mut(parent.expect("a page of the parent").1);
                    *self.memory.page_mut(frame) = parent;
                    contents::touch(self.memory.page_mut(frame), &mut self.random, 5);
                } else {
                    contents::pointers(self.memory.page_mut(frame), &mut self.random, address);
                }
                mappings.push((virtual_page(address), frame));
            }
            for page in 0..3 {
                let frame = self.take_any(GuestClass::Anonymous);
                let address = STACK_END - (3 - page) * 4096;
                contents::pointers(self.memory.page_mut(frame), &mut self.random, address);
                mappings.push((virtual_page(address), frame));
                if page == 2 {
                    contents::end_of_stack(self.memory.page_mut(frame), name);
                }
            }
            mappings.sort_unstable();
            for &(page, frame) in &mappings {
                self.map(root, page << 12, frame, false);
            }
            processes.push(Process { name, root, mappings });
        }
        processes
    }

    /// Fills some free frames with what they held before; gives the pages that were something else earlier.
    fn leftovers_and_older(&mut self) -> Vec<(u64, [u8; PAGE])> {
        let mut older = vec![];
        let mut heap = vec![];
        for frame in 0..self.size.pages {
            let page = self.memory.page_mut(frame);
            match self.frames[frame as usize].map(|frame| frame.class) {
                None if frame % 61 == 0 => contents::pointers(page, &mut self.random, HEAP + frame * 4096),
                Some(GuestClass::Anonymous) if frame % 3 != 0 => {
                    let mut earlier = *page;
                    contents::touch(&mut earlier, &mut self.random, 1 + frame % 7 * 4);
                    older.push((frame, earlier));
                    heap.push(older.len() - 1);
                }
                _ => {}
            }
        }
        // Some were where others are.
        for pair in heap.chunks_exact(2).step_by(5) {
            let earlier = older[pair[0]].1;
            older[pair[0]].1 = std::mem::replace(&mut older[pair[1]].1, earlier);
        }
        older
    }

    /// Writes the array of `struct page`; gives the class of each frame.
    fn structs(&mut self, parts: &Parts) -> Vec<GuestClass> {
        let mut classes = vec![];
        let free = |frames: &[Option<Frame>]| frames.iter().all(Option::is_none);
        for frame in 0..self.size.pages {
            let known = self.frames[frame as usize];
            // Flags, the head of the compound page, mapping, private, map count or type, reference count.
            let mut members = [0, 0, 0, 0, u64::from(u32::MAX), 1];
            match known.map(|known| known.class) {
                None => {
                    members[5] = 0;
                    // The first frame of a free block, the largest that has its place here, unless an earlier one reaches so far.
                    let order = (0..ORDERS).rev().find(|order| {
                        let (len, end) = (1 << order, frame + (1 << order));
                        frame.is_multiple_of(len)
                            && end <= self.size.pages
                            && free(&self.frames[frame as usize..end as usize])
                    });
                    let inside = (1..ORDERS).any(|order| {
                        let (start, len) = (frame >> order << order, 1 << order);
                        let end = (start + len) as usize;
                        start != frame && end <= self.frames.len() && free(&self.frames[start as usize..end])
                    });
                    if let (Some(order), false) = (order, inside) {
                        (members[3], members[4]) = (u64::from(order), u64::from(BUDDY));
                    }
                }
                Some(GuestClass::Reserved) => members[0] = RESERVED,
                Some(GuestClass::PageTable) => members[4] = u64::from(TABLE),
                Some(GuestClass::Slab) => members[0] = SLAB,
                Some(GuestClass::File) => members = [LRU, 0, DIRECT + 0x5000, 0, 1, 3],
                Some(GuestClass::Shmem) => members = [LRU | SWAP_BACKED, 0, DIRECT + 0x6000, 0, 2, 4],
                Some(GuestClass::Anonymous) => members = [LRU | SWAP_BACKED, 0, DIRECT + 0x7001, 0, 0, 1],
                _ => {}
            }
            if let Some(known) = known {
                members[0] |= if known.is_head { HEAD } else { 0 };
                if let Some(head) = known.head {
                    members = [0, MEMORY_MAP + head * STRUCT + 1, 0x400, 0, u64::from(u32::MAX), 0];
                }
            }
            for ((_, offset, len), value) in MEMBERS.into_iter().zip(members) {
                let address = parts.member(frame, offset);
                self.memory.set_bytes(address, &value.to_le_bytes()[..len as usize]);
            }
            classes.push(known.map_or(GuestClass::Free, |known| known.class));
        }
        classes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_what_tests_count_on() {
        let linux = guest(Size::SMALL);
        assert_eq!(linux.memory.len(), 1024 * PAGE);
        assert_eq!(linux.older.len(), linux.memory.len());
        for class in [GuestClass::Free, GuestClass::File, GuestClass::Shmem, GuestClass::Anonymous] {
            assert!(linux.classes.contains(&class), "{class:?}");
        }
        // Neighbours in a process are none in memory.
        let heap: Vec<u64> = linux.processes[0].mappings.iter().map(|mapping| mapping.1).collect();
        assert!(heap.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count() < 4);
        // The same each time.
        assert!(linux.memory == guest(Size::SMALL).memory);
    }
}
