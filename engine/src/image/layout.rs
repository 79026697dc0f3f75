//! Where the guest pages lie in an image file.

use std::ops::Range;

use super::{ImageError, ImageFormat, PAGE};

/// The most segments that a layout may have: 8 MiB of them. Real images have a handful to a few
/// thousand (a LiME file of a machine with a torn memory map).
pub const MAX_SEGMENTS: usize = 1 << 18;

/// A run of whole guest pages, one after the other in the file and in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the first byte lies in the file. Need not be a multiple of 4096.
    pub file_offset: u64,
    /// How many pages of 4096 bytes; at least 1.
    pub pages: u64,
    /// The number of the first page: the pages of all segments before this one.
    pub first_page: u64,
    /// The guest-physical address of the first byte, a multiple of 4096; None where it isn't known.
    pub gpa: Option<u64>,
}

impl Segment {
    /// The bytes of the file that the segment takes.
    ///
    /// Doesn't overflow for a segment of an [`ImageLayout`].
    pub fn file_range(&self) -> Range<u64> {
        self.file_offset..self.file_offset + self.pages * PAGE
    }

    /// One past the number of the last page.
    pub fn end_page(&self) -> u64 {
        self.first_page + self.pages
    }
}

/// What an image file is made of: its format, its length, and where its pages lie.
///
/// Whoever holds one can rely on this: segments lie inside the file and don't overlap there; they number
/// the pages from 0 without a gap; those with a guest address come first, in ascending order and without
/// overlap; none is empty; no sum of a segment's fields overflows. The fields can only be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLayout {
    pub(crate) format: ImageFormat,
    pub(crate) file_len: u64,
    pub(crate) segments: Vec<Segment>,
    /// Bytes that no segment covers: ascending, apart from each other, not empty.
    opaque: Vec<Range<u64>>,
}

impl ImageLayout {
    /// A layout from fields that nobody has checked yet.
    ///
    /// # Errors
    ///
    /// [`ImageError::Segment`] names the first segment that breaks one of the rules of the type;
    /// [`ImageError::FileLength`] and [`ImageError::TooManySegments`] speak for themselves. A layout
    /// without any segment is fine.
    pub fn new(format: ImageFormat, file_len: u64, segments: Vec<Segment>) -> Result<Self, ImageError> {
        if i64::try_from(file_len).is_err() {
            return Err(ImageError::FileLength { file_len });
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(ImageError::TooManySegments { format });
        }
        check_order(&segments, file_len)?;
        let opaque = gaps(&segments, file_len)?;
        Ok(Self { format, file_len, segments, opaque })
    }

    /// How the file is laid out.
    pub fn format(&self) -> ImageFormat {
        self.format
    }

    /// The length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The segments, by ascending page number.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The number of pages of all segments.
    pub fn page_count(&self) -> u64 {
        self.segments.last().map_or(0, Segment::end_page)
    }

    /// The bytes of the file that no segment covers, ascending and apart from each other.
    pub fn opaque_ranges(&self) -> &[Range<u64>] {
        &self.opaque
    }

    /// The segment that holds a page, or None past the last page. O(log segments).
    pub fn segment_of(&self, page: u64) -> Option<&Segment> {
        let after = self.segments.partition_point(|segment| segment.end_page() <= page);
        self.segments.get(after)
    }

    /// Where a page lies in the file, or None past the last page.
    pub fn file_offset_of(&self, page: u64) -> Option<u64> {
        self.segment_of(page).map(|segment| segment.file_offset + (page - segment.first_page) * PAGE)
    }

    /// The guest-physical address of a page, where it is known.
    pub fn gpa_of(&self, page: u64) -> Option<u64> {
        let segment = self.segment_of(page)?;
        segment.gpa.map(|gpa| gpa + (page - segment.first_page) * PAGE)
    }

    /// The number of the page that holds a guest-physical address. O(log segments).
    pub fn page_at(&self, gpa: u64) -> Option<u64> {
        let after = self.segments.partition_point(|segment| segment.gpa.is_some_and(|start| start <= gpa));
        let segment = self.segments.get(after.checked_sub(1)?)?;
        let page = (gpa - segment.gpa?) / PAGE;
        (page < segment.pages).then(|| segment.first_page + page)
    }
}

/// Checks all that can be seen by going through the segments once, in page order.
fn check_order(segments: &[Segment], file_len: u64) -> Result<(), ImageError> {
    let mut next_page = 0;
    // Some while all segments so far had an address.
    let mut next_gpa = Some(0);
    for (index, segment) in segments.iter().enumerate() {
        let bad = |why| Err(ImageError::Segment { index, why });
        if segment.pages == 0 {
            return bad("it has no pages");
        }
        let bytes = segment.pages.checked_mul(PAGE);
        let Some(end) = bytes.and_then(|bytes| segment.file_offset.checked_add(bytes)) else {
            return bad("its end overflows");
        };
        if end > file_len {
            return bad("it ends past the end of the file");
        }
        if segment.first_page != next_page {
            return bad("its first page is not the one after the segment before");
        }
        // Segments that overlap in the file aren't sorted out yet, so their sum can be anything.
        next_page = match next_page.checked_add(segment.pages) {
            Some(sum) => sum,
            None => return bad("its last page overflows"),
        };
        next_gpa = match (segment.gpa, next_gpa) {
            (None, _) => None,
            (Some(_), None) => return bad("it has a guest address, but comes after one without"),
            (Some(gpa), Some(_)) if gpa % PAGE != 0 => {
                return bad("its guest address is not a multiple of 4096");
            }
            (Some(gpa), Some(least)) if gpa < least => {
                return bad("its guest address is not above the segment before");
            }
            (Some(gpa), Some(_)) => match gpa.checked_add(segment.pages * PAGE) {
                Some(end) => Some(end),
                None => return bad("its guest addresses overflow"),
            },
        };
    }
    Ok(())
}

