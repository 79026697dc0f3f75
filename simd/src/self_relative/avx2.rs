//! The exchange in AVX2: the shared loop with the feature switched on.

use super::wide;
use crate::Page;
use crate::level::Avx2;

pub(super) fn self_relative(proof: Avx2, page: &Page, address: u64, out: &mut Page) {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, page, address, out) }
}

#[target_feature(enable = "avx2")]
fn enter(proof: Avx2, page: &Page, address: u64, out: &mut Page) {
    wide::self_relative(proof, page, address, out)
}
