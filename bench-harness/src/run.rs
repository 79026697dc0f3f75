//! What every command has: a way to be interrupted, and a line about progress where somebody looks.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};
use mig_engine::Cancel;

use crate::exit::Problem;

/// The surroundings of one command.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) cancel: Cancel,
}

impl Run {
    /// Makes Ctrl-C ask to stop, which removes temporary files; a second one ends the program at once.
    pub(crate) fn new() -> Self {
        let run = Run::quiet();
        let token = run.cancel.clone();
        let handler = ctrlc::set_handler(move || {
            if token.is_cancelled() {
                std::process::exit(130);
            }
            token.cancel();
        });
        if let Err(error) = handler {
            log::warn!("Ctrl-C will leave temporary files behind: {error}");
        }
        run
    }

    /// Without a handler of signals.
    pub(crate) fn quiet() -> Self {
        Run { cancel: Cancel::new() }
    }

    /// An error once somebody asked to stop.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        if self.cancel.is_cancelled() { Err(Problem::Interrupted) } else { Ok(()) }
    }
}

/// Steps done and time left on a terminal, nothing elsewhere.
#[derive(Debug)]
pub(crate) struct Steps {
    bar: ProgressBar,
}

impl Steps {
    /// `count` steps of about the same length.
    pub(crate) fn new(count: u64) -> Self {
        let bar = if stderr().is_terminal() { ProgressBar::new(count) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len}  {eta} left  {msg}") {
            bar.set_style(style);
        }
        Steps { bar }
    }

    /// Says what is being done now.
    pub(crate) fn now(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
        self.bar.tick();
    }

    /// A step is done.
    pub(crate) fn done(&self) {
        self.bar.inc(1);
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
