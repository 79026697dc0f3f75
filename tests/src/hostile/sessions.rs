//! Sessions: piece frames, scripts, and what only file streams may have.

use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::handmade::Places;
use crate::handmade::frame_type::{BLOCK, HEADER, INDEX, OPAQUE, PIECE, REFERENCE};

/// A QEMU machine of so many pages.
fn machine(pages: u64) -> Head {
    Head { format: 4, references: vec![], ..head(pages) }
}

/// Adds a piece frame: `piece` is the piece's fields, `hashed` what its checksum is of.
fn add(builder: &mut Builder, hashed: &[u8], piece: &[u8], data: &[u8]) {
    let meta = [&xxh3_64(hashed).to_le_bytes()[..], piece].concat();
    builder.frame(PIECE, &meta, data);
}

fn raw(bytes: &[u8]) -> Vec<u8> {
    [vec![0], number(bytes.len() as u64)].concat()
}

fn ended(mut builder: Builder) -> Vec<u8> {
    builder.end(0);
    builder.bytes().to_vec()
}

/// A session of one piece.
fn piece(hashed: &[u8], piece: &[u8], data: &[u8]) -> Vec<u8> {
    let mut builder = Builder::new(head(8));
    add(&mut builder, hashed, piece, data);
    ended(builder)
}

/// A QEMU stream of eight pages with these scripts, after a block that brings all of them.
fn scripts(scripts: &[&[u8]]) -> Vec<u8> {
    let mut builder = Builder::new(machine(8));
    builder.block(&zeros(0, 8));
    scripts.iter().for_each(|script| add(&mut builder, script, &raw(script), script));
    ended(builder)
}

const RAM: &[u8] = &[1, 3, b'r', b'a', b'm', 1, 6];

pub(super) fn all() -> Vec<Hostile> {
    let mut all = pieces();
    all.extend(bad_scripts());
    all.extend(frames());
    all.extend(headers());
    all.extend(before());
    all.extend(late_references());
    all
}

/// References that come late and are no kernel image.
fn late_references() -> Vec<Hostile> {
    let late = |meta: &[u8]| {
        let mut builder = Builder::new(head(8));
        builder.frame(REFERENCE, meta, &[]);
        builder.block(&zeros(0, 8));
        ended(builder)
    };
    let disk = [&[0][..], &[7; 16], &number(9), &number(1), b"d"].concat();
    let slow = "late references";
    let file = "late reference: it is no kernel image, and files must be known from the start";
    vec![
        refused("late-disk", late(&disk), slow, file),
        refused("late-older-image", late(&[&[1], &disk[1..]].concat()), slow, file),
        refused(
            "late-disk-with-more",
            late(&[&disk[..], b"e"].concat()),
            slow,
            "late reference: bytes left over at the end",
        ),
        refused(
            "late-reference-cut",
            late(&disk[..12]),
            slow,
            "reference identity: 16 bytes needed, 11 left",
        ),
        refused("late-reference-of-nothing", late(b""), slow, "reference kind: 1 bytes needed, 0 left"),
        refused("late-reference-of-kind-3", late(&[3]), slow, "reference kind: unknown"),
    ]
}

fn pieces() -> Vec<Hostile> {
    let coded = handmade::zstd(b"abababab");
    let zstd = |raw_len: u64| {
        let sum = xxh3_64(&coded).to_le_bytes();
        [&[1][..], &number(raw_len), &number(coded.len() as u64), &sum].concat()
    };
    let length = "piece: its length is not that of its data";
    vec![
        refused(
            "piece-damaged",
            piece(b"abc", &raw(b"abd"), b"abd"),
            "piece checksum",
            "piece: checksum mismatch, the bytes were damaged after they were written",
        ),
        bad("piece-data-too-long", piece(b"abc", &raw(b"abc"), b"abcd"), length),
        bad("piece-data-too-short", piece(b"abc", &raw(b"abc"), b"ab"), length),
        bad("piece-with-more", piece(b"abc", &[0, 3, 0], b"abc"), "piece: bytes left over at the end"),
        bad("piece-cut", piece(b"abc", &[0], b"abc"), "decoded length: 1 bytes needed, 0 left"),
        bad(
            "piece-codec-2",
            piece(b"abababab", &[&[2][..], &zstd(8)[1..]].concat(), &coded),
            "codec: only groups can have it",
        ),
        bad(
            "piece-too-long",
            piece(b"", &[vec![0], number((1 << 22) + 1)].concat(), b""),
            "decoded length: 4194305 is more than the 4194304 allowed",
        ),
        bad(
            "piece-zstd-says-more",
            piece(b"abababab", &zstd(9), &coded),
            "piece: it decodes to another length",
        ),
        bad(
            "piece-zstd-says-less",
            piece(b"abababab", &zstd(7), &coded),
            "piece: zstd: Destination buffer is too small",
        ),
    ]
}

