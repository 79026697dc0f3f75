//! Many small questions on all cores.
//!
//! Threads of our own, not rayon's: the engine starts a pool for each call, and one of rayon's threads that waits for
//! another pool takes up more of its own pool's work meanwhile, call upon call, until the stack ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mig_engine::default_threads;

/// Questions that a thread takes at a time.
const STEP: usize = 64;

/// Asks `check` about each number below `count`, and gives those that it says yes to, ascending. Each thread makes its own
/// state first.
pub fn those<S>(
    count: usize,
    state: impl Fn() -> S + Sync,
    check: impl Fn(&mut S, usize) -> bool + Sync,
) -> Vec<usize> {
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut state, mut found) = (state(), Vec::new());
        loop {
            let first = next.fetch_add(STEP, Ordering::Relaxed);
            if first >= count {
                return found;
            }
            found.extend((first..count.min(first + STEP)).filter(|&number| check(&mut state, number)));
        }
    };
    let mut found: Vec<usize> = thread::scope(|scope| {
        let threads: Vec<_> = (0..default_threads()).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.flat_map(|found| found.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_asked_about_once() {
        let asked = AtomicUsize::new(0);
        let odd = those(
            1001,
            || (),
            |(), number| {
                asked.fetch_add(1, Ordering::Relaxed);
                number % 2 == 1
            },
        );
        assert_eq!(odd, (0..1001).filter(|number| number % 2 == 1).collect::<Vec<_>>());
        assert_eq!(asked.into_inner(), 1001);
        assert_eq!(those(0, || (), |(), _| true), Vec::<usize>::new());
    }

    #[test]
    #[should_panic = "number 700"]
    fn panics_are_passed_on() {
        those(
            1001,
            || (),
            |(), number| {
                assert_ne!(number, 700, "number {number}");
                false
            },
        );
    }
}
