//! A bit for each page of a guest whose size somebody else names.

use std::collections::HashMap;

/// A set of pages. It takes memory for the pages that are in it, not for those that there could be: a header of a few bytes may
/// promise 2^40 of them.
#[derive(Debug, Default)]
pub(crate) struct Bits {
    /// Words of 64 pages that are not empty.
    words: HashMap<u64, u64>,
}

impl Bits {
    /// Adds a page; whether it is new.
    pub(crate) fn insert(&mut self, page: u64) -> bool {
        let (word, bit) = (self.words.entry(page / 64).or_default(), 1 << (page % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Takes a page out.
    pub(crate) fn remove(&mut self, page: u64) {
        if let Some(word) = self.words.get_mut(&(page / 64)) {
            *word &= !(1 << (page % 64));
        }
    }

    /// Whether a page is in it.
    pub(crate) fn contains(&self, page: u64) -> bool {
        self.words.get(&(page / 64)).is_some_and(|word| word >> (page % 64) & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_and_go() {
        let mut bits = Bits::default();
        for page in [0, 63, 64, (1 << 40) - 1] {
            assert!(!bits.contains(page) && bits.insert(page) && !bits.insert(page) && bits.contains(page));
        }
        assert!(!bits.contains(1) && !bits.contains(65));
        bits.remove(63);
        bits.remove(1000);
        assert!(!bits.contains(63) && bits.contains(0) && bits.insert(63));
    }
}
