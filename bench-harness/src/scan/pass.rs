//! One pass of several threads over memory, each over its own part.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use mig_engine::{Level, PAGE_SIZE};
use mig_simd::{PageRecord, page_scan, read_roof};

/// Pages that are scanned in one call, as many as the engine takes.
const BATCH_PAGES: usize = 64;
const BATCH: usize = BATCH_PAGES * PAGE_SIZE;

/// What is done to each page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// The sum of all words.
    Read,
    /// The page scan.
    Scan,
    /// A copy to the same place in other memory.
    Copy,
}

/// Reads all whole pages and does no more; gives the seconds, as [`pass`] does.
#[cfg(feature = "gpu")]
pub(crate) fn read_pass(level: Level, threads: usize, from: &[u8]) -> f64 {
    let share = (from.len() / PAGE_SIZE).div_ceil(threads).max(1) * PAGE_SIZE;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for part in from.chunks(share) {
            scope.spawn(move || {
                part.chunks(BATCH).for_each(|batch| {
                    black_box(read_roof(level, batch));
                })
            });
        }
    });
    start.elapsed().as_secs_f64()
}

/// Does something to all whole pages; gives the seconds from the first thread's start to the last one's end.
///
/// `to` is as long as `from`.
pub(super) fn pass(operation: Operation, level: Level, threads: usize, from: &[u8], to: &mut [u8]) -> f64 {
    let share = (from.len() / PAGE_SIZE).div_ceil(threads).max(1) * PAGE_SIZE;
    let parts: Vec<_> = from.chunks(share).zip(to.chunks_mut(share)).collect();
    let barrier = Barrier::new(parts.len());
    let times = std::thread::scope(|scope| {
        let work = |(from, to)| {
            let barrier = &barrier;
            move || {
                let mut records = [PageRecord::default(); BATCH_PAGES];
                barrier.wait();
                let start = Instant::now();
                go(operation, level, from, to, &mut records);
                (start, Instant::now())
            }
        };
        let mut parts = parts.into_iter();
        let own = parts.next().map(work);
        let others: Vec<_> = parts.map(|part| scope.spawn(work(part))).collect();
        let mut times: Vec<_> = own.map(|work| work()).into_iter().collect();
        times.extend(others.into_iter().filter_map(|thread| thread.join().ok()));
        times
    });
    let start = times.iter().map(|(start, _)| *start).min();
    let end = times.iter().map(|(_, end)| *end).max();
    start.zip(end).map_or(0.0, |(start, end)| (end - start).as_secs_f64())
}

fn go(
    operation: Operation,
    level: Level,
    from: &[u8],
    to: &mut [u8],
    records: &mut [PageRecord; BATCH_PAGES],
) {
    // All in the same steps, so that none has an advantage.
    for (from, to) in from.chunks(BATCH).zip(to.chunks_mut(BATCH)) {
        match operation {
            Operation::Read => {
                black_box(read_roof(level, from));
            }
            Operation::Scan => {
                let records = &mut records[..from.len() / PAGE_SIZE];
                page_scan(level, &from[..records.len() * PAGE_SIZE], records);
                black_box(records);
            }
            Operation::Copy => {
                to.copy_from_slice(from);
                black_box(to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_together_do_every_page_once() {
        let from: Vec<u8> = (0..37 * PAGE_SIZE).map(|i| (i / 100) as u8).collect();
        for threads in [1, 2, 3, 37, 100] {
            let mut to = vec![0; from.len()];
            assert!(pass(Operation::Copy, Level::Scalar, threads, &from, &mut to) > 0.0);
            assert_eq!(to, from, "{threads} threads");
            assert!(pass(Operation::Scan, Level::Scalar, threads, &from, &mut to) > 0.0);
            assert!(pass(Operation::Read, Level::Scalar, threads, &from, &mut to) > 0.0);
            assert_eq!(to, from, "only copying writes");
        }
    }
}
