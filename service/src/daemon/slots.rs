//! How many migrations there are at once.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use mig_engine::Cancel;

use crate::session::lock;

/// How often one that waits looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(100);

/// Places for migrations. Those that wait get one in the order in which they came.
#[derive(Debug)]
pub struct Slots {
    limit: usize,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    used: usize,
    queue: VecDeque<u64>,
    next: u64,
}

/// A place in the line; whoever drops it has left.
#[derive(Debug)]
pub struct Place {
    slots: Arc<Slots>,
    ticket: u64,
}

impl Place {
    /// Waits for its turn; `None` when cancelled. `waiting` is called if it is not at once.
    pub fn wait(self, cancel: &Cancel, waiting: impl FnOnce()) -> Option<Slot> {
        let (slots, mut waiting) = (&self.slots, Some(waiting));
        let mut held = lock(&slots.held);
        loop {
            if cancel.is_cancelled() {
                return None;
            }
            if held.used < slots.limit && held.queue.front() == Some(&self.ticket) {
                held.used += 1;
                return Some(Slot(slots.clone()));
            }
            if let Some(waiting) = waiting.take() {
                drop(held);
                waiting();
                held = lock(&slots.held);
                continue;
            }
            held = slots.changed.wait_timeout(held, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.slots.held).queue.retain(|other| *other != self.ticket);
        self.slots.changed.notify_all();
    }
}

/// One of them, given back when dropped.
#[derive(Debug)]
pub struct Slot(Arc<Slots>);

impl Slots {
    /// As many as this, all of them free.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Slots { limit, held: Mutex::default(), changed: Condvar::new() })
    }

    /// One at once, if one is free.
    pub fn try_take(self: &Arc<Self>) -> Option<Slot> {
        let mut held = lock(&self.held);
        (held.used < self.limit).then(|| {
            held.used += 1;
            Slot(self.clone())
        })
    }

    /// Lines up for one.
    pub fn line_up(self: &Arc<Self>) -> Place {
        let mut held = lock(&self.held);
        let ticket = held.next;
        held.next += 1;
        held.queue.push_back(ticket);
        Place { slots: self.clone(), ticket }
    }

    /// Lines up, and waits; `None` when cancelled.
    pub fn take(self: &Arc<Self>, cancel: &Cancel) -> Option<Slot> {
        self.line_up().wait(cancel, || {})
    }

    /// How many there are.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.0.held).used -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_come_first_served() {
        let (slots, never) = (Slots::new(1), Cancel::new());
        let first = slots.try_take().unwrap();
        assert!(slots.try_take().is_none());
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for number in 0..3 {
                let (waits, slots, order) = (slots.clone(), slots.clone(), &order);
                let never = &never;
                scope.spawn(move || {
                    let _slot = slots.take(never).unwrap();
                    lock(order).push(number);
                });
                while lock(&waits.held).queue.len() <= number {
                    std::thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(*lock(&order), [0, 1, 2]);
    }

    #[test]
    fn one_that_is_cancelled_is_not_waited_for() {
        let slots = Slots::new(1);
        let first = slots.try_take().unwrap();
        drop(slots.line_up());
        let cancelled = Cancel::new();
        cancelled.cancel();
        assert!(slots.take(&cancelled).is_none());
        drop(first);
        assert!(slots.take(&Cancel::new()).is_some());
    }
}
