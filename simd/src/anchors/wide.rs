//! The sampling's loop, shared by all vector levels.
//!
//! First every word is multiplied once, into an array with a few words to spare; then each vector of
//! positions adds up four overlapping loads from it. What is chosen is packed without a branch, since
//! a branch would guess wrong at every other vector.

use super::{ANCHOR_POSITIONS, Anchors, FACTORS};
use crate::lanes::{Lanes, all_words};
use crate::{PAGE_SIZE, PAGE_WORDS, Page};

/// A page's words and then room for a vector that starts at any of them.
#[repr(align(64))]
struct Padded([u64; PAGE_WORDS + 8]);

#[inline(always)]
pub(super) fn select<L: Lanes>(lanes: L, page: &Page, sparsity: u32, out: &mut Anchors) {
    let (low, high) = (lanes.splat64(FACTORS[0]), lanes.splat64(FACTORS[1]));
    let mut words = Padded([0; PAGE_WORDS + 8]);
    let mut mixed = Padded([0; PAGE_WORDS + 8]);
    for i in 0..PAGE_SIZE / L::BYTES {
        let word = lanes.load(&page[i * L::BYTES..]);
        let upper = lanes.mul32(lanes.shr64::<32>(word), high);
        lanes.store_words(word, &mut words.0[i * L::WORDS..]);
        lanes.store_words(lanes.add64(lanes.mul32(word, low), upper), &mut mixed.0[i * L::WORDS..]);
    }

    let must_be_zero = lanes.splat64((1 << sparsity) - 1);
    let mut len = 0;
    for (block, chosen) in out.chosen.iter_mut().enumerate() {
        *chosen = 0;
        for i in 0..64 / L::WORDS {
            let at = 64 * block + i * L::WORDS;
            let mixed = &mixed.0[at..];
            let sum = lanes.add64(
                lanes.add64(lanes.load_words(mixed), lanes.rotl64::<17, 47>(lanes.load_words(&mixed[1..]))),
                lanes.add64(
                    lanes.rotl64::<34, 30>(lanes.load_words(&mixed[2..])),
                    lanes.rotl64::<51, 13>(lanes.load_words(&mixed[3..])),
                ),
            );
            let hash = lanes.xor(sum, lanes.shr64::<32>(sum));
            let ends_in_zeros = lanes.eq64_bits(lanes.and(hash, must_be_zero), lanes.zero());

            let words = &words.0[at..];
            let first = lanes.load_words(words);
            let differ = lanes.or(
                lanes.xor(first, lanes.load_words(&words[1..])),
                lanes.or(
                    lanes.xor(first, lanes.load_words(&words[2..])),
                    lanes.xor(first, lanes.load_words(&words[3..])),
                ),
            );
            let all_equal = lanes.eq64_bits(differ, lanes.zero());

            let mut bits = ends_in_zeros & !all_equal;
            if at + L::WORDS > ANCHOR_POSITIONS {
                // Positions whose four words would reach past the page.
                bits &= all_words::<L>() >> (at + L::WORDS - ANCHOR_POSITIONS).min(L::WORDS);
            }
            lanes.store_words(lanes.compress64(hash, bits), &mut out.hashes[len..]);
            len += bits.count_ones() as usize;
            *chosen |= u64::from(bits) << (i * L::WORDS);
        }
    }
    out.len = len;
}
