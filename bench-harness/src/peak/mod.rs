//! Peak memory of packing and unpacking, each in a process of its own.
//!
//! The figure is resident anonymous memory (with shared anonymous memory, which a temporary file system's pages are):
//! what the program takes from others and does not give back under pressure. Mapped files are inputs and lie apart.
//! Linux keeps no high-water mark of anonymous memory, so the child samples `/proc/self/status` each millisecond; a
//! shorter peak can be missed. The kernel's own mark of all resident memory, mapped files included, stands beside it:
//! `VmHWM`, and not `ru_maxrss`, which a process inherits from the one that started it.

pub(crate) mod child;

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use mig_engine::{Effort, PAGE_SIZE};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cli::{Job, Mapping, PeakArgs};
use crate::contender::Subject;
use crate::corpus::sparse::synthetic;
use crate::goal::Goal;
use crate::human;
use crate::measure::Cost;
use crate::pack::open_subject;
use crate::provenance::Provenance;
use crate::references::References;
use crate::report::{Report, Table};
use crate::run::{Run, Steps};

/// What any guest may cost, and what may come on top for each page of it.
const FIXED: u64 = 256 << 20;
const SHARE_OF_GUEST: u64 = 100;

/// What one child measured of itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Peak of resident anonymous memory, shared anonymous memory included, in bytes.
    pub(crate) anonymous: u64,
    /// Peak of resident mapped files.
    pub(crate) files: u64,
    /// The kernel's mark of all resident memory.
    pub(crate) all: u64,
    /// How many samples there were.
    pub(crate) samples: u64,
    /// What the work took, in this one run with the sampler beside it.
    pub(crate) cost: Cost,
    /// Bytes of the stream.
    pub(crate) stream_bytes: u64,
}

/// One job's peak.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Peak {
    pub(crate) effort: &'static str,
    /// `pack` or `unpack`.
    pub(crate) job: String,
    /// What the goal allows.
    pub(crate) allowed: u64,
    #[serde(flatten)]
    pub(crate) usage: Usage,
}

/// The `result` of a `peak` report.
#[derive(Debug, Serialize)]
struct PeakResult {
    guest_bytes: u64,
    data_bytes: u64,
    threads: usize,
    peaks: Vec<Peak>,
}

pub(crate) fn run(args: &PeakArgs, run: &Run) -> Result<()> {
    let provenance = Provenance::now();
    let input = &args.input;
    let scratch =
        tempfile::tempdir_in(input.scratch.folder()).context("cannot make a folder in --scratch")?;
    let (subject, data_bytes) = open_subject(input, Mapping::Fresh, scratch.path())?;
    let pages = subject.image().page_count();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(subject.threads).build()?;
    let references =
        pool.install(|| References::build(&input.references, scratch.path(), pages, subject.level, run))?;
    let peaks = measure(&subject, &references, &input.effort.efforts(), run)?;
    let goals = goals(&peaks);
    let guest_bytes = pages * PAGE_SIZE as u64;
    let figures = format!(
        "{} of guest memory, {} of data; {} threads\n\n{}",
        human::bytes(guest_bytes),
        human::bytes(data_bytes),
        subject.threads,
        table(&peaks)
    );
    let result = PeakResult { guest_bytes, data_bytes, threads: subject.threads, peaks };
    let mut report = Report::new("peak", provenance.with_gpu(subject.gpu.as_ref()), result);
    report.synthetic = synthetic(subject.path())?;
    report.goals = goals;
    report.notes.push("references' indexes were built beforehand and are mapped, as is the image".into());
    report.finish(&figures, &args.output)
}

