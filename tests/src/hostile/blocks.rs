//! Blocks: page sets, pieces, groups, digests, and the promises of random access.

use super::*;

/// One residual page of class 1, stored: flags, no lists, one group.
fn stored() -> Vec<u8> {
    [vec![0, 1, 1, 1, 0], number(4096)].concat()
}

fn residual(name: &'static str, rest: &[u8], data: &[u8], error: &'static str) -> Hostile {
    bad(name, Meta::residual(rest.to_vec()).stream(1, data), error)
}

fn set(name: &'static str, set: &[u64], error: &'static str) -> Hostile {
    bad(name, Meta { set: numbers(set), ..Meta::zeros() }.stream(4, &[]), error)
}

pub(super) fn all() -> Vec<Hostile> {
    let page = text();
    let stored = stored();
    let group =
        |class: u8, pages: u64, raw_len: u64| [vec![class], number(pages), vec![0], number(raw_len)].concat();
    let groups = |list: &[Vec<u8>]| [vec![0], number(list.len() as u64), list.concat()].concat();
    let check = &xxh3_128(&page).to_le_bytes()[..8];
    let packed = [&page[..], &[0xff; 64]].concat();
    let coded = handmade::zstd(&packed);
    let coded_group = |codec: u8, raw_len: u64, coded: &[u8], checksum: u64| {
        let mut rest = vec![0, 1, 1, 1, codec];
        rest.extend(number(raw_len));
        rest.extend(number(coded.len() as u64));
        rest.extend(checksum.to_le_bytes());
        rest
    };
    let sum = xxhash_rust::xxh3::xxh3_64(&coded);
    let packed_group = |name: &'static str, raw: &[u8], error: &'static str| {
        let coded = handmade::zstd(raw);
        let sum = xxhash_rust::xxh3::xxh3_64(&coded);
        residual(name, &coded_group(2, raw.len() as u64, &coded, sum), &coded, error)
    };
    let word_coded = |name: &'static str, coded: &[u8], error: &'static str| {
        let sum = xxhash_rust::xxh3::xxh3_64(coded);
        residual(name, &coded_group(3, 4160, coded, sum), coded, error)
    };
    let length = "groups: a group's length is not that of its pages";
    let mut wrong = page;
    wrong[4095] ^= 1;
    let mut all = vec![
        set("page-set-of-no-pages", &[1, 0, 0], "page set: a range is empty or ends beyond the memory"),
        set("page-set-beyond-the-memory", &[1, 1, 4], "page set: a range is empty or ends beyond the memory"),
        set(
            "page-set-gap-beyond",
            &[1, 1 << 60, 4],
            "page set: 1152921504606846976 is more than the 4 allowed",
        ),
        set("page-set-of-too-many-pages", &[1, 0, 65], "page set: 65 is more than the 64 allowed"),
        set("page-set-of-too-many-ranges", &[1 << 40], "page set: 1099511627776 is more than the 64 allowed"),
        set("page-set-adjacent", &[2, 0, 2, 0, 2], "page set: adjacent ranges"),
        bad(
            "block-columns-too-long",
            {
                let mut meta = Meta::zeros().bytes();
                meta.truncate(4 + 16);
                meta.extend(number(1 << 40));
                let mut builder = Builder::new(head(4));
                builder.frame(handmade::frame_type::BLOCK, &meta, &[]);
                builder.bytes().to_vec()
            },
            "columns length: 1099511627776 is more than the 26 allowed",
        ),
        bad(
            "block-flags",
            Meta { rest: vec![32, 0], ..Meta::zeros() }.stream(4, &[]),
            "block flags: unknown flags",
        ),
        bad(
            "moved-without-bases",
            Meta { rest: vec![16, 0], ..Meta::zeros() }.stream(4, &[]),
            "block flags: words that moved, and no bases",
        ),
        bad(
            "block-with-more",
            Meta { rest: vec![0, 0, 0], ..Meta::zeros() }.stream(4, &[]),
            "block: bytes left over at the end",
        ),
        bad(
            "block-cut",
            Meta { rest: vec![0], ..Meta::zeros() }.stream(4, &[]),
            "group count: 1 bytes needed, 0 left",
        ),
        bad(
            "block-data-too-long",
            Meta::zeros().stream(4, &[0]),
            "block: its pieces do not add up to its data",
        ),
        bad(
            "block-digest",
            Meta { truth: vec![ZERO; 3], ..Meta::zeros() }.stream(4, &[]),
            "the 4 pages from page 0 on do not verify: a reference has changed since packing, or the stream is damaged",
        ),
        residual(
            "literals-of-another-page",
            &stored,
            &wrong,
            "the 1 pages from page 0 on do not verify: a reference has changed since packing, or the stream is damaged",
        ),
        residual("group-class-16", &groups(&[group(16, 1, 4096)]), &page, "group class: unknown"),
        residual(
            "group-of-another-class",
            &groups(&[group(0, 1, 4096)]),
            &page,
            "groups: a class has more pages than its groups",
        ),
        residual(
            "group-of-no-pages",
            &groups(&[group(1, 0, 4096)]),
            &page,
            "groups: one is empty or out of order",
        ),
        residual(
            "group-of-too-many-pages",
            &groups(&[group(1, 2, 4096)]),
            &page,
            "group pages: 2 is more than the 1 allowed",
        ),
        residual(
            "group-too-short",
            &groups(&[group(1, 1, 4088)]),
            &page[..4088],
            "groups: a group's length is not that of its pages",
        ),
        residual("group-too-long", &groups(&[group(1, 1, 4097)]), &[&page[..], &[0]].concat(), length),
        residual("group-missing", &groups(&[]), &[], "groups: a class has more pages than its groups"),
        residual(
            "groups-descend",
            &groups(&[group(2, 1, 0), group(1, 1, 4096)]),
            &page,
            "group pages: 1 is more than the 0 allowed",
        ),
        residual(
            "groups-too-many",
            &[vec![0], number((1 << 16) + 1)].concat(),
            &page,
            "group count: 65537 is more than the 65536 allowed",
        ),
        residual("group-codec-4", &[vec![0, 1, 1, 1, 4], number(4096)].concat(), &page, "codec: unknown"),
        residual(
            "group-is-plain-zstd",
            &coded_group(1, 4160, &coded, sum),
            &coded,
            "codec: no group can have it",
        ),
        residual(
            "group-packed-too-long",
            &coded_group(2, 4161, &coded, sum),
            &coded,
            "decoded length: 4161 is more than the 4160 allowed",
        ),
        packed_group("group-packed-without-masks", &packed[..63], length),
        packed_group("group-packed-of-too-few-words", &packed[8..], length),
        packed_group(
            "group-packed-of-too-many-words",
            &[&packed[..4096], &[0xff; 63], &[0x7f]].concat(),
            length,
        ),
        packed_group("group-packed-of-half-a-word", &packed[4..], length),
        packed_group(
            "group-packed-without-a-word",
            &[&packed[..4088], &[0xff; 63], &[0x7f]].concat(),
            "the 1 pages from page 0 on do not verify: a reference has changed since packing, or the stream is damaged",
        ),
        residual(
            "group-zstd-damaged",
            &coded_group(2, 4160, &coded, sum ^ 1),
            &coded,
            "group: checksum mismatch, the bytes were damaged after they were written",
        ),
        residual(
            "group-zstd-is-another-length",
            &coded_group(2, 4152, &coded, sum),
            &coded,
            "group: zstd: Destination buffer is too small",
        ),
        residual(
            "group-wlz-damaged",
            &coded_group(3, 4160, &[0; 8], 0),
            &[0; 8],
            "group: checksum mismatch, the bytes were damaged after they were written",
        ),
        word_coded("group-wlz-of-nothing", &[], "word coder: 12 bytes needed, 0 left"),
        word_coded("group-wlz-cut", &[0; 8], "word coder: 4 bytes needed, 0 left"),
        word_coded("group-wlz-with-a-unit-more", &[0; 16], "word coder: bytes left over at the end"),
        word_coded("group-wlz-with-a-byte-more", &[0; 13], "word coder: bytes left over at the end"),
        // Every bit is 1: a repeat of the fourth distance, which is 32.
        word_coded(
            "group-wlz-from-before-the-start",
            &[0xff; 8],
            "word coder: a match starts before the beginning",
        ),
        // Every bit is 0: each byte is the expected one.
        word_coded("group-wlz-of-zeros", &[0; 12], length),
        residual(
            "checks-are-zstd",
            &[vec![2, 1, 8, 8], vec![0; 8], stored[1..].to_vec()].concat(),
            &[check, &page].concat(),
            "checks: they are not raw",
        ),
        residual(
            "checks-too-short",
            &[vec![2, 0, 7], stored[1..].to_vec()].concat(),
            &[&check[..7], &page].concat(),
            "checks: not eight bytes for each page that needs one",
        ),
        residual(
            "checks-too-long",
            &[vec![2, 0, 16], stored[1..].to_vec()].concat(),
            &[check, check, &page].concat(),
            "checks: not eight bytes for each page that needs one",
        ),
        residual(
            "check-of-another-page",
            &[vec![2, 0, 8], stored[1..].to_vec()].concat(),
            &[&[7; 8][..], &page].concat(),
            "the 1 pages from page 0 on do not verify: a reference has changed since packing, or the stream is damaged",
        ),
    ];
    all.extend(places());
    all.extend(alone());
    all
}

