//! The scan against the `xxhash` reference and word-by-word counts.

use proptest::prelude::*;

use super::*;
use crate::Page;
use crate::testing::{self, Fenced, Random};

/// The truth, from another implementation of XXH3 and from the counts' definitions.
fn reference(page: &Page) -> PageRecord {
    let words = testing::words_of(page);
    let count = |is: &dyn Fn(u64) -> bool| words.iter().filter(|&&word| is(word)).count() as u16;
    let fingerprint = xxhash_rust::xxh3::xxh3_128(page);
    PageRecord {
        fingerprint: [fingerprint as u64, (fingerprint >> 64) as u64],
        first_word: words[0],
        zero_words: count(&|word| word == 0),
        small_words: count(&|word| (1..1 << 32).contains(&word)),
        user_pointers: count(&|word| (1 << 40..1 << 47).contains(&word)),
        kernel_pointers: count(&|word| word >= 0xffff_8000_0000_0000),
        text_words: count(&|word| {
            let bytes = word.to_le_bytes();
            bytes.is_ascii() && bytes[6..] != [0, 0]
        }),
        flags: u16::from(words.iter().all(|&word| word == words[0])),
        reserved: 0,
    }
}

fn scan_one(level: Level, page: &Page) -> PageRecord {
    let mut record = [PageRecord { reserved: !0, ..PageRecord::default() }];
    page_scan(level, page, &mut record);
    record[0]
}

#[test]
fn agrees_with_the_reference() {
    for level in testing::levels() {
        for (name, page) in testing::pages() {
            assert_eq!(scan_one(level, &page), reference(&page), "{level}: {name}");
        }
    }
}

#[test]
fn an_odd_byte_is_seen_at_every_place() {
    for level in testing::levels() {
        for background in [0, 0x41, 0xff] {
            let even = scan_one(level, &[background; PAGE_SIZE]);
            for place in testing::places() {
                let mut page = [background; PAGE_SIZE];
                page[place] ^= 0x80;
                let record = scan_one(level, &page);
                assert_eq!(record, reference(&page), "{level}: byte {place}");
                assert_eq!(record.uniform(), None);
                assert_ne!(record.fingerprint, even.fingerprint);
            }
        }
    }
}

/// Would the tests above notice a level that is wrong? They compare whole records, so it is enough
/// that records differ where one bit of a page does.
#[test]
fn the_comparison_fails_on_a_flipped_bit() {
    let mut random = Random::new(99);
    for level in testing::levels() {
        for (name, mut page) in testing::pages().into_iter().step_by(if cfg!(miri) { 2 } else { 7 }) {
            let before = reference(&page);
            page[random.below(PAGE_SIZE)] ^= 1 << random.below(8);
            assert_ne!(scan_one(level, &page), before, "{level}: {name}");
        }
    }
}

#[test]
fn runs_of_pages_at_any_alignment() {
    let pages = testing::pages();
    let count = if cfg!(miri) { 2 } else { 5 };
    let bytes: Vec<u8> = pages.iter().step_by(3).take(count).flat_map(|(_, page)| page.to_vec()).collect();
    let expected: Vec<_> = bytes.as_chunks::<PAGE_SIZE>().0.iter().map(reference).collect();
    let canary = PageRecord { reserved: 0xC5C5_C5C5, ..PageRecord::default() };
    for level in testing::levels() {
        for offset in if cfg!(miri) { vec![1] } else { (0..64).collect() } {
            let fenced = Fenced::new(&bytes, offset);
            let mut records = vec![canary; count + 2];
            page_scan(level, fenced.inside(), &mut records[1..=count]);
            assert_eq!(records[1..=count], expected, "{level}: offset {offset}");
            assert_eq!((records[0], records[count + 1]), (canary, canary), "{level}: a canary was written");
        }
    }
}

#[test]
fn what_a_record_says() {
    for level in testing::levels() {
        let zero = scan_one(level, &[0; PAGE_SIZE]);
        assert!(zero.is_zero());
        assert_eq!((zero.uniform(), zero.zero_words), (Some(0), 512));
        let filled = scan_one(level, &[7; PAGE_SIZE]);
        assert!(!filled.is_zero());
        assert_eq!(filled.uniform(), Some(0x0707_0707_0707_0707));
        assert_eq!(filled.fingerprint128(), xxhash_rust::xxh3::xxh3_128(&[7; PAGE_SIZE]));
        page_scan(level, &[], &mut []);
    }
}

#[test]
fn lengths_that_do_not_match_panic() {
    for level in testing::levels() {
        for (bytes, records) in [(4095, 1), (4097, 1), (0, 1), (4096, 0), (8192, 1), (1, 0)] {
            let outcome = std::panic::catch_unwind(|| {
                page_scan(level, &vec![0; bytes], &mut vec![PageRecord::default(); records]);
            });
            assert!(outcome.is_err(), "{level}: {bytes} bytes, {records} records");
        }
    }
}

proptest! {
    #![proptest_config(testing::cases())]

    #[test]
    fn agrees_on_any_mix_of_words(seed: u64, mix in proptest::collection::vec(any::<u64>(), 1..20)) {
        let mut random = Random::new(seed);
        let page = testing::page_of(|_| mix[random.below(mix.len())] >> (8 * random.below(9)).min(63));
        let expected = reference(&page);
        for level in testing::levels() {
            prop_assert_eq!(scan_one(level, &page), expected, "{}", level);
        }
    }
}
