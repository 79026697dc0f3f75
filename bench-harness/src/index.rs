//! `mig-bench index`: what the fingerprint index of a reference costs to build, to keep and to ask.
//!
//! Builds with one thread and with all take turns. Lookups ask, in random order, for pages that the reference has, and
//! for random fingerprints, which it has not; every answer is checked. An index that fits into a cache answers much
//! faster than one that does not: the goal of 150 ns is about a hundred million blocks, for which the engine's own
//! bench `index_lookup` makes a synthetic index (`MIG_INDEX_ENTRIES=100000000`).

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mig_engine::reference::{BLOCK_SIZE, BlockSource, DiskRun, Identity, Index, IndexBuilder, SourceTie};
use mig_engine::{Level, Page, Reference, fingerprints};
use mig_simd::{PageRecord, page_scan};
use serde::Serialize;

use crate::cli::IndexArgs;
use crate::corpus::sparse::synthetic;
use crate::corpus::tile::mix;
use crate::exit::Problem;
use crate::goal::Goal;
use crate::human;
use crate::measure::{Cost, Samples, Timing, timed};
use crate::provenance::Provenance;
use crate::references::warm;
use crate::report::{Report, Table};
use crate::run::{Run, Steps};

const GB_PER_SECOND_AND_CORE: f64 = 1.0;
const BYTES_A_BLOCK: f64 = 16.0;
const NANOSECONDS: f64 = 150.0;
/// Fingerprints that are asked for, at most.
const LOOKUPS: usize = 1 << 19;
/// Of them in one call.
const BATCH: usize = 1024;
const ROUNDS: usize = 5;
/// Lookups that give a block with other contents are part of the design, but rare: one in this many is too often.
const FALSE_ANSWERS: u64 = 10_000;

/// The `result` of an `index` report.
#[derive(Debug, Serialize)]
struct IndexResult {
    kind: &'static str,
    blocks: u64,
    /// Bytes of blocks that are not holes: what building reads.
    data_bytes: u64,
    distinct: u64,
    index_bytes: u64,
    builds: Vec<Build>,
    /// Seconds, synced.
    save_seconds: f64,
    /// Seconds, checksums included.
    open_seconds: f64,
    lookups: Vec<Lookup>,
    /// Answers that named a block with other contents, which users of an index notice by comparing.
    false_answers: u64,
}

/// Building with some number of threads.
#[derive(Debug, Serialize)]
struct Build {
    threads: usize,
    timing: Timing,
    gb_per_second_and_core: Samples,
}

/// Asking for one kind of fingerprint in one way.
#[derive(Debug, Serialize)]
struct Lookup {
    /// `hits` or `misses`.
    asked: &'static str,
    batched: bool,
    lookups: usize,
    nanoseconds: Samples,
}

pub(crate) fn run(args: &IndexArgs, run: &Run) -> Result<()> {
    let provenance = Provenance::now();
    let level = Level::from_env().map_err(|error| Problem::Usage(error.to_string()))?;
    let context = || format!("cannot use {} as a reference", args.image.display());
    let mut counts = vec![1];
    if args.threads.count() > 1 {
        counts.push(args.threads.count());
    }
    let steps = Steps::new(counts.len() as u64 * u64::from(args.repeats) + 3);
    steps.now("reading it once");
    warm(&args.image).with_context(context)?;
    let reference = Reference::open(&args.image, 0).with_context(context)?;
    let data_bytes = data_bytes(reference.source());
    steps.done();

    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); counts.len()];
    let mut built = None;
    for _ in 0..args.repeats {
        for (&threads, costs) in counts.iter().zip(&mut costs) {
            run.check()?;
            steps.now(format!("building, threads: {threads}"));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            let (index, cost) = timed(|| pool.install(|| build_index(&reference, level, run)))?;
            costs.push(cost);
            built = Some(index);
            steps.done();
        }
    }
    let built = built.context("no index was built")?;
    let builds: Option<Vec<Build>> = counts
        .iter()
        .zip(&costs)
        .map(|(&threads, costs)| {
            let timing = Timing::new(data_bytes, costs)?;
            let each = timing.gb_per_second.values().iter().map(|rate| rate / threads as f64);
            Some(Build { threads, gb_per_second_and_core: Samples::new(each)?, timing })
        })
        .collect();

    steps.now("saving and opening");
    let scratch = tempfile::tempdir_in(args.scratch.folder()).context("cannot make a folder in --scratch")?;
    let path = scratch.path().join("bench.migidx");
    let ((), save) = timed(|| Ok(built.save(&path)?))?;
    let (distinct, index_bytes) = (built.distinct(), built.file_len());
    let tie = built.tie().clone();
    drop(built);
    let (index, open) = timed(|| Ok(Index::open(&path, &tie)?))?;
    steps.done();

    steps.now("looking up");
    let (lookups, false_answers) = look_up(&index, &reference, level, run)?;
    steps.done();
    drop(steps);

    let result = IndexResult {
        kind: reference.kind().name(),
        blocks: reference.need().blocks,
        data_bytes,
        distinct,
        index_bytes,
        builds: builds.context("building was not measured")?,
        save_seconds: save.wall,
        open_seconds: open.wall,
        lookups,
        false_answers,
    };
    let figures = describe(&result);
    let goals = goals(&result);
    let mut report = Report::new("index", provenance, result);
    report.synthetic = synthetic(&args.image)?;
    report.goals = goals;
    report.notes = vec![
        "GB/s are decimal gigabytes of blocks that are not holes, page cache warm".into(),
        "the goal for lookups was set for 100 million blocks: cargo bench -p mig-engine with \
         MIG_INDEX_ENTRIES=100000000"
            .into(),
    ];
    report.finish(&figures, &args.output)
}

