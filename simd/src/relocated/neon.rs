//! The exchange in NEON: the shared loop with the feature switched on.

use super::wide;
use crate::Page;
use crate::level::Neon;

pub(super) fn relocated(proof: Neon, page: &Page, base: &Page, out: &mut Page) {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, page, base, out) }
}

#[target_feature(enable = "neon")]
fn enter(proof: Neon, page: &Page, base: &Page, out: &mut Page) {
    wide::relocated(proof, page, base, out)
}
