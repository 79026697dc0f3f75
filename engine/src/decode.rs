//! Reading blocks: the session that an unpacker or a transport drives.
//!
//! Two steps, as in writing: [`BlockDecoder::parse`] undoes the entropy coding, for any number of blocks at once;
//! [`BlockDecoder::apply`] rebuilds the pages in stream order, since they may refer to pages before them, stores
//! them, and compares their digest with the block's. Rebuilding is copying; nearly all the time goes to the
//! first step.
//!
//! Every byte here may be hostile. What cannot be right is refused by [`crate::format`] and below; what is
//! merely wrong does not survive the digest.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mig_simd::{Level, PageRecord, page_scan};
use rayon::prelude::*;

use crate::columns::{self, Addressing, Run, Settled};
use crate::encode::{before_space, digest};
use crate::error::DecodeError;
use crate::format::block::{Block, Codec, Group};
use crate::format::data::Data;
use crate::format::{Frame, FrameType, Header, ReferenceKind};
use crate::locate::{
    Base, Residual, check_random_access, check_runs, invalid, is_checked, place, read_placements,
    residual_pages,
};
use crate::longmatch::Match;
use crate::matches::{self, MatchLists};
use crate::page::{PAGE_SIZE, PAGE_WORDS, Page, PageSet};
use crate::refs::{Reference, page_parts, reference_page, reference_words};
use crate::residual::{Against, PackedGroup, spread_literals};

/// Pages put together, fingerprinted and stored at a time: they stay in the cache in between.
const BATCH_PAGES: u64 = 64;

/// Where rebuilt pages go, and where later blocks read them back.
///
/// Several threads call it at once, for different pages; pages that are read were written by a call that has
/// returned. Before the first write, every page reads as zero.
pub trait PageStore: Sync {
    /// Stores whole pages from `first_page` on.
    ///
    /// # Errors
    ///
    /// Whatever keeps them from being stored; the block fails with it.
    fn write(&self, first_page: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes pages read as zero.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    fn write_zero(&self, first_page: u64, pages: u64) -> io::Result<()>;

    /// Reads a part of one page: `out.len()` bytes from byte `offset` on.
    ///
    /// # Errors
    ///
    /// Whatever keeps them from being read.
    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> io::Result<()>;
}

/// Rebuilds the blocks of one stream.
#[derive(Debug)]
pub struct BlockDecoder<'a> {
    header: &'a Header,
    references: &'a [Option<Reference>],
    addressing: Vec<Addressing>,
    level: Level,
    zero: [u64; 2],
    /// Buffers that no task has at the moment.
    idle: Mutex<Vec<Batch>>,
}

/// A block after the first step.
#[derive(Debug)]
pub struct ParsedBlock {
    block: Block,
    runs: Vec<Run>,
    matches: MatchLists,
    residual: Vec<Residual>,
    /// The frame's data, as it came.
    data: Data,
    groups: Vec<GroupData>,
    checks: Option<Range<usize>>,
}

/// A group's literals: in the frame's data, or decoded from it.
#[derive(Debug)]
enum GroupData {
    Stored(Range<usize>),
    Packed(PackedGroup),
}

impl ParsedBlock {
    /// The pages that the block rebuilds.
    pub fn pages(&self) -> &PageSet {
        &self.block.pages
    }

    /// XXH3-128 of the fingerprints that the pages must have.
    pub fn digest(&self) -> [u8; 16] {
        self.block.digest
    }

    /// What the pages are, in runs.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The live round that the pages belong to; 0 in file streams.
    pub fn round(&self) -> u64 {
        self.block.round
    }

    /// Puts the literals of a residual page in their places, and its base's words in the others; `index` is its place among those.
    fn load(&self, level: Level, index: usize, base: Option<&Page>, page: &mut Page) {
        let residual = &self.residual[index];
        match &self.groups[residual.group] {
            GroupData::Stored(range) => {
                let start = range.start + residual.start;
                let literals = self.data.get(start..start + residual.len);
                spread_literals(&literals, self.matches.of_page(index), page);
            }
            GroupData::Packed(group) => {
                let against = Against::new(base, self.block.moved, residual.address);
                group.unpack(level, residual.nth, against, page);
            }
        }
    }

    /// A residual page's place among those.
    fn residual_index(&self, page: u64) -> Option<usize> {
        let ordinal = self.block.pages.ordinal_of(page)?;
        self.residual.binary_search_by_key(&ordinal, |residual| residual.ordinal).ok()
    }
}

