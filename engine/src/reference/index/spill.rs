//! Collects the entries of an index in any order and gives them back sorted, in bounded memory.
//!
//! Entries are dealt out by their leading hash bits to partitions small enough to sort in the cache. A partition's
//! last entries are in memory; when all of them together get too many, full pages of entries go to a temporary file,
//! which has no name and is gone with the process. Reads and writes are plain ones, so a full disk is an error, not a
//! signal, and the pages are the kernel's to keep or drop.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{BLOCK_BITS, BLOCK_MASK, IndexError, tag};

/// The content and the place of one block, ordered as the index needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Record {
    /// The lower half of the fingerprint, which decides the bucket.
    pub(super) hash: u64,
    /// The entry in the table: tag and block number plus one.
    pub(super) entry: u64,
}

impl Record {
    pub(super) fn new(fingerprint: u128, block: u64) -> Self {
        Self { hash: fingerprint as u64, entry: tag(fingerprint) << BLOCK_BITS | (block + 1) & BLOCK_MASK }
    }

    /// Whether two records are of the same content, by 88 bits of its fingerprint.
    fn same_content(&self, other: &Self) -> bool {
        self.hash == other.hash && self.entry >> BLOCK_BITS == other.entry >> BLOCK_BITS
    }
}

/// Records of a page in the file: 4096 bytes.
const PAGE: usize = 256;
const PAGE_LEN: u64 = (PAGE * size_of::<Record>()) as u64;
/// Records of a partition, on average, when every block of the reference gives one: 1 MiB.
const PARTITION: u64 = 1 << 16;
const MAX_PARTITIONS: u64 = 1 << 12;
/// Records kept in memory before any go to the file: 32 MiB, and up to as much again that vectors grow ahead.
const IN_MEMORY: u64 = 1 << 21;

/// Collected records.
#[derive(Debug)]
pub(super) struct Spill {
    /// A power of two of them.
    partitions: Vec<Partition>,
    /// Records collected.
    count: u64,
    in_memory: u64,
    folder: PathBuf,
    /// The file, once there is one, and the number of pages in it.
    file: Option<(File, u64)>,
}

#[derive(Clone, Debug, Default)]
struct Partition {
    /// The last records.
    tail: Vec<Record>,
    /// Numbers of the full pages before them.
    pages: Vec<u64>,
}

impl Spill {
    /// For about `expected` records; what does not fit into memory goes to a file in `folder`.
    pub(super) fn new(expected: u64, folder: &Path) -> Self {
        Self::with_limit(expected, folder, IN_MEMORY)
    }

    pub(super) fn with_limit(expected: u64, folder: &Path, in_memory: u64) -> Self {
        let partitions = expected.div_ceil(PARTITION).clamp(1, MAX_PARTITIONS).next_power_of_two();
        Self {
            partitions: vec![Partition::default(); partitions as usize],
            count: 0,
            in_memory,
            folder: folder.to_owned(),
            file: None,
        }
    }

    fn failed(&self) -> impl Fn(io::Error) -> IndexError + use<> {
        let path = self.folder.clone();
        move |source| IndexError::Io { path: path.clone(), source }
    }

    /// Takes some records more.
    pub(super) fn extend(&mut self, records: &[Record]) -> Result<(), IndexError> {
        let partitions = self.partitions.len();
        for record in records {
            let partition = ((u128::from(record.hash) * partitions as u128) >> 64) as usize;
            self.partitions[partition].tail.push(*record);
            if self.file.is_some() && self.partitions[partition].tail.len() == PAGE {
                self.write_pages(partition)?;
            }
        }
        self.count += records.len() as u64;
        if self.file.is_none() && self.count > self.in_memory {
            self.file = Some((tempfile::tempfile_in(&self.folder).map_err(self.failed())?, 0));
            for partition in 0..partitions {
                self.write_pages(partition)?;
            }
        }
        Ok(())
    }

    /// Moves the full pages of a partition to the file, which there is.
    fn write_pages(&mut self, partition: usize) -> Result<(), IndexError> {
        let failed = self.failed();
        let Some((file, pages)) = &mut self.file else { return Ok(()) };
        let partition = &mut self.partitions[partition];
        let full = partition.tail.len() / PAGE * PAGE;
        for page in partition.tail[..full].chunks(PAGE) {
            file.write_all_at(bytemuck::cast_slice(page), *pages * PAGE_LEN).map_err(&failed)?;
            partition.pages.push(*pages);
            *pages += 1;
        }
        partition.tail.drain(..full);
        // Grown far beyond a page while there was no file, mostly.
        partition.tail.shrink_to(PAGE);
        Ok(())
    }

