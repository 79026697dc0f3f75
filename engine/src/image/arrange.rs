//! From pieces of memory, as a file's headers list them, to a layout that keeps its promises.
//!
//! Headers may list pieces in any order, cut pages in two, and list the same bytes or the same guest
//! memory twice (a core made with paging has one entry a mapping; a kdump core has the kernel's text
//! once by itself and once within RAM). The first mention wins. A byte of the file that was mentioned
//! before is not mentioned again; memory whose address was mentioned before, but which has bytes of its
//! own in the file, keeps its pages and loses its address.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{ImageError, ImageFormat, ImageLayout, MAX_SEGMENTS, PAGE, Segment};

/// Collects pieces.
pub(super) struct Arranger {
    format: ImageFormat,
    in_file: Cover,
    in_guest: Cover,
    /// Not numbered yet.
    segments: Vec<Segment>,
}

impl Arranger {
    pub(super) fn new(format: ImageFormat) -> Self {
        Self { format, in_file: Cover::default(), in_guest: Cover::default(), segments: Vec::new() }
    }

    /// Adds the bytes of `file`, which are the guest's memory from `gpa` on, or memory at no known address.
    ///
    /// Only whole pages become part of a segment: with an address, pages begin at its multiples of 4096;
    /// without one, at the start of the piece. An address that runs over the end of the address space (some
    /// tools write all ones for "unknown") is taken as none.
    pub(super) fn add(&mut self, file: Range<u64>, gpa: Option<u64>) -> Result<(), ImageError> {
        // With room to round up to the next page.
        let room = file.end.saturating_sub(file.start).saturating_add(PAGE);
        let gpa = gpa.filter(|gpa| gpa.checked_add(room).is_some());
        for new in self.in_file.insert(file.clone()) {
            // Where the bytes are in the guest, or in the piece if that is not known.
            let start = gpa.unwrap_or(0) + (new.start - file.start);
            let end = start + (new.end - new.start);
            let pages = start.next_multiple_of(PAGE)..end - end % PAGE;
            if pages.start >= pages.end {
                continue;
            }
            // Back from there to the file. The difference is the same for all of the piece.
            let to_file = |place: u64| new.start + (place - start);
            if gpa.is_none() {
                self.push(to_file(pages.start), pages.end - pages.start, None)?;
                continue;
            }
            let mut at = pages.start;
            for fresh in self.in_guest.insert(pages.clone()) {
                self.push(to_file(at), fresh.start - at, None)?;
                self.push(to_file(fresh.start), fresh.end - fresh.start, Some(fresh.start))?;
                at = fresh.end;
            }
            self.push(to_file(at), pages.end - at, None)?;
        }
        Ok(())
    }

