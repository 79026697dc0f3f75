//! Pages that are left for later, and come twice, never, or where they may not.

use super::*;
use crate::handmade::frame_type::{END, INDEX};
use crate::reference::LongMatch;

/// Pages of the guest.
const PAGES: u64 = 8;
const NEITHER: &str = "block: its pages neither follow those before it nor are all of them pending";

/// The first block: pages 0 to 3, of which 1 and 2 come later, and 3 is residual.
fn first() -> Block {
    Block {
        ranges: vec![(0, 4)],
        runs: vec![(1, What::Zero), (2, What::Later), (1, What::Residual)],
        truth: vec![ZERO, ZERO, ZERO, text()],
        classes: vec![1],
        zstd: true,
        ..Block::default()
    }
}

/// A block of zero pages in a list.
fn listed(ranges: &[(u64, u64)]) -> Block {
    let pages = ranges.iter().map(|range| range.1).sum();
    Block { ranges: ranges.to_vec(), list: true, ..zeros(0, pages) }
}

/// A block of zero pages in ascending ranges.
fn ranges(ranges: &[(u64, u64)]) -> Block {
    Block { list: false, ..listed(ranges) }
}

/// The last pages, in order.
fn last() -> Block {
    zeros(4, 4)
}

fn stream(head: Head, blocks: &[Block]) -> Vec<u8> {
    let mut builder = Builder::new(head);
    blocks.iter().for_each(|block| builder.block(block));
    builder.finish()
}

fn of(name: &'static str, blocks: &[Block], slow: &'static str, error: &'static str) -> Hostile {
    refused(name, stream(head(PAGES), blocks), slow, error)
}

pub(super) fn all() -> Vec<Hostile> {
    let later = |block: Block| Block { runs: vec![(block.truth.len() as u64, What::Later)], ..block };
    let mut all = vec![
        of(
            "later-and-never",
            &[first(), last()],
            "2 are left for later and never come",
            "end: pages are missing",
        ),
        of(
            "later-and-only-one",
            &[first(), last(), ranges(&[(2, 1)])],
            "1 are left for later and never come",
            "end: pages are missing",
        ),
        of(
            "later-brought-twice",
            &[first(), last(), listed(&[(2, 1), (1, 1)]), ranges(&[(1, 1)])],
            "page 1 is not pending",
            NEITHER,
        ),
        of(
            "later-brought-but-not-left",
            &[first(), last(), listed(&[(3, 1), (1, 2)])],
            "page 3 is not pending",
            NEITHER,
        ),
        of(
            "later-brought-with-one-too-many",
            &[first(), last(), ranges(&[(1, 3)])],
            "page 3 is not pending",
            NEITHER,
        ),
        of(
            "later-brought-before",
            &[listed(&[(2, 1), (1, 1)]), first(), last()],
            "page 2 is not pending",
            NEITHER,
        ),
        of(
            "later-with-what-comes-next",
            &[first(), ranges(&[(1, 2), (4, 4)])],
            "page 4 is not pending",
            NEITHER,
        ),
        of(
            "later-in-a-list",
            &[first(), last(), later(listed(&[(2, 1), (1, 1)]))],
            "left for later once more",
            NEITHER,
        ),
        of(
            "later-in-ranges",
            &[first(), last(), later(ranges(&[(1, 2)]))],
            "left for later once more",
            NEITHER,
        ),
        of(
            "later-in-a-round",
            &[first(), last(), Block { round: 1, ..ranges(&[(1, 2)]) }],
            "round",
            "round: a file has none but 0",
        ),
        refused(
            "later-with-random-access",
            stream(Head { flags: 1, ..head(PAGES) }, &[Block { checks: true, ..first() }]),
            "left for later, in a stream of blocks that can be decoded alone",
            "columns: pages are left for later, though the header says that none are",
        ),
        of(
            "later-and-a-duplicate-of-it",
            &[Block {
                runs: vec![(1, What::Duplicate { source: 2 }), (2, What::Later), (1, What::Residual)],
                ..first()
            }],
            "source 2 in the block is not residual",
            "columns: a duplicate's source in its own block is not residual",
        ),
        of(
            "later-and-a-match-from-it",
            &[Block {
                matches: Some(vec![vec![LongMatch { start: 8, words: 40, space: 0, source: 2 * 512 }]]),
                ..first()
            }],
            "copies from 2 of its own block",
            "long matches: a source is not an earlier residual page",
        ),
    ];
    all.extend(sums());
    all
}

/// Digests, checks, ends and indexes that count pages which are left for later.
fn sums() -> Vec<Hostile> {
    let columns = handmade::columns(&[(2, What::Zero), (2, What::Later)], &[], &[0, 1, 2, 3], &[0, 1]);
    let meta = Meta { columns, ..Meta::zeros() };
    let checked = Meta { truth: vec![ZERO; 2], rest: vec![2, 0, 16, 0], ..meta.clone() };
    let index = |values: &[u64]| {
        let mut builder = Builder::new(head(PAGES));
        let start = builder.bytes().len() as u64;
        builder.block(&first());
        let second = builder.bytes().len() as u64 - start;
        builder.block(&last());
        let third = builder.bytes().len() as u64 - start - second;
        builder.block(&ranges(&[(1, 2)]));
        let at = builder.bytes().len() as u64;
        let offsets = [start, second, third];
        let values: Vec<u64> = values
            .iter()
            .zip(0..)
            .map(|(&value, place)| if place % 3 == 1 { offsets[place / 3] } else { value })
            .collect();
        builder.frame(INDEX, &numbers(&values), &[]);
        builder.end(at);
        builder.bytes().to_vec()
    };
    let mut end = Builder::new(head(PAGES));
    [first(), last(), ranges(&[(1, 2)])].iter().for_each(|block| end.block(block));
    let good = {
        let mut builder = end.clone();
        builder.end(0);
        builder.bytes().to_vec()
    };
    // The end frame's meta part is the last 40 bytes.
    let mut fields = good[good.len() - 40..].to_vec();
    fields[8] += 2;
    end.frame(END, &fields, &[]);
    vec![
        refused(
            "later-in-the-digest",
            meta.stream(PAGES, &[]),
            "block digest",
            "the 4 pages from page 0 on do not verify: a reference has changed since packing, or the stream is damaged",
        ),
        refused(
            "later-in-the-checks",
            checked.stream(PAGES, &[0; 16]),
            "checks: raw_len: 16 for 0 pages",
            "checks: not eight bytes for each page that needs one",
        ),
        refused(
            "later-in-the-end",
            end.bytes().to_vec(),
            "end pages: 10, the blocks have 8",
            "end: it does not sum up the blocks before it",
        ),
        refused(
            "later-and-an-index",
            index(&[2, 0, 0, 4, 0, 0, 4]),
            "do not start where the one before ends",
            "index: it lists other blocks than there are",
        ),
        // After page 8, what is 1 - 8?
        refused(
            "later-in-an-index",
            index(&[3, 0, 0, 4, 0, 0, 4, 0, 1_u64.wrapping_sub(8), 2]),
            "index",
            "index page: 18446744073709551609 is more than the 0 allowed",
        ),
    ]
}
