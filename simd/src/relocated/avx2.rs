//! The exchange in AVX2: the shared loop with the feature switched on.

use super::wide;
use crate::Page;
use crate::level::Avx2;

pub(super) fn relocated(proof: Avx2, page: &Page, base: &Page, out: &mut Page) {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, page, base, out) }
}

#[target_feature(enable = "avx2")]
fn enter(proof: Avx2, page: &Page, base: &Page, out: &mut Page) {
    wide::relocated(proof, page, base, out)
}
