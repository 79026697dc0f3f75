//! Pieces of host memory that are imported, and kept for as long as pages near by are scanned.
//!
//! Held memory is divided into shares of equal length from its first page on. The piece of a share reaches a page further,
//! so a page that starts in a share lies wholly in its piece, at any alignment. Importing has the kernel pin the pages,
//! which takes time, so pieces are kept: up to [`KEPT`] bytes of them, the last used.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::{Gpu, Inner};
use super::fault::Fault;
use super::import::PAGE;
use crate::hold::Hold;
use crate::page::PAGE_SIZE;
use crate::source::PageSource;

/// Bytes that stay imported. Pinned memory can't be swapped out, or moved into huge pages.
pub(super) const KEPT: u64 = 1 << 30;

const NOT_HELD: &str = "the memory is not held";

/// Imports pieces of a source's memory.
#[derive(Debug)]
pub(super) struct Pieces {
    holds: Vec<Hold>,
    /// The last used at the end.
    kept: VecDeque<Piece>,
}

#[derive(Debug)]
struct Piece {
    hold: usize,
    share: usize,
    buffer: wgpu::Buffer,
}

/// Pages that lie one after the other in one piece.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) buffer: wgpu::Buffer,
    /// Where they start in it, in words of 8 bytes.
    pub(super) word: u32,
    pub(super) pages: usize,
}

impl Pieces {
    pub(super) fn new(holds: Vec<Hold>) -> Self {
        Pieces { holds, kept: VecDeque::new() }
    }

    /// Finds out whether the first of the memory can be imported, before anything is made ready for it.
    ///
    /// # Errors
    ///
    /// Why not, in words.
    pub(super) fn probe(&mut self, gpu: &Inner) -> Result<(), String> {
        let Some(hold) = self.holds.first() else { return Err(NOT_HELD.into()) };
        let shares = Shares::of(hold, gpu)?;
        self.piece(gpu, 0, 0, &shares).map(drop)
    }

    /// The pieces in which these whole pages lie.
    ///
    /// # Errors
    ///
    /// Why they can't be imported, in words.
    pub(super) fn find(&mut self, gpu: &Inner, bytes: &[u8]) -> Result<Vec<Span>, String> {
        let Some(hold) = self.holds.iter().position(|hold| hold.covers(bytes)) else {
            return Err("it is not held in memory".into());
        };
        let shares = Shares::of(&self.holds[hold], gpu)?;
        let mut at = bytes.as_ptr().addr();
        let end = at + bytes.len();
        if !at.is_multiple_of(8) {
            return Err("its pages don't start at words of 8 bytes".into());
        }
        let mut spans = Vec::new();
        while at < end {
            let share = (at - shares.base) / shares.len;
            let start = shares.start(share);
            // As many pages as start in this share.
            let pages = (shares.start(share + 1).min(end) - at).div_ceil(PAGE_SIZE);
            let buffer = self.piece(gpu, hold, share, &shares)?;
            spans.push(Span { buffer, word: ((at - start) / 8) as u32, pages });
            at += pages * PAGE_SIZE;
        }
        Ok(spans)
    }

    fn piece(
        &mut self,
        gpu: &Inner,
        hold: usize,
        share: usize,
        shares: &Shares,
    ) -> Result<wgpu::Buffer, String> {
        if let Some(at) = self.kept.iter().position(|piece| (piece.hold, piece.share) == (hold, share)) {
            let piece = self.kept.remove(at).expect("it was found there");
            let buffer = piece.buffer.clone();
            self.kept.push_back(piece);
            return Ok(buffer);
        }
        let buffer = import(gpu, &self.holds[hold], shares.piece(share))?;
        while (self.kept.len() as u64 + 1) * gpu.sizes.piece > KEPT.max(gpu.sizes.piece) {
            self.kept.pop_front();
        }
        self.kept.push_back(Piece { hold, share, buffer: buffer.clone() });
        Ok(buffer)
    }
}

