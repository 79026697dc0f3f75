//! Pointers into their own neighbourhood, as distances.
//!
//! In heaps, slabs and kernel memory many words point to within a page of where they stand: list heads, parts of one
//! object, the next object. The absolute addresses are all different; the distances are few. So words in the 8 KiB
//! around their own address are exchanged with words in a range of the same size that nothing uses, non-canonical
//! addresses from [`TAG`] on. The exchange is its own inverse, and no word is lost.

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

/// Where the range of distances starts; a distance of 0 is [`REACH`] above.
pub const TAG: u64 = 0x8001_0000_0000_0000;
/// Bytes before a word, and after, that count as its neighbourhood.
pub const REACH: u64 = 4096;
/// Bits of both ranges: all their words agree in the bits above.
const RANGE_BITS: u32 = (2 * REACH).ilog2();

/// Fills `out` with `page`, which the guest sees at virtual address `address`, its self-relative pointers exchanged.
///
/// Doing it again gives `page` back, if the two ranges do not meet: with an `address` that is canonical for any
/// x86-64 or ARM guest, they do not. Words of zero stay zero if `address` is a multiple of 4096 from 8192 to 2^64 - 12288.
pub fn self_relative(level: Level, page: &Page, address: u64, out: &mut Page) {
    match level {
        Level::Scalar => scalar::self_relative(page, address, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(proof) => avx2::self_relative(proof, page, address, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(proof) => avx512::self_relative(proof, page, address, out),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Level::Neon(proof) => neon::self_relative(proof, page, address, out),
    }
}
