//! A short name for what a reference holds.
//!
//! The identity is the XXH3-128 (seed 0) of these bytes, with `n` the reference's number of 4096-byte blocks:
//!
//! 1. `n`, as 8 bytes, little-endian;
//! 2. for `i` from 0 to 63: the block with the number `floor(i * n / 64)`;
//! 3. the blocks `0`, `1`, `2`, `3`;
//! 4. the blocks `n-4`, `n-3`, `n-2`, `n-1`, in this order.
//!
//! Of the lists 3 and 4, numbers that are not between `0` and `n-1` are left out; for `n` = 0 there are no blocks at
//! all. Blocks that several lists name are hashed each time. A partial last block is no block.
//!
//! So it is the same for a raw, a qcow2 and a vmdk image of one disk, and costs 72 reads whatever the size. It is a
//! hint to find the right file, never a proof: two disks cloned from one image can share it, and every page that
//! comes from a reference is verified by other means.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

use super::{BLOCK_SIZE, BlockSource, ReferenceError};

/// Blocks sampled at even distances.
const SAMPLES: u64 = 64;
/// Blocks taken at each end.
const ENDS: u64 = 4;

/// What a reference holds, in 128 bits. Formats write it as 16 bytes, little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(pub u128);

impl Identity {
    /// The identity of `source`, as the head of this module defines it.
    ///
    /// # Errors
    ///
    /// Whatever keeps one of the sampled blocks from being read.
    pub fn of(source: &(impl BlockSource + ?Sized)) -> Result<Self, ReferenceError> {
        let blocks = source.blocks();
        let mut hash = Xxh3::new();
        hash.update(&blocks.to_le_bytes());
        let mut block = [0; BLOCK_SIZE];
        for number in sampled(blocks) {
            source.populate(number..number + 1)?;
            source.read_blocks(number, &mut block)?;
            hash.update(&block);
        }
        Ok(Self(hash.digest128()))
    }
}

/// The block numbers that are hashed, in order.
fn sampled(blocks: u64) -> impl Iterator<Item = u64> {
    let even = (0..SAMPLES.min(blocks.saturating_mul(SAMPLES)))
        .map(move |i| (u128::from(i) * u128::from(blocks) / u128::from(SAMPLES)) as u64);
    even.chain(0..ENDS.min(blocks)).chain(blocks.saturating_sub(ENDS)..blocks)
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_those_that_the_definition_names() {
        assert_eq!(sampled(0).count(), 0);
        assert_eq!(sampled(1).collect::<Vec<_>>(), [0; 66]);
        let mut expected: Vec<u64> = (0..64).map(|i| i * 1000 / 64).collect();
        expected.extend([0, 1, 2, 3, 996, 997, 998, 999]);
        assert_eq!(sampled(1000).collect::<Vec<_>>(), expected);
        assert!(sampled(u64::MAX).all(|number| number < u64::MAX));
    }

    #[test]
    fn identity_is_the_hash_of_the_samples_put_together() {
        let disk: Vec<u8> = (0..200 * BLOCK_SIZE).map(|i| (i / 7 * i) as u8).collect();
        let mut joined = 200u64.to_le_bytes().to_vec();
        for number in sampled(200) {
            joined.extend_from_slice(&disk[number as usize * BLOCK_SIZE..][..BLOCK_SIZE]);
        }
        let identity = Identity::of(&disk[..]).unwrap();
        assert_eq!(identity.0, xxhash_rust::xxh3::xxh3_128(&joined));
        // The tail of a partial block does not count, a changed sample and one block more do.
        assert_eq!(
            Identity::of(&disk[..disk.len() - 1]).unwrap(),
            Identity::of(&disk[..199 * BLOCK_SIZE]).unwrap()
        );
        assert_ne!(Identity::of(&disk[..199 * BLOCK_SIZE]).unwrap(), identity);
        let mut changed = disk;
        changed[197 * BLOCK_SIZE + 5] ^= 1;
        assert_ne!(Identity::of(&changed[..]).unwrap(), identity);
        assert_eq!(identity.to_string().len(), 32);
    }
}