    /// Sorts everything and drops all records but the first of each content; returns how many are left.
    ///
    /// Runs in the current rayon pool, and takes 1 MiB for each thread, or as much as the largest partition.
    pub(super) fn sort(&mut self) -> Result<u64, IndexError> {
        let failed = self.failed();
        let file = self.file.as_ref().map(|(file, _)| file);
        let counts = self.partitions.par_iter_mut().map(|partition| partition.sort(file));
        counts.try_reduce(|| 0, |a, b| Ok(a + b)).map_err(failed)
    }

    /// Gives all records in order, after [`Spill::sort`].
    pub(super) fn drain(
        self,
        mut each: impl FnMut(&[Record]) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let failed = self.failed();
        let file = self.file.as_ref().map(|(file, _)| file);
        let mut records = Vec::new();
        for partition in self.partitions {
            partition.read_into(file, &mut records).map_err(&failed)?;
            each(&records)?;
        }
        Ok(())
    }
}

impl Partition {
    fn sort(&mut self, file: Option<&File>) -> io::Result<u64> {
        if self.pages.is_empty() {
            sort_records(&mut self.tail);
            return Ok(self.tail.len() as u64);
        }
        let mut records = Vec::new();
        self.read_into(file, &mut records)?;
        sort_records(&mut records);
        // Back to the same pages, of which no other partition has one.
        let full = records.len() / PAGE;
        self.pages.truncate(full);
        if let Some(file) = file {
            for (page, records) in self.pages.iter().zip(records.chunks(PAGE)) {
                file.write_all_at(bytemuck::cast_slice(records), page * PAGE_LEN)?;
            }
        }
        self.tail.clear();
        self.tail.extend_from_slice(&records[full * PAGE..]);
        Ok(records.len() as u64)
    }

    fn read_into(&self, file: Option<&File>, records: &mut Vec<Record>) -> io::Result<()> {
        records.clear();
        records.resize(self.pages.len() * PAGE, Record { hash: 0, entry: 0 });
        if let Some(file) = file {
            for (page, records) in self.pages.iter().zip(records.chunks_mut(PAGE)) {
                file.read_exact_at(bytemuck::cast_slice_mut(records), page * PAGE_LEN)?;
            }
        }
        records.extend_from_slice(&self.tail);
        Ok(())
    }
}

/// Sorts by hash, tag and block, and keeps the first block of each content.
fn sort_records(records: &mut Vec<Record>) {
    records.sort_unstable();
    records.dedup_by(|next, first| first.same_content(next));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random records, a third of them of contents seen before.
    fn records(count: u64) -> Vec<Record> {
        let mix = |i: u64| {
            (u128::from(i) << 64 | u128::from(i)).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
        };
        (0..count).map(|i| Record::new(mix(i % (count * 2 / 3) + 1), i)).collect()
    }

    fn sorted(mut spill: Spill) -> (u64, Vec<Record>) {
        let count = spill.sort().unwrap();
        let mut all = Vec::new();
        spill
            .drain(|records| {
                all.extend_from_slice(records);
                Ok(())
            })
            .unwrap();
        (count, all)
    }

    #[test]
    fn comes_back_sorted_whatever_the_order_and_wherever_it_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut all = records(300_000);
        let mut expected = all.clone();
        sort_records(&mut expected);
        assert_eq!(expected.len(), 200_000);
        assert!(expected.windows(2).all(|pair| pair[0] < pair[1] && !pair[0].same_content(&pair[1])));
        for (in_memory, expected_count) in [(u64::MAX, 300_000), (100_000, 1), (0, 1_000_000)] {
            let mut spill = Spill::with_limit(expected_count, folder.path(), in_memory);
            for piece in all.chunks(777) {
                spill.extend(piece).unwrap();
            }
            assert_eq!(spill.file.is_some(), in_memory < 300_000);
            let kept: usize = spill.partitions.iter().map(|partition| partition.tail.len()).sum();
            assert_eq!(kept < 300_000, spill.file.is_some());
            assert_eq!(sorted(spill), (200_000, expected.clone()));
            all.reverse();
        }
    }

    #[test]
    fn nothing_comes_back_from_nothing() {
        assert_eq!(sorted(Spill::new(0, Path::new("/nowhere"))), (0, Vec::new()));
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let mut spill = Spill::with_limit(10, Path::new("/nowhere"), 5);
        assert!(matches!(spill.extend(&records(10)), Err(IndexError::Io { .. })));
    }
}
