//! Kernel files on a guest's disk.
//!
//! Looked for in the ext2, ext3 and ext4 file systems of its partitions, in the root folder and in `/boot`. On a disk that
//! has none of those (another file system, logical volumes), the blocks that start as a kernel file does are known from when
//! the disk was sampled, and the file is taken to be in one piece.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Read};

use super::bzimage::{BzImage, HEAD_LEN};
use crate::reference::{BLOCK_SIZE, BlockSource};

const SECTOR: u64 = 512;
/// Partitions that are looked at.
const MAX_PARTITIONS: u64 = 128;
/// Kernels of one disk that are looked at.
const MAX_KERNELS: usize = 16;
/// The smallest block of a file system.
const LEAST_BLOCK: u64 = 1 << 10;
/// Files of a folder that are looked at.
const MAX_FILES: usize = 4096;

type Disk = Arc<dyn BlockSource + Send + Sync>;

/// A file that is a kernel.
#[derive(Debug)]
pub(super) struct KernelFile {
    /// For messages.
    pub(super) name: String,
    pub(super) head: BzImage,
    /// Bytes of the disk that hold the payload, in order.
    pub(super) payload: Vec<Range<u64>>,
}

/// The kernels of a disk, as far as they can be found; `starts` are blocks that start as a kernel file does.
pub(super) fn kernels(disk: &Disk, starts: &[u64]) -> Vec<KernelFile> {
    let mut found = Vec::new();
    let mut file_systems = 0;
    for start in partitions(disk) {
        let log = Rc::new(RefCell::new(Log::new()));
        let reader = Reader { disk: Arc::clone(disk), start, log: Rc::clone(&log) };
        match Ext4::load(Box::new(reader)) {
            Ok(file_system) => {
                file_systems += 1;
                list(disk.as_ref(), &file_system, &log, &mut found);
            }
            Err(error) => log::trace!("no ext file system at byte {start} of the disk: {error}"),
        }
    }
    if file_systems == 0 {
        found
            .extend(starts.iter().take(MAX_KERNELS).filter_map(|&block| read_at_block(disk.as_ref(), block)));
    }
    found
}

/// Reads any bytes of a disk.
fn read_at(disk: &dyn BlockSource, at: u64, out: &mut [u8]) -> io::Result<()> {
    let mut block = [0; BLOCK_SIZE];
    let (mut at, mut rest) = (at, out);
    while !rest.is_empty() {
        let offset = (at % BLOCK_SIZE as u64) as usize;
        let whole = rest.len() / BLOCK_SIZE * BLOCK_SIZE;
        if offset == 0 && whole > 0 {
            let (now, later) = rest.split_at_mut(whole);
            disk.read_blocks(at / BLOCK_SIZE as u64, now).map_err(io::Error::other)?;
            (at, rest) = (at + whole as u64, later);
            continue;
        }
        let (now, later) = rest.split_at_mut(rest.len().min(BLOCK_SIZE - offset));
        disk.read_blocks(at / BLOCK_SIZE as u64, &mut block).map_err(io::Error::other)?;
        now.copy_from_slice(&block[offset..offset + now.len()]);
        (at, rest) = (at + now.len() as u64, later);
    }
    Ok(())
}

/// Reads byte ranges, one after the other.
pub(super) fn read_ranges(disk: &dyn BlockSource, ranges: &[Range<u64>]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for range in ranges {
        let start = bytes.len();
        bytes.resize(start + (range.end - range.start) as usize, 0);
        read_at(disk, range.start, &mut bytes[start..])?;
    }
    Ok(bytes)
}

/// Where file systems may start, in bytes: at the start of the disk, and of each partition.
fn partitions(disk: &Disk) -> Vec<u64> {
    let mut starts = vec![0];
    let mut first = [0; 1024];
    if read_at(disk.as_ref(), 0, &mut first).is_err() || first[510..512] != [0x55, 0xaa] {
        return starts;
    }
    for entry in first[446..510].chunks_exact(16) {
        let sector = u32::from_le_bytes([entry[8], entry[9], entry[10], entry[11]]);
        if entry[4] == 0xee {
            starts.extend(gpt_partitions(disk, &first[512..]));
        } else if entry[4] != 0 {
            starts.push(u64::from(sector) * SECTOR);
        }
    }
    starts
}

