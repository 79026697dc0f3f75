//! Time and processor time of runs, and what to say about several runs of the same thing.
//!
//! A sample is one run. Of samples we give the median with the smallest and the largest: neither is moved by one run
//! that was disturbed, and nothing is assumed about how disturbances are distributed. Two things are compared run by
//! run, each with the run of the other that was next to it, so that what slows the machine for a while slows both.

use std::fmt;
use std::time::Instant;

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

use crate::human;

/// What one run took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Seconds from start to end.
    pub(crate) wall: f64,
    /// Processor seconds, user and system together, of all threads.
    pub(crate) cpu: f64,
}

/// Does something in this process and says what it took.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Cost)> {
    timed_of(UsageWho::RUSAGE_SELF, work)
}

/// Does something by running programs and waiting for them; says what they took, without what this process did
/// meanwhile.
pub(crate) fn timed_programs<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Cost)> {
    timed_of(UsageWho::RUSAGE_CHILDREN, work)
}

/// Does something by both; says what all of it took.
pub(crate) fn timed_all<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Cost)> {
    let before = cpu_seconds(UsageWho::RUSAGE_CHILDREN);
    let (result, cost) = timed(work)?;
    Ok((result, Cost { cpu: cost.cpu + cpu_seconds(UsageWho::RUSAGE_CHILDREN) - before, ..cost }))
}

fn timed_of<T>(who: UsageWho, work: impl FnOnce() -> Result<T>) -> Result<(T, Cost)> {
    let cpu = cpu_seconds(who);
    let start = Instant::now();
    let result = work()?;
    let wall = start.elapsed().as_secs_f64();
    Ok((result, Cost { wall, cpu: cpu_seconds(who) - cpu }))
}

/// Processor seconds of this process, or of the children that it has waited for, since it began.
fn cpu_seconds(who: UsageWho) -> f64 {
    // It can only fail for a wrong `who`.
    let usage = getrusage(who).ok();
    let micros = usage
        .map_or(0, |usage| usage.user_time().num_microseconds() + usage.system_time().num_microseconds());
    micros as f64 / 1e6
}

/// What the same measurement gave each time, in order. At least one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Summary", try_from = "Summary")]
pub(crate) struct Samples(Vec<f64>);

/// Samples in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Summary {
    median: f64,
    min: f64,
    max: f64,
    samples: Vec<f64>,
}

impl From<Samples> for Summary {
    fn from(samples: Samples) -> Self {
        let (median, min, max) = (samples.median(), samples.min(), samples.max());
        Summary { median, min, max, samples: samples.0 }
    }
}

impl TryFrom<Summary> for Samples {
    type Error = &'static str;

    fn try_from(summary: Summary) -> Result<Self, &'static str> {
        Samples::new(summary.samples).ok_or("there are no samples")
    }
}

impl Samples {
    /// `None` where there are no values, or one is not a number.
    pub(crate) fn new(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        (!values.is_empty() && values.iter().all(|value| value.is_finite())).then_some(Samples(values))
    }

    /// The values in the order in which they were measured.
    pub(crate) fn values(&self) -> &[f64] {
        &self.0
    }

    /// The middle value; of an even number of values, the mean of the two in the middle.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len().is_multiple_of(2) {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        } else {
            sorted[middle]
        }
    }

    /// The smallest value.
    pub(crate) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest value.
    pub(crate) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// How many times larger than `other`, run by run. Where one was measured once only, that is compared with
    /// every run of the other. `None` where the runs do not pair up.
    pub(crate) fn ratio(&self, other: &Samples) -> Option<Samples> {
        let rounds = self.0.len().max(other.0.len());
        let fits = |samples: &Samples| samples.0.len() == rounds || samples.0.len() == 1;
        if !fits(self) || !fits(other) {
            return None;
        }
        let (a, b) = (self.0.iter().cycle(), other.0.iter().cycle());
        Samples::new(a.zip(b).take(rounds).map(|(a, b)| a / b))
    }
}

impl fmt::Display for Samples {
    /// The median, and in brackets the smallest and the largest if there are several.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = human::number;
        match self.0.len() {
            1 => f.pad(&number(self.0[0])),
            _ => f.pad(&format!("{} ({}-{})", number(self.median()), number(self.min()), number(self.max()))),
        }
    }
}

/// What the runs of one thing took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Timing {
    /// Seconds from start to end.
    pub(crate) wall_seconds: Samples,
    /// Processor seconds.
    pub(crate) cpu_seconds: Samples,
    /// Decimal gigabytes of input a second.
    pub(crate) gb_per_second: Samples,
}

