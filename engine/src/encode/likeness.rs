//! What residual pages are like: other pages as a whole, or other pages in parts.
//!
//! A page that was relocated, copied on write or touched since it was last seen is like one other page in most words, at one
//! distance: that page is its *base*, and the words in which they differ are stored. A page that shares pieces with several
//! others has long matches. Which of the two a page has is whichever leaves fewer words to be stored.

use mig_simd::{Anchors, anchors, relocated, word_diff};
use rayon::prelude::*;

use super::{BlockEncoder, Reach, SettledBlock, before_space};
use crate::class::Class;
use crate::columns::Placements;
use crate::error::EncodeError;
use crate::format::ReferenceKind;
use crate::longmatch::{Candidate, Match, Sources, count_ones, matches_of};
use crate::matches::MatchLists;
use crate::options::Technique;
use crate::page::{PAGE_SIZE, PAGE_WORDS, Page, PageSet};
use crate::reference::SAMPLE_SPARSITY;
use crate::refs::{Reference, page_parts};
use crate::source::PageSource;

/// Pages that one task looks at; what comes out does not depend on it.
const TASK_PAGES: usize = 256;
/// A base with no more differing words than this is not worth looking further.
const NEAR: usize = 32;
/// Words that a base must save besides a quarter of those that are not zero: its place, and its mask.
const BASE_COST: usize = 16;
/// How many quarters of a word are saved where it only moved.
const MOVED_SAVES: usize = 3;
/// Samples that must agree on a distance before a page there is looked at.
const VOTES: usize = 2;

/// Places on disks that are looked at for a page.
const MAX_PLACES: usize = 4;

static ZERO: Page = [0; PAGE_SIZE];

/// A space and a word address: where the page is that another is like.
type Base = (u8, i64);

/// What a block's residual pages are like.
#[derive(Default)]
pub(super) struct Likeness {
    pub(super) matches: MatchLists,
    /// One for each residual page.
    pub(super) bases: Placements,
}

/// References that have a place for a page, each with its space.
#[derive(Clone, Copy)]
struct Places<'a> {
    /// Those that have a page where the guest has it.
    placed: &'a [(u8, &'a Reference)],
    /// Those that may have it anywhere.
    sampled: &'a [(u8, &'a Reference)],
}

/// Buffers of one task.
struct Scratch {
    words: Page,
    page: Page,
    moved: Page,
    packed: [u64; PAGE_WORDS],
    votes: Vec<(Base, usize)>,
    anchors: Anchors,
    /// Where the base of the page before goes on, on a disk.
    onward: Option<Base>,
}

