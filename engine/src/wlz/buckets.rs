//! Match finder for the lazy parse: buckets of the last positions with the same hash of eight, or of four, bytes.
//!
//! A slot has eight bits more of the hash than its bucket's number, so few of the others' positions are looked at. All of a bucket
//! is compared, and moved, in a few instructions.

use mig_simd::prefetch;

use crate::table::Table;

/// Slots of a bucket.
const LONG_WAYS: usize = 16;
const SHORT_WAYS: usize = 4;
/// Of those that have the tag, so many are named, the last ones first: a word that is everywhere would fill its bucket.
const HITS: u32 = 3;
/// Buckets, at most.
const LONG_BITS: u32 = 17;
const SHORT_BITS: u32 = 15;
/// Positions have 25 bits, and the tag has the rest. Longer inputs work too: positions are checked by what is there.
const POSITION_BITS: u32 = 25;
const TAG_BITS: u32 = 32 - POSITION_BITS;

pub(super) struct Buckets {
    long: Table,
    short: Table,
}

/// Buckets for one input.
pub(super) struct View<'a> {
    long: &'a mut [[u32; LONG_WAYS]],
    short: &'a mut [[u32; SHORT_WAYS]],
    long_bits: u32,
    short_bits: u32,
}

/// What is known of the eight bytes at a position.
#[derive(Clone, Copy)]
pub(super) struct Key {
    long: u64,
    short: u64,
}

impl Key {
    #[inline(always)]
    pub(super) fn new(word: u64) -> Self {
        const ODD: u64 = 0x9e37_79b1_85eb_ca87;
        Key { long: word.wrapping_mul(ODD), short: (word << 32).wrapping_mul(ODD) }
    }
}

/// Bucket and tag.
#[inline(always)]
fn place(hash: u64, bits: u32) -> (usize, u32) {
    let tag = (hash >> (64 - TAG_BITS - bits)) as u32 & ((1 << TAG_BITS) - 1);
    ((hash >> (64 - bits)) as usize, tag)
}

#[inline(always)]
fn push<const N: usize>(bucket: &mut [u32; N], tag: u32, at: usize) {
    let slot = tag << POSITION_BITS | at as u32 & ((1 << POSITION_BITS) - 1);
    let old = *bucket;
    *bucket = std::array::from_fn(|n| if n == 0 { slot } else { old[n - 1] });
}

#[inline(always)]
fn candidates<const N: usize>(bucket: &[u32; N], tag: u32, mut f: impl FnMut(usize)) {
    let mut hits = 0u32;
    for (n, slot) in bucket.iter().enumerate() {
        hits |= u32::from(slot >> POSITION_BITS == tag) << n;
    }
    let mut left = HITS;
    while hits != 0 && left > 0 {
        left -= 1;
        let n = hits.trailing_zeros() as usize;
        f((bucket[n & (N - 1)] & ((1 << POSITION_BITS) - 1)) as usize);
        hits &= hits - 1;
    }
}

impl Buckets {
    pub(super) fn new() -> Self {
        Buckets {
            long: Table::new(LONG_WAYS << LONG_BITS >> 1),
            short: Table::new(SHORT_WAYS << SHORT_BITS >> 1),
        }
    }

    /// Empty buckets, no more than an input of so many bytes needs.
    pub(super) fn clear(&mut self, len: usize) -> View<'_> {
        let bits = (len | 1).ilog2();
        let long_bits = bits.saturating_sub(7).clamp(1, LONG_BITS);
        let short_bits = bits.saturating_sub(3).clamp(1, SHORT_BITS);
        let long = &mut self.long.cast_mut()[..1 << long_bits];
        let short = &mut self.short.cast_mut()[..1 << short_bits];
        long.fill([0; LONG_WAYS]);
        short.fill([0; SHORT_WAYS]);
        View { long, short, long_bits, short_bits }
    }
}

impl View<'_> {
    #[inline(always)]
    pub(super) fn enter(&mut self, key: Key, at: usize) {
        let (bucket, tag) = place(key.long, self.long_bits);
        push(&mut self.long[bucket], tag, at);
        let (bucket, tag) = place(key.short, self.short_bits);
        push(&mut self.short[bucket], tag, at);
    }

    /// Asks for the buckets of a position that will be entered, or looked for, soon: they are spread over more memory than caches hold.
    #[inline(always)]
    pub(super) fn soon(&self, key: Key) {
        prefetch(&self.long[place(key.long, self.long_bits).0]);
        prefetch(&self.short[place(key.short, self.short_bits).0]);
    }

    /// Asks for what is at the positions that [`long`](Self::long) and [`short`](Self::short) will name.
    #[inline(always)]
    pub(super) fn next(&self, key: Key, bytes: &[u8]) {
        let ask = |from: usize| {
            if let Some(byte) = bytes.get(from) {
                prefetch(byte);
            }
        };
        self.long(key, ask);
        self.short(key, ask);
    }

    /// Calls `f` with positions that likely have the same eight bytes: most are earlier ones.
    #[inline(always)]
    pub(super) fn long(&self, key: Key, f: impl FnMut(usize)) {
        let (bucket, tag) = place(key.long, self.long_bits);
        candidates(&self.long[bucket], tag, f);
    }

    /// The same for four bytes.
    #[inline(always)]
    pub(super) fn short(&self, key: Key, f: impl FnMut(usize)) {
        let (bucket, tag) = place(key.short, self.short_bits);
        candidates(&self.short[bucket], tag, f);
    }
}