impl Timing {
    /// The timing of runs that each went through `bytes`; `None` without any runs.
    pub(crate) fn new(bytes: u64, costs: &[Cost]) -> Option<Self> {
        let wall = costs.iter().map(|cost| cost.wall.max(1e-9));
        Some(Timing {
            wall_seconds: Samples::new(wall.clone())?,
            cpu_seconds: Samples::new(costs.iter().map(|cost| cost.cpu))?,
            gb_per_second: Samples::new(wall.map(|wall| bytes as f64 / wall / 1e9))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples(values: &[f64]) -> Samples {
        Samples::new(values.iter().copied()).unwrap()
    }

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(samples(&[5.0]).median(), 5.0);
        assert_eq!(samples(&[9.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(samples(&[9.0, 1.0, 2.0, 4.0]).median(), 3.0);
        let one_bad = samples(&[1.0, 1.1, 50.0, 0.9, 1.0]);
        assert_eq!((one_bad.median(), one_bad.min(), one_bad.max()), (1.0, 0.9, 50.0));
    }

    #[test]
    fn no_samples_and_no_numbers_are_refused() {
        assert_eq!(Samples::new([]), None);
        assert_eq!(Samples::new([1.0, f64::NAN]), None);
        assert_eq!(Samples::new([f64::INFINITY]), None);
        assert_eq!(Timing::new(1, &[]), None);
    }

    #[test]
    fn ratios_pair_the_runs_that_were_next_to_each_other() {
        // Both are slowed to a third in the second round: the ratio does not see it.
        let (ours, theirs) = (samples(&[6.0, 2.0, 6.0]), samples(&[3.0, 1.0, 3.0]));
        assert_eq!(ours.ratio(&theirs), Some(samples(&[2.0, 2.0, 2.0])));
        assert_eq!(ours.ratio(&samples(&[2.0])), Some(samples(&[3.0, 1.0, 3.0])));
        assert_eq!(samples(&[6.0]).ratio(&theirs), Some(samples(&[2.0, 6.0, 2.0])));
        assert_eq!(ours.ratio(&samples(&[1.0, 2.0])), None);
        assert_eq!(ours.ratio(&samples(&[0.0])), None);
    }

    #[test]
    fn samples_read_well_and_are_kept_in_json() {
        assert_eq!(samples(&[1.5]).to_string(), "1.50");
        assert_eq!(samples(&[1.0, 3.0, 12.0]).to_string(), "3.00 (1.00-12.0)");
        let json = serde_json::to_value(samples(&[1.0, 3.0])).unwrap();
        assert_eq!(json, serde_json::json!({ "median": 2.0, "min": 1.0, "max": 3.0, "samples": [1.0, 3.0] }));
    }

    #[test]
    fn rates_are_of_the_input() {
        let timing = Timing::new(2_000_000_000, &[Cost { wall: 0.5, cpu: 1.0 }]).unwrap();
        assert_eq!(timing.gb_per_second.median(), 4.0);
    }

    #[test]
    fn work_is_paid_for() {
        let busy = || {
            let start = Instant::now();
            let mut sum = 0u64;
            while start.elapsed().as_millis() < 50 {
                sum = std::hint::black_box(sum + 1);
            }
            Ok(sum)
        };
        let (_, cost) = timed(busy).unwrap();
        assert!(cost.wall >= 0.05, "{cost:?}");
        assert!(cost.cpu > 0.0, "{cost:?}");
        assert!(timed(|| -> Result<()> { anyhow::bail!("no") }).is_err());
    }

    #[test]
    fn programs_pay_for_themselves() {
        let run = || {
            Ok(std::process::Command::new("sh")
                .args(["-c", "for i in $(seq 100000); do :; done"])
                .status()?)
        };
        let (status, cost) = timed_programs(run).unwrap();
        assert!(status.success() && cost.wall > 0.0 && cost.cpu > 0.0, "{cost:?}");
    }

    proptest! {
        #[test]
        fn medians_lie_between_and_halve_the_samples(values in prop::collection::vec(0.001..1e6f64, 1..40)) {
            let samples = samples(&values);
            let median = samples.median();
            prop_assert!(samples.min() <= median && median <= samples.max());
            let below = values.iter().filter(|value| **value < median).count();
            let above = values.iter().filter(|value| **value > median).count();
            prop_assert!(2 * below <= values.len() && 2 * above <= values.len());
        }
    }
}
