//! Page tables: from virtual addresses to physical ones, and all mappings of an address space.
//!
//! x86-64 with four or five levels, and 64-bit ARM with pages of 4 KiB. Tables are the guest's and may be anything: a walk
//! goes down as many levels as there are and no further, and walks that visit everything look at each table page once
//! and stop when their budget is used up.

use super::physical::{Physical, word_at};
use crate::page::PAGE_SIZE;
use crate::source::PageSource;

/// Entries of a table page.
const ENTRIES: usize = PAGE_SIZE / 8;
/// Levels at most.
const MAX_LEVELS: usize = 5;
/// Physical address bits of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The same of an ARM entry; bits above hold attributes.
const ARM_ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// How entries are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// x86-64; the mask has the address bits that mean encryption.
    X86 {
        /// Not part of addresses.
        encryption: u64,
    },
    /// 64-bit ARM.
    Arm,
}

/// A way to read page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paging {
    pub(crate) encoding: Encoding,
    /// 3 to 5.
    pub(crate) levels: u32,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Absent,
    /// Physical address of a table.
    Table(u64),
    /// Physical address of the memory it maps.
    Memory(u64),
}

/// A mapping of virtually and physically consecutive pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// First virtual page number: canonical address divided by 4096.
    pub(crate) virtual_page: u64,
    /// First frame.
    pub(crate) frame: u64,
    /// 1, 512 or 512 * 512.
    pub(crate) pages: u64,
}

/// Which table pages a walk has seen, and how much more it may do.
pub(crate) struct Visits {
    seen: Vec<u64>,
    /// Units of work left: an entry that is present, or a page that a caller marks.
    budget: u64,
}

impl Visits {
    /// For a guest of so many pages. A guest whose tables are what they seem needs a small part of the budget.
    pub(crate) fn new(pages: u64) -> Self {
        Visits { seen: vec![0; pages.div_ceil(64) as usize], budget: pages.saturating_mul(16).max(1 << 20) }
    }

    /// Whether this page was not seen before; it is now.
    fn first(&mut self, page: u64) -> bool {
        let Some(word) = self.seen.get_mut((page / 64) as usize) else { return false };
        let bit = 1 << (page % 64);
        let first = *word & bit == 0;
        *word |= bit;
        first
    }

    /// Takes from the budget; false when it does not last.
    pub(crate) fn spend(&mut self, units: u64) -> bool {
        let left = self.budget.checked_sub(units);
        self.budget = left.unwrap_or(0);
        left.is_some()
    }
}

impl Paging {
    fn entry(&self, raw: u64, level: u32) -> Entry {
        let memory = |address: u64| Entry::Memory(address & !((1 << (12 + 9 * level)) - 1));
        match self.encoding {
            Encoding::X86 { encryption } => {
                let address = raw & ADDRESS & !encryption;
                match (raw & 1, level, raw >> 7 & 1) {
                    (0, _, _) => Entry::Absent,
                    (_, 0, _) | (_, 1 | 2, 1) => memory(address),
                    _ => Entry::Table(address),
                }
            }
            Encoding::Arm => match (raw & 3, level) {
                (3, 0) | (1, 1 | 2) => memory(raw & ARM_ADDRESS),
                (3, _) => Entry::Table(raw & ARM_ADDRESS),
                _ => Entry::Absent,
            },
        }
    }

    /// Bits of a virtual address that the tables translate.
    pub(crate) fn address_bits(&self) -> u32 {
        12 + 9 * self.levels
    }

    /// The physical address of a virtual one, by the tables at `root`.
    pub(crate) fn translate<S: PageSource + ?Sized>(
        &self,
        memory: Physical<'_, S>,
        root: u64,
        address: u64,
    ) -> Option<u64> {
        let mut table = root;
        for level in (0..self.levels).rev() {
            let shift = 12 + 9 * level;
            let index = address >> shift & 511;
            match self.entry(memory.word((table & !0xfff) + index * 8)?, level) {
                Entry::Absent => return None,
                Entry::Table(next) => table = next,
                Entry::Memory(start) => return Some(start + (address & ((1 << shift) - 1))),
            }
        }
        None
    }

    /// Calls `visit` with every mapping of the entries `top` of the table at `root`, in the order of addresses. A table
    /// that was visited before, here or elsewhere, is passed over, but for the root. Ends early when the budget is used up or `visit` says false.
    pub(crate) fn walk<S: PageSource + ?Sized>(
        &self,
        memory: Physical<'_, S>,
        root: u64,
        top: std::ops::Range<usize>,
        visits: &mut Visits,
        mut visit: impl FnMut(Mapping, &mut Visits) -> bool,
    ) {
        let Some(page) = memory.frame(root / PAGE_SIZE as u64) else { return };
        let top_level = self.levels - 1;
        // One table for each level above the entry at hand, with the next index and the address of index 0.
        let mut stack = [(page, 0usize, 0u64); MAX_LEVELS];
        let mut depth = 0;
        stack[0].1 = top.start;
        loop {
            let level = top_level - depth as u32;
            let (table, index, base) = stack[depth];
            let end = if depth == 0 { top.end.min(ENTRIES) } else { ENTRIES };
            if index >= end {
                if depth == 0 {
                    return;
                }
                depth -= 1;
                continue;
            }
            stack[depth].1 += 1;
            let raw = word_at(table, index * 8);
            if raw == 0 {
                continue;
            }
            let address = base | (index as u64) << (12 + 9 * level);
            match self.entry(raw, level) {
                Entry::Absent => {}
                Entry::Memory(start) => {
                    let mapping = Mapping {
                        virtual_page: self.canonical(address) >> 12,
                        frame: start >> 12,
                        pages: 1 << (9 * level),
                    };
                    if !visits.spend(1) || !visit(mapping, visits) {
                        return;
                    }
                }
                Entry::Table(next) => {
                    if !visits.spend(1) {
                        return;
                    }
                    let frame = next / PAGE_SIZE as u64;
                    let first = memory.frames.page_of(frame).is_some_and(|page| visits.first(page));
                    if first && let Some(table) = memory.frame(frame) {
                        depth += 1; // `Table` is never at level 0
                        stack[depth] = (table, 0, address);
                    }
                }
            }
        }
    }

