//! Indexes and ends that do not fit the stream before them.

use super::*;
use crate::handmade::frame_type::{BLOCK, END, INDEX};

/// A stream of two blocks of three pages, up to its index.
fn blocks() -> Builder {
    let mut builder = Builder::new(head(6));
    builder.block(&zeros(0, 3));
    builder.block(&zeros(3, 3));
    builder
}

/// The digest of all blocks.
fn digest() -> [u8; 16] {
    let print = xxh3_128(&ZERO).to_le_bytes();
    let block = xxh3_128(&[print; 3].concat()).to_le_bytes();
    xxh3_128(&[block; 2].concat()).to_le_bytes()
}

fn end(name: &'static str, numbers: [Option<u64>; 3], digest: &[u8], error: &'static str) -> Hostile {
    let mut builder = blocks();
    let index = builder.index();
    let [at, pages, count] = numbers;
    let numbers = [at.unwrap_or(index), pages.unwrap_or(6), count.unwrap_or(2)];
    let meta = [&numbers.map(u64::to_le_bytes).concat()[..], digest].concat();
    builder.frame(END, &meta, &[]);
    bad(name, builder.bytes().to_vec(), error)
}

/// The same with an index of these values, and an end that fits it.
fn index(name: &'static str, values: &[u64], error: &'static str) -> Hostile {
    let mut builder = blocks();
    let at = builder.bytes().len() as u64;
    let meta: Vec<u8> = values.iter().flat_map(|&value| number(value)).collect();
    builder.frame(INDEX, &meta, &[]);
    builder.end(at);
    bad(name, builder.bytes().to_vec(), error)
}

pub(super) fn all() -> Vec<Hostile> {
    let digest = digest();
    let wrong = [&digest[..15], &[digest[15] ^ 1]].concat();
    let first = Builder::new(head(6)).bytes().len() as u64;
    let second = {
        let mut builder = Builder::new(head(6));
        builder.block(&zeros(0, 3));
        builder.bytes().len() as u64 - first
    };
    let after_index = |frame: u8| {
        let mut builder = blocks();
        let at = builder.index();
        match frame {
            INDEX => drop(builder.index()),
            BLOCK => builder.block(&zeros(0, 3)),
            _ => builder.opaque(0, b"", false),
        }
        builder.end(at);
        builder.bytes().to_vec()
    };
    let mut after_end = blocks();
    let at = after_end.index();
    after_end.end(at);
    let mut two_ends = after_end.clone();
    two_ends.end(at);
    after_end.block(&zeros(0, 3));
    let mut early = Builder::new(head(6));
    early.block(&zeros(0, 3));
    vec![
        end("end-pages", [None, Some(7), None], &digest, "end: it does not sum up the blocks before it"),
        end("end-blocks", [None, None, Some(1)], &digest, "end: it does not sum up the blocks before it"),
        end("end-digest", [None; 3], &wrong, "end: it does not sum up the blocks before it"),
        end("end-index-offset", [Some(5), None, None], &digest, "end: the index lies elsewhere"),
        end("end-index-offset-0", [Some(0), None, None], &digest, "end: the index lies elsewhere"),
        end("end-cut", [None; 3], &digest[..15], "end: digest: 16 bytes needed, 15 left"),
        end("end-with-more", [None; 3], &[&digest[..], &[0]].concat(), "end: bytes left over at the end"),
        bad("end-too-early", early.finish(), "end: pages are missing"),
        bad("two-ends", two_ends.bytes().to_vec(), "stream: it goes on after its index or its end"),
        bad(
            "block-after-the-end",
            after_end.bytes().to_vec(),
            "stream: it goes on after its index or its end",
        ),
        bad("two-indexes", after_index(INDEX), "stream: it goes on after its index or its end"),
        bad("block-after-the-index", after_index(BLOCK), "stream: it goes on after its index or its end"),
        bad("opaque-after-the-index", after_index(0), "stream: it goes on after its index or its end"),
        index("index-block-missing", &[1, first, 0, 3], "index: it lists other blocks than there are"),
        index(
            "index-offset",
            &[2, first + 1, 0, 3, second - 1, 0, 3],
            "index: it lists other blocks than there are",
        ),
        index(
            "index-offset-beyond",
            &[2, first, 0, 3, u64::MAX, 0, 3],
            "index offset: 18446744073709551615 is more than the 18446744073709551510 allowed",
        ),
        index("index-page", &[2, first, 0, 2, second, 1, 3], "index: it lists other blocks than there are"),
        index("index-pages", &[2, first, 0, 3, second, 0, 2], "index: it lists other blocks than there are"),
        index(
            "index-pages-beyond",
            &[2, first, 0, 3, second, 0, 4],
            "index pages: 4 is more than the 3 allowed",
        ),
        index(
            "index-block-of-no-pages",
            &[2, first, 0, 3, second, 0, 0],
            "index pages: a block without pages",
        ),
        index("index-cut", &[2, first, 0, 3, second, 0], "index pages: 1 bytes needed, 0 left"),
        index("index-with-more", &[2, first, 0, 3, second, 0, 3, 0], "index: bytes left over at the end"),
        index("index-too-long", &[(1 << 22) + 1], "index length: 4194305 is more than the 4194304 allowed"),
    ]
}
