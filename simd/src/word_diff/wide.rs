//! The loops of the difference and its inverse, shared by all vector levels.
//!
//! Both are free of branches on the data: each vector's words are packed to the front and stored
//! whole, and the next store overwrites what was not meant. That stays inside the array, since no
//! more words are packed than have been looked at.

use crate::lanes::{Lanes, all_words};
use crate::{PAGE_WORDS, Page};

#[inline(always)]
pub(super) fn word_diff<L: Lanes>(
    lanes: L,
    page: &Page,
    base: &Page,
    mask: &mut [u64; 8],
    words: &mut [u64; PAGE_WORDS],
) -> usize {
    let mut found = 0;
    let pairs = page.as_chunks::<512>().0.iter().zip(base.as_chunks::<512>().0);
    for ((page, base), bits) in pairs.zip(mask) {
        *bits = 0;
        for i in 0..64 / L::WORDS {
            let vector = lanes.load(&page[i * L::BYTES..]);
            let differ = lanes.eq64_bits(vector, lanes.load(&base[i * L::BYTES..])) ^ all_words::<L>();
            lanes.store_words(lanes.compress64(vector, differ), &mut words[found..]);
            found += differ.count_ones() as usize;
            *bits |= u64::from(differ) << (i * L::WORDS);
        }
    }
    found
}

/// `words` begins with the packed words, and goes on for a vector at least.
#[inline(always)]
pub(super) fn word_patch<L: Lanes>(lanes: L, base: &Page, mask: &[u64; 8], words: &[u8], page: &mut Page) {
    let mut used = 0;
    let pairs = base.as_chunks::<512>().0.iter().zip(page.as_chunks_mut::<512>().0);
    for ((base, page), bits) in pairs.zip(mask) {
        for i in 0..64 / L::WORDS {
            let set = (bits >> (i * L::WORDS)) as u32 & all_words::<L>();
            let vector = lanes.expand64(lanes.load(&words[used * 8..]), set);
            let vector = lanes.blend(lanes.mask64(set), vector, lanes.load(&base[i * L::BYTES..]));
            lanes.store(vector, &mut page[i * L::BYTES..]);
            used += set.count_ones() as usize;
        }
    }
}