/// Finds memory among what is to stay imported, or imports it.
fn import(gpu: &Inner, hold: &Hold, addresses: Range<usize>) -> Result<wgpu::Buffer, String> {
    if let Some(buffer) = gpu.imported.find(&addresses) {
        return Ok(buffer);
    }
    let importer = gpu.importer.as_ref().ok_or_else(|| match &gpu.adapter.import {
        Err(why) => why.clone(),
        Ok(_) => "importing is off".into(),
    })?;
    let buffer = importer.import(&gpu.device, hold, addresses)?;
    gpu.counters.imports.fetch_add(1, Ordering::Relaxed);
    Ok(buffer)
}

/// How held memory is divided.
struct Shares {
    /// Where the first share starts.
    base: usize,
    /// Where the held memory ends.
    end: usize,
    /// Bytes of a share.
    len: usize,
}

impl Shares {
    fn of(hold: &Hold, gpu: &Inner) -> Result<Self, String> {
        let (held, page, len) = (hold.addresses(), PAGE as usize, gpu.sizes.piece as usize);
        if len == 0 {
            return Err("the adapter's buffers are too small".into());
        }
        Ok(Shares { base: held.start / page * page, end: held.end, len })
    }

    fn count(&self) -> usize {
        (self.end - self.base).div_ceil(self.len)
    }

    fn start(&self, share: usize) -> usize {
        self.base + share * self.len
    }

    /// What is imported for a share.
    fn piece(&self, share: usize) -> Range<usize> {
        let page = PAGE as usize;
        self.start(share)..(self.start(share + 1) + page).min(self.end.next_multiple_of(page))
    }
}

/// Pieces that stay imported for as long as somebody wants them to, by their addresses.
///
/// A buffer of imported memory owns a share in it, so while one is here nothing else can have its addresses.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<HashMap<(usize, usize), (wgpu::Buffer, usize)>>);

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<(usize, usize), (wgpu::Buffer, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, addresses: &Range<usize>) -> Option<wgpu::Buffer> {
        self.lock().get(&(addresses.start, addresses.end)).map(|(buffer, _)| buffer.clone())
    }
}

/// Memory that stays imported while this exists: see [`Gpu::import`].
#[derive(Debug)]
#[must_use = "memory is let go of when this is dropped"]
pub struct Imported {
    gpu: Arc<Inner>,
    pieces: Vec<Range<usize>>,
    bytes: u64,
}

impl Imported {
    /// Bytes that are imported.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Gpu {
    /// Imports a source's memory at once, at most `limit` bytes of it, for as long as what is given back exists: for memory that is scanned
    /// more than once, as a VMM's is in the rounds of a live migration and in one snapshot after the other.
    ///
    /// The kernel pins each page for the device, which takes more than a third of what a thread needs to scan it; without this, that is
    /// done for each scan. Pinned memory can't be swapped out, and the memory stays mapped.
    ///
    /// # Errors
    ///
    /// [`Fault::NoImport`]: the source's memory is not held, or the driver does not import such memory.
    pub fn import<S: PageSource + ?Sized>(&self, source: &S, limit: u64) -> Result<Imported, Fault> {
        let gpu = &self.inner;
        let mut imported = Imported { gpu: gpu.clone(), pieces: Vec::new(), bytes: 0 };
        let holds = source.holds();
        if holds.is_empty() {
            return Err(Fault::NoImport(NOT_HELD.into()));
        }
        for hold in &holds {
            let shares = Shares::of(hold, gpu).map_err(Fault::NoImport)?;
            for piece in (0..shares.count()).map(|share| shares.piece(share)) {
                let bytes = piece.len().min(shares.len) as u64;
                if imported.bytes + bytes > limit {
                    return Ok(imported);
                }
                let buffer = import(gpu, hold, piece.clone()).map_err(Fault::NoImport)?;
                let mut registry = gpu.imported.lock();
                registry.entry((piece.start, piece.end)).or_insert((buffer, 0)).1 += 1;
                imported.pieces.push(piece);
                imported.bytes += bytes;
            }
        }
        Ok(imported)
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        let mut registry = self.gpu.imported.lock();
        for piece in &self.pieces {
            let key = (piece.start, piece.end);
            if let Some((_, users)) = registry.get_mut(&key) {
                *users -= 1;
                if *users == 0 {
                    registry.remove(&key);
                }
            }
        }
        drop(registry);
        self.gpu.let_go();
    }
}