impl<'a> BlockDecoder<'a> {
    /// A session on the stream with this header. `references` are what the header needs, in its order; what is not
    /// at hand is `None`, and an error only for blocks that use it.
    pub fn new(header: &'a Header, references: &'a [Option<Reference>], level: Level) -> Self {
        let mut zero = [PageRecord::default()];
        page_scan(level, &[0; PAGE_SIZE], &mut zero);
        let addressing = header.references.iter().map(|need| need.kind.addressing()).collect();
        let (zero, idle) = (zero[0].fingerprint, Mutex::default());
        BlockDecoder { header, references, addressing, level, zero, idle }
    }

    /// First step: undoes a block frame's entropy coding. Runs on the current rayon pool.
    ///
    /// # Errors
    ///
    /// Anything that `docs/format.md` does not allow, a frame that is no block, and damage that a checksum shows.
    pub fn parse(&self, frame: Frame) -> Result<ParsedBlock, DecodeError> {
        if frame.kind != FrameType::Block {
            return Err(invalid("frame type", "it is no block"));
        }
        let Frame { meta, data, .. } = frame;
        let meta = meta.as_slice();
        let page_count = self.header.layout.page_count();
        let block = Block::read(meta, data.len() as u64, self.header.block_pages, page_count)?;
        if self.header.random_access {
            check_random_access(&block)?;
        }
        let (runs, classes) = columns::decode(&block.columns, &block.pages, &self.addressing)?;
        check_runs(self.header, &block.pages, &runs)?;
        let mut at = 0;
        let mut next = |len: u64| {
            let start = at;
            at += len as usize; // `Block::read` has added them up
            start..at
        };
        let numbers = residual_pages(&block.pages, &runs);
        let pages: Vec<u64> = numbers.iter().map(|&(_, page)| page).collect();
        let matches = match &block.matches {
            None => MatchLists::default(),
            Some(piece) => {
                let list = piece.decode(&data.get(next(piece.coded_len)), "long matches")?;
                let spaces = self.addressing.len() + 1;
                matches::decode(&list, pages.iter().copied(), spaces)?
            }
        };
        let checks = block.checks.as_ref().map(|piece| next(piece.coded_len));
        let checked: u64 = runs.iter().filter(|run| is_checked(run)).map(|run| u64::from(run.pages)).sum();
        if checks.as_ref().is_some_and(|checks| checks.len() as u64 != checked * 8) {
            return Err(invalid("checks", "not eight bytes for each page that needs one"));
        }
        let mut residual = place(&block, &classes, &matches, &numbers)?;
        read_placements(self.header, &block, &pages, &mut residual)?;
        let coded: Vec<Range<usize>> = block.groups.iter().map(|group| next(group.piece.coded_len)).collect();
        let decode = |(group, coded): (&Group, Range<usize>)| {
            Ok(match group.piece.codec {
                Codec::Raw => GroupData::Stored(coded),
                Codec::Zstd | Codec::Words | Codec::Wlz => {
                    GroupData::Packed(PackedGroup::decode(&group.piece, &data.get(coded), group.pages)?)
                }
            })
        };
        let groups: Vec<GroupData> =
            block.groups.par_iter().zip(coded).map(decode).collect::<Result<_, DecodeError>>()?;
        for (index, residual) in residual.iter().enumerate() {
            if let GroupData::Packed(group) = &groups[residual.group] {
                group.check_matches(residual.nth, matches.of_page(index))?;
            }
        }
        Ok(ParsedBlock { block, runs, matches, residual, data, groups, checks })
    }

