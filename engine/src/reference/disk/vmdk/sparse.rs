//! A sparse extent: a directory of tables of grains, each of which is somewhere in the file, compressed or not.

use std::ops::Range;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

use super::SECTOR;
use super::descriptor::Descriptor;
use crate::reference::ReferenceError;
use crate::reference::disk::chain::{Files, Piece, Place};
use crate::reference::disk::host::HostFile;

pub(super) const MAGIC: &[u8] = b"KDMV";

/// A directory offset that means: look into the footer instead.
const AT_END: u64 = u64::MAX;
/// Where the footer begins, from the end of the file.
const FOOTER: u64 = 1024;
/// Table entries of this value and below are no sectors: nothing, and (with the flag) zeros.
const ZERO_GRAIN: u32 = 1;
/// Sectors of the smallest (by the format) and the largest grain; 128 is what the products write.
const MIN_GRAIN: u64 = 8;
const MAX_GRAIN: u64 = 4096;
/// The most entries of a table, which is how many the products write.
const MAX_ENTRIES: u64 = 512;

/// Flags of the header.
const HAS_ZERO_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const HAS_MARKERS: u32 = 1 << 17;
/// Bytes of a grain's marker: its first sector on the disk, and the length of its data.
const MARKER: u64 = 12;

#[derive(Debug)]
pub(super) struct SparseExtent {
    file: u32,
    sectors: u64,
    /// Bytes of a grain.
    grain: u64,
    /// Entries of a table.
    entries: u64,
    /// Byte offset of the directory.
    directory: u64,
    flags: u32,
}

impl SparseExtent {
    /// Reads the header, and the descriptor if the file has one.
    pub(super) fn open(file: u32, host: &HostFile) -> Result<(Self, Option<Descriptor>), ReferenceError> {
        if host.bytes(0, 4) != Some(MAGIC) {
            return Err(host.unsupported("a vmdk extent that is not of the hosted sparse format"));
        }
        let mut header = 0;
        let u32_at = |at| host.array(at, "header of length").map(u32::from_le_bytes);
        let u64_at = |at| host.array(at, "header of length").map(u64::from_le_bytes);
        if u64_at(56)? == AT_END {
            header = host.len().saturating_sub(FOOTER);
            if host.bytes(header, 4) != Some(MAGIC) {
                return Err(host.damaged("footer at", header));
            }
        }
        let version = u32_at(header + 4)?;
        if !(1..=3).contains(&version) {
            return Err(host.unsupported("another version of the sparse vmdk format than 1 to 3"));
        }
        let flags = u32_at(header + 8)?;
        if flags & COMPRESSED != 0 {
            let method = u16::from_le_bytes(host.array(header + 77, "header of length")?);
            if method != 1 || flags & HAS_MARKERS == 0 {
                return Err(host.unsupported("compression of a vmdk image that is not deflate with markers"));
            }
        }
        let (grain, entries) = (u64_at(header + 20)?, u64::from(u32_at(header + 44)?));
        if !grain.is_power_of_two() || !(MIN_GRAIN..=MAX_GRAIN).contains(&grain) {
            return Err(host.damaged("grain size", grain));
        }
        if entries == 0 || entries > MAX_ENTRIES {
            return Err(host.damaged("number of table entries", entries));
        }
        let directory = sector(host, u64_at(header + 56)?)?;
        let sectors = u64_at(header + 12)?;
        super::checked_end(host, 0, sectors)?;
        let extent = Self { file, sectors, grain: grain * SECTOR, entries, directory, flags };

        // The first header has the descriptor, also where there is a footer.
        let (at, len) = (u64_at(28)?, u64_at(36)?);
        if at == 0 {
            return Ok((extent, None));
        }
        let range = (sector(host, at)?, sector(host, len)?);
        match host.bytes(range.0, range.1) {
            Some(text) => Ok((extent, Some(Descriptor::parse(host, text)?))),
            None => Err(host.damaged("sector of the descriptor", at)),
        }
    }

