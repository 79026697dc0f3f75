//! Makes a fuzzer's bytes into a stream whose lengths, checksums and digests hold, as an attacker would.
//!
//! The input is cut at each frame magic, so a byte that was added or lost moves no later frame. Each frame keeps its
//! type and its meta part as they are; then, in order: the data part gets the length that its pieces add up to, the
//! pieces get their checksums, a block of one range goes on where the last such block ended (unless it brings pages that
//! were left for later), blocks whose pages came out with another digest get that one (and its checks), index and end are
//! written anew. Blocks of a session stay where they are. A frame whose first reserved byte is odd is left alone but for its checksum, so that wrong ends and
//! lengths come by, too.

use std::collections::BTreeSet;

use mig_engine::{BlockDecoder, DecodeError, Header, Level, ParsedBlock, Settled, SettledRun};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::reads::open_header;
use crate::references;
use crate::store::MemStore;

const MAGIC: &[u8; 4] = b"MiGf";
const HEAD: usize = 32;
/// No data part is made longer than this.
const MAX_DATA: u64 = 2 << 20;

/// The numbers of the frame types that are treated here.
mod kind {
    pub(super) const OPAQUE: u8 = 2;
    pub(super) const BLOCK: u8 = 3;
    pub(super) const INDEX: u8 = 4;
    pub(super) const END: u8 = 5;
    pub(super) const PIECE: u8 = 6;
}

/// A frame apart from what depends on its place.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// Its type, by number.
    pub kind: u8,
    /// Whether it is to be left as it is.
    pub as_is: bool,
    /// The meta part.
    pub meta: Vec<u8>,
    /// The data part.
    pub data: Vec<u8>,
}

impl Frame {
    /// As the engine takes it, the first of its stream; None for a type that there is not, and for parts too long.
    pub fn alone(&self) -> Option<mig_engine::Frame> {
        mig_engine::Frame::parse(&join(std::slice::from_ref(self)), 0).ok()
    }
}

/// Cuts bytes at frame magics.
pub fn split(bytes: &[u8]) -> Vec<Frame> {
    let mut starts: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(MAGIC)).collect();
    starts.push(bytes.len());
    let frames = starts.windows(2).filter_map(|pair| {
        let (head, body) = bytes[pair[0]..pair[1]].split_first_chunk::<HEAD>()?;
        let meta_len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let (meta, data) = body.split_at(meta_len.min(body.len()));
        Some(Frame { kind: head[5], as_is: head[6] & 1 == 1, meta: meta.to_vec(), data: data.to_vec() })
    });
    frames.collect()
}

/// Writes frames with their numbers and checksums.
pub fn join(frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    for (sequence, frame) in frames.iter().enumerate() {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[mig_tests::handmade::VERSION, frame.kind, 0, 0]);
        out.extend_from_slice(&(frame.meta.len() as u32).to_le_bytes());
        out.extend_from_slice(&(frame.data.len() as u32).to_le_bytes());
        out.extend_from_slice(&(sequence as u64).to_le_bytes());
        let checksum = xxh3_64(&[&out[start..], &frame.meta].concat());
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(&frame.meta);
        out.extend_from_slice(&frame.data);
    }
    out
}

/// All that the head of this module says, for a file stream.
pub fn seal(bytes: &[u8]) -> Vec<u8> {
    seal_as(bytes, Sort::File)
}

/// The same for a session, in which blocks may hold any pages.
pub fn seal_session(bytes: &[u8]) -> Vec<u8> {
    seal_as(bytes, Sort::Session)
}

/// What a stream is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    File,
    Session,
}

fn seal_as(bytes: &[u8], sort: Sort) -> Vec<u8> {
    let mut frames = split(bytes);
    for frame in frames.iter_mut().filter(|frame| !frame.as_is) {
        seal_pieces(frame);
    }
    let header = frames.first().and_then(|first| open_header(&join(std::slice::from_ref(first))));
    let later = header.map_or_else(Vec::new, |header| seal_blocks(&mut frames, &header, sort));
    seal_trailer(&mut frames, &later);
    join(&frames)
}

/// Where things are in a block's meta part.
struct Parts {
    /// Bytes up to the end of the page set, its number of ranges (0 for a list), the first page of the first one (0 for a
    /// list), and the pages of all together.
    set_end: usize,
    ranges: u64,
    first: u64,
    pages: u64,
    round: u64,
    digest_at: usize,
    has_matches: bool,
    has_checks: bool,
    pieces: Vec<PieceAt>,
}

#[derive(Clone, Copy, Debug)]
pub struct PieceAt {
    pub checksum_at: Option<usize>,
    pub coded_len: u64,
}

