//! Streams that a strange packer writes, by the slow decoder's own tools: any runs, classes, long matches, addresses and
//! bases, from anywhere, in any number of blocks, whose pages come in order or later, in any other; valid or not.
//!
//! What the pages are is worked out here once more, so that digests hold wherever the stream can be right.

use std::collections::HashMap;

use mig_engine::{PAGE_SIZE, Page};
use mig_tests::handmade::{Block, Builder, Head, Places, places_of};
use mig_tests::reference::{LongMatch, What};

use crate::guest::{self, Recipe};
use crate::references;

const WORDS: u64 = 512;
/// Pages of a case at most; what is beyond is left out.
const MAX_PAGES: u64 = 400;
/// Where words next to their own place are told.
const TAG: u64 = 0x8001 << 48;
/// The space of this guest before the block.
const BEFORE: u64 = 3;

/// What a strange packer was told to write.
#[derive(Debug, arbitrary::Arbitrary)]
pub struct Case {
    /// Whether pages may come again.
    pub session: bool,
    /// The header's flag.
    pub random_access: bool,
    zstd: bool,
    checks: bool,
    moved: bool,
    group_pages: u8,
    quirk: u8,
    runs: Vec<RunCase>,
    /// Blocks of pages that the others leave for later.
    lists: Vec<ListCase>,
    /// Blocks of pages that come again, in sessions.
    again: Vec<AgainCase>,
}

#[derive(Debug, arbitrary::Arbitrary)]
struct AgainCase {
    first: u16,
    runs: Vec<RunCase>,
}

/// What a stream should not have, by the number of the quirk.
mod quirk {
    /// Pages between the first block and the next.
    pub(super) const GAP: u8 = 1;
    /// Blocks of round 1.
    pub(super) const ROUND: u8 = 2;
    /// A header that promises more pages than there are.
    pub(super) const MORE: u8 = 3;
    /// In a stream for random access, what others may have.
    pub(super) const FORBIDDEN: u8 = 4;
    /// No checks there.
    pub(super) const CHECKS: u8 = 5;
    /// A group of a class that there is not.
    pub(super) const CLASS: u8 = 6;
    /// Pages left for later, and never brought.
    pub(super) const NEVER: u8 = 7;
    /// A list that ascends.
    pub(super) const ASCENDING: u8 = 8;
    /// Addresses and bases of pages that are stored as they are.
    pub(super) const STORED: u8 = 9;
    /// Pages that come twice.
    pub(super) const TWICE: u8 = 10;
    /// Words that moved, and no bases against which.
    pub(super) const MOVED: u8 = 11;
}

#[derive(Debug, arbitrary::Arbitrary)]
struct ListCase {
    /// Which of the pages that are pending comes next, by its place among those, for each run.
    picks: Vec<u8>,
    runs: Vec<RunCase>,
    /// Whether they come after the last block in order, or after the first.
    late: bool,
}

#[derive(Debug, arbitrary::Arbitrary)]
struct RunCase {
    /// Whether a new block begins here; 0 of 4 values.
    new_block: u8,
    pages: u8,
    what: WhatCase,
}

#[derive(Debug, arbitrary::Arbitrary)]
enum WhatCase {
    Zero,
    Uniform(u8),
    /// Counted back from the run's first page.
    DuplicateBack(i8),
    Disk(u8),
    Older(i8),
    Residual(ResidualCase),
    /// The same, and part of the run before if that is residual, too.
    MoreResidual(ResidualCase),
    Later,
}

#[derive(Debug, arbitrary::Arbitrary)]
struct ResidualCase {
    recipe: Recipe,
    class: u8,
    matches: Vec<MatchCase>,
    place: PlaceCase,
}

/// What a residual page is told by, besides its literals.
#[derive(Debug, arbitrary::Arbitrary)]
enum PlaceCase {
    None,
    /// A run of its own, of either sort.
    Address {
        by_page: bool,
        near: u16,
        far: bool,
    },
    Base {
        by_page: bool,
        space: u8,
        page: i8,
        word: u16,
    },
    /// Part of the run before.
    More,
}

