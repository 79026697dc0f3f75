//! The exchange against its definition, and against itself.

use proptest::prelude::*;

use super::*;
use crate::testing::{self, Fenced, Random};
use crate::{PAGE_SIZE, PAGE_WORDS, TAG};

/// The truth, word by word, in wider numbers.
fn reference(page: &Page, base: &Page) -> Box<Page> {
    let (words, bases) = (testing::words_of(page), testing::words_of(base));
    let pointer = |word: i128| (1 << 32..1 << 47).contains(&word) || (-(1 << 47)..0).contains(&word);
    let signed = |word: u64| i128::from(word.cast_signed());
    testing::page_of(|i| {
        let (word, base, tag) = (signed(words[i]), signed(bases[i]), signed(TAG));
        let moves = |distance: i128| distance != 0 && distance % 4096 == 0;
        if !pointer(base) {
            words[i]
        } else if pointer(word) && moves(word - base) {
            (tag + word - base) as u64
        } else if moves(word - tag) && pointer(base + word - tag) {
            (base + word - tag) as u64
        } else {
            words[i]
        }
    })
}

/// A page, and what it may be like: words at and around all borders, moved by all kinds of distances.
fn pair(seed: u64) -> (Box<Page>, Box<Page>) {
    let mut random = Random::new(seed);
    let borders: [u64; 8] =
        [0, 1, 1 << 32, (1 << 47) - 1, 1 << 47, (1 << 48) - 1, 0x7f12_3456_7123, 0x5555_5555_4000];
    let mut word = |kind: usize| match kind {
        0 => borders[random.below(borders.len())],
        1 => borders[random.below(borders.len())].wrapping_neg(),
        2 => random.word(),
        _ => 0xffff_8881_0000_0000 | random.word() >> 34,
    };
    let base = testing::page_of(|i| word(i % 4));
    let bases = testing::words_of(&base);
    let mut random = Random::new(!seed);
    let page = testing::page_of(|i| {
        let distance = (random.below(1 << 20) as u64).wrapping_sub(1 << 19);
        match random.below(8) {
            0 => bases[i],
            1 => bases[i].wrapping_add(distance),
            2 => bases[i].wrapping_add(distance << 12),
            3 => bases[i].wrapping_add(distance << 28),
            4 => TAG.wrapping_add(distance << 12),
            5 => TAG.wrapping_add(distance << 28),
            6 => TAG.wrapping_add(random.below(2) as u64),
            _ => random.word() >> random.below(64),
        }
    });
    (page, base)
}

fn exchanged(level: Level, page: &Page, base: &Page) -> Box<Page> {
    let mut out = Fenced::new(&[0xEE; PAGE_SIZE], usize::from(base[0]) % 64);
    relocated(level, page, base, out.page_mut());
    out.check();
    Box::new(*out.page())
}

#[test]
fn agrees_with_the_definition_and_undoes_itself() {
    for seed in 0..if cfg!(miri) { 2 } else { 200 } {
        let (page, base) = pair(seed);
        let expected = reference(&page, &base);
        assert!(expected != page, "{seed}: nothing to exchange");
        for level in testing::levels() {
            let once = exchanged(level, &page, &base);
            assert!(once == expected, "{level}: {seed}");
            assert!(exchanged(level, &once, &base) == page, "{level}: {seed}, back");
        }
    }
}

#[test]
fn words_of_the_base_stay_and_no_other_becomes_one() {
    for seed in 0..if cfg!(miri) { 2 } else { 200 } {
        let (page, base) = pair(seed);
        let same = |page: &Page| -> Vec<bool> {
            testing::words_of(page).iter().zip(testing::words_of(&base)).map(|(a, b)| *a == b).collect()
        };
        for level in testing::levels() {
            assert_eq!(same(&exchanged(level, &page, &base)), same(&page), "{level}: {seed}");
        }
    }
}

/// A library's pointers, in the file and as they are in memory.
#[test]
fn what_moved_together_becomes_one_word() {
    let base = testing::page_of(|i| 0x1_8000_0000 + 24 * i as u64);
    let moved = testing::page_of(|i| 0x7ffd_1234_0000 + 24 * i as u64);
    for level in testing::levels() {
        let distance = 0x7ffd_1234_0000 - 0x1_8000_0000;
        assert_eq!(testing::words_of(&exchanged(level, &moved, &base)), [TAG + distance; PAGE_WORDS]);
    }
}

proptest! {
    #![proptest_config(testing::cases())]

    #[test]
    fn any_page_there_and_back(seed: u64) {
        let (page, base) = pair(seed);
        for level in testing::levels() {
            let once = exchanged(level, &page, &base);
            prop_assert!(once == reference(&page, &base), "{}", level);
            prop_assert!(exchanged(level, &once, &base) == page, "{}", level);
        }
    }
}
