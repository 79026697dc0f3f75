//! The exchange against its definition, and against itself.

use proptest::prelude::*;

use super::*;
use crate::testing::{self, Fenced, Random};
use crate::{PAGE_SIZE, PAGE_WORDS};

const ADDRESSES: [u64; 6] = [
    0x7f12_3456_7000,
    0xffff_8c0e_dffd_5000,
    0x2000,
    0xffff_ffff_b4c1_0000,
    0xffff_ffff_ffff_d000,
    0x5555_0000_0000,
];

/// The addresses to try: all, or the first of a process and of a kernel where that takes too long.
fn addresses() -> impl Iterator<Item = u64> {
    ADDRESSES.into_iter().take(if cfg!(miri) { 2 } else { ADDRESSES.len() })
}

/// The truth, word by word, in wider numbers.
fn reference(page: &Page, address: u64) -> Box<Page> {
    let words = testing::words_of(page);
    testing::page_of(|i| {
        let own = i128::from(address) + 8 * i as i128;
        let (word, tag) = (i128::from(words[i]), i128::from(TAG));
        if (own - 4096..own + 4096).contains(&word) {
            (word - own + 4096 + tag) as u64
        } else if (tag..tag + 8192).contains(&word) {
            (word - tag - 4096 + own) as u64
        } else {
            words[i]
        }
    })
}

/// Pages whose words lie at and around both ranges' ends.
fn pages(address: u64) -> Vec<Box<Page>> {
    let mut random = Random::new(address);
    let mut pages: Vec<Box<Page>> = testing::pages().into_iter().step_by(9).map(|(_, page)| page).collect();
    let count = if cfg!(miri) { 1 } else { 20 };
    pages.extend((0..count).map(|_| {
        testing::page_of(|i| {
            let own = address + 8 * i as u64;
            let near = [
                own - 4097,
                own - 4096,
                own,
                own + 4095,
                own + 4096,
                TAG - 1,
                TAG,
                TAG + 8191,
                TAG + 8192,
                0,
            ];
            match random.below(14) {
                10 => own - 4096 + random.below(8192) as u64,
                11 => TAG + random.below(8192) as u64,
                12 => random.word(),
                13 => random.word() >> 40,
                place => near[place],
            }
        })
    }));
    pages
}

fn exchanged(level: Level, page: &Page, address: u64) -> Box<Page> {
    let mut out = Fenced::new(&[0xEE; PAGE_SIZE], (address >> 12) as usize % 64);
    self_relative(level, page, address, out.page_mut());
    out.check();
    Box::new(*out.page())
}

#[test]
fn agrees_with_the_definition_and_undoes_itself() {
    for level in testing::levels() {
        for address in addresses() {
            for page in pages(address) {
                let once = exchanged(level, &page, address);
                assert!(once == reference(&page, address), "{level}: at {address:#x}");
                assert!(exchanged(level, &once, address) == page, "{level}: at {address:#x}, back");
            }
        }
    }
}

#[test]
fn zeros_stay_zeros_and_nothing_else_becomes_one() {
    for level in testing::levels() {
        for address in addresses() {
            for page in pages(address) {
                let zeros =
                    |page: &Page| testing::words_of(page).iter().map(|&word| word == 0).collect::<Vec<_>>();
                assert_eq!(
                    zeros(&exchanged(level, &page, address)),
                    zeros(&page),
                    "{level}: at {address:#x}"
                );
            }
        }
    }
}

/// Would the comparison notice a wrong answer? A pointer to its own place is one word off when the address is.
#[test]
fn the_comparison_fails_at_another_address() {
    let page = testing::page_of(|i| 0x7000_0000_0000 + 8 * i as u64);
    for level in testing::levels() {
        let at = |address| exchanged(level, &page, address);
        assert_eq!(testing::words_of(&at(0x7000_0000_0000)), [TAG + REACH; PAGE_WORDS], "{level}");
        assert!(at(0x7000_0000_1000) != at(0x7000_0000_0000), "{level}");
    }
}

proptest! {
    #![proptest_config(testing::cases())]

    #[test]
    fn any_page_there_and_back(seed: u64, page_number in 2u64..1 << 47, kernel: bool) {
        let address = if kernel { !0 << 59 | page_number << 12 } else { page_number << 12 };
        let mut random = Random::new(seed);
        let page = testing::page_of(|i| match random.below(3) {
            0 => address.wrapping_add(8 * i as u64).wrapping_add(random.below(16384) as u64).wrapping_sub(8192),
            1 => TAG.wrapping_add(random.below(16384) as u64).wrapping_sub(4096),
            _ => random.word(),
        });
        let scalar = exchanged(Level::Scalar, &page, address);
        for level in testing::levels() {
            let once = exchanged(level, &page, address);
            prop_assert!(once == scalar, "{}", level);
            prop_assert!(exchanged(level, &once, address) == page, "{}", level);
        }
    }
}