/// Blocks that are good by themselves, but not where they are.
fn places() -> Vec<Hostile> {
    let two = |first: Block, second: Block| {
        let mut builder = Builder::new(head(6));
        builder.block(&first);
        builder.block(&second);
        builder.bytes().to_vec()
    };
    let ranges = Block { ranges: vec![(0, 2), (4, 2)], ..zeros(0, 4) };
    vec![
        bad(
            "block-of-round-1",
            of_block(head(4), &Block { round: 1, ..zeros(0, 4) }),
            "round: a file has none but 0",
        ),
        bad(
            "block-of-many-ranges",
            two(ranges, zeros(2, 2)),
            "block: its pages neither follow those before it nor are all of them pending",
        ),
        bad(
            "blocks-out-of-order",
            two(zeros(3, 3), zeros(0, 3)),
            "block: its pages neither follow those before it nor are all of them pending",
        ),
        bad(
            "blocks-overlap",
            two(zeros(0, 3), zeros(2, 4)),
            "block: its pages neither follow those before it nor are all of them pending",
        ),
        bad(
            "blocks-leave-a-gap",
            two(zeros(0, 3), zeros(4, 2)),
            "block: its pages neither follow those before it nor are all of them pending",
        ),
    ]
}

fn promising(pages: u64) -> Head {
    Head { flags: 1, ..head(pages) }
}

