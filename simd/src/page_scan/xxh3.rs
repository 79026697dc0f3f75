//! The parts of XXH3-128 that all levels share: the keys and the two ends.
//!
//! A page takes XXH3's path for long inputs with the default secret: eight 64-bit accumulators, 64
//! stripes of 64 bytes in four blocks, a scramble after each block but the last, then two folds. The
//! stripe loop is each level's own. Written from the algorithm's published specification.

use crate::PAGE_SIZE;

/// Stripes of 64 bytes in a block; each uses the secret from 8 bytes further on.
pub(super) const STRIPES: usize = 16;
/// Bytes in a block.
pub(super) const BLOCK: usize = 64 * STRIPES;
/// The last block's last stripe starts one byte off the grid.
const LAST_STRIPE_AT: usize = SECRET.len() - 64 - 7;

pub(super) const PRIME32_1: u64 = 0x9E37_79B1;
const PRIME32_2: u64 = 0x85EB_CA77;
const PRIME32_3: u64 = 0xC2B2_AE3D;
const PRIME64_1: u64 = 0x9E37_79B1_85EB_CA87;
const PRIME64_2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const PRIME64_3: u64 = 0x1656_67B1_9E37_79F9;
const PRIME64_4: u64 = 0x85EB_CA77_C2B2_AE63;
const PRIME64_5: u64 = 0x27D4_EB2F_1656_67C5;

/// What the accumulators start from.
pub(super) const START: [u64; 8] =
    [PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1];

/// The specification's default secret.
const SECRET: [u8; 192] = [
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde,
    0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79,
    0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46,
    0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb,
    0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2,
    0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8, 0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c,
    0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59,
    0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3,
    0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb, 0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3,
    0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8,
    0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb,
    0xca, 0xbb, 0x4b, 0x40, 0x7e,
];

/// One block's keys, a row a stripe. The rows overlap in the secret; spelt out they are aligned, and
/// the last block's odd one needs no special case in the loops.
#[repr(align(64))]
pub(super) struct Keys(pub(super) [[u64; 8]; STRIPES]);

static BLOCK_KEYS: Keys = Keys(key_rows(8 * (STRIPES - 1)));
static LAST_BLOCK_KEYS: Keys = Keys(key_rows(LAST_STRIPE_AT));
/// The keys of each block. A table, so that no loop has to ask which block it is in.
pub(super) static KEYS: [&Keys; PAGE_SIZE / BLOCK] =
    [&BLOCK_KEYS, &BLOCK_KEYS, &BLOCK_KEYS, &LAST_BLOCK_KEYS];
/// What the scramble mixes in.
pub(super) static SCRAMBLE: [u64; 8] = secret_words(SECRET.len() - 64);

/// The words of the secret from byte `at` on.
const fn secret_words<const N: usize>(at: usize) -> [u64; N] {
    let mut words = [0; N];
    let mut i = 0;
    while i < N {
        let mut byte = 8;
        while byte > 0 {
            byte -= 1;
            words[i] = words[i] << 8 | SECRET[at + 8 * i + byte] as u64;
        }
        i += 1;
    }
    words
}

/// The rows of a block whose last stripe has its key at `last` in the secret.
const fn key_rows(last: usize) -> [[u64; 8]; STRIPES] {
    let mut rows = [[0; 8]; STRIPES];
    let mut stripe = 0;
    while stripe < STRIPES - 1 {
        rows[stripe] = secret_words(8 * stripe);
        stripe += 1;
    }
    rows[stripe] = secret_words(last);
    rows
}

/// The fingerprint, low half first, from the accumulators after the last stripe.
#[inline(always)]
pub(super) fn finish(accumulators: &[u64; 8]) -> [u64; 2] {
    const LOW_KEY: [u64; 8] = secret_words(11);
    const HIGH_KEY: [u64; 8] = secret_words(SECRET.len() - 64 - 11);
    const LENGTH: u64 = PAGE_SIZE as u64;
    [
        merge(accumulators, &LOW_KEY, LENGTH.wrapping_mul(PRIME64_1)),
        merge(accumulators, &HIGH_KEY, !LENGTH.wrapping_mul(PRIME64_2)),
    ]
}

#[inline(always)]
fn merge(accumulators: &[u64; 8], key: &[u64; 8], start: u64) -> u64 {
    let mut sum = start;
    for pair in 0..4 {
        let a = accumulators[2 * pair] ^ key[2 * pair];
        let b = accumulators[2 * pair + 1] ^ key[2 * pair + 1];
        let product = u128::from(a) * u128::from(b);
        sum = sum.wrapping_add(product as u64 ^ (product >> 64) as u64);
    }
    sum ^= sum >> 37;
    sum = sum.wrapping_mul(0x1656_6791_9E37_79F9);
    sum ^ sum >> 32
}
