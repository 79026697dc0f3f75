//! Addresses and bases of residual pages that cannot be, or that their pages may not have.

use super::*;
use crate::handmade::Places;

/// Two residual pages after two others: page 4 is text, page 5 is text with a word changed.
fn two() -> Block {
    let mut second = text();
    second[8..16].copy_from_slice(b"changed ");
    Block {
        ranges: vec![(4, 2)],
        runs: vec![(2, What::Residual)],
        truth: vec![text(), second],
        classes: vec![12, 12],
        zstd: true,
        ..Block::default()
    }
}

/// A guest of eight pages: pages 0 to 3 are as in [`mixed`], and then comes this block.
fn after_mixed(head: Head, block: &Block) -> Vec<u8> {
    let checks = head.flags & 1 == 1;
    let mut builder = Builder::new(head);
    builder.block(&Block { checks, ..mixed() });
    builder.block(&Block { checks, ..block.clone() });
    builder.bytes().to_vec()
}

fn of(name: &'static str, block: &Block, slow: &'static str, error: &'static str) -> Hostile {
    refused(name, after_mixed(head(8), block), slow, error)
}

/// Addresses of both pages.
fn addresses(name: &'static str, runs: &[Places], slow: &'static str, error: &'static str) -> Hostile {
    of(name, &Block { addresses: Some(runs.to_vec()), ..two() }, slow, error)
}

/// Bases of both pages.
fn bases(name: &'static str, runs: &[Places], slow: &'static str, error: &'static str) -> Hostile {
    of(name, &based(runs), slow, error)
}

fn based(runs: &[Places]) -> Block {
    Block { bases: Some(runs.to_vec()), base_words: vec![Some(ZERO); 2], ..two() }
}

const OUT_OF_RANGE: &str = "columns: a place is out of range";
const BEYOND: &str = "bases: one lies beyond its memory";
const OWN: &str = "bases: one is a page of its own block";
const STORED: &str = "groups: pages that are stored have an address or a base";

pub(super) fn all() -> Vec<Hostile> {
    let mut all = addresses_alone();
    all.extend(bases_alone());
    all.extend(together());
    all.extend(bytes());
    all.extend(of_references());
    all
}

fn addresses_alone() -> Vec<Hostile> {
    let (low, high) = (-(1_i64 << 47), (1_i64 << 47) - 1);
    let near = |name, place| {
        let runs = [Places::none(1), Places::onward(1, 0, place)];
        addresses(name, &runs, "next to address 0", "addresses: one is too near to 0")
    };
    vec![
        near("address-two-pages-below-0", -2),
        near("address-just-below-0", -1),
        near("address-0", 0),
        near("address-just-above-0", 1),
        addresses(
            "address-0-by-page",
            &[Places::by_page(2, 0, -5)],
            "page 4: it is next to address 0",
            "addresses: one is too near to 0",
        ),
        addresses("address-too-low", &[Places::onward(2, 0, low - 1)], "page 4: place", OUT_OF_RANGE),
        addresses("address-too-high", &[Places::onward(2, 0, high)], "page 5: place", OUT_OF_RANGE),
        addresses(
            "address-too-high-by-page",
            &[Places::by_page(2, 0, high - 4)],
            "page 5: place",
            OUT_OF_RANGE,
        ),
        addresses(
            "address-in-space-1",
            &[Places::onward(2, 1, 100)],
            "space 1 of 1",
            "columns: unknown kind of placement",
        ),
        addresses(
            "address-in-space-1-by-page",
            &[Places::by_page(2, 1, 100)],
            "space 1 of 1",
            "columns: unknown kind of placement",
        ),
        addresses(
            "addresses-of-three-pages",
            &[Places::onward(3, 0, 100)],
            "a run of 3 pages, of which 2 are left",
            "columns: placements reach beyond the block",
        ),
        addresses(
            "addresses-of-none-of-three-pages",
            &[Places::onward(1, 0, 100), Places::none(2)],
            "a run of 2 pages, of which 1 are left",
            "columns: placements reach beyond the block",
        ),
        of(
            "address-of-a-stored-page",
            &Block { addresses: Some(vec![Places::onward(2, 0, 100)]), zstd: false, ..two() },
            "it is raw, and page 4 has an address",
            STORED,
        ),
        of(
            "address-of-a-page-in-a-stored-group",
            &Block {
                addresses: Some(vec![Places::none(1), Places::onward(1, 0, 100)]),
                classes: vec![12, 13],
                raw_classes: vec![13],
                ..two()
            },
            "it is raw, and page 5 has an address",
            STORED,
        ),
    ]
}

