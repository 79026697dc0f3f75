//! An open device: its queue, its stages, and the few calls that everything on it goes through.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mig_shaders::{Dispatch, SCAN};
use mig_simd::{Level, PAGE_SIZE, PageRecord, page_scan};
use wgpu::{BufferDescriptor, BufferUsages, ErrorFilter, Limits, PollType};

use super::GpuStats;
use super::choice::Adapter;
use super::fault::{Fault, Health, Saboteur, Step};
use super::import::{self, Importer};
use super::pieces::Registry;
use super::stages::{Stages, run_once};
use crate::settle::CHUNK_PAGES;

/// Pages of a batch, unless the adapter holds fewer: 64 MiB. At the 50 GB/s of a fast bus a batch takes more than a
/// millisecond, some ten times what it costs to hand it over.
const BATCH_PAGES: usize = 16 << 10;
/// How long a batch may take: far longer than the slowest device, and no longer than a driver takes to give one up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A GPU that scans. Clones share the device.
#[derive(Clone, Debug)]
pub struct Gpu {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) adapter: Adapter,
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) stages: Stages,
    pub(super) importer: Option<Importer>,
    /// Memory that is to stay imported.
    pub(super) imported: Registry,
    pub(super) sizes: Sizes,
    /// Whether pages may be copied to the device where they can't be imported.
    pub(super) may_stage: bool,
    pub(super) patience: Duration,
    pub(super) counters: Counters,
    /// Who lets go of what is not used any more.
    closing: Mutex<Option<JoinHandle<()>>>,
    health: Arc<Health>,
    /// Why the device is not to be used again.
    given_up: Mutex<Option<Fault>>,
    /// Only tests have one.
    saboteur: Option<Arc<dyn Saboteur>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("adapter", &self.adapter).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) pages: AtomicU64,
    pub(super) imported: AtomicU64,
    /// Pieces of memory that were imported.
    pub(super) imports: AtomicU64,
    pub(super) staged: AtomicU64,
    pub(super) faults: AtomicU64,
}

/// How much of something a device takes at once, from its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Bytes of a buffer that a stage can be given.
    pub(super) binding: u64,
    /// Pages of a batch, a multiple of a chunk's; 0 if not even one chunk fits.
    pub(super) batch_pages: usize,
    /// Bytes of a piece of host memory that is imported, a multiple of any page size.
    pub(super) piece: u64,
}

/// The largest piece of host memory that is imported at a time.
const PIECE: u64 = 64 << 20;

impl Sizes {
    pub(super) fn of(limits: &Limits) -> Self {
        let binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let pages = (binding / PAGE_SIZE as u64)
            .min(BATCH_PAGES as u64)
            .min(limits.max_compute_workgroups_per_dimension.into());
        let batch_pages = (pages / CHUNK_PAGES * CHUNK_PAGES) as usize;
        // A piece is a page longer than its share: see pieces.rs.
        let piece = (binding.saturating_sub(PAGE_SIZE as u64) >> 20 << 20).min(PIECE);
        Sizes { binding, batch_pages, piece }
    }
}

impl Gpu {
    /// # Errors
    ///
    /// Why the adapter can't be opened, in words.
    pub(super) fn from_adapter(
        adapter: &wgpu::Adapter,
        about: Adapter,
        may_stage: bool,
    ) -> Result<Self, String> {
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("mig"),
            required_features: wgpu::Features::empty(),
            required_limits: adapter.limits(),
            // Buffers are few and large.
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let (device, queue, importer) = import::open(adapter, &descriptor)?;
        let health = Health::of(&device);
        let sizes = Sizes::of(&device.limits());
        let stages = checked(&device, &health, || Stages::new(&device)).map_err(|fault| fault.to_string())?;
        let inner = Inner {
            adapter: about,
            device,
            queue,
            stages,
            importer,
            imported: Registry::default(),
            sizes,
            may_stage,
            patience: PATIENCE,
            counters: Counters::default(),
            closing: Mutex::new(None),
            health,
            given_up: Mutex::new(None),
            saboteur: None,
        };
        Ok(Gpu { inner: Arc::new(inner) })
    }

