//! Settling: deciding what a page is without coding its bytes.
//!
//! Pages are taken in chunks of fixed size, each on its own, so that the outcome does not depend on who
//! does which: scan, then zero and uniform, then references. Duplicates are found later, in stream order. A
//! page is settled only by its bytes: fingerprints and indexes merely propose.

pub(crate) mod dedup;

use std::ops::Range;

use mig_simd::{Anchors, Level, PageRecord, anchors, page_eq};

use crate::ahead::ChunkScan;
use crate::class::Class;
use crate::columns::Settled;
use crate::error::EncodeError;
use crate::guest::{Guest, GuestClass};
use crate::image::Run;
use crate::page::{PAGE_SIZE, Page, PageSet};
use crate::refs::{NO_BLOCK, Reference};
use crate::source::PageSource;
use crate::worker::ScanWorker;

/// Pages that one task settles; part of what the output depends on, so it is fixed.
pub(crate) const CHUNK_PAGES: u64 = 1024;
/// Pages scanned before they are looked up, so that they are still in the cache then.
const BATCH_PAGES: usize = 64;

/// An earlier page that may have the same bytes, as a device says. A hint: what is a duplicate of what, the order of the
/// stream decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Twin {
    #[default]
    Unknown,
    /// Not compared yet.
    Proposed(u64),
    /// Compared: the page is sampled only if it does not become a duplicate.
    Equal(u64),
}

/// A page that neither content nor references settled.
#[derive(Debug)]
pub(crate) struct Unsettled {
    /// Place in the block's page set.
    pub(crate) ordinal: u32,
    pub(crate) class: Class,
    pub(crate) twin: Twin,
    /// One past the page's last anchor in [`Chunk::positions`] and [`Chunk::hashes`].
    pub(crate) anchors_end: u32,
}

/// What became of a chunk's pages.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// For each page, in order.
    pub(crate) settled: Vec<Settled>,
    pub(crate) fingerprints: Vec<[u64; 2]>,
    pub(crate) unsettled: Vec<Unsettled>,
    /// Anchors of all unsettled pages.
    pub(crate) positions: Vec<u16>,
    pub(crate) hashes: Vec<u64>,
    /// Those of the page at hand.
    pub(crate) anchors: Anchors,
}

/// What settling needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Settler<'a, S: ?Sized> {
    pub(crate) source: &'a S,
    pub(crate) references: &'a [Reference],
    pub(crate) worker: &'a dyn ScanWorker,
    pub(crate) level: Level,
    /// Sparsity of the anchors, if long matches are wanted.
    pub(crate) sparsity: Option<u32>,
    /// Whether classes matter: only to coders.
    pub(crate) classes: bool,
    /// Whether pages that are not settled are left for later blocks.
    pub(crate) defers: bool,
    /// The guest whose pages these are, if it can be read.
    pub(crate) guest: Option<&'a Guest>,
    /// Whether pages that the guest has free are sent as zero.
    pub(crate) drops_free: bool,
    /// The record of a zero page, for holes.
    pub(crate) zero: PageRecord,
}

/// A run of reference pages that the next page may continue.
#[derive(Clone, Copy)]
struct Current {
    index: usize,
    next: u64,
    /// Offset from page number to position, for references addressed by page.
    last_page: u64,
}

impl<'a, S: PageSource + ?Sized> Settler<'a, S> {
    /// Settles the pages of `set` with these ordinals, from a device's scan if there is one.
    pub(crate) fn settle(
        &self,
        set: &PageSet,
        ordinals: Range<u64>,
        scan: Option<&ChunkScan>,
    ) -> Result<Chunk, EncodeError> {
        let mut chunk = Chunk::default();
        let count = (ordinals.end - ordinals.start) as usize;
        chunk.settled.reserve_exact(count);
        chunk.fingerprints.reserve_exact(count);
        chunk.unsettled.reserve_exact(count);
        let mut scratch = Scratch::default();
        let mut current = None;
        let mut ordinal = ordinals.start;
        let first_ordinal = ordinals.start;
        for range in set.slice(ordinals) {
            self.source.prepare(range.clone()).map_err(|source| EncodeError::Read {
                first: range.start,
                last: range.end - 1,
                source,
            })?;
            let mut page = range.start;
            while page < range.end {
                let max = (range.end - page).min(BATCH_PAGES as u64);
                let (is_free, max) = self.free_run(page, max);
                let run = if is_free { Run::Hole(max) } else { self.source.run(page, max) };
                let taken = match run {
                    Run::Hole(pages) => {
                        let pages = pages.min(max);
                        chunk.settled.extend((0..pages).map(|_| Settled::Zero));
                        chunk.fingerprints.extend((0..pages).map(|_| self.zero.fingerprint));
                        current = None;
                        pages
                    }
                    Run::Data(bytes) => {
                        let batch = Batch {
                            range_start: range.start,
                            first_page: page,
                            first_ordinal: ordinal,
                            bytes,
                            scan: scan.map(|scan| (scan, (ordinal - first_ordinal) as usize)),
                        };
                        self.settle_batch(&batch, &mut scratch, &mut current, &mut chunk)?;
                        (bytes.len() / PAGE_SIZE) as u64
                    }
                };
                page += taken;
                ordinal += taken;
            }
        }
        Ok(chunk)
    }