    /// Adds the bytes that lie behind the first piece in the file and in no piece at all, as memory at no
    /// known address, where there are at least `least` together.
    pub(super) fn add_rest(&mut self, file_len: u64, least: u64) -> Result<(), ImageError> {
        for gap in self.in_file.gaps(file_len) {
            if gap.end - gap.start >= least {
                self.add(gap, None)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, file_offset: u64, bytes: u64, gpa: Option<u64>) -> Result<(), ImageError> {
        if bytes == 0 {
            return Ok(());
        }
        // Joins a piece that goes on where the last one ended, as QEMU's pieces of low memory do. Keeps
        // what follows small: the limit is for what is left.
        if let Some(last) = self.segments.last_mut()
            && last.file_range().end == file_offset
            && last.gpa.map(|gpa| gpa + last.pages * PAGE) == gpa
        {
            last.pages += bytes / PAGE;
            return Ok(());
        }
        if self.segments.len() >= MAX_SEGMENTS {
            return Err(ImageError::TooManySegments { format: self.format });
        }
        self.segments.push(Segment { file_offset, pages: bytes / PAGE, first_page: 0, gpa });
        Ok(())
    }

    /// Sorts and numbers the segments of a file of `file_len` bytes.
    pub(super) fn finish(mut self, file_len: u64) -> Result<ImageLayout, ImageError> {
        if self.segments.is_empty() {
            return Err(ImageError::NoPages { format: self.format, file_len });
        }
        // Stable, so that segments without an address stay in the order of the headers.
        self.segments.sort_by_key(|segment| (segment.gpa.is_none(), segment.gpa));
        let mut next = 0;
        for segment in &mut self.segments {
            segment.first_page = next;
            next += segment.pages;
        }
        ImageLayout::new(self.format, file_len, self.segments)
    }
}

/// A set of numbers, kept as ranges (start to end) apart from each other.
#[derive(Default)]
struct Cover(BTreeMap<u64, u64>);

impl Cover {
    /// Adds a range; returns the parts of it that are new, ascending.
    ///
    /// All the ranges it touches become one, so a hostile list of n ranges costs O(n log n) and gives at
    /// most 2n parts in all.
    fn insert(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        if range.start >= range.end {
            return Vec::new();
        }
        let mut joined = range.clone();
        if let Some((&start, &end)) = self.0.range(..range.start).next_back()
            && end >= range.start
        {
            joined = start..end.max(range.end);
        }
        let mut new = Vec::new();
        let mut at = range.start;
        let touched: Vec<(u64, u64)> =
            self.0.range(joined.start..=range.end).map(|(&start, &end)| (start, end)).collect();
        for (start, end) in touched {
            if start > at {
                new.push(at..start);
            }
            at = at.max(end);
            joined.end = joined.end.max(end);
            self.0.remove(&start);
        }
        if at < range.end {
            new.push(at..range.end);
        }
        self.0.insert(joined.start, joined.end);
        new
    }

    /// What is between the ranges and between the last one and `end`, ascending.
    fn gaps(&self, end: u64) -> Vec<Range<u64>> {
        let starts = self.0.keys().copied().skip(1).chain([end]);
        self.0
            .values()
            .copied()
            .zip(starts)
            .map(|(from, to)| from..to)
            .filter(|gap| !gap.is_empty())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_cover_agrees_with_a_set_of_numbers() {
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for _ in 0..300 {
            let (mut cover, mut naive) = (Cover::default(), BTreeSet::new());
            for _ in 0..20 {
                let start = random(60);
                let range = start..start + random(12);
                let parts = cover.insert(range.clone());
                let new: Vec<u64> = range.filter(|&n| naive.insert(n)).collect();
                assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), new);
                assert!(parts.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
            let kept: Vec<u64> = cover.0.iter().flat_map(|(&start, &end)| start..end).collect();
            assert_eq!(kept, naive.iter().copied().collect::<Vec<_>>());
            let gaps: Vec<u64> = cover.gaps(80).into_iter().flatten().collect();
            let missing = |n: &u64| kept.first().is_some_and(|first| n > first) && !kept.contains(n);
            assert_eq!(gaps, (0..80).filter(missing).collect::<Vec<_>>());
            let ranges: Vec<_> = cover.0.iter().collect();
            assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "touching ranges must join");
        }
    }

    fn arranged(pieces: &[(Range<u64>, Option<u64>)], file_len: u64) -> Vec<(u64, u64, Option<u64>)> {
        let mut arranger = Arranger::new(ImageFormat::ElfCore);
        for (file, gpa) in pieces {
            arranger.add(file.clone(), *gpa).unwrap();
        }
        let layout = arranger.finish(file_len).unwrap();
        layout.segments().iter().map(|s| (s.file_offset, s.pages, s.gpa)).collect()
    }

    #[test]
    fn only_whole_guest_pages_count() {
        // 100 bytes at the end of page 0, pages 1 and 2, and 5 bytes of page 3.
        let piece = 1000..1000 + 100 + 2 * PAGE + 5;
        assert_eq!(arranged(&[(piece.clone(), Some(PAGE - 100))], 20000), [(1100, 2, Some(PAGE))]);
        // Without an address pages begin with the piece.
        assert_eq!(arranged(&[(piece.clone(), None)], 20000), [(1000, 2, None)]);
        assert_eq!(arranged(&[(piece.clone(), Some(u64::MAX))], 20000), [(1000, 2, None)]);
        // Too little for a page, at the end of the address space.
        let last = (15000..15050, Some(u64::MAX - 100));
        assert_eq!(arranged(&[(piece, Some(0)), last], 20000), [(1000, 2, Some(0))]);
    }

    #[test]
    fn the_first_mention_of_file_bytes_wins() {
        let pieces = [(PAGE..3 * PAGE, Some(8 * PAGE)), (0..4 * PAGE, Some(0x100 * PAGE))];
        let expected =
            [(PAGE, 2, Some(8 * PAGE)), (0, 1, Some(0x100 * PAGE)), (3 * PAGE, 1, Some(0x103 * PAGE))];
        assert_eq!(arranged(&pieces, 4 * PAGE), expected);
        assert_eq!(arranged(&[pieces[0].clone(), pieces[0].clone()], 4 * PAGE), expected[..1]);
    }

    #[test]
    fn memory_that_is_there_twice_has_its_address_once() {
        // Kernel text at page 16 by itself, then RAM from page 14 to 20 with the text in it again.
        let pieces = [(0..2 * PAGE, Some(16 * PAGE)), (2 * PAGE..8 * PAGE, Some(14 * PAGE))];
        let expected = [
            (2 * PAGE, 2, Some(14 * PAGE)),
            (0, 2, Some(16 * PAGE)),
            (6 * PAGE, 2, Some(18 * PAGE)),
            (4 * PAGE, 2, None),
        ];
        assert_eq!(arranged(&pieces, 8 * PAGE), expected);
    }

    #[test]
    fn neighbours_in_file_and_guest_become_one() {
        let pieces = [
            (5..5 + PAGE, Some(0)),
            (5 + PAGE..5 + 3 * PAGE, Some(PAGE)),
            (5 + 3 * PAGE..5 + 4 * PAGE, Some(9 * PAGE)),
        ];
        assert_eq!(arranged(&pieces, 1 << 20), [(5, 3, Some(0)), (5 + 3 * PAGE, 1, Some(9 * PAGE))]);
    }
}
