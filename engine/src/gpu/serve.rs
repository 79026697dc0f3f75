//! The device's thread: claims chunks, keeps several batches under way, and hands in what they found.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::batch::{Batch, MAX_SPANS, Pages, Slot, Way};
use super::device::{Gpu, Inner};
use super::fault::Fault;
use super::pieces::Pieces;
use super::tables::Tables;
use crate::ahead::{ChunkScan, Claim, ScanAhead, Share, Task};
use crate::image::Run;
use crate::page::PageSet;
use crate::refs::Reference;
use crate::settle::CHUNK_PAGES;
use crate::source::PageSource;

/// Batches under way: one that the device reads, one that waits for it, one whose results are fetched.
const UNDER_WAY: usize = 3;
/// A batch that comes back in less than this may be larger, and one that takes more than that should be smaller: on a slow
/// device a large one would always come too late.
const SHORT: Duration = Duration::from_millis(15);
const LONG: Duration = Duration::from_millis(60);

impl Gpu {
    /// Scans what is announced to `ahead` until that is closed: what a thread of the caller's does while others encode.
    ///
    /// If the device fails, there is a line in the log, the CPU does what is left, and the call returns.
    pub fn serve<S: PageSource + ?Sized>(&self, ahead: &ScanAhead, source: &S, references: &[Reference]) {
        self.serve_keeping(ahead, source, references, &mut Kept::default());
    }

    /// The same with what an earlier call for the same stream left on the device. Whether the device can go on after it.
    pub(super) fn serve_keeping<S: PageSource + ?Sized>(
        &self,
        ahead: &ScanAhead,
        source: &S,
        references: &[Reference],
        kept: &mut Kept,
    ) -> bool {
        let fault = self.run(ahead, source, references, kept, true);
        fault.inspect(|fault| self.report(fault)).is_none()
    }

    /// Scans pages of a source, all of them on the device. For tests and measurements.
    ///
    /// # Errors
    ///
    /// The device failed.
    pub fn scan<S: PageSource + ?Sized>(
        &self,
        source: &S,
        pages: &PageSet,
        references: &[Reference],
    ) -> Result<Vec<ChunkScan>, Fault> {
        let ahead = ScanAhead::new(Share::Device);
        ahead.announce(pages);
        let fault = self.run(&ahead, source, references, &mut Kept::default(), false);
        let begun = ahead.begin(pages);
        let scans = (0..pages.len().div_ceil(CHUNK_PAGES)).map(|chunk| begun.as_ref()?.take(chunk)).collect();
        let unfinished = || Fault::Other("the device left pages out".into());
        fault.map_or_else(|| Option::ok_or_else(scans, unfinished), Err)
    }

    fn report(&self, fault: &Fault) {
        let name = &self.adapter().name;
        if let Fault::NoImport(_) = fault {
            log::info!("{name}: {fault}: the CPU scans alone");
            return;
        }
        log::warn!("{name}: {fault}; the CPU scans the rest");
    }

    /// Works until the queue is closed, or, unless it shall `wait`, has no more.
    fn run<S: PageSource + ?Sized>(
        &self,
        ahead: &ScanAhead,
        source: &S,
        references: &[Reference],
        kept: &mut Kept,
        wait: bool,
    ) -> Option<Fault> {
        let mut session = Session { gpu: &self.inner, source, ahead, kept, under_way: VecDeque::new() };
        // wgpu panics where a driver does what it may not. That is no reason to lose a migration.
        let worked = catch_unwind(AssertUnwindSafe(|| session.work(references, wait)));
        let fault = match worked {
            Ok(Ok(())) => None,
            Ok(Err(fault)) => Some(fault),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
                Some(Fault::Other(format!("the driver or wgpu panicked: {text}")))
            }
        };
        drop(session);
        if fault.is_some() {
            // Whatever was claimed and not handed in is the CPU's now.
            ahead.retire();
        }
        if let Some(fault) = fault.as_ref().filter(|fault| !matches!(fault, Fault::NoImport(_))) {
            self.inner.counters.faults.fetch_add(1, Ordering::Relaxed);
            self.inner.give_up(fault);
        }
        self.inner.let_go();
        fault
    }
}

/// What a stream has on a device.
#[derive(Debug, Default)]
pub(super) struct Kept {
    tables: Option<Tables>,
    /// Buffers for batches, those that are not under way.
    free: Vec<Slot>,
}

