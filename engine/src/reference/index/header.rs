//! The index file, byte for byte.
//!
//! All integers are little-endian. The file is a header of 4096 bytes and a table; nothing follows.
//!
//! | bytes | field |
//! |---|---|
//! | 0-7 | `MIGINDEX` in ASCII |
//! | 8-11 | version: 1 |
//! | 12-15 | length of the header: 4096 |
//! | 16-31 | identity of the reference, as `identity` defines it |
//! | 32-39 | `blocks`: 4096-byte blocks of the reference, below 2^40 |
//! | 40-47 | length of the reference's (first) file in bytes |
//! | 48-55 | modification time of that file, in nanoseconds since 1970 (signed) |
//! | 56-63 | number of files that the reference is made of |
//! | 64-79 | their stamps: XXH3-128 (seed 0) of the length and the time of each, 8 bytes each, in order |
//! | 80-87 | `distinct`: number of entries in the table, at most `blocks` |
//! | 88-95 | `buckets`: at least 1 |
//! | 96-111 | checksum of the table |
//! | 112-4079 | zero |
//! | 4080-4095 | XXH3-128 (seed 0) of bytes 0-4079 |
//!
//! The table has `buckets` + 31 buckets of 64 bytes. A bucket is eight entries of 8 bytes. An entry is 0 (empty) or
//! `tag << 40 | (block + 1)`, with `block` below `blocks` and `tag` the upper 24 bits of the fingerprint. Within a
//! bucket, entries come before empty slots.
//!
//! The home bucket of a fingerprint is the upper 64 bits of the 128-bit product of `buckets` and the lower 64 bits of
//! the fingerprint. Its entry is in the home bucket, or, if that is full, in the next one, and so on: at most 31
//! buckets after its home. (Where even that is not enough, a block is left out.) A search may therefore end at the
//! first bucket with an empty slot, and after 32 buckets. `buckets` is chosen so that entries fill 0.70 of the slots,
//! `ceil(distinct / 5.6)`; a reader does not rely on it.
//!
//! The checksum of the table is the XXH3-128 of a list of digests, 16 bytes each: the XXH3-128s of each 4 MiB of the
//! table, the last piece being what is left.
//!
//! An index belongs to one state of one reference. Bytes 16-79 say which, and a reader compares all of them with
//! the reference as it is now. Device and inode are not among them: an image that was copied with its times, or whose
//! disk got another number at boot, keeps its index.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use xxhash_rust::xxh3::xxh3_128;

use super::{IndexError, PROBES, SLOTS, StaleCause};
use crate::reference::{Identity, MAX_BLOCKS};

pub(in crate::reference) const HEADER_LEN: usize = 4096;
const CHECKSUM_AT: usize = HEADER_LEN - 16;
/// How the file of a fingerprint index starts.
pub(super) const MAGIC: [u8; 8] = *b"MIGINDEX";
const VERSION: u32 = 1;
/// Bytes of a bucket.
const BUCKET_LEN: u64 = SLOTS as u64 * 8;

/// The state of a file, as far as the system tells it without reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    /// Bytes.
    pub len: u64,
    /// When it was last written to, in nanoseconds since 1970.
    pub modified: i64,
}

impl FileStamp {
    /// The stamp of an open file.
    ///
    /// # Errors
    ///
    /// Whatever the system says when asked for the file's metadata.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let modified = match metadata.modified()?.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
        };
        Ok(Self { len: metadata.len(), modified })
    }
}

/// One state of one reference: what an index was built from, or must have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTie {
    /// What the reference holds.
    pub identity: Identity,
    /// Its number of blocks.
    pub blocks: u64,
    /// The first of its files.
    pub file: FileStamp,
    /// Number of its files.
    pub files: u64,
    /// Digest of the stamps of all of them.
    pub stamps: u128,
}

impl SourceTie {
    /// The state of a reference that is made of files with these stamps, the main one first.
    pub fn new(identity: Identity, blocks: u64, stamps: &[FileStamp]) -> Self {
        let joined: Vec<u8> = stamps
            .iter()
            .flat_map(|stamp| [stamp.len.to_le_bytes(), stamp.modified.to_le_bytes()])
            .flatten()
            .collect();
        Self {
            identity,
            blocks,
            file: stamps.first().copied().unwrap_or(FileStamp { len: 0, modified: 0 }),
            files: stamps.len() as u64,
            stamps: xxh3_128(&joined),
        }
    }

