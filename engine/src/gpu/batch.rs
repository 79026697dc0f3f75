//! A batch of pages on its way: the buffers that it takes, what the device is told to do with them, and what comes back.

use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use mig_shaders::{
    CLASSIFY, DEDUP_FIND, DEDUP_INSERT, DEDUP_NOTE, Dispatch, LOOKUP, NO_BLOCK, NO_PAGE, SCAN, Shader,
};
use mig_simd::PageRecord;
use wgpu::{BindGroup, Buffer, BufferUsages, MapMode, SubmissionIndex};

use super::device::Inner;
use super::fault::{Fault, Step};
use super::pieces::Span;
use super::stages::{UNIFORM_STRIDE, uniforms};
use super::tables::Tables;
use crate::ahead::{ChunkScan, Task};
use crate::class::{self, Class};
use crate::page::{PAGE_SIZE, PAGE_WORDS};

/// Pieces of host memory that one batch reads from, at most; with more, its pages are copied together.
pub(super) const MAX_SPANS: usize = 32;
const RECORD: u64 = size_of::<PageRecord>() as u64;

// The stages' decision table is the engine's, and both say "none" in the same way.
const _: () = {
    use mig_shaders::class as theirs;
    assert!(theirs::INCOMPRESSIBLE == Class::Incompressible as u32);
    assert!(theirs::TEXT == Class::Text as u32);
    assert!(theirs::USER_POINTERS == Class::UserPointers as u32);
    assert!(theirs::KERNEL_POINTERS == Class::KernelPointers as u32);
    assert!(theirs::SPARSE == Class::Sparse as u32);
    assert!(theirs::OTHER == Class::Other as u32);
    assert!(theirs::MAX_PLAIN as usize == class::MAX_PLAIN);
    assert!(theirs::RANDOM_LIMIT == class::RANDOM_LIMIT);
    assert!(theirs::MIN_TEXT == class::MIN_TEXT as u32);
    assert!(theirs::MIN_POINTERS == class::MIN_POINTERS as u32);
    assert!(theirs::MIN_SPARSE == class::MIN_SPARSE as u32);
    assert!(NO_PAGE == ChunkScan::NO_PAGE && NO_BLOCK == crate::refs::NO_BLOCK);
};

/// Consecutive pages of a batch: where they belong, and where they lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages<'a> {
    /// Which of the batch's tasks they are part of, and from which of its pages on.
    pub(super) task: usize,
    pub(super) place: usize,
    /// The first one's page number.
    pub(super) number: u64,
    pub(super) bytes: &'a [u8],
}

impl Pages<'_> {
    fn count(&self) -> usize {
        self.bytes.len() / PAGE_SIZE
    }
}

/// How the device gets at the pages.
#[derive(Debug)]
pub(super) enum Way {
    /// Where they lie.
    Imported(Vec<Span>),
    /// Copied, one after the other.
    Staged,
}