fn bad_scripts() -> Vec<Hostile> {
    let one = |name, script: &[u8], slow, error| refused(name, scripts(&[script]), slow, error);
    let with_ram = |name, script: &[u8], slow, error| refused(name, scripts(&[RAM, script]), slow, error);
    let none = "script: a block of RAM that was not defined";
    let many: Vec<u8> = RAM.repeat(4096);
    vec![
        one("script-operation-3", &[3], "operation: 3", "script: unknown operation"),
        one("script-bytes-cut", &[0, 2, 7], "wants 2", "script: 2 bytes needed, 1 left"),
        one("script-bytes-beyond", &[0, 9, 7], "wants 9", "script: 9 is more than the 3 allowed"),
        one(
            "script-name-too-long",
            &[1, 0x80, 2, 7],
            "length of the name",
            "script: 256 is more than the 255 allowed",
        ),
        one("script-block-beyond", &[1, 0, 3, 6], "pages", "script: 6 is more than the 5 allowed"),
        one("script-block-far-beyond", &[1, 0, 9, 0], "first page", "script: 9 is more than the 8 allowed"),
        refused("script-4097-blocks", scripts(&[&many, RAM]), "too many", "script: too many blocks of RAM"),
        one("script-records-of-nothing", &[2, 0, 0, 0, 1], "no block 0", none),
        with_ram("script-records-of-block-1", &[2, 0, 1, 0, 1], "no block 1", none),
        with_ram("script-records-flags", &[2, 4, 0, 0, 1], "flags 4", "script: unknown flags"),
        with_ram(
            "script-no-records",
            &[2, 0, 0, 0, 0],
            "0 of 0",
            "script: no records, or more than there are pages",
        ),
        with_ram("script-records-beyond", &[2, 0, 0, 5, 2], "count", "script: 2 is more than the 1 allowed"),
        with_ram(
            "script-records-without-end",
            &[2, 0, 0, 0, 6, 2, 0, 0, 0, 3],
            "3 of 9",
            "script: no records, or more than there are pages",
        ),
    ]
}

fn frames() -> Vec<Hostile> {
    let mut index = Builder::new(head(8));
    index.block(&zeros(0, 8));
    let at = index.bytes().len() as u64;
    index.frame(INDEX, &numbers(&[1, 0, 0, 8]), &[]);
    index.end(at);
    let mut named = Builder::new(head(8));
    named.block(&zeros(0, 8));
    named.end(77);
    let mut opaque = Builder::new(machine(8));
    opaque.frame(OPAQUE, &[number(0), xxh3_64(b"").to_le_bytes().to_vec(), raw(b"")].concat(), b"");
    let mut second = Builder::new(head(8));
    let meta = second.bytes()[32..].to_vec();
    second.frame(HEADER, &meta, &[]);
    let mut behind = Builder::new(head(8));
    behind.end(0);
    add(&mut behind, b"x", &raw(b"x"), b"x");
    let mut open = Builder::new(head(8));
    open.block(&zeros(0, 8));
    let mut damaged = Builder::new(head(8));
    let meta = Meta { truth: vec![text(); 4], ..Meta::zeros() };
    damaged.frame(BLOCK, &meta.bytes(), &[]);
    vec![
        refused("session-with-an-index", index.bytes().to_vec(), "index in a session", "stream: an index"),
        refused(
            "session-that-names-an-index",
            named.bytes().to_vec(),
            "end index offset",
            "end: it names an index, and a session has none",
        ),
        refused(
            "session-opaque-in-a-qemu-stream",
            ended(opaque),
            "opaque frame in a QEMU stream",
            "opaque bytes: they are not between the pages",
        ),
        refused("session-with-two-headers", ended(second), "a second header", "stream: a second header"),
        refused(
            "session-behind-its-end",
            behind.bytes().to_vec(),
            "after the end",
            "stream: it goes on after its end",
        ),
        bad(
            "session-without-an-end",
            open.bytes().to_vec(),
            "stream (it has no end): 8 bytes needed, 8 left",
        ),
        refused(
            "session-block-of-other-pages",
            ended(damaged),
            "digest",
            "the 4 pages from page 0 on do not verify: a reference has changed since packing, or the stream is damaged",
        ),
    ]
}

fn headers() -> Vec<Hostile> {
    let flat = "segments: the pages of a QEMU stream do not lie one after the other";
    let of = |head: Head| ended(Builder::new(head));
    let moved = Head { segments: vec![(4096, 8, 1)], file_len: 9 * 4096, ..machine(8) };
    let longer = Head { file_len: 8 * 4096 + 1, ..machine(8) };
    let swapped = Head { segments: vec![(4 * 4096, 4, 1), (0, 4, 1 + (1 << 32))], ..machine(8) };
    vec![
        refused("qemu-pages-elsewhere", of(moved), "in a QEMU stream", flat),
        refused("qemu-bytes-behind-the-pages", of(longer), "in a QEMU stream", flat),
        refused("qemu-pages-in-another-order", of(swapped), "in a QEMU stream", flat),
    ]
}

/// Bases in the memory before the block, of pages that come again.
fn before() -> Vec<Hostile> {
    let based = |space, word: i64| {
        let block = Block {
            ranges: vec![(0, 1)],
            runs: vec![(1, What::Residual)],
            truth: vec![text()],
            classes: vec![5],
            bases: Some(vec![Places::onward(1, space, word)]),
            base_words: vec![Some(text())],
            zstd: true,
            round: 1,
            ..Block::default()
        };
        let mut builder = Builder::new(head(8));
        builder.block(&mixed());
        builder.block(&block);
        ended(builder)
    };
    vec![
        refused(
            "session-base-is-the-page-itself",
            based(0, 0),
            "is in this block",
            "bases: one is a page of its own block",
        ),
        refused(
            "session-base-was-another-page",
            // It was zero there, so other words come out.
            based(3, 2 * 512),
            "digest",
            "the 1 pages from page 0 on do not verify: a reference has changed since packing, or the stream is damaged",
        ),
        refused(
            "session-base-beyond",
            based(3, 7 * 512 + 1),
            "of 8 pages",
            "bases: one lies beyond its memory",
        ),
        refused("session-base-in-space-4", based(4, 0), "space 4 of 4", "columns: unknown kind of placement"),
    ]
}
