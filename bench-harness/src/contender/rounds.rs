//! A guest that runs while it is sent: successive captures of it, each but the first being what had changed since the one before.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mig_engine::live::{Choice, Encoder, InMemory, LastSent, OutFrame};
use mig_engine::{Cancel, Effort, MemoryImage, PAGE_SIZE, Page, PageSet};
use serde::Serialize;

use super::Subject;
use super::session::{BLOCK_PAGES, Read, Session};
use super::sink::compare_files;
use crate::exit::Problem;
use crate::measure::{Cost, timed};
use crate::references::References;

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
    let session = Session::new(subject, references, cancel)?;
    let file = subject.scratch_file()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(subject.threads).build()?;
    let image = subject.image();
    let rounds = pool.install(|| {
        session.run(subject, image, effort, Read::First, |encoder| {
            encode(encoder, image, effort, captures, &file)
        })
    })?;
    let (_, rebuilt) = session.undo(subject, &file)?;
    let last = captures.last().context("there are no rounds")?;
    let last = MemoryImage::open(&last.path, None)?;
    compare_files(&format!("mig {effort}, live"), rebuilt, &last)?;
    Ok(rounds)
}

fn encode(
    encoder: &mut Encoder<'_>,
    image: &MemoryImage,
    effort: Effort,
    captures: &[Capture],
    file: &File,
) -> Result<Vec<Round>> {
    let choose = |_| Choice::always(effort, BLOCK_PAGES);
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
