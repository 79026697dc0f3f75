//! Word positions of a page chosen by what stands there: samples for a match finder.
//!
//! Each run of four words is hashed, and a position is an anchor when the hash ends in `sparsity` zero
//! bits. The choice depends on those 32 bytes alone, so the same content gives the same anchors
//! wherever it lies, word-aligned, in memory: a long match always has anchors in common. Runs of one
//! word four times are left out, or a zero page would be nothing but anchors.
//!
//! The hash of words `w0..w3`, with wrapping 64-bit arithmetic:
//!
//! ```text
//! t(w) = lower32(w) * 0x9E3779B1 + upper32(w) * 0x85EBCA77
//! h    = t(w0) + rotl(t(w1), 17) + rotl(t(w2), 34) + rotl(t(w3), 51)
//! h    = h ^ h >> 32                      an anchor if its lowest `sparsity` bits are zero
//! hash = h * 0x9E3779B185EBCA87           what is handed out: use its upper bits
//! ```
//!
//! It is no fingerprint: anyone can make it collide, and matches must be compared.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
mod scalar;
#[cfg(test)]
mod tests;
mod wide;

use std::fmt;

use crate::{Level, PAGE_WORDS, Page};

/// Positions in a page at which four words start: 0 to 508.
pub const ANCHOR_POSITIONS: usize = PAGE_WORDS - 3;

/// The largest `sparsity`.
pub const MAX_SPARSITY: u32 = 16;

const FACTORS: [u64; 2] = [0x9E37_79B1, 0x85EB_CA77];
const FINAL_FACTOR: u64 = 0x9E37_79B1_85EB_CA87;

/// Finds the anchors of `page` into `out`, replacing what it held.
///
/// One position in `2^sparsity` is chosen on the average.
///
/// # Panics
///
/// Where `sparsity` is above [`MAX_SPARSITY`].
pub fn anchors(level: Level, page: &Page, sparsity: u32, out: &mut Anchors) {
    assert!(sparsity <= MAX_SPARSITY, "sparsity {sparsity} is above {MAX_SPARSITY}");
    match level {
        Level::Scalar => scalar::select(page, sparsity, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(proof) => avx2::select(proof, page, sparsity, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(proof) => avx512::select(proof, page, sparsity, out),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Level::Neon(proof) => neon::select(proof, page, sparsity, out),
    }
    out.finish();
}

/// A page's anchors in order of position; room for all there can be, about 5 KiB.
#[derive(Clone)]
pub struct Anchors {
    /// Bit `i % 64` of word `i / 64`: position `i` is an anchor.
    chosen: [u64; 8],
    positions: [u16; PAGE_WORDS],
    /// A few more than there are positions, so that levels can store whole vectors.
    hashes: [u64; PAGE_WORDS],
    len: usize,
}

impl Anchors {
    /// No anchors.
    pub const fn new() -> Self {
        Self { chosen: [0; 8], positions: [0; PAGE_WORDS], hashes: [0; PAGE_WORDS], len: 0 }
    }

    /// How many anchors there are, at most [`ANCHOR_POSITIONS`].
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The word positions (0 to 508), rising.
    pub fn positions(&self) -> &[u16] {
        &self.positions[..self.len]
    }

    /// The hashes, in the order of the positions.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes[..self.len]
    }

    /// Each anchor's word position and hash.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u16, u64)> + '_ {
        self.positions().iter().copied().zip(self.hashes().iter().copied())
    }

    /// Completes what a level left: `chosen` and `len`, and `h` in `hashes`.
    fn finish(&mut self) {
        for hash in &mut self.hashes[..self.len] {
            *hash = hash.wrapping_mul(FINAL_FACTOR);
        }
        let mut places = self.positions[..self.len].iter_mut();
        for (start, bits) in (0u16..).step_by(64).zip(self.chosen) {
            let mut bits = bits;
            for place in places.by_ref().take(bits.count_ones() as usize) {
                *place = start + bits.trailing_zeros() as u16;
                bits &= bits.wrapping_sub(1);
            }
        }
    }
}

impl Default for Anchors {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
