//! Programs as a user would start them: reading the file themselves, writing to nowhere.
//!
//! Timed runs write to /dev/null, which costs the program least. When verifying, the output comes through a pipe and
//! is decoded on the way by a library, so nothing is kept.

use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};

use super::sink::{Counting, compare_stream};
use super::{Key, Subject, Verified};
use crate::exit::Problem;
use crate::link::Link;
use crate::measure::{Cost, timed_all, timed_programs};

/// Variables with which users change what the programs do.
const SETTINGS: [&str; 3] = ["GZIP", "ZSTD_CLEVEL", "ZSTD_NBTHREADS"];

/// A program with its arguments.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) arguments: Vec<String>,
    /// It says how far it is, to nobody.
    pub(super) is_chatty: bool,
}

impl Program {
    /// The command line without the file.
    pub(super) fn describe(&self) -> String {
        format!("{} {} FILE, reads the file itself", self.name, self.arguments.join(" "))
    }

    fn start(&self, file: &Path, output: Stdio) -> Result<Child> {
        let mut command = Command::new(self.name);
        for setting in SETTINGS {
            command.env_remove(setting);
        }
        command.args(&self.arguments).arg("--").arg(file).stdin(Stdio::null()).stdout(output);
        if self.is_chatty {
            command.stderr(Stdio::null());
        }
        command.spawn().with_context(|| format!("cannot run {}", self.name))
    }

    fn finish(&self, mut child: Child) -> Result<()> {
        let status = child.wait()?;
        anyhow::ensure!(status.success(), "{} failed: {status}", self.name);
        Ok(())
    }

    /// Runs it to its end, the output thrown away.
    pub(super) fn run(&self, file: &Path) -> Result<Cost> {
        let ((), cost) = timed_programs(|| self.run_into(file, Stdio::null()))?;
        Ok(cost)
    }

    /// Runs it to its end.
    pub(super) fn run_into(&self, file: &Path, output: Stdio) -> Result<()> {
        self.finish(self.start(file, output)?)
    }

    /// Runs it, its output onto a link.
    pub(super) fn send(&self, file: &Path, link: &Link) -> Result<Cost> {
        let ((), cost) = timed_all(|| {
            let mut child = self.start(file, Stdio::piped())?;
            let mut output = child.stdout.take().context("the program's output is missing")?;
            let mut out: &Link = link;
            std::io::copy(&mut output, &mut out)?;
            self.finish(child)?;
            link.drain()?;
            Ok(())
        })?;
        Ok(cost)
    }

    /// Runs it, decodes and compares what it writes.
    pub(super) fn verify<D: Read>(
        &self,
        key: Key,
        subject: &Subject,
        decode: impl FnOnce(Counting<ChildStdout>) -> Result<D>,
        into_inner: impl FnOnce(D) -> Counting<ChildStdout>,
    ) -> Result<Verified> {
        let (bytes, cost) = timed_programs(|| {
            let mut child = self.start(subject.path(), Stdio::piped())?;
            let output = child.stdout.take().context("the program's output is missing")?;
            let mut decoder = decode(Counting { inner: output, bytes: 0 })?;
            let compared = compare_stream(&key.to_string(), &mut decoder, subject.bytes());
            let mut output = into_inner(decoder);
            let rest = std::io::copy(&mut output, &mut std::io::sink());
            self.finish(child)?;
            compared?;
            if rest? > 0 {
                let what = "writes something after its stream".into();
                return Err(Problem::Wrong { who: key.to_string(), what }.into());
            }
            Ok(output.bytes)
        })?;
        Ok(Verified { bytes, cost })
    }
}
