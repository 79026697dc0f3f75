//! Builds an index from a reference.
//!
//! Threads take stretches of blocks, skip holes, and fingerprint the rest where it lies; the entries are collected
//! and sorted by [`Spill`], and then written into the table from its first bucket to its last. So the result depends
//! on nothing but the reference: not on threads, not on order. What takes more than 32 MiB (the entries of 8 GiB of
//! disk, the table of 11 GiB) is kept in temporary files without names.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::header::{Header, SourceTie};
use super::spill::{Record, Spill};
use super::{Bucket, Index, IndexError, PROBES, SLOTS, Table, home, table_checksum};
use crate::map::FileMap;
use crate::reference::{BLOCK_SIZE, BlockSource, DiskRun, ReferenceError};

/// Fills the second slice with the fingerprints (XXH3-128, seed 0) of the blocks in the first one, which is as many
/// times 4096 bytes long.
pub type FingerprintFn<'a> = dyn Fn(&[u8], &mut [u128]) + Sync + 'a;

/// Blocks that one thread takes at a time.
const STRETCH: u64 = 256;
/// Blocks that are fingerprinted in one call: few enough to be in the cache still when they are looked at again.
const CALL: usize = 32;
/// Stretches between two calls of the progress callback, at least, and for each thread.
const STRETCHES: usize = 64;
const STRETCHES_A_THREAD: usize = 16;
/// A larger table goes to a file.
const MAX_TABLE_IN_MEMORY: u64 = 32 << 20;

/// How to build an index.
pub struct IndexBuilder<'a> {
    progress: Option<&'a dyn Fn(u64, u64)>,
    cancel: Option<&'a AtomicBool>,
    folder: PathBuf,
}

impl Default for IndexBuilder<'_> {
    fn default() -> Self {
        Self { progress: None, cancel: None, folder: std::env::temp_dir() }
    }
}

impl fmt::Debug for IndexBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexBuilder").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl<'a> IndexBuilder<'a> {
    /// A builder that reports nothing, can't be stopped, and keeps temporary files where the system does.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `progress` now and then, from the calling thread, with the blocks done and the blocks in all.
    pub fn progress(self, progress: &'a dyn Fn(u64, u64)) -> Self {
        Self { progress: Some(progress), ..self }
    }

    /// Stops with [`IndexError::Cancelled`] soon after `cancel` becomes true.
    pub fn cancel(self, cancel: &'a AtomicBool) -> Self {
        Self { cancel: Some(cancel), ..self }
    }

    /// Keeps temporary files in `folder`: up to 28 bytes for each block of the reference, once that is some 64 MiB.
    ///
    /// A folder in memory, which the system's often is, defeats the purpose.
    pub fn temporary_folder(self, folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), ..self }
    }

    /// Builds the index of `source`, whose present state is `tie`, in the threads of the current rayon pool.
    ///
    /// The state must have been asked for before, so that what changes meanwhile makes the index stale.
    ///
    /// # Errors
    ///
    /// [`IndexError::Source`] when a block can't be read, [`IndexError::Io`] for trouble with temporary files,
    /// [`IndexError::Cancelled`].
    pub fn build(
        &self,
        source: &(impl BlockSource + ?Sized),
        tie: SourceTie,
        fingerprints: &FingerprintFn<'_>,
    ) -> Result<Index, IndexError> {
        let blocks = source.blocks().min(tie.blocks);
        let mut spill = Spill::new(blocks, &self.folder);
        let window = STRETCH * STRETCHES.max(rayon::current_num_threads() * STRETCHES_A_THREAD) as u64;
        let mut collected: Vec<Vec<Record>> = Vec::new();
        let mut done = 0;
        while done < blocks {
            let end = blocks.min(done + window);
            // One thread deals out the last window's records while the others read on.
            let cancel = self.cancel;
            let (read, dealt) = rayon::join(
                || read_window(source, done..end, fingerprints, cancel),
                || collected.iter().try_for_each(|records| spill.extend(records)),
            );
            dealt?;
            collected = read?;
            done = end;
            if let Some(progress) = self.progress {
                progress(done, blocks);
            }
        }
        collected.iter().try_for_each(|records| spill.extend(records))?;
        drop(collected);
        self.finish(spill, tie)
    }

    /// Builds an index of pairs of fingerprint and block, in any order, about `expected` of them.
    ///
    /// Of equal fingerprints the lowest block counts. Blocks that `tie` does not have are left out.
    ///
    /// # Errors
    ///
    /// [`IndexError::Io`] for trouble with temporary files, [`IndexError::Cancelled`].
    pub fn build_from_pairs(
        &self,
        pairs: impl IntoIterator<Item = (u128, u64)>,
        expected: u64,
        tie: SourceTie,
    ) -> Result<Index, IndexError> {
        let mut spill = Spill::new(expected, &self.folder);
        let mut records = Vec::with_capacity(STRETCH as usize);
        for (fingerprint, block) in pairs {
            if block < tie.blocks {
                records.push(Record::new(fingerprint, block));
            }
            if records.len() == STRETCH as usize {
                self.check_cancelled()?;
                spill.extend(&records)?;
                records.clear();
            }
        }
        spill.extend(&records)?;
        self.finish(spill, tie)
    }

    fn check_cancelled(&self) -> Result<(), IndexError> {
        match self.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(IndexError::Cancelled),
            _ => Ok(()),
        }
    }

    /// Sorts the records and lays out the table.
    pub(super) fn finish(&self, mut spill: Spill, tie: SourceTie) -> Result<Index, IndexError> {
        self.check_cancelled()?;
        let contents = spill.sort()?;
        self.check_cancelled()?;
        // 0.70 of the slots. Fewer than 2^40 contents, so nothing overflows.
        let buckets = (contents * 10).div_ceil(SLOTS as u64 * 7).max(1);
        let failed = |source| IndexError::Io { path: self.folder.clone(), source };
        let mut writer = TableWriter::new(buckets, &self.folder).map_err(failed)?;
        spill.drain(|records| {
            for record in records {
                writer.place(record).map_err(failed)?;
            }
            self.check_cancelled()
        })?;
        let (table, distinct) = writer.finish().map_err(failed)?;
        let table_checksum = table_checksum(table.bytes());
        Ok(Index { header: Header { tie, distinct, buckets, table_checksum }, table })
    }
}