/// One stream, or part of one, on a device.
struct Session<'a, S: ?Sized> {
    gpu: &'a Arc<Inner>,
    source: &'a S,
    ahead: &'a ScanAhead,
    kept: &'a mut Kept,
    /// The oldest first.
    under_way: VecDeque<Batch>,
}

impl<S: PageSource + ?Sized> Session<'_, S> {
    fn work(&mut self, references: &[Reference], wait: bool) -> Result<(), Fault> {
        let gpu = self.gpu;
        gpu.check()?;
        let mut pieces = Pieces::new(self.source.holds());
        if !gpu.may_stage {
            pieces.probe(gpu).map_err(Fault::NoImport)?;
        }
        let tables = match self.kept.tables.take() {
            Some(tables) => tables,
            None => Tables::new(gpu, self.source.page_count(), references)?,
        };
        let tables = self.kept.tables.insert(tables);
        while self.kept.free.len() < UNDER_WAY {
            self.kept.free.push(Slot::new(gpu, tables)?);
        }
        let most = gpu.sizes.batch_pages / CHUNK_PAGES as usize;
        let mut chunks = 1;
        loop {
            if let Some(slot) = self.kept.free.pop() {
                match self.ahead.claim(chunks, wait && self.under_way.is_empty()) {
                    Claim::Tasks(tasks) => {
                        self.start(slot, tasks, &mut pieces)?;
                        continue;
                    }
                    // What is under way is of no use to anybody; its buffers live until it ends.
                    Claim::Closed => return Ok(()),
                    Claim::Nothing if self.under_way.is_empty() => return Ok(()),
                    Claim::Nothing => self.kept.free.push(slot),
                }
            }
            let Some(batch) = self.under_way.pop_front() else { continue };
            let started = batch.started;
            let finished = batch.finish(gpu)?;
            self.ahead.finish_all(finished.scans);
            self.kept.free.push(finished.slot);
            match started.elapsed() {
                took if took < SHORT => chunks = most.min(2 * chunks),
                took if took > LONG => chunks = 1.max(chunks / 2),
                _ => {}
            }
        }
    }

    /// Hands chunks to the device; those without any data are done at once.
    fn start(&mut self, slot: Slot, tasks: Vec<Task>, pieces: &mut Pieces) -> Result<(), Fault> {
        let mut readable = Vec::new();
        for task in tasks {
            // What can't be read is the CPU's to report.
            let ready = task.pages().try_for_each(|range| self.source.prepare(range));
            match ready {
                Ok(()) => readable.push(task),
                Err(_) => self.ahead.give_back(&task),
            }
        }
        let mut pages = Vec::new();
        for (index, task) in readable.iter().enumerate() {
            let mut place = 0;
            for range in task.pages() {
                let mut page = range.start;
                while page < range.end {
                    let run = self.source.run(page, range.end - page);
                    if let Run::Data(bytes) = run {
                        pages.push(Pages { task: index, place, number: page, bytes });
                    }
                    let taken = run.pages().clamp(1, range.end - page);
                    page += taken;
                    place += taken as usize;
                }
            }
        }
        if pages.is_empty() {
            for task in readable {
                self.ahead.finish(&task, slot.empty_scan(task.page_count()));
            }
            self.kept.free.push(slot);
            return Ok(());
        }
        let count: usize = pages.iter().map(|run| run.bytes.len() / crate::page::PAGE_SIZE).sum();
        let way = self.way(&pages, pieces)?;
        let counters = &self.gpu.counters;
        counters.pages.fetch_add(count as u64, Ordering::Relaxed);
        let counter = if let Way::Imported(_) = way { &counters.imported } else { &counters.staged };
        counter.fetch_add(1, Ordering::Relaxed);
        self.under_way.push_back(Batch::start(self.gpu, slot, readable, &pages, way)?);
        Ok(())
    }

    /// How the device gets at these pages: where they lie if that can be.
    fn way(&self, pages: &[Pages<'_>], pieces: &mut Pieces) -> Result<Way, Fault> {
        let mut spans = Vec::new();
        let mut found = || -> Result<(), String> {
            for run in pages {
                spans.extend(pieces.find(self.gpu, run.bytes)?);
            }
            let changes = spans.windows(2).filter(|pair| pair[0].buffer != pair[1].buffer).count();
            if changes >= MAX_SPANS { Err("its pages lie too far apart".into()) } else { Ok(()) }
        };
        match found() {
            Ok(()) => Ok(Way::Imported(spans)),
            Err(_) if self.gpu.may_stage => Ok(Way::Staged),
            Err(why) => Err(Fault::NoImport(why)),
        }
    }
}
