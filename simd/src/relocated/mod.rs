//! Pointers that moved together with what they point to, as the distance that they moved.
//!
//! A page that is like another one of another boot, another process or an executable file differs from it in its pointers: where
//! programs, libraries, heaps and the kernel lie is drawn anew each time. They lie at multiples of a page, so a pointer
//! has moved by a multiple of 4096, by the same one as its neighbours: the pointers are all different, the distances are few.
//! So words that may be such pointers are exchanged with words in a range that nothing uses, non-canonical addresses around [`TAG`](crate::TAG).
//! The exchange is its own inverse, and no word is lost.

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

use crate::{Level, Page};

/// Pointers are at least 2^32 (below, everything is a number), and sign-extended from 48 bits.
const SMALL_BITS: u32 = 32;
const POINTER_BITS: u32 = 48;
/// They move by multiples of this power of two.
const STEP_BITS: u32 = 12;

/// Fills `out` with `page`, exchanging those of its words that are pointers as `base` has them at the same place, moved by a multiple of
/// 4096, with the distance from there, counted from [`TAG`](crate::TAG).
///
/// Doing it again, with the same base, gives `page` back. Words that are as in the base stay, and no other becomes one.
pub fn relocated(level: Level, page: &Page, base: &Page, out: &mut Page) {
    match level {
        Level::Scalar => scalar::relocated(page, base, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(proof) => avx2::relocated(proof, page, base, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(proof) => avx512::relocated(proof, page, base, out),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Level::Neon(proof) => neon::relocated(proof, page, base, out),
    }
}
