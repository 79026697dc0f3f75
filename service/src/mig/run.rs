//! What every command has: a way to be interrupted, a progress bar where somebody looks, threads.

use std::io::{IsTerminal, stderr};
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use mig_engine::gpu::Beside;
use mig_engine::{Cancel, Progress, default_threads};
use mig_service::problem::Problem;

use crate::cli::{GpuArgs, WorkArgs};

/// The surroundings of one command.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) cancel: Cancel,
}

impl Run {
    /// Makes Ctrl-C ask to stop; a second one ends the program at once.
    pub(crate) fn new() -> Self {
        let cancel = Cancel::new();
        let token = cancel.clone();
        let handler = ctrlc::set_handler(move || {
            if token.is_cancelled() {
                std::process::exit(130);
            }
            token.cancel();
        });
        if let Err(error) = handler {
            log::warn!("Ctrl-C will leave temporary files behind: {error}");
        }
        Run { cancel }
    }

    /// A pool with as many threads as asked for.
    pub(crate) fn pool(&self, work: &WorkArgs) -> Result<rayon::ThreadPool> {
        let threads = threads(work);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.with_context(|| format!("cannot start {threads} threads"))
    }
}

/// Who scans besides the CPU. To be asked first of all, so that nothing is read, written or sent where a GPU is required that is
/// not there.
pub(crate) fn beside(args: &GpuArgs) -> Result<Beside> {
    Beside::new(&args.choice()).map_err(|error| {
        let (mode, off) = (args.gpu, "`mig devices` lists adapters, --gpu off does without");
        Problem::Usage(format!("--gpu {mode}: {error}; {off}")).into()
    })
}

pub(crate) fn threads(work: &WorkArgs) -> usize {
    work.threads.map_or_else(default_threads, usize::from)
}

/// A bar on a terminal, nothing elsewhere.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    start: Instant,
}

impl Bar {
    /// `what` is a word such as `packing`.
    pub(crate) fn new(what: &'static str) -> Self {
        let bar = if stderr().is_terminal() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        let template = "{prefix} {bar:30} {percent:>3} %  {binary_bytes_per_sec}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        Bar { bar, start: Instant::now() }
    }

    /// Shows guest bytes done and in all.
    pub(crate) fn show(&self, progress: Progress) {
        self.bar.set_length(progress.total_pages << 12);
        self.bar.set_position(progress.pages << 12);
    }

    /// Removes the bar; gives the time since it was made.
    pub(crate) fn done(self) -> std::time::Duration {
        self.bar.finish_and_clear();
        self.start.elapsed()
    }
}
