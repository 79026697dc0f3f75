//! The scan in NEON: the shared loop with the feature switched on.

use super::{PageRecord, wide};
use crate::level::Neon;

pub(super) fn page_scan(proof: Neon, pages: &[u8], records: &mut [PageRecord]) {
    // SAFETY: `proof` exists only where this CPU has what `enter` requires (level.rs).
    unsafe { enter(proof, pages, records) }
}

#[target_feature(enable = "neon")]
fn enter(proof: Neon, pages: &[u8], records: &mut [PageRecord]) {
    wide::page_scan(proof, pages, records)
}
