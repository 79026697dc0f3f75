//! Pages in any order, as ranges: what a block of left-over pages lists.
//!
//! In the order of virtual addresses the ranges of a process' memory jump about in the guest's physical memory, but
//! seldom far from where one of the last ranges ended or began: the page allocator hands out neighbours, upwards or
//! downwards.

use std::ops::Range;

use super::range_coder::{Decoder, Encoder, Number};
use super::{Positions, invalid};
use crate::error::DecodeError;

/// Where the next range is expected: right after this one with a page between, or right before it.
fn anchors(start: i64, pages: u64) -> [i64; 2] {
    [start.saturating_add(pages as i64 + 1), start.saturating_sub(1)]
}

/// Codes ranges of at least one page each.
pub(crate) fn encode(ranges: impl Iterator<Item = Range<u64>>) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let (mut starts, mut length) = (Positions::new(), Number::<6>::new());
    for range in ranges {
        let pages = range.end - range.start;
        length.code(&mut encoder, pages - 1);
        let start = starts.code(&mut encoder, range.start as i64, |start| anchors(start, pages));
        debug_assert_eq!(start, Ok(range.start as i64));
    }
    encoder.finish()
}

/// Reads ranges of `pages` pages in all, none of them at `page_count` or beyond. They may overlap; no two that follow each
/// other are adjacent.
///
/// # Errors
///
/// Ranges that do not add up, lie beyond, or follow each other, and bytes too few or too many.
pub(crate) fn decode(bytes: &[u8], pages: u64, page_count: u64) -> Result<Vec<Range<u64>>, DecodeError> {
    let mut decoder = Decoder::new(bytes)?;
    let (mut starts, mut length) = (Positions::new(), Number::<6>::new());
    let (mut ranges, mut left): (Vec<Range<u64>>, u64) = (Vec::new(), pages);
    while left > 0 {
        let len = length.code(&mut decoder, 0).saturating_add(1);
        if len > left {
            return Err(invalid("a range reaches beyond the block"));
        }
        let start = starts.code(&mut decoder, 0, |start| anchors(start, len)).map_err(invalid)?;
        if decoder.overrun() {
            break; // `finish` says so
        }
        let start = u64::try_from(start)
            .ok()
            .filter(|start| start.checked_add(len).is_some_and(|end| end <= page_count));
        let start = start.ok_or(invalid("a range lies beyond the memory"))?;
        if ranges.last().is_some_and(|last| last.end == start) {
            return Err(invalid("adjacent ranges"));
        }
        ranges.push(start..start + len);
        left -= len;
    }
    decoder.finish()?;
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lists_round_trip(list in proptest::collection::vec((0u64..1 << 39, 1u64..200), 1..60)) {
            let mut ranges: Vec<Range<u64>> = Vec::new();
            for (start, pages) in list {
                if ranges.last().is_none_or(|last| last.end != start) {
                    ranges.push(start..start + pages);
                }
            }
            let pages = ranges.iter().map(|range| range.end - range.start).sum();
            let bytes = encode(ranges.iter().cloned());
            prop_assert_eq!(&decode(&bytes, pages, 1 << 40).unwrap(), &ranges);
            prop_assert!(decode(&bytes, pages + 1, 1 << 40).is_err());
            let longer = [bytes.as_slice(), &[0]].concat();
            prop_assert!(decode(&longer, pages, 1 << 40).is_err());
        }

        #[test]
        fn hostile_bytes_are_errors_or_ranges_that_fit(mut bytes in proptest::collection::vec(any::<u8>(), 5..300)) {
            bytes[0] = 0;
            if let Ok(ranges) = decode(&bytes, 5000, 9000) {
                prop_assert_eq!(ranges.iter().map(|range| range.end - range.start).sum::<u64>(), 5000);
                prop_assert!(ranges.iter().all(|range| range.end <= 9000));
            }
        }
    }

    #[test]
    fn pages_handed_out_downwards_cost_next_to_nothing() {
        let ranges: Vec<Range<u64>> = (0..1000u64).map(|i| 500_000 - i..500_001 - i).collect();
        assert!(encode(ranges.into_iter()).len() < 100);
    }
}
