//! References that are missing, short or changed.

use super::*;

pub(super) fn all() -> Vec<Hostile> {
    let [disk, older] = reference_bytes();
    let block = |bytes: &[u8], number: usize| {
        let mut page = ZERO;
        page.copy_from_slice(&bytes[number * PAGE..][..PAGE]);
        page
    };
    let of_disk = Block {
        ranges: vec![(0, 2)],
        runs: vec![(2, What::Reference { index: 0, position: 4 })],
        truth: vec![block(&disk, 4), block(&disk, 5)],
        ..Block::default()
    };
    let of_older = Block {
        ranges: vec![(0, 2)],
        runs: vec![(2, What::Reference { index: 1, position: 3 })],
        truth: vec![block(&older, 3), block(&older, 4)],
        ..Block::default()
    };
    let matches = Block {
        ranges: vec![(0, 1)],
        runs: vec![(1, What::Residual)],
        truth: vec![block(&older, 5)],
        classes: vec![5],
        matches: Some(vec![vec![crate::reference::LongMatch {
            start: 0,
            words: 512,
            space: 2,
            source: 5 * 512,
        }]]),
        ..Block::default()
    };
    // A good block comes first: it must be kept.
    let stream = |block: &Block| {
        let shifted = |(first, pages): (u64, u64)| (first + 3, pages);
        let mut builder = Builder::new(head(3 + block.truth.len() as u64));
        builder.block(&zeros(0, 3));
        builder
            .block(&Block { ranges: block.ranges.iter().copied().map(shifted).collect(), ..block.clone() });
        builder.finish()
    };
    let with = |name, at_hand, block: &Block, error| Hostile { at_hand, ..bad(name, stream(block), error) };
    vec![
        with("disk-missing", AtHand::Nothing, &of_disk, "reference 0 (the disk) is needed, but not at hand"),
        with(
            "older-image-missing",
            AtHand::Nothing,
            &of_older,
            "reference 1 (the older image) is needed, but not at hand",
        ),
        with(
            "older-image-missing-for-a-match",
            AtHand::Nothing,
            &matches,
            "reference 1 (the older image) is needed, but not at hand",
        ),
        with(
            "disk-changed",
            AtHand::Changed,
            &of_disk,
            "the 2 pages from page 3 on do not verify: a reference has changed since packing, or the stream is damaged",
        ),
        with(
            "older-image-changed-under-a-match",
            AtHand::Changed,
            &matches,
            "the 1 pages from page 3 on do not verify: a reference has changed since packing, or the stream is damaged",
        ),
        with(
            "disk-too-short",
            AtHand::Short,
            &of_disk,
            "reference 0: 4096 bytes from block 5 on are not whole blocks of the reference's 5",
        ),
        with(
            "older-image-too-short-for-a-match",
            AtHand::Short,
            &matches,
            "reference 1: 4096 bytes from block 5 on are not whole blocks of the reference's 5",
        ),
    ]
}
