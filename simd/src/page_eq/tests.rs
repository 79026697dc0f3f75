//! The comparison against `==`.

use super::*;
use crate::PAGE_SIZE;
use crate::testing::{self, Fenced};

#[test]
fn agrees_with_equality_on_every_pair() {
    let pages: Vec<_> = testing::pages().into_iter().step_by(5).collect();
    for level in testing::levels() {
        for (name, a) in &pages {
            for (other, b) in &pages {
                assert_eq!(page_eq(level, a, b), a == b, "{level}: {name} and {other}");
            }
        }
    }
}

#[test]
fn one_bit_is_seen_at_every_place() {
    for level in testing::levels() {
        for (name, page) in testing::pages().into_iter().take(8) {
            for place in testing::places() {
                let mut other = page.clone();
                other[place] ^= 1 << (place % 8);
                assert!(!page_eq(level, &page, &other), "{level}: {name}, byte {place}");
                assert!(!page_eq(level, &other, &page), "{level}: {name}, byte {place}");
            }
        }
    }
}

#[test]
fn pages_at_any_alignment() {
    let page: [u8; PAGE_SIZE] = std::array::from_fn(|i| ((i * i) >> 3) as u8);
    for level in testing::levels() {
        for offset in if cfg!(miri) { 1..2 } else { 0..64 } {
            let a = Fenced::new(&page, offset);
            let b = Fenced::new(&page, 63 - offset);
            assert!(page_eq(level, a.page(), b.page()), "{level}: offset {offset}");
            assert!(page_eq(level, a.page(), a.page()), "{level}: offset {offset}");
        }
    }
}
