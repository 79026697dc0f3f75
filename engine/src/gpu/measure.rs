//! How fast pages are scanned: by each kind of worker, and by a device alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use mig_simd::{Level, PAGE_SIZE, PageRecord, page_scan};

use crate::error::EncodeError;
use crate::hold::Hold;
use crate::image::Run;
use crate::progress::Cancel;
use crate::source::PageSource;

/// Memory that is scanned: larger than most caches.
const BYTES: usize = 256 << 20;
/// Pages that the CPU scans in one call, as when it packs.
const CALL: usize = 64 * PAGE_SIZE;

/// A kind of worker and its speed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ScanRate {
    /// Such as `avx2, 1 thread`.
    pub worker: String,
    /// Decimal gigabytes of pages a second, from memory to the records in memory; or why there is none.
    pub gb_per_second: Result<f64, String>,
}

/// Pages in anonymous memory, as a VMM's guest memory is. What they hold hardly matters to the speed.
#[derive(Debug)]
struct Memory {
    map: Arc<MmapMut>,
    held: bool,
}

impl PageSource for Memory {
    fn page_count(&self) -> u64 {
        PageSource::page_count(&self.map[..])
    }

    fn run(&self, page: u64, max: u64) -> Run<'_> {
        PageSource::run(&self.map[..], page, max)
    }

    fn holds(&self) -> Vec<Hold> {
        if self.held { vec![Hold::of_map_mut(self.map.clone())] } else { Vec::new() }
    }
}

/// Measures every SIMD level on one thread, the best on all, and every adapter that can be used with pages imported and
/// with pages copied: some `seconds` in all.
///
/// # Errors
///
/// [`EncodeError::Cancelled`]; [`EncodeError::Read`] if there is no memory to scan.
pub fn measure_all(seconds: f64, cancel: &Cancel) -> Result<Vec<ScanRate>, EncodeError> {
    let memory = Memory { map: Arc::new(memory()?), held: true };
    let levels = Level::present();
    let threads = crate::default_threads();
    let adapters: Vec<_> = super::Gpu::adapters().into_iter().filter(|one| one.unusable.is_none()).collect();
    let parts = levels.len() + usize::from(threads > 1) + 2 * adapters.len();
    let time = Duration::from_secs_f64(seconds / parts as f64);
    let mut rates = Vec::new();
    let best = levels.last().copied().map(|level| (level, threads)).filter(|_| threads > 1);
    for (level, threads) in levels.into_iter().map(|level| (level, 1)).chain(best) {
        check(cancel)?;
        let s = if threads == 1 { "" } else { "s" };
        let worker = format!("{level}, {threads} thread{s}");
        let gb_per_second = Ok(repeat(time, || scan_on_cpu(level, threads, &memory.map)));
        rates.push(ScanRate { worker, gb_per_second });
    }
    for adapter in adapters {
        for held in [true, false] {
            check(cancel)?;
            let worker = format!("{}, pages {}", adapter.name, if held { "imported" } else { "copied" });
            let source = Memory { map: memory.map.clone(), held };
            rates.push(ScanRate { worker, gb_per_second: on_gpu(&adapter, &source, time) });
        }
    }
    Ok(rates)
}

fn check(cancel: &Cancel) -> Result<(), EncodeError> {
    if cancel.is_cancelled() { Err(EncodeError::Cancelled) } else { Ok(()) }
}

fn memory() -> Result<MmapMut, EncodeError> {
    let last = (BYTES / PAGE_SIZE - 1) as u64;
    let failed = |source| EncodeError::Read { first: 0, last, source };
    let mut map = MmapMut::map_anon(BYTES).map_err(failed)?;
    let mut word = 0u64;
    for bytes in map.as_chunks_mut::<8>().0 {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        *bytes = (word >> (word >> 59)).to_le_bytes();
    }
    Ok(map)
}

