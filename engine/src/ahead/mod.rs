//! Scanning ahead: the queue of chunks from which the CPU's threads and a device both take.
//!
//! Sets of pages are announced before they are scanned. A device claims chunks some way ahead of the CPU and hands in what
//! it found; a thread of the CPU that comes to a chunk takes what is there, and scans itself whatever is not: it never
//! waits, so a slow device holds nobody up. Which of the two did a chunk does not show in the output: a device's records
//! are the CPU's, byte for byte, and all else that it says are proposals.
//!
//! How far ahead a device claims is found out while it runs: where the CPU comes to a chunk that the device has claimed and
//! not finished, that work was for nothing, and the next claims lie twice as far ahead.

#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use mig_simd::PageRecord;

use crate::page::PageSet;
use crate::settle::CHUNK_PAGES;

/// Chunks that are announced ahead of the one that is scanned, at most, when an image is packed: 1 GiB of guest, whose
/// results take some 16 MiB.
const WINDOW_CHUNKS: u64 = 256;
/// The farthest ahead that claims lie.
const MAX_LEAD: u64 = WINDOW_CHUNKS * 3 / 4;

/// What a device found out about a chunk's pages: for each page, in the order of the set.
///
/// Holes have an entry that says nothing.
#[derive(Clone, Debug, Default)]
pub struct ChunkScan {
    /// As `mig_simd::page_scan` gives it.
    pub records: Vec<PageRecord>,
    /// The number of the page's content class, as [`Class::of`](crate::Class::of) gives it.
    pub classes: Vec<u8>,
    /// An earlier page that may have the same bytes, or [`ChunkScan::NO_PAGE`]. Empty where the device keeps no table.
    pub earlier: Vec<u32>,
    /// For each reference, the block that its index proposes for each page; `None` where the device does not have the index.
    pub candidates: Vec<Option<Vec<u64>>>,
}

impl ChunkScan {
    /// No earlier page.
    pub const NO_PAGE: u32 = u32::MAX;
}

/// Who scans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// The CPU and the device, whoever gets to a chunk first.
    #[default]
    Both,
    /// The device alone, as long as it works: the CPU waits for it. For measurements and tests.
    Device,
}

/// A chunk that a device has claimed. It must be handed in or given back.
#[derive(Clone, Debug)]
#[must_use = "the CPU may be waiting for the chunk"]
pub struct Task {
    number: u64,
    set: Arc<PageSet>,
    ordinals: Range<u64>,
}

impl Task {
    /// The chunk's pages.
    pub fn pages(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.set.slice(self.ordinals.clone())
    }

    /// How many there are: at most 1024.
    pub fn page_count(&self) -> usize {
        (self.ordinals.end - self.ordinals.start) as usize
    }
}

/// What [`ScanAhead::claim`] gives.
#[derive(Debug)]
pub enum Claim {
    /// Chunks to scan, at least one.
    Tasks(Vec<Task>),
    /// Nothing to do now.
    Nothing,
    /// Nothing to do any more.
    Closed,
}

/// How chunks were scanned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AheadStats {
    /// Chunks whose scan came from the device.
    pub device: u64,
    /// Chunks that the CPU scanned.
    pub cpu: u64,
    /// Those among them that the device was at when the CPU came, so that its work was for nothing.
    pub late: u64,
}

/// The queue.
#[derive(Debug, Default)]
pub struct ScanAhead {
    share: Share,
    state: Mutex<State>,
    /// There may be something to claim, or the queue has ended: what a device waits for.
    work: Condvar,
    /// Chunks were handed in or given back, or the queue has ended: what the CPU waits for, if it does.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    sets: VecDeque<Announced>,
    /// Number of the next chunk to be announced.
    next: u64,
    /// One past the last chunk that the CPU came to.
    front: u64,
    /// How far ahead of the front claims lie.
    lead: u64,
    closed: bool,
    /// There is no device, or not any more.
    retired: bool,
    stats: AheadStats,
}

#[derive(Debug)]
struct Announced {
    set: Arc<PageSet>,
    /// Number of its first chunk.
    first: u64,
    chunks: Vec<ChunkState>,
    /// Somebody scans it.
    begun: bool,
    /// Chunks that the CPU has not come to.
    left: usize,
}

#[derive(Debug)]
enum ChunkState {
    Waiting,
    /// A device is at it; so far ahead of the CPU was it claimed.
    Claimed {
        lead: u64,
    },
    Done(Box<ChunkScan>),
    /// The CPU has come to it, or must scan it itself.
    Gone,
}

