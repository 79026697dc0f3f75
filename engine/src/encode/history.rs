//! What a stream's earlier blocks leave behind: pages and samples to find again, and pages that are still to come.

use mig_simd::{Anchors, Level, anchors};
use rayon::prelude::*;

use super::{BlockEncoder, Reach, Residual, Scanned, SettledBlock};
use crate::class::Class;
use crate::columns::{Run, Settled};
use crate::error::EncodeError;
use crate::format::{ReferenceKind, limits};
use crate::longmatch::{Candidate, Finder};
use crate::options::Effort;
use crate::page::{PAGE_SIZE, PageSet};
use crate::progress::Cancel;
use crate::refs::Reference;
use crate::residual::Recipe;
use crate::settle::dedup::Dedup;
use crate::settle::{CHUNK_PAGES, Chunk, Twin};
use crate::source::PageSource;

/// Tasks whose samples of an older image are held at a time. An image can be made so that all of it is samples: 5 KiB a
/// page, 80 MiB in all.
const LEARN_TASKS: usize = 16;
/// How much more thinly an older image is sampled than the guest, as a power of two.
const OLDER_SPARSITY: u32 = 1;

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
    left: Left,
    /// Whether pages may come again, so that what is remembered of them may not hold any more.
    rewrites: bool,
}

/// Pages that earlier blocks leave for later ones, in the order in which they were found.
#[derive(Debug, Default)]
struct Left {
    pages: Vec<u64>,
    fingerprints: Vec<[u64; 2]>,
    classes: Vec<Class>,
    twins: Vec<Twin>,
}

/// Some of the pages that were left for later: what makes a block.
#[derive(Clone, Debug)]
pub struct Leftover {
    pub(super) pages: PageSet,
    /// In the order of the set.
    pub(super) fingerprints: Vec<[u64; 2]>,
    pub(super) classes: Vec<Class>,
    pub(super) twins: Vec<Twin>,
}

/// All of them, in order.
#[derive(Debug)]
pub struct Leftovers {
    left: Left,
    /// Places of pages.
    order: Vec<u32>,
    /// The next of those.
    next: usize,
}

impl Leftovers {
    /// Whether all were taken.
    pub fn is_empty(&self) -> bool {
        self.next == self.order.len()
    }

    /// Takes the next ones: so many at most, and no more than a block may have.
    pub fn take(&mut self, pages: u64) -> Option<Leftover> {
        let end = self.order.len().min(self.next + pages.clamp(1, limits::BLOCK_PAGES) as usize);
        let order = &self.order[self.next..end];
        self.next = end;
        let Left { pages, fingerprints, classes, twins } = &self.left;
        let list = order.iter().map(|&index| pages[index as usize]);
        // Each page was left once, so this fails for no pages only.
        let pages = PageSet::from_list(list.map(|page| page..page + 1)).ok()?;
        Some(Leftover {
            pages,
            fingerprints: order.iter().map(|&index| fingerprints[index as usize]).collect(),
            classes: order.iter().map(|&index| classes[index as usize]).collect(),
            twins: order.iter().map(|&index| twins[index as usize]).collect(),
        })
    }
}

impl Leftover {
    /// The pages, in the order in which their block lists them.
    pub fn pages(&self) -> &PageSet {
        &self.pages
    }
}

impl History {
    /// The state of a stream without blocks, for a guest of `page_count` pages.
    pub fn new(page_count: u64, effort: Effort, random_access: bool) -> Self {
        let search = Recipe::new(effort, random_access, false).search;
        History {
            dedup: Dedup::new(page_count),
            finder: search.map(|_| Finder::new(page_count)),
            left: Left::default(),
            rewrites: false,
        }
    }

    /// The same, with room for samples of the older images among these references as well, which [`learn`](Self::learn) takes.
    #[must_use]
    pub fn with_room_for(mut self, references: &[Reference]) -> Self {
        if references.iter().any(|reference| reference.kind() == ReferenceKind::Memory) {
            self.finder = self.finder.map(Finder::with_room_for_older);
        }
        self
    }

    /// Pages may come again from now on. What the source gives for [`earlier`](PageSource::earlier) pages must then be
    /// what the destination has.
    pub fn set_rewrites(&mut self) {
        self.rewrites = true;
    }

    /// For one block that must not refer to any other.
    pub(crate) fn of_nothing(block_pages: u64) -> Self {
        let dedup = Dedup::new(block_pages);
        History { dedup, finder: None, left: Left::default(), rewrites: false }
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
        let (Some(finder), Some(search)) = (&mut self.finder, encoder.kits[0].recipe.search) else {
            return Ok(());
        };
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
        let Scanned { pages, how, chunks, defers } = scanned;
        let mut block = SettledBlock {
            how,
            runs: Vec::new(),
            residual: Vec::new(),
            candidates: Vec::new(),
            fingerprints: Vec::with_capacity(pages.len() as usize),
            pages,
        };
        let mut first_ordinal = 0;
        for chunk in chunks {
            let pages = chunk.settled.len();
            if defers {
                self.leave_chunk(chunk, first_ordinal, &mut block);
            } else {
                self.settle_chunk(encoder, chunk, first_ordinal, &mut block);
            }
            first_ordinal += pages;
        }
        Ok(block)
    }

