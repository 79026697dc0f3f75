//! Frames on their way out: cut into segments, handed to whichever connection is free, kept until they are acknowledged.
//!
//! All that can go wrong with a connection comes down to one thing here: its segments go back into the queue. What is kept is
//! bounded by the receiver's window, what is waiting for a connection by the backlog, and whoever makes frames waits when
//! either is full.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use mig_engine::live::OutFrame;

use super::lock;
use crate::wire::{SEGMENT, SegmentHead, WireError};

/// A segment that was written this long ago, is not acknowledged and holds up the rest is sent over another connection, too: on a fast link, and
/// on the slowest.
const LATE: Duration = Duration::from_secs(2);
const LATEST: Duration = Duration::from_secs(10);
/// The same, as a multiple of the time that everything on its way takes.
const PATIENCE: f64 = 3.0;
/// How often a connection that has nothing to do looks for late segments.
const LOOK: Duration = Duration::from_millis(250);

/// Frames that are not acknowledged yet.
#[derive(Debug)]
pub struct Outbox<'f> {
    state: Mutex<State<'f>>,
    changed: Condvar,
    window: u64,
}

#[derive(Debug)]
struct State<'f> {
    frames: BTreeMap<u64, Held<'f>>,
    /// Segments that no connection has: sequence and number.
    queue: VecDeque<(u64, usize)>,
    /// Bytes of frames that are held.
    held: u64,
    /// Bytes of segments in the queue.
    queued: u64,
    /// Bytes that may be queued before frames have to wait.
    backlog: u64,
    /// How long a segment may take.
    late: Duration,
    next: u64,
    sent: Sent,
    /// Frames that were taken, and of those the ones of which a connection has had something: sequences below these.
    taken: u64,
    begun: u64,
    /// Nothing more is given out.
    closed: bool,
}

#[derive(Debug)]
struct Held<'f> {
    frame: Arc<OutFrame<'f>>,
    len: u32,
    attempt: u32,
    segments: Vec<Segment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segment {
    Queued,
    /// With a connection, since then; written or being written.
    With(u32, Instant),
    /// The receiver has it.
    There,
}

/// A segment for a connection to send.
#[derive(Clone, Debug)]
pub struct Ticket<'f> {
    /// The frame that it is a part of.
    pub frame: Arc<OutFrame<'f>>,
    /// Which part.
    pub head: SegmentHead,
}

/// What went out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of segments, those that were sent twice counted twice.
    pub bytes: u64,
    /// Bytes of segments that were sent once more over another connection, because they were late or lost.
    pub repeated: u64,
    /// Bytes of frames in the queue.
    pub queued: u64,
    /// Bytes of frames that are not acknowledged.
    pub held: u64,
    /// All frames below this one are acknowledged.
    pub next: u64,
    /// Of the last frame, at least a part was given to a connection, so that the receiver may have all of it.
    pub last_is_out: bool,
}

impl<'f> Ticket<'f> {
    /// The bytes of the segment, in parts.
    pub fn parts(&self) -> Vec<&[u8]> {
        let (mut skip, mut left) = (self.head.offset as usize, self.head.len());
        let mut parts = Vec::new();
        for part in self.frame.parts() {
            if skip >= part.len() {
                skip -= part.len();
                continue;
            }
            let take = left.min(part.len() - skip);
            parts.push(&part[skip..skip + take]);
            (skip, left) = (0, left - take);
            if left == 0 {
                break;
            }
        }
        parts
    }
}

impl<'f> Outbox<'f> {
    /// Holds at most `window` bytes of frames, or one frame.
    pub fn new(window: u64) -> Self {
        let state = State {
            frames: BTreeMap::new(),
            queue: VecDeque::new(),
            held: 0,
            queued: 0,
            backlog: window,
            late: LATE,
            next: 0,
            sent: Sent::default(),
            taken: 0,
            begun: 0,
            closed: false,
        };
        Outbox { state: Mutex::new(state), changed: Condvar::new(), window }
    }

    fn lock(&self) -> MutexGuard<'_, State<'f>> {
        lock(&self.state)
    }

