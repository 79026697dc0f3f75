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
            words[found] = u64::from_le_bytes(*page);
            *bits |= u64::from(page != base) << i;
            found += usize::from(page != base);
        }
    }
    found
}

pub(super) fn word_patch(base: &Page, mask: &[u64; 8], words: &[u8], page: &mut Page) {
    let mut words = words.as_chunks::<8>().0.iter();
    let pairs = base.as_chunks::<512>().0.iter().zip(page.as_chunks_mut::<512>().0);
    for ((base, page), bits) in pairs.zip(mask) {
        for (i, (base, page)) in base.as_chunks::<8>().0.iter().zip(page.as_chunks_mut::<8>().0).enumerate() {
            let here = bits >> i & 1 != 0;
            // There are as many words as bits.
            *page = *if here { words.next().unwrap_or(base) } else { base };
        }
    }
}