    /// The pages that blocks so far have left for later, in the order in which the guest sees them. Afterwards there are none left.
    pub fn leftovers<S: PageSource + ?Sized>(&mut self, encoder: &BlockEncoder<'_, S>) -> Leftovers {
        let left = std::mem::take(&mut self.left);
        let Left { pages, classes, .. } = &left;
        let mut order: Vec<u32> = (0..pages.len() as u32).collect();
        if let Some(guest) = encoder.guest {
            let places = guest.space_order();
            let key = |index: u32| {
                let (page, class) = (pages[index as usize], classes[index as usize]);
                // What is stored is sent from where it lies, neighbours together.
                let place =
                    if class == Class::Incompressible { (0, page) } else { guest.place(page, &places) };
                (class, place, page)
            };
            let mut keyed: Vec<_> = order.par_iter().map(|&index| (key(index), index)).collect();
            keyed.par_sort_unstable();
            order = keyed.into_iter().map(|(_, index)| index).collect();
        }
        Leftovers { left, order, next: 0 }
    }

    /// Takes a chunk of which only what is settled goes into this block.
    fn leave_chunk(&mut self, mut chunk: Chunk, first_ordinal: usize, block: &mut SettledBlock) {
        for unsettled in &chunk.unsettled {
            let place = unsettled.ordinal as usize - first_ordinal;
            chunk.settled[place] = Settled::Later;
            self.left.pages.push(block.pages.page_at(unsettled.ordinal.into()));
            self.left.fingerprints.push(chunk.fingerprints[place]);
            self.left.classes.push(unsettled.class);
            self.left.twins.push(unsettled.twin);
        }
        let pairs = chunk.settled.iter().zip(&chunk.fingerprints);
        let here = pairs.filter(|(settled, _)| **settled != Settled::Later);
        block.fingerprints.extend(here.map(|(_, fingerprint)| fingerprint));
        push_runs(&chunk.settled, &mut block.runs);
    }

    fn settle_chunk<S: PageSource + ?Sized>(
        &mut self,
        encoder: &BlockEncoder<'_, S>,
        mut chunk: Chunk,
        first_ordinal: usize,
        block: &mut SettledBlock,
    ) {
        let mut anchors_start = 0;
        for unsettled in &chunk.unsettled {
            let anchors = anchors_start..unsettled.anchors_end as usize;
            anchors_start = anchors.end;
            let place = unsettled.ordinal as usize - first_ordinal;
            let number = block.pages.page_at(unsettled.ordinal.into());
            let fingerprint = chunk.fingerprints[place];
            if let Some(earlier) = self.dedup.find_or_insert(fingerprint, number) {
                let usable = !self.rewrites || earlier != number && block.may_copy(earlier);
                let compared = !self.rewrites && unsettled.twin == Twin::Equal(earlier);
                if usable && (compared || encoder.equal(&block.pages, earlier, number)) {
                    chunk.settled[place] = Settled::Duplicate { source: earlier };
                    continue;
                }
                if self.rewrites {
                    self.dedup.replace(fingerprint, number);
                }
            }
            if let Some(finder) = &mut self.finder {
                let (mut positions, mut hashes) = (&chunk.positions[anchors.clone()], &chunk.hashes[anchors]);
                let sampled;
                // It equals a page that comes later in the stream, or that a reference settled, and so was not sampled.
                if matches!(unsettled.twin, Twin::Equal(_)) && unsettled.class != Class::Incompressible {
                    sampled = encoder.anchors_of(number, block.how.effort);
                    (positions, hashes) = (sampled.positions(), sampled.hashes());
                }
                let known = block.candidates.len();
                finder.probe(number, positions, hashes, &mut block.candidates);
                if self.rewrites || block.how.reach != Reach::All {
                    let found = block.candidates.split_off(known);
                    let usable = |found: &Candidate| match found.guest_page() {
                        Some(page) => !self.rewrites || block.may_copy(page),
                        None => block.how.reach == Reach::All,
                    };
                    let found: Vec<Candidate> = found.into_iter().filter(usable).collect();
                    block.candidates.extend(found);
                }
            }
            block.residual.push(Residual {
                page: number,
                class: unsettled.class,
                candidates_end: block.candidates.len() as u32,
            });
        }
        push_runs(&chunk.settled, &mut block.runs);
        block.fingerprints.append(&mut chunk.fingerprints);
    }
}

/// Appends what pages are to runs.
fn push_runs(settled: &[Settled], runs: &mut Vec<Run>) {
    for &settled in settled {
        match runs.last_mut() {
            Some(run) if run.settled.continues(run.pages.into(), settled) => run.pages += 1,
            _ => runs.push(Run { pages: 1, settled }),
        }
    }
}