    fn wait<'g>(&self, state: MutexGuard<'g, State<'f>>, limit: Duration) -> MutexGuard<'g, State<'f>> {
        let waited = self.changed.wait_timeout(state, limit);
        waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    /// Sets how many bytes may wait for a connection before frames have to wait.
    pub fn set_backlog(&self, bytes: u64) {
        let mut state = self.lock();
        if state.backlog != bytes {
            state.backlog = bytes;
            self.changed.notify_all();
        }
    }

    /// Sets how long what is on its way should take at most, by the link's rate. A segment that has been on its way for some times as long is
    /// sent once more over another connection.
    pub fn set_takes(&self, seconds: f64) {
        self.lock().late =
            Duration::from_secs_f64((seconds * PATIENCE).clamp(LATE.as_secs_f64(), LATEST.as_secs_f64()));
    }

    /// Takes a frame; waits for room.
    ///
    /// # Errors
    ///
    /// [`WireError::Cancelled`] when it was closed.
    pub fn push(&self, frame: OutFrame<'f>) -> Result<(), WireError> {
        let len = frame.len();
        let mut state = self.lock();
        loop {
            if state.closed {
                return Err(WireError::Cancelled);
            }
            let fits = state.held + len <= self.window && state.queued < state.backlog;
            if fits || state.frames.is_empty() {
                break;
            }
            state = self.wait(state, LOOK);
        }
        state.insert(frame, 0);
        self.changed.notify_all();
        Ok(())
    }

    /// Takes another try of a frame that the receiver asked for again. It is the next to be sent.
    pub fn replace(&self, frame: OutFrame<'f>, attempt: u32) {
        let mut state = self.lock();
        if frame.sequence() >= state.next {
            state.remove(frame.sequence());
            state.insert(frame, attempt);
        }
        self.changed.notify_all();
    }

    /// The same frame once more, as another try.
    pub fn repeat(&self, sequence: u64, attempt: u32) {
        let mut state = self.lock();
        if let Some(held) = state.frames.get_mut(&sequence) {
            held.attempt = attempt;
            state.requeue(sequence, |_| true);
        }
        self.changed.notify_all();
    }

    /// A frame that is not acknowledged yet.
    pub fn frame(&self, sequence: u64) -> Option<Arc<OutFrame<'f>>> {
        self.lock().frames.get(&sequence).map(|held| held.frame.clone())
    }

    /// The next segment for a connection; waits for one. `None` when there will be no more, or `stop` says so.
    pub fn take(&self, connection: u32, stop: &dyn Fn() -> bool) -> Option<Ticket<'f>> {
        let mut state = self.lock();
        loop {
            if state.closed || stop() {
                return None;
            }
            if let Some((sequence, index)) = state.queue.pop_front() {
                let ticket = state.ticket(sequence, index, connection);
                if let Some(ticket) = ticket {
                    state.queued -= ticket.head.len() as u64;
                    state.sent.bytes += ticket.head.len() as u64;
                    self.changed.notify_all();
                    return Some(ticket);
                }
                continue;
            }
            if let Some((sequence, index)) = state.late(connection)
                && let Some(ticket) = state.ticket(sequence, index, connection)
            {
                state.sent.bytes += ticket.head.len() as u64;
                state.sent.repeated += ticket.head.len() as u64;
                return Some(ticket);
            }
            state = self.wait(state, LOOK);
        }
    }

    /// Puts back what a broken connection had.
    pub fn lost(&self, connection: u32) {
        let mut state = self.lock();
        let sequences: Vec<u64> = state.frames.keys().rev().copied().collect();
        for sequence in sequences {
            let again = state
                .requeue(sequence, |segment| matches!(segment, Segment::With(with, _) if with == connection));
            state.sent.repeated += again;
        }
        self.changed.notify_all();
    }

    /// Forgets frames that are verified at the other end.
    pub fn acknowledge(&self, next: u64) {
        let mut state = self.lock();
        while let Some((&sequence, _)) = state.frames.first_key_value()
            && sequence < next
        {
            state.remove(sequence);
        }
        state.next = state.next.max(next);
        self.changed.notify_all();
    }

    /// Goes on with a receiver that has all frames below `next`, and those of `complete`.
    pub fn resume(&self, next: u64, complete: &[u64]) {
        self.acknowledge(next);
        let mut state = self.lock();
        let sequences: Vec<u64> = state.frames.keys().rev().copied().collect();
        for sequence in sequences {
            if complete.contains(&sequence) {
                state.unqueue(sequence);
            } else {
                let again = state.requeue(sequence, |segment| !matches!(segment, Segment::Queued));
                state.sent.repeated += again;
            }
        }
        self.changed.notify_all();
    }

    /// Whether every frame is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.lock().frames.is_empty()
    }

    /// What went out so far.
    pub fn sent(&self) -> Sent {
        let state = self.lock();
        let last_is_out = state.begun == state.taken;
        Sent { queued: state.queued, held: state.held, next: state.next, last_is_out, ..state.sent }
    }

    /// Ends it: whoever waits stops waiting.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Wakes those who wait for segments, so that they ask whether to stop.
    pub fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }
}