/// Announces a set's chunks as far ahead of those that are scanned as the window reaches: one by one, so that blocks of any
/// number of whole chunks can be made of them.
pub(crate) struct Announcer<'a> {
    ahead: Option<&'a ScanAhead>,
    pages: &'a PageSet,
    announced: u64,
}

impl<'a> Announcer<'a> {
    pub(crate) fn new(ahead: Option<&'a ScanAhead>, pages: &'a PageSet) -> Self {
        Announcer { ahead, pages, announced: 0 }
    }

    /// Announces what the window holds if the next block begins with the page of this ordinal. Blocks that are not of whole
    /// chunks end the device's part.
    pub(crate) fn next_is(&mut self, ordinal: u64) {
        if ordinal < self.pages.len()
            && !ordinal.is_multiple_of(CHUNK_PAGES)
            && let Some(ahead) = self.ahead.take()
        {
            ahead.retire();
        }
        let Some(ahead) = self.ahead else { return };
        let until = self.pages.len().min(ordinal.saturating_add(WINDOW_CHUNKS * CHUNK_PAGES));
        while self.announced < until {
            let end = self.pages.len().min(self.announced + CHUNK_PAGES);
            // Part of a set that is one.
            if let Ok(chunk) = PageSet::from_list(self.pages.slice(self.announced..end)) {
                ahead.announce(&chunk);
            }
            self.announced = end;
        }
    }
}

/// A set that is being scanned.
#[derive(Debug)]
pub(crate) struct Begun<'a> {
    ahead: &'a ScanAhead,
    first: u64,
}

