//! Where pages come from when no file is given: the repository's sample of real memory, and what is made from it.
//!
//! The sample is 8 MiB cut from a real desktop VM, the same pages ten minutes earlier, and the disk blocks that they
//! equal. It is real, and small enough to lie in a cache; what is made from it by repeating is larger, and synthetic.

pub(crate) mod sparse;
pub(crate) mod tile;

use anyhow::{Context, Result};

const MEMORY: &[u8] = include_bytes!("../../../tests/data/sample.mem.zst");
const DISK: &[u8] = include_bytes!("../../../tests/data/sample.disk.zst");

/// The sample's memory.
///
/// # Errors
///
/// Only if the program was built from a damaged file.
pub(crate) fn sample_memory() -> Result<Vec<u8>> {
    zstd::decode_all(MEMORY).context("the built-in sample is damaged")
}

/// The sample's disk.
///
/// # Errors
///
/// As for [`sample_memory`].
pub(crate) fn sample_disk() -> Result<Vec<u8>> {
    zstd::decode_all(DISK).context("the built-in sample is damaged")
}
