//! A slow decoder of MiG streams, written from `docs/format.md` alone.
//!
//! It is the naive truth beside the engine: plain loops, everything in memory, one thread, every demand of the
//! document checked where it is read, and an error string that names the field. It is not for use: it wants the whole
//! stream and the whole image in memory, and takes its time. "Section" in comments means a section of the document.
//! Where the document leaves a choice, the comment there says "reading:" and which one was taken.

mod block;
mod bytes;
mod columns;
mod frame;
mod header;
mod matches;
mod models;
mod pageset;
mod piece;
mod places;
mod random;
mod range;
mod residual;
mod script;
mod stream;
#[cfg(test)]
mod tests;
mod trailer;
mod words;

use std::fmt;

pub use block::{BlockView, GroupView};
pub use columns::{Run, What};
pub use frame::{FrameType, FrameView};
pub use header::{Header, Reference, Segment, identity};
pub use matches::LongMatch;
pub use random::page;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Words of a page.
pub const WORDS: u64 = 512;

/// The longest image that this decoder builds, in bytes: it holds the whole file in memory, and the document sets no
/// limit for `file_len`.
pub const MAX_FILE: u64 = 1 << 32;

/// One page's bytes.
pub type Page = [u8; PAGE];

/// Which rules a stream is held to. Nothing in a stream says which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// A file stream, as `mig pack` writes it: round 0, and each page once, in order or as one that was left for later.
    File,
    /// A session: rounds, page sets of many ranges, pages that come again, pieces, no index.
    Any,
}

/// What a stream holds, as far as it was read.
#[derive(Clone, Default)]
pub struct Decoded {
    /// The image's file, bit for bit; bytes that nothing gave are 0. Empty if the header could not be read.
    pub file: Vec<u8>,
    /// The contents of all pieces, one after the other.
    pub pieces: Vec<u8>,
    /// The QEMU stream that the pieces write, of a session of format 4.
    pub qemu: Vec<u8>,
    /// Pages that all verified blocks bring; a page that comes in two blocks counts twice.
    pub pages: u64,
    /// Where the blocks that each start where the one before ends have got to. All pages of a file stream below that
    /// are brought, or left for later.
    pub reached: u64,
    /// Whether there is a verified block that is no such block.
    pub out_of_order: bool,
    /// Whether a valid end frame was there.
    pub complete: bool,
    /// The header; empty if it could not be read.
    pub header: Header,
    /// The good frames, in order.
    pub frames: Vec<FrameView>,
    /// The verified blocks, in order.
    pub blocks: Vec<BlockView>,
}

/// Leaves the file's bytes out: a failed assertion should not print gigabytes.
impl fmt::Debug for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoded")
            .field("file_len", &self.file.len())
            .field("pieces_len", &self.pieces.len())
            .field("qemu_len", &self.qemu.len())
            .field("pages", &self.pages)
            .field("reached", &self.reached)
            .field("out_of_order", &self.out_of_order)
            .field("complete", &self.complete)
            .field("header", &self.header)
            .field("frames", &self.frames)
            .field("blocks", &self.blocks)
            .finish()
    }
}

/// Decodes a file stream. A stream that stops after a frame, without an end frame, is no error: `complete` is false.
/// `references` are in the order of the header; each is the disk as the guest sees it, or the memory image's pages in
/// page order. One that is `None` or left out at the end is only missed when something is read from it.
///
/// # Errors
///
/// Says which frame and field is not as the document demands.
pub fn decode(stream: &[u8], references: &[Option<Vec<u8>>]) -> Result<Decoded, String> {
    decode_as(stream, references, Rules::File)
}

/// As [`decode`], with the rules to hold the stream to.
///
/// # Errors
///
/// As [`decode`].
pub fn decode_as(stream: &[u8], references: &[Option<Vec<u8>>], rules: Rules) -> Result<Decoded, String> {
    match decode_prefix(stream, references, rules) {
        (decoded, None) => Ok(decoded),
        (_, Some(error)) => Err(error),
    }
}

/// Decodes as far as the stream is good: all frames before the first bad one, and what is wrong with that one, if there
/// is one. A block is in the result only if all of it verified.
pub fn decode_prefix(
    stream: &[u8],
    references: &[Option<Vec<u8>>],
    rules: Rules,
) -> (Decoded, Option<String>) {
    let mut walk = stream::Walk::new(stream, references, rules);
    let error = walk.run().err();
    (walk.decoded, error)
}
