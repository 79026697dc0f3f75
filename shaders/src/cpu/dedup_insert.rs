//! `wgsl/dedup_insert.wgsl`, one page after the other.

use mig_simd::PageRecord;

use super::pages;
use crate::Dispatch;
use crate::wgsl::DEDUP_PROBES;

/// The slot where the search for a fingerprint begins, of a power of two.
pub(super) fn first_slot(fingerprint: [u64; 2], slots: usize) -> usize {
    fingerprint[1] as u32 as usize & (slots - 1)
}

/// Enters each page that is not uniform; of equal fingerprints the lowest page number stays.
///
/// # Panics
///
/// If a page has no record, number or fingerprint, or `slots` has no length that is a power of two.
pub fn dedup_insert(
    dispatch: &Dispatch,
    records: &[PageRecord],
    numbers: &[u32],
    fingerprints: &[[u64; 2]],
    slots: &mut [u32],
) {
    assert!(slots.len().is_power_of_two(), "{} slots", slots.len());
    for page in pages(dispatch) {
        if records[page].uniform().is_some() {
            continue;
        }
        let number = numbers[page];
        let fingerprint = fingerprints[number as usize];
        let mut slot = first_slot(fingerprint, slots.len());
        for _ in 0..DEDUP_PROBES {
            if slots[slot] == 0 {
                slots[slot] = number + 1;
                break;
            }
            if fingerprints[slots[slot] as usize - 1] == fingerprint {
                slots[slot] = slots[slot].min(number + 1);
                break;
            }
            slot = (slot + 1) & (slots.len() - 1);
        }
    }
}
