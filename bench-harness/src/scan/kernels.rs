//! Checks of all kernels against their scalar twins, and the speed of those beside the scan.
//!
//! The kernels' own tests live with them; here it only matters that what is timed works on this machine and this
//! memory.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mig_engine::{Level, PAGE_SIZE, PAGE_WORDS, Page};
use mig_simd::{Anchors, PageRecord, anchors, page_eq, page_scan, read_roof, word_diff};
use serde::Serialize;

use super::{MAX_ROUNDS, MIN_ROUNDS};
use crate::corpus::sample_memory;
use crate::corpus::tile::Tiles;
use crate::exit::Problem;
use crate::measure::Samples;
use crate::run::Run;

/// Memory that the other kernels go through, at most: more than caches hold.
const MOST: usize = 256 << 20;
/// Pages that are checked.
const CHECKED: usize = 1 << 14;
/// As effort `fast` samples.
const SPARSITY: u32 = 5;

/// One kernel at one level, on one thread.
#[derive(Debug, Serialize)]
pub(super) struct KernelLine {
    pub(super) kernel: &'static str,
    pub(super) level: &'static str,
    /// Of pages; where two are read, one of them counts.
    pub(super) gb_per_second: Samples,
    pub(super) over_scalar: Samples,
    pub(super) about: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Kernel {
    PageEq,
    WordDiff,
    Anchors,
}

impl Kernel {
    const ALL: [Kernel; 3] = [Kernel::PageEq, Kernel::WordDiff, Kernel::Anchors];

    fn name(self) -> &'static str {
        match self {
            Kernel::PageEq => "page_eq",
            Kernel::WordDiff => "word_diff",
            Kernel::Anchors => "anchors",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Kernel::PageEq => "equal pages, both read",
            Kernel::WordDiff => "pages that differ in up to eight words, both read",
            Kernel::Anchors => "one position in 32 sampled",
        }
    }

    /// Goes through all pages; gives a number that depends on every answer.
    fn go(self, level: Level, pages: &[Page], others: &[Page]) -> u64 {
        let mut sum = 0u64;
        match self {
            Kernel::PageEq => {
                for (page, other) in pages.iter().zip(others) {
                    sum += u64::from(page_eq(level, page, other));
                }
            }
            Kernel::WordDiff => {
                let (mut mask, mut words) = ([0; 8], [0; PAGE_WORDS]);
                for (page, other) in pages.iter().zip(others) {
                    let len = word_diff(level, page, other, &mut mask, &mut words);
                    sum =
                        sum.wrapping_add(len as u64).wrapping_add(words[..len].first().copied().unwrap_or(0));
                }
            }
            Kernel::Anchors => {
                let mut found = Anchors::new();
                for page in pages {
                    anchors(level, page, SPARSITY, &mut found);
                    sum = sum.wrapping_add(found.hashes().last().copied().unwrap_or(0));
                }
            }
        }
        sum
    }
}

fn wrong(kernel: &str, level: Level) -> Problem {
    Problem::Wrong {
        who: format!("{kernel} at {level}"),
        what: "its answers are not those of scalar code".into(),
    }
}

/// Checks the scan and the sum at one level, on the memory's first pages.
///
/// # Errors
///
/// [`Problem::Wrong`].
pub(super) fn verify(level: Level, memory: &[u8]) -> Result<()> {
    let (pages, _) = memory.as_chunks::<PAGE_SIZE>();
    let bytes = pages[..pages.len().min(CHECKED)].as_flattened();
    let records = |level| {
        let mut records = vec![PageRecord::default(); bytes.len() / PAGE_SIZE];
        page_scan(level, bytes, &mut records);
        records
    };
    if records(level) != records(Level::Scalar) {
        return Err(wrong("page_scan", level).into());
    }
    let sum =
        bytes.as_chunks::<8>().0.iter().fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    if read_roof(level, bytes) != sum {
        return Err(wrong("read_roof", level).into());
    }
    Ok(())
}

/// Times the other kernels, levels taking turns; `other` is written to.
///
/// # Errors
///
/// [`Problem::Wrong`] where a level disagrees with scalar code.
pub(super) fn measure(
    levels: &[Level],
    seconds: f64,
    memory: &[u8],
    other: &mut [u8],
    run: &Run,
) -> Result<Vec<KernelLine>> {
    let len = memory.len().min(other.len()).min(MOST);
    let (pages, _) = memory[..len].as_chunks::<PAGE_SIZE>();
    let mut lines = Vec::new();
    for kernel in Kernel::ALL {
        match kernel {
            Kernel::PageEq => other[..len].copy_from_slice(&memory[..len]),
            // Another seed changes other words.
            Kernel::WordDiff => Tiles::new(sample_memory()?, 2)?.fill(0, &mut other[..len]),
            Kernel::Anchors => {}
        }
        let (others, _) = other[..len].as_chunks::<PAGE_SIZE>();
        let expected = kernel.go(Level::Scalar, pages, others);
        let time = Duration::from_secs_f64(seconds);
        let mut rates = vec![Vec::new(); levels.len()];
        let start = Instant::now();
        for round in 0..MAX_ROUNDS {
            if round >= MIN_ROUNDS && start.elapsed() >= time {
                break;
            }
            for (&level, rates) in levels.iter().zip(&mut rates) {
                run.check()?;
                let start = Instant::now();
                let sum = black_box(kernel.go(level, pages, others));
                rates.push(len as f64 / start.elapsed().as_secs_f64().max(1e-9) / 1e9);
                if sum != expected {
                    return Err(wrong(kernel.name(), level).into());
                }
            }
        }
        let samples = |rates: &Vec<f64>| Samples::new(rates.iter().copied());
        let scalar = rates.first().and_then(samples);
        for (&level, rates) in levels.iter().zip(&rates) {
            let pair = samples(rates).and_then(|rate| Some((rate.ratio(scalar.as_ref()?)?, rate)));
            let (over_scalar, gb_per_second) = pair.context("a kernel took no time at all")?;
            let (kernel, about) = (kernel.name(), kernel.about());
            lines.push(KernelLine { kernel, level: level.name(), gb_per_second, over_scalar, about });
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_agrees_with_scalar_code_on_the_sample() {
        let memory = sample_memory().unwrap();
        let mut other = vec![0; memory.len()];
        let levels = Level::present();
        for &level in &levels {
            verify(level, &memory).unwrap();
        }
        let lines = measure(&levels, 0.001, &memory, &mut other, &Run::quiet()).unwrap();
        assert_eq!(lines.len(), levels.len() * Kernel::ALL.len());
        println!("levels: {levels:?}");
    }

    #[test]
    fn each_page_shows_in_the_sum() {
        let memory = sample_memory().unwrap();
        let mut other = vec![0; memory.len()];
        Tiles::new(sample_memory().unwrap(), 2).unwrap().fill(0, &mut other);
        let (pages, others) = (memory.as_chunks::<PAGE_SIZE>().0, other.as_chunks::<PAGE_SIZE>().0);
        // A page of many values, so that all kernels have something to say about it.
        let place = others.iter().zip(pages).position(|(a, b)| a != b).unwrap();
        for kernel in Kernel::ALL {
            let sum = |pages: &[Page], others: &[Page]| kernel.go(Level::Scalar, pages, others);
            let (with, others) = match kernel {
                Kernel::PageEq => (sum(pages, pages), pages),
                _ => (sum(pages, others), others),
            };
            let mut changed = pages.to_vec();
            changed[place] = std::array::from_fn(|i| (i * i / 7) as u8);
            assert_ne!(sum(&changed, others), with, "{kernel:?}");
        }
    }
}
