//! Sections 5.3 and 6.5: page sets.

use std::collections::HashSet;

use super::bytes::Cursor;
use super::models::{Number, Positions};
use super::range::RangeDecoder;

/// Pages that a block holds, as ranges: from low to high, or in the order of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageSet {
    /// First page and number of pages of each range.
    pub(super) ranges: Vec<(u64, u64)>,
    /// How many pages all ranges hold.
    pub(super) pages: u64,
    /// Whether it is a list.
    pub(super) is_list: bool,
}

impl PageSet {
    pub(super) fn parse(cursor: &mut Cursor<'_>, block_pages: u64, page_count: u64) -> Result<Self, String> {
        let count = cursor.varint("page set count")?;
        if count == 0 {
            return list(cursor, block_pages, page_count).map_err(|e| format!("page set list: {e}"));
        }
        let mut set = Self { ranges: Vec::new(), pages: 0, is_list: false };
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

/// A set that is a list, from its `n` on.
fn list(cursor: &mut Cursor<'_>, block_pages: u64, page_count: u64) -> Result<PageSet, String> {
    let n = cursor.varint_to(block_pages, "n")?;
    if n == 0 {
        return Err("n: is 0".into());
    }
    let list_len = cursor.varint("list_len")?;
    let mut coder = RangeDecoder::new(cursor.take(list_len, "bytes")?)?;
    let mut sizes = Number::new(6);
    let mut firsts = Positions::new();
    let mut set = PageSet { ranges: Vec::new(), pages: 0, is_list: true };
    let mut seen = HashSet::new();
    while set.pages < n {
        let number = set.ranges.len();
        let pages = 1 + sizes.decode(&mut coder)?;
        if pages > n - set.pages {
            return Err(format!("range {number} has {pages} pages, of {n} there are {} left", n - set.pages));
        }
        let value = firsts.decode(&mut coder)?;
        let first = match u64::try_from(value) {
            Ok(first) if first + pages <= page_count => first,
            _ => return Err(format!("range {number}: {pages} pages from {value}, of {page_count} in all")),
        };
        firsts.put(&[value + pages as i64 + 1, value - 1]);
        if set.ranges.last().is_some_and(|&(before, pages)| before + pages == first) {
            return Err(format!("range {number} starts where the one before ends"));
        }
        if let Some(page) = (first..first + pages).find(|&page| !seen.insert(page)) {
            return Err(format!("page {page} comes twice"));
        }
        set.pages += pages;
        set.ranges.push((first, pages));
    }
    coder.finish()?;
    // Reading: one range is in ascending order, too.
    if set.ranges.is_sorted() {
        return Err("its ranges are in ascending order".into());
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handmade;

    fn parse(bytes: &[u8]) -> Result<PageSet, String> {
        PageSet::parse(&mut Cursor::new(bytes), 8, 20)
    }

    /// A list whose ranges are these; `n` and what follows the ranges' bytes can be wrong.
    fn parse_list(n: u64, ranges: &[(u64, u64)], more: &[u8]) -> Result<PageSet, String> {
        let coded = [&handmade::list(ranges), more].concat();
        let mut bytes = vec![0];
        handmade::varint(&mut bytes, n);
        handmade::varint(&mut bytes, coded.len() as u64);
        let mut cursor = [&bytes[..], &coded].concat();
        cursor.push(99);
        let mut cursor = Cursor::new(&cursor);
        let set = PageSet::parse(&mut cursor, 8, 20)?;
        assert_eq!(cursor.left(), 1, "what follows the set is left alone");
        Ok(set)
    }

    #[test]
    fn lists() {
        let ranges = [(12, 3), (0, 1), (19, 1), (16, 2), (5, 1)];
        let set = parse_list(8, &ranges, &[]).unwrap();
        assert_eq!(set, PageSet { ranges: ranges.to_vec(), pages: 8, is_list: true });
        let pages: Vec<u64> = (0..8).map(|ordinal| set.page(ordinal)).collect();
        assert_eq!(pages, [12, 13, 14, 0, 19, 16, 17, 5]);
        for page in 0..20 {
            assert_eq!(set.ordinal(page), pages.iter().position(|&p| p == page).map(|p| p as u64));
        }
        assert!(
            parse_list(2, &[(1, 1), (0, 1)], &[]).is_ok(),
            "a range that ends where the one before starts"
        );
        for (n, ranges, word) in [
            (3, &[(4, 3)][..], "ascending"),
            (3, &[(4, 1), (6, 2)], "ascending"),
            (3, &[(4, 1), (5, 2)], "where the one before ends"),
            (4, &[(9, 1), (4, 1), (5, 2)], "where the one before ends"),
            (3, &[(4, 2), (4, 1)], "page 4 comes twice"),
            (5, &[(4, 2), (2, 2), (5, 1)], "page 5 comes twice"),
            (3, &[(4, 2), (2, 2)], "2 pages, of 3 there are 1 left"),
            (3, &[(4, 1), (19, 2)], "2 pages from 19"),
            (2, &[(20, 1), (4, 1)], "1 pages from 20"),
            (9, &[(9, 6), (4, 3)], "n: 9 is above 8"),
            (0, &[], "n: is 0"),
        ] {
            // Where n is reached before the ranges are, the rest is too much.
            let error = parse_list(n, ranges, &[]).unwrap_err();
            assert!(error.contains(word) || error.contains("too many"), "{ranges:?}: {error}");
        }
        assert!(parse_list(2, &[(1, 1), (0, 1)], &[0]).unwrap_err().contains("too many"));
        assert!(parse_list(3, &[(1, 1), (0, 1)], &[]).unwrap_err().contains("more bytes than there are"));
        assert!(parse(&[0, 2, 9, 0, 0, 0]).unwrap_err().contains("wants 9 bytes"));
        assert!(parse(&[0, 2, 0]).is_err(), "not even a range coder's start");
    }

    #[test]
    fn page_sets() {
        let set = parse(&[3, 2, 3, 1, 1, 5, 4]).unwrap();
        assert_eq!(set, PageSet { ranges: vec![(2, 3), (6, 1), (12, 4)], pages: 8, is_list: false });
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
        assert!(parse(&[2, 0, 4]).is_err(), "cut");
        let huge = [1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1];
        assert!(parse(&huge).is_err(), "a gap of 2^64 - 1");
    }
}
