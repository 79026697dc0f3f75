//! The sampling in NEON: the shared loop with the feature switched on.

use super::{Anchors, wide};
use crate::Page;
use crate::level::Neon;

pub(super) fn select(proof: Neon, page: &Page, sparsity: u32, out: &mut Anchors) {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, page, sparsity, out) }
}

#[target_feature(enable = "neon")]
fn enter(proof: Neon, page: &Page, sparsity: u32, out: &mut Anchors) {
    wide::select(proof, page, sparsity, out)
}
