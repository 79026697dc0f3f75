//! One pass over a page: its fingerprint, whether one word fills it, and what its words look like.
//!
//! The fingerprint is XXH3-128 with seed 0, so anybody's `xxhash` can check it. The counts are cheap
//! features for a content classifier: how many words are zero, small numbers, pointers or text. All
//! of it comes from the same loads, so a page costs one trip to memory and the scan runs at the speed
//! of reading (bench `page_scan` beside `read_roof`).
//!
//! A fingerprint is for finding candidates: equal pages have equal fingerprints, the converse must be
//! checked by comparing bytes, since anyone can make XXH3 collide.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
mod record;
mod scalar;
#[cfg(test)]
mod tests;
mod wide;
mod xxh3;

pub use record::PageRecord;

use crate::{Level, PAGE_SIZE};

/// Scans `pages`, whole pages one after the other, into one record for each.
///
/// # Panics
///
/// Where `pages.len()` is not `PAGE_SIZE * records.len()`.
pub fn page_scan(level: Level, pages: &[u8], records: &mut [PageRecord]) {
    assert!(
        pages.len().is_multiple_of(PAGE_SIZE) && pages.len() / PAGE_SIZE == records.len(),
        "{} bytes are not the pages of {} records",
        pages.len(),
        records.len()
    );
    match level {
        Level::Scalar => scalar::page_scan(pages, records),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(proof) => avx2::page_scan(proof, pages, records),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(proof) => avx512::page_scan(proof, pages, records),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Level::Neon(proof) => neon::page_scan(proof, pages, records),
    }
}
