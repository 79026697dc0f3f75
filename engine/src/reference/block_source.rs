//! The one thing that indexes and identities ask of a reference: 4096-byte blocks, by number, from any thread.
//!
//! A run says how blocks can be had: not at all (they read as zero), as a slice of mapped memory, or only through
//! [`BlockSource::read_blocks`]. So a scan walks a reference without copying what is mapped and without touching
//! what is not there.

use std::ops::Range;

use super::ReferenceError;

/// Bytes of a block; as many as of a page, so that blocks and pages can be equal.
pub const BLOCK_SIZE: usize = 4096;

/// A reference has at most this many blocks (4 PiB): what an index entry can hold.
pub const MAX_BLOCKS: u64 = (1 << 40) - 1;

/// How some consecutive blocks of a reference can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskRun<'a> {
    /// This many blocks that read as zero and have no storage.
    Hole(u64),
    /// The bytes of as many blocks as fit, of any alignment: consecutive bytes of a mapped file.
    Mapped(&'a [u8]),
    /// This many blocks that only [`BlockSource::read_blocks`] can give: compressed, or in several pieces.
    Opaque(u64),
}

impl DiskRun<'_> {
    /// Number of blocks.
    pub fn blocks(&self) -> u64 {
        match self {
            Self::Hole(blocks) | Self::Opaque(blocks) => *blocks,
            Self::Mapped(bytes) => (bytes.len() / BLOCK_SIZE) as u64,
        }
    }
}

/// A row of blocks that both ends have.
pub trait BlockSource: Sync {
    /// Number of blocks, at most [`MAX_BLOCKS`]. Block numbers go from 0 up to this.
    fn blocks(&self) -> u64;

    /// The blocks from `block` on that can be had in one way: at least one, at most `max`.
    ///
    /// Past the end, and for a `max` of 0, it is a hole of no blocks.
    fn run(&self, block: u64, max: u64) -> DiskRun<'_>;

    /// Fills `buf` with the blocks from `block` on.
    ///
    /// # Errors
    ///
    /// [`ReferenceError::OutOfRange`] when `buf` is not a whole number of blocks or reaches past the end; otherwise
    /// whatever keeps the blocks from being read.
    fn read_blocks(&self, block: u64, buf: &mut [u8]) -> Result<(), ReferenceError>;

    /// Brings blocks into memory that will be read soon, as far as that can be done.
    ///
    /// # Errors
    ///
    /// Only when a plain read of mapped blocks would end the process, such as for a file that was cut short.
    fn populate(&self, _blocks: Range<u64>) -> Result<(), ReferenceError> {
        Ok(())
    }
}

/// Blocks that lie in memory, for tests and for captures; a partial last block does not count.
impl BlockSource for [u8] {
    fn blocks(&self) -> u64 {
        (self.len() / BLOCK_SIZE) as u64
    }

    fn run(&self, block: u64, max: u64) -> DiskRun<'_> {
        let count = max.min(BlockSource::blocks(self).saturating_sub(block));
        if count == 0 {
            return DiskRun::Hole(0);
        }
        DiskRun::Mapped(&self[block as usize * BLOCK_SIZE..][..count as usize * BLOCK_SIZE])
    }

    fn read_blocks(&self, block: u64, buf: &mut [u8]) -> Result<(), ReferenceError> {
        check_range(block, buf.len(), BlockSource::blocks(self))?;
        if !buf.is_empty() {
            buf.copy_from_slice(&self[block as usize * BLOCK_SIZE..][..buf.len()]);
        }
        Ok(())
    }
}

/// Checks that `len` bytes from `block` on are whole blocks below `blocks`.
pub(crate) fn check_range(block: u64, len: usize, blocks: u64) -> Result<(), ReferenceError> {
    let count = (len / BLOCK_SIZE) as u64;
    let inside = block <= blocks && count <= blocks - block;
    if len.is_multiple_of(BLOCK_SIZE) && inside {
        return Ok(());
    }
    Err(ReferenceError::OutOfRange { block, bytes: len as u64, blocks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_source_of_whole_blocks() {
        let mut bytes = vec![1; 3 * BLOCK_SIZE + 100];
        bytes[BLOCK_SIZE] = 2;
        let source = &bytes[..];
        assert_eq!(BlockSource::blocks(source), 3);
        assert_eq!(source.run(1, 9), DiskRun::Mapped(&bytes[BLOCK_SIZE..3 * BLOCK_SIZE]));
        for (block, max) in [(3, 1), (u64::MAX, u64::MAX), (0, 0)] {
            assert_eq!(source.run(block, max), DiskRun::Hole(0));
        }
        let mut buf = [0; BLOCK_SIZE];
        source.read_blocks(1, &mut buf).unwrap();
        assert_eq!(buf[..2], [2, 1]);
        source.read_blocks(3, &mut []).unwrap();
        for block in [3, u64::MAX] {
            assert!(matches!(source.read_blocks(block, &mut buf), Err(ReferenceError::OutOfRange { .. })));
        }
        assert!(matches!(source.read_blocks(0, &mut buf[1..]), Err(ReferenceError::OutOfRange { .. })));
    }
}