/// Packs and unpacks at each effort in children; the unpacked file is verified by its digests and then gone.
///
/// # Errors
///
/// A child fails.
pub(crate) fn measure(
    subject: &Subject,
    references: &References,
    efforts: &[Effort],
    run: &Run,
) -> Result<Vec<Peak>> {
    let folder = tempfile::tempdir_in(&subject.scratch).context("cannot make a folder in --scratch")?;
    let stream = folder.path().join("stream.mig");
    let guest = subject.image().page_count() * PAGE_SIZE as u64;
    let steps = Steps::new(2 * efforts.len() as u64);
    let mut peaks = Vec::new();
    for &effort in efforts {
        for job in [Job::Pack, Job::Unpack] {
            run.check()?;
            let name = job.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            steps.now(format!("peak memory: {name} at {effort}"));
            let usage = child(&name, subject, references, effort, &stream);
            let usage = usage.with_context(|| format!("measuring the memory of {name} at {effort}"));
            run.check()?;
            let allowed = FIXED + guest / SHARE_OF_GUEST;
            peaks.push(Peak { effort: effort.name(), job: name, allowed, usage: usage? });
            steps.done();
        }
    }
    Ok(peaks)
}

fn child(
    job: &str,
    subject: &Subject,
    references: &References,
    effort: Effort,
    stream: &Path,
) -> Result<Usage> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("peak-child").arg(job).arg(subject.path()).arg("--stream").arg(stream);
    references.tell(&mut command);
    command.args(["--effort", effort.name(), "--threads", &subject.threads.to_string()]);
    match &subject.gpu {
        Some(gpu) => command.args(["--gpu", "require", "--gpu-adapter", &gpu.adapter().name]),
        None => command.args(["--gpu", "off"]),
    };
    command.arg("--scratch").arg(&subject.scratch);
    answer(command)
}

/// Runs a process of this program's, and gives what it says as JSON.
///
/// # Errors
///
/// It fails.
pub(crate) fn answer<T: DeserializeOwned>(mut command: Command) -> Result<T> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the process for it ended with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Peaks for people.
pub(crate) fn table(peaks: &[Peak]) -> String {
    let mut table = Table::new(&[
        "peak memory",
        "anonymous",
        "allowed",
        "mapped files",
        "all (VmHWM)",
        "samples",
        "wall s",
        "CPU s",
    ]);
    for peak in peaks {
        let usage = &peak.usage;
        table.row(&[
            format!("{} {}", peak.job, peak.effort),
            human::bytes(usage.anonymous),
            human::bytes(peak.allowed),
            human::bytes(usage.files),
            human::bytes(usage.all),
            usage.samples.to_string(),
            human::number(usage.cost.wall),
            human::number(usage.cost.cpu),
        ]);
    }
    table.left(1)
}

/// Under 256 MiB and 1 % of the guest.
pub(crate) fn goals(peaks: &[Peak]) -> Vec<Goal> {
    const MIB: f64 = 1_048_576.0;
    let goal = |peak: &Peak| {
        let what = format!("{} {}: peak anonymous memory", peak.job, peak.effort);
        let allowed = (peak.allowed as f64 / MIB).floor();
        Goal::at_most(&what, peak.usage.anonymous as f64 / MIB, allowed, " MiB")
    };
    peaks.iter().map(goal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goal::Verdict;

    #[test]
    fn the_goal_is_about_anonymous_memory() {
        let usage = Usage {
            anonymous: 256 << 20,
            files: 99 << 30,
            all: 99 << 30,
            samples: 1,
            cost: Cost { wall: 1.0, cpu: 1.0 },
            stream_bytes: 0,
        };
        let mut peak = Peak { effort: "fast", job: "pack".into(), allowed: FIXED, usage };
        assert_eq!(goals(std::slice::from_ref(&peak))[0].verdict, Verdict::Pass);
        peak.usage.anonymous += 1 << 20;
        let goal = &goals(std::slice::from_ref(&peak))[0];
        assert_eq!(
            (goal.verdict, goal.what.as_str()),
            (Verdict::Fail, "pack fast: peak anonymous memory <= 256 MiB")
        );
        assert!(table(&[peak]).contains("99.0 GiB"));
    }
}
