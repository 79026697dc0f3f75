//! A guest's disk as a row of 4096-byte blocks, from a raw, qcow2 or vmdk image with all its backing files.
//!
//! Opening walks the image once and writes down, as a sorted list of extents, where in which host file each stretch
//! of blocks lies. Reading is then a search in that list and a look into mapped memory; only compressed and
//! scattered blocks go through the image's tables again. The list is bounded: what lies beyond its last extent is
//! looked up in the tables each time.
//!
//! Images are opened for reading only and never locked, so a running VM may have them open. What it writes
//! meanwhile may or may not be seen. Host files that are cut short while mapped are the hazard that `map` tells of.
//!
//! Not for writing, not for encrypted images, and no proof of anything: an image's contents are only ever a hint
//! until bytes are compared.

mod cache;
mod chain;
mod host;
mod qcow2;
mod raw;
#[cfg(test)]
mod tests;
mod vmdk;

use std::ops::Range;
use std::path::Path;

use self::chain::{Chain, Place};
use super::block_source::check_range;
use super::index::SourceTie;
use super::{BLOCK_SIZE, BlockSource, DiskRun, Identity, MAX_BLOCKS, ReferenceError};

/// The most extents that are kept: 24 MiB of them.
const MAX_EXTENTS: usize = 1 << 20;
/// The most steps through an image's tables that opening takes.
const MAX_STEPS: usize = 1 << 23;

/// The format of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskFormat {
    /// The guest's bytes and nothing else.
    Raw,
    /// QEMU's format, versions 2 and 3.
    Qcow2,
    /// VMware's format: a sparse extent or a descriptor that names extents.
    Vmdk,
}

/// A disk image, opened for reading.
#[derive(Debug)]
pub struct DiskImage {
    chain: Chain,
    blocks: u64,
    /// Ascending by block; each reaches to the next one, the last one to `listed`.
    extents: Vec<Extent>,
    /// Blocks below this are in `extents`.
    listed: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Extent {
    block: u64,
    place: Place,
}

impl DiskImage {
    /// Opens the image at `path`, whose format shows in its first bytes, and all files that it needs.
    ///
    /// Backing files are taken in the format that the image names, or where it names none, by content.
    ///
    /// # Errors
    ///
    /// Every [`ReferenceError`] but `OutOfRange`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ReferenceError> {
        Self::from_chain(Chain::open(path.as_ref(), None)?)
    }

    /// Opens the image at `path` as `format`: a raw disk whose guest wrote another format's magic number into its
    /// first block, say.
    ///
    /// # Errors
    ///
    /// As for [`DiskImage::open`].
    pub fn open_as(path: impl AsRef<Path>, format: DiskFormat) -> Result<Self, ReferenceError> {
        Self::from_chain(Chain::open(path.as_ref(), Some(format))?)
    }

    fn from_chain(chain: Chain) -> Result<Self, ReferenceError> {
        let blocks = chain.size() / BLOCK_SIZE as u64;
        if blocks > MAX_BLOCKS {
            return Err(ReferenceError::TooLarge {
                path: chain.path().to_owned(),
                size: chain.size(),
                max: MAX_BLOCKS * BLOCK_SIZE as u64,
            });
        }
        let mut image = Self { chain, blocks, extents: Vec::new(), listed: 0 };
        image.list_extents(MAX_EXTENTS, MAX_STEPS)?;
        Ok(image)
    }

    fn list_extents(&mut self, max_extents: usize, max_steps: usize) -> Result<(), ReferenceError> {
        for _ in 0..max_steps {
            if self.listed == self.blocks {
                break;
            }
            let (place, count) = self.look_up(self.listed, self.blocks - self.listed)?;
            let joined = self.extents.last().is_some_and(|last| last.reaches(self.listed) == Some(place));
            if !joined {
                if self.extents.len() == max_extents {
                    break;
                }
                self.extents.push(Extent { block: self.listed, place });
            }
            self.listed += count;
        }
        self.extents.shrink_to_fit();
        Ok(())
    }

    /// Where the blocks from `block` on lie, from the image's tables. A block in several pieces is `Coded`.
    fn look_up(&self, block: u64, max: u64) -> Result<(Place, u64), ReferenceError> {
        let size = BLOCK_SIZE as u64;
        let (place, bytes) = self.chain.locate(block * size, max * size)?;
        match bytes / size {
            0 => Ok((Place::Coded, 1)),
            count => Ok((place, count)),
        }
    }

