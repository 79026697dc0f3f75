//! A `mig` that runs: its events as they come, and how it ends.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The slowest thing that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until there is something.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited too long for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program that was started; killed with this value.
pub(crate) struct Running {
    pub(crate) process: Child,
    events: PathBuf,
}

impl Running {
    /// Starts it. What it says goes to the file `events` and one beside it.
    pub(crate) fn start(mut command: Command, events: PathBuf) -> Self {
        let messages = File::create(events.with_extension("messages")).expect("room for messages");
        let standard_output = File::create(&events).expect("room for events");
        command.stdin(Stdio::null()).stdout(standard_output).stderr(messages);
        Running { process: command.spawn().expect("mig can be run"), events }
    }

    /// Its events so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.events).expect("events are UTF-8");
        // The last line may not be complete.
        text.split_inclusive('\n')
            .filter_map(|line| serde_json::from_str(line.strip_suffix('\n')?).ok())
            .collect()
    }

    /// The latest of a kind.
    pub(crate) fn event(&self, kind: &str) -> Option<Value> {
        self.events().into_iter().rev().find(|event| event["event"] == kind)
    }

    /// The same; waits for it.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, kind: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let ended = self.process.try_wait().expect("it can be waited for").is_some();
            if let Some(event) = self.event(kind) {
                return event;
            }
            assert!(!ended, "it ended without: {kind}\n{}", self.messages());
            assert!(Instant::now() < until, "waited too long for: {kind}\n{}", self.messages());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it wrote to standard error.
    pub(crate) fn messages(&self) -> String {
        fs::read_to_string(self.events.with_extension("messages")).expect("messages are UTF-8")
    }

    /// Its exit code, -1 for a signal; waits for it.
    #[track_caller]
    pub(crate) fn code(&mut self) -> i32 {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().expect("it can be waited for") {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < until, "it does not end\n{}", self.messages());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fails unless it ends with this code.
    #[track_caller]
    pub(crate) fn ends_with(&mut self, code: i32) {
        let ended = self.code();
        assert_eq!(ended, code, "{}", self.messages());
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it runs");
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
