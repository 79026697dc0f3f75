//! Kernels on 4096-byte pages at several CPU levels, all with the same answers.
//!
//! A kernel is a folder: `mod.rs` holds the safe function and picks a level, `scalar.rs` is the
//! plain twin that says what the answer is, `wide.rs` is the loop that the vector levels share, and
//! `avx2.rs`, `avx512.rs` and `neon.rs` enter that loop with the feature switched on. What a level
//! does in one instruction or another is written once, in `lanes`.
//!
//! | kernel | answer |
//! |---|---|
//! | [`page_scan()`] | XXH3-128 fingerprint, uniform test and word counts, in one pass |
//! | [`page_eq()`] | whether two pages hold the same bytes |
//! | [`word_diff()`] and [`word_patch()`] | the words in which two pages differ, and back |
//! | [`self_relative()`] | a page whose pointers into their own neighbourhood are distances, and back |
//! | [`relocated()`] | a page whose pointers that moved against another page are distances, and back |
//! | [`anchors()`] | word positions chosen by content, for a match finder |
//! | [`roof::read_roof()`] | the sum of all words: how fast memory can be read |
//!
//! A [`Level`] is proof that the CPU has what the level needs, so the kernels are safe functions.
//! Words are `u64`, little-endian, and pages need no alignment. Nothing here knows of codecs, does
//! I/O or allocates. Pages must not change while a kernel runs: capture live memory first.
//!
//! ```
//! use mig_simd::{Level, PAGE_SIZE, PageRecord, page_scan};
//!
//! let memory = vec![0u8; 3 * PAGE_SIZE];
//! let mut records = [PageRecord::default(); 3];
//! page_scan(Level::best(), &memory, &mut records);
//! assert!(records.iter().all(PageRecord::is_zero));
//! ```

mod anchors;
mod lanes;
pub mod level;
mod page_eq;
mod page_scan;
mod relocated;
pub mod roof;
mod self_relative;
#[cfg(test)]
mod testing;
mod word_diff;

pub use anchors::{ANCHOR_POSITIONS, Anchors, MAX_SPARSITY, anchors};
pub use lanes::prefetch;
pub use level::{Level, LevelError};
pub use page_eq::page_eq;
pub use page_scan::{PageRecord, page_scan};
pub use relocated::relocated;
pub use roof::read_roof;
pub use self_relative::{REACH, TAG, self_relative};
pub use word_diff::{PatchError, word_diff, word_patch};

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// 64-bit words in a page.
pub const PAGE_WORDS: usize = PAGE_SIZE / 8;

/// One page's bytes, at any alignment.
pub type Page = [u8; PAGE_SIZE];
