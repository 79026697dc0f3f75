//! The fingerprint index of a reference: from the fingerprint of a page to the first block with that content.
//!
//! A table of 64-byte buckets, a cache line each, so that a lookup mostly costs one access to memory. An entry keeps
//! 24 bits of the fingerprint: an answer is a candidate whose bytes the caller compares. Blocks of zeros and of one
//! repeated 8-byte word are not in the index. What the file looks like, byte for byte, is told in [`header`].
//!
//! Not a map: it can't be changed, it forgets fingerprints, and it finds a block that is not the one meant about
//! once in three million lookups.

mod build;
mod error;
mod header;
mod spill;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tempfile::NamedTempFile;
use xxhash_rust::xxh3::xxh3_128;

pub use self::build::{FingerprintFn, IndexBuilder};
pub use self::error::{IndexError, StaleCause};
pub use self::header::{FileStamp, SourceTie};
pub(super) use self::header::{HEADER_LEN, Header};
use self::header::{MAGIC, table_len};
use crate::map::FileMap;

/// Entries of a bucket.
const SLOTS: usize = 8;
/// Bits of an entry that hold a block number plus one; the tag is above them.
const BLOCK_BITS: u32 = 40;
const BLOCK_MASK: u64 = (1 << BLOCK_BITS) - 1;
/// Entries lie in their home bucket or in one of the following ones, this many in all. It bounds a lookup, whatever
/// an index or the disk it was made from hold, and with honest fingerprints is never reached.
const PROBES: usize = 32;
/// Lookups whose memory accesses run side by side: enough to keep the memory busy, few enough for its queues.
const BATCH: usize = 32;
/// Bytes of the table that are checksummed together.
const CHECKSUM_PIECE: usize = 4 << 20;

/// Eight entries, little-endian: tag in the upper 24 bits, block number plus one below; 0 where there is none.
type Bucket = [u64; SLOTS];

/// A finished index, built or mapped from its file.
#[derive(Debug)]
pub struct Index {
    header: Header,
    table: Table,
}

#[derive(Debug)]
enum Table {
    Memory(Vec<Bucket>),
    /// The table begins at this byte of the file; whole buckets follow up to its end.
    File(FileMap, usize),
}

impl Table {
    fn buckets(&self) -> &[Bucket] {
        match self {
            Self::Memory(buckets) => buckets,
            // A mapping begins at a page, and its length was checked when it was made, so the cast holds.
            Self::File(map, start) => bytemuck::try_cast_slice(&map.bytes()[*start..]).unwrap_or_default(),
        }
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.buckets())
    }
}

impl Index {
    /// Stands for "no block" in the answers of [`Index::lookup_batch`].
    pub const ABSENT: u64 = u64::MAX;

    /// Where the index of the image at `image` is looked for: the same name with `.migidx` after it.
    pub fn default_path(image: &Path) -> PathBuf {
        let mut name = OsString::from(image);
        name.push(".migidx");
        name.into()
    }

    /// Maps the index at `path`, which must be whole, undamaged and of the reference that `expected` describes.
    ///
    /// Every byte is read and checked, in the threads of the current rayon pool.
    ///
    /// # Errors
    ///
    /// [`IndexError::Stale`] when the reference has changed since; [`IndexError::Damaged`] and
    /// [`IndexError::Version`] for other contents than a version 1 index; [`IndexError::Io`].
    pub fn open(path: &Path, expected: &SourceTie) -> Result<Self, IndexError> {
        let index = Self::load(path)?;
        match index.header.tie.first_difference(expected) {
            Some(changed) => Err(IndexError::Stale { path: path.to_owned(), changed }),
            None => Ok(index),
        }
    }

    /// As [`Index::open`], of whatever reference it is: compare [`Index::tie`].
    ///
    /// # Errors
    ///
    /// As for [`Index::open`], but for `Stale`.
    pub fn load(path: &Path) -> Result<Self, IndexError> {
        let failed = |source| IndexError::Io { path: path.to_owned(), source };
        let map = FileMap::open(path).map_err(failed)?;
        // This faults everything in ahead of the checksums, and says so if it can't be read.
        map.populate(0..map.len()).map_err(failed)?;
        let header = verify(map.bytes(), path)?;
        Ok(Self { header, table: Table::File(map, HEADER_LEN) })
    }

