//! Streams in an order of the packer's choice: pages left for later, lists, addresses and bases.

use super::{Case, ZERO, word_page};
use crate::handmade::{Block, Builder, Head, Places, Random};
use crate::reference::{LongMatch, PAGE, Page, What, identity};

/// Blocks of the disk and of the older image.
const BLOCKS: u64 = 20;

/// The word in which words next to their own place are told.
const TAG: u64 = 0x8001_0000_0000_0000;

/// What the streams refer to: the disk, then the older image.
fn references(random: &mut Random) -> [Vec<u8>; 2] {
    [(); 2].map(|()| (0..BLOCKS).flat_map(|_| random.page()).collect())
}

fn head(pages: u64, references: &[Vec<u8>; 2]) -> Head {
    let [disk, older] = references;
    let mut head = Head::raw(pages);
    head.references =
        vec![(0, identity(disk), BLOCKS, "disk".into()), (1, identity(older), BLOCKS, "older".into())];
    head
}

/// The 512 words from a word address on.
fn words_from(bytes: &[u8], address: u64) -> Page {
    let mut page = ZERO;
    page.copy_from_slice(&bytes[address as usize * 8..][..PAGE]);
    page
}

/// The page with some words changed.
fn with_words(page: &Page, words: &[(u64, u64)]) -> Page {
    let mut page = *page;
    for &(place, word) in words {
        page[place as usize * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    page
}

/// Some bytes of a page become what they are in another.
fn take_bytes(pages: &mut [Page], to: usize, from: usize, bytes: std::ops::Range<usize>) {
    let from = pages[from];
    pages[to][bytes.clone()].copy_from_slice(&from[bytes]);
}

/// A page with words in and around both ranges of an exchange, for a page at this address.
fn pointers(address: u64) -> Page {
    let own = |word: u64| address.wrapping_add(8 * word);
    let mut words = vec![];
    for (number, away) in (0_i64..).zip([-4097, -4096, -4095, -8, 0, 8, 4095, 4096]) {
        let at = 3 * number as u64 + 1;
        words.push((at, own(at).wrapping_add(away as u64)));
    }
    for (number, tagged) in (0_u64..).zip([TAG - 1, TAG, TAG + 1, TAG + 4096, TAG + 8191, TAG + 8192]) {
        words.push((100 + number, tagged));
    }
    words.push((511, own(511)));
    words.push((510, 1));
    with_words(&ZERO, &words)
}

/// Pages in an order of their own: two blocks that leave pages for later, a list and a set of ranges that bring them, with
/// addresses and bases of all sorts, then a block in order once more. If not compressed, addresses and bases have no use, so
/// there are none.
pub fn ordered(zstd: bool, checks: bool) -> Case {
    let mut random = Random::new(21);
    let references = references(&mut random);
    let [disk, older] = &references;
    let mut builder = Builder::new(head(40, &references));
    let mut truth = vec![ZERO; 40];
    let placed = |places: Vec<Places>| zstd.then_some(places);
    let block = |first: u64, runs: &[(u64, What)], pages: &[Page], classes: &[u8]| Block {
        ranges: vec![(first, pages.len() as u64)],
        runs: runs.to_vec(),
        truth: pages.to_vec(),
        classes: classes.to_vec(),
        checks,
        zstd,
        ..Block::default()
    };
    let (residual, later) = (What::Residual, What::Later);

    // Block 0: pages 0 to 15, of which 3 to 8, 10, 11 and 15 come later. Page 1 is like the disk, from the middle of a block
    // on, page 2 like the older image's last page.
    let bases = [words_from(disk, 700), words_from(older, 19 * 512)];
    truth[1] = with_words(&bases[0], &[(0, 77), (300, 0), (511, 5)]);
    truth[2] = with_words(&bases[1], &[(69, 3)]);
    truth[9] = word_page(99);
    truth[12] = truth[2];
    truth[13] = random.page();
    truth[14] = words_from(disk, 4 * 512);
    let runs = [
        (1, What::Zero),
        (2, residual),
        (6, later),
        (1, What::Uniform(99)),
        (2, later),
        (1, What::Duplicate { source: 2 }),
        (1, residual),
        (1, What::Reference { index: 0, position: 4 }),
        (1, later),
    ];
    builder.block(&Block {
        bases: placed(vec![Places::onward(1, 1, 700), Places::by_page(1, 2, 17 * 512), Places::none(1)]),
        base_words: if zstd { vec![Some(bases[0]), Some(bases[1]), None] } else { vec![] },
        raw_classes: vec![0],
        ..block(0, &runs, &truth[0..16], &[14, 15, 0])
    });

    // Block 1: pages 16 to 31, all for later but two; nothing is residual.
    builder.block(&block(16, &[(2, What::Zero), (14, later)], &truth[16..32], &[]));

    // Block 2: a list. Of its pages, 30, 31 and 4 follow each other in a process, 11 and 10 in the kernel; page 5 is like page
    // 13, which came before, page 8 like nothing, page 3 is all matches. Page 20 is a duplicate of a pending page, and so zero.
    let user = 0x7f12_3456_7000_u64;
    let kernel = 0xffff_8880_0000_0000_u64;
    let list = vec![(30, 2), (4, 2), (10, 1), (8, 1), (11, 1), (3, 1), (20, 1), (18, 2), (16 + 7, 1)];
    truth[30] = pointers(user);
    truth[31] = pointers(user + 4096);
    truth[4] = pointers(user + 2 * 4096);
    truth[5] = with_words(&truth[13], &[(1, 1), (2, 0)]);
    truth[10] = pointers(kernel + 10 * 4096);
    truth[11] = pointers(kernel + 11 * 4096);
    truth[8] = with_words(&ZERO, &[(7, TAG)]);
    let mut matches = vec![vec![]; 9];
    let copy = |start, words, space, source| LongMatch { start, words, space, source };
    matches[7] = vec![
        copy(0, 100, 0, 30 * 512),
        copy(100, 300, 2, 5 * 512 + 3),
        copy(400, 110, 0, 11 * 512 + 400),
        copy(511, 1, 0, 22 * 512),
    ];
    take_bytes(&mut truth, 3, 30, 0..800);
    truth[3][800..3200].copy_from_slice(&older[(5 * 512 + 3) * 8..][..2400]);
    take_bytes(&mut truth, 3, 11, 3200..3200 + 110 * 8);
    // Word 510 is a literal, and the last word is one of a page that is still zero.
    truth[3][510 * 8] = 9;
    matches[3] = vec![copy(50, 3, 0, 13 * 512 + 50)];
    // A match from pages that are not residual, but in other blocks.
    matches[4] = vec![copy(200, 200, 0, 9 * 512 + 200)];
    take_bytes(&mut truth, 10, 9, 1600..3200);
    truth[19] = truth[11];
    truth[18] = truth[10];
    truth[23] = with_words(&ZERO, &[(7, 70)]);
    let ordinals: Vec<usize> =
        list.iter().flat_map(|&(first, pages)| first as usize..(first + pages) as usize).collect();
    let runs = [
        (8, residual),
        (1, What::Duplicate { source: 26 }),
        (1, What::Duplicate { source: 10 }),
        (1, What::Duplicate { source: 11 }),
        (1, residual),
    ];
    let numbers = [user, kernel].map(|address| (address as i64) >> 12);
    builder.block(&Block {
        ranges: list,
        list: true,
        addresses: placed(vec![
            Places::onward(3, 0, numbers[0]),
            Places::none(1),
            Places::by_page(1, 0, numbers[1]),
            Places::none(1),
            Places::by_page(1, 0, numbers[1]),
            Places::onward(1, 0, numbers[0] + 3),
            Places::none(1),
        ]),
        bases: placed(vec![Places::none(3), Places::onward(1, 0, 13 * 512), Places::none(5)]),
        base_words: if zstd {
            [vec![None; 3], vec![Some(truth[13])], vec![None; 5]].concat()
        } else {
            vec![]
        },
        matches: Some(matches),
        raw_classes: vec![8],
        group_pages: 3,
        ..block(
            0,
            &runs,
            &ordinals.iter().map(|&number| truth[number]).collect::<Vec<_>>(),
            &[12, 12, 12, 11, 9, 6, 9, 10, 8],
        )
    });

    // Block 3: pages 32 to 39, in order again: a page with the lowest address there can be, one with the highest below 0, the
    // nearest above 0, one from the disk, and three of this guest, one of them across two pages of the block before.
    let places = [-(1 << 47), -3, 2, (1 << 47) - 1];
    for (number, place) in (32..).zip(places) {
        truth[number] = pointers((place as u64).wrapping_mul(4096));
    }
    let across = [words_from(&truth.concat(), 30 * 512 + 9), truth[17], truth[11]];
    truth[36] = with_words(&across[0], &[(5, 5), (6, TAG)]);
    truth[37] = with_words(&across[1], &[(8, 8)]);
    truth[38] = with_words(&across[2], &[(9, 9)]);
    truth[39] = with_words(&words_from(older, 20 * 512 - 512 - 1), &[(10, 10)]);
    let own = [
        Places::onward(1, 0, 30 * 512 + 9),
        Places::by_page(1, 0, (17 - 37) * 512),
        Places::onward(1, 0, 11 * 512),
    ];
    builder.block(&Block {
        addresses: placed(
            places.iter().map(|&place| Places::onward(1, 0, place)).chain([Places::none(4)]).collect(),
        ),
        bases: placed(
            [Places::none(4)].into_iter().chain(own).chain([Places::onward(1, 2, 19 * 512 - 1)]).collect(),
        ),
        base_words: match zstd {
            true => [vec![None; 4], across.map(Some).to_vec(), vec![Some(words_from(older, 19 * 512 - 1))]]
                .concat(),
            false => vec![],
        },
        ..block(32, &[(8, residual)], &truth[32..40], &[7, 7, 6, 13, 5, 4, 3, 2])
    });

    // Block 4: what is left, in ascending ranges: 6, 7, 15, 21, 22, 24 to 29.
    truth[6] = with_words(&truth[36], &[(1, 0)]);
    truth[7] = with_words(&truth[36], &[(1, 2)]);
    truth[15] = words_from(older, 15 * 512);
    truth[21] = word_page(99);
    truth[22] = truth[7];
    for page in &mut truth[24..30] {
        *page = word_page(3);
    }
    let numbers = [6, 7, 15, 21, 22, 24, 25, 26, 27, 28, 29];
    let bases = if zstd { vec![Some(truth[36]); 2] } else { vec![] };
    builder.block(&Block {
        ranges: vec![(6, 2), (15, 1), (21, 2), (24, 6)],
        bases: placed(vec![Places::onward(1, 0, 36 * 512), Places::onward(1, 0, 36 * 512)]),
        base_words: bases,
        ..block(
            0,
            &[
                (2, residual),
                (1, What::Reference { index: 1, position: 15 }),
                (1, What::Uniform(99)),
                (1, What::Duplicate { source: 7 }),
                (6, What::Uniform(3)),
            ],
            &numbers.map(|number: usize| truth[number]),
            &[1, 1],
        )
    });
    let references = references.into_iter().map(Some).collect();
    Case { name: "ordered", stream: builder.finish(), references, file: truth.concat() }
}

/// Blocks that can be decoded alone, with addresses, and with bases in both references.
pub fn independent_placed() -> Case {
    let mut random = Random::new(22);
    let references = references(&mut random);
    let [disk, older] = &references;
    let mut head = head(8, &references);
    head.flags = 1;
    let bases = [words_from(disk, 511), words_from(older, 3 * 512)];
    let address = 0xffff_8880_1234_5000_u64;
    let truth = [
        with_words(&bases[0], &[(1, 2)]),
        pointers(address),
        with_words(&bases[1], &[(511, 0)]),
        pointers(address + 4096),
        with_words(&bases[1], &[(0, 9)]),
        ZERO,
        pointers(address),
        with_words(&bases[0], &[(1, 2)]),
    ];
    let mut builder = Builder::new(head);
    builder.block(&Block {
        ranges: vec![(0, 4)],
        runs: vec![(4, What::Residual)],
        truth: truth[..4].to_vec(),
        classes: vec![12, 9, 12, 9],
        addresses: Some(vec![
            Places::none(1),
            Places::onward(1, 0, address as i64 >> 12),
            Places::none(1),
            Places::onward(1, 0, (address as i64 >> 12) + 1),
        ]),
        bases: Some(vec![
            Places::by_page(1, 1, 511),
            Places::none(1),
            Places::by_page(1, 2, 512),
            Places::none(1),
        ]),
        base_words: vec![Some(bases[0]), None, Some(bases[1]), None],
        checks: true,
        zstd: true,
        ..Block::default()
    });
    builder.block(&Block {
        ranges: vec![(4, 4)],
        runs: vec![
            (1, What::Residual),
            (1, What::Zero),
            (1, What::Duplicate { source: 1 }),
            (1, What::Duplicate { source: 0 }),
        ],
        truth: truth[4..].to_vec(),
        classes: vec![12],
        bases: Some(vec![Places::by_page(1, 2, -512)]),
        base_words: vec![Some(bases[1])],
        checks: true,
        zstd: true,
        ..Block::default()
    });
    let references = references.into_iter().map(Some).collect();
    Case { name: "independent with places", stream: builder.finish(), references, file: truth.concat() }
}

/// Pages whose pointers moved against what they are like: all by one distance, by several, to the ends of where pointers can be, and words that
/// look like distances.
pub fn moved() -> Case {
    let file = |i: u64| match i % 7 {
        0 => 0x1_8000_0000 + 24 * i,
        1 => 0x7f12_3456_7000 + i,
        2 => 0xffff_8881_0000_0040 + 64 * i,
        3 => i,
        4 => 1 << 32,
        5 => u64::MAX,
        _ => TAG + (i << 12),
    };
    let disk: Vec<u8> = (0..BLOCKS * 512).flat_map(|i| file(i).to_le_bytes()).collect();
    let references = [disk.clone(), disk.clone()];
    let base = words_from(&disk, 700);
    let changed = |page: &Page, change: &dyn Fn(u64, u64) -> u64| {
        let mut out = ZERO;
        for ((to, from), i) in out.chunks_exact_mut(8).zip(page.chunks_exact(8)).zip(0..) {
            let mut word = [0; 8];
            word.copy_from_slice(from);
            to.copy_from_slice(&change(i, u64::from_le_bytes(word)).to_le_bytes());
        }
        out
    };
    let borders = [0, 1, 1 << 32, (1 << 32) - 4096, 1 << 47, (1 << 47) - 4096, 0xffff_8000_0000_0000, TAG];
    let truth = [
        changed(&base, &|_, word| word.wrapping_add(0x7ffd_0000_0000)),
        changed(&base, &|i, word| if i % 3 == 0 { word } else { word.wrapping_sub(i << 12) }),
        changed(&base, &|i, word| borders[i as usize % 8].wrapping_add(word % 4096)),
        changed(&base, &|i, word| TAG.wrapping_add(word).wrapping_sub(borders[i as usize % 8])),
        changed(&base, &|i, _| TAG.wrapping_add((i << 12).wrapping_sub(256 << 12))),
        changed(&ZERO, &|i, _| 0x5555_0000_0000 + i),
    ];
    let mut builder = Builder::new(head(6, &references));
    builder.block(&Block {
        ranges: vec![(0, 6)],
        runs: vec![(6, What::Residual)],
        truth: truth.to_vec(),
        classes: vec![12; 6],
        addresses: Some(vec![Places::none(5), Places::onward(1, 0, 0x5_5550_0000)]),
        bases: Some([vec![Places::onward(1, 1, 700); 5], vec![Places::none(1)]].concat()),
        base_words: [vec![Some(base); 5], vec![None]].concat(),
        moved: true,
        zstd: true,
        ..Block::default()
    });
    let references = references.into_iter().map(Some).collect();
    Case { name: "moved", stream: builder.finish(), references, file: truth.concat() }
}