impl<S: PageSource + ?Sized> BlockEncoder<'_, S> {
    pub(super) fn find_likeness(&self, block: &SettledBlock) -> Result<Likeness, EncodeError> {
        let count = block.residual.len();
        if !self.kit(block.how.effort).recipe.compresses() {
            return Ok(Likeness { bases: vec![None; count], ..Likeness::default() });
        }
        let within = self.within(block.how.reach);
        let sampled: Vec<(u8, &Reference)> =
            (1..).zip(within).filter(|(_, reference)| reference.samples().is_some()).collect();
        let placed: Vec<(u8, &Reference)> =
            (1..).zip(within).filter(|(_, reference)| reference.kind() != ReferenceKind::Disk).collect();
        let task = |task: usize| -> Result<Likeness, EncodeError> {
            let mut found = Likeness::default();
            let mut scratch = Box::new(Scratch {
                words: ZERO,
                page: ZERO,
                moved: ZERO,
                packed: [0; PAGE_WORDS],
                votes: Vec::new(),
                anchors: Anchors::default(),
                onward: None,
            });
            for index in task * TASK_PAGES..count.min((task + 1) * TASK_PAGES) {
                let base = match block.residual[index].class {
                    Class::Incompressible => None,
                    _ => {
                        let places = Places { placed: &placed, sampled: &sampled };
                        self.find_one(block, index, places, &mut scratch, &mut found.matches.matches)?
                    }
                };
                scratch.onward = base.and_then(|base| self.onward(base));
                found.bases.push(base);
                found.matches.end_page();
            }
            Ok(found)
        };
        let tasks = count.div_ceil(TASK_PAGES);
        let parts: Vec<Likeness> = (0..tasks).into_par_iter().map(task).collect::<Result<_, _>>()?;
        let mut all = Likeness::default();
        for part in parts {
            all.matches.append(&part.matches);
            all.bases.extend(part.bases);
        }
        Ok(all)
    }

    /// Finds a page's base, or else appends its long matches.
    fn find_one(
        &self,
        block: &SettledBlock,
        index: usize,
        Places { placed, sampled }: Places<'_>,
        scratch: &mut Scratch,
        matches: &mut Vec<Match>,
    ) -> Result<Option<Base>, EncodeError> {
        let number = block.residual[index].page;
        let (page, candidates) = (self.page(number), block.candidates_of(index));
        let mut mask = [0; 8];
        let mut best: Option<(Base, usize)> = None;
        if self.techniques.has(Technique::Bases) {
            let here = placed.iter().filter_map(|&(space, reference)| {
                let position = reference.expected(self.guest, number)?;
                reference.has_page(position).then_some((space, (position * PAGE_WORDS as u64) as i64))
            });
            let voted = self.voted(block, number, candidates, &mut scratch.votes);
            let onward = scratch.onward.take();
            let samples = self.sampled(page, sampled, &mut scratch.anchors);
            // What the page was when it was sent last, if it was.
            let own = (block.how.reach != Reach::Alone)
                .then_some((before_space(self.references.len()), (number * PAGE_WORDS as u64) as i64));
            for base in own.into_iter().chain(here).chain(voted).chain(onward).chain(samples) {
                let found = self.base_words(block, base, &mut scratch.words, &mut scratch.page)?;
                let Some(words) = found else {
                    continue;
                };
                let mut differing = word_diff(self.level, page, words, &mut mask, &mut scratch.packed);
                if differing > NEAR && self.techniques.has(Technique::Relocated) {
                    relocated(self.level, page, words, &mut scratch.moved);
                    let moved = word_diff(self.level, page, &scratch.moved, &mut mask, &mut scratch.packed);
                    differing -= moved * MOVED_SAVES / 4;
                }
                if best.is_none_or(|(_, least)| differing < least) {
                    best = Some((base, differing));
                }
                if differing <= NEAR {
                    break;
                }
            }
        }
        let mut nonzero = [0; 8];
        if best.is_some() {
            let count = word_diff(self.level, page, &ZERO, &mut nonzero, &mut scratch.packed);
            best = best.filter(|(_, differing)| differing + count / 4 + BASE_COST <= count);
        }
        if let Some((base, differing)) = best
            && differing <= NEAR
        {
            return Ok(Some(base));
        }
        let search = self.kit(block.how.effort).recipe.search;
        let Some(search) = search.filter(|_| self.techniques.has(Technique::LongMatches)) else {
            return Ok(best.map(|(base, _)| base));
        };
        let first = matches.len();
        let sources = Spaces { encoder: self, set: &block.pages };
        matches_of(page, candidates, None, &sources, search, matches);
        let Some((base, differing)) = best else { return Ok(None) };
        let left = uncovered(&nonzero, &matches[first..]);
        if left <= differing {
            return Ok(None);
        }
        // With the base, and matches for what is not as in the base: whichever leaves less.
        if let Some(words) = self.base_words(block, base, &mut scratch.words, &mut scratch.page)? {
            word_diff(self.level, page, words, &mut mask, &mut scratch.packed);
        }
        matches.truncate(first);
        matches_of(page, candidates, Some(&mask), &sources, search, matches);
        Ok(Some(base))
    }

    /// The distances on which most samples of a page agree, and where they lead.
    fn voted(
        &self,
        block: &SettledBlock,
        number: u64,
        candidates: &[Candidate],
        votes: &mut Vec<(Base, usize)>,
    ) -> Option<Base> {
        votes.clear();
        for candidate in candidates {
            let base = candidate.page_start()?;
            match votes.iter_mut().find(|(known, _)| *known == base) {
                Some((_, count)) => *count += 1,
                None => votes.push((base, 1)),
            }
        }
        let usable = |&&((space, address), count): &&(Base, usize)| {
            count >= VOTES
                && match usize::from(space).checked_sub(1) {
                    // A page of the guest must be there as a whole: sent in an earlier block.
                    None => {
                        let page = address as u64 / PAGE_WORDS as u64;
                        let aligned = (address as u64).is_multiple_of(PAGE_WORDS as u64);
                        aligned && page != number && block.pages.ordinal_of(page).is_none()
                    }
                    Some(index) => {
                        (address as u64).div_ceil(PAGE_WORDS as u64) < self.references[index].need().blocks
                    }
                }
        };
        votes.iter().filter(usable).max_by_key(|&&(base, count)| (count, base)).map(|&(base, _)| base)
    }

    /// Where a base on a disk goes on for the next page.
    fn onward(&self, (space, address): Base) -> Option<Base> {
        let reference = self.references.get(usize::from(space).checked_sub(1)?)?;
        let next = address + PAGE_WORDS as i64;
        let inside = (next as u64).div_ceil(PAGE_WORDS as u64) < reference.need().blocks;
        (inside && reference.kind() == ReferenceKind::Disk).then_some((space, next))
    }

    /// Where on disks the whole page may be, going by its samples.
    fn sampled(&self, page: &Page, sampled: &[(u8, &Reference)], found: &mut Anchors) -> Vec<Base> {
        let mut places: Vec<Base> = Vec::new();
        if sampled.is_empty() {
            return places;
        }
        anchors(self.level, page, SAMPLE_SPARSITY, found);
        for (position, hash) in found.iter() {
            for &(space, reference) in sampled {
                let address = reference.samples().and_then(|samples| samples.look_up(hash));
                let start = address.and_then(|address| address.checked_sub(position.into()));
                let inside = |&start: &u64| start.div_ceil(PAGE_WORDS as u64) < reference.need().blocks;
                if let Some(start) = start.filter(inside)
                    && places.len() < MAX_PLACES
                    && !places.contains(&(space, start as i64))
                {
                    places.push((space, start as i64));
                }
            }
        }
        places
    }

    /// The words of a block's base: those of a page where they lie, or in `words`, which then takes some from `scratch`. `None`
    /// where a page of the guest is a hole, or not known.
    pub(super) fn base_words<'p>(
        &'p self,
        block: &SettledBlock,
        (space, address): Base,
        words: &'p mut Page,
        scratch: &mut Page,
    ) -> Result<Option<&'p Page>, EncodeError> {
        let address = address as u64;
        let Some(index) = usize::from(space).checked_sub(1) else {
            return Ok(self.guest_page(&block.pages, address / PAGE_WORDS as u64, words));
        };
        if index == self.references.len() {
            return Ok(self.source.version_before(address / PAGE_WORDS as u64, words));
        }
        let reference = &self.references[index];
        if address.is_multiple_of(PAGE_WORDS as u64) {
            return reference.older_page(address / PAGE_WORDS as u64, words).map(Some);
        }
        for (block, at, part) in page_parts(address, words) {
            let bytes = reference.older_page(block, scratch)?;
            part.copy_from_slice(&bytes[at..at + part.len()]);
        }
        Ok(Some(words))
    }
}

/// How many words of `mask` no match covers.
fn uncovered(mask: &[u64; 8], matches: &[Match]) -> usize {
    let covered: usize =
        matches.iter().map(|found| count_ones(mask, found.words().start, found.words().end)).sum();
    count_ones(mask, 0, PAGE_WORDS) - covered
}

/// What a block's long matches may come from: the stream's own pages, and references.
struct Spaces<'e, 'a, S: ?Sized> {
    encoder: &'e BlockEncoder<'a, S>,
    set: &'e PageSet,
}

impl<S: PageSource + ?Sized> Sources for Spaces<'_, '_, S> {
    fn page<'p>(&'p self, space: u8, page: u64, scratch: &'p mut Page) -> Option<&'p Page> {
        match usize::from(space).checked_sub(1) {
            None => self.encoder.guest_page(self.set, page, scratch),
            Some(index) => self.encoder.references.get(index)?.older_page(page, scratch).ok(),
        }
    }
}