    /// Sectors of the disk that it holds.
    pub(super) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// What `offset` of the extent is, and for how many bytes.
    pub(super) fn piece(&self, offset: u64, max: u64, files: &Files) -> Result<(Piece, u64), ReferenceError> {
        let host = files.get(self.file);
        let grain = offset / self.grain;
        let left = (self.entries - grain % self.entries) * self.grain - offset % self.grain;
        let Some(table) = self.table(host, grain)? else {
            return Ok((Piece::Below, max.min(left)));
        };
        let first = self.entry(host, table, grain)?;
        // Grains that go on in the same way are told together, as far as this table reaches.
        let mut len = self.grain - offset % self.grain;
        let mut next = grain + 1;
        while len < max.min(left) && self.goes_on(first, self.entry(host, table, next)?, next - grain) {
            len += self.grain;
            next += 1;
        }
        let piece = match self.meaning(first) {
            Piece::Here(Place::Data { file, at }) => {
                Piece::Here(Place::Data { file, at: at + offset % self.grain })
            }
            other => other,
        };
        Ok((piece, len.min(max)))
    }

    /// Byte offset of the table with a grain's entry, if there is one.
    fn table(&self, host: &HostFile, grain: u64) -> Result<Option<u64>, ReferenceError> {
        // The directory's offset is below 2^63, and grains are fewer than 2^52.
        let at = self.directory + grain / self.entries * 4;
        match u32::from_le_bytes(host.array(at, "directory entry at")?) {
            0 => Ok(None),
            table => Ok(Some(u64::from(table) * SECTOR)),
        }
    }

    fn entry(&self, host: &HostFile, table: u64, grain: u64) -> Result<u32, ReferenceError> {
        Ok(u32::from_le_bytes(host.array(table + grain % self.entries * 4, "table entry at")?))
    }

    fn meaning(&self, entry: u32) -> Piece {
        if entry == 0 {
            Piece::Below
        } else if entry == ZERO_GRAIN && self.flags & HAS_ZERO_GRAINS != 0 {
            Piece::Here(Place::Zero)
        } else if self.flags & COMPRESSED != 0 {
            Piece::Here(Place::Coded)
        } else {
            Piece::Here(Place::Data { file: self.file, at: u64::from(entry) * SECTOR })
        }
    }

    /// Whether `entry`, `steps` after `first`, is of the same kind and in the next place.
    fn goes_on(&self, first: u32, entry: u32, steps: u64) -> bool {
        match (self.meaning(first), self.meaning(entry)) {
            (Piece::Here(Place::Data { at, .. }), Piece::Here(Place::Data { at: next, .. })) => {
                next == at + steps * self.grain
            }
            (first, next) => first == next,
        }
    }

    /// The grain around `offset`.
    pub(super) fn unit(&self, offset: u64) -> Range<u64> {
        let start = offset / self.grain * self.grain;
        start..start + self.grain
    }

    /// Decompresses the grain at `offset` of the extent, which begins at `start` of the disk, as far as `buf` takes it.
    pub(super) fn decode(
        &self,
        offset: u64,
        buf: &mut [u8],
        start: u64,
        files: &Files,
    ) -> Result<(), ReferenceError> {
        let host = files.get(self.file);
        let failed = || ReferenceError::Compressed { path: host.path.clone(), offset: start + offset };
        let grain = offset / self.grain;
        let table = self.table(host, grain)?.ok_or_else(failed)?;
        let at = u64::from(self.entry(host, table, grain)?) * SECTOR;
        let first = u64::from_le_bytes(host.array(at, "grain marker at")?);
        let len = u32::from_le_bytes(host.array(at + 8, "grain marker at")?);
        if first != grain * (self.grain / SECTOR) {
            return Err(host.damaged("grain marker at", at));
        }
        let data = host.bytes(at + MARKER, len.into()).ok_or_else(failed)?;
        // The last grain of an extent may be cut, but is stored whole.
        let mut whole = vec![0; self.grain as usize];
        let flags = inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER
            | inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (status, _, written) = decompress(&mut DecompressorOxide::new(), data, &mut whole, 0, flags);
        if status != TINFLStatus::Done || written < buf.len() {
            return Err(failed());
        }
        buf.copy_from_slice(&whole[..buf.len()]);
        Ok(())
    }
}

/// Byte offset of a sector.
fn sector(host: &HostFile, number: u64) -> Result<u64, ReferenceError> {
    number
        .checked_mul(SECTOR)
        .filter(|at| *at <= i64::MAX as u64)
        .ok_or_else(|| host.damaged("sector", number))
}
