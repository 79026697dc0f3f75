//! The index and end frames: where each block of a complete file lies, and that it is complete.

use super::frame::HEADER_LEN;
use super::limits;
use super::wire::{Input, put_varint};
use crate::error::DecodeError;

/// One block of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Where its frame starts.
    pub(crate) offset: u64,
    pub(crate) first_page: u64,
    pub(crate) pages: u64,
}

/// The blocks of a file, in the order of their pages.
pub(crate) fn write_index(entries: &[IndexEntry]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, entries.len() as u64);
    let (mut offset, mut page) = (0, 0);
    for entry in entries {
        put_varint(&mut out, entry.offset - offset);
        put_varint(&mut out, entry.first_page - page);
        put_varint(&mut out, entry.pages);
        (offset, page) = (entry.offset, entry.first_page + entry.pages);
    }
    out
}

pub(crate) fn read_index(
    meta: &[u8],
    page_count: u64,
    file_len: u64,
) -> Result<Vec<IndexEntry>, DecodeError> {
    let mut input = Input::new(meta);
    let count = input.varint_max("index length", limits::BLOCKS)?;
    let mut entries = Vec::new();
    let (mut offset, mut page) = (0u64, 0u64);
    for _ in 0..count {
        offset += input.varint_max("index offset", file_len - offset)?;
        let first_page = page + input.varint_max("index page", page_count - page)?;
        let pages = input.varint_max("index pages", page_count - first_page)?;
        if pages == 0 {
            return Err(DecodeError::Invalid { field: "index pages", why: "a block without pages" });
        }
        entries.push(IndexEntry { offset, first_page, pages });
        page = first_page + pages;
    }
    input.finish("index")?;
    Ok(entries)
}

/// The last frame of a complete stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Where the index frame starts; 0 if there is none.
    pub(crate) index_offset: u64,
    /// Pages in all blocks together.
    pub(crate) pages: u64,
    pub(crate) blocks: u64,
    /// XXH3-128 of all blocks' digests, in order.
    pub(crate) digest: [u8; 16],
}

/// Bytes of an end frame's meta part.
pub(crate) const END_LEN: usize = 40;
/// Bytes of the whole end frame: what a reader that can seek reads first.
pub(crate) const END_FRAME_LEN: usize = HEADER_LEN + END_LEN;

impl End {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(END_LEN);
        for value in [self.index_offset, self.pages, self.blocks] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&self.digest);
        out
    }

    pub(crate) fn read(meta: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Input::new(meta);
        let end = End {
            index_offset: input.u64("end: index offset")?,
            pages: input.u64("end: pages")?,
            blocks: input.u64("end: blocks")?,
            digest: input.array("end: digest")?,
        };
        input.finish("end")?;
        Ok(end)
    }
}
