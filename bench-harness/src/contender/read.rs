//! Reading: the roof for anything that has to look at every byte.

use anyhow::Result;

use super::{Contender, Key, Subject, Verified};
use crate::exit::Problem;
use crate::measure::{Cost, timed};

/// Every word of the image is read once, each thread reading its own part.
#[derive(Debug)]
pub(crate) struct MemoryRead;

fn sum(bytes: &[u8], threads: usize) -> u64 {
    let share = bytes.len().div_ceil(threads).next_multiple_of(64).max(64);
    let part = |part: &[u8]| {
        let (lines, rest) = part.as_chunks::<64>();
        let mut lanes = [0u64; 8];
        for line in lines {
            let (words, _) = line.as_chunks::<8>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane = lane.wrapping_add(u64::from_le_bytes(*word));
            }
        }
        let rest = rest.iter().fold(0u64, |sum, &byte| sum.wrapping_add(byte.into()));
        lanes.into_iter().fold(rest, u64::wrapping_add)
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = bytes.chunks(share).map(|bytes| scope.spawn(move || part(bytes))).collect();
        parts.into_iter().map(|thread| thread.join().unwrap_or(0)).fold(0, u64::wrapping_add)
    })
}

impl Contender for MemoryRead {
    fn key(&self) -> Key {
        Key::Read
    }

    fn about(&self) -> String {
        "every byte read once, each thread its own part: a roof, not a way to move a guest".into()
    }

    fn verify(&mut self, subject: &Subject) -> Result<Verified> {
        let (found, cost) = timed(|| Ok(sum(subject.bytes(), subject.threads)))?;
        if found != sum(subject.bytes(), 1) {
            let what = "the sum is another with other threads".into();
            return Err(Problem::Wrong { who: self.key().to_string(), what }.into());
        }
        Ok(Verified { bytes: 0, cost })
    }

    fn pack(&mut self, subject: &Subject) -> Result<Cost> {
        let (found, cost) = timed(|| Ok(sum(subject.bytes(), subject.threads)))?;
        std::hint::black_box(found);
        Ok(cost)
    }
}