impl ScanAhead {
    /// An empty queue.
    pub fn new(share: Share) -> Self {
        ScanAhead { share, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked left the state whole: nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells that a set will be scanned, after those announced before. Its pages must be there from now on, and give the same
    /// bytes when they are scanned.
    pub fn announce(&self, set: &PageSet) {
        let mut state = self.lock();
        if state.retired || state.closed {
            return;
        }
        let chunks = set.len().div_ceil(CHUNK_PAGES);
        let first = state.next;
        state.next += chunks;
        state.sets.push_back(Announced {
            set: Arc::new(set.clone()),
            first,
            chunks: (0..chunks).map(|_| ChunkState::Waiting).collect(),
            begun: false,
            left: chunks as usize,
        });
        self.work.notify_all();
    }

    /// Claims chunks for a device: up to `max` that follow each other. With `wait`, returns only when there is something to
    /// do, or will never be.
    pub fn claim(&self, max: usize, wait: bool) -> Claim {
        let mut state = self.lock();
        loop {
            if state.closed || state.retired {
                return Claim::Closed;
            }
            let tasks = state.claim(max, self.share);
            if !tasks.is_empty() {
                return Claim::Tasks(tasks);
            }
            if !wait {
                return Claim::Nothing;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands in what a device found. If the CPU has scanned the chunk meanwhile, it is dropped.
    ///
    /// # Panics
    ///
    /// If the scan does not have an entry for each page of the chunk.
    pub fn finish(&self, task: &Task, scan: ChunkScan) {
        self.finish_all([(task, scan)]);
    }

    /// The same for several chunks, which wakes whoever waits only once.
    pub(crate) fn finish_all(&self, scans: impl IntoIterator<Item = (impl Borrow<Task>, ChunkScan)>) {
        let done = |(task, scan): (_, ChunkScan)| {
            let task: &Task = Borrow::borrow(&task);
            (task.number, Self::done(task, scan))
        };
        self.settle(scans.into_iter().map(done).collect());
    }

    fn done(task: &Task, scan: ChunkScan) -> ChunkState {
        let pages = task.page_count();
        let whole = scan.records.len() == pages
            && scan.classes.len() == pages
            && (scan.earlier.is_empty() || scan.earlier.len() == pages)
            && scan.candidates.iter().flatten().all(|candidates| candidates.len() == pages);
        assert!(whole, "a scan of {pages} pages has an entry for each");
        ChunkState::Done(Box::new(scan))
    }

    /// Leaves a chunk to the CPU.
    pub fn give_back(&self, task: &Task) {
        self.settle(vec![(task.number, ChunkState::Gone)]);
    }

    fn settle(&self, chunks: Vec<(u64, ChunkState)>) {
        let mut state = self.lock();
        for (number, with) in chunks {
            if let Some(chunk @ ChunkState::Claimed { .. }) = state.chunk(number) {
                *chunk = with;
            }
        }
        drop(state);
        self.done.notify_all();
    }

    /// Ends the device's part for good: what it has claimed and not handed in is the CPU's.
    pub fn retire(&self) {
        let mut state = self.lock();
        state.retired = true;
        let chunks = state.sets.iter_mut().flat_map(|set| &mut set.chunks);
        chunks
            .filter(|chunk| !matches!(chunk, ChunkState::Done(_)))
            .for_each(|chunk| *chunk = ChunkState::Gone);
        drop(state);
        self.work.notify_all();
        self.done.notify_all();
    }

    /// Tells that nothing more will be announced or scanned.
    pub fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
        self.done.notify_all();
    }

    /// Who scanned how much so far.
    pub fn stats(&self) -> AheadStats {
        self.lock().stats
    }

    /// Begins to scan a set; `None` if it was not announced, in one or in consecutive parts, of which only the last may end
    /// within a chunk.
    pub(crate) fn begin(&self, set: &PageSet) -> Option<Begun<'_>> {
        let mut state = self.lock();
        let is_first = |announced: &Announced| !announced.begun && announced.set.first() == set.first();
        let at = state.sets.iter().position(is_first)?;
        let (mut covered, mut parts) = (0, 0);
        while covered < set.len() {
            let part = state.sets.get(at + parts).filter(|part| !part.begun)?;
            let until = covered + part.set.len();
            let follows = part.first == state.sets[at].first + covered / CHUNK_PAGES
                && covered.is_multiple_of(CHUNK_PAGES)
                && until <= set.len();
            if !follows || !part.set.ranges().eq(set.slice(covered..until)) {
                return None;
            }
            (covered, parts) = (until, parts + 1);
        }
        state.sets.range_mut(at..at + parts).for_each(|part| part.begun = true);
        Some(Begun { ahead: self, first: state.sets[at].first })
    }
}

impl State {
    fn chunk(&mut self, number: u64) -> Option<&mut ChunkState> {
        let at = self.sets.partition_point(|set| set.first + set.chunks.len() as u64 <= number);
        let set = self.sets.get_mut(at).filter(|set| set.first <= number)?;
        set.chunks.get_mut((number - set.first) as usize)
    }

    fn claim(&mut self, max: usize, share: Share) -> Vec<Task> {
        let lead = if share == Share::Device { 0 } else { self.lead };
        let (front, from) = (self.front, self.front + lead);
        let mut tasks = Vec::new();
        for announced in &mut self.sets {
            for (number, chunk) in (announced.first..).zip(&mut announced.chunks) {
                if tasks.len() == max {
                    return tasks;
                }
                // Before the front there are only chunks that a thread is about to come to, unless the CPU waits.
                let early = number < from && share == Share::Both;
                if early || !matches!(chunk, ChunkState::Waiting) {
                    if tasks.is_empty() {
                        continue;
                    }
                    return tasks;
                }
                let lead = number.saturating_sub(front);
                *chunk = ChunkState::Claimed { lead };
                let start = (number - announced.first) * CHUNK_PAGES;
                let ordinals = start..announced.set.len().min(start + CHUNK_PAGES);
                tasks.push(Task { number, set: announced.set.clone(), ordinals });
            }
        }
        tasks
    }
}

impl Begun<'_> {
    /// Whether a device is at a chunk now: better to come back to it later.
    pub(crate) fn is_claimed(&self, chunk: u64) -> bool {
        matches!(self.ahead.lock().chunk(self.first + chunk), Some(ChunkState::Claimed { .. }))
    }

    /// What a device found out about a chunk; `None` where the CPU has to scan it.
    pub(crate) fn take(&self, chunk: u64) -> Option<ChunkScan> {
        let number = self.first + chunk;
        let mut state = self.ahead.lock();
        while self.ahead.share == Share::Device
            && !state.closed
            && let Some(ChunkState::Waiting | ChunkState::Claimed { .. }) = state.chunk(number)
        {
            state = self.ahead.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.front = state.front.max(number + 1);
        let found = std::mem::replace(state.chunk(number)?, ChunkState::Gone);
        if let ChunkState::Claimed { lead } = found {
            state.stats.late += 1;
            state.lead = state.lead.max((2 * lead).max(CLAIM_STEP)).min(MAX_LEAD);
        }
        let scan = if let ChunkState::Done(scan) = found { Some(*scan) } else { None };
        if scan.is_some() {
            state.stats.device += 1;
        } else {
            state.stats.cpu += 1;
        }
        let at = state.sets.partition_point(|set| set.first + set.chunks.len() as u64 <= number);
        state.sets[at].left -= 1;
        if state.sets[at].left == 0 {
            state.sets.remove(at);
        }
        drop(state);
        // The front has moved, so there may be something to claim.
        self.ahead.work.notify_all();
        scan
    }
}

/// The lead after the first chunk that came late.
const CLAIM_STEP: u64 = 8;
