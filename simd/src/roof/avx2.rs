//! The sum in AVX2: the shared loop with the feature switched on.

use super::wide;
use crate::level::Avx2;

pub(super) fn sum(proof: Avx2, bytes: &[u8]) -> u64 {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, bytes) }
}

#[target_feature(enable = "avx2")]
fn enter(proof: Avx2, bytes: &[u8]) -> u64 {
    wide::sum(proof, bytes)
}
