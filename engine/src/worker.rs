//! Scan workers: who turns a batch of pages into records.
//!
//! The CPU is one worker, a GPU another; batches go to whichever is idle, and the records are the same bytes
//! whoever made them. Fingerprints and counters are defined by `mig_simd::page_scan`.

use mig_simd::{Level, PageRecord, page_scan};

/// Scans batches of captured pages.
pub trait ScanWorker: Send + Sync + std::fmt::Debug {
    /// A word for reports, such as `avx2`.
    fn name(&self) -> &str;

    /// Fills one record for each page of `pages`, which are `records.len()` times 4096 bytes.
    fn scan(&self, pages: &[u8], records: &mut [PageRecord]);
}

/// The calling thread, at a SIMD level.
#[derive(Clone, Copy, Debug)]
pub struct CpuWorker {
    /// The level of its kernels.
    pub level: Level,
}

impl ScanWorker for CpuWorker {
    fn name(&self) -> &str {
        self.level.name()
    }

    fn scan(&self, pages: &[u8], records: &mut [PageRecord]) {
        page_scan(self.level, pages, records);
    }
}
