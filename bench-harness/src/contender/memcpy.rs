//! Copying: the roof for anything that has to move every byte.
//!
//! Each thread of `pack` copies its own part of the image into its own part of a destination, which is as large as the image up
//! to 1 GiB, so larger than caches, and is written round and round after that. The image stays mapped. What stands beside
//! unpacking: the guest's pages, holes left out, copied into a receiver's memory by all threads; and written into a new
//! file by one.

use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::Result;
use memmap2::MmapMut;
use mig_engine::image::Run;
use mig_engine::{MemoryImage, PAGE_SIZE};

use super::{Contender, Key, Subject, Verified};
use crate::exit::Problem;
use crate::measure::{Cost, timed};
use crate::memory::{Backing, allocate};

const MAX_DESTINATION: usize = 1 << 30;
const PIECE: usize = 1 << 20;

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct Memcpy {
    to: MmapMut,
}

impl Memcpy {
    /// Allocates the destination for an image of `len` bytes.
    ///
    /// # Errors
    ///
    /// There is not so much memory.
    pub(crate) fn new(len: usize) -> Result<Self> {
        Ok(Memcpy { to: allocate(len.min(MAX_DESTINATION), Backing::Small)? })
    }

    /// Copies everything; gives the number of pieces that differ from what they were copied from, if asked to look.
    fn copy(&mut self, subject: &Subject, look: bool) -> Result<(usize, Cost)> {
        let share = |len: usize| len.div_ceil(subject.threads).next_multiple_of(PAGE_SIZE).max(PAGE_SIZE);
        let (from_share, to_share) = (share(subject.bytes().len()), share(self.to.len()));
        let parts = subject.bytes().chunks(from_share).zip(self.to.chunks_mut(to_share));
        timed(|| {
            Ok(std::thread::scope(|scope| {
                let threads: Vec<_> =
                    parts.map(|(from, to)| scope.spawn(move || copy_part(from, to, look))).collect();
                // A thread that panicked copied nothing right.
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap_or(usize::MAX))
                    .fold(0, usize::saturating_add)
            }))
        })
    }
}

/// Calls `with` for the data among some pages: the number of the first page, and their bytes.
fn for_data(
    image: &MemoryImage,
    pages: Range<u64>,
    mut with: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut page = pages.start;
    while page < pages.end {
        let run = image.run(page, pages.end - page);
        if let Run::Data(bytes) = run {
            with(page, bytes)?;
        }
        page += run.pages();
    }
    Ok(())
}

fn copy_part(from: &[u8], to: &mut [u8], look: bool) -> usize {
    let piece = PIECE.min(to.len());
    let mut at = 0;
    let mut wrong = 0;
    for from in from.chunks(piece) {
        if to.len() - at < from.len() {
            at = 0;
        }
        let to = &mut to[at..at + from.len()];
        to.copy_from_slice(from);
        std::hint::black_box(&mut *to);
        wrong += usize::from(look && to != from);
        at += from.len();
    }
    wrong
}

impl Contender for Memcpy {
    fn key(&self) -> Key {
        Key::Memcpy
    }

    fn about(&self) -> String {
        "every byte copied once, each thread its own part: a roof, not a way to move a guest".into()
    }

    fn verify(&mut self, subject: &Subject) -> Result<Verified> {
        let (wrong, cost) = self.copy(subject, true)?;
        if wrong > 0 {
            let what = format!("{wrong} pieces are not what they were copied from");
            return Err(Problem::Wrong { who: self.key().to_string(), what }.into());
        }
        Ok(Verified { bytes: subject.bytes().len() as u64, cost })
    }

    fn pack(&mut self, subject: &Subject) -> Result<Cost> {
        Ok(self.copy(subject, false)?.1)
    }

    fn unpack_to_file(&mut self, subject: &Subject) -> Result<Option<Cost>> {
        let file = subject.scratch_file()?;
        let image = subject.image();
        let ((), cost) = timed(|| {
            file.set_len(image.page_count() * PAGE_SIZE as u64)?;
            for_data(image, 0..image.page_count(), |page, bytes| {
                for (at, piece) in (page * PAGE_SIZE as u64..).step_by(PIECE).zip(bytes.chunks(PIECE)) {
                    file.write_all_at(piece, at)?;
                }
                Ok(())
            })
        })?;
        Ok(Some(cost))
    }

    fn unpack_to_memory(&mut self, subject: &Subject, memory: &mut [u8]) -> Result<Option<Cost>> {
        let image = subject.image();
        let share = (image.page_count() as usize).div_ceil(subject.threads).max(1);
        let ((), cost) = timed(|| {
            std::thread::scope(|scope| {
                for (part, to) in memory.chunks_mut(share * PAGE_SIZE).enumerate() {
                    let first = (part * share) as u64;
                    let pages = first..image.page_count().min(first + share as u64);
                    scope.spawn(move || {
                        for_data(image, pages, |page, bytes| {
                            let at = (page - first) as usize * PAGE_SIZE;
                            to[at..at + bytes.len()].copy_from_slice(bytes);
                            Ok(())
                        })
                    });
                }
            });
            Ok(())
        })?;
        Ok(Some(cost))
    }
}