impl<'f> State<'f> {
    fn insert(&mut self, frame: OutFrame<'f>, attempt: u32) {
        let (sequence, len) = (frame.sequence(), frame.len());
        let count = (len as usize).div_ceil(SEGMENT);
        let held =
            Held { frame: Arc::new(frame), len: len as u32, attempt, segments: vec![Segment::Queued; count] };
        self.frames.insert(sequence, held);
        self.taken = self.taken.max(sequence + 1);
        self.held += len;
        self.queued += len;
        if attempt == 0 {
            self.queue.extend((0..count).map(|index| (sequence, index)));
        } else {
            (0..count).rev().for_each(|index| self.queue.push_front((sequence, index)));
        }
    }

    fn remove(&mut self, sequence: u64) {
        self.unqueue(sequence);
        if let Some(held) = self.frames.remove(&sequence) {
            self.held -= u64::from(held.len);
        }
    }

    /// Takes a frame's segments out of the queue: the receiver has them.
    fn unqueue(&mut self, sequence: u64) {
        let Some(held) = self.frames.get_mut(&sequence) else { return };
        let mut waiting = 0;
        for (index, segment) in held.segments.iter_mut().enumerate() {
            if *segment == Segment::Queued {
                waiting += segment_len(held.len, index);
            }
            *segment = Segment::There;
        }
        if waiting > 0 {
            self.queued -= waiting;
            self.queue.retain(|(other, _)| *other != sequence);
        }
    }

    /// Puts those of a frame's segments that are not in the queue and that `which` wants in front of it; gives their bytes.
    fn requeue(&mut self, sequence: u64, which: impl Fn(Segment) -> bool) -> u64 {
        let Some(held) = self.frames.get_mut(&sequence) else { return 0 };
        let mut bytes = 0;
        for index in (0..held.segments.len()).rev() {
            let segment = &mut held.segments[index];
            if *segment != Segment::Queued && which(*segment) {
                *segment = Segment::Queued;
                bytes += segment_len(held.len, index);
                self.queue.push_front((sequence, index));
            }
        }
        self.queued += bytes;
        bytes
    }

    fn ticket(&mut self, sequence: u64, index: usize, connection: u32) -> Option<Ticket<'f>> {
        let held = self.frames.get_mut(&sequence)?;
        *held.segments.get_mut(index)? = Segment::With(connection, Instant::now());
        self.begun = self.begun.max(sequence + 1);
        let offset = (index * SEGMENT) as u32;
        let head = SegmentHead { sequence, frame_len: held.len, offset, attempt: held.attempt };
        Some(Ticket { frame: held.frame.clone(), head })
    }

    /// A segment of the oldest frame that another connection has had for too long.
    fn late(&self, connection: u32) -> Option<(u64, usize)> {
        let (&sequence, held) = self.frames.first_key_value()?;
        let is_late = |segment: &Segment| match segment {
            Segment::With(with, since) => *with != connection && since.elapsed() > self.late,
            Segment::Queued | Segment::There => false,
        };
        held.segments.iter().position(is_late).map(|index| (sequence, index))
    }
}

fn segment_len(frame_len: u32, index: usize) -> u64 {
    (u64::from(frame_len) - (index * SEGMENT) as u64).min(SEGMENT as u64)
}
