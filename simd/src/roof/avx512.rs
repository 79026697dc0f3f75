//! The sum in AVX-512: the shared loop with the feature switched on.

use super::wide;
use crate::level::Avx512;

pub(super) fn sum(proof: Avx512, bytes: &[u8]) -> u64 {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, bytes) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn enter(proof: Avx512, bytes: &[u8]) -> u64 {
    wide::sum(proof, bytes)
}