/// The records of some blocks, stretch by stretch.
fn read_window(
    source: &(impl BlockSource + ?Sized),
    blocks: Range<u64>,
    fingerprints: &FingerprintFn<'_>,
    cancel: Option<&AtomicBool>,
) -> Result<Vec<Vec<Record>>, IndexError> {
    let stretches = (blocks.end - blocks.start).div_ceil(STRETCH);
    let stretches = (0..stretches).into_par_iter().map(|number| {
        if cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Err(IndexError::Cancelled);
        }
        let start = blocks.start + number * STRETCH;
        Ok(read_stretch(source, start..blocks.end.min(start + STRETCH), fingerprints)?)
    });
    stretches.collect()
}

/// The records of the blocks of one stretch.
fn read_stretch(
    source: &(impl BlockSource + ?Sized),
    blocks: Range<u64>,
    fingerprints: &FingerprintFn<'_>,
) -> Result<Vec<Record>, ReferenceError> {
    source.populate(blocks.clone())?;
    let mut records = Vec::new();
    let mut buf = Vec::new();
    let mut block = blocks.start;
    while block < blocks.end {
        let run = source.run(block, blocks.end - block);
        match run {
            DiskRun::Hole(_) => {}
            DiskRun::Mapped(bytes) => add_records(bytes, block, fingerprints, &mut records),
            DiskRun::Opaque(count) => {
                buf.resize(count as usize * BLOCK_SIZE, 0);
                source.read_blocks(block, &mut buf)?;
                add_records(&buf, block, fingerprints, &mut records);
            }
        }
        // A source that answers with no blocks at all must not hold us here for ever.
        block += run.blocks().max(1);
    }
    Ok(records)
}

fn add_records(bytes: &[u8], first: u64, fingerprints: &FingerprintFn<'_>, records: &mut Vec<Record>) {
    let mut out = [0; CALL];
    let mut block = first;
    for call in bytes.chunks(CALL * BLOCK_SIZE) {
        let out = &mut out[..call.len() / BLOCK_SIZE];
        fingerprints(&call[..out.len() * BLOCK_SIZE], out);
        for (content, &fingerprint) in call.chunks_exact(BLOCK_SIZE).zip(&*out) {
            if !is_uniform(content) {
                records.push(Record::new(fingerprint, block));
            }
            block += 1;
        }
    }
}

/// Whether a block is one 8-byte word all over, zero or not. Almost always the first two words tell.
fn is_uniform(block: &[u8]) -> bool {
    block[..8] == block[8..16] && block[8..] == block[..block.len() - 8]
}

/// Writes a table from its first bucket to its last, from records in the order of their hashes.
struct TableWriter {
    buckets: u64,
    /// The bucket that is being filled, its number, and its entries so far.
    bucket: Bucket,
    number: u64,
    fill: usize,
    placed: u64,
    out: Output,
}

enum Output {
    Memory(Vec<Bucket>),
    File(BufWriter<File>),
}

impl TableWriter {
    fn new(buckets: u64, folder: &Path) -> std::io::Result<Self> {
        let len = all_buckets(buckets) * size_of::<Bucket>() as u64;
        let out = if len <= MAX_TABLE_IN_MEMORY {
            Output::Memory(Vec::with_capacity(all_buckets(buckets) as usize))
        } else {
            Output::File(BufWriter::with_capacity(1 << 20, tempfile::tempfile_in(folder)?))
        };
        Ok(Self { buckets, bucket: [0; SLOTS], number: 0, fill: 0, placed: 0, out })
    }

    /// Puts a record into the first bucket from its home on that has room, or leaves it out.
    fn place(&mut self, record: &Record) -> std::io::Result<()> {
        let home = home(record.hash.into(), self.buckets);
        while self.number < home || self.fill == SLOTS && self.number < all_buckets(self.buckets) {
            self.next_bucket()?;
        }
        if self.number - home < PROBES as u64 && self.fill < SLOTS {
            self.bucket[self.fill] = record.entry.to_le();
            self.fill += 1;
            self.placed += 1;
        }
        Ok(())
    }

    fn next_bucket(&mut self) -> std::io::Result<()> {
        let bucket = std::mem::replace(&mut self.bucket, [0; SLOTS]);
        match &mut self.out {
            Output::Memory(buckets) => buckets.push(bucket),
            Output::File(file) => file.write_all(bytemuck::bytes_of(&bucket))?,
        }
        self.number += 1;
        self.fill = 0;
        Ok(())
    }

    /// The table, and how many entries it has.
    fn finish(mut self) -> std::io::Result<(Table, u64)> {
        while self.number < all_buckets(self.buckets) {
            self.next_bucket()?;
        }
        let table = match self.out {
            Output::Memory(buckets) => Table::Memory(buckets),
            Output::File(file) => Table::File(FileMap::from_file(file.into_inner()?)?, 0),
        };
        Ok((table, self.placed))
    }
}

/// Buckets with those at the end that are nobody's home.
fn all_buckets(buckets: u64) -> u64 {
    buckets + PROBES as u64 - 1
}
