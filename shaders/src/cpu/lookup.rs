//! `wgsl/lookup.wgsl`.

use mig_simd::PageRecord;

use super::pages;
use crate::wgsl::LOOKUP_PROBES;
use crate::{Dispatch, NO_BLOCK};

/// Entries of a bucket.
const SLOTS: usize = 8;

/// Asks the index with these `entries` for the block that may hold each page.
///
/// # Panics
///
/// If a page has no record or candidate.
pub fn lookup(dispatch: &Dispatch, records: &[PageRecord], entries: &[u64], candidates: &mut [u64]) {
    for page in pages(dispatch) {
        candidates[page] = NO_BLOCK;
        if records[page].uniform().is_some() {
            continue;
        }
        let [low, high] = records[page].fingerprint;
        let home = ((u128::from(low) * u128::from(dispatch.buckets)) >> 64) as usize;
        let buckets = entries.as_chunks::<SLOTS>().0.iter().skip(home).take(LOOKUP_PROBES as usize);
        'search: for bucket in buckets {
            for &entry in bucket {
                let block = (entry & 0xff_ffff_ffff).wrapping_sub(1);
                if entry >> 40 == high >> 40 && block < dispatch.blocks {
                    candidates[page] = block;
                    break 'search;
                }
            }
            if bucket[SLOTS - 1] == 0 {
                break;
            }
        }
    }
}