/// The partitions of a GUID partition table with this header.
fn gpt_partitions(disk: &Disk, header: &[u8]) -> Vec<u64> {
    let int64 = |bytes: &[u8], at: usize| {
        bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    if !header.starts_with(b"EFI PART") {
        return Vec::new();
    }
    let (table, sizes) = (int64(header, 72), int64(header, 80));
    let (count, size) = ((sizes & 0xffff_ffff).min(MAX_PARTITIONS), sizes >> 32);
    let mut entry = [0; 48];
    let starts = (0..count).filter_map(|index| {
        let at = table.checked_mul(SECTOR)?.checked_add(index.checked_mul(size)?)?;
        read_at(disk.as_ref(), at, &mut entry).ok()?;
        let used = entry[..16].iter().any(|&byte| byte != 0);
        used.then(|| int64(&entry, 32).checked_mul(SECTOR)).flatten()
    });
    starts.collect()
}

/// Reads a disk for a file system, and notes where it read.
struct Reader {
    disk: Disk,
    start: u64,
    log: Rc<RefCell<Log>>,
}

/// The byte ranges of the disk that a file system read last, the latest at the end.
type Log = VecDeque<Range<u64>>;

/// Ranges that are remembered: the file system reads ahead, and keeps what it read.
const LOG_LEN: usize = 64;

impl Ext4Read for Reader {
    fn read(&mut self, at: u64, out: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let at = self.start.checked_add(at).ok_or("beyond the disk")?;
        read_at(self.disk.as_ref(), at, out)?;
        let mut log = self.log.borrow_mut();
        if log.len() == LOG_LEN {
            log.pop_front();
        }
        log.push_back(at..at + out.len() as u64);
        Ok(())
    }
}

/// Lists the kernels of a file system.
fn list(disk: &dyn BlockSource, file_system: &Ext4, log: &RefCell<Log>, found: &mut Vec<KernelFile>) {
    for folder in ["/", "/boot"] {
        let Ok(entries) = file_system.read_dir(folder) else { continue };
        for entry in entries.take(MAX_FILES).flatten() {
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_regular_file());
            if !is_file || found.len() >= MAX_KERNELS {
                continue;
            }
            let path = entry.path();
            let name = path.display().to_string();
            match read_file(disk, file_system, path, log) {
                Ok(Some(kernel)) => found.push(kernel),
                Ok(None) => {}
                Err(error) => log::debug!("{name}: {error}"),
            }
        }
    }
}

/// Where the payload of a kernel file lies on the disk, if it is one.
fn read_file(
    disk: &dyn BlockSource,
    file_system: &Ext4,
    path: ext4_view::PathBuf,
    log: &RefCell<Log>,
) -> Result<Option<KernelFile>, Box<dyn Error>> {
    let mut file = file_system.open(&path)?;
    let mut head = vec![0; HEAD_LEN];
    let mut len = 0;
    while len < head.len() {
        match file.read_bytes(&mut head[len..])? {
            0 => break,
            more => len += more,
        }
    }
    let Some(kernel) = BzImage::parse(&head[..len]) else { return Ok(None) };
    // From the start of a block on, so that what is read is what a block of the disk starts with.
    let mut at = kernel.payload.start / LEAST_BLOCK * LEAST_BLOCK;
    let before = kernel.payload.start - at;
    file.seek_to(at)?;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while at < kernel.payload.end {
        // At most a block of the file system.
        let want = (kernel.payload.end - at).min(buffer.len() as u64) as usize;
        let read = file.read_bytes(&mut buffer[..want])?;
        let start = find(disk, &buffer[..read], ranges.last(), &log.borrow());
        let start = start.filter(|_| read > 0).ok_or("its place on the disk is not known")?;
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end += read as u64,
            _ => ranges.push(start..start + read as u64),
        }
        at += read as u64;
    }
    if let Some(first) = ranges.first_mut() {
        first.start += before;
    }
    let name = path.display().to_string();
    Ok(Some(KernelFile { name, head: kernel, payload: ranges }))
}

