//! A place in memory for rebuilt pages, with a bound.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mig_engine::{ImageLayout, OpaqueStore, PAGE_SIZE, Page, PageStore};

/// Pages that are not zero: 64 MiB of them, then the store is full.
const MAX_PAGES: usize = 1 << 14;
/// Bytes of opaque data, likewise.
const MAX_OPAQUE: usize = 64 << 20;

/// Pages and opaque bytes as they come.
#[derive(Default)]
pub struct MemStore {
    pages: Mutex<HashMap<u64, Box<Page>>>,
    opaque: Mutex<Vec<(u64, Vec<u8>)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemStore {
    /// What a page holds now.
    pub fn page(&self, number: u64) -> Page {
        lock(&self.pages).get(&number).map_or([0; PAGE_SIZE], |page| **page)
    }

    /// The image's file, which must be short enough to be built.
    pub fn file(&self, layout: &ImageLayout) -> Vec<u8> {
        let mut file = vec![0; layout.file_len() as usize];
        for (&number, page) in lock(&self.pages).iter() {
            let at = layout.file_offset_of(number).expect("a page of the image") as usize;
            file[at..at + PAGE_SIZE].copy_from_slice(&page[..]);
        }
        for (offset, bytes) in lock(&self.opaque).iter() {
            file[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        file
    }
}

impl PageStore for MemStore {
    fn write(&self, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        let mut pages = lock(&self.pages);
        for (number, bytes) in (first_page..).zip(bytes.as_chunks::<PAGE_SIZE>().0) {
            pages.insert(number, Box::new(*bytes));
        }
        if pages.len() > MAX_PAGES { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn write_zero(&self, first_page: u64, pages: u64) -> io::Result<()> {
        lock(&self.pages).retain(|number, _| !(first_page..first_page + pages).contains(number));
        Ok(())
    }

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> io::Result<()> {
        match lock(&self.pages).get(&page) {
            Some(page) => out.copy_from_slice(&page[offset..offset + out.len()]),
            None => out.fill(0),
        }
        Ok(())
    }
}

impl OpaqueStore for MemStore {
    fn write_opaque(&self, file_offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut opaque = lock(&self.opaque);
        opaque.push((file_offset, bytes.to_vec()));
        let held: usize = opaque.iter().map(|(_, bytes)| bytes.len()).sum();
        if held > MAX_OPAQUE { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}
