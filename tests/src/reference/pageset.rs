//! Section 5.3: page sets.

use super::bytes::Cursor;

/// Pages that a block holds, as ranges from low to high.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageSet {
    /// First page and number of pages of each range.
    pub(super) ranges: Vec<(u64, u64)>,
    /// How many pages all ranges hold.
    pub(super) pages: u64,
}

impl PageSet {
    pub(super) fn parse(cursor: &mut Cursor<'_>, block_pages: u64, page_count: u64) -> Result<Self, String> {
        let count = cursor.varint("page set count")?;
        if count == 0 {
            return Err("page set count: is 0".into());
        }
        let mut set = Self { ranges: Vec::new(), pages: 0 };
        let mut end = 0;
        for number in 0..count {
            let gap = cursor.varint_to(page_count, "page set gap")?;
            if number > 0 && gap == 0 {
                return Err(format!("page set gap: is 0 before range {number}"));
            }
            let pages = cursor.varint("page set pages")?;
            if pages == 0 {
                return Err(format!("page set pages: range {number} has none"));
            }
            if pages > block_pages - set.pages {
                return Err(format!("page set pages: more than block_pages {block_pages}"));
            }
            let first = end + gap;
            end = first + pages;
            if end > page_count {
                return Err(format!(
                    "page set: range {number} ends at {end}, the guest has {page_count} pages"
                ));
            }
            set.pages += pages;
            set.ranges.push((first, pages));
        }
        Ok(set)
    }

    /// The page with this ordinal, which is below `pages`.
    pub(super) fn page(&self, ordinal: u64) -> u64 {
        let mut left = ordinal;
        for &(first, pages) in &self.ranges {
            if left < pages {
                return first + left;
            }
            left -= pages;
        }
        unreachable!("ordinal {ordinal} of {} pages", self.pages)
    }

    /// The ordinal of a page, if it is in the set.
    pub(super) fn ordinal(&self, page: u64) -> Option<u64> {
        let mut before = 0;
        for &(first, pages) in &self.ranges {
            if (first..first + pages).contains(&page) {
                return Some(before + page - first);
            }
            before += pages;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<PageSet, String> {
        PageSet::parse(&mut Cursor::new(bytes), 8, 20)
    }

    #[test]
    fn page_sets() {
        let set = parse(&[3, 2, 3, 1, 1, 5, 4]).unwrap();
        assert_eq!(set, PageSet { ranges: vec![(2, 3), (6, 1), (12, 4)], pages: 8 });
        let pages: Vec<u64> = (0..8).map(|ordinal| set.page(ordinal)).collect();
        assert_eq!(pages, [2, 3, 4, 6, 12, 13, 14, 15]);
        for page in 0..20 {
            assert_eq!(set.ordinal(page), pages.iter().position(|&p| p == page).map(|p| p as u64));
        }
        assert!(parse(&[1, 12, 8]).is_ok(), "up to the last page");
        assert!(parse(&[1, 13, 8]).is_err(), "one beyond");
        assert!(parse(&[1, 0, 9]).is_err(), "more than block_pages");
        assert!(parse(&[2, 0, 4, 1, 5]).is_err(), "together more than block_pages");
        assert!(parse(&[2, 0, 4, 0, 4]).is_err(), "no gap");
        assert!(parse(&[1, 0, 0]).is_err(), "an empty range");
        assert!(parse(&[0]).is_err(), "no range");
        assert!(parse(&[2, 0, 4]).is_err(), "cut");
        let huge = [1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1];
        assert!(parse(&huge).is_err(), "a gap of 2^64 - 1");
    }
}
