//! The sampling in plain Rust.

use super::{ANCHOR_POSITIONS, Anchors, FACTORS};
use crate::Page;

pub(super) fn select(page: &Page, sparsity: u32, out: &mut Anchors) {
    let words = page.as_chunks::<8>().0;
    let word = |at: usize| u64::from_le_bytes(words[at]);
    let must_be_zero = (1 << sparsity) - 1;

    out.chosen = [0; 8];
    out.len = 0;
    let mut next = [0, 1, 2, 3].map(word);
    let mut mixed = next.map(mix);
    for position in 0..ANCHOR_POSITIONS {
        let sum = mixed[0]
            .wrapping_add(mixed[1].rotate_left(17))
            .wrapping_add(mixed[2].rotate_left(34))
            .wrapping_add(mixed[3].rotate_left(51));
        let hash = sum ^ sum >> 32;
        let all_equal = next[1..] == next[..3];
        let chosen = hash & must_be_zero == 0 && !all_equal;
        out.hashes[out.len] = hash;
        out.chosen[position / 64] |= u64::from(chosen) << (position % 64);
        out.len += usize::from(chosen);

        if position + 4 < words.len() {
            next = [next[1], next[2], next[3], word(position + 4)];
            mixed = [mixed[1], mixed[2], mixed[3], mix(next[3])];
        }
    }
}

fn mix(word: u64) -> u64 {
    let products = [word & 0xffff_ffff, word >> 32];
    products[0].wrapping_mul(FACTORS[0]).wrapping_add(products[1].wrapping_mul(FACTORS[1]))
}
