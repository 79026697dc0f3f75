//! Writing blocks: the session that a packer or a transport drives.
//!
//! Three steps turn a set of pages into a block, and only the middle one knows the stream's past:
//!
//! 1. [`BlockEncoder::scan`]: zero, uniform and reference pages are settled; any number of sets at once.
//! 2. [`History::settle`]: duplicates, and candidates for long matches; in stream order, and cheap.
//! 3. [`BlockEncoder::code`]: long matches and entropy coding; any number of blocks at once again.
//!
//! The bytes depend on the pages, the references and the options, and on nothing else: not on threads, not on
//! the SIMD level, not on which worker scanned.

use mig_simd::{Anchors, Level, PageRecord, anchors, page_eq};
use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

use crate::class::Class;
use crate::columns::{self, Addressing, Run, Settled};
use crate::error::EncodeError;
use crate::format::block::{Block, Group, Piece};
use crate::format::frame::{self, FrameType};
use crate::format::{ReferenceKind, limits};
use crate::longmatch::{Candidate, Finder, Older, Sources, matches_of};
use crate::matches::{self, MatchLists};
use crate::options::Effort;
use crate::page::{PAGE_SIZE, Page, PageSet};
use crate::progress::Cancel;
use crate::refs::Reference;
use crate::residual::{GroupCoders, Recipe, compress_list, push_literals};
use crate::settle::dedup::Dedup;
use crate::settle::{CHUNK_PAGES, Chunk, Settler};
use crate::source::PageSource;
use crate::worker::ScanWorker;

/// Pages whose long matches one task looks for; what comes out does not depend on it.
const MATCH_TASK_PAGES: usize = 256;

/// Codes sets of pages of one source into blocks of one stream.
#[derive(Debug)]
pub struct BlockEncoder<'a, S: ?Sized> {
    source: &'a S,
    references: &'a [Reference],
    addressing: Vec<Addressing>,
    worker: &'a dyn ScanWorker,
    level: Level,
    recipe: Recipe,
    random_access: bool,
    zero: PageRecord,
    coders: GroupCoders,
}

/// Tasks whose samples of an older image are held at a time. An image can be made so that all of it is samples: 5 KiB a
/// page, 80 MiB in all.
const LEARN_TASKS: usize = 16;
/// How much more thinly an older image is sampled than the guest, as a power of two.
const OLDER_SPARSITY: u32 = 2;

/// Anchors of an older image's pages.
#[derive(Default)]
struct Sampled {
    /// Page number, and one past its last anchor.
    pages: Vec<(u64, usize)>,
    positions: Vec<u16>,
    hashes: Vec<u64>,
}

/// Samples one chunk of an older image; holes have nothing to find.
fn sample_older(
    level: Level,
    reference: &Reference,
    task: u64,
    sparsity: u32,
) -> Result<Sampled, EncodeError> {
    let mut sampled = Sampled::default();
    let (mut scratch, mut found) = (Box::new([0; PAGE_SIZE]), Anchors::default());
    for page in task * CHUNK_PAGES..reference.need().blocks.min((task + 1) * CHUNK_PAGES) {
        if !reference.has_page(page) {
            continue;
        }
        anchors(level, reference.older_page(page, &mut scratch)?, sparsity, &mut found);
        sampled.positions.extend_from_slice(found.positions());
        sampled.hashes.extend_from_slice(found.hashes());
        sampled.pages.push((page, sampled.positions.len()));
    }
    Ok(sampled)
}

/// What a stream's earlier blocks leave behind for later ones.
#[derive(Debug)]
pub struct History {
    dedup: Dedup,
    finder: Option<Finder>,
}

/// A set of pages after the first step.
#[derive(Debug)]
pub struct Scanned {
    pages: PageSet,
    chunks: Vec<Chunk>,
}

/// A set of pages after the second step.
#[derive(Debug)]
pub struct SettledBlock {
    pages: PageSet,
    runs: Vec<Run>,
    residual: Vec<Residual>,
    candidates: Vec<Candidate>,
    fingerprints: Vec<[u64; 2]>,
}

/// A page whose bytes are to be coded.
#[derive(Clone, Copy, Debug)]
struct Residual {
    page: u64,
    class: Class,
    /// One past the page's last entry in the block's candidates.
    candidates_end: u32,
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
    /// Bytes that say what settled pages are: frame head, page set, digest, the columns' runs, checks.
    pub settled_bytes: u64,
    /// Bytes of meta that residual pages need: their classes, and where their groups are.
    pub residual_meta_bytes: u64,
    /// Coded bytes of the long-match lists.
    pub match_bytes: u64,
    /// Bytes of residual pages that long matches cover.
    pub matched: u64,
}

