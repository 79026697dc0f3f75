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

pub(super) fn word_patch(base: &Page, mask: &[u64; 8], words: &[u64; PAGE_WORDS], page: &mut Page) {
    let mut used = 0;
    let pairs = base.as_chunks::<512>().0.iter().zip(page.as_chunks_mut::<512>().0);
    for ((base, page), bits) in pairs.zip(mask) {
        for (i, (base, page)) in base.as_chunks::<8>().0.iter().zip(page.as_chunks_mut::<8>().0).enumerate() {
            let set = bits >> i & 1;
            // Past the last used word every bit is clear, and the index stays on the page.
            let word = words[used.min(PAGE_WORDS - 1)] & set.wrapping_neg();
            *page = (u64::from_le_bytes(*base) ^ word).to_le_bytes();
            used += set as usize;
        }
    }
}
