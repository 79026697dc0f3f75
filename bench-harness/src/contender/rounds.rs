//! A guest that runs while it is sent: successive captures of it, each but the first being what had changed since the one before.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mig_engine::gpu::Beside;
use mig_engine::image::WriteAs;
use mig_engine::live::{self, Choice, Destination, Encoder, InMemory, LastSent, OutFrame, Setup};
use mig_engine::{
    Cancel, CpuWorker, DecodeError, DecodeLimits, Effort, FileStore, FrameRead, FrameReader, Header, How,
    MemoryImage, OpaqueStore, PAGE_SIZE, Page, PageSet, PageStore, Reach,
};
use serde::Serialize;

use super::Subject;
use super::sink::{compare_files, from_start};
use crate::exit::Problem;
use crate::measure::{Cost, timed};
use crate::references::References;

/// Pages of a block, at most: what a receiver offers.
pub(super) const BLOCK_PAGES: u64 = 8192;
/// Bytes of a frame's data, at most: twice a block's pages.
pub(super) const MAX_FRAME: u64 = 2 * BLOCK_PAGES * PAGE_SIZE as u64;

/// What one round sends.
#[derive(Debug)]
pub(crate) struct Capture {
    /// Where the guest's memory of this time is.
    path: PathBuf,
    /// The pages that had changed; `None` for all, in the first round.
    changed: Option<(PageSet, Vec<u8>)>,
    pages: u64,
}

/// What a round came to.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Round {
    /// Pages that had changed.
    pub(crate) pages: u64,
    /// Bytes to send.
    pub(crate) bytes: u64,
    /// What making them took.
    pub(crate) cost: Cost,
}

/// The first image whole, and of each later one what differs from the one before.
///
/// # Errors
///
/// [`Problem::Usage`] for images of different sizes or layouts; they can't be read.
pub(crate) fn captures(first: &MemoryImage, path: &Path, later: &[PathBuf]) -> Result<Vec<Capture>> {
    let mut captures = vec![Capture { path: path.to_owned(), changed: None, pages: first.page_count() }];
    let mut before: Option<MemoryImage> = None;
    for path in later {
        let now = MemoryImage::open(path, None).with_context(|| format!("cannot read {}", path.display()))?;
        if now.layout() != first.layout() {
            let text = format!("{} is not laid out as the first round's memory is", path.display());
            return Err(Problem::Usage(text).into());
        }
        let old = before.as_ref().unwrap_or(first);
        let mut bytes = Vec::new();
        let mut numbers = Vec::new();
        for number in 0..now.page_count() {
            let [new, old] = [&now, old].map(|image| image.page(number).unwrap_or(&[0; PAGE_SIZE]));
            if new != old {
                bytes.extend_from_slice(new);
                numbers.push(number..number + 1);
            }
        }
        let pages = numbers.len() as u64;
        let set = PageSet::from_ranges(numbers).map_err(|_| {
            Problem::Usage(format!("{} is the same memory as the round before", path.display()))
        })?;
        captures.push(Capture { path: path.clone(), changed: Some((set, bytes)), pages });
        before = Some(now);
    }
    Ok(captures)
}

impl Capture {
    /// Number of pages.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether it is the whole image.
    pub(crate) fn is_whole(&self) -> bool {
        self.changed.is_none()
    }

    /// The pages, one after the other.
    pub(crate) fn bytes<'c>(&'c self, subject: &'c Subject) -> &'c [u8] {
        self.changed.as_ref().map_or_else(|| subject.bytes(), |(_, bytes)| bytes)
    }
}

/// What the destination has by now: the first image, and over it what was sent since.
struct Past<'i> {
    image: &'i MemoryImage,
    newer: InMemory,
}

impl LastSent for Past<'_> {
    fn read(&self, page: u64, to: &mut Page) -> bool {
        if self.newer.read(page, to) {
            return true;
        }
        *to = *self.image.page(page).unwrap_or(&[0; PAGE_SIZE]);
        true
    }

    fn sent(&mut self, first_page: u64, bytes: &[u8]) {
        self.newer.sent(first_page, bytes);
    }
}

