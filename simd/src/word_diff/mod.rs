//! The words in which two pages differ, packed together, and the way back.
//!
//! A page that was relocated, copied on write or touched since the last round differs from its base
//! in few words. The difference is a mask of 512 bits and the page's own words in just those places, in
//! order: pointers and counters that changed are found elsewhere as they are, and not as what they
//! changed by. Coding them is not done here.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
mod scalar;
#[cfg(test)]
mod tests;
mod wide;

use std::fmt;

use crate::{Level, PAGE_SIZE, PAGE_WORDS, Page};

/// Writes where and how `page` differs from `base`; returns in how many words.
///
/// Bit `i % 64` of `mask[i / 64]` says that words `i` differ. With `n` the number returned,
/// `words[..n]` are those words of `page` in order; what is left in `words[n..]` is
/// unspecified and depends on the level.
pub fn word_diff(
    level: Level,
    page: &Page,
    base: &Page,
    mask: &mut [u64; 8],
    words: &mut [u64; PAGE_WORDS],
) -> usize {
    match level {
        Level::Scalar => scalar::word_diff(page, base, mask, words),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(proof) => avx2::word_diff(proof, page, base, mask, words),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(proof) => avx512::word_diff(proof, page, base, mask, words),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Level::Neon(proof) => neon::word_diff(proof, page, base, mask, words),
    }
}

/// Rebuilds into `page` the page of which [`word_diff`] told `mask` and words against `base`; returns how many bytes of
/// `words` that took.
///
/// `words` begins with those words, little-endian, and may go on with anything: so they can be used where a decoder
/// put them. Words that are as in `base` are taken as they come: they change nothing.
///
/// # Errors
///
/// `words` holds fewer than `mask` has bits set; `page` is then untouched.
pub fn word_patch(
    level: Level,
    base: &Page,
    mask: &[u64; 8],
    words: &[u8],
    page: &mut Page,
) -> Result<usize, PatchError> {
    let needed = mask.iter().map(|bits| bits.count_ones() as usize).sum::<usize>() * 8;
    // The vector levels read up to a vector past the words they use.
    let mut padded;
    let words = if words.len() >= needed + PADDING {
        words
    } else if words.len() >= needed {
        padded = [0; PAGE_SIZE + PADDING];
        padded[..needed].copy_from_slice(&words[..needed]);
        &padded
    } else {
        return Err(PatchError { words: words.len() / 8, needed: needed / 8 });
    };
    match level {
        Level::Scalar => scalar::word_patch(base, mask, words, page),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(proof) => avx2::word_patch(proof, base, mask, words, page),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(proof) => avx512::word_patch(proof, base, mask, words, page),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Level::Neon(proof) => neon::word_patch(proof, base, mask, words, page),
    }
    Ok(needed)
}

/// The longest vector, in bytes.
const PADDING: usize = 64;

/// There are too few words for the mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PatchError {
    /// How many words there were.
    pub words: usize,
    /// How many bits the mask has set.
    pub needed: usize,
}

impl fmt::Display for PatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the mask marks {} words, but only {} were given", self.needed, self.words)
    }
}

impl std::error::Error for PatchError {}
