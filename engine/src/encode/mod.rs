//! Writing blocks: the session that a packer or a transport drives.
//!
//! Three steps turn a set of pages into a block, and only the middle one knows the stream's past:
//!
//! 1. [`BlockEncoder::scan`]: zero, uniform and reference pages are settled; any number of sets at once.
//! 2. [`History::settle`]: duplicates, and candidates for long matches; in stream order, and cheap.
//! 3. [`BlockEncoder::code`]: likeness to other pages, and entropy coding; any number of blocks at once again.
//!
//! Of a guest that can be read ([`BlockEncoder::with_guest`]) the pages that are not settled are left for later blocks, where
//! they come in the order in which the guest sees them: once all sets went through the steps, [`History::leftovers`] lists
//! them, and they go through [`BlockEncoder::sample`] in the place of the first step, and then the other two.
//!
//! The bytes depend on the pages, the references and the options, and on nothing else: not on threads, not on
//! the SIMD level, not on which worker scanned.

mod coded;
mod groups;
mod history;
mod likeness;

use mig_simd::{Anchors, Level, PageRecord, anchors, page_eq};
use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

use coded::Part;
pub use coded::{BlockStats, CodedBlock, Words};
pub use history::{History, Leftover};
use likeness::Likeness;

use crate::ahead::ScanAhead;
use crate::class::Class;
use crate::columns::{self, Addressing, Placements, Run, Settled};
use crate::error::EncodeError;
use crate::format::ReferenceKind;
use crate::format::block::{Block, Codec, Group, MASK_LEN, Piece};
use crate::format::{frame, limits};
use crate::guest::{Guest, GuestClass};
use crate::locate::address_number;
use crate::longmatch::Candidate;
use crate::matches;
use crate::options::{Effort, Technique, Techniques};
use crate::page::{PAGE_SIZE, PAGE_WORDS, Page, PageSet};
use crate::refs::Reference;
use crate::residual::{GroupCoders, Recipe, compress_list};
use crate::settle::{CHUNK_PAGES, Chunk, Settler};
use crate::source::PageSource;
use crate::worker::ScanWorker;

/// Codes sets of pages of one source into blocks of one stream.
#[derive(Debug)]
pub struct BlockEncoder<'a, S: ?Sized> {
    source: &'a S,
    references: &'a [Reference],
    addressing: Vec<Addressing>,
    worker: &'a dyn ScanWorker,
    level: Level,
    /// What to do at each effort; the encoder's own comes first.
    kits: Vec<Kit>,
    random_access: bool,
    round: u64,
    guest: Option<&'a Guest>,
    techniques: Techniques,
    drops_free: bool,
    zero: PageRecord,
}

/// How blocks of one effort are coded.
#[derive(Debug)]
struct Kit {
    effort: Effort,
    recipe: Recipe,
    coders: GroupCoders,
}

impl Kit {
    fn new(effort: Effort, recipe: Recipe) -> Self {
        Kit { effort, recipe, coders: GroupCoders::new(recipe) }
    }
}

/// How one block is to be coded; those of a stream may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct How {
    /// How much work to spend on its residual pages.
    pub effort: Effort,
    /// What it may refer to.
    pub reach: Reach,
}

/// What a block may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everything that the destination has.
    All,
    /// The stream's own pages, and no reference.
    Guest,
    /// Nothing outside of itself: it can be decoded alone.
    Alone,
}

/// A set of pages after the first step.
#[derive(Debug)]
pub struct Scanned {
    pages: PageSet,
    how: How,
    chunks: Vec<Chunk>,
    /// Whether pages that are not settled are left for later blocks.
    defers: bool,
}

impl Scanned {
    /// The fingerprint of each page, in the order of the set; the low half comes first.
    pub(crate) fn fingerprints(&self) -> impl Iterator<Item = [u64; 2]> {
        self.chunks.iter().flat_map(|chunk| chunk.fingerprints.iter().copied())
    }
}

