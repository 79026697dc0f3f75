//! Block frames: the pages of one set, settled and residual.

use super::limits;
use super::wire::{Input, put_varint};
use crate::class::Class;
use crate::error::DecodeError;
use crate::page::{PAGE_SIZE, PageSet};

/// How a piece of data is coded. The numbers are the format's and never used again for another coder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Codec {
    /// As it is; no checksum of its own, since the block's digest covers the pages.
    Raw = 0,
    /// One zstd frame (RFC 8878).
    Zstd = 1,
    /// The same, of the nonzero words of a group's pages and a mask for each page. Groups only.
    Words = 2,
    /// What [`Codec::Words`] decodes to, by the word coder. Groups only.
    Wlz = 3,
}

/// Bytes of a page's mask: a bit for each word.
pub(crate) const MASK_LEN: usize = PAGE_SIZE / 64;

/// A stretch of a block's data part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) codec: Codec,
    /// Bytes once decoded.
    pub(crate) raw_len: u64,
    /// Bytes in the data part.
    pub(crate) coded_len: u64,
    /// XXH3-64 of the coded bytes; 0 for raw pieces.
    pub(crate) checksum: u64,
}

/// Residual pages of one class that are coded together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) class: Class,
    pub(crate) pages: u32,
    pub(crate) piece: Piece,
}

/// A block's meta part.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Block {
    /// The live round that the pages belong to; 0 in files.
    pub(crate) round: u64,
    pub(crate) pages: PageSet,
    /// XXH3-128 of the pages' fingerprints, in order.
    pub(crate) digest: [u8; 16],
    /// Range-coded columns (`crate::columns`).
    pub(crate) columns: Vec<u8>,
    pub(crate) matches: Option<Piece>,
    /// Low halves of the fingerprints of all pages that are neither zero nor uniform, for random access.
    pub(crate) checks: Option<Piece>,
    /// Range-coded virtual addresses of residual pages (`crate::columns`); empty if there are none.
    pub(crate) addresses: Vec<u8>,
    /// Range-coded places of the pages that residual pages are like; empty if there are none.
    pub(crate) bases: Vec<u8>,
    /// Words of those pages that moved against what they are like are distances.
    pub(crate) moved: bool,
    /// Ascending by class; the pages of a class fill its groups in order.
    pub(crate) groups: Vec<Group>,
}

const HAS_MATCHES: u8 = 1;
const HAS_CHECKS: u8 = 2;
const HAS_ADDRESSES: u8 = 4;
const HAS_BASES: u8 = 8;
const MOVED: u8 = 16;

impl Piece {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.codec as u8);
        put_varint(out, self.raw_len);
        if self.codec != Codec::Raw {
            put_varint(out, self.coded_len);
            out.extend_from_slice(&self.checksum.to_le_bytes());
        }
    }

    /// A piece that is not a group.
    pub(crate) fn read(input: &mut Input<'_>, max_raw: u64) -> Result<Self, DecodeError> {
        let piece = Self::read_any(input, max_raw)?;
        match piece.codec {
            Codec::Raw | Codec::Zstd => Ok(piece),
            Codec::Words | Codec::Wlz => {
                Err(DecodeError::Invalid { field: "codec", why: "only groups can have it" })
            }
        }
    }

    /// A group of so many pages.
    fn read_group(input: &mut Input<'_>, pages: u64) -> Result<Self, DecodeError> {
        let piece = Self::read_any(input, pages * (PAGE_SIZE + MASK_LEN) as u64)?;
        match piece.codec {
            Codec::Raw | Codec::Words | Codec::Wlz => Ok(piece),
            Codec::Zstd => Err(DecodeError::Invalid { field: "codec", why: "no group can have it" }),
        }
    }

    fn read_any(input: &mut Input<'_>, max_raw: u64) -> Result<Self, DecodeError> {
        let codec = match input.u8("codec")? {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            2 => Codec::Words,
            3 => Codec::Wlz,
            _ => return Err(DecodeError::Invalid { field: "codec", why: "unknown" }),
        };
        let raw_len = input.varint_max("decoded length", max_raw)?;
        let (coded_len, checksum) = match codec {
            Codec::Raw => (raw_len, 0),
            Codec::Zstd | Codec::Words | Codec::Wlz => {
                (input.varint_max("coded length", limits::DATA)?, input.u64("checksum")?)
            }
        };
        Ok(Piece { codec, raw_len, coded_len, checksum })
    }
}