/// Builds an index on the current rayon pool, tied to what the reference holds.
fn build_index(reference: &Reference, level: Level, run: &Run) -> Result<Index> {
    let need = reference.need();
    let tie = SourceTie::new(Identity(u128::from_le_bytes(need.identity)), need.blocks, &[]);
    let builder = IndexBuilder::new().cancel(run.cancel.flag());
    let index = builder.build(reference.source(), tie, &fingerprints(level));
    run.check()?;
    Ok(index?)
}

/// Bytes of blocks that are not holes.
fn data_bytes(source: &(impl BlockSource + ?Sized)) -> u64 {
    let (mut block, mut data) = (0, 0);
    while block < source.blocks() {
        let run = source.run(block, source.blocks() - block);
        if !matches!(run, DiskRun::Hole(_)) {
            data += run.blocks() * BLOCK_SIZE as u64;
        }
        block += run.blocks().max(1);
    }
    data
}

/// Fingerprints of blocks of the reference, in random order; those that an index leaves out are not among them.
fn hits(reference: &Reference, level: Level) -> Result<Vec<u128>> {
    let source = reference.source();
    let wanted = (source.blocks() as usize).min(LOOKUPS);
    let mut found = Vec::new();
    let mut page: Page = [0; BLOCK_SIZE];
    // Some blocks are holes or uniform, so more are tried than are wanted.
    for number in 0..4 * wanted as u64 {
        if found.len() == wanted {
            break;
        }
        let block = mix(number) % source.blocks();
        if let DiskRun::Hole(_) = source.run(block, 1) {
            continue;
        }
        source.read_blocks(block, &mut page)?;
        let record = scan(level, &page);
        if record.uniform().is_none() {
            found.push(record.fingerprint128());
        }
    }
    Ok(found)
}

fn scan(level: Level, page: &Page) -> PageRecord {
    let mut record = [PageRecord::default()];
    page_scan(level, page, &mut record);
    record[0]
}

/// Times lookups; gives the number of false answers as well.
fn look_up(index: &Index, reference: &Reference, level: Level, run: &Run) -> Result<(Vec<Lookup>, u64)> {
    let hits = hits(reference, level)?;
    ensure!(!hits.is_empty(), "the reference has no blocks that an index is about");
    let miss =
        |number: usize| u128::from(mix(!(number as u64))) << 64 | u128::from(mix(number as u64 + (1 << 60)));
    let misses: Vec<u128> = (0..hits.len()).map(miss).collect();
    let false_answers = check(index, reference, level, &hits, &misses)?;
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        run.check()?;
        for (asked, [single, batched]) in [&hits, &misses].into_iter().zip(times.as_chunks_mut::<2>().0) {
            let start = Instant::now();
            for &fingerprint in asked {
                black_box(index.lookup(black_box(fingerprint)));
            }
            single.push(start.elapsed());
            let mut answers = [0; BATCH];
            let start = Instant::now();
            for asked in asked.chunks(BATCH) {
                index.lookup_batch(asked, &mut answers[..asked.len()]);
                black_box(&answers);
            }
            batched.push(start.elapsed());
        }
    }
    let lookups = hits.len();
    let kinds = [("hits", false), ("hits", true), ("misses", false), ("misses", true)];
    let lines = kinds.into_iter().zip(&times).map(|((asked, batched), times)| {
        let nanoseconds = times.iter().map(|time| time.as_nanos() as f64 / lookups as f64);
        Some(Lookup { asked, batched, lookups, nanoseconds: Samples::new(nanoseconds)? })
    });
    let lines: Option<Vec<Lookup>> = lines.collect();
    Ok((lines.context("lookups were not measured")?, false_answers))
}

