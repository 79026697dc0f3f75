//! `mig-bench compare`: two reports of the same suite, case by case, and what became worse beyond the noise.
//!
//! Worse is what lies outside of what was seen before: a time whose fastest run is slower than the slowest run of the old report and
//! whose median is more than two per cent above; a size that is a thousandth larger. Times of different machines say nothing about
//! the program, so they are compared only if processor, number of processors and profile are the same, or if asked to.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cli::CompareArgs;
use crate::exit::Problem;
use crate::human;
use crate::measure::{Samples, Timing};
use crate::report::table::Table;
use crate::report::{SCHEMA, print};

/// A time has to be this many times longer at least.
const SLOWER: f64 = 1.02;
/// A size has to be this many times larger at least; what `mig auto` sends depends on the machine.
const LARGER: f64 = 1.001;

/// Differs from [`SCHEMA`] in nothing that is compared.
const EARLIER: &str = "mig-bench/1";

#[derive(Deserialize)]
struct Old {
    schema: String,
    command: String,
    provenance: Machine,
    result: Runs,
}

#[derive(Deserialize, PartialEq, Eq)]
struct Machine {
    cpu: String,
    cpus: usize,
    toolchain: String,
}

#[derive(Deserialize)]
struct Runs {
    runs: Vec<CorpusRun>,
}

#[derive(Deserialize)]
struct CorpusRun {
    corpus: String,
    threads: usize,
    contenders: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    contender: String,
    bytes: u64,
    pack: Timing,
    links: Vec<OnLink>,
}

#[derive(Deserialize)]
struct OnLink {
    link: String,
    seconds: Samples,
    calculated: bool,
}

/// One number of a report.
struct Case {
    name: String,
    value: Value,
}

enum Value {
    Seconds(Samples),
    Bytes(u64),
}

pub(crate) fn run(args: &CompareArgs) -> Result<()> {
    let (old, new) = (load(&args.old)?, load(&args.new)?);
    let times = args.any_machine || old.provenance == new.provenance;
    let mut text = String::new();
    if !times {
        text += "another processor, compiler or profile: only sizes are compared (--any-machine compares times, too)\n";
    }
    let old_cases = cases(&old.result);
    let mut table = Table::new(&["", "old", "new", "new of old", "spread of old"]);
    let (mut worse, mut compared) = (0, 0);
    for case in cases(&new.result) {
        let Some(before) = old_cases.iter().find(|old| old.name == case.name) else { continue };
        let (old, new, ratio, spread, is_worse) = match (&before.value, &case.value) {
            (Value::Seconds(old), Value::Seconds(new)) if times => {
                let ratio = new.median() / old.median();
                let spread = format!(
                    "{}-{}",
                    human::number(old.min() / old.median()),
                    human::number(old.max() / old.median())
                );
                (format!("{old} s"), format!("{new} s"), ratio, spread, is_slower(old, new))
            }
            (Value::Bytes(old), Value::Bytes(new)) => {
                let ratio = *new as f64 / *old as f64;
                (human::count(*old), human::count(*new), ratio, "-".into(), ratio > LARGER)
            }
            _ => continue,
        };
        compared += 1;
        worse += usize::from(is_worse);
        let name = format!("{} {}", if is_worse { "WORSE" } else { "     " }, case.name);
        table.row(&[name, old, new, human::number(ratio), spread]);
    }
    if compared == 0 {
        let text = "the reports have no case in common: are they of the same suite?";
        return Err(Problem::Usage(text.into()).into());
    }
    text += &table.left(1);
    text += &format!("{compared} cases, {worse} worse\n");
    print(&text)?;
    if worse > 0 { Err(Problem::Worse { worse, compared }.into()) } else { Ok(()) }
}

fn is_slower(old: &Samples, new: &Samples) -> bool {
    new.median() > old.median() * SLOWER && new.min() > old.max()
}

fn load(path: &Path) -> Result<Old> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let wrong = |why: String| Problem::Usage(format!("{} is no report of a suite: {why}", path.display()));
    let report: Old = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if ![SCHEMA, EARLIER].contains(&report.schema.as_str()) || report.command != "run" {
        return Err(wrong(format!("schema {}, command {}", report.schema, report.command)).into());
    }
    Ok(report)
}

fn cases(runs: &Runs) -> Vec<Case> {
    let mut cases = Vec::new();
    for run in &runs.runs {
        for line in &run.contenders {
            let name = format!("{}, {} threads, {}", run.corpus, run.threads, line.contender);
            if !line.contender.starts_with("mig auto") {
                cases.push(Case { name: format!("{name}: bytes"), value: Value::Bytes(line.bytes) });
            }
            let seconds = Value::Seconds(line.pack.wall_seconds.clone());
            cases.push(Case { name: format!("{name}: packing"), value: seconds });
            for on in line.links.iter().filter(|on| !on.calculated) {
                let seconds = Value::Seconds(on.seconds.clone());
                cases.push(Case { name: format!("{name}: {}", on.link), value: seconds });
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_outside_of_the_noise_is_slower() {
        let samples = |values: &[f64]| Samples::new(values.iter().copied()).unwrap();
        let old = samples(&[1.0, 1.1, 1.2]);
        assert!(!is_slower(&old, &samples(&[1.15, 1.3, 1.4])), "one run is as fast as before");
        assert!(is_slower(&old, &samples(&[1.25, 1.3, 1.4])));
        assert!(!is_slower(&old, &samples(&[0.5, 0.6, 0.7])));
        assert!(!is_slower(&samples(&[1.0]), &samples(&[1.01])), "less than two per cent");
    }
}
