//! Streams that a strange packer writes, by the slow decoder's own tools: any runs, classes and long matches, from
//! anywhere, in any number of blocks; valid or not.
//!
//! What the pages are is worked out here once more, so that digests hold wherever the stream can be right.

use mig_engine::{PAGE_SIZE, Page};
use mig_tests::handmade::{Block, Builder, Head};
use mig_tests::reference::{LongMatch, What};

use crate::guest::{self, Recipe};
use crate::references;

const WORDS: u64 = 512;
/// Pages of a case at most; what is beyond is left out.
const MAX_PAGES: u64 = 400;

/// What a strange packer was told to write.
#[derive(Debug, arbitrary::Arbitrary)]
pub struct Case {
    /// The header's flag.
    pub random_access: bool,
    zstd: bool,
    checks: bool,
    group_pages: u8,
    quirk: u8,
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
    /// Long matches in a stream for random access.
    pub(super) const MATCHES: u8 = 4;
    /// No checks there.
    pub(super) const CHECKS: u8 = 5;
    /// A class that there is not.
    pub(super) const CLASS: u8 = 6;
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
}

#[derive(Debug, arbitrary::Arbitrary)]
struct ResidualCase {
    recipe: Recipe,
    class: u8,
    matches: Vec<MatchCase>,
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
    pages: Vec<Page>,
    recipes: Vec<Recipe>,
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
    let mut made = Made { pages: Vec::new(), recipes: Vec::new() };
    for runs in blocks {
        if case.quirk == quirk::GAP && made.pages.len() == 3 {
            made.pages.push([0; PAGE_SIZE]);
        }
        let count = pages_of(runs);
        if (1..=total.saturating_sub(made.pages.len() as u64)).contains(&count) {
            builder.block(&block_of(runs, count, case, &mut made));
        }
    }
    builder.finish()
}

fn run_pages(run: &RunCase) -> u64 {
    match &run.what {
        WhatCase::Residual(_) | WhatCase::MoreResidual(_) => 1,
        _ => u64::from(run.pages % 20) + 1,
    }
}

fn block_of(cases: &[RunCase], count: u64, whole: &Case, made: &mut Made) -> Block {
    let first = made.pages.len() as u64;
    let with_matches = !whole.random_access || whole.quirk == quirk::MATCHES;
    let (mut runs, mut classes, mut matches) = (Vec::new(), Vec::new(), Vec::new());
    made.pages.resize((first + count) as usize, [0; PAGE_SIZE]);
    let mut at = first;
    for run in cases {
        let pages = run_pages(run);
        let back = |distance: i8| at.saturating_add_signed(-i64::from(distance));
        let what = match &run.what {
            WhatCase::Zero => What::Zero,
            WhatCase::Uniform(word) => What::Uniform(u64::from(*word) << (word % 57)),
            WhatCase::DuplicateBack(distance) => What::Duplicate { source: back(*distance) },
            WhatCase::Disk(position) => What::Reference { index: 0, position: u64::from(*position % 64) },
            WhatCase::Older(shift) => What::Reference { index: 1, position: back(*shift) },
            WhatCase::Residual(page) | WhatCase::MoreResidual(page) => {
                let most = if whole.quirk == quirk::CLASS { 8 } else { 6 };
                classes.push(page.class % most);
                matches.push(residual_page(page, at, with_matches, made));
                What::Residual
            }
        };
        at += pages;
        match runs.last_mut() {
            Some((before, What::Residual)) if matches!(run.what, WhatCase::MoreResidual(_)) => *before += 1,
            _ => runs.push((pages, what)),
        }
    }
    settle(first, &runs, made);
    let any = matches.iter().any(|matches| !matches.is_empty());
    Block {
        round: u64::from(whole.quirk == quirk::ROUND),
        ranges: vec![(first, count)],
        runs,
        truth: made.pages[first as usize..].to_vec(),
        classes,
        matches: any.then_some(matches),
        checks: whole.checks || whole.random_access && whole.quirk != quirk::CHECKS,
        zstd: whole.zstd,
        group_pages: usize::from(whole.group_pages % 9),
    }
}

/// Makes a residual page; gives its matches.
fn residual_page(case: &ResidualCase, number: u64, with_matches: bool, made: &mut Made) -> Vec<LongMatch> {
    made.recipes.push(case.recipe);
    // Few of its kind: recipes that refer to others would cost more and more.
    let from = made.recipes.len().saturating_sub(3);
    let pages = guest::pages(&made.recipes[from..], references::disk(), references::older());
    let mut page = pages.last().copied().unwrap_or([0; PAGE_SIZE]);
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
fn settle(first: u64, runs: &[(u64, What)], made: &mut Made) {
    let mut number = first;
    for &(pages, what) in runs {
        for i in 0..pages {
            let page = match what {
                What::Zero | What::Residual => None,
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
            number += 1;
        }
    }
}
