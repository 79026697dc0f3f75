//! The comparison in AVX-512: the shared loop with the feature switched on.

use super::wide;
use crate::Page;
use crate::level::Avx512;

pub(super) fn page_eq(proof: Avx512, a: &Page, b: &Page) -> bool {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, a, b) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn enter(proof: Avx512, a: &Page, b: &Page) -> bool {
    wide::page_eq(proof, a, b)
}
