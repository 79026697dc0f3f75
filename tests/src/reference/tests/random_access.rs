//! Single pages by the index.

use super::*;
use crate::handmade::reseal;
use crate::reference::{decode, page};

#[test]
fn pages_one_by_one() {
    for zstd in [false, true] {
        let case = independent(zstd);
        for (number, truth) in case.file.chunks_exact(PAGE).enumerate() {
            assert_eq!(page(&case.stream, &case.references, number as u64).unwrap(), truth, "page {number}");
        }
        assert!(page(&case.stream, &case.references, 12).is_err());
    }
}

#[test]
fn other_blocks_are_not_read() {
    let case = independent(true);
    let blocks = decode(&case.stream, &case.references).unwrap().blocks;
    // Which blocks each page is read from.
    let wanted = [
        &[0][..],
        &[0],
        &[0],
        &[0], // zero, residual, residual, duplicate in the block
        &[1, 0],
        &[1, 0],
        &[1],
        &[1],
        &[2],
        &[2],
        &[2],
        &[2, 1],
    ];
    for broken in 0..3 {
        let mut stream = case.stream.clone();
        stream[blocks[broken].offset as usize + 20] ^= 1;
        for (number, wanted) in wanted.iter().enumerate() {
            let found = page(&stream, &case.references, number as u64);
            assert_eq!(found.is_err(), wanted.contains(&broken), "page {number}, block {broken}");
        }
    }
    // Only page 7 is from the disk.
    for number in 0..12 {
        assert_eq!(page(&case.stream, &[], number).is_err(), number == 7);
    }
}

#[test]
fn only_where_the_header_says_so() {
    let case = rich(false, true);
    assert!(page(&case.stream, &case.references, 0).unwrap_err().contains("flags"));
    let case = independent(false);
    let cut = &case.stream[..case.stream.len() - 72];
    assert!(page(cut, &case.references, 0).is_err(), "no end frame");
}

/// A byte of the literals, raw and not covered by a checksum of its own: the page's check must see it.
#[test]
fn checks_hold_single_pages() {
    let case = independent(false);
    let block = &decode(&case.stream, &case.references).unwrap().blocks[1];
    let mut stream = case.stream.clone();
    let next = decode(&case.stream, &case.references).unwrap().blocks[2].offset as usize;
    stream[next - 1] ^= 1; // the last byte of the only group of block 1: page 6
    assert!(page(&stream, &case.references, 6).unwrap_err().contains("checks"));
    assert!(page(&stream, &case.references, 11).unwrap_err().contains("checks"), "a duplicate of it");
    assert!(page(&stream, &case.references, 4).is_ok());
    assert_eq!(block.groups.len(), 1);
    let mut wrong = case.references[0].clone().unwrap();
    wrong[4 * PAGE + 9] ^= 1;
    assert!(page(&case.stream, &[Some(wrong)], 7).unwrap_err().contains("checks"));
}

/// Blocks that break the promise of the header, in ways that each can be seen by whoever reads the page.
#[test]
fn broken_promises() {
    let noise = Random::new(1).page();
    let build = |sources: [u64; 2], checks| {
        let mut head = Head::raw(5);
        head.flags = 1;
        let mut builder = Builder::new(head);
        let block = |first, runs: &[(u64, What)], truth: &[Page], classes: &[u8]| Block {
            ranges: vec![(first, truth.len() as u64)],
            runs: runs.to_vec(),
            truth: truth.to_vec(),
            classes: classes.to_vec(),
            checks,
            ..Block::default()
        };
        let duplicate = |place: usize| (1, What::Duplicate { source: sources[place] });
        let truth = |place: usize| if [0, 4].contains(&sources[place]) { noise } else { ZERO };
        let first = [(1, What::Residual), (1, What::Zero), duplicate(0)];
        builder.block(&block(0, &first, &[noise, ZERO, truth(0)], &[0]));
        builder.block(&block(3, &[duplicate(1), (1, What::Residual)], &[truth(1), noise], &[0]));
        builder.finish()
    };
    let good = build([0, 4], true);
    assert!(decode(&good, &[]).is_ok() && page(&good, &[], 2).is_ok() && page(&good, &[], 3).is_ok());
    for (sources, bad) in [([1, 0], 2), ([4, 0], 2), ([2, 0], 2), ([0, 1], 3), ([0, 2], 3), ([0, 3], 3)] {
        let stream = build(sources, true);
        assert!(decode(&stream, &[]).is_err(), "sources {sources:?}");
        assert!(page(&stream, &[], bad).is_err(), "sources {sources:?}");
    }
    let stream = build([0, 0], false);
    assert!(decode(&stream, &[]).unwrap_err().contains("checks"));
    assert!(page(&stream, &[], 0).unwrap_err().contains("checks"));
    let mut head = Head::raw(1);
    head.flags = 1;
    let mut builder = Builder::new(head);
    builder.block(&Block {
        ranges: vec![(0, 1)],
        runs: vec![(1, What::Residual)],
        truth: vec![noise],
        classes: vec![0],
        matches: Some(vec![vec![]]),
        checks: true,
        ..Block::default()
    });
    let stream = builder.finish();
    assert!(decode(&stream, &[]).unwrap_err().contains("long matches"));
    assert!(page(&stream, &[], 0).unwrap_err().contains("long matches"));
    // The same block is good where the header promises nothing.
    let mut stream = build([0, 0], false);
    stream[32 + 1] = 0;
    reseal(&mut stream, 0);
    assert!(decode(&stream, &[]).is_ok());
}
