//! The scan in plain Rust, word by word: what the other levels must agree with.

use super::PageRecord;
use super::xxh3::{self, BLOCK};
use crate::{PAGE_SIZE, PAGE_WORDS, Page};

pub(super) fn page_scan(pages: &[u8], records: &mut [PageRecord]) {
    for (page, record) in pages.as_chunks::<PAGE_SIZE>().0.iter().zip(records) {
        *record = scan(page);
    }
}

fn scan(page: &Page) -> PageRecord {
    let first = u64::from_le_bytes(*page.first_chunk().expect("a page has a first word"));
    let mut record = PageRecord { first_word: first, ..PageRecord::default() };
    let mut accumulators = xxh3::START;
    let mut equal = 0;

    for (number, block) in page.as_chunks::<BLOCK>().0.iter().enumerate() {
        let last = number == PAGE_SIZE / BLOCK - 1;
        for (stripe, key) in block.as_chunks::<64>().0.iter().zip(&xxh3::KEYS[number].0) {
            for (i, bytes) in stripe.as_chunks::<8>().0.iter().enumerate() {
                let word = u64::from_le_bytes(*bytes);
                let mixed = word ^ key[i];
                let product = (mixed & 0xffff_ffff).wrapping_mul(mixed >> 32);
                accumulators[i] = accumulators[i].wrapping_add(product);
                accumulators[i ^ 1] = accumulators[i ^ 1].wrapping_add(word);
                equal += u16::from(word == first);
                count(&mut record, word);
            }
        }
        if !last {
            for (accumulator, key) in accumulators.iter_mut().zip(xxh3::SCRAMBLE) {
                *accumulator = (*accumulator ^ *accumulator >> 47 ^ key).wrapping_mul(xxh3::PRIME32_1);
            }
        }
    }

    record.fingerprint = xxh3::finish(&accumulators);
    record.flags = u16::from(usize::from(equal) == PAGE_WORDS) * PageRecord::UNIFORM;
    record
}

/// Counts one word in each of the classes that it belongs to.
#[inline(always)]
fn count(record: &mut PageRecord, word: u64) {
    record.zero_words += u16::from(word == 0);
    record.small_words += u16::from(word != 0 && word >> 32 == 0);
    record.user_pointers += u16::from(word >> 47 == 0 && word >> 40 != 0);
    record.kernel_pointers += u16::from(word >> 47 == 0x1_ffff);
    record.text_words += u16::from(word & 0x8080_8080_8080_8080 == 0 && word >> 48 != 0);
}