/// The buffers of one batch, used again and again.
#[derive(Debug)]
pub(super) struct Slot {
    /// Pages that fit.
    capacity: usize,
    uniforms: Buffer,
    places: Buffer,
    numbers: Buffer,
    records: Buffer,
    spreads: Buffer,
    readback: Buffer,
    /// What comes back besides the records: from where, at how many bytes a page.
    columns: Vec<(Buffer, u64)>,
    /// Has a place among the columns.
    earlier: Option<usize>,
    /// The same for each reference.
    candidates: Vec<Option<usize>>,
    /// What runs after the scan, in this order, with the place of its uniform.
    then: Vec<(&'static Shader, BindGroup, usize)>,
    /// Uniforms of the tables, from the first one on.
    dispatches: Vec<Dispatch>,
    staged: Option<Staged>,
}

/// Buffers for pages that are copied.
#[derive(Debug)]
struct Staged {
    /// Which the CPU writes.
    host: Buffer,
    /// Which the scan reads.
    memory: Buffer,
    /// Whether `host` can be written to again, once it was given to the device.
    writable: Option<Receiver<bool>>,
}

/// Uniforms: first the scan's, one a span, then one for all pages, then the references'.
const ALL_PAGES: usize = MAX_SPANS;
const FIRST_INDEX: usize = MAX_SPANS + 1;

impl Slot {
    pub(super) fn new(gpu: &Inner, tables: &Tables) -> Result<Self, Fault> {
        let capacity = gpu.sizes.batch_pages;
        let a_page = |label: &str, bytes: u64, usage| gpu.buffer(label, bytes * capacity as u64, usage);
        let input = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let output = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
        let uniforms = (FIRST_INDEX + tables.indexes.len()) as u64 * u64::from(UNIFORM_STRIDE);
        let uniforms = gpu.buffer("uniforms", uniforms, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;
        let (places, numbers) = (a_page("places", 4, input)?, a_page("numbers", 4, input)?);
        let (records, spreads) = (a_page("records", RECORD, output)?, a_page("spreads", 4, output)?);
        let classes = a_page("classes", 4, output)?;

        let mut then = Vec::new();
        let mut add = |shader: &'static Shader, buffers: &[&Buffer], uniform: usize| {
            let all: Vec<&Buffer> = std::iter::once(&uniforms).chain(buffers.iter().copied()).collect();
            let group = gpu.checked(|| gpu.stages.get(shader).bind(&gpu.device, &all))?;
            then.push((shader, group, uniform));
            Ok::<(), Fault>(())
        };
        add(&CLASSIFY, &[&records, &spreads, &classes], ALL_PAGES)?;
        let mut columns = vec![(records.clone(), RECORD), (classes, 4)];
        let mut earlier = None;
        if let Some(table) = &tables.dedup {
            let found = a_page("earlier", 4, output)?;
            let (fingerprints, slots) = (&table.fingerprints, &table.slots);
            add(&DEDUP_NOTE, &[&records, &numbers, fingerprints], ALL_PAGES)?;
            add(&DEDUP_INSERT, &[&records, &numbers, fingerprints, slots], ALL_PAGES)?;
            add(&DEDUP_FIND, &[&records, &numbers, fingerprints, slots, &found], ALL_PAGES)?;
            earlier = Some(columns.len());
            columns.push((found, 4));
        }
        let mut candidates = Vec::new();
        let mut dispatches = Vec::new();
        for (index, table) in tables.indexes.iter().enumerate() {
            let mut dispatch = Dispatch::default();
            let mut place = None;
            if let Some(table) = table {
                let found = a_page("candidates", 8, output)?;
                add(&LOOKUP, &[&records, &table.entries, &found], FIRST_INDEX + index)?;
                dispatch = Dispatch { buckets: table.buckets, blocks: table.blocks, ..dispatch };
                place = Some(columns.len());
                columns.push((found, 8));
            }
            candidates.push(place);
            dispatches.push(dispatch);
        }
        let back: u64 = columns.iter().map(|(_, bytes)| bytes).sum();
        let readback = a_page("readback", back, BufferUsages::MAP_READ | BufferUsages::COPY_DST)?;
        let staged = None;
        Ok(Slot {
            capacity,
            uniforms,
            places,
            numbers,
            records,
            spreads,
            readback,
            columns,
            earlier,
            candidates,
            then,
            dispatches,
            staged,
        })
    }

    /// Where a column's values for the batch's first page are in `readback`.
    fn offset(&self, column: usize) -> u64 {
        let before: u64 = self.columns[..column].iter().map(|(_, bytes)| bytes).sum();
        before * self.capacity as u64
    }