#[derive(Debug, arbitrary::Arbitrary)]
struct MatchCase {
    gap: u8,
    words: u16,
    /// 0 and 1: this guest; then the disk and the older image; then nothing.
    space: u8,
    /// Counted back from the page for the guest, else the block.
    page: i8,
    /// The word where it starts; most values are made to be the match's own place.
    word: u16,
}

/// What has been made so far.
struct Made {
    /// All pages; those that have not come are zero.
    pages: Vec<Page>,
    recipes: Vec<Recipe>,
    /// Pages that were left for later, ascending.
    pending: Vec<u64>,
    /// The pages of the block that is being made, as they were before it.
    before: HashMap<u64, Page>,
}

/// The addresses or bases of a block's residual pages.
#[derive(Default)]
struct PlaceRuns {
    runs: Vec<Places>,
    any: bool,
}

impl PlaceRuns {
    /// Adds a page: to the run before, or with a run of its own.
    fn push(&mut self, run: Option<Places>) {
        match (run, self.runs.last_mut()) {
            (None, Some(last)) => last.pages += 1,
            (run, _) => {
                let run = run.unwrap_or(Places::none(1));
                self.any |= run != Places::none(1);
                self.runs.push(run);
            }
        }
    }

    /// The place of the last page, which has this number; `numbers` are those of all so far.
    fn last(&self, numbers: &[u64], step: i64) -> Option<i64> {
        places_of(&self.runs, numbers, step).last().copied().flatten()
    }

    /// The space of the last run.
    fn space(&self) -> u64 {
        use mig_tests::handmade::Where;
        match self.runs.last().map(|run| run.at) {
            Some(Where::Onward { space, .. } | Where::ByPage { space, .. }) => space,
            _ => 0,
        }
    }

    fn finish(self) -> Option<Vec<Places>> {
        self.any.then_some(self.runs)
    }
}

/// The stream of a case.
pub fn stream(case: &Case) -> Vec<u8> {
    let mut blocks: Vec<&[RunCase]> = Vec::new();
    let mut total = 0;
    let mut start = 0;
    for (at, run) in case.runs.iter().enumerate() {
        if run.new_block % 4 == 0 && at > start {
            blocks.push(&case.runs[start..at]);
            start = at;
        }
        total += run_pages(run);
        if total > MAX_PAGES {
            break;
        }
    }
    blocks.push(&case.runs[start..]);
    let pages_of = |runs: &[RunCase]| -> u64 { runs.iter().map(run_pages).sum() };
    let total = blocks.iter().map(|runs| pages_of(runs)).sum::<u64>() + u64::from(case.quirk == quirk::MORE);

    let mut head = Head::raw(total);
    head.flags = u8::from(case.random_access);
    head.block_pages = 256;
    for kind in [0, 1] {
        head.references.push((kind, [0; 16], references::BLOCKS.into(), String::new()));
    }
    let mut builder = Builder::new(head);
    let pages = vec![[0; PAGE_SIZE]; total as usize];
    let mut made = Made { pages, recipes: vec![], pending: vec![], before: HashMap::new() };
    let mut next = 0;
    for (number, runs) in blocks.into_iter().enumerate() {
        if case.quirk == quirk::GAP && next == 3 {
            next += 1;
        }
        let count = pages_of(runs);
        if (1..=total.saturating_sub(next)).contains(&count) {
            let numbers: Vec<u64> = (next..next + count).collect();
            builder.block(&block_of(runs, &numbers, case, true, &mut made));
            next += count;
        }
        if number == 0 {
            case.lists
                .iter()
                .filter(|list| !list.late)
                .for_each(|list| add_list(list, case, &mut builder, &mut made));
        }
    }
    case.lists.iter().filter(|list| list.late).for_each(|list| add_list(list, case, &mut builder, &mut made));
    for (round, again) in (1..).zip(case.again.iter().filter(|_| case.session)) {
        let first = u64::from(again.first) % total.max(1);
        let count = pages_of(&again.runs).min(total - first).min(256);
        if count > 0 {
            let numbers: Vec<u64> = (first..first + count).collect();
            let block = block_of(&again.runs, &numbers, case, true, &mut made);
            builder.block(&Block { round, ..block });
        }
    }
    if !made.pending.is_empty() && case.quirk != quirk::NEVER && !case.session {
        let numbers = std::mem::take(&mut made.pending);
        let zeros = [RunCase { new_block: 1, pages: 0, what: WhatCase::Zero }];
        builder.block(&block_of(&zeros, &numbers, case, false, &mut made));
    }
    if case.session {
        builder.end(0);
        return builder.bytes().to_vec();
    }
    builder.finish()
}

