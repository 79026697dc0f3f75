//! Good streams that no packer would write: small, and with something of all that the format allows.

mod ordered;

pub use ordered::{independent_placed, moved, ordered};

use super::{Block, Builder, Head, Random};
use crate::reference::{LongMatch, PAGE, Page, What, identity};

/// A stream and the file that it should decode to.
#[derive(Clone, Debug)]
pub struct Case {
    /// What to call it.
    pub name: &'static str,
    /// The bytes.
    pub stream: Vec<u8>,
    /// What it refers to: the disk first, then the older image.
    pub references: Vec<Option<Vec<u8>>>,
    /// What it should decode to.
    pub file: Vec<u8>,
}

/// A page of zeros.
pub const ZERO: Page = [0; PAGE];

/// A page of one word.
pub fn word_page(word: u64) -> Page {
    let mut page = ZERO;
    for bytes in page.chunks_exact_mut(8) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    page
}

/// One block of all `truth`, in a raw file stream.
pub fn one_block(name: &'static str, runs: &[(u64, What)], truth: &[Page], classes: &[u8]) -> Case {
    let pages = truth.len() as u64;
    let mut builder = Builder::new(Head::raw(pages));
    builder.block(&Block {
        ranges: vec![(0, pages)],
        runs: runs.to_vec(),
        truth: truth.to_vec(),
        classes: classes.to_vec(),
        ..Block::default()
    });
    Case { name, stream: builder.finish(), references: vec![], file: truth.concat() }
}

/// The smallest streams: one block each, one idea each.
pub fn small_cases() -> Vec<Case> {
    let noise = Random::new(1).page();
    let residual = (1, What::Residual);
    vec![
        Case {
            name: "no page",
            stream: Builder::new(Head::raw(0)).finish(),
            references: vec![],
            file: vec![],
        },
        one_block("zero", &[(3, What::Zero)], &[ZERO; 3], &[]),
        one_block(
            "uniform",
            &[(1, What::Uniform(0x0123_4567_89ab_cdef))],
            &[word_page(0x0123_4567_89ab_cdef)],
            &[],
        ),
        one_block("uniform words that come again", &uniforms().0, &uniforms().1, &[]),
        one_block("residual", &[residual], &[noise], &[5]),
        one_block("duplicate", &[residual, (1, What::Duplicate { source: 0 })], &[noise, noise], &[0]),
        one_block(
            "duplicate of a later page",
            &[(1, What::Duplicate { source: 1 }), residual],
            &[noise; 2],
            &[0],
        ),
    ]
}

/// More words than the list holds, new ones and old ones.
fn uniforms() -> (Vec<(u64, What)>, Vec<Page>) {
    let words: Vec<u64> = (0..64).map(|i| 1 << (i % 7) | 1 << (i % 11)).collect();
    (
        words.iter().map(|&word| (1, What::Uniform(word))).collect(),
        words.iter().map(|&w| word_page(w)).collect(),
    )
}