/// Does something with all of the memory again and again; gives its rate in GB/s, without the first time.
fn repeat(time: Duration, mut once: impl FnMut()) -> f64 {
    once();
    let (start, mut turns) = (Instant::now(), 0);
    while turns == 0 || start.elapsed() < time {
        once();
        turns += 1;
    }
    (turns * BYTES) as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Scans whole pages on so many threads, and drops the records: what the CPU does where no device does it, for measurements.
pub fn scan_on_cpu(level: Level, threads: usize, bytes: &[u8]) {
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

#[cfg(not(feature = "gpu"))]
fn on_gpu(_: &super::Adapter, _: &Memory, _: Duration) -> Result<f64, String> {
    Err("this build has no GPU worker".into())
}

#[cfg(feature = "gpu")]
fn on_gpu(adapter: &super::Adapter, source: &Memory, time: Duration) -> Result<f64, String> {
    use super::{Gpu, GpuChoice, GpuMode};
    let choice = GpuChoice::named(GpuMode::Require, &adapter.name);
    let gpu = Gpu::open(&choice).map_err(|error| error.to_string())?.ok_or("it was not opened")?;
    let set = crate::page::PageSet::from_range(0..source.page_count());
    let mut failed = None;
    let rate = repeat(time, || {
        if let Err(fault) = gpu.scan(source, &set, &[]) {
            failed = Some(fault);
        }
    });
    if let Some(fault) = failed {
        return Err(fault.to_string());
    }
    if source.held && gpu.stats().imported_batches == 0 {
        return Err("not imported".into());
    }
    Ok(rate)
}

#[cfg(feature = "gpu")]
pub use alone::{DeviceRates, ImportRates};

#[cfg(feature = "gpu")]
mod alone {
    use std::time::Instant;

    use mig_shaders::{Dispatch, SCAN};
    use wgpu::{BindGroup, Buffer, BufferUsages};

    use super::{Duration, PAGE_SIZE, PageRecord};
    use crate::gpu::device::Inner;
    use crate::gpu::pieces::{KEPT, Pieces};
    use crate::gpu::stages::{Stage, UNIFORM_STRIDE, uniforms};
    use crate::gpu::{Fault, Gpu};
    use crate::hold::Hold;
    use crate::page::PAGE_WORDS;

    /// What a device does without anybody to wait for, in decimal GB/s.
    #[derive(Clone, Copy, Debug, PartialEq)]
    #[non_exhaustive]
    pub struct DeviceRates {
        /// Copies from host memory to device memory.
        pub upload: f64,
        /// The scan of pages in device memory.
        pub scan: f64,
    }

    /// What a device does with host memory that it imports, in decimal GB/s.
    #[derive(Clone, Copy, Debug, PartialEq)]
    #[non_exhaustive]
    pub struct ImportRates {
        /// Importing it and letting go of it: the kernel pins its pages.
        pub pinning: f64,
        /// Copies from there to device memory.
        pub copy: f64,
        /// The scan of pages where they lie.
        pub scan: f64,
    }

    impl Gpu {
        /// Measures the device with these pages, whole ones, of which as many are used as a batch holds: some `time` for each
        /// rate.
        ///
        /// # Errors
        ///
        /// The device failed.
        pub fn device_rates(&self, pages: &[u8], time: Duration) -> Result<DeviceRates, Fault> {
            let gpu = &self.inner;
            let count = (pages.len() / PAGE_SIZE).min(gpu.sizes.batch_pages);
            let bytes = (count * PAGE_SIZE) as u64;
            let host = gpu.buffer("host", bytes, BufferUsages::COPY_SRC | BufferUsages::MAP_WRITE)?;
            let memory = gpu.buffer("memory", bytes, BufferUsages::STORAGE | BufferUsages::COPY_DST)?;
            gpu.checked(|| gpu.queue.write_buffer(&memory, 0, &pages[..bytes as usize]))?;
            let scan = Scan::new(gpu, count, 0)?;
            let group = gpu.checked(|| scan.bind(&memory))?;
            let rate = |record: &dyn Fn(&mut wgpu::CommandEncoder)| {
                // Eight times all pages, so that handing them over does not count.
                gpu.rate(time, 8 * bytes, &|encoder| (0..8).for_each(|_| record(encoder)))
            };
            Ok(DeviceRates {
                upload: rate(&|encoder| encoder.copy_buffer_to_buffer(&host, 0, &memory, 0, bytes))?,
                scan: rate(&|encoder| {
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    scan.stage.run(&mut pass, &group, 0, count as u32);
                })?,
            })
        }

        /// Measures what the device does with held memory that it imports, up to 1 GiB of it; some `time` for each rate.
        ///
        /// # Errors
        ///
        /// The memory can't be imported ([`Fault::NoImport`]), or the device failed.
        pub fn import_rates(&self, hold: &Hold, bytes: &[u8], time: Duration) -> Result<ImportRates, Fault> {
            let gpu = &self.inner;
            let bytes = &bytes[..bytes.len().min(KEPT as usize)];
            let find = || Pieces::new(vec![hold.clone()]).find(gpu, bytes).map_err(Fault::NoImport);
            let mut spans = find()?;
            let (start, mut turns) = (Instant::now(), 0);
            while turns == 0 || start.elapsed() < time {
                // The memory is let go of when the device is asked how it goes.
                spans.clear();
                gpu.device.poll(wgpu::PollType::Poll).map_err(|error| Fault::Other(error.to_string()))?;
                spans = find()?;
                turns += 1;
            }
            let pinning = (turns * bytes.len()) as f64 / start.elapsed().as_secs_f64() / 1e9;

            let count = spans.iter().map(|span| span.pages).max().unwrap_or(0);
            let bytes = (count * PAGE_SIZE) as u64;
            let memory = gpu.buffer("memory", bytes, BufferUsages::STORAGE | BufferUsages::COPY_DST)?;
            let scan = Scan::new(gpu, count, spans.first().map_or(0, |span| span.word))?;
            let groups: Vec<_> =
                gpu.checked(|| spans.iter().map(|span| scan.bind(&span.buffer)).collect())?;
            let total = (spans.iter().map(|span| span.pages).sum::<usize>() * PAGE_SIZE) as u64;
            Ok(ImportRates {
                pinning,
                copy: gpu.rate(time, total, &|encoder| {
                    for span in &spans {
                        let from = 8 * u64::from(span.word);
                        let bytes = (span.pages * PAGE_SIZE) as u64;
                        encoder.copy_buffer_to_buffer(&span.buffer, from, &memory, 0, bytes);
                    }
                })?,
                scan: gpu.rate(time, total, &|encoder| {
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    for (group, span) in groups.iter().zip(&spans) {
                        scan.stage.run(&mut pass, group, 0, span.pages as u32);
                    }
                })?,
            })
        }
    }

    /// The scan of pages that lie one after the other in a buffer, with all that it needs but that.
    struct Scan<'g> {
        gpu: &'g Inner,
        stage: &'g Stage,
        uniform: Buffer,
        places: Buffer,
        records: Buffer,
        spreads: Buffer,
    }

    impl<'g> Scan<'g> {
        /// For `count` pages at most, the first of which starts at this word of the buffer.
        fn new(gpu: &'g Inner, count: usize, first: u32) -> Result<Self, Fault> {
            let (input, output) = (BufferUsages::STORAGE | BufferUsages::COPY_DST, BufferUsages::STORAGE);
            let scan = Scan {
                gpu,
                stage: gpu.stages.get(&SCAN),
                uniform: gpu.buffer(
                    "uniform",
                    UNIFORM_STRIDE.into(),
                    BufferUsages::UNIFORM | BufferUsages::COPY_DST,
                )?,
                places: gpu.buffer("places", 4 * count as u64, input)?,
                records: gpu.buffer("records", (count * size_of::<PageRecord>()) as u64, output)?,
                spreads: gpu.buffer("spreads", 4 * count as u64, output)?,
            };
            let places: Vec<u32> = (0..count).map(|page| first + (page * PAGE_WORDS) as u32).collect();
            let dispatch = Dispatch { end: count as u32, ..Dispatch::default() };
            gpu.checked(|| {
                gpu.queue.write_buffer(&scan.uniform, 0, &uniforms(&[dispatch]));
                gpu.queue.write_buffer(&scan.places, 0, bytemuck::cast_slice(&places));
            })?;
            Ok(scan)
        }

        fn bind(&self, memory: &Buffer) -> BindGroup {
            let buffers = [&self.uniform, memory, &self.places, &self.records, &self.spreads];
            self.stage.bind(&self.gpu.device, &buffers)
        }
    }

    impl Inner {
        /// How fast the device does what is recorded, which is about so many bytes, in GB/s; without the first time.
        fn rate(
            &self,
            time: Duration,
            bytes: u64,
            record: &dyn Fn(&mut wgpu::CommandEncoder),
        ) -> Result<f64, Fault> {
            let mut start = Instant::now();
            let mut turns = 0u64;
            while turns < 2 || start.elapsed() < time {
                let submission = self.checked(|| {
                    let mut encoder = self.device.create_command_encoder(&Default::default());
                    record(&mut encoder);
                    self.queue.submit([encoder.finish()])
                })?;
                self.wait(submission)?;
                if turns == 0 {
                    start = Instant::now();
                }
                turns += 1;
            }
            Ok(((turns - 1) * bytes) as f64 / start.elapsed().as_secs_f64() / 1e9)
        }
    }
}
