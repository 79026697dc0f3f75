//! The scan in AVX-512: the shared loop with the feature switched on.

use super::{PageRecord, wide};
use crate::level::Avx512;

pub(super) fn page_scan(proof: Avx512, pages: &[u8], records: &mut [PageRecord]) {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, pages, records) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn enter(proof: Avx512, pages: &[u8], records: &mut [PageRecord]) {
    wide::page_scan(proof, pages, records)
}
