//! `mig-bench scan`: the page kernels against the speed of reading memory.
//!
//! The scan of pages is to run at nine tenths of the speed at which this machine's memory can be read at all, and on
//! two cores nearly twice as fast as on one. So reading, scanning and copying take turns on the same memory, with the
//! same threads, and are compared turn by turn. Numbers of threads take turns, too.

mod kernels;
mod pass;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mig_engine::{Level, PAGE_SIZE};
use serde::Serialize;

use crate::cli::ScanArgs;
use crate::corpus::sample_memory;
use crate::corpus::tile::Tiles;
use crate::goal::Goal;
use crate::human;
use crate::measure::Samples;
use crate::memory::{Backing, allocate};
use crate::provenance::Provenance;
use crate::report::{Report, Table};
use crate::run::{Run, Steps};

use kernels::KernelLine;
#[cfg(feature = "gpu")]
pub(crate) use pass::read_pass;
use pass::{Operation, pass};

/// Share of the reading speed that the scan is to reach, and the levels that are to.
const OF_READING: f64 = 0.9;
const LEVELS: [&str; 2] = ["avx2", "avx512"];
/// How many times as fast two threads are to be as one.
const TWO_CORES: f64 = 1.8;
/// Turns of each operation, at least.
const MIN_ROUNDS: usize = 5;
/// More would be no use, whatever `--seconds` says.
const MAX_ROUNDS: usize = 10_000;

/// The `result` of a `scan` report.
#[derive(Debug, Serialize)]
struct ScanResult {
    buffer_bytes: usize,
    huge_pages: bool,
    /// Each level with each number of threads.
    scans: Vec<ScanLine>,
    /// Other kernels, on one thread.
    kernels: Vec<KernelLine>,
}

/// One level with one number of threads; GB/s of pages, all threads together.
#[derive(Debug, Serialize)]
struct ScanLine {
    level: &'static str,
    threads: usize,
    scan: Samples,
    /// The sum of all words at the same level.
    read: Samples,
    memcpy: Samples,
    /// Scan over the read of the level that reads fastest with as many threads, turn by turn.
    of_read: Samples,
    /// Over the same with one thread, turn by turn.
    scan_speedup: Samples,
    read_speedup: Samples,
}

pub(crate) fn run(args: &ScanArgs, run: &Run) -> Result<()> {
    let provenance = Provenance::now();
    let len = (args.mib as usize) << 20;
    let backing = if args.huge_pages { Backing::Huge } else { Backing::Small };
    let counts = thread_counts(args.threads.count(), len);
    let levels = Level::present();
    let steps = Steps::new(levels.len() as u64 + 3);
    steps.now("filling memory");
    let last_cache = provenance.last_cache.clone();
    let (mut pages, mut other) = (allocate(len, backing)?, allocate(len, backing)?);
    Tiles::new(sample_memory()?, 1)?.fill(0, &mut pages);
    steps.done();
    for &level in &levels {
        run.check()?;
        steps.now(format!("checking {level}"));
        kernels::verify(level, &pages)?;
        steps.done();
    }
    steps.now("scan, read, copy");
    let time = Duration::from_secs_f64(args.seconds * (counts.len() * levels.len()) as f64);
    let scans = measure(&levels, &counts, time, &pages, &mut other, run)?;
    steps.done();
    steps.now("other kernels");
    let kernels = kernels::measure(&levels, args.seconds, &pages, &mut other, run)?;
    drop(steps);

    let result = ScanResult { buffer_bytes: len, huge_pages: args.huge_pages, scans, kernels };
    let goals = goals(&result.scans);
    let figures = describe(&result);
    let mut report = Report::new("scan", provenance, result);
    report.synthetic = Some(
        "pages of the built-in real sample, tiled, with a few words of each changed; as the kernels' speed hardly \
         depends on what pages hold, it is about that of real memory"
            .into(),
    );
    report.goals = goals;
    report.notes = vec![
        "GB/s are decimal gigabytes of pages, all threads together; median, slowest and fastest turn".into(),
        "memcpy moves each byte twice: once to the processor and once back".into(),
        format!("the memory should be much larger than the last cache ({last_cache})"),
    ];
    report.finish(&figures, &args.output)
}

/// 1, 2, and on to all: each number up to 8, then doubling.
fn thread_counts(most: usize, len: usize) -> Vec<usize> {
    let most = most.min(len / PAGE_SIZE);
    let mut counts: Vec<usize> = (1..=most.min(8)).collect();
    let doubling = std::iter::successors(Some(16), |count| Some(count * 2)).take_while(|&count| count < most);
    counts.extend(doubling);
    if !counts.contains(&most) {
        counts.push(most);
    }
    counts
}

