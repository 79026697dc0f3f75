//! Pages, page numbers and sets of them.

use std::ops::Range;

pub use mig_simd::{PAGE_SIZE, PAGE_WORDS, Page};

use crate::error::{DecodeError, EncodeError};
use crate::format::limits;
use crate::format::wire::{Input, put_varint};

/// A non-empty set of page numbers, kept as ascending, non-adjacent ranges.
///
/// A page number is the index of a page in the guest's RAM regions in address order. Packing a whole image
/// makes sets of one range each; the dirty pages of a live round make sets of many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSet {
    /// Number of pages before the range, and the range.
    ranges: Vec<(u64, Range<u64>)>,
    len: u64,
}

impl PageSet {
    /// The pages of one range, which must not be empty.
    pub(crate) fn from_range(range: Range<u64>) -> Self {
        debug_assert!(range.start < range.end);
        PageSet { len: range.end - range.start, ranges: vec![(0, range)] }
    }

    /// A set from ascending ranges; adjacent ones are joined.
    ///
    /// # Errors
    ///
    /// [`EncodeError::PageSet`] for no pages at all, an empty range, or ranges that overlap or descend.
    pub fn from_ranges(ranges: impl IntoIterator<Item = Range<u64>>) -> Result<Self, EncodeError> {
        let mut set = PageSet { ranges: Vec::new(), len: 0 };
        for range in ranges {
            if range.start >= range.end {
                return Err(EncodeError::PageSet("a range is empty"));
            }
            let pages = range.end - range.start;
            match set.ranges.last_mut() {
                Some((_, last)) if range.start < last.end => {
                    return Err(EncodeError::PageSet("ranges overlap or descend"));
                }
                Some((_, last)) if range.start == last.end => last.end = range.end,
                _ => set.ranges.push((set.len, range)),
            }
            set.len += pages;
        }
        if set.ranges.is_empty() {
            return Err(EncodeError::PageSet("it is empty"));
        }
        Ok(set)
    }

    /// Number of pages, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "a page set is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(_, range)| range.clone())
    }

    /// The first page's number.
    pub fn first(&self) -> u64 {
        self.ranges[0].1.start
    }

    /// One past the last page's number.
    pub fn end(&self) -> u64 {
        self.ranges[self.ranges.len() - 1].1.end
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
        let at = self.ranges.partition_point(|(_, range)| range.start <= page).checked_sub(1)?;
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
        let count = input.varint_max(field, max_pages.min(limits::BLOCK_PAGES))?;
        let mut set = PageSet { ranges: Vec::new(), len: 0 };
        let mut last = 0u64;
        for index in 0..count {
            let gap = input.varint_max(field, page_count)?;
            if gap == 0 && index > 0 {
                return Err(DecodeError::Invalid { field, why: "adjacent ranges" });
            }
            let pages = input.varint_max(field, max_pages - set.len)?;
            let start = last + gap; // both at most `page_count`, which is far below 2^63
            if pages == 0 || start + pages > page_count {
                return Err(DecodeError::Invalid {
                    field,
                    why: "a range is empty or ends beyond the memory",
                });
            }
            set.ranges.push((set.len, start..start + pages));
            set.len += pages;
            last = start + pages;
        }
        if set.ranges.is_empty() {
            return Err(DecodeError::Invalid { field, why: "it is empty" });
        }
        Ok(set)
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
}
