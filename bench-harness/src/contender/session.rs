//! What a session of ours takes, however its efforts are chosen and whatever it sends: begun on an image, and undone from what was kept.

use std::fs::File;

use anyhow::{Context, Result};
use mig_engine::gpu::Beside;
use mig_engine::image::WriteAs;
use mig_engine::live::{self, Applied, Decoder, Encoder, Introspection, LateGuest, Setup};
use mig_engine::{
    Cancel, CpuWorker, DecodeLimits, Effort, FileStore, FrameRead, FrameReader, Header, MemoryImage,
    PAGE_SIZE, Reference, Techniques,
};

use super::Subject;
use super::sink::from_start;
use crate::references::References;

/// Pages of a block, at most: what a receiver offers.
pub(super) const BLOCK_PAGES: u64 = 8192;
/// Bytes of a frame's data, at most: twice a block's pages.
const MAX_FRAME: u64 = 2 * BLOCK_PAGES * PAGE_SIZE as u64;

/// What sessions are begun with; none of it is timed.
#[derive(Debug)]
pub(super) struct Session {
    references: References,
    opened: Vec<Reference>,
    beside: Beside,
    cancel: Cancel,
}

/// When a guest is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Read {
    Never,
    First,
    Later,
}

impl Session {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// References can't be opened.
    pub(super) fn new(subject: &Subject, references: &References, cancel: &Cancel) -> Result<Self> {
        let opened = references.open(subject.image().page_count())?;
        let beside = subject.gpu.as_ref().map_or_else(Beside::default, Beside::open);
        Ok(Session { references: references.clone(), opened, beside, cancel: cancel.clone() })
    }

    /// Whether there are references.
    pub(super) fn has_references(&self) -> bool {
        !self.references.paths.is_empty()
    }

    /// Begins a session on an image, whose blocks have at most the effort `top`, reads the guest when it says so, and does the rest of it with its encoder. Runs on
    /// the current rayon pool.
    pub(super) fn run<T>(
        &self,
        subject: &Subject,
        image: &MemoryImage,
        top: Effort,
        read: Read,
        work: impl FnOnce(&mut Encoder<'_>) -> Result<T>,
    ) -> Result<T> {
        let kernels = self.references.kernels.as_ref();
        let (guest, references) = match read {
            Read::First => live::read_image(image, &self.opened, kernels, &self.cancel)?,
            Read::Never | Read::Later => (None, self.opened.clone()),
        };
        let late = LateGuest::new(kernels.cloned());
        let introspection = match read {
            Read::Later => Introspection::Later(&late),
            Read::Never | Read::First => guest.as_ref().into(),
        };
        let needs = references.iter().map(|reference| reference.need().clone()).collect();
        let worker = CpuWorker { level: subject.level };
        let mut encoder = Encoder::new(Setup {
            header: Header::new(image.layout().clone(), top, BLOCK_PAGES, needs),
            references: &references,
            introspection,
            worker: &worker,
            beside: &self.beside,
            level: subject.level,
            top,
            techniques: Techniques::ALL,
            cancel: self.cancel.clone(),
        })?;
        work(&mut encoder)
    }

    /// Undoes what a session left in a file; gives the guest's memory, laid out as the subject's image.
    ///
    /// # Errors
    ///
    /// It does not decode; there is no room.
    pub(super) fn undo(&self, subject: &Subject, kept: &File) -> Result<(Applied, File)> {
        let mut frames = FrameReader::new(from_start(kept), MAX_FRAME);
        let first = frames.read_frame()?.context("the session is empty")?;
        let header = live::read_header(&first, DecodeLimits::default())?;
        let resolved = self.references.resolve(&header)?;
        let (file, layout) = (subject.scratch_file()?, subject.image().layout());
        let store = FileStore::new(file, layout, WriteAs::Same, &subject.scratch)?.for_rounds();
        let decoder = Decoder::new(&header, &resolved, subject.level, &self.cancel);
        let applied = decoder.kernels(self.references.kernels.as_ref()).apply_file(&store, frames)?;
        Ok((applied, store.into_file()))
    }
}