    /// Second step: rebuilds a block's pages, stores them and verifies them. Blocks come in stream order. Runs on
    /// the current rayon pool.
    ///
    /// # Errors
    ///
    /// References that are missing or unreadable, sources that may not be used, and
    /// [`DecodeError::Digest`] if the pages are not those that were packed. Pages of a failed block may have been
    /// stored; they hold nothing that can be relied on.
    pub fn apply(&self, block: &ParsedBlock, store: &impl PageStore) -> Result<(), DecodeError> {
        let built = self.build_parts(block, store)?;
        let pages = Pages { block, built };
        let count = block.block.pages.len();
        let batches = count.div_ceil(BATCH_PAGES);
        let fingerprints: Vec<Vec<[u64; 2]>> = (0..batches)
            .into_par_iter()
            .map(|index| {
                let ordinals = index * BATCH_PAGES..count.min((index + 1) * BATCH_PAGES);
                let idle = lock(&self.idle).pop();
                let mut batch = idle.unwrap_or_else(Batch::new);
                let stored = self.store_batch(&pages, ordinals, &mut batch, store);
                lock(&self.idle).push(batch);
                stored
            })
            .collect::<Result<_, _>>()?;
        let fingerprints = fingerprints.concat(); // of the pages that are here, not later
        let failed = || {
            let (first_page, pages) = (block.block.pages.first(), count);
            DecodeError::Digest { first_page, pages }
        };
        if digest(&fingerprints) != block.block.digest {
            return Err(failed());
        }
        if let Some(checks) = &block.checks {
            let checks = block.data.get(checks.clone());
            let mut checks = checks.chunks_exact(8);
            let mut ordinal = 0;
            for run in block.runs.iter().filter(|run| run.settled != Settled::Later) {
                let end = ordinal + run.pages as usize;
                if is_checked(run) {
                    for fingerprint in &fingerprints[ordinal..end] {
                        if checks.next() != Some(&fingerprint[0].to_le_bytes()) {
                            return Err(failed());
                        }
                    }
                }
                ordinal = end;
            }
        }
        Ok(())
    }

    /// Rebuilds the residual pages that have a base, or that long matches are part of.
    fn build_parts(
        &self,
        block: &ParsedBlock,
        store: &impl PageStore,
    ) -> Result<Vec<Option<Box<Page>>>, DecodeError> {
        let load = |index: usize| -> Result<Box<Page>, DecodeError> {
            let mut page = Box::new([0; PAGE_SIZE]);
            match block.residual[index].base {
                None => block.load(self.level, index, None, &mut page),
                Some(base) => {
                    let mut words = [0; PAGE_SIZE];
                    self.read_base(block, base, &mut words, store)?;
                    block.load(self.level, index, Some(&words), &mut page);
                }
            }
            Ok(page)
        };
        let has_matches = |index: usize| !block.matches.of_page(index).is_empty();
        let indices = || (0..block.residual.len()).into_par_iter();
        // Those without matches first: others may copy from them, and a base is only read once.
        let based = |index: usize| {
            let based = block.residual[index].base.is_some() && !has_matches(index);
            based.then(|| load(index)).transpose()
        };
        let mut built: Vec<_> = indices().map(based).collect::<Result<_, DecodeError>>()?;
        if block.matches.matches.is_empty() {
            return Ok(built);
        }
        let matched = |index: usize| -> Result<(Option<Box<Page>>, bool), DecodeError> {
            if !has_matches(index) {
                return Ok((None, false));
            }
            let mut page = load(index)?;
            let mut done = true;
            for found in block.matches.of_page(index) {
                done &= self.copy_match(block, index, found, &built, &mut page, store)?;
            }
            Ok((Some(page), !done))
        };
        let matched: Vec<_> = indices().map(matched).collect::<Result<_, DecodeError>>()?;
        let (matched, chained): (Vec<_>, Vec<bool>) = matched.into_iter().unzip();
        for (built, matched) in built.iter_mut().zip(matched) {
            *built = built.take().or(matched);
        }
        // Sources that have matches themselves: now that all else is there, in order.
        for index in (0..built.len()).filter(|&index| chained[index]) {
            for found in block.matches.of_page(index).iter().filter(|found| found.space == 0) {
                let (before, rest) = built.split_at_mut(index);
                let from = block.residual_index(found.source / PAGE_WORDS as u64);
                if let (Some(Some(from)), Some(page)) = (from.and_then(|from| before.get(from)), &mut rest[0])
                {
                    page[found.bytes()].copy_from_slice(&from[found.source_bytes()]);
                }
            }
        }
        Ok(built)
    }

    /// Reads the page of words that a residual page is like.
    fn read_base(
        &self,
        block: &ParsedBlock,
        base: Base,
        words: &mut Page,
        store: &impl PageStore,
    ) -> Result<(), DecodeError> {
        // No page of this block is stored before all its bases are read.
        let is_before = base.space == before_space(self.addressing.len());
        if let Some(index) = usize::from(base.space).checked_sub(1).filter(|_| !is_before) {
            return reference_words(self.header, self.references, index, base.address, words);
        }
        for (page, at, part) in page_parts(base.address, words) {
            if !is_before && block.block.pages.ordinal_of(page).is_some() {
                return Err(invalid("bases", "one is a page of its own block"));
            }
            let read = store.read(page, at, part);
            read.map_err(|source| DecodeError::Io { what: "reading earlier pages", source })?;
        }
        Ok(())
    }

