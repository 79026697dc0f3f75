//! This project: packing with references and indexes opened beforehand, unpacking into a file and into memory.

use std::fs::File;

use anyhow::{Context, Result};
use mig_engine::gpu::Beside;
use mig_engine::image::WriteAs;
use mig_engine::{
    Cancel, DecodeLimits, Effort, FileStore, OpaqueStore, PackSummary, Packer, PageStore, Reference, Unpacker,
};

use super::rounds::{Capture, Round, session};
use super::sending::Sending;
use super::sink::{Counter, compare_files, from_start};
use super::{Contender, Key, Subject, Verified};
use crate::exit::Problem;
use crate::link::Link;
use crate::measure::{Cost, timed};
use crate::memory::MemoryStore;
use crate::references::References;

/// One effort, with or without references.
#[derive(Debug)]
pub(crate) struct Mig {
    key: Key,
    packer: Packer<'static>,
    /// As the stream needs them, once there is one.
    resolved: Vec<Option<Reference>>,
    references: References,
    cancel: Cancel,
    /// Its packer was told other things besides.
    switched: bool,
    stream: Option<File>,
    summary: Option<PackSummary>,
    /// What sends over links, once that is asked for.
    sending: Option<Sending>,
}

impl Mig {
    /// Opens what it packs with; none of this is timed.
    ///
    /// # Errors
    ///
    /// References can't be opened.
    pub(crate) fn new(
        subject: &Subject,
        effort: Effort,
        references: &References,
        cancel: &Cancel,
    ) -> Result<Self> {
        let packer = Packer::new().level(subject.level).effort(effort);
        Ok(Mig { switched: false, ..Self::with(subject, packer, effort, references, cancel)? })
    }

    /// The same with a packer that was told other things besides.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub(crate) fn with(
        subject: &Subject,
        packer: Packer<'static>,
        effort: Effort,
        references: &References,
        cancel: &Cancel,
    ) -> Result<Self> {
        let mut packer = packer.threads(subject.threads).cancel(cancel.clone());
        for reference in references.open(subject.image().page_count())? {
            packer = packer.reference(reference);
        }
        if let Some(kernels) = &references.kernels {
            packer = packer.kernel_cache(kernels.clone());
        }
        if let Some(gpu) = &subject.gpu {
            packer = packer.beside(&Beside::open(gpu));
        }
        Ok(Mig {
            key: Key::Mig { effort, references: !references.paths.is_empty() },
            packer,
            resolved: Vec::new(),
            references: references.clone(),
            cancel: cancel.clone(),
            switched: true,
            stream: None,
            summary: None,
            sending: None,
        })
    }

    /// Lets a test spoil the stream.
    #[cfg(test)]
    pub(super) fn damage(&mut self, spoil: impl FnOnce(&File)) {
        spoil(self.stream.as_ref().expect("verified before"));
    }

    fn unpack(&self, subject: &Subject, store: &(impl PageStore + OpaqueStore)) -> Result<()> {
        let stream = self.stream.as_ref().context("nothing was packed yet")?;
        let unpacker = Unpacker::new(from_start(stream), DecodeLimits::default())?
            .threads(subject.threads)
            .level(subject.level)
            .cancel(self.cancel.clone());
        unpacker.unpack(&self.resolved, store)?;
        Ok(())
    }

    /// Unpacks into a new file; gives the file as well.
    fn unpack_file(&self, subject: &Subject) -> Result<(File, Cost)> {
        let file = subject.scratch_file()?;
        timed(|| {
            let store = FileStore::new(file, subject.image().layout(), WriteAs::Same, &subject.scratch)?;
            self.unpack(subject, &store)?;
            Ok(store.into_file())
        })
    }
}

impl Contender for Mig {
    fn key(&self) -> Key {
        self.key
    }

