//! What an index costs: nanoseconds to build and to look up, and bytes, for each entry.
//!
//! The index is synthetic: `MIG_INDEX_ENTRIES` (one million unless set) random fingerprints, built, saved, and mapped
//! from its file as a real one is. Lookups are in random order; half of them ask for what is not there. With fewer
//! entries than fit into the processor's cache the figures say little: a terabyte of disk has some 100 million.
//!
//! Each figure is the median of five rounds, with the smallest and the largest; every answer is checked.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use mig_engine::reference::{FileStamp, Identity, Index, IndexBuilder, SourceTie};

const ROUNDS: usize = 5;
const LOOKUPS: u64 = 1 << 21;
const BATCH: usize = 1024;

/// Numbers as good as random: the output function of the SplitMix64 generator.
fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn fingerprint(number: u64) -> u128 {
    (u128::from(mix(2 * number)) << 64) | u128::from(mix(2 * number + 1))
}

/// Median, smallest and largest of some durations, in nanoseconds for each of `count`.
fn spread(mut rounds: Vec<Duration>, count: u64) -> String {
    rounds.sort();
    let each = |round: Duration| round.as_nanos() as f64 / count as f64;
    let (min, median, max) = (rounds[0], rounds[rounds.len() / 2], rounds[rounds.len() - 1]);
    format!("{:7.1} ns ({:.1} to {:.1})", each(median), each(min), each(max))
}

fn main() -> Result<(), Box<dyn Error>> {
    let entries: u64 = match std::env::var("MIG_INDEX_ENTRIES") {
        Ok(entries) => entries.parse()?,
        Err(_) => 1_000_000,
    };
    let tie = SourceTie::new(Identity(1), entries, &[FileStamp { len: entries * 4096, modified: 0 }]);

    let start = Instant::now();
    let pairs = (0..entries).map(|block| (fingerprint(block), block));
    let built = IndexBuilder::new().build_from_pairs(pairs, entries, tie.clone())?;
    let build = start.elapsed();
    assert!(built.distinct() + 100 > entries, "only {} of {entries} are in the index", built.distinct());

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("synthetic.migidx");
    let start = Instant::now();
    built.save(&path)?;
    let save = start.elapsed();
    drop(built);
    let start = Instant::now();
    let index = Index::open(&path, &tie)?;
    let open = start.elapsed();

    println!("entries      {entries}, {} threads", rayon::current_num_threads());
    println!("size         {:7.2} bytes an entry", index.file_len() as f64 / entries as f64);
    println!("build        {:7.1} ns an entry", build.as_nanos() as f64 / entries as f64);
    println!("save         {:7.2} s, synced", save.as_secs_f64());
    println!("open         {:7.2} s, checksums included, page cache warm", open.as_secs_f64());

    // Every second number is that of an entry, the others are beyond all of them.
    let numbers = |round: usize| {
        (0..LOOKUPS).map(move |i| {
            let random = mix(i + ((round as u64) << 40)) % entries;
            if i % 2 == 0 { random } else { random + entries }
        })
    };
    let (mut single, mut batched, mut wrong) = (Vec::new(), Vec::new(), 0);
    for round in 0..ROUNDS {
        let asked: Vec<u128> = numbers(round).map(fingerprint).collect();
        let start = Instant::now();
        for &fingerprint in &asked {
            black_box(index.lookup(black_box(fingerprint)));
        }
        single.push(start.elapsed());

        let asked: Vec<u128> = numbers(round + ROUNDS).map(fingerprint).collect();
        let mut answers = vec![0; asked.len()];
        let start = Instant::now();
        for (asked, answers) in asked.chunks(BATCH).zip(answers.chunks_mut(BATCH)) {
            index.lookup_batch(asked, answers);
        }
        batched.push(start.elapsed());
        wrong += numbers(round + ROUNDS)
            .zip(answers)
            .filter(|&(number, answer)| answer != if number < entries { number } else { Index::ABSENT })
            .count();
    }
    println!("lookup       {}, one by one", spread(single, LOOKUPS));
    println!("lookup       {}, in batches of {BATCH}", spread(batched, LOOKUPS));
    println!(
        "wrong        {wrong} of {} answers (one in some millions is by design)",
        LOOKUPS * ROUNDS as u64
    );
    assert!(wrong < 100, "{wrong} wrong answers");
    Ok(())
}
