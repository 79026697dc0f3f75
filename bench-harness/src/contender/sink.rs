//! Where packed bytes go, and how what comes back is compared.

use std::fs::File;
use std::io::{self, BufReader, IoSlice, Read, Write};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use mig_engine::image::Run;
use mig_engine::map::{FileMap, data_extents};
use mig_engine::{MemoryImage, PAGE_SIZE};

use crate::exit::Problem;

/// Bytes read or compared at a time.
const PIECE: usize = 1 << 20;

/// Counts bytes and forgets them, without touching them.
#[derive(Debug, Default)]
pub(super) struct Counter {
    pub(super) bytes: u64,
}

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let len = slices.iter().map(|slice| slice.len()).sum::<usize>();
        self.bytes += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes bytes on and counts them.
#[derive(Debug)]
pub(super) struct Counting<R> {
    pub(super) inner: R,
    pub(super) bytes: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(out)?;
        self.bytes += len as u64;
        Ok(len)
    }
}

/// A file's bytes from the first one, whoever else reads it.
pub(super) fn from_start(file: &File) -> impl Read + Send + '_ {
    BufReader::with_capacity(PIECE, FromStart { file, at: 0 })
}

struct FromStart<'f> {
    file: &'f File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(out, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

fn wrong(who: &str, what: String) -> anyhow::Error {
    Problem::Wrong { who: who.to_owned(), what }.into()
}

/// Reads to the end and compares with what it should be.
///
/// # Errors
///
/// [`Problem::Wrong`] with the place of the first difference; an error of the reader counts as one, since readers
/// here decode what a contender wrote.
pub(super) fn compare_stream(who: &str, mut reader: impl Read, expected: &[u8]) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut rest = expected;
    loop {
        let at = expected.len() - rest.len();
        let len = match reader.read(&mut buffer) {
            Ok(0) if rest.is_empty() => return Ok(()),
            Ok(0) => return Err(wrong(who, format!("ends after {at} of {} bytes", expected.len()))),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(wrong(who, format!("does not decode after {at} bytes: {error}"))),
        };
        let Some((now, later)) = rest.split_at_checked(len) else {
            return Err(wrong(who, format!("goes on after {} bytes", expected.len())));
        };
        same(who, at, &buffer[..len], now)?;
        rest = later;
    }
}

/// Compares slices of one length that are at byte `at` of something.
fn same(who: &str, at: usize, found: &[u8], expected: &[u8]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let first = found.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
    Err(wrong(who, format!("byte {} comes back as another", at + first)))
}

/// Compares a rebuilt file with the image, reading only what is not a hole in both.
///
/// # Errors
///
/// [`Problem::Wrong`] for another length or the first difference.
pub(super) fn compare_files(who: &str, rebuilt: File, image: &MemoryImage) -> Result<()> {
    let rebuilt = FileMap::from_file(rebuilt).context("cannot map the rebuilt file")?;
    let expected = image.map();
    if rebuilt.len() != expected.len() {
        return Err(wrong(who, format!("{} bytes come back as {}", expected.len(), rebuilt.len())));
    }
    for map in [&rebuilt, expected] {
        for extent in data_extents(map.file(), 0..map.len()) {
            let (start, end) = (extent.start as usize, extent.end as usize);
            for at in (start..end).step_by(PIECE) {
                let range = at..end.min(at + PIECE);
                same(who, at, &rebuilt.bytes()[range.clone()], &expected.bytes()[range])?;
            }
        }
    }
    Ok(())
}

/// Compares pages in memory with those of the image.
///
/// # Errors
///
/// [`Problem::Wrong`] for the first page that is another.
pub(crate) fn compare_pages(who: &str, memory: &[u8], image: &MemoryImage) -> Result<()> {
    let (pages, _) = memory.as_chunks::<PAGE_SIZE>();
    let mut number = 0;
    while number < image.page_count() {
        let run = image.run(number, image.page_count() - number);
        let found = pages.get(number as usize..(number + run.pages()) as usize);
        let Some(found) = found else {
            return Err(wrong(who, format!("page {number} has no place in memory")));
        };
        let equal = match run {
            Run::Hole(_) => found.iter().all(|page| page == &[0; PAGE_SIZE]),
            Run::Data(bytes) => found.as_flattened() == bytes,
        };
        if !equal {
            return Err(wrong(who, format!("of {} pages from {number} on, some are others", run.pages())));
        }
        number += run.pages();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_wrong(result: Result<()>, about: &str) {
        let error = result.expect_err(about);
        assert!(matches!(error.downcast_ref(), Some(Problem::Wrong { .. })), "{error:#}");
        assert!(error.to_string().contains(about), "{error:#} should speak of {about}");
    }

    #[test]
    fn every_kind_of_wrong_stream_is_noticed() {
        let expected: Vec<u8> = (0..3 * PIECE as u32 + 5).map(|i| (i / 7) as u8).collect();
        compare_stream("good", &expected[..], &expected).unwrap();
        compare_stream("empty", io::empty(), &[]).unwrap();
        for at in [0, PIECE - 1, PIECE, expected.len() - 1] {
            let mut bad = expected.clone();
            bad[at] ^= 1;
            is_wrong(compare_stream("bad", &bad[..], &expected), &format!("byte {at} "));
        }
        is_wrong(compare_stream("short", &expected[1..][..10], &expected[1..][..11]), "ends after 10 of 11");
        is_wrong(compare_stream("long", &expected[..11], &expected[..10]), "goes on after 10");
        let broken = zstd::Decoder::new(&b"this is no zstd frame at all"[..]).unwrap();
        is_wrong(compare_stream("broken", broken, &expected), "does not decode");
    }

    #[test]
    fn every_byte_of_files_and_pages_counts() {
        let pages = 300;
        let mut bytes = vec![0; pages * PAGE_SIZE];
        bytes[5 * PAGE_SIZE..9 * PAGE_SIZE].fill(3);
        let file_of = |bytes: &[u8], start: usize, end: usize| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(bytes.len() as u64).unwrap();
            file.write_all_at(&bytes[start..end], start as u64).unwrap();
            file
        };
        // Holes around the data.
        let image = MemoryImage::from_file(file_of(&bytes, 5 * PAGE_SIZE, 9 * PAGE_SIZE), None).unwrap();
        compare_files("good", file_of(&bytes, 0, bytes.len()), &image).unwrap();
        compare_pages("good", &bytes, &image).unwrap();
        for at in [0, 5 * PAGE_SIZE - 1, 5 * PAGE_SIZE, 9 * PAGE_SIZE - 1, pages * PAGE_SIZE - 1] {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            is_wrong(compare_files("bad", file_of(&bad, 0, bytes.len()), &image), &format!("byte {at} "));
            is_wrong(compare_pages("bad", &bad, &image), "are others");
        }
        // A hole where the image has data.
        is_wrong(compare_files("bad", file_of(&vec![0; bytes.len()], 0, 0), &image), "comes back");
        is_wrong(compare_files("bad", file_of(&bytes[PAGE_SIZE..], 0, 0), &image), "come back as");
        is_wrong(compare_pages("bad", &bytes[..bytes.len() - PAGE_SIZE], &image), "no place");
    }

    #[test]
    fn counters_count() {
        let mut counter = Counter::default();
        counter.write_all(&[0; 100]).unwrap();
        assert_eq!(counter.write_vectored(&[IoSlice::new(&[0; 3]), IoSlice::new(&[0; 4])]).unwrap(), 7);
        assert_eq!(counter.bytes, 107);
    }
}