    fn about(&self) -> String {
        let names: Vec<_> =
            self.packer.references().iter().map(|reference| &*reference.need().name).collect();
        let with = if names.is_empty() { "nothing".into() } else { names.join(", ") };
        format!(
            "references: {with}, opened and indexed beforehand, the kernel made from the disk kept; packed into a sink that counts"
        )
    }

    fn verify(&mut self, subject: &Subject) -> Result<Verified> {
        let file = subject.scratch_file()?;
        let (summary, cost) = timed(|| Ok(self.packer.pack(subject.image(), &file)?))?;
        // Or the disk would be busy writing while others are measured.
        file.sync_all()?;
        let header = Unpacker::new(from_start(&file), DecodeLimits::default())?.header().clone();
        self.resolved = self.references.resolve(&header)?;
        let bytes = file.metadata()?.len();
        if bytes != summary.stream_bytes {
            let what = format!("wrote {bytes} bytes and counted {}", summary.stream_bytes);
            return Err(Problem::Wrong { who: self.key.to_string(), what }.into());
        }
        self.stream = Some(file);
        self.summary = Some(summary);
        let (rebuilt, _) = self.unpack_file(subject)?;
        compare_files(&self.key.to_string(), rebuilt, subject.image())?;
        Ok(Verified { bytes, cost })
    }

    fn pack(&mut self, subject: &Subject) -> Result<Cost> {
        let mut counter = Counter::default();
        // The mapping is part of the work; unmapping, when `_image` is dropped, is not.
        let (_image, cost) = timed(|| {
            let image = subject.for_run()?;
            self.packer.pack(image.image(), &mut counter)?;
            Ok(image)
        })?;
        let expected = self.summary.as_ref().map(|summary| summary.stream_bytes);
        if expected.is_some_and(|expected| expected != counter.bytes) {
            let what =
                format!("packed {} bytes, and {} the first time", counter.bytes, expected.unwrap_or(0));
            return Err(Problem::Wrong { who: self.key.to_string(), what }.into());
        }
        Ok(cost)
    }

    /// By a session, as `mig send` does; by the packer, if that was told what a session has no word for.
    fn send(&mut self, subject: &Subject, link: &Link) -> Result<Option<Cost>> {
        if let (Key::Mig { effort, .. }, false) = (self.key, self.switched) {
            let sending = match &mut self.sending {
                Some(sending) => sending,
                unopened => {
                    unopened.insert(Sending::new(subject, &[effort], &self.references, &self.cancel)?)
                }
            };
            let ((), cost) = timed(|| sending.send(subject, link, None))?;
            return Ok(Some(cost));
        }
        let (_image, cost) = timed(|| {
            let image = subject.for_run()?;
            self.packer.pack(image.image(), link)?;
            link.drain()?;
            Ok(image)
        })?;
        Ok(Some(cost))
    }

    fn unpack_to_file(&mut self, subject: &Subject) -> Result<Option<Cost>> {
        Ok(Some(self.unpack_file(subject)?.1))
    }

    fn unpack_to_memory(&mut self, subject: &Subject, memory: &mut [u8]) -> Result<Option<Cost>> {
        let (store, cost) = timed(|| {
            let store = MemoryStore::new(memory);
            self.unpack(subject, &store)?;
            Ok(store)
        })?;
        for (at, bytes) in store.into_opaque() {
            if subject.image().opaque(at..at + bytes.len() as u64) != Some(&bytes) {
                let what = format!("bytes at {at} that no page holds come back as others");
                return Err(Problem::Wrong { who: self.key.to_string(), what }.into());
            }
        }
        Ok(Some(cost))
    }

    /// By a session, which has none of a packer's switches.
    fn rounds(&mut self, subject: &Subject, captures: &[Capture]) -> Result<Option<Vec<Round>>> {
        match self.key {
            Key::Mig { effort, .. } if !self.switched => {
                session(subject, effort, &self.references, &self.cancel, captures).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn summary(&self) -> Option<&PackSummary> {
        self.summary.as_ref()
    }
}
