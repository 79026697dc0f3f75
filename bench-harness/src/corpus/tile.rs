//! As much memory as one likes, made from the sample: SYNTHETIC, whatever the report calls it besides.
//!
//! The sample's pages follow one another again and again, and each time a few words of each page are others. So the
//! mixture of zero pages, pointers, text and compressed data is that of a real desktop, and no page is a duplicate of
//! an earlier one, but a word-aware coder finds far more to match than in a real guest. Good for the speed of kernels
//! and for the memory that packing takes; not for sizes, which it makes look far too good.

use anyhow::{Result, ensure};
use mig_engine::PAGE_SIZE;

/// Words of each page that are changed.
const CHANGED_WORDS: u64 = 4;

/// The sample's pages, repeated without end.
#[derive(Debug)]
pub(crate) struct Tiles {
    sample: Vec<u8>,
    seed: u64,
}

impl Tiles {
    /// `sample` repeated; other seeds give other changes.
    ///
    /// # Errors
    ///
    /// The sample is not made of whole pages, at least one.
    pub(crate) fn new(sample: Vec<u8>, seed: u64) -> Result<Self> {
        let whole = !sample.is_empty() && sample.len().is_multiple_of(PAGE_SIZE);
        ensure!(whole, "a sample of {} bytes is not made of whole pages", sample.len());
        Ok(Tiles { sample, seed })
    }

    /// Fills whole pages with those from `first_page` on; rest bytes are left alone.
    pub(crate) fn fill(&self, first_page: u64, out: &mut [u8]) {
        let (pages, _) = self.sample.as_chunks::<PAGE_SIZE>();
        for (number, out) in (first_page..).zip(out.as_chunks_mut::<PAGE_SIZE>().0) {
            *out = pages[(number % pages.len() as u64) as usize];
            self.change(number, out);
        }
    }

    /// Changes a few words of a page, unless one word fills it: zero pages stay zero pages.
    fn change(&self, number: u64, page: &mut [u8; PAGE_SIZE]) {
        let (words, _) = page.as_chunks_mut::<8>();
        if words.iter().all(|word| *word == words[0]) {
            return;
        }
        for turn in 0..CHANGED_WORDS {
            let place = mix(self.seed ^ mix(number * CHANGED_WORDS + turn));
            // An odd number, so it changes the word.
            let bits = mix(place) | 1;
            let word = &mut words[(place % (PAGE_SIZE as u64 / 8)) as usize];
            *word = (u64::from_le_bytes(*word) ^ bits).to_le_bytes();
        }
    }
}

/// Numbers as good as random: the output function of the SplitMix64 generator.
pub(crate) fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::corpus::sample_memory;

    #[test]
    fn no_page_that_holds_something_comes_twice() {
        let sample = sample_memory().unwrap();
        let pages = sample.len() / PAGE_SIZE;
        let tiles = Tiles::new(sample.clone(), 1).unwrap();
        let mut memory = vec![0; 3 * sample.len()];
        tiles.fill(0, &mut memory);
        let mut seen = HashSet::new();
        for (number, page) in memory.as_chunks::<PAGE_SIZE>().0.iter().enumerate() {
            let original = &sample[number % pages * PAGE_SIZE..][..PAGE_SIZE];
            let changed =
                (0..PAGE_SIZE).step_by(8).filter(|&at| page[at..at + 8] != original[at..at + 8]).count();
            if original.chunks(8).all(|word| word == &original[..8]) {
                assert_eq!(changed, 0, "page {number}");
            } else {
                assert!((1..=CHANGED_WORDS as usize).contains(&changed), "page {number}: {changed}");
                assert!(seen.insert(page), "page {number} is a duplicate");
            }
        }
    }

    #[test]
    fn pages_depend_on_their_number_and_the_seed_alone() {
        let sample = sample_memory().unwrap();
        let tiles = Tiles::new(sample.clone(), 1).unwrap();
        let (mut whole, mut part) = (vec![0; 64 * PAGE_SIZE], vec![0; 8 * PAGE_SIZE]);
        tiles.fill(100, &mut whole);
        tiles.fill(120, &mut part);
        assert_eq!(whole[20 * PAGE_SIZE..28 * PAGE_SIZE], part);
        Tiles::new(sample, 2).unwrap().fill(120, &mut part);
        assert_ne!(whole[20 * PAGE_SIZE..28 * PAGE_SIZE], part);
    }

    #[test]
    fn samples_are_whole_pages() {
        assert!(Tiles::new(Vec::new(), 1).is_err());
        assert!(Tiles::new(vec![0; PAGE_SIZE + 1], 1).is_err());
    }
}
