//! A file's bytes as a read-only slice, and which parts of a file hold data.
//!
//! Memory images are many gigabytes, mostly read once and partly holes, so they are mapped, not
//! read: the kernel pages them in, shares its cache with us, and takes memory back when it is short.
//! The GPU worker's `gpu/import.rs` and this are the only files of the crate with `unsafe` in them.
//!
//! **The hazard.** The mapping shows the file as it is *now*. If another process cuts the file short
//! while it is mapped, touching a page past the new end kills this process with SIGBUS; so does a
//! disk that can't be read. If another process writes to the file, the bytes change under us. No user
//! of a mapping can rule this out on Unix, so it is the caller's promise, stated on [`FileMap::open`]:
//! the file rests while it is open. What we do about it: [`FileMap::populate`] faults pages in
//! through a call that answers with an error where a plain read would be killed, so readers that
//! populate before they read get an error, unless the file is cut between the two; and
//! [`FileMap::check_length`] tells whether the file has shrunk. A file that is written to meanwhile is
//! formally undefined behaviour, as memory behind a shared slice may not change; in practice it gives a
//! mix of two moments, which nothing here trusts any more than a file at rest.
//!
//! Not for the memory of a running guest: that must be captured, never mapped and borrowed.

#![allow(unsafe_code, reason = "mapping a file is unsafe by nature; the promise is spelled out below")]

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use memmap2::{Advice, Mmap, MmapOptions};
use rustix::io::Errno;

use crate::hold::Hold;

/// The most extents that [`data_extents`] returns: 16 MiB of them. A file with more holes than this
/// loses its smallest ones.
pub const MAX_EXTENTS: usize = 1 << 20;

/// The bytes of a file, mapped read-only for as long as this lives.
#[derive(Debug)]
pub struct FileMap {
    file: File,
    /// None for an empty file: the kernel maps no empty range.
    map: Option<Arc<Mmap>>,
}

impl FileMap {
    /// Maps the regular file or block device at `path`.
    ///
    /// The caller promises that nobody truncates or rewrites the file while the map lives; what
    /// happens otherwise is told at the top of this module.
    ///
    /// # Errors
    ///
    /// Whatever the system says about opening, measuring and mapping the file. `InvalidInput` for
    /// anything else than a regular file or a block device (a pipe has no length to map), without
    /// opening it, since opening a pipe can block for ever.
    pub fn open(path: &Path) -> io::Result<Self> {
        check_kind(fs::metadata(path)?.file_type())?;
        Self::from_file(File::open(path)?)
    }

    /// Maps all of `file`, which must be open for reading, whatever its current offset is.
    ///
    /// The offset of the file (shared with its duplicates) may be anywhere afterwards.
    ///
    /// # Errors
    ///
    /// As for [`FileMap::open`].
    pub fn from_file(mut file: File) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        check_kind(kind)?;
        // The metadata of a block device say zero, so that one is measured by seeking.
        let len = if kind.is_file() { file.metadata()?.len() } else { file.seek(SeekFrom::End(0))? };
        let map = match usize::try_from(len) {
            Ok(0) => None,
            Ok(len) => {
                // SAFETY: `map` requires that the file is not changed while it is mapped. That is
                // the promise asked of the caller by `open`, as no check of ours could make it so.
                // What rests on us: the map is read-only and private to this struct and its holds, only
                // shared slices of it are given out, they can't outlive it, and no byte of it is believed
                // to be stable or valid by any `unsafe` code of the crate.
                Some(Arc::new(unsafe { MmapOptions::new().len(len).map(&file)? }))
            }
            Err(_) => return Err(io::Error::from(io::ErrorKind::FileTooLarge)),
        };
        Ok(Self { file, map })
    }

    /// All bytes of the file, as it was long when it was mapped. Holes read as zeros.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_ref().map_or(&[], |map| &map[..])
    }

    /// The length of the mapping in bytes.
    pub fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// Whether the file was empty when it was mapped.
    pub fn is_empty(&self) -> bool {
        self.map.is_none()
    }

    /// A share in the mapping, for a device that reads it on its own; `None` for an empty file.
    pub fn hold(&self) -> Option<Hold> {
        self.map.clone().map(Hold::of_map)
    }

    /// The file itself, say for its metadata.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Says whether the file is still at least as long as the mapping.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when it has been cut short: reading the lost part would end the process.
    pub fn check_length(&self) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        if metadata.file_type().is_file() && metadata.len() < self.len() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file was cut from {} to {} bytes while in use", self.len(), metadata.len()),
            ));
        }
        Ok(())
    }

    /// Brings the bytes of `range` (clamped to the file) into memory and into the page tables, and
    /// finds out whether they can be read at all.
    ///
    /// On holes this allocates page cache for zeros, so ask for data only. Where the kernel can't do
    /// this (before Linux 5.14), it reads ahead instead and finds nothing out.
    ///
    /// # Errors
    ///
    /// Only when a plain read of the range would be killed: the file is shorter now, or its storage
    /// can't be read. All other trouble is ignored, as the work is only advice.
    pub fn populate(&self, range: Range<u64>) -> io::Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        let start = range.start.min(self.len()) as usize;
        let len = (range.end.min(self.len()) as usize).saturating_sub(start);
        if len == 0 {
            return Ok(());
        }
        #[cfg(target_os = "linux")]
        match map.advise_range(Advice::PopulateRead, start, len) {
            Ok(()) => return Ok(()),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::FAULT | Errno::IO | Errno::HWPOISON) => {
                    // A shorter file is by far the likelier cause, and has the plainer message.
                    self.check_length()?;
                    return Err(error);
                }
                _ => log::trace!("populating {len} bytes at {start}: {error}"),
            },
        }
        if let Err(error) = map.advise_range(Advice::WillNeed, start, len) {
            log::trace!("reading ahead {len} bytes at {start}: {error}");
        }
        Ok(())
    }

    /// Tells the kernel that the file will be read from its start to its end, once.
    pub fn sequential(&self) {
        if let Some(Err(error)) = self.map.as_ref().map(|map| map.advise(Advice::Sequential)) {
            log::trace!("advising sequential reads: {error}");
        }
    }
}

