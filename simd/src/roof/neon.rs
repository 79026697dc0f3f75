//! The sum in NEON: the shared loop with the feature switched on.

use super::wide;
use crate::level::Neon;

pub(super) fn sum(proof: Neon, bytes: &[u8]) -> u64 {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, bytes) }
}

#[target_feature(enable = "neon")]
fn enter(proof: Neon, bytes: &[u8]) -> u64 {
    wide::sum(proof, bytes)
}