fn bases_alone() -> Vec<Hostile> {
    let word = |page: i64| page * 512;
    let high = (1_i64 << 47) - 1;
    vec![
        bases("base-below-zero", &[Places::onward(2, 1, -512)], "word -512", BEYOND),
        bases("base-below-zero-by-page", &[Places::by_page(2, 1, word(-5))], "word -512", BEYOND),
        bases("base-too-low", &[Places::onward(2, 2, -(1 << 47) - 1)], "place", OUT_OF_RANGE),
        bases("base-too-high", &[Places::onward(2, 2, high)], "page 5: place", OUT_OF_RANGE),
        bases(
            "base-beyond-the-disk",
            &[Places::onward(1, 1, word(6)), Places::none(1)],
            "of 6 pages",
            BEYOND,
        ),
        bases(
            "base-beyond-the-older-image",
            &[Places::onward(2, 2, word(5))],
            "word 3072 of 6 pages",
            BEYOND,
        ),
        bases(
            "base-across-the-older-image's-end",
            &[Places::onward(1, 2, word(5) + 1), Places::none(1)],
            "word 2561 of 6 pages",
            BEYOND,
        ),
        bases("base-beyond-by-page", &[Places::by_page(2, 2, word(1))], "word 3072 of 6 pages", BEYOND),
        bases("base-beyond-the-memory", &[Places::onward(2, 0, word(8))], "of 8 pages of space 0", BEYOND),
        bases(
            "base-across-the-memory's-end",
            &[Places::onward(1, 0, word(7) + 511), Places::none(1)],
            "of 8 pages of space 0",
            BEYOND,
        ),
        bases(
            "base-in-space-4-of-four",
            &[Places::onward(2, 4, 0)],
            "space 4 of 4",
            "columns: unknown kind of placement",
        ),
        bases(
            "base-in-space-127",
            &[Places::onward(1, 127, 0), Places::none(1)],
            "space 127 of 4",
            "columns: unknown kind of placement",
        ),
        bases(
            "base-beyond-the-memory-before",
            &[Places::onward(1, 3, word(7) + 511), Places::none(1)],
            "of 8 pages of space 3",
            BEYOND,
        ),
        bases("base-is-the-page", &[Places::by_page(2, 0, 0)], "word 2048 is in this block", OWN),
        bases(
            "base-is-an-earlier-page-of-its-block",
            &[Places::none(1), Places::onward(1, 0, word(4))],
            "word 2048 is in this block",
            OWN,
        ),
        bases(
            "base-reaches-into-its-block",
            &[Places::onward(1, 0, word(3) + 1), Places::none(1)],
            "word 1537 is in this block",
            OWN,
        ),
        bases(
            "base-begins-in-its-block",
            &[Places::onward(1, 0, word(5) + 511), Places::none(1)],
            "word 3071 is in this block",
            OWN,
        ),
        of(
            "base-is-a-zero-page-of-its-block",
            &Block {
                ranges: vec![(4, 3)],
                runs: vec![(2, What::Residual), (1, What::Zero)],
                truth: [two().truth, vec![ZERO]].concat(),
                ..based(&[Places::onward(1, 0, word(6)), Places::none(1)])
            },
            "word 3072 is in this block",
            OWN,
        ),
        of(
            "base-is-left-for-later",
            &Block {
                ranges: vec![(4, 3)],
                runs: vec![(2, What::Residual), (1, What::Later)],
                truth: [two().truth, vec![ZERO]].concat(),
                ..based(&[Places::onward(1, 0, word(6)), Places::none(1)])
            },
            "word 3072 is in this block",
            OWN,
        ),
        refused(
            "base-of-the-guest-with-random-access",
            after_mixed(Head { flags: 1, ..head(8) }, &based(&[Places::onward(1, 0, 0), Places::none(1)])),
            "blocks can be decoded alone",
            "bases: one is a page of the guest, though the header says that none are",
        ),
        refused(
            "base-of-the-memory-before-with-random-access",
            after_mixed(Head { flags: 1, ..head(8) }, &based(&[Places::onward(1, 3, 0), Places::none(1)])),
            "blocks can be decoded alone",
            "bases: one is a page of the guest, though the header says that none are",
        ),
        of(
            "base-of-a-stored-page",
            &Block { zstd: false, ..based(&[Places::onward(2, 1, 0)]) },
            "it is raw, and page 4 has an address or a base",
            STORED,
        ),
        // What is not stored is as in the base, and not 0.
        of(
            "base-is-another",
            &Block {
                truth: vec![crate::handmade::cases::word_page(7); 2],
                base_words: vec![None, Some(crate::handmade::cases::word_page(7))],
                ..based(&[Places::none(1), Places::onward(1, 0, word(0))])
            },
            "block digest",
            "the 2 pages from page 4 on do not verify: a reference has changed since packing, or the stream is damaged",
        ),
    ]
}