/// Page 4, a duplicate.
fn duplicate(source: u64, truth: Page) -> Block {
    Block {
        ranges: vec![(4, 1)],
        runs: vec![(1, What::Duplicate { source })],
        truth: vec![truth],
        checks: true,
        ..Block::default()
    }
}

/// A stream of three blocks, of which this is the second.
fn with_second(block: &Block) -> Vec<u8> {
    let mut builder = Builder::new(promising(6));
    builder.block(&Block { checks: true, ..mixed() });
    builder.block(block);
    builder.block(&Block { checks: true, ..zeros(5, 1) });
    builder.finish()
}

/// Streams that promise that each block can be decoded alone, and break it.
fn alone() -> Vec<Hostile> {
    let no_list = Some(vec![vec![], vec![]]);
    vec![
        bad(
            "random-access-without-checks",
            of_block(promising(4), &mixed()),
            "block: it can not be read at random, though the header says so",
        ),
        bad(
            "random-access-with-matches",
            of_block(promising(4), &Block { checks: true, matches: no_list, ..mixed() }),
            "block: it can not be read at random, though the header says so",
        ),
    ]
}

/// Streams whose fault only shows to one who reads page 4 of them by itself, with the words of the engine's reader: a
/// duplicate of a page that may not be one's source. Reading them in order gives the right pages, which verify.
pub(super) fn found_by_readers() -> Vec<Hostile> {
    vec![
        bad(
            "random-access-duplicate-of-a-zero-page",
            with_second(&duplicate(2, ZERO)),
            "columns: a duplicate's source is not residual",
        ),
        bad(
            "random-access-duplicate-of-a-duplicate",
            with_second(&duplicate(3, mixed().truth[3])),
            "columns: a duplicate's source is not residual",
        ),
        bad(
            "random-access-duplicate-of-a-later-page",
            with_second(&duplicate(5, ZERO)),
            "columns: a duplicate's source is in a later block",
        ),
    ]
}