/// A cursor that gives up where the meta part makes no sense.
struct Walk<'a> {
    meta: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    fn skip(&mut self, count: usize) -> Option<usize> {
        let from = self.at;
        self.at = from.checked_add(count).filter(|&end| end <= self.meta.len())?;
        Some(from)
    }

    fn byte(&mut self) -> Option<u8> {
        self.skip(1).map(|at| self.meta[at])
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A length, and so many bytes.
    fn bytes(&mut self) -> Option<usize> {
        let len = self.varint()?;
        self.skip(usize::try_from(len).ok()?)
    }

    fn piece(&mut self) -> Option<PieceAt> {
        let codec = self.byte()?;
        let raw_len = self.varint()?;
        if codec == 0 {
            return Some(PieceAt { checksum_at: None, coded_len: raw_len });
        }
        let coded_len = self.varint()?;
        Some(PieceAt { checksum_at: Some(self.skip(8)?), coded_len })
    }

    fn block(&mut self) -> Option<Parts> {
        let round = self.varint()?;
        let ranges = self.varint()?;
        let (mut first, mut pages) = (None, 0u64);
        if ranges == 0 {
            pages = self.varint()?;
            self.bytes()?;
        }
        for _ in 0..ranges {
            let gap = self.varint()?;
            first.get_or_insert(gap);
            pages = pages.checked_add(self.varint()?)?;
        }
        let set_end = self.at;
        let digest_at = self.skip(16)?;
        self.bytes()?;
        let flags = self.byte()?;
        let (has_matches, has_checks) = (flags & 1 != 0, flags & 2 != 0);
        let mut pieces = Vec::new();
        for _ in 0..u8::from(has_matches) + u8::from(has_checks) {
            pieces.push(self.piece()?);
        }
        // Addresses, then bases.
        for _ in 0..(flags >> 2 & 1) + (flags >> 3 & 1) {
            self.bytes()?;
        }
        for _ in 0..self.varint()? {
            self.byte()?;
            self.varint()?;
            pieces.push(self.piece()?);
        }
        let first = first.unwrap_or_default();
        Some(Parts { set_end, ranges, first, pages, round, digest_at, has_matches, has_checks, pieces })
    }
}

pub fn pieces_of(frame: &Frame) -> Option<Vec<PieceAt>> {
    let mut walk = Walk { meta: &frame.meta, at: 0 };
    match frame.kind {
        kind::BLOCK => walk.block().map(|parts| parts.pieces),
        kind::OPAQUE => {
            walk.varint()?;
            walk.skip(8)?;
            walk.piece().map(|piece| vec![piece])
        }
        kind::PIECE => {
            walk.skip(8)?;
            walk.piece().map(|piece| vec![piece])
        }
        _ => None,
    }
}

/// Gives the data part the length of its pieces, and these their checksums.
pub fn seal_pieces(frame: &mut Frame) {
    let Some(pieces) = pieces_of(frame) else { return };
    let total = pieces.iter().fold(0u64, |sum, piece| sum.saturating_add(piece.coded_len));
    if total > MAX_DATA {
        return;
    }
    frame.data.resize(total as usize, 0);
    let mut at = 0;
    for piece in pieces {
        let coded = &frame.data[at..at + piece.coded_len as usize];
        if let Some(place) = piece.checksum_at {
            frame.meta[place..place + 8].copy_from_slice(&xxh3_64(coded).to_le_bytes());
        } else if frame.kind == kind::OPAQUE {
            // Only of raw bytes: what is packed is decoded by nobody here.
            let place = Walk { meta: &frame.meta, at: 0 }.varint_len();
            frame.meta[place..place + 8].copy_from_slice(&xxh3_64(coded).to_le_bytes());
        }
        if frame.kind == kind::PIECE && piece.checksum_at.is_none() {
            frame.meta[..8].copy_from_slice(&xxh3_64(coded).to_le_bytes());
        }
        at += piece.coded_len as usize;
    }
}

impl Walk<'_> {
    fn varint_len(mut self) -> usize {
        self.varint();
        self.at
    }
}

