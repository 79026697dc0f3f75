//! `wgsl/dedup_note.wgsl`.

use mig_simd::PageRecord;

use super::pages;
use crate::Dispatch;

/// Puts the fingerprint of each page to the place of its number.
///
/// # Panics
///
/// If a page has no record or number, or its number no place.
pub fn dedup_note(
    dispatch: &Dispatch,
    records: &[PageRecord],
    numbers: &[u32],
    fingerprints: &mut [[u64; 2]],
) {
    for page in pages(dispatch) {
        fingerprints[numbers[page] as usize] = records[page].fingerprint;
    }
}