    /// Whether a page is free and need not be sent, and for how many pages, at most `max`, the answer is the same.
    fn free_run(&self, page: u64, max: u64) -> (bool, u64) {
        let Some(guest) = self.guest.filter(|_| self.drops_free) else { return (false, max) };
        let is_free = |page| guest.class(page) == GuestClass::Free;
        let first = is_free(page);
        let same = (page..page + max).take_while(|&page| is_free(page) == first).count();
        (first, same as u64)
    }

    fn settle_batch(
        &self,
        batch: &Batch<'_>,
        scratch: &mut Scratch,
        current: &mut Option<Current>,
        chunk: &mut Chunk,
    ) -> Result<(), EncodeError> {
        let (pages, _) = batch.bytes.as_chunks::<PAGE_SIZE>();
        let mut own = std::mem::take(&mut scratch.records);
        let records = match batch.scan {
            Some((scan, at)) => &scan.records[at..at + pages.len()],
            None => {
                own.resize(pages.len(), PageRecord::default());
                self.worker.scan(batch.bytes, &mut own);
                &own
            }
        };
        self.look_up(records, batch, scratch);
        for (place, (page, record)) in pages.iter().zip(records).enumerate() {
            let settled = match record.uniform() {
                Some(0) => Settled::Zero,
                Some(word) => Settled::Uniform(word),
                None => self.find_reference(page, batch, place, scratch, current, chunk)?,
            };
            if settled == Settled::Residual {
                self.leave(page, record, batch, place, chunk);
            }
            if !matches!(settled, Settled::Reference { .. }) {
                *current = None;
            }
            chunk.settled.push(settled);
            chunk.fingerprints.push(record.fingerprint);
        }
        scratch.records = own;
        Ok(())
    }

    /// Asks every index about every page of the batch at once, so that the cache misses overlap; but those that a device
    /// has asked.
    fn look_up(&self, records: &[PageRecord], batch: &Batch<'_>, scratch: &mut Scratch) {
        scratch.fingerprints.clear();
        scratch.candidates.resize_with(self.references.len(), Vec::new);
        let references = self.references.iter().zip(&mut scratch.candidates);
        for (index, (reference, candidates)) in references.enumerate() {
            candidates.clear();
            if let Some((scan, at)) = batch.scan
                && let Some(Some(found)) = scan.candidates.get(index)
            {
                candidates.extend_from_slice(&found[at..at + records.len()]);
                continue;
            }
            if scratch.fingerprints.is_empty() {
                scratch.fingerprints.extend(records.iter().map(PageRecord::fingerprint128));
            }
            candidates.resize(records.len(), NO_BLOCK);
            reference.look_up(&scratch.fingerprints, candidates);
        }
    }

    /// The reference that holds the page, if one does: where the run before goes on, where an older image had
    /// it, where an index says.
    fn find_reference(
        &self,
        page: &Page,
        batch: &Batch<'_>,
        place: usize,
        scratch: &mut Scratch,
        current: &mut Option<Current>,
        chunk: &mut Chunk,
    ) -> Result<Settled, EncodeError> {
        let number = batch.first_page + place as u64;
        let mut holds = |index: usize, position: u64| {
            let reference: &Reference = &self.references[index];
            reference.holds(self.level, position, page, &mut scratch.page)
        };
        if let Some(run) = *current
            && run.last_page + 1 == number
            && holds(run.index, run.next)?
        {
            *current = Some(Current { next: run.next + 1, last_page: number, ..run });
            return Ok(Settled::Reference { index: run.index as u8, position: run.next });
        }
        for (index, reference) in self.references.iter().enumerate() {
            let here = reference.expected(self.guest, number);
            let indexed = scratch.candidates[index][place];
            for position in here.into_iter().chain((indexed != NO_BLOCK).then_some(indexed)) {
                if holds(index, position)? {
                    *current = Some(Current { index, next: position + 1, last_page: number });
                    self.extend_back(index, position, batch.range_start..number, scratch, chunk)?;
                    return Ok(Settled::Reference { index: index as u8, position });
                }
            }
        }
        Ok(Settled::Residual)
    }

