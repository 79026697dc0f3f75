//! The difference and its inverse in plain Rust.

use crate::{PAGE_WORDS, Page};

pub(super) fn word_diff(
    page: &Page,
    base: &Page,
    mask: &mut [u64; 8],
    words: &mut [u64; PAGE_WORDS],
) -> usize {
    let mut found = 0;
    let pairs = page.as_chunks::<512>().0.iter().zip(base.as_chunks::<512>().0);
    for ((page, base), bits) in pairs.zip(mask) {
        *bits = 0;
        for (i, (page, base)) in page.as_chunks::<8>().0.iter().zip(base.as_chunks::<8>().0).enumerate() {
            let word = u64::from_le_bytes(*page) ^ u64::from_le_bytes(*base);
            words[found] = word;
            *bits |= u64::from(word != 0) << i;
            found += usize::from(word != 0);
        }
    }
    found
}

pub(super) fn word_patch(base: &Page, mask: &[u64; 8], words: &[u8], page: &mut Page) {
    let mut words = words.as_chunks::<8>().0.iter();
    let pairs = base.as_chunks::<512>().0.iter().zip(page.as_chunks_mut::<512>().0);
    for ((base, page), bits) in pairs.zip(mask) {
        for (i, (base, page)) in base.as_chunks::<8>().0.iter().zip(page.as_chunks_mut::<8>().0).enumerate() {
            *page = *base;
            if bits >> i & 1 != 0 {
                // There are as many words as bits.
                let word = words.next().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                *page = (u64::from_le_bytes(*base) ^ word).to_le_bytes();
            }
        }
    }
}
