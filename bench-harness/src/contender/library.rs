//! Libraries in this process: no program to start, no file to read, the image in our own address space.

use std::io::{Read, Write};

use anyhow::Result;

use super::coder::Coder;
use super::rounds::{Capture, Round};
use super::sink::{Counter, compare_stream, from_start};
use super::{Contender, Key, Subject, Verified};
use crate::link::Link;
use crate::measure::{Cost, timed};

/// One library with its settings.
pub(crate) struct Library {
    key: Key,
    coder: Box<dyn Coder>,
}

impl Library {
    pub(crate) fn new(key: Key, coder: impl Coder + 'static) -> Self {
        Self::boxed(key, Box::new(coder))
    }

    pub(super) fn boxed(key: Key, coder: Box<dyn Coder>) -> Self {
        Library { key, coder }
    }
}

impl Contender for Library {
    fn key(&self) -> Key {
        self.key
    }

    fn about(&self) -> String {
        self.coder.about()
    }

    fn verify(&mut self, subject: &Subject) -> Result<Verified> {
        let file = subject.scratch_file()?;
        let ((), cost) = timed(|| self.coder.compress(subject.bytes(), &mut &file))?;
        let reader: Box<dyn Read + '_> = self.coder.decode(Box::new(from_start(&file)))?;
        compare_stream(&self.key.to_string(), reader, subject.bytes())?;
        Ok(Verified { bytes: file.metadata()?.len(), cost })
    }

    fn pack(&mut self, subject: &Subject) -> Result<Cost> {
        self.pack_into(subject, &mut Counter::default(), || Ok(()))
    }

    fn once(&self) -> bool {
        self.coder.is_slow()
    }

    fn send(&mut self, subject: &Subject, link: &Link) -> Result<Option<Cost>> {
        let mut out: &Link = link;
        self.pack_into(subject, &mut out, || Ok(link.drain()?)).map(Some)
    }

    /// The pages of each round as one input, with a number of eight bytes for each, which QEMU's streams have, too.
    fn rounds(&mut self, subject: &Subject, captures: &[Capture]) -> Result<Option<Vec<Round>>> {
        let mut rounds = Vec::new();
        for capture in captures {
            let input = capture.bytes(subject);
            let file = subject.scratch_file()?;
            let ((), cost) = timed(|| self.coder.compress(input, &mut &file))?;
            let reader: Box<dyn Read + '_> = self.coder.decode(Box::new(from_start(&file)))?;
            compare_stream(&self.key.to_string(), reader, input)?;
            let numbers = if capture.is_whole() { 0 } else { 8 * capture.pages() };
            rounds.push(Round { bytes: file.metadata()?.len() + numbers, pages: capture.pages(), cost });
        }
        Ok(Some(rounds))
    }
}

impl Library {
    fn pack_into(
        &self,
        subject: &Subject,
        out: &mut dyn Write,
        end: impl FnOnce() -> Result<()>,
    ) -> Result<Cost> {
        // The mapping is part of the work; unmapping, when `_image` is dropped, is not.
        let (_image, cost) = timed(|| {
            let image = subject.for_run()?;
            self.coder.compress(image.bytes(), out)?;
            end()?;
            Ok(image)
        })?;
        Ok(cost)
    }
}
