//! The exchange in plain Rust.

use super::{POINTER_BITS, SMALL_BITS, STEP_BITS};
use crate::{Page, TAG};

pub(super) fn relocated(page: &Page, base: &Page, out: &mut Page) {
    let words = page.as_chunks::<8>().0.iter().zip(base.as_chunks::<8>().0);
    for ((word, base), out) in words.zip(out.as_chunks_mut::<8>().0) {
        let (word, base) = (u64::from_le_bytes(*word), u64::from_le_bytes(*base));
        *out = exchange(word, base).to_le_bytes();
    }
}

fn exchange(word: u64, base: u64) -> u64 {
    let (moved, tagged) = (word.wrapping_sub(base), word.wrapping_sub(TAG));
    let restored = base.wrapping_add(tagged);
    if is_pointer(base) && is_pointer(word) && is_step(moved) {
        TAG.wrapping_add(moved)
    } else if is_pointer(base) && is_pointer(restored) && is_step(tagged) {
        restored
    } else {
        word
    }
}

fn is_pointer(word: u64) -> bool {
    word >> SMALL_BITS != 0 && word.wrapping_add(1 << (POINTER_BITS - 1)) >> POINTER_BITS == 0
}

fn is_step(distance: u64) -> bool {
    distance != 0 && distance << (64 - STEP_BITS) == 0
}