fn together() -> Vec<Hostile> {
    let both = |first: &[Places], second: &[Places]| Block {
        addresses: Some(first.to_vec()),
        bases: Some(second.to_vec()),
        base_words: vec![Some(ZERO); 2],
        ..two()
    };
    let too = "bases: a page has an address, too";
    vec![
        of(
            "address-and-base",
            &both(&[Places::onward(2, 0, 100)], &[Places::onward(2, 1, 0)]),
            "page 4 has an address, too",
            too,
        ),
        of(
            "address-and-base-of-the-second",
            &both(
                &[Places::none(1), Places::onward(1, 0, 100)],
                &[Places::onward(1, 2, 0), Places::by_page(1, 2, 0)],
            ),
            "page 5 has an address, too",
            too,
        ),
    ]
}

/// Flags without bytes, and bytes that are no range coder's, or too few or too many.
fn bytes() -> Vec<Hostile> {
    let group = [vec![1, 1, 1, 0], number(4096)].concat();
    let page = text();
    // One residual page; the flags, then these bytes, and the group.
    let with = |name, flags: u8, places: &[u8], slow, error| {
        let rest = [&[flags], places, &group].concat();
        refused(name, Meta::residual(rest).stream(1, &page), slow, error)
    };
    let sized = |bytes: &[u8]| [number(bytes.len() as u64), bytes.to_vec()].concat();
    let none = handmade::places(&[Places::none(1)], 1);
    let short = &none[..none.len() - 1];
    let long = [&none[..], &[0]].concat();
    let first = [&[1], &none[1..]].concat();
    vec![
        with("addresses-without-bytes", 4, &[0], "addresses: length: is 0", "placements: they are empty"),
        with("bases-without-bytes", 8, &[0], "bases: length: is 0", "placements: they are empty"),
        with(
            "bases-without-bytes-after-addresses",
            12,
            &[sized(&none), vec![0]].concat(),
            "bases: length: is 0",
            "placements: they are empty",
        ),
        with(
            "addresses-longer-than-the-meta-part",
            4,
            &number(1 << 20),
            "wants 1048576 bytes",
            "placements: 1048576 bytes needed, 6 left",
        ),
        with(
            "addresses-too-long",
            4,
            &number((1 << 24) + 1),
            "wants 16777217 bytes",
            "placements length: 16777217 is more than the 16777216 allowed",
        ),
        with(
            "addresses-first-byte",
            4,
            &sized(&first),
            "the first byte",
            "columns: not a range coder's output",
        ),
        with(
            "addresses-of-four-bytes",
            4,
            &sized(&none[..4]),
            "more bytes",
            "columns: not a range coder's output",
        ),
        with(
            "addresses-with-more",
            4,
            &sized(&long),
            "1 bytes too many",
            "columns: bytes left over at the end",
        ),
        with("bases-with-more", 8, &sized(&long), "1 bytes too many", "columns: bytes left over at the end"),
        with("bases-cut", 8, &sized(short), "more bytes than there are", CUT),
        refused(
            "flags-without-more",
            Meta { rest: vec![12], ..Meta::zeros() }.stream(4, &[]),
            "addresses: length",
            "placements length: 1 bytes needed, 0 left",
        ),
        // Bases where there should be addresses, which have one space.
        with(
            "bases-for-addresses",
            4,
            &sized(&handmade::places(&[Places::onward(1, 2, 5)], 1)),
            "space 2 of 1",
            "columns: unknown kind of placement",
        ),
    ]
}

