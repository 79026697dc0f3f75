//! Blocks in flight: parallel steps around serial ones, in order, with bounded memory.
//!
//! An item goes `source -> spread -> ordered -> spread again -> sink`. The source, the ordered step and the sink
//! each see one item at a time in the order of the source; the steps between run for several items at once on
//! the current rayon pool. At most `in_flight` items exist between source and sink, so memory stays bounded and
//! a slow sink holds back the source.
//!
//! Nothing here blocks a pool thread: an item that arrives early is left with the step, and whoever finishes the
//! item before it takes it along.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::Scope;

/// The five steps. `None` from the source ends the stream; the first error ends it, too, and is returned.
pub(crate) struct Steps<Source, Spread, Ordered, Again, Sink> {
    pub(crate) source: Source,
    pub(crate) spread: Spread,
    pub(crate) ordered: Ordered,
    pub(crate) again: Again,
    pub(crate) sink: Sink,
}

/// Runs the steps until the source ends.
///
/// # Errors
///
/// The first error of any step; items in flight are dropped.
pub(crate) fn run<A, B, C, D, E, Source, Spread, Ordered, Again, Sink>(
    in_flight: usize,
    steps: Steps<Source, Spread, Ordered, Again, Sink>,
) -> Result<(), E>
where
    B: Send,
    C: Send,
    D: Send,
    E: Send,
    Source: FnMut() -> Result<Option<A>, E> + Send,
    Spread: Fn(A) -> Result<B, E> + Sync,
    Ordered: FnMut(B) -> Result<C, E> + Send,
    Again: Fn(C) -> Result<D, E> + Sync,
    Sink: FnMut(D) -> Result<(), E> + Send,
{
    let shared = Shared {
        source: Mutex::new((0, Some(steps.source))),
        spread: steps.spread,
        ordered: InOrder::new(steps.ordered),
        again: steps.again,
        sink: InOrder::new(steps.sink),
        error: Mutex::new(None),
    };
    rayon::scope(|scope| {
        for _ in 0..in_flight.max(1) {
            scope.spawn(|scope| shared.start(scope));
        }
    });
    match shared.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock means that a step panicked; rayon passes that panic on once the scope ends.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A step that takes items one at a time and in order.
struct InOrder<T, F> {
    waiting: Mutex<Waiting<T>>,
    step: Mutex<F>,
}

struct Waiting<T> {
    next: u64,
    busy: bool,
    items: BTreeMap<u64, T>,
}

impl<T, F> InOrder<T, F> {
    fn new(step: F) -> Self {
        let waiting = Waiting { next: 0, busy: false, items: BTreeMap::new() };
        InOrder { waiting: Mutex::new(waiting), step: Mutex::new(step) }
    }

    /// Hands in an item; then, unless somebody is at it already, takes every item whose turn it is.
    fn arrive<U, E>(&self, number: u64, item: T, mut done: impl FnMut(u64, U)) -> Result<(), E>
    where
        F: FnMut(T) -> Result<U, E>,
    {
        let mut waiting = lock(&self.waiting);
        waiting.items.insert(number, item);
        if waiting.busy {
            return Ok(());
        }
        loop {
            let number = waiting.next;
            let Some(item) = waiting.items.remove(&number) else { return Ok(()) };
            waiting.busy = true;
            drop(waiting);
            // After an error the step stays busy: nothing may come behind an item that failed.
            let result = lock(&self.step)(item)?;
            waiting = lock(&self.waiting);
            waiting.busy = false;
            waiting.next += 1;
            done(number, result);
        }
    }
}

struct Shared<B, D, E, Source, Spread, Ordered, Again, Sink> {
    /// The next item's number, and the source until it ends.
    source: Mutex<(u64, Option<Source>)>,
    spread: Spread,
    ordered: InOrder<B, Ordered>,
    again: Again,
    sink: InOrder<D, Sink>,
    error: Mutex<Option<E>>,
}

impl<A, B, C, D, E, Source, Spread, Ordered, Again, Sink>
    Shared<B, D, E, Source, Spread, Ordered, Again, Sink>
where
    B: Send,
    C: Send,
    D: Send,
    E: Send,
    Source: FnMut() -> Result<Option<A>, E> + Send,
    Spread: Fn(A) -> Result<B, E> + Sync,
    Ordered: FnMut(B) -> Result<C, E> + Send,
    Again: Fn(C) -> Result<D, E> + Sync,
    Sink: FnMut(D) -> Result<(), E> + Send,
{
    fn fail(&self, error: E) {
        lock(&self.error).get_or_insert(error);
        lock(&self.source).1 = None;
    }

    fn failed(&self) -> bool {
        lock(&self.error).is_some()
    }

    /// Takes one item from the source through the first two steps.
    fn start<'scope>(&'scope self, scope: &Scope<'scope>)
    where
        C: 'scope,
    {
        let (number, item) = {
            let mut source = lock(&self.source);
            let Some(next) = &mut source.1 else { return };
            match next() {
                Ok(Some(item)) => {
                    source.0 += 1;
                    (source.0 - 1, item)
                }
                Ok(None) => {
                    source.1 = None;
                    return;
                }
                Err(error) => {
                    drop(source);
                    return self.fail(error);
                }
            }
        };
        let result = (self.spread)(item).and_then(|item| {
            self.ordered.arrive(number, item, |number, item| {
                scope.spawn(move |scope| self.end(number, item, scope));
            })
        });
        if let Err(error) = result {
            self.fail(error);
        }
    }

    /// Takes one item through the last two steps, and lets another one in.
    fn end<'scope>(&'scope self, number: u64, item: C, scope: &Scope<'scope>)
    where
        C: 'scope,
    {
        if self.failed() {
            return;
        }
        let result = (self.again)(item).and_then(|item| {
            self.sink.arrive(number, item, |_, ()| scope.spawn(move |scope| self.start(scope)))
        });
        if let Err(error) = result {
            self.fail(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    #[test]
    fn order_is_kept_and_flight_is_bounded() {
        for threads in [1, 2, 5] {
            let (flying, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let (mut next, mut seen, mut sunk) = (0u64, Vec::new(), Vec::new());
            let steps = Steps {
                source: || {
                    most.fetch_max(flying.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    next += 1;
                    Ok((next <= 200).then_some(next))
                },
                spread: |item: u64| {
                    // Uneven work, so that items overtake each other.
                    (0..(item * 7919) % 50_000).for_each(|x| {
                        std::hint::black_box(x);
                    });
                    Ok(item)
                },
                ordered: |item| {
                    seen.push(item);
                    Ok(item)
                },
                again: |item| {
                    (0..(item * 104_729) % 50_000).for_each(|x| {
                        std::hint::black_box(x);
                    });
                    Ok(item)
                },
                sink: |item| {
                    flying.fetch_sub(1, Ordering::SeqCst);
                    sunk.push(item);
                    Ok::<(), ()>(())
                },
            };
            pool(threads).install(|| run(4, steps)).unwrap();
            let expected: Vec<u64> = (1..=200).collect();
            assert_eq!(seen, expected);
            assert_eq!(sunk, expected);
            // The calls that find the source empty count as flying, too: one for each place.
            assert!(most.into_inner() <= 8);
        }
    }

    #[test]
    fn the_first_error_ends_it() {
        for bad in 0..4 {
            let mut next = 0;
            let check = |step: u64, item: u64| if step == bad && item == 9 { Err(step) } else { Ok(item) };
            let steps = Steps {
                source: || {
                    next += 1;
                    Ok(Some(next))
                },
                spread: |item| check(0, item),
                ordered: |item| check(1, item),
                again: |item| check(2, item),
                sink: |item| check(3, item).map(|_| ()),
            };
            assert_eq!(pool(3).install(|| run(4, steps)), Err(bad));
        }
    }

    #[test]
    fn nothing_comes_behind_an_item_that_failed() {
        for threads in [1, 4] {
            let mut next = 0u64;
            let mut seen = Vec::new();
            let steps = Steps {
                source: || {
                    next += 1;
                    Ok(Some(next))
                },
                spread: Ok,
                ordered: |item: u64| {
                    seen.push(item);
                    // Long enough for the next ones to arrive.
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    if item == 9 { Err(item) } else { Ok(item) }
                },
                again: Ok,
                sink: |_| Ok(()),
            };
            assert_eq!(pool(threads).install(|| run(8, steps)), Err(9));
            assert_eq!(seen, (1..=9).collect::<Vec<_>>());
        }
    }
}
