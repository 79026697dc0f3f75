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
        let Some(held) = self.holds.first().map(Hold::addresses) else {
            return Err("the memory is not held".into());
        };
        let page = PAGE as usize;
        let start = held.start / page * page;
        let end = (start + gpu.sizes.piece as usize + page).min(held.end.next_multiple_of(page));
        self.piece(gpu, 0, 0, start..end).map(drop)
    }

    /// The pieces in which these whole pages lie.
    ///
    /// # Errors
    ///
    /// Why they can't be imported, in words.
    pub(super) fn find(&mut self, gpu: &Inner, bytes: &[u8]) -> Result<Vec<Span>, String> {
        let share_len = gpu.sizes.piece as usize;
        let Some(hold) = self.holds.iter().position(|hold| hold.covers(bytes)) else {
            return Err("it is not held in memory".into());
        };
        if share_len == 0 {
            return Err("the adapter's buffers are too small".into());
        }
        let addresses = self.holds[hold].addresses();
        let base = addresses.start / PAGE as usize * PAGE as usize;
        let mut at = bytes.as_ptr().addr();
        let end = at + bytes.len();
        if !at.is_multiple_of(8) {
            return Err("its pages don't start at words of 8 bytes".into());
        }
        let mut spans = Vec::new();
        while at < end {
            let share = (at - base) / share_len;
            let start = base + share * share_len;
            // As many pages as start in this share.
            let pages = ((start + share_len).min(end) - at).div_ceil(PAGE_SIZE);
            let last = addresses.end.next_multiple_of(PAGE as usize);
            let piece = start..(start + share_len + PAGE as usize).min(last);
            let buffer = self.piece(gpu, hold, share, piece)?;
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
        addresses: Range<usize>,
    ) -> Result<wgpu::Buffer, String> {
        if let Some(at) = self.kept.iter().position(|piece| (piece.hold, piece.share) == (hold, share)) {
            let piece = self.kept.remove(at).expect("it was found there");
            let buffer = piece.buffer.clone();
            self.kept.push_back(piece);
            return Ok(buffer);
        }
        if let Some(buffer) = gpu.imported.find(&addresses) {
            return Ok(buffer);
        }
        let buffer = import(gpu, &self.holds[hold], addresses)?;
        while (self.kept.len() as u64 + 1) * gpu.sizes.piece > KEPT.max(gpu.sizes.piece) {
            self.kept.pop_front();
        }
        self.kept.push_back(Piece { hold, share, buffer: buffer.clone() });
        Ok(buffer)
    }
}

fn import(gpu: &Inner, hold: &Hold, addresses: Range<usize>) -> Result<wgpu::Buffer, String> {
    let importer = gpu.importer.as_ref().ok_or_else(|| match &gpu.adapter.import {
        Err(why) => why.clone(),
        Ok(_) => "importing is off".into(),
    })?;
    let buffer = importer.import(&gpu.device, hold, addresses)?;
    gpu.counters.imports.fetch_add(1, Ordering::Relaxed);
    Ok(buffer)
}

/// The shares into which held memory is divided, with the piece of each.
fn shares(held: &Range<usize>, share_len: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let page = PAGE as usize;
    let (base, last) = (held.start / page * page, held.end.next_multiple_of(page));
    (base..held.end).step_by(share_len.max(1)).map(move |start| start..(start + share_len + page).min(last))
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
    /// The kernel pins each page for the device, which takes it as long as a CPU needs to scan a quarter of the page or so; without this, that is
    /// done for each scan. Pinned memory can't be swapped out, and the memory stays mapped.
    ///
    /// # Errors
    ///
    /// [`Fault::NoImport`]: the source's memory is not held, or the driver does not import such memory.
    pub fn import<S: PageSource + ?Sized>(&self, source: &S, limit: u64) -> Result<Imported, Fault> {
        let gpu = &self.inner;
        let share_len = gpu.sizes.piece as usize;
        let mut imported = Imported { gpu: gpu.clone(), pieces: Vec::new(), bytes: 0 };
        let holds = source.holds();
        if holds.is_empty() {
            return Err(Fault::NoImport("the memory is not held".into()));
        }
        if share_len == 0 {
            return Err(Fault::NoImport("the adapter's buffers are too small".into()));
        }
        for hold in &holds {
            for piece in shares(&hold.addresses(), share_len) {
                let share = piece.len().min(share_len) as u64;
                if imported.bytes + share > limit {
                    return Ok(imported);
                }
                let known = gpu.imported.find(&piece);
                let buffer = match known {
                    Some(buffer) => buffer,
                    None => import(gpu, hold, piece.clone()).map_err(Fault::NoImport)?,
                };
                let mut registry = gpu.imported.lock();
                registry.entry((piece.start, piece.end)).or_insert((buffer, 0)).1 += 1;
                imported.pieces.push(piece);
                imported.bytes += share;
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