const CUT: &str = "columns: 1 bytes needed, 0 left";

/// Bases in references that are missing, changed or short.
fn of_references() -> Vec<Hostile> {
    let [disk, older] = reference_bytes();
    let last = |bytes: &[u8], word: usize| {
        let mut page = ZERO;
        page.copy_from_slice(&bytes[word * 8..][..PAGE]);
        page
    };
    // Page 4 is as the last 512 words of the reference, but for one word.
    let like = |space: u64, bytes: &[u8], word: usize| {
        let base = last(bytes, word);
        let mut page = base;
        page[8..16].copy_from_slice(b"changed ");
        Block {
            truth: vec![page, text()],
            bases: Some(vec![Places::onward(1, space, word as i64), Places::none(1)]),
            base_words: vec![Some(base), None],
            ..two()
        }
    };
    let with =
        |name, at_hand, block: &Block, slow, error| Hostile { at_hand, ..of(name, block, slow, error) };
    let whole = 5 * 512;
    let missing = "reference 1 (the older image) is needed, but not at hand";
    let changed = "the 2 pages from page 4 on do not verify: a reference has changed since packing, or the stream is damaged";
    let short = "reference 1: 4096 bytes from block 5 on are not whole blocks of the reference's 5";
    vec![
        with(
            "base-missing",
            AtHand::Nothing,
            &like(2, &older, whole),
            "reference 1: wanted, but not given",
            missing,
        ),
        with(
            "base-missing-from-the-disk",
            AtHand::Nothing,
            &like(1, &disk, whole),
            "reference 0: wanted, but not given",
            "reference 0 (the disk) is needed, but not at hand",
        ),
        with("base-changed", AtHand::Changed, &like(2, &older, whole), "block digest", changed),
        with(
            "base-changed-on-the-disk",
            AtHand::Changed,
            &like(1, &disk, whole - 511),
            "block digest",
            changed,
        ),
        with("base-cut-off", AtHand::Short, &like(2, &older, whole), "block 5 is not in", short),
        with(
            "base-cut-off-in-the-middle",
            AtHand::Short,
            &like(2, &older, whole - 511),
            "block 5 is not in",
            short,
        ),
        // None of its words is taken from the base, but it must be there.
        with(
            "base-missing-and-not-wanted",
            AtHand::Nothing,
            &Block {
                truth: vec![text(), text()],
                base_words: vec![Some(word_page(u64::MAX)), None],
                ..like(2, &older, whole)
            },
            "reference 1: wanted, but not given",
            missing,
        ),
    ]
}

/// A page of one word.
fn word_page(word: u64) -> Page {
    crate::handmade::cases::word_page(word)
}
