//! The scan in AVX2: the shared loop with the feature switched on.

use super::{PageRecord, wide};
use crate::level::Avx2;

pub(super) fn page_scan(proof: Avx2, pages: &[u8], records: &mut [PageRecord]) {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, pages, records) }
}

#[target_feature(enable = "avx2")]
fn enter(proof: Avx2, pages: &[u8], records: &mut [PageRecord]) {
    wide::page_scan(proof, pages, records)
}
