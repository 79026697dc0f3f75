//! Scans from memory to records in memory: by the CPU, and end to end by the device.

use std::time::Duration;

use anyhow::{Context, Result};
use mig_engine::{Gpu, Level, PAGE_SIZE, PageSet};
use mig_simd::{PageRecord, page_scan};

use super::costs;
use super::host::Guest;
use super::result::{Memory, Scan};
use crate::run::Run;

/// Pages that the CPU scans in one call, as when it packs.
const CALL: usize = 64 * PAGE_SIZE;

/// The SIMD levels with all threads, then the device with pages that were imported before, are imported, and are copied.
pub(super) fn scans(
    guest: &Guest,
    gpu: &Gpu,
    threads: usize,
    time: Duration,
    run: &Run,
) -> Result<Vec<Scan>> {
    let bytes = guest.bytes().len();
    let mut scans = Vec::new();
    for level in Level::present() {
        let costs = costs(time, run, || {
            by_cpu(level, threads, guest.bytes());
            Ok(())
        })?;
        scans.push(Scan::new(level.name().to_owned(), None, bytes, &costs)?);
    }
    for memory in Memory::ALL {
        let Some((guest, _imported)) = memory.of(guest, gpu)? else { continue };
        let set = PageSet::from_ranges(std::iter::once(0..guest.pages()))?;
        let costs = costs(time, run, || gpu.scan(&guest, &set, &[]).map(drop).context("the device failed"))?;
        scans.push(Scan::new(format!("GPU, pages {}", memory.name()), Some(memory), bytes, &costs)?);
    }
    Ok(scans)
}

fn by_cpu(level: Level, threads: usize, bytes: &[u8]) {
    let share = (bytes.len() / threads).next_multiple_of(CALL);
    std::thread::scope(|scope| {
        for part in bytes.chunks(share) {
            scope.spawn(move || {
                let mut records = [PageRecord::default(); CALL / PAGE_SIZE];
                for call in part.chunks(CALL) {
                    page_scan(level, call, &mut records[..call.len() / PAGE_SIZE]);
                    std::hint::black_box(&records);
                }
            });
        }
    });
}
