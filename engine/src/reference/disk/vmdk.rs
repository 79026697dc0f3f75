//! One vmdk image without its parent: a row of extents, each flat, sparse or zero.
//!
//! Covers what VMware's desktop products and QEMU write (monolithicSparse, monolithicFlat, twoGbMaxExtentSparse,
//! twoGbMaxExtentFlat, streamOptimized, and flat VMFS extents), as told in VMware's "Virtual Disk Format 5.0". The
//! sparse formats of ESX itself (COWD, SESPARSE) are refused. The imago crate reads flat extents only, so this is
//! ours altogether.

mod descriptor;
mod sparse;

use std::ops::Range;

use self::descriptor::{Descriptor, ExtentKind};
use self::sparse::SparseExtent;
use super::DiskFormat;
use super::chain::{Backing, Files, Piece, Place};
use super::host::HostFile;
use super::raw::DataExtents;
use crate::reference::{BLOCK_SIZE, MAX_BLOCKS, ReferenceError};

/// Bytes of a sector, the unit of all lengths and offsets in the format.
const SECTOR: u64 = 512;

#[derive(Debug)]
pub(super) struct VmdkLayer {
    /// Ascending and without gaps, from 0 on.
    extents: Vec<Extent>,
}

#[derive(Debug)]
struct Extent {
    /// The bytes of the disk that it holds.
    range: Range<u64>,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Zero,
    Flat { file: u32, at: u64, extents: DataExtents },
    Sparse(SparseExtent),
}

impl VmdkLayer {
    /// Whether a file looks like a vmdk image.
    pub(super) fn is_one(file: &HostFile) -> bool {
        let magic = file.bytes(0, 4);
        magic == Some(sparse::MAGIC) || magic == Some(b"COWD") || descriptor::is_one(file)
    }

    pub(super) fn open(file: u32, files: &mut Files) -> Result<(Self, Option<Backing>), ReferenceError> {
        let host = files.get(file);
        if host.bytes(0, 4) == Some(b"COWD") {
            return Err(host.unsupported("a sparse vmdk extent of ESX (COWD)"));
        }
        if host.bytes(0, 4) == Some(sparse::MAGIC) {
            let (extent, descriptor) = SparseExtent::open(file, host)?;
            let backing = match descriptor {
                Some(descriptor) => parent(host, &descriptor)?,
                None => None,
            };
            let range = 0..checked_end(host, 0, extent.sectors())?;
            let extents = vec![Extent { range, storage: Storage::Sparse(extent) }];
            return Ok((Self { extents }, backing));
        }
        let descriptor = Descriptor::parse(host, host.map.bytes())?;
        let backing = parent(host, &descriptor)?;
        let mut extents = Vec::new();
        let mut start = 0;
        for line in &descriptor.extents {
            let end = checked_end(files.get(file), start, line.sectors)?;
            let storage = open_extent(file, files, &line.kind, end - start)?;
            extents.push(Extent { range: start..end, storage });
            start = end;
        }
        Ok((Self { extents }, backing))
    }

    pub(super) fn size(&self) -> u64 {
        self.extents.last().map_or(0, |extent| extent.range.end)
    }

    fn extent(&self, offset: u64) -> Option<&Extent> {
        self.extents.get(self.extents.partition_point(|extent| extent.range.end <= offset))
    }

    pub(super) fn piece(&self, offset: u64, max: u64, files: &Files) -> Result<(Piece, u64), ReferenceError> {
        let Some(extent) = self.extent(offset) else { return Ok((Piece::Below, max)) };
        let max = max.min(extent.range.end - offset);
        let ahead = offset - extent.range.start;
        match &extent.storage {
            Storage::Zero => Ok((Piece::Here(Place::Zero), max)),
            Storage::Flat { file, at, extents } => {
                let at = at + ahead;
                let (is_data, len) = extents.at(at, max);
                let place = if is_data { Place::Data { file: *file, at } } else { Place::Zero };
                Ok((Piece::Here(place), len))
            }
            Storage::Sparse(sparse) => sparse.piece(ahead, max, files),
        }
    }

    pub(super) fn unit(&self, offset: u64) -> Range<u64> {
        match self.extent(offset) {
            Some(Extent { range, storage: Storage::Sparse(sparse) }) => {
                let unit = sparse.unit(offset - range.start);
                range.start + unit.start..(range.start + unit.end).min(range.end)
            }
            _ => offset..offset,
        }
    }

    pub(super) fn decode(&self, offset: u64, buf: &mut [u8], files: &Files) -> Result<(), ReferenceError> {
        match self.extent(offset) {
            Some(Extent { range, storage: Storage::Sparse(sparse) }) => {
                sparse.decode(offset - range.start, buf, range.start, files)
            }
            _ => Ok(()),
        }
    }
}

/// Where an extent of `sectors` that begins at `start` of the disk ends.
fn checked_end(host: &HostFile, start: u64, sectors: u64) -> Result<u64, ReferenceError> {
    let end = sectors.checked_mul(SECTOR).and_then(|len| len.checked_add(start));
    match end {
        Some(end) if end <= MAX_BLOCKS * BLOCK_SIZE as u64 => Ok(end),
        _ => Err(host.damaged("number of sectors", sectors)),
    }
}

fn open_extent(
    descriptor: u32,
    files: &mut Files,
    kind: &ExtentKind,
    len: u64,
) -> Result<Storage, ReferenceError> {
    match kind {
        ExtentKind::Zero => Ok(Storage::Zero),
        ExtentKind::Flat { name, sector } => {
            let file = files.add(&files.get(descriptor).neighbour(name)?)?;
            let host = files.get(file);
            let range = sector.checked_mul(SECTOR).and_then(|at| Some(at..at.checked_add(len)?));
            let Some(range) = range else { return Err(host.damaged("first sector", *sector)) };
            Ok(Storage::Flat { file, at: range.start, extents: DataExtents::of(host, range) })
        }
        ExtentKind::Sparse { name } => {
            let file = files.add(&files.get(descriptor).neighbour(name)?)?;
            let host = files.get(file);
            let (extent, _) = SparseExtent::open(file, host)?;
            if extent.sectors() * SECTOR < len {
                return Err(host.damaged("capacity", extent.sectors()));
            }
            Ok(Storage::Sparse(extent))
        }
    }
}

fn parent(host: &HostFile, descriptor: &Descriptor) -> Result<Option<Backing>, ReferenceError> {
    if !descriptor.has_parent {
        return Ok(None);
    }
    match &descriptor.parent {
        Some(name) => Ok(Some(Backing { path: host.neighbour(name)?, format: Some(DiskFormat::Vmdk) })),
        None => Err(host.unsupported("a vmdk image whose parent has no name")),
    }
}
