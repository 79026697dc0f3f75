//! Scans from memory to records in memory: by the CPU, and end to end by the device.

use std::time::Duration;

use anyhow::{Context, Result};
use mig_engine::gpu::scan_on_cpu;
use mig_engine::{Gpu, Level, PageSet};

use super::costs;
use super::host::Guest;
use super::result::{Memory, Scan};
use crate::run::Run;

/// The SIMD levels with all threads, then the device with memory of each kind.
pub(super) fn scans(
    guest: &Guest,
    gpu: &Gpu,
    memories: &[Memory],
    threads: usize,
    time: Duration,
    run: &Run,
) -> Result<Vec<Scan>> {
    let bytes = guest.bytes().len();
    let mut scans = Vec::new();
    for level in Level::present() {
        let costs = costs(time, run, || {
            scan_on_cpu(level, threads, guest.bytes());
            Ok(())
        })?;
        scans.push(Scan::new(level.name().to_owned(), None, bytes, &costs)?);
    }
    for &memory in memories {
        let (guest, _imported) = memory.of(guest, gpu)?;
        let set = PageSet::from_ranges(std::iter::once(0..guest.pages()))?;
        let costs = costs(time, run, || gpu.scan(&guest, &set, &[]).map(drop).context("the device failed"))?;
        scans.push(Scan::new(format!("GPU, pages {}", memory.name()), Some(memory), bytes, &costs)?);
    }
    Ok(scans)
}