    /// In what `now` is different, the plainest thing first.
    pub(in crate::reference) fn first_difference(&self, now: &Self) -> Option<StaleCause> {
        let checks = [
            (self.blocks == now.blocks, StaleCause::Blocks),
            (self.file.len == now.file.len, StaleCause::Length),
            (self.file.modified == now.file.modified, StaleCause::Modified),
            (self.files == now.files && self.stamps == now.stamps, StaleCause::OtherFiles),
            (self.identity == now.identity, StaleCause::Identity),
        ];
        checks.into_iter().find(|(same, _)| !same).map(|(_, cause)| cause)
    }
}

/// What the header of an index says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::reference) struct Header {
    pub(in crate::reference) tie: SourceTie,
    pub(in crate::reference) distinct: u64,
    pub(in crate::reference) buckets: u64,
    pub(in crate::reference) table_checksum: u128,
}

impl Header {
    /// The header of a file that starts with `magic`.
    pub(in crate::reference) fn to_bytes(&self, magic: [u8; 8]) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&magic);
        put(&VERSION.to_le_bytes());
        put(&(HEADER_LEN as u32).to_le_bytes());
        put(&self.tie.identity.0.to_le_bytes());
        put(&self.tie.blocks.to_le_bytes());
        put(&self.tie.file.len.to_le_bytes());
        put(&self.tie.file.modified.to_le_bytes());
        put(&self.tie.files.to_le_bytes());
        put(&self.tie.stamps.to_le_bytes());
        put(&self.distinct.to_le_bytes());
        put(&self.buckets.to_le_bytes());
        put(&self.table_checksum.to_le_bytes());
        let checksum = xxh3_128(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Splits `file`, all of a file that should start with `magic`, into its header and its table, and checks all but the table's bytes.
    /// `table_len` is how long the table of such a header is.
    pub(in crate::reference) fn read<'a>(
        file: &'a [u8],
        path: &Path,
        magic: [u8; 8],
        table_len: fn(&Self) -> Option<u64>,
    ) -> Result<(Self, &'a [u8]), IndexError> {
        let damaged = |field| IndexError::Damaged { path: path.to_owned(), field };
        let Some((header, table)) = file.split_first_chunk::<HEADER_LEN>() else {
            return Err(damaged("length"));
        };
        let mut rest = &header[..];
        if take(&mut rest) != magic {
            return Err(damaged("magic number"));
        }
        // The checksum goes first where the version is ours, so that a flipped bit in it is not taken for a later
        // version; a later version may have its checksum elsewhere.
        let checksum = u128::from_le_bytes(take(&mut &header[CHECKSUM_AT..]));
        let version = u32::from_le_bytes(take(&mut rest));
        if xxh3_128(&header[..CHECKSUM_AT]) != checksum {
            return Err(match version {
                VERSION => damaged("checksum of the header"),
                found => IndexError::Version { path: path.to_owned(), found, supported: VERSION },
            });
        }
        if version != VERSION {
            return Err(IndexError::Version { path: path.to_owned(), found: version, supported: VERSION });
        }
        if u32::from_le_bytes(take(&mut rest)) as usize != HEADER_LEN {
            return Err(damaged("length of the header"));
        }
        let identity = Identity(u128::from_le_bytes(take(&mut rest)));
        let blocks = u64::from_le_bytes(take(&mut rest));
        let len = u64::from_le_bytes(take(&mut rest));
        let modified = i64::from_le_bytes(take(&mut rest));
        let files = u64::from_le_bytes(take(&mut rest));
        let stamps = u128::from_le_bytes(take(&mut rest));
        let distinct = u64::from_le_bytes(take(&mut rest));
        let buckets = u64::from_le_bytes(take(&mut rest));
        let table_checksum = u128::from_le_bytes(take(&mut rest));
        if blocks > MAX_BLOCKS {
            return Err(damaged("number of blocks"));
        }
        if distinct > blocks {
            return Err(damaged("number of entries"));
        }
        if header[HEADER_LEN - rest.len()..CHECKSUM_AT].iter().any(|&byte| byte != 0) {
            return Err(damaged("reserved part of the header"));
        }
        let tie = SourceTie { identity, blocks, file: FileStamp { len, modified }, files, stamps };
        let header = Self { tie, distinct, buckets, table_checksum };
        if buckets == 0 || table_len(&header) != Some(table.len() as u64) {
            return Err(damaged("number of buckets or the length of the file"));
        }
        Ok((header, table))
    }
}

/// Bytes of a fingerprint index's table.
pub(super) fn table_len(header: &Header) -> Option<u64> {
    header.buckets.checked_add(PROBES as u64 - 1)?.checked_mul(BUCKET_LEN)
}

/// The next `N` bytes of a header, which is long enough for all its fields.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    match rest.split_first_chunk() {
        Some((chunk, after)) => {
            *rest = after;
            *chunk
        }
        None => [0; N],
    }
}
