//! The difference and its inverse in NEON: the shared loop with the feature switched on.

use super::wide;
use crate::level::Neon;
use crate::{PAGE_WORDS, Page};

pub(super) fn word_diff(
    proof: Neon,
    page: &Page,
    base: &Page,
    mask: &mut [u64; 8],
    words: &mut [u64; PAGE_WORDS],
) -> usize {
    // SAFETY: `proof` exists only where this CPU has what `enter_word_diff` requires (level.rs).
    unsafe { enter_word_diff(proof, page, base, mask, words) }
}

#[target_feature(enable = "neon")]
fn enter_word_diff(
    proof: Neon,
    page: &Page,
    base: &Page,
    mask: &mut [u64; 8],
    words: &mut [u64; PAGE_WORDS],
) -> usize {
    wide::word_diff(proof, page, base, mask, words)
}

pub(super) fn word_patch(proof: Neon, base: &Page, mask: &[u64; 8], words: &[u8], page: &mut Page) {
    // SAFETY: `proof` exists only where this CPU has what `enter_word_patch` requires (level.rs).
    unsafe { enter_word_patch(proof, base, mask, words, page) }
}

#[target_feature(enable = "neon")]
fn enter_word_patch(proof: Neon, base: &Page, mask: &[u64; 8], words: &[u8], page: &mut Page) {
    wide::word_patch(proof, base, mask, words, page)
}
