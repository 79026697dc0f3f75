//! The structs that Rust and WGSL share, checked against what naga makes of them.
//!
//! Both sides are little-endian: WGSL always, Rust on every machine that has an adapter that wgpu knows.

use std::mem::{offset_of, size_of};

use bytemuck::{Pod, Zeroable};
use mig_simd::PageRecord;

use crate::wgsl;

/// What a dispatch is about: the uniform of every stage.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Dispatch {
    /// First page, by its place in the batch.
    pub first: u32,
    /// One past the last.
    pub end: u32,
    /// Buckets of the index that `lookup` asks, but for those that are nobody's home.
    pub buckets: u32,
    /// 0.
    pub reserved: u32,
    /// Blocks of its reference.
    pub blocks: u64,
}

/// What `dedup_find` says of a page that is the first of its kind.
pub const NO_PAGE: u32 = u32::MAX;

/// What `lookup` says of a page that the index does not have.
pub const NO_BLOCK: u64 = u64::MAX;

const _: () = {
    assert!(size_of::<PageRecord>() == wgsl::PAGE_RECORD_SIZE);
    assert!(offset_of!(PageRecord, fingerprint) == wgsl::PAGE_RECORD_FINGERPRINT);
    assert!(offset_of!(PageRecord, first_word) == wgsl::PAGE_RECORD_FIRST_WORD);
    assert!(offset_of!(PageRecord, zero_words) == wgsl::PAGE_RECORD_ZERO_AND_SMALL);
    assert!(offset_of!(PageRecord, small_words) == wgsl::PAGE_RECORD_ZERO_AND_SMALL + 2);
    assert!(offset_of!(PageRecord, user_pointers) == wgsl::PAGE_RECORD_POINTERS);
    assert!(offset_of!(PageRecord, kernel_pointers) == wgsl::PAGE_RECORD_POINTERS + 2);
    assert!(offset_of!(PageRecord, text_words) == wgsl::PAGE_RECORD_TEXT_AND_FLAGS);
    assert!(offset_of!(PageRecord, flags) == wgsl::PAGE_RECORD_TEXT_AND_FLAGS + 2);
    assert!(offset_of!(PageRecord, reserved) == wgsl::PAGE_RECORD_RESERVED);

    assert!(size_of::<Dispatch>() == wgsl::DISPATCH_SIZE);
    assert!(offset_of!(Dispatch, first) == wgsl::DISPATCH_FIRST);
    assert!(offset_of!(Dispatch, end) == wgsl::DISPATCH_END);
    assert!(offset_of!(Dispatch, buckets) == wgsl::DISPATCH_BUCKETS);
    assert!(offset_of!(Dispatch, reserved) == wgsl::DISPATCH_RESERVED);
    assert!(offset_of!(Dispatch, blocks) == wgsl::DISPATCH_BLOCKS);

    assert!(wgsl::SCAN.workgroup_size == wgsl::LANES);
};
