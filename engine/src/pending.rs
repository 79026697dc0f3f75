//! Which pages of a file stream are still to come.
//!
//! Most blocks of a file hold one range of pages each, in order. They may leave pages for later, which blocks of listed
//! pages bring, in any order. Together they must hold each page once. The book-keeping takes 512 bytes for each 4096
//! pages of which some are pending: as much as the stream itself has asked for, whatever its header says of the memory's size.

use std::collections::HashMap;

use crate::columns::{Run, Settled};
use crate::error::DecodeError;
use crate::page::PageSet;

/// Pages of one bitmap.
const CHUNK: u64 = 4096;

/// The pages that earlier blocks have left for later.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Pages below this one were in the blocks so far, or are pending.
    next: u64,
    count: u64,
    chunks: HashMap<u64, [u64; (CHUNK / 64) as usize]>,
}

impl Pending {
    /// Takes a block into account; says how many pages it brings.
    ///
    /// # Errors
    ///
    /// Its pages are neither the next range nor all pending.
    pub(crate) fn take(&mut self, pages: &PageSet, runs: &[Run]) -> Result<u64, DecodeError> {
        if pages.ranges().len() == 1 && pages.first() == self.next {
            self.next = pages.end();
            let (mut ordinal, before) = (0, self.count);
            for run in runs {
                let end = ordinal + u64::from(run.pages);
                if run.settled == Settled::Later {
                    pages.slice(ordinal..end).flatten().for_each(|page| self.add(page));
                }
                ordinal = end;
            }
            return Ok(pages.len() - (self.count - before));
        }
        let later = runs.iter().any(|run| run.settled == Settled::Later);
        if later || !pages.ranges().flatten().all(|page| self.remove(page)) {
            let why = "its pages neither follow those before it nor are all of them pending";
            return Err(DecodeError::Invalid { field: "block", why });
        }
        Ok(pages.len())
    }

    /// Whether all pages up to `page_count` were brought.
    pub(crate) fn is_complete(&self, page_count: u64) -> bool {
        self.next == page_count && self.count == 0
    }

    fn add(&mut self, page: u64) {
        let chunk = self.chunks.entry(page / CHUNK).or_insert([0; (CHUNK / 64) as usize]);
        chunk[(page % CHUNK / 64) as usize] |= 1 << (page % 64);
        self.count += 1;
    }

    fn remove(&mut self, page: u64) -> bool {
        let Some(chunk) = self.chunks.get_mut(&(page / CHUNK)) else { return false };
        let word = &mut chunk[(page % CHUNK / 64) as usize];
        let pending = *word >> (page % 64) & 1 != 0;
        *word &= !(1 << (page % 64));
        self.count -= u64::from(pending);
        pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(list: &[(u32, Settled)]) -> Vec<Run> {
        list.iter().map(|&(pages, settled)| Run { pages, settled }).collect()
    }

    #[test]
    fn each_page_comes_once() {
        let mut pending = Pending::default();
        let first = runs(&[(10, Settled::Zero), (4990, Settled::Later), (100, Settled::Residual)]);
        assert_eq!(pending.take(&PageSet::from_range(0..5100), &first).unwrap(), 110);
        assert!(!pending.is_complete(5100));
        let residual = |pages: u32| runs(&[(pages, Settled::Residual)]);
        // A page that is there already, one that no block has left, and a range that is not the next.
        for range in [0..20, 5050..5051, 5200..5300] {
            let pages = (range.end - range.start) as u32;
            assert!(pending.take(&PageSet::from_list([range]).unwrap(), &residual(pages)).is_err());
        }
        let mut pending = Pending::default();
        pending.take(&PageSet::from_range(0..5100), &first).unwrap();
        let list = PageSet::from_list([3000..5000, 10..3000]).unwrap();
        // Pages that are pending cannot be left again.
        assert!(pending.take(&list, &runs(&[(4990, Settled::Later)])).is_err());
        assert_eq!(pending.take(&list, &residual(4990)).unwrap(), 4990);
        assert!(pending.is_complete(5100) && !pending.is_complete(5101));
        assert!(pending.take(&list, &residual(4990)).is_err());
    }
}
