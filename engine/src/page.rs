//! Pages, page numbers and sets of them.

use std::ops::Range;

pub use mig_simd::{PAGE_SIZE, PAGE_WORDS, Page};

use crate::columns;
use crate::error::{DecodeError, EncodeError};
use crate::format::limits;
use crate::format::wire::{Input, put_varint};

/// A non-empty set of page numbers, in an order: that of the numbers, or any other.
///
/// A page number is the index of a page in the guest's RAM regions in address order. Packing a whole image
/// makes sets of one range each, and lists of the pages left over, in an order that suits the coder; the dirty pages of a
/// live round make sets of many ranges. The place of a page in the order is its *ordinal*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSet {
    /// Number of pages before the range, and the range; in the set's order, no two of them adjacent.
    ranges: Vec<(u64, Range<u64>)>,
    /// Places of the ranges by page number, where that is not their order.
    by_page: Option<Vec<u32>>,
    len: u64,
}

impl PageSet {
    /// The pages of one range, which must not be empty.
    pub(crate) fn from_range(range: Range<u64>) -> Self {
        debug_assert!(range.start < range.end);
        PageSet { len: range.end - range.start, ranges: vec![(0, range)], by_page: None }
    }

    /// A set from ascending ranges; adjacent ones are joined.
    ///
    /// # Errors
    ///
    /// [`EncodeError::PageSet`] for no pages at all, an empty range, or ranges that overlap or descend.
    pub fn from_ranges(ranges: impl IntoIterator<Item = Range<u64>>) -> Result<Self, EncodeError> {
        let set = Self::from_list(ranges)?;
        match set.by_page {
            None => Ok(set),
            Some(_) => Err(EncodeError::PageSet("ranges overlap or descend")),
        }
    }

    /// A set from ranges in any order, which it keeps; ranges that follow each other are joined.
    ///
    /// # Errors
    ///
    /// [`EncodeError::PageSet`] for no pages at all, an empty range, or a page that is listed twice.
    pub fn from_list(ranges: impl IntoIterator<Item = Range<u64>>) -> Result<Self, EncodeError> {
        let mut list: Vec<(u64, Range<u64>)> = Vec::new();
        let mut len = 0;
        for range in ranges {
            if range.start >= range.end {
                return Err(EncodeError::PageSet("a range is empty"));
            }
            let pages = range.end - range.start;
            match list.last_mut() {
                Some((_, last)) if range.start == last.end => last.end = range.end,
                _ => list.push((len, range)),
            }
            len += pages;
        }
        Self::new(list, len).map_err(EncodeError::PageSet)
    }

