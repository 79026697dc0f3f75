//! Captured pages as a source: the new versions of some pages, over what the destination has of all others.

use super::past::LastSent;
use crate::image::Run;
use crate::page::{PAGE_SIZE, Page, PageSet};
use crate::source::PageSource;

/// The pages of one batch, and what was sent before it.
///
/// Nothing in here changes while the batch is coded: what it sends becomes the past only afterwards. A page comes once in
/// it, and its blocks hold consecutive parts of it, which is how a block knows of any page whether its new version is
/// with the destination already.
pub(super) struct Batch<'b> {
    pub(super) page_count: u64,
    pub(super) pages: &'b PageSet,
    /// The pages' bytes, in the order of the set.
    pub(super) bytes: &'b [u8],
    pub(super) past: &'b dyn LastSent,
}

impl Batch<'_> {
    /// A page of the batch.
    pub(super) fn new_version(&self, page: u64) -> Option<&Page> {
        let ordinal = self.pages.ordinal_of(page)? as usize;
        self.bytes[ordinal * PAGE_SIZE..].first_chunk()
    }
}

impl PageSource for Batch<'_> {
    fn page_count(&self) -> u64 {
        self.page_count
    }

    fn run(&self, page: u64, max: u64) -> Run<'_> {
        let Some(ordinal) = self.pages.ordinal_of(page) else { return Run::Hole(1.min(max)) };
        let range = self.pages.slice(ordinal..self.pages.len()).next();
        let pages = range.map_or(1, |range| range.end - range.start).min(max);
        Run::Data(&self.bytes[ordinal as usize * PAGE_SIZE..][..pages as usize * PAGE_SIZE])
    }

    fn earlier<'p>(&'p self, page: u64, first: u64, scratch: &'p mut Page) -> Option<&'p Page> {
        if page < first
            && let Some(new) = self.new_version(page)
        {
            return Some(new);
        }
        self.past.read(page, scratch).then_some(scratch)
    }

    fn version_before<'p>(&'p self, page: u64, scratch: &'p mut Page) -> Option<&'p Page> {
        self.past.read(page, scratch).then_some(scratch)
    }
}
