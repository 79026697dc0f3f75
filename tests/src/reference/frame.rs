//! Section 2: frames.

use super::bytes::{Cursor, hash64};

const MAGIC: [u8; 4] = [0x4d, 0x69, 0x47, 0x66];
const VERSION: u8 = 2;
const HEAD: usize = 32;
const MAX_META: u32 = 1 << 24;
const MAX_DATA: u32 = (1 << 28) + (1 << 26);

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameType {
    /// Type 1, the first frame.
    Header,
    /// Type 2, bytes of the file that belong to no page.
    Opaque,
    /// Type 3, pages.
    Block,
    /// Type 4, where the blocks are.
    Index,
    /// Type 5, the last frame.
    End,
    /// Type 6, bytes that are not memory.
    Piece,
    /// Type 7, one more reference.
    Reference,
}

/// Where a frame lies and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameView {
    /// What it is.
    pub kind: FrameType,
    /// Where its head starts, in bytes from the start of the stream.
    pub offset: u64,
    /// Bytes of the meta part.
    pub meta_len: u32,
    /// Bytes of the data part.
    pub data_len: u32,
    /// Number of frames before it, as its head says.
    pub sequence: u64,
}

impl FrameView {
    /// Where the next frame starts.
    pub fn end(&self) -> u64 {
        self.offset + HEAD as u64 + u64::from(self.meta_len) + u64::from(self.data_len)
    }
}

/// A frame whose head and meta part are verified; its data part is not yet.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) view: FrameView,
    pub(super) meta: &'a [u8],
    pub(super) data: &'a [u8],
}

/// Reads the frame at `offset`, which must not be beyond the end. A `sequence` that is not given is not checked.
pub(super) fn read(stream: &[u8], offset: u64, sequence: Option<u64>) -> Result<Frame<'_>, String> {
    let rest = usize::try_from(offset).ok().and_then(|at| stream.get(at..));
    let rest =
        rest.ok_or_else(|| format!("frame: {offset} is beyond the stream's {} bytes", stream.len()))?;
    let mut cursor = Cursor::new(rest);
    let head = cursor.take(HEAD as u64, "frame head")?;

    let mut fields = Cursor::new(head);
    let magic: [u8; 4] = fields.array("magic")?;
    if magic != MAGIC {
        return Err(format!("frame magic: {magic:02x?}"));
    }
    let version = fields.u8("version")?;
    if version != VERSION {
        return Err(format!("frame version: {version} is not known"));
    }
    let kind = match fields.u8("type")? {
        1 => FrameType::Header,
        2 => FrameType::Opaque,
        3 => FrameType::Block,
        4 => FrameType::Index,
        5 => FrameType::End,
        6 => FrameType::Piece,
        7 => FrameType::Reference,
        other => return Err(format!("frame type: {other} is not known")),
    };
    let reserved = fields.u16("reserved")?;
    if reserved != 0 {
        return Err(format!("frame reserved: {reserved} is not 0"));
    }
    let meta_len = fields.u32("meta length")?;
    if meta_len > MAX_META {
        return Err(format!("frame meta length: {meta_len} is above {MAX_META}"));
    }
    let data_len = fields.u32("data length")?;
    if data_len > MAX_DATA {
        return Err(format!("frame data length: {data_len} is above {MAX_DATA}"));
    }
    if data_len != 0 && !matches!(kind, FrameType::Opaque | FrameType::Block | FrameType::Piece) {
        return Err(format!("frame data length: {data_len}, but {kind:?} frames have no data"));
    }
    let said = fields.u64("sequence")?;
    if sequence.is_some_and(|sequence| sequence != said) {
        return Err(format!("frame sequence: {said}, should be {sequence:?}"));
    }
    let checksum = fields.u64("checksum")?;

    let meta = cursor.take(u64::from(meta_len), "frame meta part")?;
    let mut covered = head[..24].to_vec();
    covered.extend(meta);
    if hash64(&covered) != checksum {
        return Err("frame checksum: head or meta part is damaged".into());
    }
    let data = cursor.take(u64::from(data_len), "frame data part")?;
    Ok(Frame { view: FrameView { kind, offset, meta_len, data_len, sequence: said }, meta, data })
}
