//! The comparison in AVX2: the shared loop with the feature switched on.

use super::wide;
use crate::Page;
use crate::level::Avx2;

pub(super) fn page_eq(proof: Avx2, a: &Page, b: &Page) -> bool {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, a, b) }
}

#[target_feature(enable = "avx2")]
fn enter(proof: Avx2, a: &Page, b: &Page) -> bool {
    wide::page_eq(proof, a, b)
}