    /// Finds out whether the ranges ascend, and checks that they don't overlap.
    fn new(ranges: Vec<(u64, Range<u64>)>, len: u64) -> Result<Self, &'static str> {
        if ranges.is_empty() {
            return Err("it is empty");
        }
        if ranges.is_sorted_by(|(_, one), (_, next)| one.end <= next.start) {
            return Ok(PageSet { ranges, by_page: None, len });
        }
        let mut by_page: Vec<u32> = (0..ranges.len() as u32).collect();
        let range = |&index: &u32| &ranges[index as usize].1;
        by_page.sort_unstable_by_key(|index| range(index).start);
        if !by_page.is_sorted_by(|one, next| range(one).end <= range(next).start) {
            return Err("a page is listed twice");
        }
        Ok(PageSet { ranges, by_page: Some(by_page), len })
    }

    /// Number of pages, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "a page set is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The ranges, in the set's order.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(_, range)| range.clone())
    }

    /// Whether the order is that of the page numbers.
    pub fn is_ascending(&self) -> bool {
        self.by_page.is_none()
    }

    /// The number of the page that is first in the set's order.
    pub fn first(&self) -> u64 {
        self.ranges[0].1.start
    }

    /// One past the highest page number.
    pub fn end(&self) -> u64 {
        let last = match &self.by_page {
            None => self.ranges.len() - 1,
            Some(by_page) => by_page[by_page.len() - 1] as usize,
        };
        self.ranges[last].1.end
    }

    /// Page number of the `ordinal`th page of the set.
    ///
    /// # Panics
    ///
    /// If there are not that many.
    pub fn page_at(&self, ordinal: u64) -> u64 {
        let at = self.ranges.partition_point(|(before, _)| *before <= ordinal) - 1;
        let (before, range) = &self.ranges[at];
        let page = range.start + (ordinal - before);
        assert!(page < range.end, "ordinal {ordinal} is not below {}", self.len);
        page
    }

    /// Place of a page in the set, if it is there.
    pub fn ordinal_of(&self, page: u64) -> Option<u64> {
        let at = match &self.by_page {
            None => self.ranges.partition_point(|(_, range)| range.start <= page).checked_sub(1)?,
            Some(by_page) => {
                let after = by_page.partition_point(|&index| self.ranges[index as usize].1.start <= page);
                by_page[after.checked_sub(1)?] as usize
            }
        };
        let (before, range) = &self.ranges[at];
        range.contains(&page).then(|| before + (page - range.start))
    }

    /// The pages from `ordinals.start` up to `ordinals.end`, as ranges of page numbers.
    pub(crate) fn slice(&self, ordinals: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let from = self.ranges.partition_point(|(before, _)| *before <= ordinals.start).saturating_sub(1);
        self.ranges[from..].iter().map_while(move |(before, range)| {
            let start = range.start + ordinals.start.saturating_sub(*before);
            let end = range.end.min(range.start + ordinals.end.saturating_sub(*before));
            (start < end).then_some(start..end)
        })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        if !self.is_ascending() {
            let list = columns::encode_list(self.ranges());
            put_varint(out, 0);
            put_varint(out, self.len);
            put_varint(out, list.len() as u64);
            out.extend_from_slice(&list);
            return;
        }
        put_varint(out, self.ranges.len() as u64);
        let mut last = 0;
        for (_, range) in &self.ranges {
            put_varint(out, range.start - last);
            put_varint(out, range.end - range.start);
            last = range.end;
        }
    }

    /// Reads a set of at most `max_pages` pages, all below `page_count`.
    pub(crate) fn read(input: &mut Input<'_>, max_pages: u64, page_count: u64) -> Result<Self, DecodeError> {
        let field = "page set";
        let invalid = |why| DecodeError::Invalid { field, why };
        let count = input.varint_max(field, max_pages.min(limits::BLOCK_PAGES))?;
        let mut ranges = Vec::new();
        let mut len = 0;
        if count == 0 {
            len = input.varint_max(field, max_pages.min(limits::BLOCK_PAGES))?;
            let list_len = input.varint_max(field, limits::META)?;
            let list = input.take(list_len as usize, field)?;
            let list = columns::decode_list(list, len, page_count)?;
            let mut before = 0;
            for range in list {
                let pages = range.end - range.start;
                ranges.push((before, range));
                before += pages;
            }
            let set = Self::new(ranges, len).map_err(invalid)?;
            // One way to write each set.
            return if set.is_ascending() { Err(invalid("a list that ascends")) } else { Ok(set) };
        }
        let mut last = 0u64;
        for index in 0..count {
            let gap = input.varint_max(field, page_count)?;
            if gap == 0 && index > 0 {
                return Err(invalid("adjacent ranges"));
            }
            let pages = input.varint_max(field, max_pages - len)?;
            let start = last + gap; // both at most `page_count`, which is far below 2^63
            if pages == 0 || start + pages > page_count {
                return Err(invalid("a range is empty or ends beyond the memory"));
            }
            ranges.push((len, start..start + pages));
            len += pages;
            last = start + pages;
        }
        Self::new(ranges, len).map_err(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_and_pages_agree() {
        let set = PageSet::from_ranges([3..5, 5..6, 10..11, 100..103]).unwrap();
        let pages = [3, 4, 5, 10, 100, 101, 102];
        assert_eq!(set.len(), pages.len() as u64);
        assert_eq!(set.ranges().len(), 3);
        for (ordinal, &page) in pages.iter().enumerate() {
            assert_eq!(set.page_at(ordinal as u64), page);
            assert_eq!(set.ordinal_of(page), Some(ordinal as u64));
        }
        for page in [0, 2, 6, 9, 11, 99, 103] {
            assert_eq!(set.ordinal_of(page), None);
        }
        for (start, end) in [(0, 7), (1, 2), (2, 5), (3, 4), (4, 7), (2, 2)] {
            let sliced: Vec<u64> = set.slice(start..end).flatten().collect();
            assert_eq!(sliced, pages[start as usize..end as usize]);
        }
    }

    #[test]
    fn sets_round_trip_and_refuse_nonsense() {
        let set = PageSet::from_ranges([3..5, 10..11, 100..103]).unwrap();
        let mut bytes = Vec::new();
        set.write(&mut bytes);
        assert_eq!(PageSet::read(&mut Input::new(&bytes), 100, 103).unwrap(), set);
        assert!(PageSet::read(&mut Input::new(&bytes), 100, 102).is_err());
        assert!(PageSet::read(&mut Input::new(&bytes), 5, 103).is_err());
        assert!(PageSet::read(&mut Input::new(&[0]), 100, 103).is_err());
        assert!(PageSet::from_ranges([3..5, 4..6]).is_err());
        assert!(PageSet::from_ranges(std::iter::once(5..5)).is_err());
        assert!(PageSet::from_ranges([]).is_err());
    }

    #[test]
    fn a_list_keeps_its_order() {
        let list = [100..103, 3..5, 5..6, 50..51, 49..50, 10..11];
        let set = PageSet::from_list(list.clone()).unwrap();
        let pages: Vec<u64> = list.into_iter().flatten().collect();
        assert_eq!((set.len(), set.first(), set.end()), (pages.len() as u64, 100, 103));
        assert!(!set.is_ascending());
        for (ordinal, &page) in pages.iter().enumerate() {
            assert_eq!((set.page_at(ordinal as u64), set.ordinal_of(page)), (page, Some(ordinal as u64)));
        }
        for page in [0, 2, 6, 9, 11, 48, 51, 99, 103] {
            assert_eq!(set.ordinal_of(page), None);
        }
        let sliced: Vec<u64> = set.slice(2..7).flatten().collect();
        assert_eq!(sliced, pages[2..7]);
        let mut bytes = Vec::new();
        set.write(&mut bytes);
        assert_eq!(PageSet::read(&mut Input::new(&bytes), 100, 103).unwrap(), set);
        assert!(PageSet::read(&mut Input::new(&bytes), 8, 103).is_err());
        assert!(PageSet::read(&mut Input::new(&bytes), 100, 102).is_err());
        assert!(PageSet::from_list([5..7, 6..8]).is_err());
        assert!(PageSet::from_list([9..10, 5..7, 6..7]).is_err());
    }
}
