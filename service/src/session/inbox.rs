//! Frames on their way in: put together from segments that come in any order, handed on in the order of the stream.
//!
//! What is held is bounded: a frame is as long as its first segment says, that is checked against what a frame may be, and
//! the sum of all frames against the window that the sender was told. Memory comes with the bytes, not with the promise.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mig_engine::Frame;
use mig_engine::live::Arrival;

use super::lock;
use crate::wire::{SEGMENT, SegmentHead, WireError};

/// Frames ahead of the one that is to be applied next.
const AHEAD: u64 = 1 << 14;

/// Frames that are not verified yet.
#[derive(Debug)]
pub struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
    window: u64,
    max_frame: u64,
}

#[derive(Debug, Default)]
struct State {
    frames: BTreeMap<u64, Coming>,
    /// Sequence of the frame to hand out next.
    next: u64,
    /// All below are verified.
    verified: u64,
    /// A frame that was asked for again, and the attempt that will do.
    awaited: Option<(u64, u32)>,
    /// Bytes of frames that were handed out and are not verified, by sequence.
    out: BTreeMap<u64, u64>,
    held: u64,
    closed: bool,
    /// The stream's end was applied.
    ended: bool,
}

/// A frame that is being put together.
#[derive(Debug)]
struct Coming {
    len: u32,
    attempt: u32,
    parts: Vec<Option<Box<[u8]>>>,
    missing: usize,
}

impl Coming {
    fn new(segment: &SegmentHead) -> Self {
        let count = (segment.frame_len as usize).div_ceil(SEGMENT);
        let parts = std::iter::repeat_with(|| None).take(count).collect();
        Coming { len: segment.frame_len, attempt: segment.attempt, parts, missing: count }
    }

    fn read(self, sequence: u64) -> Arrival {
        let parts = self.parts.into_iter().flatten().map(<[u8]>::into_vec).collect();
        Arrival { sequence, frame: Frame::of_parts(parts, sequence, self.len.into()) }
    }
}

