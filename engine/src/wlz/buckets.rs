//! Match finder for the lazy parse: buckets of the last positions with the same hash of eight, or of four, bytes.

use crate::table::Table;

/// Slots of a bucket.
const LONG_WAYS: usize = 16;
const SHORT_WAYS: usize = 4;
const LONG_BITS: u32 = 17;
const SHORT_BITS: u32 = 15;
/// Positions have 24 bits, so that a slot has room for eight bits more of the hash.
const TAG: u32 = 24;
const POSITION: u32 = (1 << TAG) - 1;



pub(super) struct Buckets {
    long: Table,
    short: Table,
}

pub(super) struct View<'a> {
    long: &'a mut [[u32; LONG_WAYS]],
    short: &'a mut [[u32; SHORT_WAYS]],
}

#[derive(Clone, Copy)]
pub(super) struct Key {
    long: u64,
    short: u64,
}

impl Key {
    #[inline(always)]
    pub(super) fn new(word: u64) -> Self {
        const K: u64 = 0x9e37_79b1_85eb_ca87;
        Key { long: word.wrapping_mul(K), short: (word << 32).wrapping_mul(K) }
    }
}

const EMPTY: u32 = 0;

#[inline(always)]
fn place(hash: u64, bits: u32) -> (usize, u32) {
    ((hash >> (64 - bits)) as usize, (hash >> (56 - bits)) as u32 & 255)
}

#[inline(always)]
fn push<const N: usize>(bucket: &mut [u32; N], slot: u32) {
    let old = *bucket;
    *bucket = std::array::from_fn(|n| if n == 0 { slot } else { old[n - 1] });
}

#[inline(always)]
fn candidates<const N: usize>(bucket: &[u32; N], tag: u32, mut f: impl FnMut(usize)) {
    let mut hits = 0u32;
    for (n, slot) in bucket.iter().enumerate() {
        hits |= u32::from(slot >> TAG == tag) << n;
    }
    while hits != 0 {
        let n = hits.trailing_zeros() as usize;
        f((bucket[n & (N - 1)] & POSITION) as usize);
        hits &= hits - 1;
    }
}

impl Buckets {
    pub(super) fn new() -> Self {
        Buckets { long: Table::new(LONG_WAYS << LONG_BITS >> 1), short: Table::new(SHORT_WAYS << SHORT_BITS >> 1) }
    }

    pub(super) fn clear(&mut self) -> View<'_> {
        let view = View { long: self.long.cast_mut(), short: self.short.cast_mut() };
        view.long.fill([EMPTY; LONG_WAYS]);
        view.short.fill([EMPTY; SHORT_WAYS]);
        view
    }
}

impl View<'_> {
    #[inline(always)]
    pub(super) fn enter(&mut self, key: Key, at: usize) {
        let (n, tag) = place(key.long, LONG_BITS);
        push(&mut self.long[n], tag << TAG | at as u32);
        let (n, tag) = place(key.short, SHORT_BITS);
        push(&mut self.short[n], tag << TAG | at as u32);
    }

    /// Calls `f` with earlier positions that likely share eight bytes.
    #[inline(always)]
    pub(super) fn long(&self, key: Key, f: impl FnMut(usize)) {
        let (n, tag) = place(key.long, LONG_BITS);
        candidates(&self.long[n], tag, f);
    }

    #[inline(always)]
    pub(super) fn short(&self, key: Key, f: impl FnMut(usize)) {
        let (n, tag) = place(key.short, SHORT_BITS);
        candidates(&self.short[n], tag, f);
    }
}
