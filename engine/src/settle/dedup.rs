//! Finds, for a page, an earlier page of the stream with the same bytes.
//!
//! An open-addressing table from fingerprint to page number, 8 to 16 bytes for each page of the guest, of which the
//! system only backs what is touched. A hit is only a candidate: the caller compares bytes.

use crate::table::Table;

/// Bits of an entry that hold a page number plus one; the rest is a tag from the fingerprint.
const PAGE_BITS: u32 = 40;
/// Slots looked at before a page counts as new; more is only seen with hostile or lost fingerprints.
const PROBES: usize = 32;

/// The first page with each fingerprint.
#[derive(Debug)]
pub(crate) struct Dedup {
    slots: Table,
}

impl Dedup {
    /// A table for a guest of `page_count` pages. Beyond 2^31 pages some duplicates may be missed.
    pub(crate) fn new(page_count: u64) -> Self {
        let slots = (page_count.min(1 << 31) as usize).next_power_of_two().max(64);
        Dedup { slots: Table::new(slots) }
    }

    /// The page first seen with this fingerprint (or, rarely, with one alike); `page` is remembered if there
    /// is none.
    pub(crate) fn find_or_insert(&mut self, fingerprint: [u64; 2], page: u64) -> Option<u64> {
        let entry = fingerprint[0] << PAGE_BITS | (page + 1);
        let mask = self.slots.len() - 1;
        for probe in 0..PROBES {
            let slot = &mut self.slots[(fingerprint[1] as usize).wrapping_add(probe) & mask];
            if *slot == 0 {
                *slot = entry;
                return None;
            }
            if (*slot ^ entry) >> PAGE_BITS == 0 {
                return Some((*slot & ((1 << PAGE_BITS) - 1)) - 1);
            }
        }
        None
    }

    /// Has `page` stand for this fingerprint from now on, if any page did.
    pub(crate) fn replace(&mut self, fingerprint: [u64; 2], page: u64) {
        let entry = fingerprint[0] << PAGE_BITS | (page + 1);
        let mask = self.slots.len() - 1;
        for probe in 0..PROBES {
            let slot = &mut self.slots[(fingerprint[1] as usize).wrapping_add(probe) & mask];
            if *slot == 0 {
                return;
            }
            if (*slot ^ entry) >> PAGE_BITS == 0 {
                *slot = entry;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_page_is_found_again() {
        let mut dedup = Dedup::new(1000);
        let fingerprint =
            |page: u64| [page.wrapping_mul(0x9e37_79b9_7f4a_7c15), page.wrapping_mul(0xc2b2_ae3d)];
        for page in 0..500 {
            assert_eq!(dedup.find_or_insert(fingerprint(page), page), None);
        }
        for page in 0..500 {
            assert_eq!(dedup.find_or_insert(fingerprint(page), 10_000), Some(page));
        }
        dedup.replace(fingerprint(7), 20_000);
        dedup.replace(fingerprint(600), 20_000);
        assert_eq!(dedup.find_or_insert(fingerprint(7), 10_000), Some(20_000));
        assert_eq!(dedup.find_or_insert(fingerprint(600), 600), None);
    }

    #[test]
    fn a_full_table_forgets_but_does_not_hang() {
        let mut dedup = Dedup::new(64);
        for page in 0..1000 {
            dedup.find_or_insert([page, 0], page);
        }
        assert_eq!(dedup.find_or_insert([3, 0], 2000), Some(3));
        assert_eq!(dedup.find_or_insert([999, 0], 2000), None);
    }
}