/// A set of pages after the second step.
#[derive(Debug)]
pub struct SettledBlock {
    pages: PageSet,
    how: How,
    runs: Vec<Run>,
    residual: Vec<Residual>,
    candidates: Vec<Candidate>,
    /// Of all pages but those that come later.
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
        let others = Effort::AVAILABLE.into_iter().filter(|&other| other != effort);
        let older = references.iter().any(|reference| reference.kind() == ReferenceKind::Memory);
        let kit = |effort| Kit::new(effort, Recipe::new(effort, random_access, older));
        let kits = std::iter::once(effort).chain(others).map(kit).collect();
        Self::with_kits(source, references, worker, level, kits, random_access)
    }

    /// A session that only asks what pages are.
    pub(crate) fn for_classes(
        source: &'a S,
        references: &'a [Reference],
        worker: &'a dyn ScanWorker,
        level: Level,
    ) -> Result<Self, EncodeError> {
        let kits = vec![Kit::new(Effort::Store, Recipe::CLASSES)];
        Self::with_kits(source, references, worker, level, kits, false)
    }

    fn with_kits(
        source: &'a S,
        references: &'a [Reference],
        worker: &'a dyn ScanWorker,
        level: Level,
        kits: Vec<Kit>,
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
            kits,
            random_access,
            round: 0,
            guest: None,
            techniques: Techniques::ALL,
            drops_free: false,
            zero: zero[0],
        })
    }

    /// Sets the live round that its blocks belong to.
    pub fn round(mut self, round: u64) -> Self {
        self.round = round;
        self
    }

    fn kit(&self, effort: Effort) -> &Kit {
        self.kits.iter().find(|kit| kit.effort == effort).unwrap_or(&self.kits[0])
    }

    /// The references that a block may refer to.
    fn within(&self, reach: Reach) -> &'a [Reference] {
        if reach == Reach::All { self.references } else { &[] }
    }

    /// The encoder's own way of coding blocks.
    fn own(&self) -> How {
        How { effort: self.kits[0].effort, reach: Reach::All }
    }

    /// Has what the guest says of its pages used for coding them. It must be the guest whose pages these are; of any other,
    /// the stream is larger and just as good.
    pub fn with_guest(mut self, guest: &'a Guest) -> Self {
        self.guest = Some(guest);
        self
    }

    /// Leaves out some techniques, to see what they are worth.
    pub fn with_techniques(mut self, techniques: Techniques) -> Self {
        self.techniques = techniques;
        self
    }

    /// Sends pages that the guest has free as zero, whatever they hold: see [`Guest::may_drop_free_pages`].
    pub fn dropping_free_pages(mut self) -> Self {
        self.drops_free = true;
        self
    }

    /// Whether pages that are not settled are left for later blocks.
    fn defers(&self, how: How) -> bool {
        let wanted = self.techniques.has(Technique::Guest) && self.techniques.has(Technique::Order);
        let together = how.reach != Reach::Alone && self.kit(how.effort).recipe.compresses();
        self.guest.is_some() && wanted && together && !self.random_access
    }

    /// First step: settles what can be settled by each page alone. Runs on the current rayon pool.
    ///
    /// # Errors
    ///
    /// [`EncodeError::PageSet`] if the set reaches beyond the source or has too many pages for a block,
    /// [`EncodeError::Reference`] if a reference cannot be read.
    pub fn scan(&self, pages: PageSet) -> Result<Scanned, EncodeError> {
        self.scan_as(pages, self.own(), None)
    }

    /// As [`scan`](Self::scan), with what a device has found out of sets that were announced to this queue. What is coded is the
    /// same without.
    ///
    /// # Errors
    ///
    /// As for [`scan`](Self::scan).
    pub fn scan_ahead(&self, pages: PageSet, ahead: Option<&ScanAhead>) -> Result<Scanned, EncodeError> {
        self.scan_as(pages, self.own(), ahead)
    }

    /// As [`scan_ahead`](Self::scan_ahead), for a block that is to be coded in another way than the encoder's own.
    ///
    /// # Errors
    ///
    /// As for [`scan`](Self::scan).
    pub fn scan_as(
        &self,
        pages: PageSet,
        how: How,
        ahead: Option<&ScanAhead>,
    ) -> Result<Scanned, EncodeError> {
        let (recipe, defers) = (&self.kit(how.effort).recipe, self.defers(how));
        if pages.end() > self.source.page_count() {
            return Err(EncodeError::PageSet("it reaches beyond the guest's memory"));
        }
        if pages.len() > limits::BLOCK_PAGES {
            return Err(EncodeError::PageSet("it has more pages than a block holds"));
        }
        let settler = Settler {
            source: self.source,
            references: self.within(how.reach),
            worker: self.worker,
            level: self.level,
            sparsity: recipe.search.map(|search| search.sparsity).filter(|_| !defers),
            classes: recipe.compresses(),
            defers,
            guest: self.guest,
            drops_free: self.drops_free,
            zero: self.zero,
        };
        let begun = ahead.and_then(|ahead| ahead.begin(&pages));
        let chunk = |chunk: u64| {
            let end = pages.len().min((chunk + 1) * CHUNK_PAGES);
            let scan = begun.as_ref().and_then(|begun| begun.take(chunk));
            settler.settle(&pages, chunk * CHUNK_PAGES..end, scan.as_ref())
        };
        let all = 0..pages.len().div_ceil(CHUNK_PAGES);
        let claimed = |&chunk: &u64| begun.as_ref().is_some_and(|begun| begun.is_claimed(chunk));
        let (later, now): (Vec<u64>, Vec<u64>) = all.clone().partition(claimed);
        let chunks = if later.is_empty() {
            all.into_par_iter().map(chunk).collect::<Result<_, _>>()?
        } else {
            // What a device is at comes last: it may be done by then.
            let mut chunks: Vec<(u64, Chunk)> = Vec::new();
            for numbers in [now, later] {
                let settle = |number| Ok((number, chunk(number)?));
                chunks.extend(numbers.into_par_iter().map(settle).collect::<Result<Vec<_>, EncodeError>>()?);
            }
            chunks.sort_unstable_by_key(|(number, _)| *number);
            chunks.into_iter().map(|(_, chunk)| chunk).collect()
        };
        Ok(Scanned { pages, how, chunks, defers })
    }

    /// First step for pages that were left for later.
    ///
    /// # Errors
    ///
    /// None at present.
    pub fn sample(&self, leftover: Leftover) -> Result<Scanned, EncodeError> {
        self.sample_as(leftover, self.own())
    }

    /// As [`sample`](Self::sample), for a block that is to be coded in another way than the encoder's own.
    ///
    /// # Errors
    ///
    /// As for [`sample`](Self::sample).
    pub fn sample_as(&self, leftover: Leftover, how: How) -> Result<Scanned, EncodeError> {
        let Leftover { pages, fingerprints, classes, twins } = leftover;
        let sparsity = self.kit(how.effort).recipe.search.map(|search| search.sparsity);
        let chunk = |chunk: u64| {
            let ordinals = chunk * CHUNK_PAGES..pages.len().min((chunk + 1) * CHUNK_PAGES);
            let places = ordinals.start as usize..ordinals.end as usize;
            let mut found = Chunk {
                settled: vec![Settled::Residual; places.len()],
                fingerprints: fingerprints[places.clone()].to_vec(),
                ..Chunk::default()
            };
            let numbers = pages.slice(ordinals.clone()).flatten();
            let known = classes[places.clone()].iter().zip(&twins[places]);
            for ((ordinal, number), (&class, twin)) in ordinals.zip(numbers).zip(known) {
                let page = self.page(number);
                let twin = twin.compared(self.source, self.level, page);
                found.push(self.level, page, ordinal, class, twin, sparsity);
            }
            found
        };
        let chunks = (0..pages.len().div_ceil(CHUNK_PAGES)).into_par_iter().map(chunk).collect();
        Ok(Scanned { pages, how, chunks, defers: false })
    }

    /// The anchors of one page.
    fn anchors_of(&self, number: u64, effort: Effort) -> Anchors {
        let mut found = Anchors::default();
        if let Some(search) = self.kit(effort).recipe.search {
            anchors(self.level, self.page(number), search.sparsity, &mut found);
        }
        found
    }

    /// Whether a page of the block with this set equals another one, of this block or of those before it.
    fn equal(&self, set: &PageSet, earlier: u64, number: u64) -> bool {
        let mut scratch = [0; PAGE_SIZE];
        match (self.guest_page(set, earlier, &mut scratch), self.source.page(number)) {
            (Some(one), Some(other)) => page_eq(self.level, one, other),
            _ => false,
        }
    }

    /// A page of the guest as a block with this set may copy it: one of its own, or one as earlier blocks left it.
    fn guest_page<'p>(&'p self, set: &PageSet, page: u64, scratch: &'p mut Page) -> Option<&'p Page> {
        match set.ordinal_of(page) {
            Some(_) => self.source.page(page),
            None => self.source.earlier(page, set.first(), scratch),
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
        let Likeness { matches, mut bases } = self.find_likeness(block)?;
        let mut addresses = self.addresses(block, &bases);
        let (groups, group_parts) = self.code_groups(block, &matches, &bases, &addresses)?;
        let (groups, words): (Vec<Group>, Vec<Words>) = groups.into_iter().unzip();
        self.forget_stored(block, &groups, &mut bases, &mut addresses);
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
        for (group, &words) in groups.iter().zip(&words) {
            stats.class_bytes[group.class as usize] += group.piece.coded_len;
            stats.class_words[group.class as usize] += words;
        }
        if let Some(guest) = self.guest {
            block.count_settled(guest, &mut stats);
        }
        stats.matched = matches.matches.iter().map(|found| u64::from(found.words) * 8).sum();
        let digest = digest(&block.fingerprints);
        let columns = columns::encode(&block.pages, &block.runs, &classes, &self.addressing);
        let numbers: Vec<u64> = block.residual.iter().map(|residual| residual.page).collect();
        let placed = |places: &Placements, spaces, step| match places.iter().any(Option::is_some) {
            true => columns::encode_placements(&numbers, places, spaces, step),
            false => Vec::new(),
        };
        let addresses = placed(&addresses, 1, 1);
        let bases = placed(&bases, self.spaces(), PAGE_WORDS as i64);
        (stats.address_bytes, stats.base_bytes) = (addresses.len() as u64, bases.len() as u64);
        let class_column = (columns.bytes.len() - columns.runs_len) as u64;
        let (meta, columns_end) = Block {
            round: self.round,
            pages: block.pages.clone(),
            digest,
            columns: columns.bytes,
            matches: match_piece,
            checks: check_piece,
            addresses,
            moved: !bases.is_empty() && self.techniques.has(Technique::Relocated),
            bases,
            groups,
        }
        .write();
        let checks = check_piece.map_or(0, |piece| piece.coded_len);
        stats.residual_meta_bytes = class_column + (meta.len() - columns_end) as u64;
        stats.settled_bytes = (frame::HEADER_LEN + meta.len()) as u64 + checks - stats.residual_meta_bytes;
        Ok(CodedBlock { meta, parts, pages: block.pages.clone(), digest, stats })
    }

    /// The spaces that bases may be in: the guest's own pages, the references, the guest's memory before the block.
    fn spaces(&self) -> usize {
        self.references.len() + 2
    }

    /// A block of pages that the destination has already: each is as it was before the block. All that is sent is which pages they
    /// are, and their digest. `fingerprints` are those of the pages.
    ///
    /// # Errors
    ///
    /// As for [`code`](Self::code).
    pub(crate) fn code_kept(
        &self,
        pages: PageSet,
        fingerprints: &[[u64; 2]],
    ) -> Result<CodedBlock<'a>, EncodeError> {
        let numbers: Vec<u64> = pages.ranges().flatten().collect();
        let before = before_space(self.references.len());
        let own = |page: &u64| Some((before, (page * PAGE_WORDS as u64) as i64));
        let places: Placements = numbers.iter().map(own).collect();
        let bases = columns::encode_placements(&numbers, &places, self.spaces(), PAGE_WORDS as i64);
        // No word is stored of any of them.
        let masks = vec![0; numbers.len() * MASK_LEN];
        let (piece, coded) = compress_list(&masks)?;
        let (class, count) = (Class::Other, numbers.len() as u32);
        let runs = [Run { pages: count, settled: Settled::Residual }];
        let digest = digest(fingerprints);
        let (meta, columns_end) = Block {
            round: self.round,
            pages: pages.clone(),
            digest,
            columns: columns::encode(&pages, &runs, &vec![class; numbers.len()], &self.addressing).bytes,
            matches: None,
            checks: None,
            addresses: Vec::new(),
            bases,
            moved: false,
            groups: vec![Group { class, pages: count, piece: Piece { codec: Codec::Words, ..piece } }],
        }
        .write();
        let mut stats = BlockStats::default();
        stats.count_run(runs[0]);
        stats.class_pages[class as usize] = count.into();
        stats.class_bytes[class as usize] = piece.coded_len;
        stats.class_words[class as usize].base = u64::from(count) * PAGE_WORDS as u64;
        stats.residual_meta_bytes = (meta.len() - columns_end) as u64;
        stats.settled_bytes = (frame::HEADER_LEN + columns_end) as u64;
        Ok(CodedBlock { meta, parts: vec![Part::Owned(coded)], pages, digest, stats })
    }

    /// The virtual page numbers with which pages are coded, where they help.
    fn addresses(&self, block: &SettledBlock, bases: &Placements) -> Placements {
        let has = |technique| self.techniques.has(technique);
        let guest = self.guest.filter(|_| has(Technique::Guest) && has(Technique::SelfRelative));
        let address = |residual: &Residual| {
            let guest = guest?;
            // Page tables hold physical addresses; what the image of a kernel holds is like nothing at all, or has a base.
            let class = guest.class(residual.page);
            let points = !matches!(
                class,
                GuestClass::Unknown | GuestClass::Free | GuestClass::PageTable | GuestClass::Reserved
            );
            let number = guest
                .virtual_page(residual.page)
                .filter(|_| points && residual.class != Class::Incompressible)?;
            Some((0, address_number(number)?))
        };
        let pairs = block.residual.iter().zip(bases);
        pairs.map(|(residual, base)| if base.is_none() { address(residual) } else { None }).collect()
    }

    /// Pages of groups that did not shrink are stored as they are: without an address, and without a base.
    fn forget_stored(
        &self,
        block: &SettledBlock,
        groups: &[Group],
        bases: &mut Placements,
        addresses: &mut Placements,
    ) {
        if groups.iter().all(|group| group.piece.codec != Codec::Raw) {
            return;
        }
        for class in Class::ALL {
            let mut members = (0..block.residual.len()).filter(|&index| block.residual[index].class == class);
            for group in groups.iter().filter(|group| group.class == class) {
                for index in members.by_ref().take(group.pages as usize) {
                    if group.piece.codec == Codec::Raw {
                        (bases[index], addresses[index]) = (None, None);
                    }
                }
            }
        }
    }
}

