//! Samples of a reference's content: for a few words of a page, where on a disk the same words are, at any offset.
//!
//! A fingerprint index finds whole blocks. Pages that a guest changed after reading them (relocated code and data), and pages
//! whose place in their file is no multiple of 4096 (Windows' executables), equal no block; but some runs of four words in
//! them, chosen by content (`mig_simd`'s anchors), stand on the disk as they are. One in 2^[`SPARSITY`] positions is kept:
//! four for each block, in the mean. A sample only proposes a place; what is there is compared.

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use mig_simd::{Anchors, Level, anchors};
use rayon::prelude::*;

use super::index::{HEADER_LEN, Header, IndexError, SourceTie, table_checksum, write_whole};
use super::{BLOCK_SIZE, BlockSource, DiskRun};
use crate::map::FileMap;
use crate::page::{PAGE_WORDS, Page};
use crate::table::Table;

/// One position in 2^this is a sample.
pub(crate) const SPARSITY: u32 = 7;
/// Bits of an entry that hold a word address plus one; the rest is a tag from the hash.
const ADDRESS_BITS: u32 = 40;
/// Slots for each block that holds something: a fifth more than samples.
const BLOCK_SLOTS: u64 = 5;
/// Slots of a table at most: 4 GiB, for 400 GiB of content. Beyond that, later samples replace earlier ones.
const MAX_SLOTS: u64 = 1 << 29;
/// Kernel files that are remembered.
const MAX_KERNELS: usize = 64;
/// Blocks that one task samples.
const TASK_BLOCKS: u64 = 1 << 10;
/// Tasks whose samples are held at a time.
const TASKS: u64 = 64;
/// How their file starts: with the header of an index file and this magic number. `buckets` is the number of slots, which follow, and
/// `distinct` that of kernel files, whose blocks come last.
const MAGIC: [u8; 8] = *b"MIGSAMPL";

/// Where the samples of a reference are.
#[derive(Debug)]
pub struct Samples {
    tie: SourceTie,
    slots: Slots,
    /// Blocks that start as a kernel file does, ascending.
    kernels: Vec<u64>,
}

#[derive(Debug)]
enum Slots {
    Memory(Table),
    /// These bytes of the file.
    File(FileMap, Range<usize>),
}

impl Samples {
    /// Where the samples of the image at `image` are looked for: the same name with `.migsmp` after it.
    pub fn default_path(image: &Path) -> PathBuf {
        let mut name = OsString::from(image);
        name.push(".migsmp");
        name.into()
    }

