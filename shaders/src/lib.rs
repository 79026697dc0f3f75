//! The buffers that a page scan shares with a GPU, seen as a shader sees them: 32-bit words.
//!
//! A scan worker takes batches of whole pages and gives one [`PageRecord`] for each. WGSL has no 64-bit integers in its
//! core, so the layout is written down here in 32-bit words, and the compiler checks it against the record that the
//! CPU's kernels fill. The shaders themselves are to stand beside this file, one entry point each; this crate hands
//! out sources and layouts and never opens a device.

#![forbid(unsafe_code)]

use std::mem::{offset_of, size_of};

use mig_simd::{PAGE_SIZE, PageRecord};

/// 32-bit words of a page in the input buffer.
pub const PAGE_WORDS32: usize = PAGE_SIZE / 4;

/// 32-bit words of a record in the output buffer.
pub const RECORD_WORDS32: usize = 10;

/// Where a record's fields are, in 32-bit words from its start.
pub mod record {
    /// XXH3-128, four words, lowest first.
    pub const FINGERPRINT: usize = 0;
    /// The page's first 64-bit word, low half first.
    pub const FIRST_WORD: usize = 4;
    /// `zero_words` in the lower half, `small_words` in the upper.
    pub const ZERO_AND_SMALL: usize = 6;
    /// `user_pointers` in the lower half, `kernel_pointers` in the upper.
    pub const POINTERS: usize = 7;
    /// `text_words` in the lower half, `flags` in the upper.
    pub const TEXT_AND_FLAGS: usize = 8;
    /// 0.
    pub const RESERVED: usize = 9;
}

const _: () = {
    assert!(size_of::<PageRecord>() == RECORD_WORDS32 * 4);
    assert!(offset_of!(PageRecord, fingerprint) == record::FINGERPRINT * 4);
    assert!(offset_of!(PageRecord, first_word) == record::FIRST_WORD * 4);
    assert!(offset_of!(PageRecord, zero_words) == record::ZERO_AND_SMALL * 4);
    assert!(offset_of!(PageRecord, small_words) == record::ZERO_AND_SMALL * 4 + 2);
    assert!(offset_of!(PageRecord, user_pointers) == record::POINTERS * 4);
    assert!(offset_of!(PageRecord, kernel_pointers) == record::POINTERS * 4 + 2);
    assert!(offset_of!(PageRecord, text_words) == record::TEXT_AND_FLAGS * 4);
    assert!(offset_of!(PageRecord, flags) == record::TEXT_AND_FLAGS * 4 + 2);
    assert!(offset_of!(PageRecord, reserved) == record::RESERVED * 4);
};
