//! zlib-rs at level 6 in this process: what gzip's format costs with a modern coder.
//!
//! Its levels are not gzip's: level 6 of zlib-rs writes other, usually more bytes than `gzip -6` does, several times
//! faster. Sizes are compared with the program's, never with these.

use std::io::Write;

use anyhow::Result;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::sink::{Counter, compare_stream, from_start};
use super::{Contender, Key, Subject, Verified};
use crate::measure::{Cost, timed};

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct Zlib;

fn compress<W: Write>(input: &[u8], out: W) -> Result<W> {
    let mut encoder = GzEncoder::new(out, Compression::new(6));
    encoder.write_all(input)?;
    Ok(encoder.finish()?)
}

impl Contender for Zlib {
    fn key(&self) -> Key {
        Key::Zlib
    }

    fn about(&self) -> String {
        "zlib-rs level 6 in gzip's format, in this process, one thread, one run; not the same bytes as gzip -6".into()
    }

    fn verify(&mut self, subject: &Subject) -> Result<Verified> {
        let file = subject.scratch_file()?;
        let (_, cost) = timed(|| compress(subject.bytes(), &file))?;
        compare_stream(&self.key().to_string(), MultiGzDecoder::new(from_start(&file)), subject.bytes())?;
        Ok(Verified { bytes: file.metadata()?.len(), cost })
    }

    fn pack(&mut self, subject: &Subject) -> Result<Cost> {
        let image = subject.for_run()?;
        let (_, cost) = timed(|| compress(image.bytes(), Counter::default()))?;
        Ok(cost)
    }

    fn once(&self) -> bool {
        true
    }
}
