//! Whether two pages hold the same bytes.
//!
//! A `memcmp` that need not say which is greater, and so can compare in big steps: pages that differ
//! mostly differ at once, pages that are equal are read whole.

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

/// Whether `a` and `b` hold the same bytes; stops at the first 256 bytes in which they differ.
pub fn page_eq(level: Level, a: &Page, b: &Page) -> bool {
    match level {
        Level::Scalar => scalar::page_eq(a, b),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(proof) => avx2::page_eq(proof, a, b),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(proof) => avx512::page_eq(proof, a, b),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Level::Neon(proof) => neon::page_eq(proof, a, b),
    }
}
