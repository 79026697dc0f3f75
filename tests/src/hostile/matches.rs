//! Long matches that lead nowhere.

use xxhash_rust::xxh3::xxh3_64;

use super::*;

/// One residual page, number 0 of two, whose matches are these four columns; page 1 comes in the next block.
fn with(name: &'static str, columns: [&[u8]; 4], more: &[u8], error: &'static str) -> Hostile {
    let mut list: Vec<u8> = columns.iter().flat_map(|column| number(column.len() as u64)).collect();
    list.extend(columns.concat());
    list.extend(more);
    of_list(name, &list, 4096, error)
}

/// The same with any list; the group has `literals` bytes.
fn of_list(name: &'static str, list: &[u8], literals: usize, error: &'static str) -> Hostile {
    let rest = [vec![1, 0], number(list.len() as u64), vec![1, 1, 1, 0], number(literals as u64)];
    let data = [list, &text()[..literals]].concat();
    bad(name, Meta::residual(rest.concat()).stream(2, &data), error)
}

/// One match of the first words of page 0: length, and what the fourth column says.
fn one(name: &'static str, words: u64, source: &[u8], error: &'static str) -> Hostile {
    let length = number(words - 1);
    let columns = [&[1][..], &[0], &length, source];
    let mut list: Vec<u8> = columns.iter().flat_map(|column| number(column.len() as u64)).collect();
    list.extend(columns.concat());
    of_list(name, &list, 4096 - words as usize * 8, error)
}

/// Space and displacement as the fourth column says them.
fn place(space: u64, displacement: i64) -> Vec<u8> {
    [number(space + 1), number(((displacement << 1) ^ (displacement >> 63)) as u64)].concat()
}