impl Block {
    /// The meta part, and how much of it comes before anything about residual pages but their classes.
    pub(crate) fn write(&self) -> (Vec<u8>, usize) {
        let mut out = Vec::with_capacity(self.columns.len() + 64 + self.groups.len() * 24);
        put_varint(&mut out, self.round);
        self.pages.write(&mut out);
        out.extend_from_slice(&self.digest);
        put_varint(&mut out, self.columns.len() as u64);
        out.extend_from_slice(&self.columns);
        let columns_end = out.len();
        let flag = |piece: &Option<Piece>, flag| if piece.is_some() { flag } else { 0 };
        let columns = [(HAS_ADDRESSES, &self.addresses), (HAS_BASES, &self.bases)];
        let columns = columns.into_iter().filter(|(_, bytes)| !bytes.is_empty());
        let flags = columns.clone().fold(0, |flags, (flag, _)| flags | flag);
        let moved = if self.moved { MOVED } else { 0 };
        out.push(flag(&self.matches, HAS_MATCHES) | flag(&self.checks, HAS_CHECKS) | flags | moved);
        for piece in [&self.matches, &self.checks].into_iter().flatten() {
            piece.write(&mut out);
        }
        for (_, bytes) in columns {
            put_varint(&mut out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
        put_varint(&mut out, self.groups.len() as u64);
        for group in &self.groups {
            out.push(group.class as u8);
            put_varint(&mut out, u64::from(group.pages));
            group.piece.write(&mut out);
        }
        (out, columns_end)
    }

    /// Reads a meta part whose data part has `data_len` bytes.
    pub(crate) fn read(
        meta: &[u8],
        data_len: u64,
        block_pages: u64,
        page_count: u64,
    ) -> Result<Self, DecodeError> {
        let mut input = Input::new(meta);
        let round = input.varint("round")?;
        let pages = PageSet::read(&mut input, block_pages, page_count)?;
        let digest = input.array("digest")?;
        let columns_len = input.varint_max("columns length", meta.len() as u64)?;
        let columns = input.take(columns_len as usize, "columns")?.to_vec();
        let flags = input.u8("block flags")?;
        if flags & !(HAS_MATCHES | HAS_CHECKS | HAS_ADDRESSES | HAS_BASES | MOVED) != 0 {
            return Err(DecodeError::Invalid { field: "block flags", why: "unknown flags" });
        }
        let moved = flags & MOVED != 0;
        if moved && flags & HAS_BASES == 0 {
            return Err(DecodeError::Invalid { field: "block flags", why: "words that moved, and no bases" });
        }
        // A list never takes more room than the pages it is about.
        let list_max = pages.len() * PAGE_SIZE as u64 + 64;
        let mut list = |flag| (flags & flag != 0).then(|| Piece::read(&mut input, list_max)).transpose();
        let (matches, checks) = (list(HAS_MATCHES)?, list(HAS_CHECKS)?);
        if checks.is_some_and(|piece| piece.codec != Codec::Raw) {
            return Err(DecodeError::Invalid { field: "checks", why: "they are not raw" });
        }
        let mut column = |flag| -> Result<Vec<u8>, DecodeError> {
            let len =
                if flags & flag != 0 { input.varint_max("placements length", limits::META)? } else { 0 };
            Ok(input.take(len as usize, "placements")?.to_vec())
        };
        let (addresses, bases) = (column(HAS_ADDRESSES)?, column(HAS_BASES)?);
        let empty = |flag, bytes: &[u8]| flags & flag != 0 && bytes.is_empty();
        if empty(HAS_ADDRESSES, &addresses) || empty(HAS_BASES, &bases) {
            return Err(DecodeError::Invalid { field: "placements", why: "they are empty" });
        }
        let count = input.varint_max("group count", limits::GROUPS)?;
        let (mut groups, mut grouped) = (Vec::new(), 0u64);
        let mut last = 0;
        for _ in 0..count {
            let class = Class::from_id(input.u8("group class")?.into())
                .ok_or(DecodeError::Invalid { field: "group class", why: "unknown" })?;
            let in_group = input.varint_max("group pages", pages.len() - grouped)?;
            if in_group == 0 || (class as u8) < last {
                return Err(DecodeError::Invalid { field: "groups", why: "one is empty or out of order" });
            }
            let piece = Piece::read_group(&mut input, in_group)?;
            groups.push(Group { class, pages: in_group as u32, piece });
            grouped += in_group;
            last = class as u8;
        }
        input.finish("block")?;
        let block = Block { round, pages, digest, columns, matches, checks, addresses, bases, moved, groups };
        let total: u64 = block.pieces().map(|piece| piece.coded_len).sum();
        if total != data_len {
            return Err(DecodeError::Invalid { field: "block", why: "its pieces do not add up to its data" });
        }
        Ok(block)
    }

    /// All pieces in the order of the data part.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        let lists = [&self.matches, &self.checks].into_iter().flatten();
        lists.chain(self.groups.iter().map(|group| &group.piece))
    }
}
