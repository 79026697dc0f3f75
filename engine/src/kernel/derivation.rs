//! The recipe of a kernel image, as the stream's header has it.

use std::ops::Range;

use super::payload::Codec;
use crate::error::DecodeError;
use crate::format::wire::{Input, put_varint};
use crate::page::PAGE_SIZE;

/// Bytes of an image, and of what a payload decompresses to, at most.
pub(super) const MAX_LEN: u64 = 1 << 28;
/// Bytes of a payload at most.
const MAX_PAYLOAD: u64 = super::bzimage::MAX_PAYLOAD;
/// Pieces of the disk that a payload may be in, and of a payload that an image may have.
const MAX_EXTENTS: u64 = 1 << 12;
pub(super) const MAX_PIECES: u64 = 64;

/// How to make a kernel image from bytes of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derivation {
    /// Number of the reference, a disk, that has the payload.
    pub(crate) parent: u8,
    /// Where on the disk the payload is: byte ranges, in order.
    pub(crate) extents: Vec<Range<u64>>,
    pub(crate) layout: Layout,
    /// What is added to relocated values: how far the kernel was moved from where it was linked.
    pub(crate) slide: u64,
}

/// What does not depend on the disk, nor on the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) codec: Codec,
    /// Bytes that the payload decompresses to, as far as they matter.
    pub(crate) raw_len: u64,
    /// Length of the image.
    pub(crate) pages: u64,
    /// What goes where; in this order.
    pub(crate) pieces: Vec<Piece>,
    /// Virtual address that the image's first byte is linked at.
    pub(crate) base: u64,
    /// Where the lists of relocations are in the decompressed bytes: of 64-bit sums, 32-bit sums, 32-bit differences.
    pub(crate) tables: [Table; 3],
}

/// A stretch of decompressed bytes, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) raw: u64,
    pub(crate) image: u64,
    pub(crate) len: u64,
}

/// Signed 32-bit numbers, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) raw: u64,
    pub(crate) count: u64,
}

impl Table {
    /// The bytes that it takes.
    pub(crate) fn range(&self) -> Range<u64> {
        self.raw..self.raw + self.count * 4
    }
}

impl Layout {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.codec as u8);
        put_varint(out, self.raw_len);
        put_varint(out, self.pages);
        put_varint(out, self.pieces.len() as u64);
        for piece in &self.pieces {
            [piece.raw, piece.image, piece.len].into_iter().for_each(|value| put_varint(out, value));
        }
        out.extend_from_slice(&self.base.to_le_bytes());
        for table in &self.tables {
            [table.raw, table.count].into_iter().for_each(|value| put_varint(out, value));
        }
    }

    pub(super) fn read(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let field = "kernel image";
        let invalid = |why| DecodeError::Invalid { field, why };
        let codec = Codec::from_id(input.u8(field)?).ok_or(invalid("unknown codec"))?;
        let raw_len = input.varint_max(field, MAX_LEN)?;
        let pages = input.varint_max(field, MAX_LEN / PAGE_SIZE as u64)?;
        let mut pieces = Vec::new();
        for _ in 0..input.varint_max(field, MAX_PIECES)? {
            let [raw, image, len] = [input.varint(field)?, input.varint(field)?, input.varint(field)?];
            let inside = |start: u64, end: u64| start.checked_add(len).is_some_and(|sum| sum <= end);
            if !inside(raw, raw_len) || !inside(image, pages * PAGE_SIZE as u64) {
                return Err(invalid("a piece lies beyond the image, or beyond what it is made of"));
            }
            pieces.push(Piece { raw, image, len });
        }
        if overlap(&pieces) {
            return Err(invalid("two of its pieces overlap"));
        }
        let base = input.u64(field)?;
        let mut tables = [Table::default(); 3];
        for table in &mut tables {
            *table =
                Table { raw: input.varint_max(field, raw_len)?, count: input.varint_max(field, raw_len)? };
            if table.range().end > raw_len {
                return Err(invalid("relocations lie beyond what the image is made of"));
            }
        }
        Ok(Layout { codec, raw_len, pages, pieces, base, tables })
    }
}

