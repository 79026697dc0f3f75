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

/// A place, given back when dropped.
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

    /// Waits for one; `None` when cancelled.
    pub fn take(self: &Arc<Self>, cancel: &Cancel) -> Option<Slot> {
        let mut held = lock(&self.held);
        let ticket = held.next;
        held.next += 1;
        held.queue.push_back(ticket);
        loop {
            if cancel.is_cancelled() {
                held.queue.retain(|other| *other != ticket);
                self.changed.notify_all();
                return None;
            }
            if held.used < self.limit && held.queue.front() == Some(&ticket) {
                held.queue.pop_front();
                held.used += 1;
                self.changed.notify_all();
                return Some(Slot(self.clone()));
            }
            held = self.changed.wait_timeout(held, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
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
        let cancelled = Cancel::new();
        cancelled.cancel();
        assert!(slots.take(&cancelled).is_none());
        drop(first);
        assert!(slots.take(&Cancel::new()).is_some());
    }
}
