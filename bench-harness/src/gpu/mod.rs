//! `mig-bench gpu`: what a GPU takes off the CPU, and what it costs to get pages there.
//!
//! Memory is the sample, tiled and changed, in anonymous memory as a VMM's guest has it, with the sample's disk as the
//! reference. First the roofs: reading memory, copying to the device, scanning on the device alone. Then the scan end to
//! end, with pages imported and copied; scan and settle together, in processor seconds; and whole pipelines, with the
//! CPU alone, the GPU's scan alone, and both, taking turns. Each pipeline's stream is compared with the CPU's.

mod goals;
mod host;
mod pipeline;
mod result;
mod scans;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mig_engine::gpu::{DeviceRates, Fault};
use mig_engine::{Gpu, Level, PAGE_SIZE};

use crate::cli::GpuBenchArgs;
use crate::exit::Problem;
use crate::human;
use crate::measure::{Cost, timed};
use crate::provenance::Provenance;
use crate::report::Report;
use crate::run::{Run, Steps};

use host::{Guest, disk_reference};
use result::{GpuResult, InPlace, Memory};

pub(crate) fn run(args: &GpuBenchArgs, run: &Run) -> Result<()> {
    let provenance = Provenance::now();
    let choice = args.gpu.choice();
    let gpu = Gpu::open(&choice).map_err(|error| Problem::Usage(error.to_string()))?;
    let gpu = gpu.ok_or_else(|| {
        Problem::Usage(
            "no GPU helps here; `mig devices` lists adapters, --gpu require --gpu-adapter takes any".into(),
        )
    })?;
    let threads = args.threads.count();
    let efforts: Vec<_> = args.effort.iter().flat_map(|choice| choice.efforts()).collect();
    let steps = Steps::new(6 + efforts.len() as u64 * 2);

    steps.now("filling memory");
    let guest = Guest::new((args.mib as usize) << 20)?;
    let reference = disk_reference(&run.cancel)?;
    let references = [reference];
    steps.done();
    run.check()?;
    let time = Duration::from_secs_f64(args.seconds);
    steps.now("reading memory");
    let host_read = host::read_rate(&guest, threads, time)?;
    steps.done();
    steps.now("the device alone");
    let alone = gpu.device_rates(guest.bytes(), time).context("the device failed")?;
    steps.done();
    let imported = match gpu.import_rates(&guest.hold(), guest.bytes(), time) {
        Err(Fault::NoImport(why)) => {
            log::info!("memory can't be imported: {why}");
            None
        }
        rates => Some(rates.context("the device failed")?),
    };
    // Where memory can't be imported, it is copied, held or not.
    let memories = match imported {
        Some(_) => &[Memory::Imported, Memory::Held, Memory::Copied][..],
        None => &[Memory::Copied],
    };
    run.check()?;
    steps.now("scans, end to end");
    let scans = scans::scans(&guest, &gpu, memories, threads, time, run)?;
    steps.done();
    steps.now("checking the device's records");
    host::verify(&gpu, &guest, &references)?;
    steps.done();
    steps.now("scan and settle");
    let settles = pipeline::settles(&guest, &references, &gpu, memories, threads, time, run)?;
    steps.done();
    let mut pipelines = Vec::new();
    for effort in efforts {
        // Copying is only of interest where nothing else can be done.
        for &memory in &memories[..memories.len().min(2)] {
            steps.now(format!("packing at {effort}, memory {}", memory.name()));
            pipelines.push(pipeline::packs(&guest, memory, effort, &gpu, threads, args.repeats, run)?);
            steps.done();
        }
    }
    drop(steps);

    let adapter = gpu.adapter();
    let DeviceRates { upload, scan, .. } = alone;
    // Where the device sees no memory of its own, its staging buffers are in the host's.
    let upload = imported.map_or(upload, |rates| rates.copy);
    let result = GpuResult {
        adapter: adapter.name.clone(),
        kind: adapter.kind.name(),
        driver: adapter.driver.clone(),
        import: adapter
            .import
            .as_ref()
            .map_or_else(Clone::clone, |bytes| format!("multiples of {bytes} bytes")),
        memory_bytes: guest.bytes().len() as u64,
        threads,
        level: Level::best().name(),
        host_read,
        upload,
        scan_on_device: scan,
        imported: imported.map(|rates| InPlace { pinning: rates.pinning, scan: rates.scan }),
        scans,
        settles,
        pipelines,
    };
    let goals = goals::goals(&result);
    let figures = result.describe();
    let mut report = Report::new("gpu", provenance.with_gpu(Some(&gpu)), result);
    report.synthetic = Some(
        "pages of the built-in real sample, tiled, with a few words of each changed, so none is a duplicate and few equal \
         the disk's; as the scan's speed hardly depends on what pages hold, it is about that of real memory"
            .into(),
    );
    report.goals = goals;
    report.notes = vec![
        "GB/s are decimal gigabytes of pages; the median of all runs, with the slowest and the fastest".into(),
        "imported before: pinned for the device beforehand, as a VMM may do that migrates in rounds; imported, held: pinned while it is \
         scanned, each time"
            .into(),
        "scan and settle: all threads at the CPU's levels, two with the GPU".into(),
        "processor seconds are of all threads of this process: for a software adapter, also those of the adapter".into(),
        format!("{} of memory, with the sample's disk as the reference; streams go into a sink that hashes", human::bytes(guest.bytes().len() as u64)),
    ];
    if adapter.kind == mig_engine::gpu::AdapterKind::Software {
        report.notes.push(
            "a SOFTWARE adapter: this shows that answers are right, and nothing of a GPU's speed".into(),
        );
    }
    report.finish(&figures, &args.output)
}

/// Does something again and again, for some time but at least thrice; gives what each time took, without the first.
fn costs(time: Duration, run: &Run, mut once: impl FnMut() -> Result<()>) -> Result<Vec<Cost>> {
    once()?;
    let (start, mut costs) = (Instant::now(), Vec::new());
    while costs.len() < 3 || start.elapsed() < time {
        run.check()?;
        costs.push(timed(&mut once)?.1);
    }
    Ok(costs)
}

/// Whole blocks of a guest, as the packer cuts it.
fn blocks(pages: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    const BLOCK: u64 = (32 << 20) / PAGE_SIZE as u64;
    (0..pages.div_ceil(BLOCK)).map(move |block| block * BLOCK..pages.min((block + 1) * BLOCK))
}