    /// Writes the index to `path`: whole, or not at all.
    ///
    /// The file is readable by its owner only, as it tells something of what the reference holds.
    ///
    /// # Errors
    ///
    /// [`IndexError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), IndexError> {
        self.try_save(path).map_err(|source| IndexError::Io { path: path.to_owned(), source })
    }

    fn try_save(&self, path: &Path) -> io::Result<()> {
        write_whole(path, &self.header.to_bytes(MAGIC), self.table.bytes())
    }

    /// The reference that the index was made from, as it was then.
    pub fn tie(&self) -> &SourceTie {
        &self.header.tie
    }

    /// Number of blocks of the reference. All answers of lookups are below it.
    pub fn blocks(&self) -> u64 {
        self.header.tie.blocks
    }

    /// Number of blocks in the index: those with different contents, neither zero nor uniform.
    pub fn distinct(&self) -> u64 {
        self.header.distinct
    }

    /// The table as it is in the file, for a device that searches it itself.
    #[cfg(feature = "gpu")]
    pub(crate) fn table_bytes(&self) -> &[u8] {
        self.table.bytes()
    }

    /// Buckets that are the home of some fingerprint.
    #[cfg(feature = "gpu")]
    pub(crate) fn buckets(&self) -> u64 {
        self.header.buckets
    }

    /// Bytes of the index, as a file.
    pub fn file_len(&self) -> u64 {
        (HEADER_LEN + self.table.bytes().len()) as u64
    }

    /// A block that may have the content with this fingerprint: the first one of the reference that does, if any
    /// has it, but for one false answer in some million.
    pub fn lookup(&self, fingerprint: u128) -> Option<u64> {
        self.candidates(fingerprint).next()
    }

    /// All blocks that may have the content with this fingerprint; rarely more than one.
    pub fn candidates(&self, fingerprint: u128) -> Candidates<'_> {
        let home = home(fingerprint, self.header.buckets);
        let buckets = self.table.buckets().get(home as usize..).unwrap_or_default();
        Candidates {
            buckets: &buckets[..buckets.len().min(PROBES)],
            slot: 0,
            tag: tag(fingerprint),
            blocks: self.blocks(),
        }
    }

    /// [`Index::lookup`] for many fingerprints at once, several times as fast when the index is large.
    ///
    /// Fills `out` with block numbers, [`Index::ABSENT`] where there is none.
    ///
    /// # Panics
    ///
    /// If `out` is not as long as `fingerprints`.
    pub fn lookup_batch(&self, fingerprints: &[u128], out: &mut [u64]) {
        assert_eq!(fingerprints.len(), out.len(), "an answer for each fingerprint");
        let buckets = self.table.buckets();
        for (fingerprints, out) in fingerprints.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            // Independent reads, which the processor has under way at the same time; the searches then hit the cache.
            let mut touched = 0;
            for &fingerprint in fingerprints {
                touched ^= buckets.get(home(fingerprint, self.header.buckets) as usize).map_or(0, |b| b[0]);
            }
            std::hint::black_box(touched);
            for (&fingerprint, out) in fingerprints.iter().zip(out) {
                *out = self.lookup(fingerprint).unwrap_or(Self::ABSENT);
            }
        }
    }
}

/// The blocks that may have some content: see [`Index::candidates`].
#[derive(Clone, Debug)]
pub struct Candidates<'a> {
    /// What is left to search.
    buckets: &'a [Bucket],
    /// Slots of the first bucket that were searched.
    slot: usize,
    tag: u64,
    blocks: u64,
}

impl Iterator for Candidates<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        while let Some((bucket, rest)) = self.buckets.split_first() {
            for (slot, entry) in bucket.iter().enumerate().skip(self.slot) {
                let entry = u64::from_le(*entry);
                let block = (entry & BLOCK_MASK).wrapping_sub(1);
                // The second test also drops empty slots, whose block is the largest number.
                if entry >> BLOCK_BITS == self.tag && block < self.blocks {
                    self.slot = slot + 1;
                    return Some(block);
                }
            }
            // Buckets fill from their first slot on, and are left for the next one only when full.
            self.slot = 0;
            self.buckets = if bucket[SLOTS - 1] == 0 { &[] } else { rest };
        }
        None
    }
}

/// Writes a file of a header and a table: whole, or not at all.
pub(super) fn write_whole(path: &Path, header: &[u8], table: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(header)?;
    for piece in table.chunks(CHECKSUM_PIECE) {
        file.write_all(piece)?;
    }
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}

/// The header of an index file with these bytes, all of which are checked.
fn verify(file: &[u8], path: &Path) -> Result<Header, IndexError> {
    let (header, table) = Header::read(file, path, MAGIC, table_len)?;
    if table_checksum(table) != header.table_checksum {
        return Err(IndexError::Damaged { path: path.to_owned(), field: "checksum of the table" });
    }
    Ok(header)
}

/// The bucket in which a fingerprint's entry is looked for first.
fn home(fingerprint: u128, buckets: u64) -> u64 {
    ((u128::from(fingerprint as u64) * u128::from(buckets)) >> 64) as u64
}

/// The part of a fingerprint that its entry keeps; none of it decides the bucket.
fn tag(fingerprint: u128) -> u64 {
    (fingerprint >> 104) as u64
}

/// XXH3-128 of the XXH3-128s of the table's pieces.
pub(super) fn table_checksum(table: &[u8]) -> u128 {
    let pieces: Vec<u128> = table.par_chunks(CHECKSUM_PIECE).map(xxh3_128).collect();
    let joined: Vec<u8> = pieces.iter().flat_map(|digest| digest.to_le_bytes()).collect();
    xxh3_128(&joined)
}
