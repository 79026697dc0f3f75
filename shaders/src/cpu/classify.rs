//! `wgsl/classify.wgsl`.

use mig_simd::PageRecord;

use super::pages;
use crate::Dispatch;
use crate::class::{
    INCOMPRESSIBLE, KERNEL_POINTERS, MAX_PLAIN, MIN_POINTERS, MIN_SPARSE, MIN_TEXT, OTHER, RANDOM_LIMIT,
    SPARSE, TEXT, USER_POINTERS,
};

/// The class of each page.
///
/// # Panics
///
/// If a page has no record, spread or class.
pub fn classify(dispatch: &Dispatch, records: &[PageRecord], spreads: &[u32], classes: &mut [u32]) {
    for page in pages(dispatch) {
        let record = &records[page];
        let plain = u32::from(record.zero_words) + u32::from(record.small_words);
        classes[page] = if plain <= MAX_PLAIN && spreads[page] < RANDOM_LIMIT {
            INCOMPRESSIBLE
        } else if u32::from(record.text_words) >= MIN_TEXT {
            TEXT
        } else if u32::from(record.user_pointers) >= MIN_POINTERS {
            USER_POINTERS
        } else if u32::from(record.kernel_pointers) >= MIN_POINTERS {
            KERNEL_POINTERS
        } else if u32::from(record.zero_words) >= MIN_SPARSE {
            SPARSE
        } else {
            OTHER
        };
    }
}
