//! The `zstd` program with several threads: what a user would pick today.

use anyhow::Result;

use super::program::Program;
use super::{Contender, Key, Subject, Verified};
use crate::link::Link;
use crate::measure::Cost;

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct ZstdProgram {
    level: i32,
    threads: usize,
    program: Program,
}

impl ZstdProgram {
    /// Whether it is installed is not looked at.
    pub(crate) fn new(level: i32, threads: usize) -> Self {
        let arguments = vec![format!("-{level}"), format!("-T{threads}"), "-q".into(), "-c".into()];
        ZstdProgram { level, threads, program: Program { name: "zstd", arguments, is_chatty: false } }
    }
}

impl Contender for ZstdProgram {
    fn key(&self) -> Key {
        Key::Zstd { level: self.level, threads: self.threads, program: true }
    }

    fn about(&self) -> String {
        self.program.describe()
    }

    fn verify(&mut self, subject: &Subject) -> Result<Verified> {
        let decode = |output| Ok(zstd::Decoder::new(output)?);
        self.program.verify(self.key(), subject, decode, |decoder| decoder.finish().into_inner())
    }

    fn pack(&mut self, subject: &Subject) -> Result<Cost> {
        self.program.run(subject.path())
    }

    fn send(&mut self, subject: &Subject, link: &Link) -> Result<Option<Cost>> {
        self.program.send(subject.path(), link).map(Some)
    }
}
