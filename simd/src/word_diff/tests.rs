//! The difference against a word-by-word one, and its inverse against the page.

use proptest::prelude::*;

use super::*;
use crate::PAGE_SIZE;
use crate::testing::{self, Fenced, Random};

const CANARY: u64 = 0xC5C5_C5C5_C5C5_C5C5;

/// The truth: the mask, and the packed words.
fn reference(page: &Page, base: &Page) -> ([u64; 8], Vec<u64>) {
    let (mut mask, mut words) = ([0; 8], Vec::new());
    for (i, (a, b)) in testing::words_of(page).into_iter().zip(testing::words_of(base)).enumerate() {
        if a != b {
            mask[i / 64] |= 1 << (i % 64);
            words.push(a);
        }
    }
    (mask, words)
}

/// The level's answer, with canaries around both outputs.
fn diff(level: Level, page: &Page, base: &Page) -> ([u64; 8], Vec<u64>) {
    #[repr(C)]
    struct Outputs(u64, [u64; 8], u64, [u64; PAGE_WORDS], u64);
    let mut out = Outputs(CANARY, [CANARY; 8], CANARY, [CANARY; PAGE_WORDS], CANARY);
    let found = word_diff(level, page, base, &mut out.1, &mut out.3);
    assert_eq!((out.0, out.2, out.4), (CANARY, CANARY, CANARY), "{level}: a canary was written");
    (out.1, out.3[..found].to_vec())
}

/// Words as the inverse takes them.
fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Checks both ways on one pair of pages.
fn check(level: Level, page: &Page, base: &Page, name: &str) {
    let (mask, words) = reference(page, base);
    assert_eq!(diff(level, page, base), (mask, words.clone()), "{level}: {name}");
    let mut rebuilt = Fenced::new(&[0xEE; PAGE_SIZE], name.len() % 64);
    let used = word_patch(level, base, &mask, &bytes_of(&words), rebuilt.page_mut());
    assert_eq!(used, Ok(words.len() * 8), "{level}: {name}");
    assert!(rebuilt.page() == page, "{level}: {name} came back different");
    rebuilt.check();
}

#[test]
fn agrees_with_the_reference_and_back() {
    let pages: Vec<_> = testing::pages().into_iter().step_by(5).collect();
    for level in testing::levels() {
        for (name, page) in &pages {
            for (other, base) in &pages {
                check(level, page, base, &format!("{name} on {other}"));
            }
        }
    }
}

#[test]
fn an_odd_byte_is_found_at_every_place() {
    let base = testing::page_of(|i| i as u64 * 0x0001_0203_0508_0D15);
    for level in testing::levels() {
        for place in testing::places() {
            let mut page = base.clone();
            page[place] ^= 0x5A;
            let (mask, words) = diff(level, &page, &base);
            assert_eq!(words, [testing::words_of(&page)[place / 8]], "{level}: byte {place}");
            let mut expected = [0; 8];
            expected[place / 512] = 1 << (place / 8 % 64);
            assert_eq!(mask, expected, "{level}: byte {place}");
        }
    }
}

/// Would [`check`] notice a wrong answer? It compares with `reference` of these very pages, which
/// changes with every bit, and the rebuilt page with the page.
#[test]
fn the_comparison_fails_on_a_flipped_bit() {
    let mut random = Random::new(3);
    let base = testing::page_of(|_| random.word());
    let page = testing::page_of(|i| if i % 5 == 0 { random.word() } else { testing::words_of(&base)[i] });
    for level in testing::levels() {
        let (mask, mut words) = reference(&page, &base);
        let mut flipped = page.clone();
        flipped[777] ^= 0x10;
        assert_ne!(diff(level, &flipped, &base), (mask, words.clone()), "{level}");

        words[13] ^= 1;
        let mut rebuilt = [0; PAGE_SIZE];
        word_patch(level, &base, &mask, &bytes_of(&words), &mut rebuilt).expect("as many words as bits");
        assert!(rebuilt != *page, "{level}");
    }
}

#[test]
fn pages_at_any_alignment() {
    let mut random = Random::new(8);
    let base = testing::page_of(|_| random.word());
    let page = testing::page_of(|i| testing::words_of(&base)[i] ^ u64::from(random.below(3) == 0));
    for level in testing::levels() {
        for offset in if cfg!(miri) { 1..2 } else { 0..64 } {
            let (page, base) = (Fenced::new(&*page, offset), Fenced::new(&*base, 63 - offset));
            check(level, page.page(), base.page(), &"offset".repeat(offset));
        }
    }
}

#[test]
fn too_few_words_are_an_error() {
    let base = [1; PAGE_SIZE];
    let mask = [0, 0b111, 0, 0, 1 << 63, 0, 0, 0];
    for level in testing::levels() {
        for given in [0, 3] {
            let mut page = [9; PAGE_SIZE];
            let outcome = word_patch(level, &base, &mask, &vec![1; given * 8 + 7], &mut page);
            assert_eq!(outcome, Err(PatchError { words: given, needed: 4 }), "{level}");
            assert!(page == [9; PAGE_SIZE], "{level}: the page was touched");
        }
        let mut page = [9; PAGE_SIZE];
        let outcome = word_patch(level, &base, &[u64::MAX; 8], &[1; 511 * 8], &mut page);
        assert!(outcome.expect_err("one word is missing").to_string().contains("512"));
    }
}

#[test]
fn what_follows_the_words_does_not_matter() {
    let mut random = Random::new(11);
    let base = testing::page_of(|_| random.word());
    let page = testing::page_of(|i| testing::words_of(&base)[i] ^ u64::from(random.below(3) == 0));
    let (mask, words) = reference(&page, &base);
    for level in testing::levels() {
        for more in [0, 1, 8, 63, 64, 65, 5000] {
            let mut bytes = bytes_of(&words);
            bytes.resize(bytes.len() + more, 0xEE);
            let mut rebuilt = [0; PAGE_SIZE];
            assert_eq!(word_patch(level, &base, &mask, &bytes, &mut rebuilt), Ok(words.len() * 8));
            assert!(rebuilt == *page, "{level}: {more} bytes more");
        }
    }
}

proptest! {
    #![proptest_config(testing::cases())]

    #[test]
    fn any_pages_there_and_back(seed: u64, equal in 0usize..10) {
        let mut random = Random::new(seed);
        let base = testing::page_of(|_| random.word());
        let words = testing::words_of(&base);
        let page = testing::page_of(|i| if random.below(10) < equal { words[i] } else { random.word() });
        for level in testing::levels() {
            check(level, &page, &base, "any");
        }
    }

    #[test]
    fn any_mask_takes_its_words(seed: u64, mask: [u64; 8]) {
        let mut random = Random::new(seed);
        let base = testing::page_of(|_| random.word());
        let count: u32 = mask.iter().map(|bits| bits.count_ones()).sum();
        let packed: Vec<_> = (0..count).map(|_| random.word() & random.word()).collect();
        let mut next = packed.iter();
        let words = testing::words_of(&base);
        let expected = testing::page_of(|i| {
            let set = mask[i / 64] >> (i % 64) & 1 == 1;
            if set { *next.next().expect("a word for each bit") } else { words[i] }
        });
        for level in testing::levels() {
            let mut page = [0xEE; PAGE_SIZE];
            word_patch(level, &base, &mask, &bytes_of(&packed), &mut page).expect("as many words as bits");
            prop_assert!(page == *expected, "{}", level);
        }
    }
}
