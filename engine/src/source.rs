//! Where pages come from when a stream is written.

use std::io;
use std::ops::Range;

use crate::hold::Hold;
use crate::image::{MemoryImage, Run};
use crate::page::{PAGE_SIZE, Page};

/// Guest memory that cannot change while a stream is written from it: a mapped image, or captured copies.
///
/// Live guest memory is never handed to the engine directly: its pages are captured first, and the copies are
/// the source. A page must give the same bytes each time, since duplicates and long matches are compared with
/// pages sent before.
pub trait PageSource: Sync {
    /// Number of pages; page numbers go from 0 up to this.
    fn page_count(&self) -> u64;

    /// Consecutive pages from `page` on: at least one, at most `max`, and no further than one piece of memory
    /// holds them.
    fn run(&self, page: u64, max: u64) -> Run<'_>;

    /// One page, or `None` where it is a hole and reads as zero.
    fn page(&self, page: u64) -> Option<&Page> {
        match self.run(page, 1) {
            Run::Hole(_) => None,
            Run::Data(bytes) => bytes.first_chunk(),
        }
    }

    /// A page that is not in the block being coded, as the stream's blocks before that one left it; `first` is the first
    /// page of the block. `None` where this end does not know, or it is zero.
    ///
    /// Only differs from [`page`](Self::page) where pages are sent again.
    fn earlier<'p>(&'p self, page: u64, _first: u64, _scratch: &'p mut Page) -> Option<&'p Page> {
        self.page(page)
    }

    /// A page that is in the block being coded, as the stream's blocks before that one left it. `None` where it was not
    /// sent before, or this end does not know.
    fn version_before<'p>(&'p self, _page: u64, _scratch: &'p mut Page) -> Option<&'p Page> {
        None
    }

    /// Tells that these pages will be read soon, and asks whether they can be.
    ///
    /// # Errors
    ///
    /// Where reading them would end the process, as for a mapped file that was cut short.
    fn prepare(&self, _pages: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    /// Shares in the memory that [`run`](Self::run) gives slices of, for a device that can read it where it lies. Pages of
    /// which there is no share are copied to the device.
    fn holds(&self) -> Vec<Hold> {
        Vec::new()
    }
}

impl PageSource for MemoryImage {
    fn page_count(&self) -> u64 {
        MemoryImage::page_count(self)
    }

    fn run(&self, page: u64, max: u64) -> Run<'_> {
        MemoryImage::run(self, page, max)
    }

    fn page(&self, page: u64) -> Option<&Page> {
        MemoryImage::page(self, page)
    }

    fn prepare(&self, pages: Range<u64>) -> io::Result<()> {
        self.prefetch(pages)
    }

    fn holds(&self) -> Vec<Hold> {
        self.map().hold().into_iter().collect()
    }
}

/// Whole pages in memory, numbered from 0.
///
/// # Panics
///
/// `run` panics on a page that is not there, as slicing does.
impl PageSource for [u8] {
    fn page_count(&self) -> u64 {
        (self.len() / PAGE_SIZE) as u64
    }

    fn run(&self, page: u64, max: u64) -> Run<'_> {
        let pages = max.min(PageSource::page_count(self) - page);
        Run::Data(&self[page as usize * PAGE_SIZE..][..pages as usize * PAGE_SIZE])
    }
}