/// Whether two pieces share a byte of the image.
pub(super) fn overlap(pieces: &[Piece]) -> bool {
    let mut ends: Vec<(u64, u64)> =
        pieces.iter().map(|piece| (piece.image, piece.image + piece.len)).collect();
    ends.sort_unstable();
    !ends.is_sorted_by(|one, next| one.1 <= next.0)
}

impl Derivation {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.parent);
        put_varint(out, self.extents.len() as u64);
        for extent in &self.extents {
            put_varint(out, extent.start);
            put_varint(out, extent.end - extent.start);
        }
        self.layout.write(out);
        out.extend_from_slice(&self.slide.to_le_bytes());
    }

    /// Reads the recipe of an image of `blocks` pages. Whether the parent is a disk that comes before is the caller's to check, and whether
    /// it has the extents.
    pub(crate) fn read(input: &mut Input<'_>, blocks: u64) -> Result<Self, DecodeError> {
        let field = "kernel image";
        let parent = input.u8(field)?;
        let mut extents: Vec<Range<u64>> = Vec::new();
        let mut left = MAX_PAYLOAD;
        for _ in 0..input.varint_max(field, MAX_EXTENTS)? {
            let start = input.varint_max(field, 1 << 53)?;
            let len = input.varint_max(field, left)?;
            left -= len;
            extents.push(start..start + len);
        }
        let layout = Layout::read(input)?;
        let slide = input.u64(field)?;
        if layout.pages != blocks {
            return Err(DecodeError::Invalid { field, why: "its length is not that of the reference" });
        }
        Ok(Derivation { parent, extents, layout, slide })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn derivation() -> Derivation {
        Derivation {
            parent: 2,
            extents: vec![4096..9000, 100..105],
            layout: Layout {
                codec: Codec::Xz,
                raw_len: 20_000,
                pages: 5,
                pieces: vec![
                    Piece { raw: 0, image: 4096, len: 8192 },
                    Piece { raw: 9000, image: 0, len: 100 },
                ],
                base: 0xffff_ffff_8100_0000,
                tables: [
                    Table { raw: 19_000, count: 250 },
                    Table { raw: 18_000, count: 0 },
                    Table { raw: 0, count: 1 },
                ],
            },
            slide: 0x3220_0000,
        }
    }

    #[test]
    fn recipes_round_trip_and_are_held_to_their_limits() {
        let mut bytes = Vec::new();
        derivation().write(&mut bytes);
        let read = |bytes: &[u8], blocks| {
            let mut input = Input::new(bytes);
            Derivation::read(&mut input, blocks).and_then(|found| input.finish("test").map(|()| found))
        };
        assert_eq!(read(&bytes, 5).unwrap(), derivation());
        assert!(read(&bytes, 6).is_err());
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len], 5).is_err());
        }
        let refused = |change: &dyn Fn(&mut Derivation)| {
            let mut changed = derivation();
            change(&mut changed);
            let mut bytes = Vec::new();
            changed.write(&mut bytes);
            read(&bytes, changed.layout.pages).is_err()
        };
        assert!(!refused(&|_| ()));
        assert!(refused(&|changed| changed.layout.pieces[0].image = 12289));
        assert!(refused(&|changed| changed.layout.pieces[0].raw = 11809));
        assert!(refused(&|changed| changed.layout.pieces[0].len = u64::MAX));
        assert!(refused(&|changed| changed.layout.tables[0].count = 251));
        assert!(refused(&|changed| changed.layout.raw_len = MAX_LEN + 1));
        assert!(refused(&|changed| changed.layout.pages = MAX_LEN / 4096 + 1));
        assert!(refused(&|changed| changed.extents[0] = 0..MAX_PAYLOAD + 1));
        assert!(refused(&|changed| changed.layout.pieces = vec![Piece { raw: 0, image: 0, len: 0 }; 65]));
        assert!(!refused(&|changed| changed.layout.pieces[1].len = 4096));
        assert!(refused(&|changed| changed.layout.pieces[1].len = 4097), "they overlap");
    }
}