/// The space of the guest's memory as it was before a block, in a stream with so many references.
pub(crate) fn before_space(references: usize) -> u8 {
    references as u8 + 1
}

impl SettledBlock {
    /// Whether pages that come later in the block may copy from this page: not if it is in the block and not residual, or
    /// not yet known to be.
    fn may_copy(&self, page: u64) -> bool {
        let Some(ordinal) = self.pages.ordinal_of(page) else { return true };
        let at = self.residual.partition_point(|residual| {
            self.pages.ordinal_of(residual.page).is_some_and(|other| other < ordinal)
        });
        self.residual.get(at).is_some_and(|residual| residual.page == page)
    }

    fn candidates_of(&self, index: usize) -> &[Candidate] {
        let start = if index == 0 { 0 } else { self.residual[index - 1].candidates_end };
        &self.candidates[start as usize..self.residual[index].candidates_end as usize]
    }

    /// Low halves of the fingerprints of the pages that hold more than one word.
    fn checks(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut ordinal = 0;
        for run in self.runs.iter().filter(|run| run.settled != Settled::Later) {
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

    /// Counts the settled pages by what the guest uses them for.
    fn count_settled(&self, guest: &Guest, stats: &mut BlockStats) {
        let mut numbers = self.pages.ranges().flatten();
        for run in &self.runs {
            let kind = run.settled.kind();
            for page in numbers.by_ref().take(run.pages as usize) {
                if kind < Settled::SETTLED {
                    stats.class_settled[Class::Other.refined(guest.class(page)) as usize][kind] += 1;
                }
            }
        }
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