    /// Copies a match into the residual page with this index, unless its source is a page of this block that has
    /// matches itself; says whether it did.
    fn copy_match(
        &self,
        block: &ParsedBlock,
        index: usize,
        found: &Match,
        built: &[Option<Box<Page>>],
        to: &mut Page,
        store: &impl PageStore,
    ) -> Result<bool, DecodeError> {
        let page = found.source / PAGE_WORDS as u64;
        let to = &mut to[found.bytes()];
        if found.space > 0 {
            let index = usize::from(found.space) - 1;
            let need = self.header.references.get(index).filter(|need| page < need.blocks);
            let need = need.ok_or(invalid("long matches", "a source is beyond its reference"))?;
            // Disk images may be compressed: a hostile list could ask for a cluster to be inflated for each word.
            if need.kind == ReferenceKind::Disk {
                return Err(invalid("long matches", "a source is in a disk image"));
            }
            let mut scratch = [0; PAGE_SIZE];
            let from = reference_page(self.header, self.references, index, page, &mut scratch)?;
            to.copy_from_slice(&from[found.source_bytes()]);
            return Ok(true);
        }
        if page >= self.header.layout.page_count() {
            return Err(invalid("long matches", "a source is beyond the memory"));
        }
        if block.block.pages.ordinal_of(page).is_none() {
            let read = store.read(page, found.source_bytes().start, to);
            read.map_err(|source| DecodeError::Io { what: "reading earlier pages", source })?;
            return Ok(true);
        }
        let from = block
            .residual_index(page)
            .filter(|&from| from < index)
            .ok_or(invalid("long matches", "a source is not an earlier residual page"))?;
        if !block.matches.of_page(from).is_empty() {
            return Ok(false);
        }
        match &built[from] {
            Some(page) => to.copy_from_slice(&page[found.source_bytes()]),
            None => {
                let mut scratch = [0; PAGE_SIZE];
                block.load(self.level, from, None, &mut scratch);
                to.copy_from_slice(&scratch[found.source_bytes()]);
            }
        }
        Ok(true)
    }

    /// Puts pages together in `batch`, stores them, and gives their fingerprints; pages that come later have none.
    fn store_batch(
        &self,
        pages: &Pages<'_>,
        ordinals: Range<u64>,
        batch: &mut Batch,
        store: &impl PageStore,
    ) -> Result<Vec<[u64; 2]>, DecodeError> {
        let set = &pages.block.block.pages;
        let count = (ordinals.end - ordinals.start) as usize;
        let mut fingerprints = vec![self.zero; count];
        let mut spans: Vec<(usize, usize)> = Vec::new(); // batch places of pages that are not zero
        let mut here: Vec<(usize, usize)> = Vec::new(); // and of those that are not later
        let mut place = 0;
        let Batch { bytes, records, scratch } = batch;
        let (slots, _) = bytes.as_chunks_mut::<PAGE_SIZE>();
        for (run, skip) in pages.runs_from(ordinals.start) {
            let take = ((u64::from(run.pages) - skip) as usize).min(count - place);
            if run.settled != Settled::Later {
                here.push((place, place + take));
            }
            if !matches!(run.settled, Settled::Zero | Settled::Later) {
                for (offset, to) in slots[place..place + take].iter_mut().enumerate() {
                    let ordinal = ordinals.start + (place + offset) as u64;
                    let from = (run.settled, skip + offset as u64);
                    self.fill(pages, from, ordinal, (to, &mut *scratch), store)?;
                }
                match spans.last_mut() {
                    Some((_, end)) if *end == place => *end += take,
                    _ => spans.push((place, place + take)),
                }
            }
            place += take;
            if place == count {
                break;
            }
        }
        for (start, end) in spans {
            let bytes = &bytes[start * PAGE_SIZE..end * PAGE_SIZE];
            records.resize(end - start, PageRecord::default());
            page_scan(self.level, bytes, records);
            for (fingerprint, record) in fingerprints[start..end].iter_mut().zip(&*records) {
                *fingerprint = record.fingerprint;
            }
            let mut done = 0;
            for range in set.slice(ordinals.start + start as u64..ordinals.start + end as u64) {
                let len = (range.end - range.start) as usize * PAGE_SIZE;
                let stored = store.write(range.start, &bytes[done..done + len]);
                stored.map_err(|source| DecodeError::Io { what: "storing pages", source })?;
                done += len;
            }
        }
        self.store_zeros(pages, ordinals, store)?;
        if here != [(0, count)] {
            fingerprints = here.iter().flat_map(|&(start, end)| &fingerprints[start..end]).copied().collect();
        }
        Ok(fingerprints)
    }

