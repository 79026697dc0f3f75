//! The sampling in AVX2: the shared loop with the feature switched on.

use super::{Anchors, wide};
use crate::Page;
use crate::level::Avx2;

pub(super) fn select(proof: Avx2, page: &Page, sparsity: u32, out: &mut Anchors) {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, page, sparsity, out) }
}

#[target_feature(enable = "avx2")]
fn enter(proof: Avx2, page: &Page, sparsity: u32, out: &mut Anchors) {
    wide::select(proof, page, sparsity, out)
}