fn check_kind(kind: fs::FileType) -> io::Result<()> {
    if kind.is_file() || kind.is_block_device() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a block device"))
}

/// The parts of `range` of `file` that hold data, ascending, apart from each other and not empty;
/// everything between them is holes, which read as zeros.
///
/// Where the file system can't tell, all of `range` is data. At most [`MAX_EXTENTS`] extents come
/// back: beyond that, the smallest holes count as data. The offset of the file (shared with its
/// duplicates) may be anywhere afterwards.
pub fn data_extents(file: &File, range: Range<u64>) -> Vec<Range<u64>> {
    let mut extents = Coarsening::new(MAX_EXTENTS);
    let mut at = range.start;
    while at < range.end {
        let data = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) if data >= at => data,
            // The rest of the file is one hole.
            Err(Errno::NXIO) => break,
            Ok(_) | Err(_) => {
                extents.push(at..range.end);
                break;
            }
        };
        if data >= range.end {
            break;
        }
        let hole = match rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(data)) {
            Ok(hole) if hole > data => hole.min(range.end),
            Ok(_) | Err(_) => range.end,
        };
        extents.push(data..hole);
        at = hole;
    }
    extents.ranges
}

/// A list of ascending ranges that closes ever larger gaps to stay below its limit.
struct Coarsening {
    ranges: Vec<Range<u64>>,
    limit: usize,
    /// Gaps smaller than this are closed.
    min_gap: u64,
}

impl Coarsening {
    fn new(limit: usize) -> Self {
        Self { ranges: Vec::new(), limit, min_gap: 1 }
    }

    fn push(&mut self, range: Range<u64>) {
        match self.ranges.last_mut() {
            Some(last) if range.start - last.end < self.min_gap => last.end = range.end,
            _ => self.ranges.push(range),
        }
        while self.ranges.len() > self.limit {
            self.min_gap = self.min_gap.saturating_mul(2);
            let min_gap = self.min_gap;
            self.ranges.dedup_by(|next, last| {
                let close = next.start - last.end < min_gap;
                if close {
                    last.end = next.end;
                }
                close
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn maps_what_the_file_holds() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"guest").unwrap();
        let map = FileMap::from_file(file).unwrap();
        assert_eq!((map.bytes(), map.len(), map.is_empty()), (&b"guest"[..], 5, false));
        map.sequential();
        map.populate(0..u64::MAX).unwrap();
        map.populate(7..u64::MAX).unwrap();
        map.check_length().unwrap();
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let map = FileMap::from_file(tempfile::tempfile().unwrap()).unwrap();
        assert_eq!((map.bytes(), map.len(), map.is_empty()), (&b""[..], 0, true));
        map.populate(0..1).unwrap();
        map.sequential();
    }

    #[test]
    fn what_cannot_be_mapped_is_refused_before_it_blocks() {
        for path in ["/dev/null", "/"] {
            let error = FileMap::open(Path::new(path)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
        }
    }

    #[test]
    fn a_pipe_is_refused_without_waiting_for_its_writer() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(FileMap::open(&path).map_err(|error| error.kind())));
        let answer = wait.recv_timeout(std::time::Duration::from_secs(10)).expect("open waits for ever");
        assert_eq!(answer.unwrap_err(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_file_cut_short_is_an_error_instead_of_a_signal() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 8 * 4096], 0).unwrap();
        let map = FileMap::from_file(file.try_clone().unwrap()).unwrap();
        map.populate(0..8 * 4096).unwrap();
        file.set_len(4096).unwrap();
        assert_eq!(map.check_length().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(map.populate(0..8 * 4096).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        map.populate(0..4096).unwrap();
        assert_eq!(map.bytes()[..4096], [1; 4096]);
    }

    #[test]
    fn extents_cover_all_data_and_nothing_outside_the_range() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let written = [0..4096u64, 65536..65536 + 8192, 1_000_000..1_000_010];
        for range in &written {
            file.write_all_at(&vec![7; (range.end - range.start) as usize], range.start).unwrap();
        }
        let whole = data_extents(&file, 0..1 << 20);
        for range in &written {
            assert!(whole.iter().any(|e| e.start <= range.start && range.end <= e.end), "{range:?}");
        }
        assert!(whole.windows(2).all(|pair| pair[0].end < pair[1].start));
        let part = data_extents(&file, 66000..70000);
        assert_eq!(part, std::slice::from_ref(&(66000..70000)));
        assert!(data_extents(&file, 0..0).is_empty());
    }

    #[test]
    fn a_list_of_extents_stays_below_its_limit_and_keeps_all_data() {
        let mut list = Coarsening::new(8);
        // Gaps of 1, 2, 4, 8 ... bytes between single bytes of data.
        let mut at = 0;
        let mut bytes = Vec::new();
        for gap in (0..30).map(|bit| 1 << bit) {
            list.push(at..at + 1);
            bytes.push(at);
            at += 1 + gap;
        }
        assert!(list.ranges.len() <= 8, "{:?}", list.ranges);
        assert!(list.ranges.len() > 4, "the widest gaps must survive: {:?}", list.ranges);
        assert!(bytes.iter().all(|byte| list.ranges.iter().any(|range| range.contains(byte))));
    }
}
