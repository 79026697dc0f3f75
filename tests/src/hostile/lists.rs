//! Page sets that are lists: in ascending order, with a page twice, beyond what there is.

use super::*;
use crate::handmade::{NumberEncoder, PositionsEncoder, RangeEncoder, TreeEncoder, list};

/// Pages of the guest.
const PAGES: u64 = 8;

/// A block whose set is a list of `n` pages with these bytes. What the pages are does not matter.
fn of_bytes(name: &'static str, n: u64, coded: &[u8], slow: &'static str, error: &'static str) -> Hostile {
    let set = [numbers(&[0, n, coded.len() as u64]), coded.to_vec()].concat();
    refused(name, Meta { set, ..Meta::zeros() }.stream(PAGES, &[]), slow, error)
}

/// The same with these ranges.
fn of_ranges(
    name: &'static str,
    n: u64,
    ranges: &[(u64, u64)],
    slow: &'static str,
    error: &'static str,
) -> Hostile {
    of_bytes(name, n, &list(ranges), slow, error)
}

/// One range of four pages, whose first page is what `more` writes.
fn of_first(
    name: &'static str,
    more: impl Fn(&mut RangeEncoder),
    slow: &'static str,
    error: &'static str,
) -> Hostile {
    let mut coder = RangeEncoder::new();
    NumberEncoder::new(6).encode(&mut coder, 3);
    more(&mut coder);
    of_bytes(name, 4, &coder.finish(), slow, error)
}

pub(super) fn all() -> Vec<Hostile> {
    let good = list(&[(4, 2), (0, 2)]);
    let first = [&[1], &good[1..]].concat();
    let mut long = RangeEncoder::new();
    TreeEncoder::new(6).encode(&mut long, 48);
    let mut all = vec![
        of_bytes("list-of-no-pages", 0, &RangeEncoder::new().finish(), "n: is 0", "page set: it is empty"),
        of_ranges("list-of-one-range", 4, &[(0, 4)], "ascending", "page set: a list that ascends"),
        of_ranges(
            "list-that-ascends",
            4,
            &[(0, 1), (2, 1), (5, 2)],
            "ascending",
            "page set: a list that ascends",
        ),
        of_ranges(
            "list-with-adjacent-ranges",
            4,
            &[(5, 1), (6, 1), (0, 2)],
            "where the one before ends",
            "columns: adjacent ranges",
        ),
        of_ranges(
            "list-with-overlapping-ranges",
            4,
            &[(5, 2), (4, 2)],
            "page 5 comes twice",
            "page set: a page is listed twice",
        ),
        of_ranges(
            "list-with-a-range-twice",
            4,
            &[(2, 2), (2, 2)],
            "page 2 comes twice",
            "page set: a page is listed twice",
        ),
        of_ranges(
            "list-with-a-page-in-a-range",
            5,
            &[(2, 4), (4, 1)],
            "page 4 comes twice",
            "page set: a page is listed twice",
        ),
        of_ranges(
            "list-across-the-memory's-end",
            4,
            &[(6, 3), (0, 1)],
            "3 pages from 6",
            "columns: a range lies beyond the memory",
        ),
        of_ranges(
            "list-beyond-the-memory",
            4,
            &[(1 << 40, 1), (0, 3)],
            "of 8 in all",
            "columns: a range lies beyond the memory",
        ),
        of_first(
            "list-below-zero",
            |coder| PositionsEncoder::new().encode(coder, -1),
            "4 pages from -1",
            "columns: a range lies beyond the memory",
        ),
        of_ranges(
            "list-of-more-pages",
            4,
            &[(4, 3), (0, 2)],
            "2 pages, of 4 there are 1 left",
            "columns: a range reaches beyond the block",
        ),
        of_ranges(
            "list-of-too-many-pages",
            65,
            &[(4, 2), (0, 2)],
            "n: 65 is above 64",
            "page set: 65 is more than the 64 allowed",
        ),
        of_ranges(
            "list-of-fewer-pages",
            6,
            &[(4, 2), (0, 2)],
            "more bytes than there are",
            "columns: 2 bytes needed, 0 left",
        ),
        of_bytes(
            "list-with-more",
            4,
            &[&good[..], &[0]].concat(),
            "1 bytes too many",
            "columns: bytes left over at the end",
        ),
        of_bytes(
            "list-cut",
            4,
            &good[..good.len() - 1],
            "more bytes than there are",
            "columns: 1 bytes needed, 0 left",
        ),
        of_bytes("list-first-byte", 4, &first, "the first byte", "columns: not a range coder's output"),
        of_bytes("list-without-bytes", 4, &[], "more bytes than", "columns: not a range coder's output"),
        of_bytes(
            "list-range-of-48-bits",
            4,
            &long.finish(),
            "magnitude 48",
            "columns: a range reaches beyond the block",
        ),
        of_first(
            "list-position-mode-3",
            |coder| TreeEncoder::new(2).encode(coder, 3),
            "mode 3",
            "columns: unknown position mode",
        ),
        of_first(
            "list-anchor-1-of-one",
            |coder| {
                TreeEncoder::new(2).encode(coder, 0);
                NumberEncoder::new(4).encode(coder, 1);
            },
            "anchor 1 of 1",
            "columns: anchor rank out of range",
        ),
    ];
    // More bytes than the meta part has.
    let set = numbers(&[0, 4, 1 << 20]);
    all.push(refused(
        "list-longer-than-the-meta-part",
        Meta { set, ..Meta::zeros() }.stream(PAGES, &[]),
        "wants 1048576 bytes",
        "page set: 1048576 bytes needed, 25 left",
    ));
    all
}
