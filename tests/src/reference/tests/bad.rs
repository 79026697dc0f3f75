//! Streams that break one rule each, and the word that the error must have.

use super::*;
use crate::handmade::frame_type::{BLOCK, END, HEADER, INDEX, OPAQUE};
use crate::handmade::varint;
use crate::reference::decode;

#[track_caller]
fn refused(stream: &[u8], references: &[Option<Vec<u8>>], word: &str) {
    let error = decode(stream, references).expect_err(word);
    assert!(error.contains(word), "{word}: {error}");
}

fn zeros(first: u64, pages: u64) -> Block {
    Block {
        ranges: vec![(first, pages)],
        runs: vec![(pages, What::Zero)],
        truth: vec![ZERO; pages as usize],
        ..Block::default()
    }
}

#[test]
fn order_of_frames() {
    refused(&[], &[], "empty");
    let good = || {
        let mut builder = Builder::new(Head { file_len: 2 * 4096 + 10, ..Head::raw(2) });
        builder.opaque(2 * 4096, b"tail", false);
        builder.block(&zeros(0, 1));
        builder
    };
    let mut builder = good();
    builder.block(&zeros(1, 1));
    assert!(decode(&builder.clone().finish(), &[]).unwrap().complete);
    let mut two = builder.clone();
    two.frame(HEADER, &[], &[]);
    refused(two.bytes(), &[], "second header");
    let mut late = builder.clone();
    late.opaque(2 * 4096, b"tail", false);
    assert!(decode(&late.finish(), &[]).unwrap().complete, "opaque frames and blocks follow in any order");
    let mut after = builder.clone();
    let index = after.index();
    let mut again = after.clone();
    again.index();
    refused(again.bytes(), &[], "after the index");
    let mut block = after.clone();
    block.block(&zeros(1, 1));
    refused(block.bytes(), &[], "after the index");
    after.end(index);
    after.end(index);
    refused(after.bytes(), &[], "after the end");
    let mut stray = builder.clone().finish();
    stray.push(0);
    refused(&stray, &[], "frame head");
    let mut none = builder.clone();
    none.end(0);
    assert!(decode(none.bytes(), &[]).unwrap().complete, "an index may be missing");
    refused(&good().finish(), &[], "end pages");
    for (first, pages) in [(0, 1), (0, 2)] {
        let mut builder = good();
        builder.block(&zeros(first, pages));
        refused(builder.bytes(), &[], "go on at page 1");
    }
    let mut round = good();
    round.block(&Block { round: 1, ..zeros(1, 1) });
    refused(round.bytes(), &[], "round");
    let mut headless = vec![];
    headless.extend(&builder.bytes()[decode(builder.bytes(), &[]).unwrap().frames[1].offset as usize..]);
    refused(&headless, &[], "sequence");
}

#[test]
fn heads_of_frames() {
    let good = small_cases()[1].stream.clone();
    for (at, value, word) in [
        (0, 0x4e, "magic"),
        (4, 1, "version"),
        (4, 3, "version"),
        (5, 0, "type"),
        (5, 6, "type"),
        (5, 3, "must be a header"),
        (6, 1, "reserved"),
        (7, 1, "reserved"),
        (11, 2, "meta length"),
        (12, 1, "have no data"),
        (15, 0x20, "data length"),
        (16, 1, "sequence"),
    ] {
        let mut stream = good.clone();
        stream[at] = value;
        if at != 11 {
            crate::handmade::reseal(&mut stream, 0);
        }
        refused(&stream, &[], word);
    }
    let mut stream = good;
    stream[24] ^= 1;
    refused(&stream, &[], "checksum");
}

