//! A raw image: the guest's bytes, with the holes that the file system knows of.

use std::ops::Range;

use super::chain::{Piece, Place};
use super::host::HostFile;
use crate::map::data_extents;
use crate::reference::BLOCK_SIZE;

#[derive(Debug)]
pub(super) struct RawLayer {
    file: u32,
    extents: DataExtents,
    size: u64,
}

impl RawLayer {
    pub(super) fn open(file: u32, host: &HostFile) -> Self {
        Self { file, extents: DataExtents::of(host, 0..host.len()), size: host.len() }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn piece(&self, offset: u64, max: u64) -> (Piece, u64) {
        let (is_data, len) = self.extents.at(offset, max);
        let place = if is_data { Place::Data { file: self.file, at: offset } } else { Place::Zero };
        (Piece::Here(place), len)
    }
}

/// Which parts of a host file have storage, ascending, with ends that are multiples of the block size.
#[derive(Debug)]
pub(super) struct DataExtents(Vec<Range<u64>>);

impl DataExtents {
    /// The parts of `range` of `host`. Holes shrink to whole blocks, so that no block is cut in two by one.
    pub(super) fn of(host: &HostFile, range: Range<u64>) -> Self {
        let size = BLOCK_SIZE as u64;
        let first = range.start;
        let mut extents: Vec<Range<u64>> = Vec::new();
        for extent in data_extents(host.map.file(), range) {
            // Blocks are counted from where the range begins.
            let start = first + (extent.start - first) / size * size;
            let end = first.saturating_add((extent.end - first).div_ceil(size).saturating_mul(size));
            match extents.last_mut() {
                Some(last) if start <= last.end => last.end = end,
                _ => extents.push(start..end),
            }
        }
        Self(extents)
    }

    /// Whether there is data at `offset` of the file, and for how many bytes: at least 1, at most `max`.
    pub(super) fn at(&self, offset: u64, max: u64) -> (bool, u64) {
        let next = self.0.partition_point(|extent| extent.end <= offset);
        match self.0.get(next) {
            Some(extent) if extent.start <= offset => (true, max.min(extent.end - offset)),
            Some(extent) => (false, max.min(extent.start - offset)),
            None => (false, max),
        }
    }
}
