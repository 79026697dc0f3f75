//! `gzip -6`: what people compress memory images with, and the measure of size in our goals.
//!
//! It has one thread and takes long, so one run is measured, that of verifying. Decoding runs beside it on another
//! core and waits for it.

use anyhow::Result;
use flate2::read::MultiGzDecoder;

use super::program::Program;
use super::{Contender, Key, Subject, Verified};
use crate::link::Link;
use crate::measure::Cost;

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct GzipProgram {
    program: Program,
}

impl GzipProgram {
    /// Whether it is installed is not looked at.
    pub(crate) fn new() -> Self {
        GzipProgram {
            program: Program { name: "gzip", arguments: vec!["-6".into(), "-c".into()], is_chatty: false },
        }
    }
}

impl Contender for GzipProgram {
    fn key(&self) -> Key {
        Key::GzipProgram
    }

    fn about(&self) -> String {
        format!("{}, one thread, one run", self.program.describe())
    }

    fn verify(&mut self, subject: &Subject) -> Result<Verified> {
        let decode = |output| Ok(MultiGzDecoder::new(output));
        self.program.verify(self.key(), subject, decode, MultiGzDecoder::into_inner)
    }

    fn pack(&mut self, subject: &Subject) -> Result<Cost> {
        self.program.run(subject.path())
    }

    fn once(&self) -> bool {
        true
    }

    fn send(&mut self, subject: &Subject, link: &Link) -> Result<Option<Cost>> {
        self.program.send(subject.path(), link).map(Some)
    }
}
