//! Frames on their way out, and what a destination says it has.

use crate::encode::{BlockStats, CodedBlock};
use crate::error::EncodeError;
use crate::format::frame::{self, FrameType};
use crate::options::Effort;
use crate::pack::plain_frame;
use crate::page::PageSet;

/// A frame of a session, ready to be sent.
///
/// Pages that are sent as they are stay where they lie in an image, and are borrowed from there.
#[derive(Debug)]
pub struct OutFrame<'a> {
    sequence: u64,
    kind: FrameType,
    head: Vec<u8>,
    body: Body<'a>,
    effort: Effort,
    kept: bool,
}

#[derive(Debug)]
enum Body<'a> {
    Bytes(Vec<u8>),
    Block(Box<CodedBlock<'a>>),
}

impl<'a> OutFrame<'a> {
    /// A frame without data.
    pub(super) fn of_meta(kind: FrameType, sequence: u64, meta: &[u8]) -> Self {
        Self::of_bytes(kind, sequence, (frame::encode(kind, sequence, meta, 0), Vec::new()))
    }

    pub(super) fn of_bytes(kind: FrameType, sequence: u64, (head, data): (Vec<u8>, Vec<u8>)) -> Self {
        OutFrame { sequence, kind, head, body: Body::Bytes(data), effort: Effort::Store, kept: false }
    }

    /// A piece of at most 4 MiB.
    pub(super) fn of_piece(sequence: u64, bytes: &[u8]) -> Result<Self, EncodeError> {
        let kind = FrameType::Piece;
        Ok(Self::of_bytes(kind, sequence, plain_frame(kind, sequence, Vec::new(), bytes)?))
    }

    pub(super) fn of_block(sequence: u64, block: CodedBlock<'a>, effort: Effort, kept: bool) -> Self {
        let (kind, head) = (FrameType::Block, block.head(sequence));
        OutFrame { sequence, kind, head, body: Body::Block(Box::new(block)), effort, kept }
    }

    /// Its place in the stream.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What it holds.
    pub fn kind(&self) -> FrameType {
        self.kind
    }

    /// The pages of a block.
    pub fn pages(&self) -> Option<&PageSet> {
        self.block().map(CodedBlock::pages)
    }

    /// Number of pages that it brings: none but a block brings any, and a block may leave some for later ones.
    pub fn delivers(&self) -> u64 {
        self.block().map_or(0, CodedBlock::delivers)
    }

    /// What a block's pages turned out to be.
    pub fn stats(&self) -> Option<&BlockStats> {
        self.block().map(CodedBlock::stats)
    }

    /// The effort of a block.
    pub fn effort(&self) -> Effort {
        self.effort
    }

    /// Whether the destination has the pages already, so that the block only says which.
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    fn block(&self) -> Option<&CodedBlock<'a>> {
        match &self.body {
            Body::Block(block) => Some(block),
            Body::Bytes(_) => None,
        }
    }

    /// The frame's bytes, one part after the other.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let (bytes, block) = match &self.body {
            Body::Bytes(bytes) => (Some(bytes.as_slice()), None),
            Body::Block(block) => (None, Some(block.data())),
        };
        std::iter::once(self.head.as_slice()).chain(bytes).chain(block.into_iter().flatten())
    }

    /// Bytes of the whole frame.
    pub fn len(&self) -> u64 {
        self.parts().map(|part| part.len() as u64).sum()
    }

    /// A frame is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The same with nothing borrowed.
    pub fn into_owned(self) -> OutFrame<'static> {
        let body = match self.body {
            Body::Bytes(bytes) => Body::Bytes(bytes),
            Body::Block(block) => Body::Block(Box::new(block.into_owned())),
        };
        let OutFrame { sequence, kind, head, effort, kept, .. } = self;
        OutFrame { sequence, kind, head, body, effort, kept }
    }
}

/// What a destination has from an earlier try: a part of each page's fingerprint, which says what to ask for, and nothing more.
///
/// A page whose mark is right is only named, and verified like any other; where two pages share a mark, the block does not
/// verify and is sent in full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Have {
    /// One for each page, from page 0 on.
    pub marks: Vec<u32>,
}

impl Have {
    /// The mark of a page with this fingerprint.
    pub fn mark(fingerprint: u128) -> u32 {
        fingerprint as u32
    }

    /// Whether the page with this number may be there as it should be.
    pub(super) fn has(&self, page: u64, fingerprint: [u64; 2]) -> bool {
        let mark = usize::try_from(page).ok().and_then(|page| self.marks.get(page));
        mark.is_some_and(|&mark| mark == fingerprint[0] as u32)
    }
}
