use std::sync::atomic::{AtomicBool, Ordering};

use mig_simd::{Level, page_scan};

use super::*;
use crate::page::PAGE_SIZE;

fn set(range: Range<u64>) -> PageSet {
    PageSet::from_range(range)
}

fn tasks(claim: Claim) -> Vec<Task> {
    match claim {
        Claim::Tasks(tasks) => tasks,
        Claim::Nothing | Claim::Closed => Vec::new(),
    }
}

fn empty(task: &Task) -> ChunkScan {
    let pages = task.page_count();
    ChunkScan { records: vec![PageRecord::default(); pages], classes: vec![0; pages], ..ChunkScan::default() }
}

/// The one range of a task's pages.
fn pages(task: &Task) -> Range<u64> {
    let ranges: Vec<Range<u64>> = task.pages().collect();
    assert_eq!(ranges.len(), 1);
    ranges[0].clone()
}

#[test]
fn chunks_are_claimed_in_order_and_end_with_their_set() {
    let ahead = ScanAhead::new(Share::Both);
    assert!(matches!(ahead.claim(8, false), Claim::Nothing));
    ahead.announce(&set(0..2500));
    ahead.announce(&set(5000..5100));
    let claimed = tasks(ahead.claim(2, false));
    assert_eq!(claimed.iter().map(pages).collect::<Vec<_>>(), [0..1024, 1024..2048]);
    let rest = tasks(ahead.claim(8, false));
    assert_eq!(rest.iter().map(pages).collect::<Vec<_>>(), [2048..2500, 5000..5100]);
    assert_eq!(rest[1].page_count(), 100);
    assert!(matches!(ahead.claim(8, false), Claim::Nothing));
    ahead.close();
    assert!(matches!(ahead.claim(8, true), Claim::Closed));
}

#[test]
fn the_cpu_gets_what_was_handed_in_and_scans_the_rest() {
    let ahead = ScanAhead::new(Share::Both);
    ahead.announce(&set(0..4096));
    let claimed = tasks(ahead.claim(3, false));
    ahead.finish(&claimed[0], empty(&claimed[0]));
    ahead.give_back(&claimed[1]);
    assert!(ahead.begin(&set(0..4095)).is_none(), "that was not announced");
    let begun = ahead.begin(&set(0..4096)).unwrap();
    assert_eq!([0, 1, 2, 3].map(|chunk| begun.is_claimed(chunk)), [false, false, true, false]);
    assert!(begun.take(0).is_some());
    assert!(begun.take(1).is_none());
    assert!(begun.take(2).is_none(), "the device is too late");
    ahead.finish(&claimed[2], empty(&claimed[2]));
    assert!(begun.take(3).is_none());
    let stats = ahead.stats();
    assert_eq!((stats.device, stats.cpu, stats.late), (1, 3, 1));
    assert!(ahead.lock().sets.is_empty(), "a set that is done is gone");
    // The same set again, as in another round.
    ahead.announce(&set(0..4096));
    assert!(ahead.begin(&set(0..4096)).is_some());
}

#[test]
fn a_block_may_be_made_of_several_announced_chunks() {
    let ahead = ScanAhead::new(Share::Both);
    let pages = set(100..100 + 5 * 1024 + 7);
    let mut announcer = Announcer::new(Some(&ahead), &pages);
    announcer.next_is(0);
    let claimed = tasks(ahead.claim(8, false));
    assert_eq!(claimed.iter().map(Task::page_count).collect::<Vec<_>>(), [1024, 1024, 1024, 1024, 1024, 7]);
    for task in &claimed {
        ahead.finish(task, empty(task));
    }
    assert!(ahead.begin(&set(100..100 + 1500)).is_none(), "it ends within a chunk");
    let first = ahead.begin(&set(100..100 + 2048)).unwrap();
    assert!(ahead.begin(&set(100..100 + 2048)).is_none(), "it has begun");
    announcer.next_is(2048);
    let rest = ahead.begin(&set(100 + 2048..100 + 5 * 1024 + 7)).unwrap();
    assert_eq!(
        [0, 1, 2, 3].map(|chunk| rest.take(chunk).map(|scan| scan.records.len())),
        [1024, 1024, 1024, 7].map(Some)
    );
    assert_eq!([0, 1].map(|chunk| first.take(chunk).is_some()), [true; 2]);
    // At the end nothing is wrong; a block that begins within a chunk ends the device's part.
    announcer.next_is(pages.len());
    assert!(matches!(ahead.claim(1, false), Claim::Nothing));
    announcer.next_is(1500);
    assert!(matches!(ahead.claim(1, false), Claim::Closed));
}