    /// Moves the pages right before a new run to it where they fit: contents that a disk holds several times
    /// were given their first place, but the run tells which is meant.
    fn extend_back(
        &self,
        index: usize,
        position: u64,
        before: Range<u64>,
        scratch: &mut Scratch,
        chunk: &mut Chunk,
    ) -> Result<(), EncodeError> {
        let number = before.end;
        for back in 1..=position.min(number - before.start).min(chunk.settled.len() as u64) {
            let at = chunk.settled.len() - back as usize;
            // Only single pages: a longer run before is as good as this one.
            let Settled::Reference { index: old, position: old_position } = chunk.settled[at] else { break };
            let joined = at > 0 && chunk.settled[at - 1].continues(1, chunk.settled[at]);
            if usize::from(old) != index || joined || old_position == position - back {
                break;
            }
            let Some(page) = self.source.page(number - back) else { break };
            if !self.references[index].holds(self.level, position - back, page, &mut scratch.page)? {
                break;
            }
            chunk.settled[at] = Settled::Reference { index: index as u8, position: position - back };
        }
        Ok(())
    }

    fn leave(&self, page: &Page, record: &PageRecord, batch: &Batch<'_>, place: usize, chunk: &mut Chunk) {
        let number = batch.first_page + place as u64;
        let scanned = batch.scan.map(|(scan, at)| (scan, at + place));
        let mut class = match scanned.and_then(|(scan, at)| Class::from_id(scan.classes[at].into())) {
            _ if !self.classes => Class::Other,
            Some(class) => class,
            None => Class::of(record, page),
        };
        if let Some(guest) = self.guest {
            class = class.refined(guest.class(number));
        }
        let earlier = scanned.and_then(|(scan, at)| scan.earlier.get(at)).map(|&earlier| u64::from(earlier));
        let mut twin = earlier.filter(|&earlier| earlier < number).map_or(Twin::Unknown, Twin::Proposed);
        if !self.defers {
            twin = twin.compared(self.source, self.level, page);
        }
        chunk.push(self.level, page, batch.first_ordinal + place as u64, class, twin, self.sparsity);
    }
}

impl Twin {
    /// The same once the page was compared with what is proposed: done where many threads do it at once, so that the one step
    /// that goes in stream order has less to do.
    pub(crate) fn compared<S: PageSource + ?Sized>(self, source: &S, level: Level, page: &Page) -> Self {
        match self {
            Twin::Proposed(earlier)
                if source.page(earlier).is_some_and(|other| page_eq(level, page, other)) =>
            {
                Twin::Equal(earlier)
            }
            Twin::Proposed(_) => Twin::Unknown,
            known => known,
        }
    }
}

impl Chunk {
    /// Adds a page that was not settled, with its anchors if a `sparsity` is given and no earlier page equals it.
    pub(crate) fn push(
        &mut self,
        level: Level,
        page: &Page,
        ordinal: u64,
        class: Class,
        twin: Twin,
        sparsity: Option<u32>,
    ) {
        if let Some(sparsity) = sparsity
            && class != Class::Incompressible
            && !matches!(twin, Twin::Equal(_))
        {
            anchors(level, page, sparsity, &mut self.anchors);
            self.positions.extend_from_slice(self.anchors.positions());
            self.hashes.extend_from_slice(self.anchors.hashes());
        }
        let anchors_end = self.positions.len() as u32;
        self.unsettled.push(Unsettled { ordinal: ordinal as u32, class, twin, anchors_end });
    }
}

/// Contiguous pages being settled.
struct Batch<'a> {
    /// First page of the range of the set that the batch is part of.
    range_start: u64,
    first_page: u64,
    first_ordinal: u64,
    bytes: &'a [u8],
    /// What a device found, and where its first page is in that.
    scan: Option<(&'a ChunkScan, usize)>,
}

/// Buffers that a chunk's batches share.
struct Scratch {
    records: Vec<PageRecord>,
    fingerprints: Vec<u128>,
    /// For each reference, for each page, the block that its index proposes.
    candidates: Vec<Vec<u64>>,
    page: Box<Page>,
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch {
            records: Vec::new(),
            fingerprints: Vec::new(),
            candidates: Vec::new(),
            page: Box::new([0; PAGE_SIZE]),
        }
    }
}