    /// What it is.
    pub fn adapter(&self) -> &Adapter {
        &self.inner.adapter
    }

    /// What it did so far.
    pub fn stats(&self) -> GpuStats {
        let counters = &self.inner.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GpuStats {
            pages: read(&counters.pages),
            imported_batches: read(&counters.imported),
            staged_batches: read(&counters.staged),
            faults: read(&counters.faults),
        }
    }

    /// Whether the device gives the records that the CPU gives: a driver that does not is worse than none.
    ///
    /// # Errors
    ///
    /// In words, what is wrong.
    pub(super) fn self_test(&self) -> Result<(), String> {
        let mut pages = vec![0; 64 * PAGE_SIZE];
        let mut state = 1u64;
        for (number, page) in pages.as_chunks_mut::<PAGE_SIZE>().0.iter_mut().enumerate() {
            for word in page.as_chunks_mut::<8>().0 {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                // From zero pages to ones of random bytes.
                *word =
                    (state & state.rotate_left(7) & u64::MAX.unbounded_shl(64 - number as u32)).to_le_bytes();
            }
        }
        let mut expected = vec![PageRecord::default(); 64];
        page_scan(Level::Scalar, &pages, &mut expected);
        let places: Vec<u32> = (0..64).map(|page| page * mig_simd::PAGE_WORDS as u32).collect();
        let mut buffers = [
            pages,
            bytemuck::cast_slice(&places).to_vec(),
            vec![0; size_of_val(&*expected)],
            vec![0; 4 * 64],
        ];
        let dispatch = Dispatch { end: 64, ..Dispatch::default() };
        run_once(&self.inner, &SCAN, dispatch, &mut buffers).map_err(|fault| fault.to_string())?;
        if buffers[2] != bytemuck::cast_slice::<_, u8>(&expected) {
            return Err("its records are not the CPU's: a bug in the driver".into());
        }
        Ok(())
    }

    /// The same device with someone who makes it fail.
    #[cfg(test)]
    pub(super) fn sabotaged(self, saboteur: Arc<dyn Saboteur>) -> Self {
        let mut inner = Arc::into_inner(self.inner).expect("nobody else has it yet");
        inner.saboteur = Some(saboteur);
        Gpu { inner: Arc::new(inner) }
    }

    /// How many pieces of memory it has imported.
    #[cfg(test)]
    pub(super) fn imports(&self) -> u64 {
        self.inner.counters.imports.load(Ordering::Relaxed)
    }

    /// The same device with other sizes.
    #[cfg(test)]
    pub(super) fn resized(self, resize: impl FnOnce(&mut Sizes)) -> Self {
        let mut inner = Arc::into_inner(self.inner).expect("nobody else has it yet");
        resize(&mut inner.sizes);
        Gpu { inner: Arc::new(inner) }
    }

    /// The same device, to which nothing may be copied.
    #[cfg(test)]
    pub(super) fn without_staging(self) -> Self {
        let mut inner = Arc::into_inner(self.inner).expect("nobody else has it yet");
        inner.may_stage = false;
        Gpu { inner: Arc::new(inner) }
    }

    /// The same device, which imports nothing.
    #[cfg(test)]
    pub(super) fn without_import(self) -> Self {
        let mut inner = Arc::into_inner(self.inner).expect("nobody else has it yet");
        inner.importer = None;
        Gpu { inner: Arc::new(inner) }
    }
}

impl Inner {
    /// Whether a test wants a step to fail.
    pub(super) fn spoils(&self, step: Step) -> bool {
        self.saboteur.as_ref().is_some_and(|saboteur| saboteur.spoils(step))
    }

    /// Does something with the device and turns every error of wgpu's into a fault.
    pub(super) fn checked<T>(&self, work: impl FnOnce() -> T) -> Result<T, Fault> {
        checked(&self.device, &self.health, work)
    }

    /// What the device says of itself, and whether it was given up before.
    pub(super) fn check(&self) -> Result<(), Fault> {
        self.health.check()?;
        let given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.clone().map_or(Ok(()), Err)
    }

