//! `wgsl/scan.wgsl`, one word after the other.

use mig_simd::{PAGE_WORDS, PageRecord};

use super::pages;
use crate::{Dispatch, xxh3};

/// Words of a block, after which XXH3 scrambles.
const BLOCK_WORDS: usize = 128;

/// Scans pages of `memory`, whole 64-bit words, which start at `places`, in words.
///
/// # Panics
///
/// If a page is not in `memory`, or has no place, record or spread.
pub fn scan(
    dispatch: &Dispatch,
    memory: &[u64],
    places: &[u32],
    records: &mut [PageRecord],
    spreads: &mut [u32],
) {
    for page in pages(dispatch) {
        let words = &memory[places[page] as usize..][..PAGE_WORDS];
        let count = |of: &dyn Fn(u64) -> bool| words.iter().filter(|&&word| of(word)).count() as u16;
        records[page] = PageRecord {
            fingerprint: fingerprint(words),
            first_word: words[0],
            zero_words: count(&|word| word == 0),
            small_words: count(&|word| word != 0 && word >> 32 == 0),
            user_pointers: count(&|word| word >> 47 == 0 && word >> 40 != 0),
            kernel_pointers: count(&|word| word >> 47 == 0x1_ffff),
            text_words: count(&|word| word & 0x8080_8080_8080_8080 == 0 && word >> 48 != 0),
            flags: if words.iter().all(|&word| word == words[0]) { PageRecord::UNIFORM } else { 0 },
            reserved: 0,
        };
        let mut sampled = [0u32; 256];
        for word in words.iter().step_by(2) {
            sampled[(word >> 56) as usize] += 1;
        }
        spreads[page] = sampled.iter().map(|count| count * count).sum();
    }
}

/// XXH3-128 of a page, from the sums of each block.
fn fingerprint(words: &[u64]) -> [u64; 2] {
    let mut accumulators = xxh3::START;
    for (number, block) in words.chunks(BLOCK_WORDS).enumerate() {
        for (at, &word) in block.iter().enumerate() {
            let (stripe, lane) = (at / 8, at % 8);
            let last = number == 3 && stripe == 15;
            let key = xxh3::key(if last { xxh3::LAST_STRIPE_AT } else { 8 * stripe } + 8 * lane);
            let mixed = word ^ key;
            accumulators[lane] = accumulators[lane].wrapping_add((mixed & 0xffff_ffff) * (mixed >> 32));
            accumulators[lane ^ 1] = accumulators[lane ^ 1].wrapping_add(word);
        }
        if number < 3 {
            for (lane, accumulator) in accumulators.iter_mut().enumerate() {
                let key = xxh3::key(xxh3::SCRAMBLE_AT + 8 * lane);
                *accumulator = (*accumulator ^ *accumulator >> 47 ^ key).wrapping_mul(xxh3::PRIME32_1);
            }
        }
    }
    [0, 1].map(|half| {
        let mut hash = xxh3::MERGE_START[half];
        for pair in 0..4 {
            let mixed = |lane: usize| accumulators[lane] ^ xxh3::key(xxh3::MERGE_AT[half] + 8 * lane);
            let product = u128::from(mixed(2 * pair)) * u128::from(mixed(2 * pair + 1));
            hash = hash.wrapping_add(product as u64 ^ (product >> 64) as u64);
        }
        hash = (hash ^ hash >> 37).wrapping_mul(xxh3::AVALANCHE);
        hash ^ hash >> 32
    })
}
