//! Section 8: what the index and end frames say.

use super::bytes::Cursor;

const MAX_BLOCKS: u64 = 1 << 22;

/// Where a block is and which pages it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) first: u64,
    pub(super) pages: u64,
}

pub(super) fn parse_index(meta: &[u8]) -> Result<Vec<Entry>, String> {
    let mut cursor = Cursor::new(meta);
    let count = cursor.varint_to(MAX_BLOCKS, "index blocks")?;
    let mut entries = Vec::new();
    let mut offset = 0u64;
    let mut end = 0u64;
    for number in 0..count {
        let beyond = || format!("index block {number}: does not fit 64 bits");
        offset = offset.checked_add(cursor.varint("index offset")?).ok_or_else(beyond)?;
        let first = end.checked_add(cursor.varint("index first page")?).ok_or_else(beyond)?;
        let pages = cursor.varint("index pages")?;
        end = first.checked_add(pages).ok_or_else(beyond)?;
        entries.push(Entry { offset, first, pages });
    }
    cursor.finish("index")?;
    Ok(entries)
}

/// The end frame's meta part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) index: u64,
    pub(super) pages: u64,
    pub(super) blocks: u64,
    pub(super) digest: [u8; 16],
}

/// Bytes of the whole end frame.
pub(super) const END_FRAME: u64 = 72;

pub(super) fn parse_end(meta: &[u8]) -> Result<End, String> {
    let mut cursor = Cursor::new(meta);
    let index = cursor.u64("end index offset")?;
    let pages = cursor.u64("end pages")?;
    let blocks = cursor.u64("end blocks")?;
    let digest = cursor.array("end digest")?;
    cursor.finish("end")?;
    Ok(End { index, pages, blocks, digest })
}