    /// Samples `source`, whose present state is `tie`, in the threads of the current rayon pool.
    ///
    /// # Errors
    ///
    /// [`IndexError::Source`] when a block can't be read, [`IndexError::Cancelled`].
    pub fn build(
        source: &(impl BlockSource + ?Sized),
        tie: SourceTie,
        level: Level,
        cancel: Option<&AtomicBool>,
    ) -> Result<Self, IndexError> {
        let blocks = source.blocks().min(tie.blocks);
        let slots = (data_blocks(source, blocks) * BLOCK_SLOTS).clamp(1, MAX_SLOTS);
        let (mut table, mut kernels) = (Table::new(slots as usize), Vec::new());
        let tasks = blocks.div_ceil(TASK_BLOCKS);
        for first in (0..tasks).step_by(TASKS as usize) {
            if cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
                return Err(IndexError::Cancelled);
            }
            let sample =
                |task: u64| sample(source, level, task * TASK_BLOCKS..blocks.min((task + 1) * TASK_BLOCKS));
            let range = first..tasks.min(first + TASKS);
            let found: Vec<Found> = range.into_par_iter().map(sample).collect::<Result<_, _>>()?;
            for part in found {
                for (hash, address) in part.samples {
                    table[slot(hash, slots)] = entry(hash, address).to_le();
                }
                kernels.extend(part.kernels);
            }
        }
        kernels.truncate(MAX_KERNELS);
        Ok(Samples { tie, slots: Slots::Memory(table), kernels })
    }

    /// Maps the samples at `path`, which must be whole, undamaged and of the reference that `expected` describes.
    ///
    /// # Errors
    ///
    /// As for [`super::Index::open`].
    pub fn open(path: &Path, expected: &SourceTie) -> Result<Self, IndexError> {
        let failed = |source| IndexError::Io { path: path.to_owned(), source };
        let map = FileMap::open(path).map_err(failed)?;
        map.populate(0..map.len()).map_err(failed)?;
        let len = |header: &Header| header.buckets.checked_add(header.distinct)?.checked_mul(8);
        let (header, table) = Header::read(map.bytes(), path, MAGIC, len)?;
        let damaged = |field| IndexError::Damaged { path: path.to_owned(), field };
        if header.buckets > MAX_SLOTS || header.distinct > MAX_KERNELS as u64 {
            return Err(damaged("number of slots"));
        }
        if header.table_checksum != table_checksum(table) {
            return Err(damaged("checksum of the table"));
        }
        if let Some(changed) = header.tie.first_difference(expected) {
            return Err(IndexError::Stale { path: path.to_owned(), changed });
        }
        let kernels = table[header.buckets as usize * 8..].as_chunks().0;
        let kernels = kernels.iter().map(|block| u64::from_le_bytes(*block)).collect();
        let slots = Slots::File(map, HEADER_LEN..HEADER_LEN + header.buckets as usize * 8);
        Ok(Samples { tie: header.tie, slots, kernels })
    }

    /// Writes the samples to `path`: whole, or not at all; readable by its owner only, as they tell something of what
    /// the reference holds.
    ///
    /// # Errors
    ///
    /// [`IndexError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), IndexError> {
        let mut table = bytemuck::cast_slice(self.slots()).to_vec();
        self.kernels.iter().for_each(|block| table.extend_from_slice(&block.to_le_bytes()));
        let header = Header {
            tie: self.tie.clone(),
            distinct: self.kernels.len() as u64,
            buckets: self.slots().len() as u64,
            table_checksum: table_checksum(&table),
        };
        let written = write_whole(path, &header.to_bytes(MAGIC), &table);
        written.map_err(|source| IndexError::Io { path: path.to_owned(), source })
    }

    /// Bytes of the samples, as a file.
    pub fn file_len(&self) -> u64 {
        (HEADER_LEN + size_of_val(self.slots()) + size_of_val(&*self.kernels)) as u64
    }

    /// Blocks that start as a kernel file does, ascending: the first ones, if there are many.
    pub(crate) fn kernels(&self) -> &[u64] {
        &self.kernels
    }

    fn slots(&self) -> &[u64] {
        match &self.slots {
            Slots::Memory(table) => table.words(),
            // A mapping begins at a page, and its length was checked, so the cast holds.
            Slots::File(map, range) => {
                bytemuck::try_cast_slice(&map.bytes()[range.clone()]).unwrap_or_default()
            }
        }
    }

    /// The word address at which the sampled words with this hash may stand.
    pub(crate) fn look_up(&self, hash: u64) -> Option<u64> {
        let slots = self.slots();
        let found = u64::from_le(*slots.get(slot(hash, slots.len() as u64))?);
        let same = (found ^ entry(hash, 0)) >> ADDRESS_BITS == 0;
        let address = (found & ((1 << ADDRESS_BITS) - 1)).checked_sub(1)?;
        (same && address < self.tie.blocks * PAGE_WORDS as u64).then_some(address)
    }
}

/// The slot of a hash: its upper bits choose.
fn slot(hash: u64, slots: u64) -> usize {
    ((u128::from(hash) * u128::from(slots)) >> 64) as usize
}

/// An entry: the lowest bits of the hash that are not zero in every sample, and the address plus one.
fn entry(hash: u64, address: u64) -> u64 {
    hash >> SPARSITY << ADDRESS_BITS | (address + 1)
}

/// How many of the first blocks are no holes.
fn data_blocks(source: &(impl BlockSource + ?Sized), blocks: u64) -> u64 {
    let (mut block, mut count) = (0, 0);
    while block < blocks {
        let run = source.run(block, blocks - block);
        if !matches!(run, DiskRun::Hole(_)) {
            count += run.blocks();
        }
        block += run.blocks().max(1);
    }
    count
}

/// What some blocks hold.
#[derive(Default)]
struct Found {
    /// Hash and word address of each sample.
    samples: Vec<(u64, u64)>,
    kernels: Vec<u64>,
}