    /// As [`Self::look_up`], from the list of extents where that reaches.
    fn place(&self, block: u64, max: u64) -> Result<(Place, u64), ReferenceError> {
        if block >= self.listed {
            return self.look_up(block, max);
        }
        // The first extent begins at block 0, so at least one begins at or before any listed block.
        let next = self.extents.partition_point(|extent| extent.block <= block);
        let end = self.extents.get(next).map_or(self.listed, |extent| extent.block);
        let place = next.checked_sub(1).and_then(|last| self.extents[last].reaches(block));
        Ok((place.unwrap_or(Place::Coded), max.min(end - block)))
    }

    /// Number of 4096-byte blocks that the guest sees. A partial last block is left out.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// How the blocks from `block` on can be read: at least one block, at most `max`.
    ///
    /// Past the end, and for a `max` of 0, it is a hole of no blocks. Blocks that can't be looked up are `Opaque`;
    /// [`DiskImage::read_blocks`] says why.
    pub fn run(&self, block: u64, max: u64) -> DiskRun<'_> {
        let max = max.min(self.blocks.saturating_sub(block));
        if max == 0 {
            return DiskRun::Hole(0);
        }
        match self.place(block, max) {
            Ok((Place::Zero, count)) => DiskRun::Hole(count),
            Ok((Place::Data { file, at }, count)) => {
                match self.chain.data(file, at, count * BLOCK_SIZE as u64) {
                    Some(bytes) => DiskRun::Mapped(bytes),
                    None => DiskRun::Opaque(count),
                }
            }
            Ok((Place::Coded, count)) => DiskRun::Opaque(count),
            Err(_) => DiskRun::Opaque(1),
        }
    }

    /// Fills `buf` with the blocks from `block` on.
    ///
    /// # Errors
    ///
    /// [`ReferenceError::OutOfRange`] when `buf` is no whole number of blocks or reaches past the end; whatever keeps
    /// the blocks from being read, in which case `buf` holds nothing of use.
    pub fn read_blocks(&self, block: u64, buf: &mut [u8]) -> Result<(), ReferenceError> {
        check_range(block, buf.len(), self.blocks)?;
        let (mut block, mut rest) = (block, buf);
        while !rest.is_empty() {
            let run = self.run(block, (rest.len() / BLOCK_SIZE) as u64);
            let (now, later) = rest.split_at_mut(run.blocks() as usize * BLOCK_SIZE);
            match run {
                DiskRun::Hole(_) => now.fill(0),
                DiskRun::Mapped(bytes) => now.copy_from_slice(bytes),
                DiskRun::Opaque(_) => self.chain.read(block * BLOCK_SIZE as u64, now)?,
            }
            block += run.blocks();
            rest = later;
        }
        Ok(())
    }

    /// Brings mapped blocks into memory, and finds out whether they can be read.
    ///
    /// # Errors
    ///
    /// [`ReferenceError::Io`] when reading them would end the process: a file was cut short, or its storage fails.
    pub fn populate(&self, blocks: Range<u64>) -> Result<(), ReferenceError> {
        let end = blocks.end.min(self.blocks);
        let mut block = blocks.start;
        while block < end {
            // A failed look-up is for `read_blocks` to report.
            let (place, count) = self.place(block, end - block).unwrap_or((Place::Coded, 1));
            if let Place::Data { file, at } = place {
                self.chain.populate(file, at..at + count * BLOCK_SIZE as u64)?;
            }
            block += count;
        }
        Ok(())
    }

    /// What an index of this image must have been made from: see [`SourceTie`].
    ///
    /// # Errors
    ///
    /// As for [`Identity::of`].
    pub fn tie(&self) -> Result<SourceTie, ReferenceError> {
        Ok(SourceTie::new(Identity::of(self)?, self.blocks, &self.chain.stamps()))
    }

    /// The files that the image is made of, itself first.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.chain.files()
    }
}

impl Extent {
    /// Where `block` lies if this extent goes on up to it.
    fn reaches(&self, block: u64) -> Option<Place> {
        let ahead = block.checked_sub(self.block)? * BLOCK_SIZE as u64;
        Some(match self.place {
            Place::Data { file, at } => Place::Data { file, at: at + ahead },
            other => other,
        })
    }
}

impl BlockSource for DiskImage {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn run(&self, block: u64, max: u64) -> DiskRun<'_> {
        DiskImage::run(self, block, max)
    }

    fn read_blocks(&self, block: u64, buf: &mut [u8]) -> Result<(), ReferenceError> {
        DiskImage::read_blocks(self, block, buf)
    }

    fn populate(&self, blocks: Range<u64>) -> Result<(), ReferenceError> {
        DiskImage::populate(self, blocks)
    }
}