/// Turns of everything with everything, until the time is over.
fn measure(
    levels: &[Level],
    counts: &[usize],
    time: Duration,
    pages: &[u8],
    other: &mut [u8],
    run: &Run,
) -> Result<Vec<ScanLine>> {
    let most = counts.last().copied().unwrap_or(1);
    // Once for all: page tables, clocks and caches are as they will be.
    for &level in levels {
        pass(Operation::Scan, level, most, pages, other);
    }
    pass(Operation::Copy, Level::Scalar, most, pages, other);
    let mut turns: Vec<Turns> = counts.iter().map(|_| Turns::new(levels.len())).collect();
    let start = Instant::now();
    for round in 0..MAX_ROUNDS {
        if round >= MIN_ROUNDS && start.elapsed() >= time {
            break;
        }
        for (&threads, turns) in counts.iter().zip(&mut turns) {
            run.check()?;
            let mut rate =
                |operation, level| pages.len() as f64 / pass(operation, level, threads, pages, other) / 1e9;
            turns.memcpy.push(rate(Operation::Copy, Level::Scalar));
            for (&level, [read, scan]) in levels.iter().zip(&mut turns.read_and_scan) {
                read.push(rate(Operation::Read, level));
                scan.push(rate(Operation::Scan, level));
            }
        }
    }
    let measured: Option<Vec<Measured>> = turns.iter().map(Turns::samples).collect();
    // Only a pass that took no time at all has no rate.
    let measured = measured.context("the memory is too small to measure")?;
    let mut lines = Vec::new();
    for (place, &level) in levels.iter().enumerate() {
        for (&threads, all) in counts.iter().zip(&measured) {
            let line = line(level, threads, place, all, &measured[0]);
            lines.push(line.context("turns do not pair up")?);
        }
    }
    Ok(lines)
}

/// Rates of every turn with one number of threads.
struct Turns {
    memcpy: Vec<f64>,
    /// For each level.
    read_and_scan: Vec<[Vec<f64>; 2]>,
}

/// The same once all turns are over.
struct Measured {
    memcpy: Samples,
    read_and_scan: Vec<[Samples; 2]>,
}

impl Turns {
    fn new(levels: usize) -> Self {
        Turns { memcpy: Vec::new(), read_and_scan: vec![[const { Vec::new() }; 2]; levels] }
    }

    fn samples(&self) -> Option<Measured> {
        let samples = |values: &[f64]| Samples::new(values.iter().copied());
        let both = |[read, scan]: &[Vec<f64>; 2]| Some([samples(read)?, samples(scan)?]);
        Some(Measured {
            memcpy: samples(&self.memcpy)?,
            read_and_scan: self.read_and_scan.iter().map(both).collect::<Option<_>>()?,
        })
    }
}

/// One level's line; `one` is what was measured with one thread.
fn line(level: Level, threads: usize, place: usize, all: &Measured, one: &Measured) -> Option<ScanLine> {
    let [read, scan] = all.read_and_scan.get(place)?;
    let [one_read, one_scan] = one.read_and_scan.get(place)?;
    let reads = all.read_and_scan.iter().map(|[read, _]| read);
    let fastest = reads.max_by(|a, b| a.median().total_cmp(&b.median()))?;
    Some(ScanLine {
        level: level.name(),
        threads,
        scan: scan.clone(),
        read: read.clone(),
        memcpy: all.memcpy.clone(),
        of_read: scan.ratio(fastest)?,
        scan_speedup: scan.ratio(one_scan)?,
        read_speedup: read.ratio(one_read)?,
    })
}

fn goals(scans: &[ScanLine]) -> Vec<Goal> {
    let mut goals = Vec::new();
    for level in LEVELS {
        let of = |threads| scans.iter().find(|line| line.level == level && line.threads == threads);
        let what = format!("{level}, one thread: scan, of the speed of reading");
        goals.push(match of(1) {
            Some(line) => Goal::at_least(&what, &line.of_read, OF_READING, ""),
            None => Goal::unmeasured(what, format!("this machine has no {level}")),
        });
        let what = format!("{level}, two threads: scan, over one thread");
        goals.push(match (of(1), of(2)) {
            (_, Some(line)) => {
                let mut goal = Goal::at_least(&what, &line.scan_speedup, TWO_CORES, "x");
                goal.got += &format!("; reading itself: {}x", line.read_speedup);
                goal
            }
            (Some(_), None) => Goal::unmeasured(what, "two threads were not measured"),
            (None, None) => Goal::unmeasured(what, format!("this machine has no {level}")),
        });
    }
    goals
}