/// Adds a block of pages that are pending, in the order that the case picks.
fn add_list(list: &ListCase, case: &Case, builder: &mut Builder, made: &mut Made) {
    let mut numbers = Vec::new();
    let mut picks = list.picks.iter().cycle();
    for run in &list.runs {
        let Some(&pick) = picks.next() else { return };
        for _ in 0..run_pages(run).min(made.pending.len() as u64) {
            // From there on upwards, as a process' pages often are.
            let at = usize::from(pick) % made.pending.len();
            numbers.push(if case.quirk == quirk::TWICE { made.pending[at] } else { made.pending.remove(at) });
        }
    }
    if numbers.is_empty() || numbers.len() > 256 {
        made.pending.extend(numbers);
        made.pending.sort_unstable();
        return;
    }
    builder.block(&block_of(&list.runs, &numbers, case, false, made));
}

fn run_pages(run: &RunCase) -> u64 {
    match &run.what {
        WhatCase::Residual(_) | WhatCase::MoreResidual(_) => 1,
        _ => u64::from(run.pages % 20) + 1,
    }
}

/// The block of the pages with these numbers. The runs are cut where they are too long, and what they leave is zero.
fn block_of(cases: &[RunCase], numbers: &[u64], whole: &Case, in_order: bool, made: &mut Made) -> Block {
    let free = !whole.random_access || whole.quirk == quirk::FORBIDDEN;
    let placed = whole.zstd || whole.quirk == quirk::STORED;
    let (mut runs, mut classes, mut matches) = (Vec::new(), Vec::new(), Vec::new());
    let (mut addresses, mut bases, mut base_words) = (PlaceRuns::default(), PlaceRuns::default(), Vec::new());
    let mut residual = Vec::new();
    made.before = numbers.iter().map(|&number| (number, made.pages[number as usize])).collect();
    let mut at = 0;
    for run in cases {
        let pages = run_pages(run).min((numbers.len() - at) as u64);
        if pages == 0 {
            break;
        }
        let number = numbers[at];
        let back = |distance: i8| number.saturating_add_signed(-i64::from(distance));
        let what = match &run.what {
            WhatCase::Zero => What::Zero,
            WhatCase::Uniform(word) => What::Uniform(u64::from(*word) << (word % 57)),
            WhatCase::DuplicateBack(distance) => What::Duplicate { source: back(*distance) },
            WhatCase::Disk(position) => What::Reference { index: 0, position: u64::from(*position % 64) },
            WhatCase::Older(shift) => What::Reference { index: 1, position: back(*shift) },
            WhatCase::Later if in_order && free => What::Later,
            WhatCase::Later => What::Zero,
            WhatCase::Residual(page) | WhatCase::MoreResidual(page) => {
                let most = if whole.quirk == quirk::CLASS { 17 } else { 16 };
                classes.push(page.class % most);
                residual.push(number);
                push_place(page, placed, free, &residual, &mut addresses, &mut bases);
                let address = addresses.last(&residual, 1);
                let base = bases.last(&residual, 512).map(|word| base_of(made, bases.space(), word));
                matches.push(residual_page(page, number, free, (address, base), made));
                base_words.push(base);
                What::Residual
            }
        };
        at += pages as usize;
        match runs.last_mut() {
            Some((before, What::Residual)) if matches!(run.what, WhatCase::MoreResidual(_)) => *before += 1,
            _ => runs.push((pages, what)),
        }
    }
    if at < numbers.len() {
        runs.push(((numbers.len() - at) as u64, What::Zero));
    }
    settle(numbers, &runs, made);
    let any = matches.iter().any(|matches| !matches.is_empty());
    let bases = bases.finish();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((first, pages)) if *first + *pages == number => *pages += 1,
            _ => ranges.push((number, 1)),
        }
    }
    let ascend = ranges.is_sorted_by(|one, next| one.0 + one.1 <= next.0);
    Block {
        round: u64::from(whole.quirk == quirk::ROUND),
        list: !ascend || whole.quirk == quirk::ASCENDING,
        ranges,
        runs,
        truth: numbers.iter().map(|&number| made.pages[number as usize]).collect(),
        classes,
        matches: any.then_some(matches),
        addresses: addresses.finish(),
        moved: bases.is_some() && whole.moved || whole.quirk == quirk::MOVED,
        bases,
        base_words,
        checks: whole.checks || whole.random_access && whole.quirk != quirk::CHECKS,
        zstd: whole.zstd,
        raw_classes: if whole.group_pages >= 128 { vec![0, 1] } else { vec![] },
        group_pages: usize::from(whole.group_pages % 9),
    }
}

