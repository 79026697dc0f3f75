//! `wgsl/dedup_find.wgsl`.

use mig_simd::PageRecord;

use super::dedup_insert::first_slot;
use super::pages;
use crate::wgsl::DEDUP_PROBES;
use crate::{Dispatch, NO_PAGE};

/// Names for each page an earlier one with the same fingerprint, if the table has one.
///
/// # Panics
///
/// As [`dedup_insert`](super::dedup_insert()).
pub fn dedup_find(
    dispatch: &Dispatch,
    records: &[PageRecord],
    numbers: &[u32],
    fingerprints: &[[u64; 2]],
    slots: &[u32],
    earlier: &mut [u32],
) {
    assert!(slots.len().is_power_of_two(), "{} slots", slots.len());
    for page in pages(dispatch) {
        earlier[page] = NO_PAGE;
        if records[page].uniform().is_some() {
            continue;
        }
        let number = numbers[page];
        let fingerprint = fingerprints[number as usize];
        let mut slot = first_slot(fingerprint, slots.len());
        for _ in 0..DEDUP_PROBES {
            let Some(holder) = slots[slot].checked_sub(1) else { break };
            if fingerprints[holder as usize] == fingerprint {
                if holder < number {
                    earlier[page] = holder;
                }
                break;
            }
            slot = (slot + 1) & (slots.len() - 1);
        }
    }
}
