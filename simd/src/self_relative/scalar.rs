//! The exchange in plain Rust.

use super::{RANGE_BITS, REACH, TAG};
use crate::Page;

pub(super) fn self_relative(page: &Page, address: u64, out: &mut Page) {
    let words = page.as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<8>().0);
    for (i, (word, out)) in words.enumerate() {
        let word = u64::from_le_bytes(*word);
        let start = address.wrapping_add(8 * i as u64).wrapping_sub(REACH);
        let (distance, tagged) = (word.wrapping_sub(start), word.wrapping_sub(TAG));
        let exchanged = if distance >> RANGE_BITS == 0 {
            TAG + distance
        } else if tagged >> RANGE_BITS == 0 {
            start.wrapping_add(tagged)
        } else {
            word
        };
        *out = exchanged.to_le_bytes();
    }
}
