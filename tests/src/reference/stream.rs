//! Sections 2, 4, 5.3 and 8: a whole stream, frame after frame.

use std::collections::BTreeSet;

use super::block::{Block, Guest};
use super::bytes::{Cursor, hash64, hash128};
use super::columns::What;
use super::frame::{self, Frame, FrameType};
use super::header::Header;
use super::piece::Piece;
use super::script;
use super::trailer::{Entry, parse_end, parse_index};
use super::{Decoded, PAGE, Rules};

const MAX_OPAQUE: u64 = 1 << 22;

/// A stream that is being read; `decoded` is what its good frames gave.
pub(super) struct Walk<'a> {
    stream: &'a [u8],
    references: &'a [Option<Vec<u8>>],
    rules: Rules,
    pub(super) decoded: Decoded,
    /// What each page was in the last block that brought it.
    whats: Vec<Option<What>>,
    /// Pages that a block left for later, and that no block has brought since.
    pending: BTreeSet<u64>,
    index: Option<u64>,
    /// Blocks of RAM that scripts have defined: name, first page, pages.
    ram: Vec<(Vec<u8>, u64, u64)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(stream: &'a [u8], references: &'a [Option<Vec<u8>>], rules: Rules) -> Self {
        let decoded = Decoded::default();
        let (whats, pending) = (Vec::new(), BTreeSet::new());
        Self { stream, references, rules, decoded, whats, pending, index: None, ram: Vec::new() }
    }

    /// Reads to the end of the stream or to the first error.
    pub(super) fn run(&mut self) -> Result<(), String> {
        if self.stream.is_empty() {
            return Err("stream: it is empty, and should start with a header".into());
        }
        let mut offset = 0;
        while offset < self.stream.len() as u64 {
            let sequence = self.decoded.frames.len() as u64;
            let within = |e| format!("frame {sequence} at {offset}: {e}");
            let frame = frame::read(self.stream, offset, Some(sequence)).map_err(within)?;
            self.frame(&frame).map_err(within)?;
            self.decoded.frames.push(frame.view);
            offset = frame.view.end();
        }
        Ok(())
    }

    fn frame(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        let kind = frame.view.kind;
        let last = self.decoded.frames.last().map(|view| view.kind);
        match (last, kind) {
            (None, FrameType::Header) => self.header(frame),
            (None, _) => Err(format!("frame type: {kind:?}, but the first must be a header")),
            (_, FrameType::Header) => Err("frame type: a second header".into()),
            (Some(FrameType::End), _) => Err("frame type: there is a frame after the end frame".into()),
            (_, FrameType::End) => self.end(frame),
            (Some(FrameType::Index), _) => Err(format!("frame type: {kind:?} after the index")),
            (_, FrameType::Opaque) => self.opaque(frame),
            (_, FrameType::Block) => self.block(frame),
            (_, FrameType::Index) => self.index(frame),
            (_, FrameType::Piece) => self.piece(frame),
            (_, FrameType::Reference) => {
                Err("frame type: late references are derived, and this decoder makes none".into())
            }
        }
    }

    fn header(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        self.decoded.header = Header::parse(frame.meta)?;
        self.decoded.file = vec![0; self.decoded.header.file_len as usize];
        self.whats = vec![None; self.decoded.header.page_count as usize];
        Ok(())
    }

    /// Reading: of two opaque frames that give the same byte, the later one holds.
    fn opaque(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        if self.decoded.header.format == 4 {
            return Err("frame type: an opaque frame in a QEMU stream".into());
        }
        let mut cursor = Cursor::new(frame.meta);
        let file_offset = cursor.varint("opaque file_offset")?;
        let checksum = cursor.u64("opaque checksum")?;
        let piece = Piece::parse(&mut cursor, 0, &[0, 1]).map_err(|e| format!("opaque: {e}"))?;
        cursor.finish("opaque")?;
        if piece.raw_len > MAX_OPAQUE {
            return Err(format!("opaque raw_len: {} is above {MAX_OPAQUE}", piece.raw_len));
        }
        if piece.end(frame.view.data_len)? != u64::from(frame.view.data_len) {
            return Err("opaque data part: longer than the piece".into());
        }
        if !self.decoded.header.in_one_opaque_range(file_offset, piece.raw_len) {
            let len = piece.raw_len;
            return Err(format!(
                "opaque file_offset: {len} bytes from {file_offset} are not in one opaque range"
            ));
        }
        let bytes = piece.decode(frame.data).map_err(|e| format!("opaque: {e}"))?;
        if hash64(&bytes) != checksum {
            return Err("opaque checksum: the bytes are not those that were packed".into());
        }
        let start = file_offset as usize;
        self.decoded.file[start..start + bytes.len()].copy_from_slice(&bytes);
        Ok(())
    }

    fn piece(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        if self.rules == Rules::File {
            return Err("frame type: a piece in a file stream of memory".into());
        }
        let mut cursor = Cursor::new(frame.meta);
        let checksum = cursor.u64("piece checksum")?;
        let piece = Piece::parse(&mut cursor, 0, &[0, 1]).map_err(|e| format!("piece: {e}"))?;
        cursor.finish("piece")?;
        if piece.raw_len > MAX_OPAQUE {
            return Err(format!("piece raw_len: {} is above {MAX_OPAQUE}", piece.raw_len));
        }
        if piece.end(frame.view.data_len)? != u64::from(frame.view.data_len) {
            return Err("piece data part: longer than the piece".into());
        }
        let bytes = piece.decode(frame.data).map_err(|e| format!("piece: {e}"))?;
        if hash64(&bytes) != checksum {
            return Err("piece checksum: the bytes are not those that were sent".into());
        }
        if self.decoded.header.format == 4 {
            let header = &self.decoded.header;
            let page = |number: u64| {
                let start = header.offset_of(number);
                &self.decoded.file[start..start + PAGE]
            };
            let out = script::run(&bytes, header.page_count, &mut self.ram, page)?;
            self.decoded.qemu.extend(out);
        }
        self.decoded.pieces.extend_from_slice(&bytes);
        Ok(())
    }

    fn block(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        let header = &self.decoded.header;
        let mut block = Block::parse(frame, header)?;
        if self.rules == Rules::File {
            self.check_place(&block)?;
        }
        let file = &self.decoded.file;
        let guest = Guest { header, references: self.references, file, whats: &self.whats };
        let pages = block.rebuild(&guest)?;
        if block.set.ranges == [(self.decoded.reached, block.set.pages)] {
            self.decoded.reached += block.set.pages;
        } else {
            self.decoded.out_of_order = true;
        }
        for (ordinal, page) in pages.iter().enumerate() {
            let number = block.set.page(ordinal as u64);
            // Reading: where pages come again, one that is left for later is what it was until then.
            if block.whats[ordinal] == What::Later {
                self.pending.insert(number);
                continue;
            }
            self.pending.remove(&number);
            let start = self.decoded.header.offset_of(number);
            self.decoded.file[start..start + PAGE].copy_from_slice(page);
            self.whats[number as usize] = Some(block.whats[ordinal]);
        }
        self.decoded.pages += block.view.brings;
        self.decoded.blocks.push(block.view);
        Ok(())
    }

    /// Section 5.3: what the pages of a file stream's block may be.
    fn check_place(&self, block: &Block<'_>) -> Result<(), String> {
        if block.view.round != 0 {
            return Err(format!("round: {} in a file stream", block.view.round));
        }
        let (reached, set) = (self.decoded.reached, &block.set);
        if set.ranges == [(reached, set.pages)] {
            return Ok(());
        }
        let pages = || (0..set.pages).map(|ordinal| set.page(ordinal));
        if let Some(page) = pages().find(|page| !self.pending.contains(page)) {
            return Err(format!(
                "page set: page {page} is not pending, so a file stream should go on at page {reached}"
            ));
        }
        if block.whats.contains(&What::Later) {
            return Err("columns: pending pages are left for later once more".into());
        }
        Ok(())
    }

    fn index(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        if self.rules == Rules::Any {
            return Err("frame type: an index in a session".into());
        }
        let entries = parse_index(frame.meta)?;
        if self.decoded.out_of_order {
            return Err("index: there are blocks that do not start where the one before ends".into());
        }
        let wanted: Vec<Entry> = self
            .decoded
            .blocks
            .iter()
            .map(|view| Entry { offset: view.offset, first: view.ranges[0].0, pages: view.pages })
            .collect();
        if entries.len() != wanted.len() {
            return Err(format!("index blocks: {}, the stream has {}", entries.len(), wanted.len()));
        }
        for (number, (entry, wanted)) in entries.iter().zip(&wanted).enumerate() {
            if entry != wanted {
                return Err(format!("index block {number}: {entry:?}, should be {wanted:?}"));
            }
        }
        self.index = Some(frame.view.offset);
        Ok(())
    }

    fn end(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        let end = parse_end(frame.meta)?;
        let index = self.index.unwrap_or(0);
        if end.index != index {
            return Err(format!("end index offset: {}, should be {index}", end.index));
        }
        let Decoded { pages, header, blocks, reached, .. } = &self.decoded;
        if end.pages != *pages {
            return Err(format!("end pages: {}, the blocks have {pages}", end.pages));
        }
        if end.blocks != blocks.len() as u64 {
            return Err(format!("end blocks: {}, the stream has {}", end.blocks, blocks.len()));
        }
        let digests: Vec<u8> = blocks.iter().flat_map(|block| block.digest).collect();
        if end.digest != hash128(&digests) {
            return Err("end digest: it is not that of the blocks' digests".into());
        }
        // Reading: a file stream without an index is whole, too, for an index can be too long to be there.
        if self.rules == Rules::File && *reached != header.page_count {
            return Err(format!("end pages: the blocks have reached {reached} of {}", header.page_count));
        }
        if self.rules == Rules::File && !self.pending.is_empty() {
            return Err(format!("end pages: {} are left for later and never come", self.pending.len()));
        }
        self.decoded.complete = true;
        Ok(())
    }
}