    fn store_zeros(
        &self,
        pages: &Pages<'_>,
        ordinals: Range<u64>,
        store: &impl PageStore,
    ) -> Result<(), DecodeError> {
        let mut ordinal = ordinals.start;
        for (run, skip) in pages.runs_from(ordinals.start) {
            let end = ordinals.end.min(ordinal + u64::from(run.pages) - skip);
            if run.settled == Settled::Zero {
                for range in pages.block.block.pages.slice(ordinal..end) {
                    let stored = store.write_zero(range.start, range.end - range.start);
                    stored.map_err(|source| DecodeError::Io { what: "storing pages", source })?;
                }
            }
            ordinal = end;
            if ordinal == ordinals.end {
                break;
            }
        }
        Ok(())
    }

    /// Rebuilds one page, which is settled so; `offset` is its place in its run. Beside it there is room for a block of a reference.
    fn fill(
        &self,
        pages: &Pages<'_>,
        (settled, offset): (Settled, u64),
        ordinal: u64,
        (to, scratch): (&mut Page, &mut Page),
        store: &impl PageStore,
    ) -> Result<(), DecodeError> {
        match settled {
            Settled::Zero | Settled::Later => to.fill(0),
            Settled::Uniform(word) => {
                to.as_chunks_mut::<8>().0.iter_mut().for_each(|bytes| *bytes = word.to_le_bytes());
            }
            Settled::Reference { index, position } => {
                let position = position + offset;
                *to = *reference_page(self.header, self.references, index.into(), position, scratch)?;
            }
            Settled::Duplicate { source } => {
                let source = source + offset;
                if pages.block.block.pages.ordinal_of(source).is_some() {
                    pages
                        .load(self.level, source, to)
                        .ok_or(invalid("columns", "a duplicate's source in its own block is not residual"))?;
                } else {
                    let read = store.read(source, 0, to);
                    read.map_err(|source| DecodeError::Io { what: "reading earlier pages", source })?;
                }
            }
            Settled::Residual => {
                let number = pages.block.block.pages.page_at(ordinal);
                let page = pages.load(self.level, number, to);
                page.ok_or(invalid("columns", "a residual page is missing"))?;
            }
        }
        Ok(())
    }
}

/// Buffers of one task: a batch of pages, and room for a block of a reference.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    records: Vec<PageRecord>,
    scratch: Box<Page>,
}

impl Batch {
    fn new() -> Self {
        let bytes = vec![0; BATCH_PAGES as usize * PAGE_SIZE];
        Batch { bytes, records: Vec::new(), scratch: Box::new([0; PAGE_SIZE]) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A block's pages, its residual ones rebuilt.
struct Pages<'p> {
    block: &'p ParsedBlock,
    built: Vec<Option<Box<Page>>>,
}

impl Pages<'_> {
    /// Copies a page; none if it is not a residual page of the block.
    fn load(&self, level: Level, page: u64, to: &mut Page) -> Option<()> {
        let index = self.block.residual_index(page)?;
        match &self.built[index] {
            Some(page) => *to = **page,
            None => self.block.load(level, index, None, to),
        }
        Some(())
    }

    /// The runs from the one that holds `ordinal` on; the first with the number of its pages before that.
    fn runs_from(&self, ordinal: u64) -> impl Iterator<Item = (&Run, u64)> {
        let mut before = 0;
        let first = self
            .block
            .runs
            .iter()
            .position(|run| {
                before += u64::from(run.pages);
                before > ordinal
            })
            .unwrap_or(self.block.runs.len());
        let rest = &self.block.runs[first..];
        let skip = rest.first().map_or(0, |run| u64::from(run.pages) - (before - ordinal));
        rest.iter().enumerate().map(move |(index, run)| (run, if index == 0 { skip } else { 0 }))
    }
}