#[test]
fn headers() {
    let with = |change: &dyn Fn(&mut Head)| {
        let mut head = Head::raw(4);
        head.references = vec![(1, [0; 16], 3, "old".into())];
        change(&mut head);
        Builder::new(head).bytes().to_vec()
    };
    assert!(decode(&with(&|_| {}), &[]).is_ok());
    type Change<'a> = &'a dyn Fn(&mut Head);
    let bad: &[(&str, Change<'_>)] = &[
        ("format", &|h| h.format = 5),
        ("flags", &|h| h.flags = 2),
        ("effort", &|h| h.effort = 5),
        ("block_pages", &|h| h.block_pages = (1 << 16) + 1),
        ("file_len", &|h| h.file_len = 1 << 63),
        ("leaves the file", &|h| h.file_len -= 1),
        ("leaves the file", &|h| h.segments = vec![(4097, 3, 0), (1, 1, 0)]),
        ("leaves the file", &|h| h.segments[0].0 = u64::MAX - 4095),
        ("overlaps", &|h| h.segments = vec![(4096, 3, 0), (1, 1, 0)]),
        ("overlaps", &|h| h.segments = vec![(0, 1, 0), (0, 1, 0)]),
        ("pages: is 0", &|h| h.segments.push((0, 0, 0))),
        ("page_count", &|h| h.segments = vec![(0, 1 << 40, 0), (0, 1, 0)]),
        ("above 1099511627776", &|h| h.segments[0].1 = (1 << 40) + 1),
        ("multiple of 4096", &|h| h.segments[0].2 = 4096),
        ("one without comes before", &|h| h.segments = vec![(0, 1, 0), (4096, 1, 1)]),
        ("does not fit", &|h| h.segments[0].2 = u64::MAX - 4 * 4096 + 2),
        ("is below", &|h| h.segments = vec![(0, 2, 0x1001), (8192, 2, 0x2001)]),
        ("is below", &|h| h.segments = vec![(0, 2, 0x4001), (8192, 2, 0x2001)]),
        ("kind", &|h| h.references[0].0 = 3),
        ("blocks", &|h| h.references[0].2 = (1 << 40) + 1),
        ("name_len", &|h| h.references[0].3 = "x".repeat(4097)),
        ("references", &|h| h.references = vec![(0, [0; 16], 0, String::new()); 65]),
    ];
    for (word, change) in bad {
        refused(&with(change), &[], word);
    }
    for fine in [
        &(|h: &mut Head| h.block_pages = 0) as &dyn Fn(&mut Head),
        &|h| h.segments = vec![(4096, 3, 0), (0, 1, 0)],
        &|h| h.references[0].3 = "x".repeat(4096),
        &|h| h.references = vec![(0, [0; 16], 0, String::new()); 64],
        &|h| h.segments[0].2 = u64::MAX - 5 * 4096 + 2,
        &|h| h.segments = vec![(8192, 2, 0x1001), (4096, 1, 0x3001), (0, 1, 0)],
    ] {
        assert!(decode(&with(fine), &[]).is_ok());
    }
    // A name that is no UTF-8, and a byte too many.
    let mut stream = with(&|_| {});
    let last = stream.len() - 1;
    stream[last] = 0xff;
    crate::handmade::reseal(&mut stream, 0);
    refused(&stream, &[], "name");
    let mut stream = with(&|_| {});
    stream.push(0);
    stream[8] += 1;
    crate::handmade::reseal(&mut stream, 0);
    refused(&stream, &[], "header: 1 bytes too many");
}

#[test]
fn opaque_frames() {
    // 10 bytes, a page, 10 bytes, a page.
    let head = || Head { file_len: 2 * 4096 + 20, segments: vec![(10, 1, 0), (4116, 1, 0)], ..Head::raw(2) };
    let with = |offset, bytes: &[u8]| {
        let mut builder = Builder::new(head());
        builder.opaque(offset, bytes, false);
        builder.bytes().to_vec()
    };
    for (offset, len) in [(0, 10), (4, 3), (4106, 10), (4110, 6), (3, 0)] {
        assert!(decode(&with(offset, &vec![7; len]), &[]).is_ok(), "{len} bytes from {offset}");
    }
    for (offset, len) in [(0, 11), (9, 2), (4105, 1), (4106, 11), (4, 4200), (8212, 1), (u64::MAX, 1)] {
        refused(&with(offset, &vec![7; len]), &[], "opaque range");
    }
    let mut long = Builder::new(Head { file_len: 1 << 23, ..Head::raw(0) });
    long.opaque(0, &vec![1; 1 << 22], false);
    assert!(decode(long.bytes(), &[]).is_ok());
    long.opaque(0, &vec![1; (1 << 22) + 1], false);
    refused(long.bytes(), &[], "opaque raw_len");

    let raw = |codec: u8, hashed: &[u8], more: &[u8], data: &[u8]| {
        let mut meta = vec![0];
        meta.extend(xxhash_rust::xxh3::xxh3_64(hashed).to_le_bytes());
        meta.extend([codec, 3]);
        meta.extend(more);
        let mut builder = Builder::new(head());
        builder.frame(OPAQUE, &meta, data);
        builder.bytes().to_vec()
    };
    assert!(decode(&raw(0, b"abc", b"", b"abc"), &[]).is_ok());
    refused(&raw(0, b"abd", b"", b"abc"), &[], "opaque checksum");
    refused(&raw(0, b"abc", b"", b"abcd"), &[], "longer than the piece");
    refused(&raw(0, b"abc", b"", b"ab"), &[], "coded_len");
    refused(&raw(0, b"abc", &[0], b"abc"), &[], "too many");
    refused(&raw(2, b"abc", b"", b"abc"), &[], "codec: 2 is not");
    refused(&raw(1, b"abc", &[9, 0, 0, 0, 0, 0, 0, 0, 0], b"123456789"), &[], "piece checksum");
}

/// Runs that go beyond what there is.
#[test]
fn runs() {
    let noise = Random::new(1).page();
    let old = Random::new(2).page();
    let with = |runs: &[(u64, What)], classes: &[u8]| {
        let mut head = Head::raw(4);
        head.references = vec![(0, [0; 16], 2, String::new()), (1, [0; 16], 3, String::new())];
        let mut builder = Builder::new(head);
        let residual = |what| if what == What::Residual { noise } else { old };
        let truth: Vec<Page> = runs.iter().flat_map(|&(n, what)| vec![residual(what); n as usize]).collect();
        builder.block(&Block {
            ranges: vec![(0, 4)],
            runs: runs.to_vec(),
            truth,
            classes: classes.to_vec(),
            ..Block::default()
        });
        builder.finish()
    };
    let references = [Some([old, old].concat()), Some([noise, noise, old].concat())];
    let residual = |pages| (pages, What::Residual);
    let duplicate = |pages, source| (pages, What::Duplicate { source });
    let reference = |pages, index, position| (pages, What::Reference { index, position });

    assert!(decode(&with(&[residual(2), reference(2, 0, 0)], &[0, 0]), &references).is_ok());
    assert!(decode(&with(&[residual(3), reference(1, 1, 2)], &[0; 3]), &references).is_ok());
    refused(&with(&[residual(3), reference(1, 0, 2)], &[0; 3]), &references, "position: 1 from 2");
    refused(&with(&[residual(2), reference(2, 1, 2)], &[0; 2]), &references, "position: 2 from 2");
    refused(&with(&[residual(2), duplicate(2, 3)], &[0; 2]), &references, "source: 2 from 3");
    refused(&with(&[residual(3), duplicate(1, 3)], &[0; 3]), &references, "not residual");
    refused(&with(&[residual(2), duplicate(2, 1)], &[0; 2]), &references, "not residual");
    refused(&with(&[residual(5)], &[0; 5]), &references, "a run of 5 pages");
    refused(&with(&[residual(1), residual(4)], &[0; 5]), &references, "a run of 4 pages");
}

/// The meta part of a block, piece by piece: one residual page of class 1.
#[test]
fn blocks() {
    let noise = Random::new(1).page();
    let case = one_block("residual", &[(1, What::Residual)], &[noise], &[1]);
    let view = decode(&case.stream, &[]).unwrap();
    let start = view.blocks[0].offset as usize + 32;
    let frame = view.frames[1];
    // round, page set, digest, columns_len, columns: then flags, and the rest.
    let before = &case.stream[start..start + 4 + 16 + 1 + view.blocks[0].columns_len as usize];
    let rest = &case.stream[start + before.len()..start + frame.meta_len as usize];
    assert_eq!(rest, [0, 1, 1, 1, 0, 0x80, 0x20]);
    let raw = noise.to_vec();
    let with = |rest: &[u8], data: &[u8]| {
        let mut builder = Builder::new(Head::raw(1));
        builder.frame(BLOCK, &[before, rest].concat(), data);
        builder.bytes().to_vec()
    };
    assert!(decode(&with(rest, &raw), &[]).is_ok());
    let check = xxhash_rust::xxh3::xxh3_128(&noise).to_le_bytes()[..8].to_vec();
    let data = [&check[..], &raw].concat();
    assert!(decode(&with(&[2, 0, 8, 1, 1, 1, 0, 0x80, 0x20], &data), &[]).is_ok(), "checks");
    assert!(
        decode(&with(&[1, 0, 5, 1, 1, 1, 0, 0x80, 0x20], &[&[1, 0, 0, 0, 0][..], &raw].concat()), &[])
            .is_ok()
    );
    let halves: [&[u8]; 2] =
        [&[0, 2, 1, 1, 0, 0x80, 0x10, 1, 1, 0, 0x80, 0x10], &[0, 2, 1, 1, 0, 0, 1, 1, 0, 0x80, 0x20]];
    for (rest, data, word) in [
        (&[16, 1, 1, 1, 0, 0x80, 0x20][..], &raw, "block flags"),
        (&[0, 1, 16, 1, 0, 0x80, 0x20], &raw, "class: 16"),
        (&[4, 0, 1, 1, 1, 0, 0x80, 0x20], &raw, "addresses: length: is 0"),
        (&[8, 0, 1, 1, 1, 0, 0x80, 0x20], &raw, "bases: length: is 0"),
        (&[4, 99, 1, 1, 1, 0, 0x80, 0x20], &raw, "addresses: bytes"),
        (&[4, 4, 0, 0, 0, 0, 1, 1, 1, 0, 0x80, 0x20], &raw, "addresses: range coder"),
        (&[0, 1, 0, 1, 0, 0x80, 0x20], &raw, "of class 0 hold 1 pages of 0"),
        (&[0, 1, 1, 0, 0, 0x80, 0x20], &raw, "pages: is 0"),
        (&[0, 1, 1, 2, 0, 0x80, 0x20], &raw, "hold 2 pages of 1"),
        (&[0, 0], &vec![], "hold 0 pages of 1"),
        (halves[0], &raw, "hold 2 pages of 1"),
        (halves[1], &raw, "hold 2 pages of 1"),
        (&[0, 2, 2, 1, 0, 0, 1, 1, 0, 0x80, 0x20], &raw, "class: 1, should be 2"),
        (&[0, 1, 1, 1, 0, 0x81, 0x20], &[&raw[..], &[0]].concat(), "raw_len"),
        (&[0, 1, 1, 1, 0, 0x80, 0x20], &[&raw[..], &[0]].concat(), "data part"),
        (&[0, 1, 1, 1, 0, 0x80, 0x20, 0], &raw, "block meta part"),
        (&[0, 1, 1, 1, 1, 0x80, 0x20], &raw, "codec: 1 is not"),
        (&[0, 1, 1, 1, 4, 0x80, 0x20], &raw, "codec: 4 is not"),
        (&[1, 2, 0x80, 0x20], &raw, "codec: 2 is not"),
        (&[0, 0x81, 0x80, 4], &raw, "groups"),
        (&[2, 0, 9, 1, 1, 1, 0, 0x80, 0x20], &data, "checks: raw_len"),
        (&[2, 1, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0x80, 0x20], &data, "must be raw"),
        (&[2, 0, 8, 1, 1, 1, 0, 0x80, 0x20], &[&[0; 8][..], &raw].concat(), "checks: that of ordinal 0"),
        (&[1, 0, 0xc1, 0x20, 0], &raw, "matches: raw_len"),
        (&[0, 1, 1, 1, 0, 0x80, 0x20], &vec![0; 4096], "digest"),
    ] {
        refused(&with(rest, data), &[], word);
    }
}

/// Long matches whose sources are not allowed.
#[test]
fn match_sources() {
    let mut random = Random::new(5);
    let truth: Vec<Page> = vec![random.page(), ZERO, random.page(), random.page()];
    let with = |place: usize, space, page: u64| {
        let mut matches = vec![vec![]; 3];
        matches[place] = vec![LongMatch { start: 3, words: 2, space, source: page * 512 + 3 }];
        let mut head = Head::raw(6);
        head.references = vec![(1, [0; 16], 2, String::new()), (0, [0; 16], 2, String::new())];
        let mut builder = Builder::new(head);
        builder.block(&Block {
            ranges: vec![(0, 4)],
            runs: vec![(1, What::Residual), (1, What::Zero), (2, What::Residual)],
            truth: truth.clone(),
            classes: vec![0; 3],
            matches: Some(matches),
            ..Block::default()
        });
        builder.bytes().to_vec()
    };
    let references = [Some(vec![0; 2 * PAGE]), Some(vec![0; 2 * PAGE])];
    // The words are wrong in any case: a source that is allowed gets as far as the digest.
    for (place, space, page, word) in [
        (1, 0, 0, "digest"),
        (0, 0, 4, "digest"),
        (0, 0, 5, "digest"),
        (2, 0, 2, "digest"),
        (0, 1, 1, "digest"),
        (0, 0, 6, "source page 6"),
        (0, 0, 0, "of its own block"),
        (2, 0, 3, "of its own block"),
        (1, 0, 3, "of its own block"),
        (2, 0, 1, "of its own block"),
        (0, 1, 2, "block 2 of reference 0"),
        (0, 2, 0, "is a disk"),
        (0, 3, 0, "space 3"),
    ] {
        refused(&with(place, space, page), &references, word);
    }
}

#[test]
fn indexes_and_ends() {
    let start = || {
        let mut builder = Builder::new(Head::raw(3));
        builder.block(&zeros(0, 2));
        builder.block(&zeros(2, 1));
        builder
    };
    let blocks = decode(start().bytes(), &[]).unwrap().blocks;
    let offsets = [blocks[0].offset, blocks[1].offset - blocks[0].offset];
    let index = |values: &[u64]| {
        let mut meta = vec![];
        for &value in values {
            varint(&mut meta, value);
        }
        let mut builder = start();
        builder.frame(INDEX, &meta, &[]);
        builder.bytes().to_vec()
    };
    let [a, b] = offsets;
    assert!(decode(&index(&[2, a, 0, 2, b, 0, 1]), &[]).is_ok());
    for values in [
        &[1, a, 0, 2][..],
        &[2, a + 1, 0, 2, b - 1, 0, 1],
        &[2, a, 0, 2, b + 1, 0, 1],
        &[2, a, 0, 1, b, 1, 1],
        &[2, a, 1, 1, b, 0, 1],
        &[2, a, 0, 2, b, 0, 2],
        &[2, a, 0, 2, b, 0],
        &[2, a, 0, 2, b, 0, 1, 0],
        &[2, a, 0, 2, u64::MAX, 0, 1],
        &[(1 << 22) + 1],
    ] {
        refused(&index(values), &[], "index");
    }

    let digests = [blocks[0].digest, blocks[1].digest].concat();
    let digest = xxhash_rust::xxh3::xxh3_128(&digests).to_le_bytes();
    let end = |at: Option<u64>, pages: u64, blocks: u64, digest: &[u8], more: &[u8]| {
        let mut builder = start();
        let index = builder.index();
        let numbers = [at.unwrap_or(index), pages, blocks].map(u64::to_le_bytes).concat();
        builder.frame(END, &[&numbers, digest, more].concat(), &[]);
        builder.bytes().to_vec()
    };
    assert!(decode(&end(None, 3, 2, &digest, &[]), &[]).unwrap().complete);
    refused(&end(Some(0), 3, 2, &digest, &[]), &[], "end index");
    refused(&end(Some(7), 3, 2, &digest, &[]), &[], "end index");
    refused(&end(None, 4, 2, &digest, &[]), &[], "end pages");
    refused(&end(None, 3, 1, &digest, &[]), &[], "end blocks");
    refused(&end(None, 3, 2, &[0; 16], &[]), &[], "end digest");
    refused(&end(None, 3, 2, &digest, &[0]), &[], "end: 1 bytes too many");
    refused(&end(None, 3, 2, &digest[..15], &[]), &[], "end digest");
}
