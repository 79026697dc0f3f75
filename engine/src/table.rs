//! Tables that are hit at random: zeroed words, in huge pages where the system has them.
//!
//! In small pages every first touch is two faults, one to read and one to write, and the second interrupts all other
//! threads; later ones miss the TLB. A twentieth of packing at effort fast went there.

use std::ops::{Index, IndexMut};

use bytemuck::{AnyBitPattern, NoUninit};
use memmap2::{Advice, MmapMut};

/// From this size on, huge pages are asked for.
const HUGE: usize = 2 << 20;

/// Words, zero at first.
#[derive(Debug)]
pub(crate) struct Table {
    words: Words,
}

#[derive(Debug)]
enum Words {
    Heap(Vec<u64>),
    Mapped(MmapMut),
}

impl Table {
    pub(crate) fn new(len: usize) -> Self {
        Table { words: Self::mapped(len).map_or_else(|| Words::Heap(vec![0; len]), Words::Mapped) }
    }

    fn mapped(len: usize) -> Option<MmapMut> {
        let bytes = len.checked_mul(size_of::<u64>()).filter(|&bytes| bytes >= HUGE)?;
        let map = MmapMut::map_anon(bytes).ok()?;
        #[cfg(target_os = "linux")]
        if let Err(error) = map.advise(Advice::HugePage) {
            log::trace!("asking for huge pages: {error}");
        }
        Some(map)
    }

    pub(crate) fn len(&self) -> usize {
        self.words().len()
    }

    /// The words as elements of another size, which divides the table's.
    pub(crate) fn cast_mut<T: AnyBitPattern + NoUninit>(&mut self) -> &mut [T] {
        match &mut self.words {
            Words::Heap(words) => bytemuck::cast_slice_mut(words),
            Words::Mapped(map) => bytemuck::cast_slice_mut(map),
        }
    }

    pub(crate) fn words(&self) -> &[u64] {
        match &self.words {
            Words::Heap(words) => words,
            // Mappings are aligned to pages, and this one's length is in words.
            Words::Mapped(map) => bytemuck::cast_slice(map),
        }
    }
}

impl Index<usize> for Table {
    type Output = u64;

    fn index(&self, index: usize) -> &u64 {
        &self.words()[index]
    }
}

impl IndexMut<usize> for Table {
    fn index_mut(&mut self, index: usize) -> &mut u64 {
        match &mut self.words {
            Words::Heap(words) => &mut words[index],
            Words::Mapped(map) => &mut bytemuck::cast_slice_mut(map)[index],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_at_first_whatever_the_size() {
        for len in [1, 1000, HUGE / 8, HUGE] {
            let mut table = Table::new(len);
            assert_eq!(table.len(), len);
            assert!(table.words().iter().all(|&word| word == 0));
            table[len - 1] = 7;
            assert_eq!(table[len - 1], 7);
        }
    }
}