/// A session of ours at one effort through all rounds, undone and compared with the last capture.
///
/// # Errors
///
/// [`Problem::Wrong`] if the destination's memory is another; whatever keeps it from running.
pub(super) fn session(
    subject: &Subject,
    effort: Effort,
    references: &References,
    cancel: &Cancel,
    captures: &[Capture],
) -> Result<Vec<Round>> {
    let who = format!("mig {effort}, live");
    let image = subject.image();
    let opened = references.open(image.page_count())?;
    let file = subject.scratch_file()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(subject.threads).build()?;
    let rounds = pool.install(|| encode(subject, effort, (references, &opened), cancel, captures, &file))?;
    let mut frames = FrameReader::new(from_start(&file), MAX_FRAME);
    let first = frames.read_frame()?.context("the session is empty")?;
    let header = live::read_header(&first, DecodeLimits::default())?;
    let resolved = references.resolve(&header)?;
    let rebuilt = Rebuilt::new(subject)?;
    live::apply_file(&header, &resolved, subject.level, &rebuilt, frames, cancel)?;
    let last = captures.last().context("there are no rounds")?;
    let last = MemoryImage::open(&last.path, None)?;
    compare_files(&who, rebuilt.into_file(), &last)?;
    Ok(rounds)
}

fn encode(
    subject: &Subject,
    effort: Effort,
    (references, opened): (&References, &[mig_engine::Reference]),
    cancel: &Cancel,
    captures: &[Capture],
    file: &std::fs::File,
) -> Result<Vec<Round>> {
    use std::io::Write;
    let image = subject.image();
    let (guest, references) = live::read_image(image, opened, references.kernels.as_ref(), cancel)?;
    let needs = references.iter().map(|reference| reference.need().clone()).collect();
    let header = Header::new(image.layout().clone(), effort, BLOCK_PAGES, needs);
    let worker = CpuWorker { level: subject.level };
    let beside = subject.gpu.as_ref().map_or_else(Beside::default, Beside::open);
    let mut encoder = Encoder::new(Setup {
        header,
        references: &references,
        guest: guest.as_ref(),
        worker: &worker,
        beside: &beside,
        level: subject.level,
        top: effort,
        cancel: cancel.clone(),
    })?;
    let choose = || Choice { how: How { effort, reach: Reach::All }, pages: BLOCK_PAGES };
    let mut past = Past { image, newer: InMemory::new(u64::MAX) };
    let mut out = file;
    let mut sink = |frame: OutFrame<'_>| {
        frame.parts().try_for_each(|part| out.write_all(part)).map_err(mig_engine::EncodeError::Write)
    };
    sink(encoder.header())?;
    let mut rounds = Vec::new();
    let mut before = 0;
    for (number, capture) in captures.iter().enumerate() {
        let ((), cost) = timed(|| {
            match &capture.changed {
                None => encoder.image(image, None, &choose, &mut sink)?,
                Some((pages, bytes)) => {
                    encoder
                        .batch(number as u64, pages, bytes, &mut past, &choose, &mut |frame| sink(frame))?;
                }
            }
            Ok(())
        })?;
        let all = file.metadata()?.len();
        rounds.push(Round { pages: capture.pages, bytes: all - before, cost });
        before = all;
    }
    sink(encoder.end())?;
    Ok(rounds)
}

/// Where a session's pages go when it is undone.
pub(super) struct Rebuilt(FileStore);

impl Rebuilt {
    /// A file in the subject's scratch folder, laid out as its image.
    pub(super) fn new(subject: &Subject) -> Result<Self> {
        let file = subject.scratch_file()?;
        Ok(Rebuilt(FileStore::new(file, subject.image().layout(), WriteAs::Same, &subject.scratch)?))
    }

    pub(super) fn into_file(self) -> std::fs::File {
        self.0.into_file()
    }
}

impl PageStore for Rebuilt {
    fn write(&self, first_page: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write(first_page, bytes)
    }

    fn write_zero(&self, first_page: u64, pages: u64) -> std::io::Result<()> {
        self.0.write_zero(first_page, pages)
    }

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(page, offset, out)
    }
}

impl OpaqueStore for Rebuilt {
    fn write_opaque(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_opaque(offset, bytes)
    }
}

impl Destination for Rebuilt {
    fn piece(&self, _: &[u8]) -> Result<(), DecodeError> {
        Err(DecodeError::Invalid { field: "piece", why: "an image has none" })
    }
}