/// Everything that a file stream may hold: two segments out of order, opaque bytes, a disk and an older image, all
/// kinds, groups of all classes, long matches into each space, three blocks.
pub fn rich(zstd: bool, checks: bool) -> Case {
    let mut random = Random::new(9);
    let old: Vec<Page> = (0..20).map(|_| random.page()).collect();
    let disk: Vec<Page> = (0..30).map(|_| random.page()).collect();
    let references = vec![Some(disk.concat()), Some(old.concat())];
    let mut head = Head::raw(24);
    head.format = 1;
    head.file_len = 100 + 24 * 4096 + 50 + 7;
    // In the file: 100 bytes, pages 16 to 23, 50 bytes, pages 0 to 15, 7 bytes.
    head.segments = vec![(100 + 8 * 4096 + 50, 16, 0x10_0001), (100, 8, 0)];
    head.references = vec![
        (0, identity(&disk.concat()), 30, "root disk".into()),
        (1, identity(&old.concat()), 20, "yesterday, größer".into()),
    ];
    let mut truth: Vec<Page> = vec![ZERO; 24];
    let mut builder = Builder::new(head);
    builder.opaque(0, &[b'h'; 100], zstd);

    // Block 0: pages 0 to 7.
    truth[1..4].copy_from_slice(&[random.page(), random.page(), random.page()]);
    truth[4] = truth[2];
    truth[5..7].copy_from_slice(&old[6..8]);
    truth[7] = disk[29];
    builder.block(&Block {
        ranges: vec![(0, 8)],
        runs: vec![
            (1, What::Zero),
            (3, What::Residual),
            (1, What::Duplicate { source: 2 }),
            (2, What::Reference { index: 1, position: 6 }),
            (1, What::Reference { index: 0, position: 29 }),
        ],
        truth: truth[0..8].to_vec(),
        classes: vec![5, 0, 3],
        checks,
        zstd,
        ..Block::default()
    });
    builder.opaque(100 + 8 * 4096, &[b'm'; 20], zstd);
    builder.opaque(100 + 8 * 4096 + 30, &[b'n'; 20], zstd);

    // Block 1: pages 8 to 15, with long matches from the guest (other block, same block) and the old image.
    let first = 8;
    let m = |start, words, space, page: u64, word: u64| LongMatch {
        start,
        words,
        space,
        source: page * 512 + word,
    };
    let matches = vec![
        vec![m(0, 40, 0, 1, 0), m(40, 10, 2, 3, 502), m(400, 112, 2, 4, 1)],
        vec![],
        vec![m(0, 512, 0, 8, 0)],
        vec![m(5, 500, 0, 10, 5), m(505, 7, 0, 23, 0)],
    ];
    let matches: Vec<Vec<LongMatch>> =
        matches.into_iter().map(|all| all.into_iter().filter(|m| m.words > 0).collect()).collect();
    let copy = |truth: &mut Vec<Page>, to: usize, m: &LongMatch| {
        let from = match m.space {
            0 => truth[m.source as usize / 512],
            _ => old[m.source as usize / 512],
        };
        let (to_byte, from_byte, len) =
            (m.start as usize * 8, m.source as usize % 512 * 8, m.words as usize * 8);
        truth[to][to_byte..to_byte + len].copy_from_slice(&from[from_byte..from_byte + len]);
    };
    for (page, matches) in [8, 9, 10, 11].into_iter().zip(&matches) {
        truth[page] = random.page();
        for m in matches {
            copy(&mut truth, page, m);
        }
    }
    // The source of page 12 comes in a later block, and is still zero.
    truth[13] = truth[4];
    truth[14] = word_page(7);
    truth[15] = truth[9];
    builder.block(&Block {
        ranges: vec![(first, 8)],
        runs: vec![
            (4, What::Residual),
            (1, What::Duplicate { source: 20 }),
            (1, What::Duplicate { source: 4 }),
            (1, What::Uniform(7)),
            (1, What::Duplicate { source: 9 }),
        ],
        truth: truth[8..16].to_vec(),
        classes: vec![1, 2, 1, 1],
        matches: Some(matches),
        checks,
        zstd,
        group_pages: 2,
        ..Block::default()
    });

    // Block 2: pages 16 to 23.
    truth.copy_within(8..12, 16);
    for page in &mut truth[20..24] {
        *page = random.page();
    }
    builder.block(&Block {
        ranges: vec![(16, 8)],
        runs: vec![(4, What::Duplicate { source: 8 }), (4, What::Residual)],
        truth: truth[16..24].to_vec(),
        classes: vec![4, 4, 4, 4],
        checks,
        zstd,
        group_pages: 3,
        ..Block::default()
    });
    let mut file = vec![b'h'; 100];
    file.extend(truth[16..24].concat());
    file.extend([b'm'; 20]);
    file.extend([0; 10]);
    file.extend([b'n'; 20]);
    file.extend(truth[0..16].concat());
    file.extend([0; 7]);
    Case { name: "rich", stream: builder.finish(), references, file }
}

/// A stream whose blocks can be decoded alone: four pages each, with what a page may be.
pub fn independent(zstd: bool) -> Case {
    let mut random = Random::new(4);
    let disk: Vec<Page> = (0..5).map(|_| random.page()).collect();
    let mut head = Head::raw(12);
    head.flags = 1;
    head.references = vec![(0, identity(&disk.concat()), 5, String::new())];
    let a = random.page();
    let b = random.page();
    let c = random.page();
    type Parts = (Vec<(u64, What)>, Vec<Page>, Vec<u8>);
    let blocks: Vec<Parts> = vec![
        (
            vec![(1, What::Zero), (2, What::Residual), (1, What::Duplicate { source: 1 })],
            vec![ZERO, a, b, a],
            vec![3, 1],
        ),
        (
            vec![
                (2, What::Duplicate { source: 1 }),
                (1, What::Residual),
                (1, What::Reference { index: 0, position: 4 }),
            ],
            vec![a, b, c, disk[4]],
            vec![0],
        ),
        (
            vec![(3, What::Uniform(5)), (1, What::Duplicate { source: 6 })],
            vec![word_page(5), word_page(5), word_page(5), c],
            vec![],
        ),
    ];
    let mut builder = Builder::new(head);
    let mut file = vec![];
    for (number, (runs, truth, classes)) in blocks.into_iter().enumerate() {
        file.extend(truth.concat());
        builder.block(&Block {
            ranges: vec![(number as u64 * 4, 4)],
            runs,
            truth,
            classes,
            checks: true,
            zstd,
            ..Block::default()
        });
    }
    Case { name: "independent", stream: builder.finish(), references: vec![Some(disk.concat())], file }
}

/// All of them, raw and compressed, with checks and without.
pub fn all_cases() -> Vec<Case> {
    let mut cases = small_cases();
    for zstd in [false, true] {
        cases.extend([rich(zstd, false), rich(zstd, true), independent(zstd)]);
        cases.push(ordered(zstd, zstd));
    }
    cases.push(independent_placed());
    cases.push(moved());
    cases
}
