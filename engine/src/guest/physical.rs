//! Guest-physical memory as the guest's own addresses see it: frames of 4096 bytes, found in numbered pages.
//!
//! Everything read through here is whatever the guest wrote: nothing is trusted, and a frame that is not there is
//! `None`, never an error that ends the work.

use crate::image::ImageLayout;
use crate::page::{PAGE_SIZE, Page};
use crate::source::PageSource;

/// Frames that are holes of an image.
static ZERO: Page = [0; PAGE_SIZE];

/// A range of frames and the pages that hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First frame: guest-physical address divided by 4096.
    pub(crate) frame: u64,
    /// Number of its page.
    pub(crate) page: u64,
    /// How many.
    pub(crate) pages: u64,
}

/// Where guest-physical frames lie among pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrameMap {
    /// Ascending by frame, without overlap.
    pieces: Vec<Piece>,
    /// Indices of `pieces`, ascending by page.
    by_page: Vec<u32>,
}

/// Frames below 4 GiB that virtual machine monitors fill before the rest goes above: QEMU's q35 and pc, older pc machines, and
/// those that leave a hole of 1 GiB (Cloud Hypervisor, Firecracker), in frames.
const LOW_MEMORY: [u64; 3] = [2 << 18, 3 << 18, 7 << 17];
const FOUR_GIB: u64 = 4 << 18;
/// Where memory starts on 64-bit ARM: QEMU's virt and Cloud Hypervisor, then Firecracker, in frames.
const ARM_STARTS: [u64; 2] = [1 << 18, 2 << 18];

impl FrameMap {
    fn new(mut pieces: Vec<Piece>) -> Self {
        pieces.sort_unstable_by_key(|piece| piece.frame);
        let mut by_page: Vec<u32> = (0..pieces.len() as u32).collect();
        by_page.sort_unstable_by_key(|&index| pieces[index as usize].page);
        FrameMap { pieces, by_page }
    }

    /// What the image says; `None` if it gives no address at all.
    pub(crate) fn of_layout(layout: &ImageLayout) -> Option<Self> {
        let addressed = layout.segments().iter().filter_map(|segment| {
            let gpa = segment.gpa?;
            Some(Piece { frame: gpa / PAGE_SIZE as u64, page: segment.first_page, pages: segment.pages })
        });
        let pieces: Vec<Piece> = addressed.collect();
        (!pieces.is_empty()).then(|| Self::new(pieces))
    }

    /// The ways in which `pages` pages of RAM without addresses may lie in the guest: all from 0 on, with a hole
    /// below 4 GiB, or from where ARM machines have it. Which of them it is, is for the caller to try.
    pub(crate) fn guesses(pages: u64) -> Vec<Self> {
        let from = |frame| Self::new(vec![Piece { frame, page: 0, pages }]);
        let split = LOW_MEMORY.iter().filter(|&&low| low < pages).map(|&low| {
            Self::new(vec![
                Piece { frame: 0, page: 0, pages: low },
                Piece { frame: FOUR_GIB, page: low, pages: pages - low },
            ])
        });
        std::iter::once(from(0)).chain(split).chain(ARM_STARTS.map(from)).collect()
    }

    /// The page that holds a frame.
    pub(crate) fn page_of(&self, frame: u64) -> Option<u64> {
        let after = self.pieces.partition_point(|piece| piece.frame <= frame);
        let piece = self.pieces[..after].last()?;
        let offset = frame - piece.frame;
        (offset < piece.pages).then(|| piece.page + offset)
    }

    /// The frame that a page holds.
    pub(crate) fn frame_of(&self, page: u64) -> Option<u64> {
        let after = self.by_page.partition_point(|&index| self.pieces[index as usize].page <= page);
        let piece = self.pieces[*self.by_page[..after].last()? as usize];
        let offset = page - piece.page;
        (offset < piece.pages).then(|| piece.frame + offset)
    }

    /// The pieces, ascending by frame.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

/// Captured pages, read by guest-physical address.
pub(crate) struct Physical<'a, S: ?Sized> {
    pub(crate) source: &'a S,
    pub(crate) frames: &'a FrameMap,
}

impl<S: ?Sized> Clone for Physical<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: ?Sized> Copy for Physical<'_, S> {}

impl<'a, S: PageSource + ?Sized> Physical<'a, S> {
    /// A frame's bytes.
    pub(crate) fn frame(&self, frame: u64) -> Option<&'a Page> {
        let page = self.frames.page_of(frame)?;
        Some(self.source.page(page).unwrap_or(&ZERO))
    }

    /// Bytes at an address, if they lie in one frame.
    pub(crate) fn bytes<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let offset = (address % PAGE_SIZE as u64) as usize;
        let bytes = self.frame(address / PAGE_SIZE as u64)?.get(offset..offset.checked_add(N)?)?;
        bytes.try_into().ok()
    }

    /// The little-endian word at an address that is a multiple of 8.
    pub(crate) fn word(&self, address: u64) -> Option<u64> {
        self.bytes(address).map(u64::from_le_bytes)
    }
}

/// The little-endian word at a byte offset of a page; 0 beyond its end.
pub(crate) fn word_at(page: &Page, offset: usize) -> u64 {
    let bytes = page.get(offset..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_pages_find_each_other() {
        let pieces = [(10, 5, 3), (0, 0, 5), (100, 8, 2)];
        let map = FrameMap::new(pieces.map(|(frame, page, pages)| Piece { frame, page, pages }).to_vec());
        for (frame, page) in [(0, 0), (4, 4), (10, 5), (12, 7), (100, 8), (101, 9)] {
            assert_eq!((map.page_of(frame), map.frame_of(page)), (Some(page), Some(frame)));
        }
        for frame in [5, 9, 13, 102, u64::MAX] {
            assert_eq!(map.page_of(frame), None);
        }
        assert_eq!(map.frame_of(10), None);
    }

    #[test]
    fn small_memory_has_no_hole_and_large_memory_may() {
        let holes = |pages| FrameMap::guesses(pages).iter().filter(|map| map.pieces().len() == 2).count();
        assert_eq!((holes(1 << 18), holes(8 << 18)), (0, 3));
        let guesses = FrameMap::guesses(8 << 18);
        assert_eq!(guesses[0].page_of(7), Some(7));
        assert_eq!(guesses[2].page_of(FOUR_GIB), Some(3 << 18));
        assert_eq!(guesses[4].page_of(1 << 18), Some(0));
    }

    #[test]
    fn reads_stay_within_frames() {
        let mut bytes = vec![0; 2 * PAGE_SIZE];
        bytes[8..16].copy_from_slice(&77u64.to_le_bytes());
        let frames = FrameMap::new(vec![Piece { frame: 5, page: 0, pages: 2 }]);
        let memory = Physical { source: &bytes[..], frames: &frames };
        assert_eq!(memory.word(5 * 4096 + 8), Some(77));
        assert_eq!(memory.word(5 * 4096 + 4092), None);
        assert_eq!(memory.word(7 * 4096), None);
        assert_eq!(memory.bytes::<2>(u64::MAX), None);
        assert_eq!(word_at(&[1; PAGE_SIZE], 4093), 0);
    }
}