    /// Copies pages to where the scan finds them.
    fn stage(&mut self, gpu: &Inner, pages: &[Pages<'_>]) -> Result<(), Fault> {
        if self.staged.is_none() {
            let size = (self.capacity * PAGE_SIZE) as u64;
            let host = gpu.buffer("host", size, BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC)?;
            let memory = gpu.buffer("memory", size, BufferUsages::STORAGE | BufferUsages::COPY_DST)?;
            let writable = Some(map_for_writing(&host));
            self.staged = Some(Staged { host, memory, writable });
        }
        let Some(staged) = &mut self.staged else { return Ok(()) };
        if let Some(writable) = staged.writable.take() {
            // Its last use is over: the batch that it was for has come back.
            gpu.device.poll(wgpu::PollType::Poll).map_err(|error| Fault::Other(error.to_string()))?;
            if writable.recv_timeout(gpu.patience) != Ok(true) {
                gpu.check()?;
                return Err(Fault::Map("the buffer for pages on their way to the device".into()));
            }
        }
        let view = staged.host.get_mapped_range_mut(..);
        let mut view = view.map_err(|error| Fault::Map(error.to_string()))?;
        let mut at = 0;
        for pages in pages {
            view.slice(at..at + pages.bytes.len()).copy_from_slice(pages.bytes);
            at += pages.bytes.len();
        }
        drop(view);
        staged.host.unmap();
        Ok(())
    }
}

fn map_for_writing(buffer: &Buffer) -> Receiver<bool> {
    let (send, receive) = channel();
    buffer.map_async(MapMode::Write, .., move |result| {
        // Nobody listens any more if the device was given up.
        let _ = send.send(result.is_ok());
    });
    receive
}

/// A batch that the device is at.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) tasks: Vec<Task>,
    /// When it was handed to the device.
    pub(super) started: Instant,
    slot: Slot,
    /// For each run of pages: task, place in it, number of pages.
    runs: Vec<(usize, usize, usize)>,
    pages: usize,
    submission: SubmissionIndex,
    mapped: Receiver<bool>,
    /// Keeps the memory that the device reads.
    way: Way,
}

/// A batch that has come back.
#[derive(Debug)]
pub(super) struct Finished {
    /// What was found for each task.
    pub(super) scans: Vec<(Task, ChunkScan)>,
    /// The buffers, for another batch.
    pub(super) slot: Slot,
}

impl Batch {
    /// Hands pages, at least one and no more than a batch holds, to the device.
    pub(super) fn start(
        gpu: &Inner,
        mut slot: Slot,
        tasks: Vec<Task>,
        pages: &[Pages<'_>],
        way: Way,
    ) -> Result<Self, Fault> {
        let (submission, mapped) = Self::submit(gpu, &mut slot, pages, &way)?;
        let runs = pages.iter().map(|pages| (pages.task, pages.place, pages.count())).collect();
        let pages = pages.iter().map(Pages::count).sum();
        Ok(Batch { tasks, started: Instant::now(), slot, runs, pages, submission, mapped, way })
    }

    fn submit(
        gpu: &Inner,
        slot: &mut Slot,
        pages: &[Pages<'_>],
        way: &Way,
    ) -> Result<(SubmissionIndex, Receiver<bool>), Fault> {
        let count: usize = pages.iter().map(Pages::count).sum();
        assert!(0 < count && count <= slot.capacity, "{count} pages");
        let numbers: Vec<u32> =
            pages.iter().flat_map(|run| (0..run.count()).map(|i| (run.number + i as u64) as u32)).collect();
        // Of each span: its buffer and its pages.
        let mut scans: Vec<(&Buffer, u32)> = Vec::new();
        let mut places: Vec<u32> = Vec::with_capacity(count);
        if let Way::Staged = way {
            slot.stage(gpu, pages)?;
        }
        let slot = &*slot;
        match (way, &slot.staged) {
            (Way::Imported(spans), _) => {
                for span in spans {
                    places.extend((0..span.pages).map(|page| span.word + (page * PAGE_WORDS) as u32));
                    match scans.last_mut() {
                        Some((buffer, pages)) if *buffer == &span.buffer => *pages += span.pages as u32,
                        _ => scans.push((&span.buffer, span.pages as u32)),
                    }
                }
            }
            (Way::Staged, Some(staged)) => {
                places.extend((0..count).map(|page| (page * PAGE_WORDS) as u32));
                scans.push((&staged.memory, count as u32));
            }
            (Way::Staged, None) => unreachable!("`stage` made it"),
        }
        assert!(places.len() == count && scans.len() <= MAX_SPANS, "a place for each page");

        let mut dispatches = vec![Dispatch::default(); FIRST_INDEX + slot.dispatches.len()];
        let mut first = 0;
        for (dispatch, (_, pages)) in dispatches.iter_mut().zip(&scans) {
            *dispatch = Dispatch { first, end: first + pages, ..Dispatch::default() };
            first += pages;
        }
        let all = Dispatch { end: count as u32, ..Dispatch::default() };
        dispatches[ALL_PAGES] = all;
        for (dispatch, table) in dispatches[FIRST_INDEX..].iter_mut().zip(&slot.dispatches) {
            *dispatch = Dispatch { buckets: table.buckets, blocks: table.blocks, ..all };
        }

        if gpu.spoils(Step::Submit) {
            gpu.device.destroy();
        }
        let submission = gpu.checked(|| {
            gpu.queue.write_buffer(&slot.uniforms, 0, &uniforms(&dispatches));
            gpu.queue.write_buffer(&slot.places, 0, bytemuck::cast_slice(&places));
            gpu.queue.write_buffer(&slot.numbers, 0, bytemuck::cast_slice(&numbers));
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            if let (Way::Staged, Some(staged)) = (way, &slot.staged) {
                let bytes = (count * PAGE_SIZE) as u64;
                encoder.copy_buffer_to_buffer(&staged.host, 0, &staged.memory, 0, bytes);
            }
            let mut pass = encoder.begin_compute_pass(&Default::default());
            let scan = gpu.stages.get(&SCAN);
            for (uniform, (memory, pages)) in scans.iter().enumerate() {
                let buffers = [&slot.uniforms, memory, &slot.places, &slot.records, &slot.spreads];
                let group = scan.bind(&gpu.device, &buffers);
                scan.run(&mut pass, &group, uniform, *pages);
            }
            for (shader, group, uniform) in &slot.then {
                gpu.stages.get(shader).run(&mut pass, group, *uniform, count as u32);
            }
            drop(pass);
            for (column, (buffer, bytes)) in slot.columns.iter().enumerate() {
                let (to, bytes) = (slot.offset(column), bytes * count as u64);
                encoder.copy_buffer_to_buffer(buffer, 0, &slot.readback, to, bytes);
            }
            gpu.queue.submit([encoder.finish()])
        })?;
        if gpu.spoils(Step::Map) {
            slot.readback.destroy();
        }
        let (send, mapped) = channel();
        gpu.checked(|| {
            slot.readback.map_async(MapMode::Read, .., move |result| {
                let _ = send.send(result.is_ok());
            });
        })
        .map_err(|fault| match fault {
            Fault::Other(message) => Fault::Map(message),
            fault => fault,
        })?;
        Ok((submission, mapped))
    }

    /// Waits for the device.
    pub(super) fn finish(self, gpu: &Inner) -> Result<Finished, Fault> {
        gpu.wait(self.submission.clone())?;
        let scans = self.fetch(gpu)?;
        let mut slot = self.slot;
        slot.readback.unmap();
        if let (Way::Staged, Some(staged)) = (&self.way, &mut slot.staged) {
            staged.writable = Some(map_for_writing(&staged.host));
        }
        Ok(Finished { scans: self.tasks.into_iter().zip(scans).collect(), slot })
    }

    fn fetch(&self, gpu: &Inner) -> Result<Vec<ChunkScan>, Fault> {
        match self.mapped.recv_timeout(gpu.patience) {
            Ok(true) => {}
            Ok(false) => {
                gpu.check()?;
                return Err(Fault::Map("the driver says no more".into()));
            }
            Err(_) => return Err(Fault::Hung(gpu.patience)),
        }
        let slot = &self.slot;
        let view = slot.readback.get_mapped_range(..);
        let view = view.map_err(|error| Fault::Map(error.to_string()))?;
        let mut scans: Vec<ChunkScan> =
            self.tasks.iter().map(|task| slot.empty_scan(task.page_count())).collect();
        let mut from = 0;
        for &(task, place, pages) in &self.runs {
            let scan = &mut scans[task];
            let column = |column: usize| {
                let bytes = slot.columns[column].1 as usize;
                &view[slot.offset(column) as usize + from * bytes..][..pages * bytes]
            };
            let to = place..place + pages;
            bytemuck::cast_slice_mut(&mut scan.records[to.clone()]).copy_from_slice(column(0));
            for (class, bytes) in scan.classes[to.clone()].iter_mut().zip(column(1).chunks_exact(4)) {
                *class = bytes[0];
            }
            if let Some(earlier) = slot.earlier {
                bytemuck::cast_slice_mut(&mut scan.earlier[to.clone()]).copy_from_slice(column(earlier));
            }
            for (candidates, place) in scan.candidates.iter_mut().zip(&slot.candidates) {
                if let (Some(candidates), Some(place)) = (candidates, place) {
                    bytemuck::cast_slice_mut(&mut candidates[to.clone()]).copy_from_slice(column(*place));
                }
            }
            from += pages;
        }
        debug_assert_eq!(from, self.pages);
        Ok(scans)
    }
}

impl Slot {
    /// A scan of a chunk of so many pages, all of them holes.
    pub(super) fn empty_scan(&self, pages: usize) -> ChunkScan {
        ChunkScan {
            records: vec![PageRecord::default(); pages],
            classes: vec![0; pages],
            earlier: if self.earlier.is_some() { vec![NO_PAGE; pages] } else { Vec::new() },
            candidates: self.candidates.iter().map(|place| place.map(|_| vec![NO_BLOCK; pages])).collect(),
        }
    }
}
