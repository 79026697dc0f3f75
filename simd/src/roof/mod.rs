//! How fast a level can read: the roof under which the scan is measured.
//!
//! The sum of all words, with independent sums so that nothing but the loads can hold it up.

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

use crate::Level;

/// The wrapping sum of the little-endian words of `bytes`; an incomplete last word is filled up
/// with zero bytes.
pub fn read_roof(level: Level, bytes: &[u8]) -> u64 {
    match level {
        Level::Scalar => scalar::sum(bytes),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(proof) => avx2::sum(proof, bytes),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(proof) => avx512::sum(proof, bytes),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Level::Neon(proof) => neon::sum(proof, bytes),
    }
}