impl BlockStats {
    pub(crate) fn count_run(&mut self, run: Run) {
        self.pages[run.settled.kind()] += u64::from(run.pages);
        let placed = matches!(run.settled, Settled::Duplicate { .. } | Settled::Reference { .. });
        self.runs += u64::from(placed);
    }

    /// Adds another block's counts.
    pub fn add(&mut self, other: &BlockStats) {
        let sum = |to: &mut [u64], from: &[u64]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        sum(&mut self.pages, &other.pages);
        sum(&mut self.class_pages, &other.class_pages);
        sum(&mut self.class_bytes, &other.class_bytes);
        self.runs += other.runs;
        self.settled_bytes += other.settled_bytes;
        self.residual_meta_bytes += other.residual_meta_bytes;
        self.match_bytes += other.match_bytes;
        self.matched += other.matched;
    }
}

/// A block ready to be sent, but for its place in the stream.
#[derive(Debug)]
pub struct CodedBlock<'a> {
    meta: Vec<u8>,
    parts: Vec<Part<'a>>,
    pages: PageSet,
    digest: [u8; 16],
    stats: BlockStats,
}

/// Bytes of a block's data: coded here, or the source's own.
#[derive(Debug)]
enum Part<'a> {
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

    /// XXH3-128 of the pages' fingerprints.
    pub fn digest(&self) -> [u8; 16] {
        self.digest
    }

    /// What the pages turned out to be.
    pub fn stats(&self) -> &BlockStats {
        &self.stats
    }
}

impl History {
    /// The state of a stream without blocks, for a guest of `page_count` pages.
    pub fn new(page_count: u64, effort: Effort, random_access: bool) -> Self {
        let search = Recipe::new(effort, random_access).search;
        History { dedup: Dedup::new(page_count), finder: search.map(|_| Finder::new(page_count)) }
    }

