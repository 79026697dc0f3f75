//! libzstd in this process, with several threads and the input mapped: no program to start, no file to read.

use std::io::Write;

use anyhow::Result;

use super::sink::{Counter, compare_stream, from_start};
use super::{Contender, Key, Subject, Verified};
use crate::measure::{Cost, timed};

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct ZstdLib {
    level: i32,
    threads: usize,
}

impl ZstdLib {
    /// One of zstd's levels.
    pub(crate) fn new(level: i32, threads: usize) -> Self {
        ZstdLib { level, threads }
    }

    fn compress<W: Write>(&self, input: &[u8], out: W) -> Result<W> {
        let mut encoder = zstd::Encoder::new(out, self.level)?;
        encoder.multithread(u32::try_from(self.threads)?)?;
        encoder.set_pledged_src_size(Some(input.len() as u64))?;
        encoder.write_all(input)?;
        Ok(encoder.finish()?)
    }
}

impl Contender for ZstdLib {
    fn key(&self) -> Key {
        Key::Zstd { level: self.level, threads: self.threads, program: false }
    }

    fn about(&self) -> String {
        format!("libzstd {} in this process, {} workers", zstd::zstd_safe::version_string(), self.threads)
    }

    fn verify(&mut self, subject: &Subject) -> Result<Verified> {
        let file = subject.scratch_file()?;
        let (_, cost) = timed(|| self.compress(subject.bytes(), &file))?;
        let decoder = zstd::Decoder::new(from_start(&file))?;
        compare_stream(&self.key().to_string(), decoder, subject.bytes())?;
        Ok(Verified { bytes: file.metadata()?.len(), cost })
    }

    fn pack(&mut self, subject: &Subject) -> Result<Cost> {
        // The mapping is part of the work; unmapping is not.
        let (_, cost) = timed(|| {
            let image = subject.for_run()?;
            self.compress(image.bytes(), Counter::default())?;
            Ok(image)
        })?;
        Ok(cost)
    }
}
