//! The sampling in AVX-512: the shared loop with the feature switched on.

use super::{Anchors, wide};
use crate::Page;
use crate::level::Avx512;

pub(super) fn select(proof: Avx512, page: &Page, sparsity: u32, out: &mut Anchors) {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, page, sparsity, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn enter(proof: Avx512, page: &Page, sparsity: u32, out: &mut Anchors) {
    wide::select(proof, page, sparsity, out)
}