/// The bytes between the segments; an error if two segments share a byte.
fn gaps(segments: &[Segment], file_len: u64) -> Result<Vec<Range<u64>>, ImageError> {
    let mut by_offset: Vec<usize> = (0..segments.len()).collect();
    by_offset.sort_unstable_by_key(|&index| segments[index].file_offset);
    let mut gaps = Vec::new();
    let mut at = 0;
    for index in by_offset {
        let range = segments[index].file_range();
        if range.start < at {
            return Err(ImageError::Segment { index, why: "it overlaps another one in the file" });
        }
        if range.start > at {
            gaps.push(at..range.start);
        }
        at = range.end;
    }
    if at < file_len {
        gaps.push(at..file_len);
    }
    Ok(gaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seg(file_offset: u64, pages: u64, first_page: u64, gpa: Option<u64>) -> Segment {
        Segment { file_offset, pages, first_page, gpa }
    }

    fn layout(file_len: u64, segments: &[Segment]) -> Result<ImageLayout, ImageError> {
        ImageLayout::new(ImageFormat::ElfCore, file_len, segments.to_vec())
    }

    #[test]
    fn finds_pages_addresses_and_what_lies_between() {
        let segments =
            [seg(100 + 2 * PAGE, 3, 0, Some(0)), seg(100, 2, 3, Some(1 << 20)), seg(40000, 1, 5, None)];
        let layout = layout(50000, &segments).unwrap();
        assert_eq!(layout.page_count(), 6);
        assert_eq!(layout.opaque_ranges(), [0..100, 100 + 5 * PAGE..40000, 40000 + PAGE..50000]);
        let offsets: Vec<_> = (0..7).map(|page| layout.file_offset_of(page)).collect();
        let expected = [8292, 12388, 16484, 100, 4196, 40000].map(Some);
        assert_eq!((&offsets[..6], offsets[6]), (&expected[..], None));
        assert_eq!(layout.gpa_of(2), Some(2 * PAGE));
        assert_eq!(layout.gpa_of(4), Some((1 << 20) + PAGE));
        assert_eq!(layout.gpa_of(5), None);
        assert_eq!(layout.page_at(2 * PAGE + 17), Some(2));
        assert_eq!(layout.page_at(1 << 20), Some(3));
        assert_eq!(layout.page_at(3 * PAGE), None);
        assert_eq!(layout.page_at((1 << 20) + 2 * PAGE - 1), Some(4));
        assert_eq!(layout.page_at(u64::MAX), None);
    }

    #[test]
    fn no_segments_is_all_opaque() {
        let layout = layout(7, &[]).unwrap();
        assert_eq!(layout.page_count(), 0);
        assert_eq!(layout.opaque_ranges(), std::slice::from_ref(&(0..7)));
        assert_eq!((layout.page_at(0), layout.file_offset_of(0)), (None, None));
    }

    #[test]
    fn each_rule_is_checked() {
        let bad: [(&str, &[Segment]); 12] = [
            ("no pages", &[seg(0, 0, 0, None)]),
            ("overflows", &[seg(0, u64::MAX, 0, None)]),
            ("overflows", &[seg(u64::MAX, 1, 0, None)]),
            ("past the end", &[seg(1, 4, 0, None)]),
            ("first page", &[seg(0, 1, 1, None)]),
            ("first page", &[seg(0, 1, 0, None), seg(PAGE, 1, 2, None)]),
            ("overlaps", &[seg(0, 2, 0, None), seg(PAGE, 1, 2, None)]),
            ("overlaps", &[seg(PAGE, 1, 0, None), seg(0, 2, 1, None)]),
            ("multiple of 4096", &[seg(0, 1, 0, Some(1))]),
            ("not above", &[seg(0, 2, 0, Some(0)), seg(2 * PAGE, 1, 2, Some(PAGE))]),
            ("after one without", &[seg(0, 1, 0, None), seg(PAGE, 1, 1, Some(0))]),
            ("addresses overflow", &[seg(0, 2, 0, Some(PAGE.wrapping_neg()))]),
        ];
        for (why, segments) in bad {
            let error = layout(4 * PAGE, segments).expect_err(why).to_string();
            assert!(error.contains(why), "{error} should speak of {why}");
        }
        assert!(matches!(layout(1 << 63, &[]), Err(ImageError::FileLength { .. })));
        let many = vec![seg(0, 1, 0, None); MAX_SEGMENTS + 1];
        assert!(matches!(layout(PAGE, &many), Err(ImageError::TooManySegments { .. })));
    }

    #[test]
    fn page_numbers_that_overflow_by_overlapping_segments_are_refused() {
        let pages = (i64::MAX as u64) / PAGE;
        let many: Vec<_> =
            (0..=MAX_SEGMENTS as u64 / 2).map(|n| seg(0, pages, n.wrapping_mul(pages), None)).collect();
        assert!(layout(i64::MAX as u64, &many).is_err());
    }
}