impl Inbox {
    /// Holds at most `window` bytes and one frame; no frame is longer than `max_frame`.
    pub fn new(window: u64, max_frame: u64) -> Self {
        Inbox { state: Mutex::default(), changed: Condvar::new(), window, max_frame }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Says whether the bytes of a segment may come.
    ///
    /// # Errors
    ///
    /// [`WireError::Protocol`] for what no sender would send that keeps to the window.
    pub fn admit(&self, segment: &SegmentHead) -> Result<(), WireError> {
        let wrong = |why: String| Err(WireError::Protocol(why));
        if u64::from(segment.frame_len) > self.max_frame {
            return wrong(format!("a frame of {} bytes; {} are allowed", segment.frame_len, self.max_frame));
        }
        let state = self.lock();
        if segment.sequence > state.next + AHEAD {
            return wrong(format!("frame {} while {} is next", segment.sequence, state.next));
        }
        // A frame that is sent again without references may be longer than it was.
        if state.held > self.window + self.max_frame {
            return wrong(format!("more than the {} bytes of the window", self.window));
        }
        Ok(())
    }

    /// Takes a segment. One that is not wanted any more is dropped.
    ///
    /// # Errors
    ///
    /// [`WireError::Protocol`] if it does not fit the other segments of its frame.
    pub fn put(&self, segment: &SegmentHead, bytes: Box<[u8]>) -> Result<(), WireError> {
        let mut state = self.lock();
        let wanted = match state.awaited {
            Some((sequence, attempt)) if sequence == segment.sequence => segment.attempt >= attempt,
            _ => segment.sequence >= state.next,
        };
        if !wanted || state.closed {
            return Ok(());
        }
        if state.frames.get(&segment.sequence).is_some_and(|coming| coming.attempt < segment.attempt) {
            state.forget(segment.sequence);
        }
        if !state.frames.contains_key(&segment.sequence) {
            state.held += u64::from(segment.frame_len);
            state.frames.insert(segment.sequence, Coming::new(segment));
        }
        let Some(coming) = state.frames.get_mut(&segment.sequence) else { return Ok(()) };
        if coming.attempt > segment.attempt {
            return Ok(());
        }
        if coming.len != segment.frame_len {
            let (len, other, sequence) = (segment.frame_len, coming.len, segment.sequence);
            return Err(WireError::Protocol(format!("frame {sequence} of {len} bytes, and of {other}")));
        }
        let part = &mut coming.parts[segment.index()];
        if part.is_none() {
            *part = Some(bytes);
            coming.missing -= 1;
            if coming.missing == 0 {
                self.changed.notify_all();
            }
        }
        Ok(())
    }

    /// The next frame; waits for it. `None` when it was closed, or there are no more.
    pub fn next(&self) -> Option<Arrival> {
        let mut state = self.lock();
        loop {
            if state.closed || state.ended {
                return None;
            }
            let sequence = state.next;
            if let Some(arrival) = state.take_complete(sequence) {
                state.next += 1;
                drop(state);
                return Some(arrival.read(sequence));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes ready for another try of a frame that was handed out.
    pub fn expect(&self, sequence: u64, attempt: u32) {
        let mut state = self.lock();
        state.awaited = Some((sequence, attempt));
        if state.frames.get(&sequence).is_some_and(|coming| coming.attempt < attempt) {
            state.forget(sequence);
        }
        // The failed try's bytes are gone.
        if let Some(len) = state.out.remove(&sequence) {
            state.held -= len;
        }
    }

    /// The expected try; waits until then. `None` when it was closed, or time is up.
    pub fn expected(&self, sequence: u64, until: Instant) -> Option<Arrival> {
        let mut state = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return None;
            }
            if let Some(coming) = state.take_complete(sequence) {
                state.awaited = None;
                drop(state);
                return Some(coming.read(sequence));
            }
            let waited = self.changed.wait_timeout(state, left.min(Duration::from_secs(1)));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes note that a frame, and all before it, are verified.
    pub fn verified(&self, sequence: u64) {
        let mut state = self.lock();
        state.verified = state.verified.max(sequence + 1);
        let rest = state.out.split_off(&(sequence + 1));
        let gone: u64 = std::mem::replace(&mut state.out, rest).values().sum();
        state.held -= gone;
    }

    /// Where a sender that comes back should go on: the first frame that is not verified, and later ones that are here, or were
    /// and are being decoded. What is here in part is dropped.
    pub fn resume(&self) -> (u64, Vec<u64>) {
        let mut state = self.lock();
        let partial: Vec<u64> = state
            .frames
            .iter()
            .filter(|(_, coming)| coming.missing > 0)
            .map(|(&sequence, _)| sequence)
            .collect();
        partial.into_iter().for_each(|sequence| state.forget(sequence));
        let awaited = state.awaited.map(|(sequence, _)| sequence);
        let out = (state.verified..state.next).filter(|sequence| Some(*sequence) != awaited);
        let complete = out.chain(state.frames.keys().copied()).collect();
        (state.verified, complete)
    }

    /// All frames below are verified; bytes of those from there on that are complete, up to the first that is not.
    pub fn progress(&self) -> (u64, u64) {
        let state = self.lock();
        let come = (state.next..).map_while(|sequence| state.frames.get(&sequence));
        let complete = come.take_while(|coming| coming.missing == 0).map(|coming| u64::from(coming.len));
        let waiting = complete.sum::<u64>() + state.out.values().sum::<u64>();
        (state.verified, waiting)
    }

    /// There are no more frames.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Whether there are no more frames.
    pub fn is_ended(&self) -> bool {
        self.lock().ended
    }

    /// Ends it: whoever waits stops waiting.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.frames.clear();
        self.changed.notify_all();
    }
}

impl State {
    fn forget(&mut self, sequence: u64) {
        if let Some(coming) = self.frames.remove(&sequence) {
            self.held -= u64::from(coming.len);
        }
    }

    /// Takes a frame that is complete; its bytes count as held until it is verified.
    fn take_complete(&mut self, sequence: u64) -> Option<Coming> {
        if self.frames.get(&sequence)?.missing > 0 {
            return None;
        }
        let coming = self.frames.remove(&sequence)?;
        self.out.insert(sequence, coming.len.into());
        Some(coming)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is complete behind a frame that does not come can't be worked on: a receiver that has only that waits for the sender.
    #[test]
    fn what_is_complete_behind_a_missing_frame_does_not_wait_for_the_receiver() {
        let inbox = Inbox::new(1 << 20, 1 << 20);
        let put = |sequence, frame_len| {
            let head = SegmentHead { sequence, frame_len, offset: 0, attempt: 0 };
            inbox.put(&head, vec![0; frame_len as usize].into()).expect("it fits");
        };
        put(1, 70);
        put(2, 40);
        assert_eq!(inbox.progress(), (0, 0));
        put(0, 50);
        assert_eq!(inbox.progress(), (0, 160));
        inbox.next().expect("a frame");
        assert_eq!(inbox.progress(), (0, 160));
        inbox.verified(0);
        assert_eq!(inbox.progress(), (1, 110));
    }
}