    /// Keeps a device that failed from being asked again, unless it was only short of memory.
    pub(super) fn give_up(&self, fault: &Fault) {
        if !matches!(fault, Fault::OutOfMemory(_)) {
            self.given_up.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| fault.clone());
        }
    }

    /// A buffer of zeros.
    pub(super) fn buffer(&self, label: &str, size: u64, usage: BufferUsages) -> Result<wgpu::Buffer, Fault> {
        if self.spoils(Step::Allocate) {
            // No driver can be relied on to run out of memory.
            return Err(fault_of(&wgpu::Error::OutOfMemory { source: "a test wants it so".into() }));
        }
        let descriptor =
            BufferDescriptor { label: Some(label), size: size.max(4), usage, mapped_at_creation: false };
        self.checked(|| self.device.create_buffer(&descriptor))
    }

    /// Has wgpu free what nobody uses any more, imported memory above all, which it does only when asked how the device is. In a
    /// thread of its own: the device may have to end something first, and letting go of memory takes the kernel time. One that
    /// hangs keeps everything.
    pub(super) fn let_go(&self) {
        if matches!(self.check(), Err(Fault::Hung(_))) {
            return;
        }
        let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        let (device, before, patience) = (self.device.clone(), closing.take(), self.patience);
        let work = move || {
            before.map(JoinHandle::join);
            let all = PollType::Wait { submission_index: None, timeout: Some(patience) };
            if let Err(error) = device.poll(all) {
                log::debug!("the GPU does not end: {error}");
            }
        };
        match thread::Builder::new().name("mig-gpu-end".into()).spawn(work) {
            Ok(thread) => *closing = Some(thread),
            Err(error) => log::debug!("no thread to let go of memory: {error}"),
        }
    }

    /// Waits for work to end.
    pub(super) fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<(), Fault> {
        if self.spoils(Step::Wait) {
            return Err(Fault::Hung(self.patience));
        }
        let wait = PollType::Wait { submission_index: Some(submission), timeout: Some(self.patience) };
        match self.device.poll(wait) {
            Ok(_) => self.check(),
            Err(wgpu::PollError::Timeout) => {
                self.check()?;
                Err(Fault::Hung(self.patience))
            }
            Err(error) => {
                // Work that was never taken: who knows why says so in a callback, which a poll brings.
                let _ = self.device.poll(PollType::Poll);
                self.check()?;
                Err(Fault::Other(error.to_string()))
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // wgpu waits for all work when a queue is closed, however long that takes. So a device that hangs stays open.
        let wait = PollType::Wait { submission_index: None, timeout: Some(self.patience) };
        let hangs = matches!(self.check(), Err(Fault::Hung(_)))
            || matches!(self.device.poll(wait), Err(wgpu::PollError::Timeout));
        let closing = self.closing.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if !hangs {
            // It has panicked only if wgpu has, and then there is nothing left to do.
            let _ = closing.map(JoinHandle::join);
        }
        if hangs {
            std::mem::forget((self.device.clone(), self.queue.clone()));
        }
    }
}

fn checked<T>(device: &wgpu::Device, health: &Health, work: impl FnOnce() -> T) -> Result<T, Fault> {
    let memory = device.push_error_scope(ErrorFilter::OutOfMemory);
    let internal = device.push_error_scope(ErrorFilter::Internal);
    let validation = device.push_error_scope(ErrorFilter::Validation);
    let done = work();
    let errors = [validation, internal, memory].map(|scope| pollster::block_on(scope.pop()));
    health.check()?;
    match errors.into_iter().flatten().next() {
        None => Ok(done),
        Some(error) => Err(fault_of(&error)),
    }
}

fn fault_of(error: &wgpu::Error) -> Fault {
    match error {
        wgpu::Error::OutOfMemory { source } => Fault::OutOfMemory(with_sources(source.as_ref())),
        error => Fault::Other(with_sources(error)),
    }
}

/// An error's message and those of what caused it, on one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text += &format!(": {cause}");
        }
        source = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