fn sample(
    source: &(impl BlockSource + ?Sized),
    level: Level,
    blocks: Range<u64>,
) -> Result<Found, IndexError> {
    let (mut found, mut anchor) = (Found::default(), Anchors::default());
    let mut add = |block: u64, page: &Page| {
        anchors(level, page, SPARSITY, &mut anchor);
        let address = block * PAGE_WORDS as u64;
        if address + PAGE_WORDS as u64 <= 1 << ADDRESS_BITS {
            let samples = anchor.iter().map(|(position, hash)| (hash, address + u64::from(position)));
            found.samples.extend(samples);
        }
        if crate::kernel::begins_here(page) {
            found.kernels.push(block);
        }
    };
    source.populate(blocks.clone())?;
    let mut buffer = [0; BLOCK_SIZE];
    let mut block = blocks.start;
    while block < blocks.end {
        let run = source.run(block, blocks.end - block);
        match run {
            DiskRun::Hole(_) => {}
            DiskRun::Mapped(bytes) => {
                (block..).zip(bytes.as_chunks::<BLOCK_SIZE>().0).for_each(|(block, page)| add(block, page));
            }
            DiskRun::Opaque(count) => {
                for block in block..block + count {
                    source.read_blocks(block, &mut buffer)?;
                    add(block, &buffer);
                }
            }
        }
        block += run.blocks().max(1);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Identity;

    fn content(blocks: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let words = (0..blocks * PAGE_WORDS).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        });
        words.flat_map(u64::to_le_bytes).collect()
    }

    fn tie(blocks: u64) -> SourceTie {
        SourceTie::new(Identity(7), blocks, &[])
    }

    fn found(samples: &Samples, page: &Page) -> Vec<Option<u64>> {
        let mut found = Anchors::default();
        anchors(Level::Scalar, page, SPARSITY, &mut found);
        let start = |(position, hash): (u16, u64)| {
            samples.look_up(hash).map(|address| address.wrapping_sub(position.into()))
        };
        found.iter().map(start).collect()
    }

    #[test]
    fn content_is_found_at_any_word() {
        let disk = content(300, 1);
        let samples = Samples::build(&disk[..], tie(300), Level::best(), None).unwrap();
        let mut votes = 0;
        for first in [0, 5 * 512, 1000, 77_777, 299 * 512] {
            let page: &Page = disk[first * 8..].first_chunk().unwrap();
            let starts = found(&samples, page);
            // A sample that crosses the end of a block is not taken, and one may have lost its slot to another.
            votes += starts.iter().filter(|&&start| start == Some(first as u64)).count();
            assert!(starts.iter().flatten().all(|&start| start == first as u64));
        }
        assert!(votes >= 10, "{votes} samples of five pages");
        let other = content(1, 99);
        assert!(found(&samples, other.first_chunk().unwrap()).iter().all(Option::is_none));
    }

    #[test]
    fn files_come_back_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = Samples::default_path(&folder.path().join("disk.raw"));
        let mut disk = content(100, 5);
        disk[71 * BLOCK_SIZE + 0x1fe..][..8].copy_from_slice(b"\x55\xaa\xeb\x66HdrS");
        let samples = Samples::build(&disk[..], tie(100), Level::best(), None).unwrap();
        samples.save(&path).unwrap();
        let again = Samples::open(&path, &tie(100)).unwrap();
        assert_eq!((again.slots(), again.file_len()), (samples.slots(), samples.file_len()));
        assert_eq!((again.kernels(), samples.kernels()), (&[71][..], &[71][..]));
        assert!(matches!(Samples::open(&path, &tie(101)), Err(IndexError::Stale { .. })));
        let good = std::fs::read(&path).unwrap();
        for at in [0, 20, 100, 4090, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(Samples::open(&path, &tie(100)), Err(IndexError::Damaged { .. })), "byte {at}");
        }
        std::fs::write(&path, &good[..good.len() - 8]).unwrap();
        assert!(matches!(Samples::open(&path, &tie(100)), Err(IndexError::Damaged { .. })));
        let cancelled = AtomicBool::new(true);
        let stopped = Samples::build(&disk[..], tie(100), Level::best(), Some(&cancelled));
        assert!(matches!(stopped, Err(IndexError::Cancelled)));
    }
}
