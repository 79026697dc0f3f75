//! The comparison in NEON: the shared loop with the feature switched on.

use super::wide;
use crate::Page;
use crate::level::Neon;

pub(super) fn page_eq(proof: Neon, a: &Page, b: &Page) -> bool {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, a, b) }
}

#[target_feature(enable = "neon")]
fn enter(proof: Neon, a: &Page, b: &Page) -> bool {
    wide::page_eq(proof, a, b)
}