/// Adds the address and the base of the last of these residual pages. Classes 0 and 1 may be stored, so their pages have
/// neither; but for the quirk.
fn push_place(
    case: &ResidualCase,
    placed: bool,
    free: bool,
    residual: &[u64],
    addresses: &mut PlaceRuns,
    bases: &mut PlaceRuns,
) {
    let number = residual[residual.len() - 1] as i64;
    let none = Some(Places::none(1));
    let run = |by_page: bool, space, place: i64, step: i64| match by_page {
        true => Some(Places::by_page(1, space, place - step * number)),
        false => Some(Places::onward(1, space, place)),
    };
    let (address, base) = match &case.place {
        _ if !placed || case.class % 16 < 2 => (none, none),
        PlaceCase::None => (none, none),
        PlaceCase::Address { by_page, near, far } => {
            let place = if *far { -(0x777 << 24) + i64::from(*near) } else { i64::from(*near) - 3 };
            (run(*by_page, 0, place, 1), none)
        }
        PlaceCase::Base { by_page, space, page, word } => {
            // One in 64 that there is not.
            let spaces = if free { [0, 3, 1, 2] } else { [1, 1, 2, 2] };
            let space = if *space % 64 == 63 { 4 } else { spaces[usize::from(*space % 4)] };
            let page = match space {
                0 => number - i64::from(*page),
                // Often the page itself.
                BEFORE => number - i64::from(*page / 2),
                _ => i64::from(page.unsigned_abs() % 49),
            };
            let word = if word % 4 == 0 { i64::from(word / 4 % 512) } else { 0 };
            (none, run(*by_page, space, page * 512 + word, 512))
        }
        // Of two runs, one is that of no places.
        PlaceCase::More => (None, None),
    };
    addresses.push(address);
    bases.push(base);
}

/// The words of a base, as far as it is there.
fn base_of(made: &Made, space: u64, word: i64) -> Page {
    let page = |number: u64| -> Option<&Page> {
        let at = usize::try_from(number).ok()?;
        match space {
            0 => made.pages.get(at),
            1 => references::disk().as_chunks().0.get(at),
            2 => references::older().as_chunks().0.get(at),
            _ => made.before.get(&number).or_else(|| made.pages.get(at)),
        }
    };
    let Ok(word) = u64::try_from(word) else { return [0; PAGE_SIZE] };
    let (number, offset) = (word / WORDS, (word % WORDS) as usize * 8);
    let pages = [page(number), if offset == 0 { None } else { page(number + 1) }];
    let mut base = [0; PAGE_SIZE];
    if let Some(first) = pages[0] {
        base[..PAGE_SIZE - offset].copy_from_slice(&first[offset..]);
    }
    if let Some(second) = pages[1] {
        base[PAGE_SIZE - offset..].copy_from_slice(&second[..offset]);
    }
    base
}

