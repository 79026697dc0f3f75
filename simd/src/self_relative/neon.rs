//! The exchange in NEON: the shared loop with the feature switched on.

use super::wide;
use crate::Page;
use crate::level::Neon;

pub(super) fn self_relative(proof: Neon, page: &Page, address: u64, out: &mut Page) {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, page, address, out) }
}

#[target_feature(enable = "neon")]
fn enter(proof: Neon, page: &Page, address: u64, out: &mut Page) {
    wide::self_relative(proof, page, address, out)
}
