//! What a scan says about a page.

use bytemuck::{Pod, Zeroable};

/// What [`page_scan`](crate::page_scan()) finds out about one page.
///
/// The five counts are of the page's 512 words, by their bits alone; a word is counted in at most
/// one of zero, small, user pointer and kernel pointer, and possibly as text besides.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PageRecord {
    /// XXH3-128 of the page with seed 0: the lower 64 bits, then the upper.
    pub fingerprint: [u64; 2],
    /// The page's first word.
    pub first_word: u64,
    /// Words that are zero.
    pub zero_words: u16,
    /// Words below 2^32 that are not zero.
    pub small_words: u16,
    /// Words from 2^40 up to below 2^47: where x86-64 Linux and Windows place user addresses.
    pub user_pointers: u16,
    /// Words whose upper 17 bits are all ones: kernel addresses, and negative numbers.
    pub kernel_pointers: u16,
    /// Words without a byte above 127 and with a bit set in the upper 16: most ASCII text.
    pub text_words: u16,
    /// [`PageRecord::UNIFORM`] or 0.
    pub flags: u16,
    /// 0.
    pub reserved: u32,
}

impl PageRecord {
    /// The bit of `flags` that says that all 512 words equal `first_word`.
    pub const UNIFORM: u16 = 1;

    /// Whether every byte of the page is zero.
    pub fn is_zero(&self) -> bool {
        self.uniform() == Some(0)
    }

    /// The word that fills the whole page, if one does.
    pub fn uniform(&self) -> Option<u64> {
        (self.flags & Self::UNIFORM != 0).then_some(self.first_word)
    }

    /// The fingerprint as one number.
    pub fn fingerprint128(&self) -> u128 {
        u128::from(self.fingerprint[1]) << 64 | u128::from(self.fingerprint[0])
    }
}
