//! Pieces of host memory that are imported, and kept for as long as pages near by are scanned.
//!
//! Held memory is divided into shares of equal length from its first page on. The piece of a share reaches a page further,
//! so a page that starts in a share lies wholly in its piece, at any alignment. Importing has the kernel pin the pages,
//! which takes time, so pieces are kept: up to [`KEPT`] bytes of them, the last used.

use std::collections::VecDeque;

use super::device::Inner;
use super::import::PAGE;
use crate::hold::Hold;
use crate::page::PAGE_SIZE;

/// Bytes that stay imported. Pinned memory can't be swapped out, or moved into huge pages.
const KEPT: u64 = 1 << 30;

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
        addresses: std::ops::Range<usize>,
    ) -> Result<wgpu::Buffer, String> {
        if let Some(at) = self.kept.iter().position(|piece| (piece.hold, piece.share) == (hold, share)) {
            let piece = self.kept.remove(at).expect("it was found there");
            let buffer = piece.buffer.clone();
            self.kept.push_back(piece);
            return Ok(buffer);
        }
        let importer = gpu.importer.as_ref().ok_or_else(|| match &gpu.adapter.import {
            Err(why) => why.clone(),
            Ok(_) => "importing is off".into(),
        })?;
        let buffer = importer.import(&gpu.device, &self.holds[hold], addresses)?;
        while (self.kept.len() as u64 + 1) * gpu.sizes.piece > KEPT.max(gpu.sizes.piece) {
            self.kept.pop_front();
        }
        self.kept.push_back(Piece { hold, share, buffer: buffer.clone() });
        Ok(buffer)
    }
}