/// Asks for everything once, both ways, and compares the blocks with what was asked for.
fn check(index: &Index, reference: &Reference, level: Level, hits: &[u128], misses: &[u128]) -> Result<u64> {
    let wrong = |what: String| Problem::Wrong { who: "index".into(), what };
    let mut false_answers = 0;
    let mut page: Page = [0; BLOCK_SIZE];
    for (asked, there) in [(hits, true), (misses, false)] {
        let mut answers = vec![0; asked.len()];
        index.lookup_batch(asked, &mut answers);
        for (&fingerprint, &answer) in asked.iter().zip(&answers) {
            let block = (answer != Index::ABSENT).then_some(answer);
            if index.lookup(fingerprint) != block {
                return Err(wrong(format!("{fingerprint:032x} has another answer in a batch")).into());
            }
            match block {
                Some(block) => {
                    reference.source().read_blocks(block, &mut page)?;
                    false_answers += u64::from(scan(level, &page).fingerprint128() != fingerprint);
                }
                None if there => return Err(wrong(format!("{fingerprint:032x} is not found")).into()),
                None => {}
            }
        }
    }
    let allowed = 1 + 2 * hits.len() as u64 / FALSE_ANSWERS;
    if false_answers > allowed {
        return Err(wrong(format!("{false_answers} false answers are more than {allowed}")).into());
    }
    Ok(false_answers)
}

fn bytes_a_block(result: &IndexResult) -> f64 {
    result.index_bytes as f64 / result.distinct.max(1) as f64
}

fn goals(result: &IndexResult) -> Vec<Goal> {
    let mut goals = Vec::new();
    for build in &result.builds {
        let what = format!("building with {}, for each", threads(build.threads));
        goals.push(Goal::at_least(&what, &build.gb_per_second_and_core, GB_PER_SECOND_AND_CORE, " GB/s"));
    }
    goals.push(Goal::at_most(
        "index, for each distinct block",
        bytes_a_block(result),
        BYTES_A_BLOCK,
        " bytes",
    ));
    for lookup in result.lookups.iter().filter(|lookup| lookup.batched) {
        let what = format!("looking up {} in batches, at this size", lookup.asked);
        goals.push(Goal::at_most(&what, lookup.nanoseconds.median(), NANOSECONDS, " ns"));
    }
    goals
}

fn threads(count: usize) -> String {
    format!("{count} {}", if count == 1 { "thread" } else { "threads" })
}

fn describe(result: &IndexResult) -> String {
    let mut text = format!(
        "{} of {} blocks, {} of data, {} distinct; index of {}, {} bytes a distinct block\n\
         saved and synced in {} s, opened and checked in {} s; {} false answers\n\n",
        result.kind,
        human::count(result.blocks),
        human::bytes(result.data_bytes),
        human::count(result.distinct),
        human::bytes(result.index_bytes),
        human::number(bytes_a_block(result)),
        human::number(result.save_seconds),
        human::number(result.open_seconds),
        result.false_answers,
    );
    let mut table = Table::new(&["building", "GB/s", "GB/s a thread", "CPU s"]);
    for build in &result.builds {
        let timing = &build.timing;
        let cpu = human::number(timing.cpu_seconds.median());
        table.row(&[
            threads(build.threads),
            timing.gb_per_second.to_string(),
            build.gb_per_second_and_core.to_string(),
            cpu,
        ]);
    }
    text += &table.left(1);
    let mut table = Table::new(&["looking up", "", "ns"]);
    for lookup in &result.lookups {
        let how = if lookup.batched { "in batches" } else { "one by one" };
        table.row(&[lookup.asked.to_owned(), how.to_owned(), lookup.nanoseconds.to_string()]);
    }
    text += &format!("\n{}", table.left(2));
    text
}

#[cfg(test)]
mod tests {
    use mig_engine::ReferenceKind;

    use super::*;
    use crate::corpus::{sample_disk, sample_memory};

    fn reference(bytes: &[u8]) -> (tempfile::NamedTempFile, Reference) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let reference = Reference::open_as(file.path(), ReferenceKind::Disk).unwrap();
        (file, reference)
    }

    #[test]
    fn lookups_of_the_sample_are_right() {
        let (_file, reference) = reference(&sample_disk().unwrap());
        let index = build_index(&reference, Level::best(), &Run::quiet()).unwrap();
        let (lookups, _) = look_up(&index, &reference, Level::best(), &Run::quiet()).unwrap();
        assert_eq!(lookups.len(), 4);
        for lookup in &lookups {
            assert_eq!(lookup.nanoseconds.values().len(), ROUNDS);
            assert!(lookup.nanoseconds.min() > 0.0);
        }
    }

    #[test]
    fn an_index_of_something_else_is_noticed() {
        let (_disk_file, disk) = reference(&sample_disk().unwrap());
        let mut memory = sample_memory().unwrap();
        memory.resize(sample_disk().unwrap().len(), 0);
        let (_memory_file, memory) = reference(&memory);
        let index = build_index(&memory, Level::best(), &Run::quiet()).unwrap();
        let error = look_up(&index, &disk, Level::best(), &Run::quiet()).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Problem::Wrong { .. })), "{error:#}");
    }

    #[test]
    fn holes_are_not_data() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(file.as_file(), &[7; 1 << 20], 8 << 20).unwrap();
        let disk = Reference::open_as(file.path(), ReferenceKind::Disk).unwrap();
        assert_eq!(data_bytes(disk.source()), 1 << 20);
    }
}
