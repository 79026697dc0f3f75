//! A guest's memory in a file: page after page by number, holes where they are zero.
//!
//! It is where a proxy keeps what it has rebuilt, what a source remembers of it, and, when the migration is over, a
//! snapshot that both ends have.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::FallocateFlags;

use super::Bits;
use super::past::LastSent;
use crate::decode::PageStore;
use crate::page::{PAGE_SIZE, Page};

/// Guest memory in a file that nobody else uses meanwhile.
#[derive(Debug)]
pub struct FlatFile {
    file: File,
    pages: u64,
    /// Pages that were written.
    known: Mutex<Bits>,
    /// The kernel lets one thread at a time write into a file. Threads that wait here sleep; there, they would spin.
    writing: Mutex<()>,
    /// Whether a page that was sent could not be kept.
    incomplete: bool,
}

impl FlatFile {
    /// Memory of so many pages, all zero. `file` is emptied, and must be open for reading and writing.
    ///
    /// # Errors
    ///
    /// If the file can't have that length.
    pub fn new(file: File, pages: u64) -> io::Result<Self> {
        file.set_len(0)?;
        file.set_len(pages * PAGE_SIZE as u64)?;
        Ok(FlatFile { file, pages, known: Mutex::default(), writing: Mutex::default(), incomplete: false })
    }

    /// Number of pages.
    pub fn page_count(&self) -> u64 {
        self.pages
    }

    /// The file, not synced.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether every page that was [`sent`](LastSent::sent) is in the file.
    pub fn is_complete(&self) -> bool {
        !self.incomplete
    }

    fn range(&self, page: u64, len: usize) -> io::Result<u64> {
        let end = page.checked_add(len.div_ceil(PAGE_SIZE) as u64);
        if end.is_none_or(|end| end > self.pages) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "pages beyond the memory"));
        }
        Ok(page * PAGE_SIZE as u64)
    }

    fn known(&self) -> MutexGuard<'_, Bits> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_known(&self, first: u64, pages: u64) {
        let mut known = self.known();
        for page in first..first + pages {
            known.insert(page);
        }
    }

    /// Reads whole pages, whether they were written or not.
    ///
    /// # Errors
    ///
    /// Pages beyond the memory; what the system says.
    pub fn read_pages(&self, first: u64, to: &mut [u8]) -> io::Result<()> {
        let at = self.range(first, to.len())?;
        self.file.read_exact_at(to, at)
    }

    fn write_zeros(&self, first: u64, pages: u64) -> io::Result<()> {
        let at = self.range(first, pages as usize * PAGE_SIZE)?;
        // What was never written is a hole already.
        let is_dirty = {
            let known = self.known();
            (first..first + pages).any(|page| known.contains(page))
        };
        if is_dirty {
            let len = pages * PAGE_SIZE as u64;
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if rustix::fs::fallocate(&self.file, punch, at, len).is_err() {
                // A file system without holes.
                for page in 0..pages {
                    self.file.write_all_at(&[0; PAGE_SIZE], at + page * PAGE_SIZE as u64)?;
                }
            }
        }
        self.set_known(first, pages);
        Ok(())
    }
}

impl PageStore for FlatFile {
    fn write(&self, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        let at = self.range(first_page, bytes.len())?;
        {
            let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            self.file.write_all_at(bytes, at)?;
        }
        self.set_known(first_page, (bytes.len() / PAGE_SIZE) as u64);
        Ok(())
    }

    fn write_zero(&self, first_page: u64, pages: u64) -> io::Result<()> {
        self.write_zeros(first_page, pages)
    }

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> io::Result<()> {
        let at = self.range(page, offset + out.len())?;
        self.file.read_exact_at(out, at + offset as u64)
    }
}

impl LastSent for FlatFile {
    fn read(&self, page: u64, to: &mut Page) -> bool {
        let is_known = self.known().contains(page);
        is_known && self.read_pages(page, to).is_ok()
    }

    fn sent(&mut self, first_page: u64, bytes: &[u8]) {
        const ZERO: Page = [0; PAGE_SIZE];
        let (pages, _) = bytes.as_chunks::<PAGE_SIZE>();
        let mut start = 0;
        while start < pages.len() {
            let zero = pages[start] == ZERO;
            let same = pages[start..].iter().take_while(|page| (**page == ZERO) == zero).count();
            let first = first_page + start as u64;
            let done = if zero {
                self.write_zeros(first, same as u64)
            } else {
                PageStore::write(self, first, &bytes[start * PAGE_SIZE..(start + same) * PAGE_SIZE])
            };
            if let Err(error) = done {
                // What is not kept is sent in full next time; but an older version must not be taken for it.
                log::warn!("the last version of pages is not kept: {error}");
                self.incomplete = true;
                let mut known = self.known();
                (first..first + same as u64).for_each(|page| known.remove(page));
            }
            start += same;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_written_and_knows_what_was_not() {
        let mut flat = FlatFile::new(tempfile::tempfile().unwrap(), 100).unwrap();
        let mut page = [9; PAGE_SIZE];
        assert!(!LastSent::read(&flat, 5, &mut page));
        flat.sent(4, &[[0; PAGE_SIZE], [1; PAGE_SIZE], [2; PAGE_SIZE], [0; PAGE_SIZE]].concat());
        for (number, byte) in [(4, 0), (5, 1), (6, 2), (7, 0)] {
            assert!(LastSent::read(&flat, number, &mut page) && page == [byte; PAGE_SIZE], "{number}");
        }
        assert!(!LastSent::read(&flat, 8, &mut page));
        flat.sent(5, &[0; PAGE_SIZE]);
        assert!(LastSent::read(&flat, 5, &mut page) && page == [0; PAGE_SIZE]);
        let mut part = [7; 8];
        PageStore::read(&flat, 6, 4088, &mut part).unwrap();
        assert_eq!(part, [2; 8]);
        assert!(PageStore::write(&flat, 99, &[1; 2 * PAGE_SIZE]).is_err());
        assert!(PageStore::read(&flat, u64::MAX, 0, &mut part).is_err());
        assert!(flat.write_zero(100, 1).is_err());
    }
}
