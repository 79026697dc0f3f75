//! A block ready to be sent, and what its pages turned out to be.

use std::ops::AddAssign;

use crate::class::Class;
use crate::columns::{Run, Settled};
use crate::format::frame::{self, FrameType};
use crate::page::PageSet;

/// How the 8-byte words of residual pages were coded: together they are all of the pages' words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Covered by long matches.
    pub matched: u64,
    /// Those of the page's base.
    pub base: u64,
    /// Zero, in pages without a base.
    pub zero: u64,
    /// What is left for the entropy coder, or stored raw.
    pub stored: u64,
}

impl Words {
    /// All of them.
    pub fn all(self) -> u64 {
        self.matched + self.base + self.zero + self.stored
    }
}

impl AddAssign for Words {
    fn add_assign(&mut self, other: Words) {
        self.matched += other.matched;
        self.base += other.base;
        self.zero += other.zero;
        self.stored += other.stored;
    }
}

/// What a block's pages turned out to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockStats {
    /// Pages by kind, in the order of [`Settled::kind`].
    pub pages: [u64; Settled::KINDS],
    /// Runs of duplicate and reference pages.
    pub runs: u64,
    /// Residual pages by class.
    pub class_pages: [u64; Class::ALL.len()],
    /// Coded bytes of the groups of each class.
    pub class_bytes: [u64; Class::ALL.len()],
    /// Words of the residual pages of each class. Not known of streams that are not decoded.
    pub class_words: [Words; Class::ALL.len()],
    /// Settled pages by what the guest uses them for, each by kind. Only where the guest can be read, and only while encoding.
    pub class_settled: [[u64; Settled::SETTLED]; Class::ALL.len()],
    /// Bytes that say what settled pages are: frame head, page set, digest, the columns' runs, checks.
    pub settled_bytes: u64,
    /// Bytes of meta that residual pages need: their classes, and where their groups are.
    pub residual_meta_bytes: u64,
    /// Coded bytes of the long-match lists.
    pub match_bytes: u64,
    /// Bytes of residual pages that long matches cover.
    pub matched: u64,
    /// Coded bytes of virtual addresses; part of `residual_meta_bytes`.
    pub address_bytes: u64,
    /// Coded bytes of where bases are; part of `residual_meta_bytes`.
    pub base_bytes: u64,
}

impl BlockStats {
    pub(crate) fn count_run(&mut self, run: Run) {
        self.pages[run.settled.kind()] += u64::from(run.pages);
        let placed = matches!(run.settled, Settled::Duplicate { .. } | Settled::Reference { .. });
        self.runs += u64::from(placed);
    }

    /// Pages that are brought: all but those that are left for later blocks, which count there.
    pub fn delivered(&self) -> u64 {
        self.pages.iter().sum::<u64>() - self.pages[Settled::Later.kind()]
    }

    /// Adds another block's counts.
    pub fn add(&mut self, other: &BlockStats) {
        let sum = |to: &mut [u64], from: &[u64]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        sum(&mut self.pages, &other.pages);
        sum(&mut self.class_pages, &other.class_pages);
        sum(&mut self.class_bytes, &other.class_bytes);
        self.class_words.iter_mut().zip(&other.class_words).for_each(|(to, from)| *to += *from);
        self.class_settled.iter_mut().zip(&other.class_settled).for_each(|(to, from)| sum(to, from));
        self.runs += other.runs;
        self.settled_bytes += other.settled_bytes;
        self.residual_meta_bytes += other.residual_meta_bytes;
        self.match_bytes += other.match_bytes;
        self.matched += other.matched;
        self.address_bytes += other.address_bytes;
        self.base_bytes += other.base_bytes;
    }
}

/// A block ready to be sent, but for its place in the stream.
#[derive(Debug)]
pub struct CodedBlock<'a> {
    pub(super) meta: Vec<u8>,
    pub(super) parts: Vec<Part<'a>>,
    pub(super) pages: PageSet,
    pub(super) digest: [u8; 16],
    pub(super) stats: BlockStats,
}

/// Bytes of a block's data: coded here, or the source's own.
#[derive(Debug)]
pub(super) enum Part<'a> {
    Owned(Vec<u8>),
    Source(&'a [u8]),
}

impl<'a> CodedBlock<'a> {
    /// The frame's start, given its place in the stream; the [`data`](Self::data) follows.
    pub fn head(&self, sequence: u64) -> Vec<u8> {
        frame::encode(FrameType::Block, sequence, &self.meta, self.data_len() as u32)
    }

    /// The frame's data, to be written in this order.
    pub fn data(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| match part {
            Part::Owned(bytes) => bytes.as_slice(),
            Part::Source(bytes) => bytes,
        })
    }

    /// Bytes that [`data`](Self::data) gives altogether.
    pub fn data_len(&self) -> u64 {
        self.data().map(|part| part.len() as u64).sum()
    }

    /// The pages in the block.
    pub fn pages(&self) -> &PageSet {
        &self.pages
    }

    /// Number of pages that it brings: all but those that it leaves for later blocks.
    pub fn delivers(&self) -> u64 {
        self.stats.delivered()
    }

    /// XXH3-128 of the pages' fingerprints.
    pub fn digest(&self) -> [u8; 16] {
        self.digest
    }

    /// What the pages turned out to be.
    pub fn stats(&self) -> &BlockStats {
        &self.stats
    }

    /// The same with nothing borrowed: pages that are sent as they are get copied.
    pub fn into_owned(self) -> CodedBlock<'static> {
        let CodedBlock { meta, parts, pages, digest, stats } = self;
        let own = |part| match part {
            Part::Owned(bytes) => Part::Owned(bytes),
            Part::Source(bytes) => Part::Owned(bytes.to_vec()),
        };
        CodedBlock { meta, parts: parts.into_iter().map(own).collect(), pages, digest, stats }
    }
}
