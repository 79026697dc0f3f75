//! The sampling against its definition, position by position.

use proptest::prelude::*;

use super::*;
use crate::testing::{self, Fenced, Random};

/// The truth, with 128-bit products and sums cut down at the end.
fn reference(page: &Page, sparsity: u32) -> Vec<(u16, u64)> {
    let mix = |word: u64| {
        let (low, high) = (u128::from(word as u32), u128::from(word >> 32));
        (low * 0x9E37_79B1 + high * 0x85EB_CA77) as u64
    };
    let mut found = Vec::new();
    for (position, run) in testing::words_of(page).windows(4).enumerate() {
        let sum: u128 = (0..4).map(|i| u128::from(mix(run[i]).rotate_left(17 * i as u32))).sum();
        let hash = sum as u64 ^ (sum as u64 >> 32);
        if hash.trailing_zeros() >= sparsity && run.iter().any(|&word| word != run[0]) {
            found.push((position as u16, (u128::from(hash) * 0x9E37_79B1_85EB_CA87) as u64));
        }
    }
    found
}

fn find(level: Level, page: &Page, sparsity: u32) -> Vec<(u16, u64)> {
    // What an earlier page left must not show.
    let mut found = Anchors::new();
    found.chosen = [!0; 8];
    found.len = 7;
    anchors(level, page, sparsity, &mut found);
    assert_eq!(found.len(), found.iter().len());
    assert_eq!(found.is_empty(), found.positions().is_empty());
    assert_eq!(found.hashes().len(), found.len());
    found.iter().collect()
}

fn sparsities() -> impl Iterator<Item = u32> {
    (0..=MAX_SPARSITY).step_by(if cfg!(miri) { 20 } else { 1 })
}

#[test]
fn agrees_with_the_reference() {
    for level in testing::levels() {
        for (name, page) in testing::pages() {
            for sparsity in sparsities() {
                let expected = reference(&page, sparsity);
                assert_eq!(find(level, &page, sparsity), expected, "{level}: {name}, {sparsity}");
            }
        }
    }
}

#[test]
fn every_position_can_be_an_anchor() {
    let mut random = Random::new(1);
    let page = testing::page_of(|_| random.word());
    for level in testing::levels() {
        let found = find(level, &page, 0);
        assert!(found.iter().map(|&(position, _)| usize::from(position)).eq(0..ANCHOR_POSITIONS), "{level}");
        assert!(find(level, &[0; 4096], 0).is_empty(), "{level}");
    }
}

#[test]
fn an_odd_byte_at_every_place() {
    for level in testing::levels() {
        for place in testing::places() {
            let mut page = [0; 4096];
            page[place] = 0xA7;
            for sparsity in [0, 2] {
                let expected = reference(&page, sparsity);
                assert_eq!(find(level, &page, sparsity), expected, "{level}: byte {place}");
            }
        }
    }
}

/// The same words give the same anchors wherever they lie: what the match finder relies on.
#[test]
fn anchors_move_with_the_content() {
    let mut random = Random::new(6);
    let words: Vec<_> = (0..PAGE_WORDS + 100).map(|_| random.word()).collect();
    for level in testing::levels() {
        let here = find(level, &testing::page_of(|i| words[i]), 3);
        let there = find(level, &testing::page_of(|i| words[i + 100]), 3);
        let moved: Vec<_> =
            here.iter().filter(|(at, _)| *at >= 100).map(|&(at, hash)| (at - 100, hash)).collect();
        assert!(!moved.is_empty());
        assert_eq!(moved, there[..moved.len()], "{level}");
    }
}

#[test]
fn the_comparison_fails_on_a_flipped_bit() {
    let mut random = Random::new(2);
    for level in testing::levels() {
        let mut page = testing::page_of(|_| random.word());
        let expected = reference(&page, 0);
        page[random.below(4096)] ^= 1 << random.below(8);
        assert_ne!(find(level, &page, 0), expected, "{level}");
    }
}

#[test]
fn pages_at_any_alignment() {
    let mut random = Random::new(4);
    let page = testing::page_of(|_| random.word());
    let expected = reference(&page, 3);
    for level in testing::levels() {
        for offset in if cfg!(miri) { 1..2 } else { 0..64 } {
            let fenced = Fenced::new(&*page, offset);
            assert_eq!(find(level, fenced.page(), 3), expected, "{level}: offset {offset}");
        }
    }
}

#[test]
#[should_panic(expected = "sparsity 17 is above 16")]
fn a_sparsity_out_of_range_panics() {
    anchors(Level::best(), &[0; 4096], 17, &mut Anchors::new());
}

proptest! {
    #![proptest_config(testing::cases())]

    #[test]
    fn agrees_on_any_mix_of_words(
        seed: u64,
        mix in proptest::collection::vec(any::<u64>(), 1..6),
        sparsity in 0..=MAX_SPARSITY,
    ) {
        let mut random = Random::new(seed);
        let page = testing::page_of(|_| mix[random.below(mix.len())]);
        let expected = reference(&page, sparsity);
        for level in testing::levels() {
            prop_assert_eq!(find(level, &page, sparsity), expected.clone(), "{}", level);
        }
    }
}