    /// Samples the older memory images among the encoder's references, so that what they hold anywhere can be found
    /// in any page. To be called once, before the first block; does nothing at efforts without long matches. Runs on the
    /// current rayon pool, and reads each image once.
    ///
    /// # Errors
    ///
    /// [`EncodeError::Reference`] if one cannot be read, [`EncodeError::Cancelled`].
    pub fn learn<S: PageSource + ?Sized>(
        &mut self,
        encoder: &BlockEncoder<'_, S>,
        cancel: &Cancel,
    ) -> Result<(), EncodeError> {
        let (Some(finder), Some(search)) = (&mut self.finder, encoder.recipe.search) else { return Ok(()) };
        for (index, reference) in encoder.references.iter().enumerate() {
            if reference.kind() != ReferenceKind::Memory {
                continue;
            }
            let blocks = reference.need().blocks;
            let tasks = blocks.div_ceil(CHUNK_PAGES);
            for first in (0..tasks).step_by(LEARN_TASKS) {
                if cancel.is_cancelled() {
                    return Err(EncodeError::Cancelled);
                }
                let range = first..tasks.min(first + LEARN_TASKS as u64);
                let sample =
                    |task| sample_older(encoder.level, reference, task, search.sparsity + OLDER_SPARSITY);
                let samples: Vec<Sampled> = range.into_par_iter().map(sample).collect::<Result<_, _>>()?;
                for sampled in samples {
                    let mut start = 0;
                    for &(page, end) in &sampled.pages {
                        let (positions, hashes) =
                            (&sampled.positions[start..end], &sampled.hashes[start..end]);
                        finder.learn(index as u8 + 1, page, positions, hashes);
                        start = end;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes the next block of the stream: settles duplicates and looks up long-match candidates.
    ///
    /// # Errors
    ///
    /// None at present but for a source that cannot be read.
    pub fn settle<S: PageSource + ?Sized>(
        &mut self,
        encoder: &BlockEncoder<'_, S>,
        scanned: Scanned,
    ) -> Result<SettledBlock, EncodeError> {
        let Scanned { pages, chunks } = scanned;
        let mut block = SettledBlock {
            runs: Vec::new(),
            residual: Vec::new(),
            candidates: Vec::new(),
            fingerprints: Vec::with_capacity(pages.len() as usize),
            pages,
        };
        for chunk in chunks {
            self.settle_chunk(encoder, chunk, &mut block);
        }
        Ok(block)
    }

    fn settle_chunk<S: PageSource + ?Sized>(
        &mut self,
        encoder: &BlockEncoder<'_, S>,
        mut chunk: Chunk,
        block: &mut SettledBlock,
    ) {
        let base = block.fingerprints.len();
        let mut anchors_start = 0;
        for unsettled in &chunk.unsettled {
            let anchors = anchors_start..unsettled.anchors_end as usize;
            anchors_start = anchors.end;
            let place = unsettled.ordinal as usize - base;
            let number = block.pages.page_at(unsettled.ordinal.into());
            let earlier = self.dedup.find_or_insert(chunk.fingerprints[place], number);
            if let Some(source) = earlier.filter(|&earlier| encoder.equal(earlier, number)) {
                chunk.settled[place] = Settled::Duplicate { source };
                continue;
            }
            if let Some(finder) = &mut self.finder {
                let (positions, hashes) = (&chunk.positions[anchors.clone()], &chunk.hashes[anchors]);
                finder.probe(number, positions, hashes, &mut block.candidates);
            }
            block.residual.push(Residual {
                page: number,
                class: unsettled.class,
                candidates_end: block.candidates.len() as u32,
            });
        }
        for &settled in &chunk.settled {
            match block.runs.last_mut() {
                Some(run) if run.settled.continues(run.pages.into(), settled) => run.pages += 1,
                _ => block.runs.push(Run { pages: 1, settled }),
            }
        }
        block.fingerprints.append(&mut chunk.fingerprints);
    }
}

impl<'a, S: PageSource + ?Sized> BlockEncoder<'a, S> {
    /// A session on `source`, whose blocks may refer to `references` by their place in the slice.
    ///
    /// # Errors
    ///
    /// [`EncodeError::TooLarge`] for more pages or references than the format holds.
    pub fn new(
        source: &'a S,
        references: &'a [Reference],
        worker: &'a dyn ScanWorker,
        level: Level,
        effort: Effort,
        random_access: bool,
    ) -> Result<Self, EncodeError> {
        let recipe = Recipe::new(effort, random_access);
        Self::with_recipe(source, references, worker, level, recipe, random_access)
    }

    pub(crate) fn with_recipe(
        source: &'a S,
        references: &'a [Reference],
        worker: &'a dyn ScanWorker,
        level: Level,
        recipe: Recipe,
        random_access: bool,
    ) -> Result<Self, EncodeError> {
        for (what, value, max) in [
            ("pages", source.page_count(), limits::PAGE_COUNT),
            ("references", references.len() as u64, limits::REFERENCES),
        ] {
            if value > max {
                return Err(EncodeError::TooLarge { what, value, max });
            }
        }
        let mut zero = [PageRecord::default()];
        worker.scan(&[0; PAGE_SIZE], &mut zero);
        Ok(BlockEncoder {
            source,
            references,
            addressing: references.iter().map(|reference| reference.kind().addressing()).collect(),
            worker,
            level,
            recipe,
            random_access,
            zero: zero[0],
            coders: GroupCoders::new(recipe),
        })
    }

    /// First step: settles what can be settled by each page alone. Runs on the current rayon pool.
    ///
    /// # Errors
    ///
    /// [`EncodeError::PageSet`] if the set reaches beyond the source or has too many pages for a block,
    /// [`EncodeError::Reference`] if a reference cannot be read.
    pub fn scan(&self, pages: PageSet) -> Result<Scanned, EncodeError> {
        if pages.end() > self.source.page_count() {
            return Err(EncodeError::PageSet("it reaches beyond the guest's memory"));
        }
        if pages.len() > limits::BLOCK_PAGES {
            return Err(EncodeError::PageSet("it has more pages than a block holds"));
        }
        let settler = Settler {
            source: self.source,
            references: self.references,
            worker: self.worker,
            level: self.level,
            sparsity: self.recipe.search.map(|search| search.sparsity),
            classes: self.recipe.compresses(),
            zero: self.zero,
        };
        let chunks = pages.len().div_ceil(CHUNK_PAGES);
        let chunk = |chunk: u64| {
            let end = pages.len().min((chunk + 1) * CHUNK_PAGES);
            settler.settle(&pages, chunk * CHUNK_PAGES..end)
        };
        let chunks = (0..chunks).into_par_iter().map(chunk).collect::<Result<_, _>>()?;
        Ok(Scanned { pages, chunks })
    }

    fn equal(&self, one: u64, other: u64) -> bool {
        match (self.source.page(one), self.source.page(other)) {
            (Some(one), Some(other)) => page_eq(self.level, one, other),
            _ => false,
        }
    }

    fn page(&self, number: u64) -> &'a Page {
        static ZERO: Page = [0; PAGE_SIZE];
        self.source.page(number).unwrap_or(&ZERO)
    }

    /// Third step: finds the long matches and codes the residual pages. Runs on the current rayon pool.
    ///
    /// # Errors
    ///
    /// [`EncodeError::Zstd`] if zstd fails, [`EncodeError::Reference`] if a reference cannot be read.
    pub fn code(&self, block: &SettledBlock) -> Result<CodedBlock<'a>, EncodeError> {
        let matches = self.find_matches(block)?;
        let (groups, group_parts) = self.code_groups(block, &matches)?;
        let classes: Vec<Class> = block.classes().collect();
        let mut parts = Vec::new();
        let match_piece = if matches.matches.is_empty() {
            None
        } else {
            let list = matches::encode(&matches, block.residual.iter().map(|residual| residual.page));
            let (piece, coded) = compress_list(&list)?;
            parts.push(Part::Owned(coded));
            Some(piece)
        };
        let check_piece = self.random_access.then(|| {
            let checks = block.checks();
            let piece = Piece::raw(checks.len());
            parts.push(Part::Owned(checks));
            piece
        });
        parts.extend(group_parts);
        let mut stats =
            BlockStats { match_bytes: match_piece.map_or(0, |piece| piece.coded_len), ..block.stats() };
        for group in &groups {
            stats.class_bytes[group.class as usize] += group.piece.coded_len;
        }
        stats.matched = matches.matches.iter().map(|found| u64::from(found.words) * 8).sum();
        let digest = digest(&block.fingerprints);
        let columns = columns::encode(&block.pages, &block.runs, &classes, &self.addressing);
        let class_column = (columns.bytes.len() - columns.runs_len) as u64;
        let (meta, columns_end) = Block {
            round: 0,
            pages: block.pages.clone(),
            digest,
            columns: columns.bytes,
            matches: match_piece,
            checks: check_piece,
            groups,
        }
        .write();
        let checks = check_piece.map_or(0, |piece| piece.coded_len);
        stats.residual_meta_bytes = class_column + (meta.len() - columns_end) as u64;
        stats.settled_bytes = (frame::HEADER_LEN + meta.len()) as u64 + checks - stats.residual_meta_bytes;
        Ok(CodedBlock { meta, parts, pages: block.pages.clone(), digest, stats })
    }

    fn find_matches(&self, block: &SettledBlock) -> Result<MatchLists, EncodeError> {
        let Some(search) = self.recipe.search else { return Ok(MatchLists::default()) };
        let older = self
            .references
            .iter()
            .enumerate()
            .filter(|(_, reference)| reference.kind() == ReferenceKind::Memory)
            .map(|(index, reference)| (index as u8 + 1, reference));
        let older: Vec<_> = older.collect();
        let sources = Spaces { source: self.source, references: self.references };
        let tasks = block.residual.len().div_ceil(MATCH_TASK_PAGES);
        let task = |task: usize| -> Result<MatchLists, EncodeError> {
            let first = task * MATCH_TASK_PAGES;
            let last = block.residual.len().min(first + MATCH_TASK_PAGES);
            let mut lists = MatchLists::default();
            let mut scratch = Box::new([0; PAGE_SIZE]);
            for index in first..last {
                let residual = block.residual[index];
                if residual.class != Class::Incompressible {
                    let page = self.page(residual.page);
                    let older = older.iter().find(|(_, reference)| reference.has_page(residual.page));
                    let version = match older {
                        Some(&(space, reference)) => {
                            let bytes = reference.older_page(residual.page, &mut scratch)?;
                            Some(Older { space, page: residual.page, bytes })
                        }
                        None => None,
                    };
                    let candidates = block.candidates_of(index);
                    matches_of(self.level, page, candidates, version, &sources, search, &mut lists.matches);
                }
                lists.end_page();
            }
            Ok(lists)
        };
        let lists: Vec<MatchLists> = (0..tasks).into_par_iter().map(task).collect::<Result<_, _>>()?;
        let mut all = MatchLists::default();
        lists.iter().for_each(|list| all.append(list));
        Ok(all)
    }

    fn code_groups(
        &self,
        block: &SettledBlock,
        matches: &MatchLists,
    ) -> Result<(Vec<Group>, Vec<Part<'a>>), EncodeError> {
        let mut members: [Vec<usize>; Class::ALL.len()] = Default::default();
        for (index, residual) in block.residual.iter().enumerate() {
            members[residual.class as usize].push(index);
        }
        let groups: Vec<(Class, &[usize])> = Class::ALL
            .into_iter()
            .flat_map(|class| {
                let chunks = members[class as usize].chunks(self.recipe.group_pages as usize);
                chunks.map(move |pages| (class, pages))
            })
            .collect();
        let code = |&(class, pages): &(Class, &[usize])| -> Result<(Group, Vec<Part<'a>>), EncodeError> {
            let (piece, parts) = self.code_group(block, matches, class, pages)?;
            Ok((Group { class, pages: pages.len() as u32, piece }, parts))
        };
        let coded: Vec<(Group, Vec<Part<'a>>)> = groups.par_iter().map(code).collect::<Result<_, _>>()?;
        let (groups, parts): (Vec<Group>, Vec<Vec<Part<'a>>>) = coded.into_iter().unzip();
        Ok((groups, parts.into_iter().flatten().collect()))
    }

    fn code_group(
        &self,
        block: &SettledBlock,
        matches: &MatchLists,
        class: Class,
        pages: &[usize],
    ) -> Result<(Piece, Vec<Part<'a>>), EncodeError> {
        if class != Class::Incompressible && self.recipe.compresses() {
            let mut coder = self.coders.take()?;
            coder.reserve(pages.len());
            for &index in pages {
                coder.push(self.level, self.page(block.residual[index].page), matches.of_page(index));
            }
            let (piece, coded) = match coder.compress()? {
                Some(coded) => coded,
                None => {
                    let mut literals = Vec::new();
                    for &index in pages {
                        let page = self.page(block.residual[index].page);
                        push_literals(page, matches.of_page(index), &mut literals);
                    }
                    (Piece::raw(literals.len()), literals)
                }
            };
            self.coders.put(coder);
            return Ok((piece, vec![Part::Owned(coded)]));
        }
        // Stored pages are sent from where they lie; neighbours go together.
        let mut parts: Vec<Part<'a>> = Vec::new();
        let mut rest = pages;
        while let Some(&first) = rest.first() {
            let number = block.residual[first].page;
            let adjacent = rest.iter().zip(number..).take_while(|&(&i, page)| block.residual[i].page == page);
            let max = adjacent.count() as u64;
            match self.source.run(number, max) {
                crate::image::Run::Data(bytes) => {
                    parts.push(Part::Source(bytes));
                    rest = &rest[bytes.len() / PAGE_SIZE..];
                }
                crate::image::Run::Hole(_) => {
                    parts.push(Part::Source(self.page(number)));
                    rest = &rest[1..];
                }
            }
        }
        Ok((Piece::raw(pages.len() * PAGE_SIZE), parts))
    }
}

/// What long matches may come from: the stream's own pages, and references.
struct Spaces<'a, S: ?Sized> {
    source: &'a S,
    references: &'a [Reference],
}

impl<S: PageSource + ?Sized> Sources for Spaces<'_, S> {
    fn page<'p>(&'p self, space: u8, page: u64, scratch: &'p mut Page) -> Option<&'p Page> {
        match usize::from(space).checked_sub(1) {
            None => self.source.page(page),
            Some(index) => self.references.get(index)?.older_page(page, scratch).ok(),
        }
    }
}

impl SettledBlock {
    fn candidates_of(&self, index: usize) -> &[Candidate] {
        let start = if index == 0 { 0 } else { self.residual[index - 1].candidates_end };
        &self.candidates[start as usize..self.residual[index].candidates_end as usize]
    }

    /// Low halves of the fingerprints of the pages that hold more than one word.
    fn checks(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut ordinal = 0;
        for run in &self.runs {
            let pages = run.pages as usize;
            if !matches!(run.settled, Settled::Zero | Settled::Uniform(_)) {
                for fingerprint in &self.fingerprints[ordinal..ordinal + pages] {
                    out.extend_from_slice(&fingerprint[0].to_le_bytes());
                }
            }
            ordinal += pages;
        }
        out
    }

    /// What the pages are, in runs.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The class of each residual page, in order.
    pub fn classes(&self) -> impl Iterator<Item = Class> {
        self.residual.iter().map(|residual| residual.class)
    }

    /// Pages by kind and class; nothing is coded yet.
    pub fn stats(&self) -> BlockStats {
        let mut stats = BlockStats::default();
        self.runs.iter().for_each(|&run| stats.count_run(run));
        self.classes().for_each(|class| stats.class_pages[class as usize] += 1);
        stats
    }
}

/// XXH3-128 of fingerprints, as the format's bytes.
pub(crate) fn digest(fingerprints: &[[u64; 2]]) -> [u8; 16] {
    let mut hash = Xxh3::new();
    for fingerprint in fingerprints {
        hash.update(&fingerprint[0].to_le_bytes());
        hash.update(&fingerprint[1].to_le_bytes());
    }
    digest_bytes(hash.digest128())
}

/// A 128-bit hash as the format stores it: low half first, each little-endian.
pub(crate) fn digest_bytes(hash: u128) -> [u8; 16] {
    hash.to_le_bytes()
}