/// Moves blocks to where they belong, and gives them the digests of what they decode to. For each frame, how many pages it
/// leaves for later.
fn seal_blocks(frames: &mut [Frame], header: &Header, sort: Sort) -> Vec<u64> {
    let decoder = BlockDecoder::new(header, references::at_hand(), Level::best());
    let store = MemStore::default();
    let mut left = vec![0; frames.len()];
    let (mut next, mut pending) = (0u64, BTreeSet::new());
    for (frame, left) in frames.iter_mut().zip(&mut left).filter(|(frame, _)| frame.kind == kind::BLOCK) {
        let Some(parts) = (Walk { meta: &frame.meta, at: 0 }).block() else { continue };
        let mut range = parts.first..parts.first.saturating_add(parts.pages.min(1 << 16));
        let goes_on = parts.ranges == 1 && !range.all(|page| pending.contains(&page));
        if sort == Sort::File && goes_on && parts.first != next && !frame.as_is {
            let mut meta = Vec::new();
            for value in [parts.round, 1, next, parts.pages] {
                mig_tests::handmade::varint(&mut meta, value);
            }
            meta.extend_from_slice(&frame.meta[parts.set_end..]);
            frame.meta = meta;
        }
        if goes_on {
            next = next.saturating_add(parts.pages);
        }
        let Some(Ok(parsed)) = frame.alone().map(|frame| decoder.parse(frame)) else { continue };
        for (page, settled) in kinds(&parsed) {
            if settled == Settled::Later {
                *left += 1;
                pending.insert(page);
            } else {
                pending.remove(&page);
            }
        }
        if let Err(DecodeError::Digest { .. }) = decoder.apply(&parsed, &store)
            && !frame.as_is
        {
            seal_digest(frame, &parsed, &store);
        }
    }
    left
}

/// The pages of a block, with what they are.
fn kinds(parsed: &ParsedBlock) -> impl Iterator<Item = (u64, Settled)> {
    let settled = |run: &SettledRun| std::iter::repeat_n(run.settled, run.pages as usize);
    parsed.pages().ranges().flatten().zip(parsed.runs().iter().flat_map(settled))
}

/// Puts in the digest and the checks of the pages that a block was seen to store.
fn seal_digest(frame: &mut Frame, parsed: &ParsedBlock, store: &MemStore) {
    let Some(parts) = (Walk { meta: &frame.meta, at: 0 }).block() else { return };
    let brought = kinds(parsed).filter(|(_, settled)| *settled != Settled::Later);
    let prints: Vec<(Settled, [u8; 16])> =
        brought.map(|(number, settled)| (settled, xxh3_128(&store.page(number)).to_le_bytes())).collect();
    let all: Vec<u8> = prints.iter().flat_map(|(_, print)| *print).collect();
    let digest = xxh3_128(&all).to_le_bytes();
    frame.meta[parts.digest_at..parts.digest_at + 16].copy_from_slice(&digest);
    if parts.has_checks {
        let held = |settled: &Settled| !matches!(settled, Settled::Zero | Settled::Uniform(_));
        let checked = prints.iter().filter(|(settled, _)| held(settled));
        let checks: Vec<u8> = checked.flat_map(|(_, print)| print[..8].to_vec()).collect();
        let at = if parts.has_matches { parts.pieces[0].coded_len as usize } else { 0 };
        if let Some(place) = frame.data.get_mut(at..at + checks.len()) {
            place.copy_from_slice(&checks);
        }
    }
}

/// Writes the index and end frames anew; `later` says how many pages each frame leaves for later.
fn seal_trailer(frames: &mut [Frame], later: &[u64]) {
    let mut offset = 0u64;
    let (mut blocks, mut digests, mut index_at, mut pages) = (Vec::new(), Vec::new(), 0, 0u64);
    for (number, frame) in frames.iter_mut().enumerate() {
        match frame.kind {
            kind::BLOCK => {
                if let Some(parts) = (Walk { meta: &frame.meta, at: 0 }).block() {
                    blocks.push((offset, parts.first, parts.pages));
                    digests.extend_from_slice(&frame.meta[parts.digest_at..parts.digest_at + 16]);
                    let left = later.get(number).copied().unwrap_or_default();
                    pages = pages.saturating_add(parts.pages.saturating_sub(left));
                }
            }
            kind::INDEX => {
                index_at = offset;
                if !frame.as_is {
                    frame.meta = index_meta(&blocks);
                }
            }
            kind::END if !frame.as_is => {
                frame.meta = index_at.to_le_bytes().to_vec();
                frame.meta.extend_from_slice(&pages.to_le_bytes());
                frame.meta.extend_from_slice(&(blocks.len() as u64).to_le_bytes());
                frame.meta.extend_from_slice(&xxh3_128(&digests).to_le_bytes());
                frame.data.clear();
            }
            _ => {}
        }
        offset += (HEAD + frame.meta.len() + frame.data.len()) as u64;
    }
}

fn index_meta(blocks: &[(u64, u64, u64)]) -> Vec<u8> {
    let mut meta = Vec::new();
    mig_tests::handmade::varint(&mut meta, blocks.len() as u64);
    let (mut last, mut end) = (0, 0u64);
    for &(offset, first, pages) in blocks {
        for value in [offset - last, first.wrapping_sub(end), pages] {
            mig_tests::handmade::varint(&mut meta, value);
        }
        (last, end) = (offset, first.saturating_add(pages));
    }
    meta
}
