//! The exchange in AVX-512: the shared loop with the feature switched on.

use super::wide;
use crate::Page;
use crate::level::Avx512;

pub(super) fn relocated(proof: Avx512, page: &Page, base: &Page, out: &mut Page) {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, page, base, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn enter(proof: Avx512, page: &Page, base: &Page, out: &mut Page) {
    wide::relocated(proof, page, base, out)
}
