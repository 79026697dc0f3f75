//! Writing an image file again from its layout, its pages and its opaque bytes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use super::{ImageError, ImageLayout, PAGE, is_zero, spool};

/// What file to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAs {
    /// The file that was read: the same format, the same bytes.
    Same,
    /// Guest-physical memory: byte N of the file is the byte at address N. Pages without an address are
    /// left out, and so are opaque bytes.
    Raw,
}

/// Writes pages and opaque bytes to where they belong in a file.
///
/// All of it can be called from several threads at once, in any order. What isn't written is a hole and
/// reads as zero.
#[derive(Debug)]
pub struct ImageWriter {
    file: File,
    len: u64,
    target: WriteAs,
    layout: ImageLayout,
    /// The kernel lets one thread at a time write into a file. Threads that wait here sleep; there, they would spin.
    writing: Mutex<()>,
}

impl ImageWriter {
    /// A writer to `file`, which is emptied and given its final length, and must be open for reading, too.
    ///
    /// # Errors
    ///
    /// [`ImageError::Output`] if the file can't have that length; [`ImageError::NoAddresses`] for
    /// [`WriteAs::Raw`] when no page has an address.
    pub fn new(file: File, layout: &ImageLayout, target: WriteAs) -> Result<Self, ImageError> {
        let writer = Self::reopen(file, layout, target)?;
        let (file, len) = (&writer.file, writer.len);
        // Old content would show through where nothing is written.
        file.set_len(0)
            .and_then(|()| file.set_len(len))
            .map_err(|source| ImageError::Output { len, source })?;
        Ok(writer)
    }

    /// A writer to a `file` that holds a part of the image already: it is given its final length, and keeps its content.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn reopen(file: File, layout: &ImageLayout, target: WriteAs) -> Result<Self, ImageError> {
        let len = match target {
            WriteAs::Same => layout.file_len(),
            WriteAs::Raw => layout
                .segments()
                .iter()
                .filter_map(|segment| segment.gpa.map(|gpa| gpa + segment.pages * PAGE))
                .max()
                .ok_or(ImageError::NoAddresses { format: layout.format() })?,
        };
        file.set_len(len).map_err(|source| ImageError::Output { len, source })?;
        Ok(Self { file, len, target, layout: layout.clone(), writing: Mutex::default() })
    }

    /// Where a page lies in the file; None past the last page and for pages that are left out.
    pub fn page_offset(&self, page: u64) -> Option<u64> {
        match self.target {
            WriteAs::Same => self.layout.file_offset_of(page),
            WriteAs::Raw => self.layout.gpa_of(page),
        }
    }

    /// The length of the file that is written, in bytes.
    pub fn file_len(&self) -> u64 {
        self.len
    }

    /// The number of pages that are left out, for want of an address.
    pub fn left_out_pages(&self) -> u64 {
        match self.target {
            WriteAs::Same => 0,
            WriteAs::Raw => self.layout.segments().iter().filter(|s| s.gpa.is_none()).map(|s| s.pages).sum(),
        }
    }

    /// The number of bytes of the original file that no page holds and that are left out.
    pub fn left_out_opaque(&self) -> u64 {
        match self.target {
            WriteAs::Same => 0,
            WriteAs::Raw => self.layout.opaque_ranges().iter().map(|range| range.end - range.start).sum(),
        }
    }

    /// Writes consecutive pages, the first of which is `first_page`. Pages of zeros need not be written.
    ///
    /// # Errors
    ///
    /// `InvalidInput`, before anything is written, if the bytes are not whole pages or go past the last
    /// page; otherwise what the system says.
    pub fn write_pages(&self, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        let pages = bytes.len() as u64 / PAGE;
        let end = first_page.checked_add(pages);
        if !(bytes.len() as u64).is_multiple_of(PAGE) || end.is_none_or(|end| end > self.layout.page_count())
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} bytes from page {first_page} on do not fit an image of {} pages",
                    bytes.len(),
                    self.layout.page_count()
                ),
            ));
        }
        let (mut page, mut rest) = (first_page, bytes);
        while let (false, Some(segment)) = (rest.is_empty(), self.layout.segment_of(page)) {
            // No more than `rest.len()`, so it fits.
            let here = ((segment.end_page() - page) * PAGE).min(rest.len() as u64);
            let (now, later) = rest.split_at(here as usize);
            if let Some(offset) = self.page_offset(page) {
                let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
                self.file.write_all_at(now, offset)?;
            }
            page += here / PAGE;
            rest = later;
        }
        Ok(())
    }

    /// Writes bytes that belong to no page, at their offset in the original file.
    ///
    /// Zeros become holes where they fill whole blocks. For [`WriteAs::Raw`] nothing is written.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if any of the bytes belong to a page or to nothing, so opaque bytes from outside
    /// can't change a page behind the back of whoever verified it; otherwise what the system says.
    pub fn write_opaque(&self, file_offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.target == WriteAs::Raw || bytes.is_empty() {
            return Ok(());
        }
        let opaque = self.layout.opaque_ranges();
        let holds = |range: &Range<u64>| {
            range.start <= file_offset && bytes.len() as u64 <= range.end.saturating_sub(file_offset)
        };
        let after = opaque.partition_point(|range| range.end <= file_offset);
        if !opaque.get(after).is_some_and(holds) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} bytes at offset {file_offset} are not between the pages", bytes.len()),
            ));
        }
        // Zeros can stay holes only where nothing is yet: opaque bytes may be given twice, and then the later ones hold.
        let mut there = vec![0; bytes.len()];
        self.file.read_exact_at(&mut there, file_offset)?;
        if is_zero(&there) {
            spool::write_data(&self.file, bytes, file_offset)
        } else {
            self.file.write_all_at(bytes, file_offset)
        }
    }

    /// The file, say to be synced. Nothing is buffered here.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file back.
    pub fn into_file(self) -> File {
        self.file
    }
}