    /// Copies the highest translated bit upwards.
    fn canonical(&self, address: u64) -> u64 {
        let unused = 64 - self.address_bits();
        ((address << unused) as i64 >> unused) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::super::physical::FrameMap;
    use super::*;

    const X86: Paging = Paging { encoding: Encoding::X86 { encryption: 0 }, levels: 4 };

    struct Memory(Vec<u8>);

    impl Memory {
        fn new(pages: usize) -> Self {
            Memory(vec![0; pages * PAGE_SIZE])
        }

        fn set(&mut self, table: usize, index: usize, entry: u64) {
            self.0[table * PAGE_SIZE + index * 8..][..8].copy_from_slice(&entry.to_le_bytes());
        }

        fn walk(&self, paging: Paging, budget: Option<u64>) -> Vec<Mapping> {
            let frames = &FrameMap::guesses(self.0.len() as u64 / 4096)[0];
            let memory = Physical { source: &self.0[..], frames };
            let mut visits = Visits::new(self.0.len() as u64 / 4096);
            visits.budget = budget.unwrap_or(visits.budget);
            let mut found = Vec::new();
            paging.walk(memory, 0, 0..512, &mut visits, |mapping, _| {
                found.push(mapping);
                true
            });
            for mapping in &found {
                let physical = paging.translate(memory, 0, mapping.virtual_page << 12 | 0x123);
                assert_eq!(physical, Some(mapping.frame << 12 | 0x123));
            }
            found
        }
    }

    #[test]
    fn small_and_large_pages_are_found_in_order() {
        let mut memory = Memory::new(8);
        memory.set(0, 0, 0x1001); // root -> 1
        memory.set(0, 511, 0x1001 + 0x3000); // root -> 4
        memory.set(1, 2, 0x2001);
        memory.set(2, 3, 0x3001);
        memory.set(2, 4, 0x40_0081); // 2 MiB
        memory.set(2, 5, 0x1_2345_6000); // absent
        memory.set(3, 7, 0x8000_0000_0000_9001 | 1 << 52); // attributes are no address
        memory.set(4, 511, 0x4000_0081); // 1 GiB
        let found = memory.walk(X86, None);
        let base = 2u64 << 18 | 3 << 9;
        assert_eq!(
            found,
            [
                Mapping { virtual_page: base | 7, frame: 9, pages: 1 },
                Mapping { virtual_page: base + 512, frame: 0x400, pages: 512 },
                Mapping { virtual_page: 0xf_ffff_fffc_0000, frame: 0x4_0000, pages: 1 << 18 },
            ]
        );
    }

    #[test]
    fn five_levels_and_arm_tables_are_read() {
        let mut memory = Memory::new(8);
        for level in 0..4 {
            memory.set(level, 1, (level as u64 + 1) << 12 | 1);
        }
        memory.set(4, 1, 0x7001);
        let five = Paging { levels: 5, ..X86 };
        let expected = 1u64 << 36 | 1 << 27 | 1 << 18 | 1 << 9 | 1;
        assert_eq!(memory.walk(five, None), [Mapping { virtual_page: expected, frame: 7, pages: 1 }]);
        let arm = Paging { encoding: Encoding::Arm, levels: 3 };
        let mut memory = Memory::new(4);
        memory.set(0, 256, 0x1003);
        memory.set(1, 0, 0x2003);
        memory.set(1, 1, 0x0060_0000_0020_0701); // block
        memory.set(2, 9, 0x0078_0000_0000_3703);
        memory.set(2, 10, 0x3701); // no page descriptor at the last level
        let base = 0xf_ffff_fc00_0000_u64;
        assert_eq!(
            memory.walk(arm, None),
            [
                Mapping { virtual_page: base | 9, frame: 3, pages: 1 },
                Mapping { virtual_page: base | 512, frame: 0x200, pages: 512 },
            ]
        );
    }

    #[test]
    fn loops_end_and_budgets_hold() {
        // Every entry of the root leads back to it.
        let mut memory = Memory::new(2);
        for index in 0..512 {
            memory.set(0, index, 1);
            memory.set(1, index, 0x1001);
        }
        memory.walk(X86, None);
        memory.set(0, 0, 0x1001);
        memory.walk(X86, None);
        // A budget ends a walk in the middle.
        let mut memory = Memory::new(5);
        for table in 0..3 {
            memory.set(table, 0, (table as u64 + 1) << 12 | 1);
        }
        for index in 0..512 {
            memory.set(3, index, 0x4001);
        }
        assert_eq!(memory.walk(X86, None).len(), 512);
        assert_eq!(memory.walk(X86, Some(100)).len(), 97);
    }
}