fn describe(result: &ScanResult) -> String {
    let backing = if result.huge_pages { "huge pages where the system gives them" } else { "small pages" };
    let mut text = format!("{} of memory in {backing}\n\n", human::bytes(result.buffer_bytes as u64));
    let mut table = Table::new(&[
        "page_scan",
        "threads",
        "scan GB/s",
        "read GB/s",
        "scan/fastest read",
        "memcpy GB/s",
        "scan x 1 thread",
        "read x 1 thread",
    ]);
    for line in &result.scans {
        table.row(&[
            line.level.to_owned(),
            line.threads.to_string(),
            line.scan.to_string(),
            line.read.to_string(),
            line.of_read.to_string(),
            line.memcpy.to_string(),
            line.scan_speedup.to_string(),
            line.read_speedup.to_string(),
        ]);
    }
    text += &table.left(1);
    let mut table = Table::new(&["other kernels, 1 thread", "", "level", "GB/s of pages", "over scalar"]);
    for line in &result.kernels {
        table.row(&[
            line.kernel.to_owned(),
            line.about.to_owned(),
            line.level.to_owned(),
            line.gb_per_second.to_string(),
            line.over_scalar.to_string(),
        ]);
    }
    text += &format!("\n{}", table.left(3));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goal::Verdict;

    #[test]
    fn threads_are_counted_up() {
        assert_eq!(thread_counts(1, 1 << 20), [1]);
        assert_eq!(thread_counts(2, 1 << 20), [1, 2]);
        assert_eq!(thread_counts(6, 1 << 20), [1, 2, 3, 4, 5, 6]);
        assert_eq!(thread_counts(24, 1 << 20), [1, 2, 3, 4, 5, 6, 7, 8, 16, 24]);
        assert_eq!(thread_counts(32, 1 << 20), [1, 2, 3, 4, 5, 6, 7, 8, 16, 32]);
        assert_eq!(thread_counts(64, 3 * PAGE_SIZE), [1, 2, 3]);
    }

    #[test]
    fn a_run_measures_every_level_with_every_number_of_threads() {
        let pages = sample_memory().unwrap();
        let mut other = vec![0; pages.len()];
        let levels = Level::present();
        let time = Duration::from_millis(1);
        let lines = measure(&levels, &[1, 2], time, &pages, &mut other, &Run::quiet()).unwrap();
        assert_eq!(lines.len(), 2 * levels.len());
        for line in &lines {
            assert!(line.scan.values().len() >= MIN_ROUNDS);
            assert!(line.scan.min() > 0.0 && line.read.min() > 0.0 && line.memcpy.min() > 0.0);
            assert!(line.threads > 1 || line.scan_speedup.median() == 1.0);
        }
        assert_eq!(other, pages, "memcpy copies");
    }

    #[test]
    fn the_roof_is_that_of_the_fastest_level() {
        let one = |value| Samples::new([value]).unwrap();
        let read_and_scan = vec![[one(8.0), one(4.0)], [one(10.0), one(9.5)]];
        let measured = Measured { memcpy: one(5.0), read_and_scan };
        let line = line(Level::Scalar, 1, 0, &measured, &measured).unwrap();
        assert_eq!((line.of_read.median(), line.read.median()), (0.4, 8.0));
    }

    #[test]
    fn slow_scans_and_absent_levels_meet_no_goal() {
        let line = |level, threads, scan: f64| {
            let one = |value| Samples::new([value]).unwrap();
            ScanLine {
                level,
                threads,
                scan: one(scan),
                read: one(10.0 * threads as f64),
                memcpy: one(5.0),
                of_read: one(scan / 10.0 / threads as f64),
                scan_speedup: one(scan / 9.0),
                read_speedup: one(threads as f64),
            }
        };
        let verdicts =
            |lines: &[ScanLine]| goals(lines).into_iter().map(|goal| goal.verdict).collect::<Vec<_>>();
        use Verdict::{Fail, Pass, Unmeasured};
        let lines =
            [line("avx2", 1, 9.0), line("avx2", 2, 16.3), line("avx512", 1, 8.9), line("avx512", 2, 16.1)];
        assert_eq!(verdicts(&lines), [Pass, Pass, Fail, Fail]);
        assert_eq!(verdicts(&lines[..1]), [Pass, Unmeasured, Unmeasured, Unmeasured]);
    }
}