/// Where on the disk these bytes of a file are: right behind those `before`, or else in a place that was read not long ago.
fn find(disk: &dyn BlockSource, bytes: &[u8], before: Option<&Range<u64>>, log: &Log) -> Option<u64> {
    let mut there = vec![0; bytes.len()];
    let mut holds = |start: u64| read_at(disk, start, &mut there).is_ok() && there == bytes;
    let read = log.iter().rev().flat_map(|range| {
        let last = (range.end + 1).saturating_sub(bytes.len() as u64);
        (range.start..last).step_by(LEAST_BLOCK as usize)
    });
    before.map(|before| before.end).into_iter().chain(read).find(|&start| holds(start))
}

/// Reads the kernel file that starts at a block, as if it were in one piece.
fn read_at_block(disk: &dyn BlockSource, block: u64) -> Option<KernelFile> {
    let start = block.checked_mul(BLOCK_SIZE as u64)?;
    let mut head = vec![0; HEAD_LEN];
    read_at(disk, start, &mut head).ok()?;
    let head = BzImage::parse(&head)?;
    let payload = start + head.payload.start..start + head.payload.end;
    let name = format!("the file at byte {start} of the disk");
    (payload.end <= disk.blocks() * BLOCK_SIZE as u64).then(|| KernelFile {
        name,
        head,
        payload: vec![payload],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_one_piece_is_read_where_it_starts() {
        let mut bytes = vec![0; 40 * BLOCK_SIZE];
        let head = super::super::bzimage::tests::head();
        bytes[3 * BLOCK_SIZE..][..head.len()].copy_from_slice(&head);
        let disk: Disk = Arc::new(Bytes(bytes));
        let found = kernels(&disk, &[0, 3, 39, 1 << 60]);
        assert_eq!(found.len(), 1);
        let start = 3 * 4096 + 16 * 512 + 0x2e1;
        assert_eq!(
            (found[0].head.release.as_str(), &found[0].payload[..]),
            ("6.1.0-56-amd64", std::slice::from_ref(&(start..start + 5000)))
        );
        assert_eq!(read_ranges(disk.as_ref(), &found[0].payload).unwrap().len(), 5000);
        // It must end on the disk.
        let disk: Disk = Arc::new(Bytes(vec![0; 4 * BLOCK_SIZE]));
        assert!(kernels(&disk, &[3]).is_empty());
    }

    struct Bytes(Vec<u8>);

    impl BlockSource for Bytes {
        fn blocks(&self) -> u64 {
            BlockSource::blocks(&self.0[..])
        }

        fn run(&self, block: u64, max: u64) -> crate::reference::DiskRun<'_> {
            self.0[..].run(block, max)
        }

        fn read_blocks(&self, block: u64, buf: &mut [u8]) -> Result<(), crate::reference::ReferenceError> {
            self.0[..].read_blocks(block, buf)
        }
    }

    #[test]
    fn partitions_of_both_kinds_of_tables_are_found() {
        let mut bytes = vec![0; 8 * BLOCK_SIZE];
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        bytes[446 + 4] = 0x83;
        bytes[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
        assert_eq!(partitions(&(Arc::new(Bytes(bytes.clone())) as Disk)), [0, 2048 * 512]);
        bytes[446 + 4] = 0xee;
        bytes[512..520].copy_from_slice(b"EFI PART");
        bytes[512 + 72..512 + 80].copy_from_slice(&2u64.to_le_bytes());
        bytes[512 + 80..512 + 88].copy_from_slice(&(128u64 << 32 | 4).to_le_bytes());
        for (index, sector) in [(0u64, 34u64), (2, 4096)] {
            let entry = 1024 + index as usize * 128;
            bytes[entry] = 1;
            bytes[entry + 32..entry + 40].copy_from_slice(&sector.to_le_bytes());
        }
        assert_eq!(partitions(&(Arc::new(Bytes(bytes.clone())) as Disk)), [0, 34 * 512, 4096 * 512]);
        // Tables that lead anywhere are only not followed.
        bytes[512 + 72..512 + 88].fill(0xff);
        assert_eq!(partitions(&(Arc::new(Bytes(bytes)) as Disk)), [0]);
    }
}
