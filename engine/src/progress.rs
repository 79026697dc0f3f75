//! Watching and stopping long work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Asks work to stop from another thread; clones belong together.
///
/// Work that was cancelled ends soon with an error that says so, and leaves nothing half-made behind.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A token that nobody has used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop. There is no way back.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself, for callees that poll one.
    pub fn flag(&self) -> &AtomicBool {
        &self.0
    }
}

/// How far work has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Pages done.
    pub pages: u64,
    /// Pages in all.
    pub total_pages: u64,
    /// Bytes of the stream written or read so far.
    pub stream_bytes: u64,
}

impl Progress {
    /// `pages` of `total_pages` done, and `stream_bytes` written or read.
    pub fn new(pages: u64, total_pages: u64, stream_bytes: u64) -> Self {
        Progress { pages, total_pages, stream_bytes }
    }
}

/// Is told of progress after each block, from any thread.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Sync);