pub(super) fn all() -> Vec<Hostile> {
    let zero_words = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0];
    let too_long = {
        let rest = [vec![1, 0], number(4096 + 65), vec![0]].concat();
        bad(
            "matches-too-long",
            Meta::residual(rest).stream(2, &[0; 4096 + 65]),
            "decoded length: 4161 is more than the 4160 allowed",
        )
    };
    let damaged = {
        let coded = handmade::zstd(&[1, 0, 0, 0, 0]);
        let mut rest = vec![1, 1, 5];
        rest.extend(number(coded.len() as u64));
        rest.extend((xxh3_64(&coded) ^ 1).to_le_bytes());
        rest.extend([1, 1, 1, 0]);
        rest.extend(number(4096));
        bad(
            "matches-damaged",
            Meta::residual(rest).stream(2, &[&coded[..], &text()].concat()),
            "long matches: checksum mismatch, the bytes were damaged after they were written",
        )
    };
    vec![
        of_list("matches-empty", &[], 4096, "long matches: 1 bytes needed, 0 left"),
        of_list(
            "matches-column-beyond",
            &[9, 0, 0, 0, 0],
            4096,
            "long matches: 9 is more than the 5 allowed",
        ),
        of_list("matches-varint", &zero_words, 4096, "long matches: varint does not fit 64 bits"),
        with("matches-with-more", [&[0], &[], &[], &[]], &[0], "long matches: bytes left over at the end"),
        with(
            "matches-column-1-with-more",
            [&[0, 0], &[], &[], &[]],
            &[],
            "long matches: bytes left over at the end",
        ),
        with(
            "matches-column-2-with-more",
            [&[0], &[0], &[], &[]],
            &[],
            "long matches: bytes left over at the end",
        ),
        with(
            "matches-column-4-with-more",
            [&[0], &[], &[], &[0]],
            &[],
            "long matches: bytes left over at the end",
        ),
        with(
            "matches-513-of-a-page",
            [&[0x81, 4], &[0; 513], &[0; 513], &[0; 513]],
            &[],
            "long matches: 513 is more than the 512 allowed",
        ),
        with("matches-without-lengths", [&[1], &[0], &[], &[0]], &[], "long matches: 1 bytes needed, 0 left"),
        with(
            "match-beyond-its-page",
            [&[1], &[0xff, 3], &[1], &place(0, -512)],
            &[],
            "long matches: a match ends beyond its page",
        ),
        with(
            "matches-beyond-their-page",
            [&[2], &[0, 0xff, 3], &[1, 0], &[0, 0]],
            &[],
            "long matches: a match ends beyond its page",
        ),
        with(
            "match-gap-of-513",
            [&[1], &[0x81, 4], &[0], &place(0, -512)],
            &[],
            "long matches: 513 is more than the 512 allowed",
        ),
        one("match-of-a-disk", 8, &place(1, -512), "long matches: a source is in a disk image"),
        one("match-in-space-3", 8, &place(3, -512), "long matches: 4 is more than the 3 allowed"),
        one(
            "match-in-space-2-to-the-40",
            8,
            &place(1 << 40, -512),
            "long matches: 1099511627777 is more than the 3 allowed",
        ),
        one("match-source-below-zero", 8, &place(0, 1), "long matches: a source lies outside any memory"),
        one(
            "match-source-beyond-2-to-the-49",
            8,
            &place(0, -(1 << 50)),
            "long matches: a source lies outside any memory",
        ),
        one(
            "match-source-crosses-a-page",
            8,
            &place(1, -508),
            "long matches: a source crosses the end of its page",
        ),
        one(
            "match-source-beyond-the-memory",
            8,
            &place(0, -1024),
            "long matches: a source is beyond the memory",
        ),
        one(
            "match-source-beyond-the-disk",
            8,
            &place(1, -512 * BLOCKS as i64),
            "long matches: a source is beyond its reference",
        ),
        one(
            "match-source-beyond-the-image",
            8,
            &place(2, -512 * BLOCKS as i64),
            "long matches: a source is beyond its reference",
        ),
        one(
            "match-of-its-own-page",
            8,
            &place(0, -8),
            "long matches: a source is not an earlier residual page",
        ),
        one("match-of-the-same-words", 8, &[0], "long matches: a source is not an earlier residual page"),
        one(
            "match-of-other-words",
            8,
            &place(0, -512),
            "the 1 pages from page 0 on do not verify: a reference has changed since packing, or the stream is damaged",
        ),
        with(
            "literals-too-many-beside-a-match",
            [&[1], &[0], &[7], &place(0, -512)],
            &[],
            "groups: a group's length is not that of its pages",
        ),
        covered_and_stored(),
        inside("match-of-a-later-page", 0, 1, "long matches: a source is not an earlier residual page"),
        inside("match-of-a-zero-page", 1, 2, "long matches: a source is not an earlier residual page"),
        too_long,
        damaged,
    ]
}

/// A group that stores a word which a match covers.
fn covered_and_stored() -> Hostile {
    let source = place(0, -512);
    let list = [&[1, 1, 1, source.len() as u8, 1, 0, 7][..], &source].concat();
    let coded = handmade::zstd(&[&text()[..], &[0xff; 64]].concat());
    let mut rest = [vec![1, 0], number(list.len() as u64), vec![1, 1, 1, 2], number(4160)].concat();
    rest.extend(number(coded.len() as u64));
    rest.extend(xxh3_64(&coded).to_le_bytes());
    let stream = Meta::residual(rest).stream(2, &[list, coded].concat());
    bad("match-of-words-that-are-stored", stream, "groups: a word that a long match covers is in its group")
}

/// A page of a block of three (residual, residual, zero) that copies from another.
fn inside(name: &'static str, page: usize, source: u64, error: &'static str) -> Hostile {
    let mut matches = vec![vec![], vec![]];
    let start = 3;
    matches[page] =
        vec![crate::reference::LongMatch { start, words: 40, space: 0, source: source * 512 + start }];
    let block = Block {
        ranges: vec![(0, 3)],
        runs: vec![(2, What::Residual), (1, What::Zero)],
        truth: vec![text(), text(), ZERO],
        classes: vec![1, 1],
        matches: Some(matches),
        zstd: true,
        ..Block::default()
    };
    bad(name, of_block(head(3), &block), error)
}