/// Makes a residual page; gives its matches.
fn residual_page(
    case: &ResidualCase,
    number: u64,
    with_matches: bool,
    (address, base): (Option<i64>, Option<Page>),
    made: &mut Made,
) -> Vec<LongMatch> {
    made.recipes.push(case.recipe);
    // Few of its kind: recipes that refer to others would cost more and more.
    let from = made.recipes.len().saturating_sub(3);
    let pages = guest::pages(&made.recipes[from..], references::disk(), references::older());
    let mut page = pages.last().copied().unwrap_or([0; PAGE_SIZE]);
    for (place, bytes) in (0u64..).zip(page.as_chunks_mut::<8>().0) {
        if let Some(base) = base
            && place % 7 != 3
        {
            bytes.copy_from_slice(&base[place as usize * 8..][..8]);
        }
        if let Some(address) = address {
            let near = (address as u64).wrapping_mul(4096).wrapping_add(8 * place).wrapping_sub(4100);
            match place % 11 {
                2 => *bytes = near.wrapping_add(place * 97 % 8200).to_le_bytes(),
                5 => *bytes = (TAG - 4 + place * 89 % 8200).to_le_bytes(),
                _ => {}
            }
        }
    }
    let mut matches = Vec::new();
    let mut end = 0;
    for found in case.matches.iter().filter(|_| with_matches) {
        let start = end + u64::from(found.gap);
        if start >= WORDS {
            break;
        }
        let words = (u64::from(found.words) % WORDS).min(WORDS - start - 1) + 1;
        let space = u64::from(found.space % 5).saturating_sub(1);
        let source_page = match space {
            0 => number.saturating_add_signed(-i64::from(found.page)),
            _ => u64::from(found.page.unsigned_abs() % 50),
        };
        let word = if found.word & 3 == 0 { u64::from(found.word >> 2) % WORDS } else { start };
        let source = source_page * WORDS + word;
        copy_words(made, space, source_page, (word, start, words), &mut page);
        matches.push(LongMatch { start, words, space, source });
        end = start + words;
    }
    made.pages[number as usize] = page;
    matches
}

/// Does what a match does, as far as its source is there.
fn copy_words(made: &Made, space: u64, page: u64, (word, start, words): (u64, u64, u64), to: &mut Page) {
    let from = match space {
        0 => made.pages.get(page as usize),
        1 => references::disk().as_chunks::<PAGE_SIZE>().0.get(page as usize),
        _ => references::older().as_chunks::<PAGE_SIZE>().0.get(page as usize),
    };
    let (from_at, to_at, len) = (word as usize * 8, start as usize * 8, words as usize * 8);
    if let Some(bytes) = from.and_then(|from| from.get(from_at..from_at + len)) {
        to[to_at..to_at + len].copy_from_slice(bytes);
    }
}

/// Fills in what the pages of runs that are not residual are.
fn settle(numbers: &[u64], runs: &[(u64, What)], made: &mut Made) {
    let mut numbers = numbers.iter();
    for &(pages, what) in runs {
        for (i, &number) in (0..pages).zip(numbers.by_ref()) {
            let page = match what {
                What::Zero | What::Residual => None,
                What::Later => {
                    made.pending.push(number);
                    None
                }
                What::Uniform(word) => {
                    let mut page = [0; PAGE_SIZE];
                    page.as_chunks_mut::<8>().0.iter_mut().for_each(|bytes| *bytes = word.to_le_bytes());
                    Some(page)
                }
                What::Duplicate { source } => made.pages.get((source + i) as usize).copied(),
                What::Reference { index, position } => {
                    let bytes = if index == 0 { references::disk() } else { references::older() };
                    bytes.as_chunks::<PAGE_SIZE>().0.get((position + i) as usize).copied()
                }
            };
            if let Some(page) = page {
                made.pages[number as usize] = page;
            }
        }
    }
}
