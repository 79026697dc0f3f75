//! Guest-sized memory: what is scanned, and what a receiver unpacks into.

use std::io;
use std::sync::{Mutex, PoisonError, RwLock};

use anyhow::{Context, Result};
use memmap2::{Advice, MmapMut, MmapOptions};
use mig_engine::{OpaqueStore, PAGE_SIZE, PageStore};

/// How memory should be backed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// 4 KiB pages, as a mapped file usually has.
    Small,
    /// Huge pages where the system gives them, as QEMU and others ask for guest memory.
    Huge,
}

/// Anonymous memory, zero and faulted in.
///
/// # Errors
///
/// There is not so much of it.
pub(crate) fn allocate(len: usize, backing: Backing) -> Result<MmapMut> {
    let context = || format!("cannot allocate {len} bytes");
    let mut map = MmapOptions::new().len(len.max(1)).map_anon().with_context(context)?;
    let advice = if backing == Backing::Huge { Advice::HugePage } else { Advice::NoHugePage };
    if let Err(error) = map.advise(advice) {
        log::info!("the system takes no advice on huge pages: {error}");
    }
    // Writing is what faults pages in.
    map.fill(0);
    Ok(map)
}

/// Bytes that the system could give without swapping; `None` where it does not tell.
pub(crate) fn available() -> Option<u64> {
    crate::provenance::meminfo("MemAvailable")
}

/// Pages that share a lock: what the engine stores at a time, at most.
const CHUNK_PAGES: usize = 64;
const CHUNK: usize = CHUNK_PAGES * PAGE_SIZE;

/// Guest memory that a stream is unpacked into, as a receiver's VMM has it: zero and populated when it begins.
///
/// A lock for each 256 KiB keeps this in safe code; the engine's threads store whole chunks, so they rarely wait.
#[derive(Debug)]
pub(crate) struct MemoryStore<'m> {
    chunks: Vec<RwLock<&'m mut [u8]>>,
    /// Bytes of the image's file that no page holds, with their places.
    opaque: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl<'m> MemoryStore<'m> {
    /// A store for as many whole pages as fit into `memory`, which must be zero.
    pub(crate) fn new(memory: &'m mut [u8]) -> Self {
        let whole = memory.len() / PAGE_SIZE * PAGE_SIZE;
        let chunks = memory[..whole].chunks_mut(CHUNK).map(RwLock::new).collect();
        MemoryStore { chunks, opaque: Mutex::new(Vec::new()) }
    }

    /// The bytes that no page holds, with their places in the image's file.
    pub(crate) fn into_opaque(self) -> Vec<(u64, Vec<u8>)> {
        self.opaque.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chunk that holds a page, and the byte of the chunk where the page begins.
    fn chunk(&self, page: u64) -> io::Result<(&RwLock<&'m mut [u8]>, usize)> {
        let place = usize::try_from(page).map_err(|_| outside(page))?;
        let chunk = self.chunks.get(place / CHUNK_PAGES).ok_or_else(|| outside(page))?;
        Ok((chunk, place % CHUNK_PAGES * PAGE_SIZE))
    }
}

fn outside(page: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("page {page} is outside the memory"))
}

impl PageStore for MemoryStore<'_> {
    fn write(&self, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut page, mut rest) = (first_page, bytes);
        while !rest.is_empty() {
            let (chunk, start) = self.chunk(page)?;
            let mut chunk = chunk.write().unwrap_or_else(PoisonError::into_inner);
            let len = rest.len().min(CHUNK - start);
            let (now, later) = rest.split_at(len);
            chunk.get_mut(start..start + len).ok_or_else(|| outside(page))?.copy_from_slice(now);
            page += (len / PAGE_SIZE) as u64;
            rest = later;
        }
        Ok(())
    }

    fn write_zero(&self, _: u64, _: u64) -> io::Result<()> {
        // The memory was zero, and a file's stream has each page once.
        Ok(())
    }

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> io::Result<()> {
        let (chunk, start) = self.chunk(page)?;
        let chunk = chunk.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = chunk.get(start + offset..start + offset + out.len()).ok_or_else(|| outside(page))?;
        out.copy_from_slice(bytes);
        Ok(())
    }
}

impl OpaqueStore for MemoryStore<'_> {
    fn write_opaque(&self, file_offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut opaque = self.opaque.lock().unwrap_or_else(PoisonError::into_inner);
        opaque.push((file_offset, bytes.to_vec()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_where_they_were_stored() {
        let pages = CHUNK_PAGES + 3;
        let mut memory = allocate(pages * PAGE_SIZE, Backing::Small).unwrap();
        let store = MemoryStore::new(&mut memory);
        // From the last page of one chunk into the next one.
        let first = CHUNK_PAGES as u64 - 1;
        store.write(first, &[&[1; PAGE_SIZE][..], &[2; PAGE_SIZE]].concat()).unwrap();
        let mut word = [0; 8];
        for (page, value) in [(first - 1, 0), (first, 1), (first + 1, 2), (first + 2, 0)] {
            store.read(page, PAGE_SIZE - 8, &mut word).unwrap();
            assert_eq!(word, [value; 8], "page {page}");
        }
        store.write_opaque(7, b"head").unwrap();
        assert_eq!(store.into_opaque(), [(7, b"head".to_vec())]);
        assert_eq!(memory[first as usize * PAGE_SIZE], 1);
    }

    #[test]
    fn what_is_outside_is_an_error() {
        let mut memory = vec![0; 3 * PAGE_SIZE];
        let store = MemoryStore::new(&mut memory);
        for page in [3, 64, u64::MAX] {
            assert!(store.write(page, &[1; PAGE_SIZE]).is_err(), "{page}");
            assert!(store.read(page, 0, &mut [0; 8]).is_err(), "{page}");
        }
        assert!(store.write(2, &[1; 2 * PAGE_SIZE]).is_err());
    }
}