#[test]
fn a_late_device_goes_farther_ahead() {
    let ahead = ScanAhead::new(Share::Both);
    ahead.announce(&set(0..200 * 1024));
    let begun = ahead.begin(&set(0..200 * 1024)).unwrap();
    let mut leads = Vec::new();
    for chunk in 0..60 {
        for task in tasks(ahead.claim(1, false)) {
            leads.push(task.number - ahead.lock().front);
        }
        begun.take(chunk);
    }
    assert_eq!(leads[0], 0);
    assert!(leads.is_sorted() && leads.last() > Some(&15), "{leads:?}");
    assert!(ahead.stats().late >= 2);
}

#[test]
fn who_waits_for_a_device_gets_everything_from_it_until_it_gives_up() {
    let ahead = ScanAhead::new(Share::Device);
    ahead.announce(&set(0..10 * 1024));
    let retired = AtomicBool::new(false);
    let scans = std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                for task in tasks(ahead.claim(2, true)) {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    ahead.finish(&task, empty(&task));
                }
            }
            let _lost = tasks(ahead.claim(2, true));
            retired.store(true, Ordering::SeqCst);
            ahead.retire();
        });
        let begun = ahead.begin(&set(0..10 * 1024)).unwrap();
        (0..10).map(|chunk| begun.take(chunk).is_some()).collect::<Vec<_>>()
    });
    assert!(retired.into_inner());
    assert_eq!(scans, [true, true, true, true, true, true, false, false, false, false]);
    ahead.announce(&set(0..5));
    assert!(ahead.begin(&set(0..5)).is_none(), "nobody is left to ask");
}

#[test]
#[should_panic(expected = "an entry for each")]
fn half_a_scan_is_none() {
    let ahead = ScanAhead::new(Share::Both);
    ahead.announce(&set(0..10));
    let task = tasks(ahead.claim(1, false)).remove(0);
    ahead.finish(&task, ChunkScan { classes: Vec::new(), ..empty(&task) });
}

/// Two threads as devices and two as the CPU, in any order: every chunk is taken once, and right.
#[test]
fn many_at_once() {
    for share in [Share::Both, Share::Device] {
        let memory: Vec<u8> = (0..64 * PAGE_SIZE).map(|at| (at / PAGE_SIZE * at % 251) as u8).collect();
        let ahead = ScanAhead::new(share);
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let (ahead, memory) = (&ahead, &memory);
                scope.spawn(move || {
                    while let Claim::Tasks(tasks) = ahead.claim(1 + worker, true) {
                        for task in tasks {
                            let mut scan = empty(&task);
                            let range = task.pages().next().unwrap();
                            let bytes =
                                &memory[range.start as usize * PAGE_SIZE..range.end as usize * PAGE_SIZE];
                            page_scan(Level::Scalar, bytes, &mut scan.records);
                            if range.start % 5 == 4 {
                                ahead.give_back(&task)
                            } else {
                                ahead.finish(&task, scan)
                            }
                        }
                    }
                });
            }
            let mut numbers: Vec<u64> = (0..64).collect();
            numbers.iter().for_each(|&page| ahead.announce(&set(page..page + 1)));
            numbers.sort_by_key(|page| page * 37 % 64);
            let take = |page: u64| {
                let scan = ahead.begin(&set(page..page + 1)).unwrap().take(0);
                let Some(scan) = scan else { return };
                let bytes = &memory[page as usize * PAGE_SIZE..][..PAGE_SIZE];
                let mut expected = [PageRecord::default()];
                page_scan(Level::Scalar, bytes, &mut expected);
                assert_eq!(scan.records, expected, "page {page}");
            };
            std::thread::scope(|cpu| {
                let (one, other) = numbers.split_at(32);
                cpu.spawn(move || one.iter().for_each(|&page| take(page)));
                other.iter().for_each(|&page| take(page));
            });
            ahead.close();
        });
        let stats = ahead.stats();
        assert_eq!(stats.device + stats.cpu, 64);
        assert!(share == Share::Both || stats.device > 40, "{stats:?}");
    }
}
