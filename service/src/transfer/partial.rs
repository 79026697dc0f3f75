//! An image file on its way: beside its destination, hidden, until all of it is verified.
//!
//! What an interrupted migration leaves is found again by its name. Nothing is believed of it: the next one hashes its
//! pages, tells the sender, and verifies them once more as they are confirmed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mig_engine::image::{ImageWriter, WriteAs};
use mig_engine::live::{Destination, Have};
use mig_engine::{
    DecodeError, Frame, ImageLayout, Level, OpaqueStore, PAGE_SIZE, PageStore, fingerprints, map,
};
use rayon::prelude::*;
use rustix::fs::{FallocateFlags, FlockOperation};

use crate::output::{folder_of, set_private};

/// Pages that are hashed at a time: 8 MiB.
const RANGE: u64 = 2048;

/// The file, and beside it the header that says what its bytes are.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    head: PathBuf,
    target: PathBuf,
    /// What it is from an earlier try, if it is.
    layout: Option<ImageLayout>,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum NoPartial {
    /// Another receiver has it.
    Busy,
    /// The system refuses.
    Io(io::Error),
}

impl From<io::Error> for NoPartial {
    fn from(error: io::Error) -> Self {
        NoPartial::Io(error)
    }
}

impl Partial {
    /// For a file that is to be at `target`: what is left of an earlier try, or a new one.
    pub(super) fn open(target: &Path) -> Result<Self, NoPartial> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput).map_err(io::Error::from)?;
        let hidden = |ending: &str| {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(ending);
            folder_of(target).join(hidden)
        };
        let (path, head) = (hidden(".mig-partial"), hidden(".mig-partial.head"));
        let file = loop {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            // A link that somebody put there is not followed.
            options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
            let file = options.open(&path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(NoPartial::Busy),
                Err(error) => return Err(io::Error::from(error).into()),
            }
            // Whoever had it may have renamed or removed it meanwhile.
            if is_at(&file, &path)? {
                break file;
            }
        };
        let layout = fs::read(&head).ok().and_then(|bytes| layout_of(&bytes));
        let len = file.metadata()?.len();
        let layout = layout.filter(|layout| len > 0 && layout.file_len() == len);
        Ok(Partial { file, path, head, target: target.to_owned(), layout })
    }

    /// What is there from an earlier try. Runs on the current rayon pool.
    pub(super) fn have(&self, level: Level) -> io::Result<Option<Have>> {
        let Some(layout) = &self.layout else { return Ok(None) };
        let pages = layout.page_count();
        let data = map::data_extents(&self.file, 0..layout.file_len());
        if data.is_empty() {
            return Ok(None);
        }
        let scan = fingerprints(level);
        let range = |number: u64| -> io::Result<Vec<u32>> {
            let (first, end) = (number * RANGE, pages.min((number + 1) * RANGE));
            let mut bytes = vec![0; (end - first) as usize * PAGE_SIZE];
            for (page, bytes) in (first..end).zip(bytes.chunks_exact_mut(PAGE_SIZE)) {
                let offset = layout.file_offset_of(page).ok_or(io::ErrorKind::InvalidInput)?;
                let next = data.partition_point(|extent| extent.end <= offset);
                if data.get(next).is_some_and(|extent| extent.start < offset + PAGE_SIZE as u64) {
                    self.file.read_exact_at(bytes, offset)?;
                }
            }
            let mut out = vec![0; (end - first) as usize];
            scan(&bytes, &mut out);
            Ok(out.into_iter().map(Have::mark).collect())
        };
        let all: Vec<Vec<u32>> =
            (0..pages.div_ceil(RANGE)).into_par_iter().map(range).collect::<io::Result<_>>()?;
        Ok(Some(Have { marks: all.concat() }))
    }

    /// Gets ready for the image with this header frame.
    pub(super) fn start(&self, head: &[u8], layout: &ImageLayout) -> Result<PartialStore, DecodeError> {
        let storing = |source| DecodeError::Io { what: "making room for the image", source };
        let again = self.layout.as_ref() == Some(layout);
        let file = self.file.try_clone().map_err(storing)?;
        let writer = if again {
            ImageWriter::reopen(file, layout, WriteAs::Same)?
        } else {
            // The old header must not speak for the new content.
            let _ = fs::remove_file(&self.head);
            let writer = ImageWriter::new(file, layout, WriteAs::Same)?;
            fs::write(&self.head, head).map_err(storing)?;
            writer
        };
        let store = PartialStore { writer, dirty: again };
        if again {
            for range in layout.opaque_ranges() {
                store.zero(range.start, range.end - range.start).map_err(storing)?;
            }
        }
        Ok(store)
    }

    /// Makes the file durable and gives it its name.
    pub(super) fn finish(self, force: bool) -> io::Result<()> {
        set_private(&self.file)?;
        self.file.sync_all()?;
        if force {
            fs::rename(&self.path, &self.target)?;
        } else {
            // Fails where there is something, unlike a rename.
            fs::hard_link(&self.path, &self.target)?;
            fs::remove_file(&self.path)?;
        }
        let _ = fs::remove_file(&self.head);
        File::open(folder_of(&self.target))?.sync_all()
    }

    /// Whether there can be something in it.
    pub(super) fn is_begun(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.len() > 0)
    }

    /// Removes it.
    pub(super) fn remove(self) {
        for path in [&self.path, &self.head] {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                log::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let ours = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn layout_of(head: &[u8]) -> Option<ImageLayout> {
    let frame = Frame::parse(head, 0).ok()?;
    mig_engine::live::read_header(&frame, mig_engine::DecodeLimits::default())
        .ok()
        .map(|header| header.layout)
}

/// Where the pages of an image go.
#[derive(Debug)]
pub(super) struct PartialStore {
    writer: ImageWriter,
    /// There may be something where nothing was written yet.
    dirty: bool,
}

impl PartialStore {
    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(self.writer.file(), punch, offset, len).is_ok() {
            return Ok(());
        }
        // A file system without holes.
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let mut at = offset;
        while at < offset + len {
            let part = (offset + len - at).min(ZEROS.len() as u64);
            self.writer.file().write_all_at(&ZEROS[..part as usize], at)?;
            at += part;
        }
        Ok(())
    }
}

impl PageStore for PartialStore {
    fn write(&self, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_pages(first_page, bytes)
    }

    fn write_zero(&self, first_page: u64, pages: u64) -> io::Result<()> {
        if !self.dirty {
            return Ok(());
        }
        let mut page = first_page;
        while page < first_page + pages {
            // Pages that follow each other in the file are emptied together.
            let offset = self.writer.page_offset(page).ok_or(io::ErrorKind::InvalidInput)?;
            let together = (page..first_page + pages)
                .take_while(|&next| {
                    self.writer.page_offset(next) == Some(offset + (next - page) * PAGE_SIZE as u64)
                })
                .count() as u64;
            self.zero(offset, together * PAGE_SIZE as u64)?;
            page += together;
        }
        Ok(())
    }

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> io::Result<()> {
        let start = self.writer.page_offset(page).ok_or(io::ErrorKind::InvalidInput)?;
        self.writer.file().read_exact_at(out, start + offset as u64)
    }
}

impl OpaqueStore for PartialStore {
    fn write_opaque(&self, file_offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_opaque(file_offset, bytes)
    }
}

impl Destination for PartialStore {
    fn piece(&self, _: &[u8]) -> Result<(), DecodeError> {
        Err(DecodeError::Invalid { field: "stream", why: "a piece, in an image file" })
    }
}
