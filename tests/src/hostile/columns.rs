//! Columns: range-coded bytes that no encoder writes, and runs that cannot be.

use super::*;
use crate::handmade::{NumberEncoder, PositionsEncoder, RangeEncoder, TreeEncoder};

/// A block of four pages with these columns.
fn with(name: &'static str, columns: Vec<u8>, error: &'static str) -> Hostile {
    bad(name, Meta { columns, ..Meta::zeros() }.stream(4, &[]), error)
}

/// The first run's kind and length.
fn run(kind: u64, pages: u64) -> RangeEncoder {
    let mut coder = RangeEncoder::new();
    TreeEncoder::new(3).encode(&mut coder, kind);
    NumberEncoder::new(6).encode(&mut coder, pages - 1);
    coder
}

/// One run of four pages of a kind, then whatever `more` writes.
fn four(kind: u64, more: impl Fn(&mut RangeEncoder)) -> Vec<u8> {
    let mut coder = run(kind, 4);
    more(&mut coder);
    coder.finish()
}

/// These runs of a block of four pages, with classes.
fn runs(name: &'static str, runs: &[(u64, What)], classes: &[u8], error: &'static str) -> Hostile {
    with(name, handmade::columns(runs, classes, &[0, 1, 2, 3], &[0, 1]), error)
}

pub(super) fn all() -> Vec<Hostile> {
    let good = Meta::zeros().columns;
    let number = |coder: &mut RangeEncoder, value| NumberEncoder::new(4).encode(coder, value);
    let magnitude = |coder: &mut RangeEncoder, m| TreeEncoder::new(6).encode(coder, m);
    let position = |coder: &mut RangeEncoder, value| PositionsEncoder::new().encode(coder, value);
    let first = [&[1], &good[1..]].concat();
    let zero = |pages| (pages, What::Zero);
    let duplicate = |pages, source| (pages, What::Duplicate { source });
    let reference = |pages, index, position| (pages, What::Reference { index, position });
    vec![
        with("columns-empty", vec![], "columns: not a range coder's output"),
        with("columns-of-four-bytes", good[..4].to_vec(), "columns: not a range coder's output"),
        with("columns-first-byte", first, "columns: not a range coder's output"),
        with("columns-cut", good[..good.len() - 1].to_vec(), "columns: 1 bytes needed, 0 left"),
        with("columns-with-more", [&good[..], &[0]].concat(), "columns: bytes left over at the end"),
        with("kind-6", run(6, 4).finish(), "columns: unknown kind"),
        with("kind-7", run(7, 4).finish(), "columns: unknown kind"),
        with(
            "run-length-of-48-bits",
            {
                let mut coder = RangeEncoder::new();
                TreeEncoder::new(3).encode(&mut coder, 0);
                magnitude(&mut coder, 48);
                coder.finish()
            },
            "columns: run length",
        ),
        with("run-length-of-40-bits", run(0, 1 << 40).finish(), "columns: run length"),
        runs("run-beyond-the-block", &[zero(5)], &[], "columns: a run reaches beyond the block"),
        runs(
            "second-run-beyond-the-block",
            &[zero(1), zero(4)],
            &[],
            "columns: a run reaches beyond the block",
        ),
        with("word-rank-1-of-none", four(1, |coder| number(coder, 1)), "columns: word rank out of range"),
        with(
            "position-mode-3",
            four(2, |coder| TreeEncoder::new(2).encode(coder, 3)),
            "columns: unknown position mode",
        ),
        with(
            "anchor-1-of-one",
            four(2, |coder| {
                TreeEncoder::new(2).encode(coder, 0);
                number(coder, 1);
            }),
            "columns: anchor rank out of range",
        ),
        with(
            "distance-of-48-bits",
            four(2, |coder| {
                TreeEncoder::new(2).encode(coder, 1);
                number(coder, 0);
                magnitude(coder, 63);
            }),
            "columns: distance out of range",
        ),
        with(
            "duplicate-source-below-zero",
            four(2, |coder| position(coder, -1)),
            "columns: source below zero",
        ),
        runs(
            "duplicate-beyond-the-memory",
            &[duplicate(4, 1)],
            &[],
            "columns: a duplicate's source is beyond the memory",
        ),
        runs("duplicate-of-itself", &[duplicate(4, 0)], &[], "columns: a page is a duplicate of itself"),
        runs(
            "duplicate-of-a-zero-page",
            &[zero(3), duplicate(1, 2)],
            &[],
            "columns: a duplicate's source in its own block is not residual",
        ),
        runs(
            "duplicate-of-a-duplicate",
            &[duplicate(1, 1), duplicate(1, 2), zero(2)],
            &[],
            "columns: a duplicate's source in its own block is not residual",
        ),
        with("reference-2-of-two", four(3, |coder| number(coder, 2)), "columns: no such reference"),
        with(
            "reference-position-below-zero",
            four(3, |coder| {
                number(coder, 0);
                position(coder, -1);
            }),
            "columns: position below zero",
        ),
        with(
            "reference-shift-below-zero",
            four(3, |coder| {
                number(coder, 1);
                position(coder, -1);
            }),
            "columns: position below zero",
        ),
        runs(
            "reference-run-beyond-the-disk",
            &[reference(4, 0, 3)],
            &[],
            "columns: a run ends beyond its reference",
        ),
        runs(
            "reference-run-beyond-the-image",
            &[reference(4, 1, 3)],
            &[],
            "columns: a run ends beyond its reference",
        ),
    ]
}
