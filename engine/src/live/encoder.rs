//! The source's side of a session: pages in, frames out.
//!
//! Within one call, several blocks are coded at once on the current rayon pool; frames come out in order. What does
//! not change during a call is what the destination had before it: so blocks of one call can be coded in any order, and the
//! versions that they send become the past when the call ends.

use std::sync::OnceLock;

use mig_simd::{Level, page_eq};
use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

use super::batch::Batch;
use super::frames::{Have, OutFrame};
use super::past::{LastSent, NothingSent};
use crate::ahead::{Announcer, ScanAhead};
use crate::encode::{BlockEncoder, CodedBlock, History, How, Reach, Scanned, digest_bytes};
use crate::error::EncodeError;
use crate::format::frame::FrameType;
use crate::format::index::End;
use crate::format::{Header, limits};
use crate::gpu::Beside;
use crate::guest::Guest;
use crate::image::MemoryImage;
use crate::kernel::{KernelCache, Lookout};
use crate::options::{Effort, Technique, Techniques};
use crate::pack::{opaque_frame, opaque_parts, read_guest};
use crate::page::{PAGE_SIZE, Page, PageSet};
use crate::pipeline::{self, Steps};
use crate::progress::Cancel;
use crate::refs::Reference;
use crate::settle::CHUNK_PAGES;
use crate::source::PageSource;
use crate::worker::ScanWorker;

/// What a session's blocks are made with.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The stream's header. Its references are those below, in the same order.
    pub header: Header,
    /// What blocks may refer to.
    pub references: &'a [Reference],
    /// What is used of what the guest says of itself: for images.
    pub introspection: Introspection<'a>,
    /// Who scans pages.
    pub worker: &'a dyn ScanWorker,
    /// Who scans besides.
    pub beside: &'a Beside,
    /// The SIMD level of everything else.
    pub level: Level,
    /// The highest effort that any block will have.
    pub top: Effort,
    /// What makes blocks smaller: all that the destination knows.
    pub techniques: Techniques,
    /// Stops the work.
    pub cancel: Cancel,
}

/// What is used of what a guest says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub enum Introspection<'a> {
    /// Nothing, or it can't be read.
    #[default]
    Off,
    /// This, from the first page on. Its kernel is among the references, if one of them has it.
    Read(&'a Guest),
    /// It is read when a [`Choice`] asks for it, and the pages behind are coded with it; of what is there as a whole. Of batches
    /// that come one by one only its kernel is found, when it has come by. A kernel comes in a frame of its own, so the destination must
    /// know such frames.
    Later(&'a LateGuest),
}

impl<'a> From<Option<&'a Guest>> for Introspection<'a> {
    fn from(guest: Option<&'a Guest>) -> Self {
        guest.map_or(Introspection::Off, Introspection::Read)
    }
}

impl<'a> Introspection<'a> {
    fn guest(self) -> Option<&'a Guest> {
        match self {
            Introspection::Off => None,
            Introspection::Read(guest) => Some(guest),
            Introspection::Later(late) => late.guest.get()?.as_ref(),
        }
    }
}

/// A guest that is read once that is worth its time; until then, and for ever over a link that is faster than we are, its
/// pages are coded as any others. For one session.
#[derive(Debug, Default)]
pub struct LateGuest {
    kernels: Option<KernelCache>,
    kernel: OnceLock<LateKernel>,
    guest: OnceLock<Option<Guest>>,
}

/// The kernel of a [`LateGuest`].
#[derive(Debug)]
struct LateKernel {
    /// The session's references, with the guest's kernel.
    references: Vec<Reference>,
    /// The first frame that may use them.
    from: u64,
}

impl LateGuest {
    /// One that nobody has read yet. Kernel images are kept in, and taken from, a cache.
    pub fn new(kernels: Option<KernelCache>) -> Self {
        LateGuest { kernels, ..LateGuest::default() }
    }

    /// Whether it was read. That doesn't say that it could be.
    pub fn is_read(&self) -> bool {
        self.guest.get().is_some()
    }
}

impl<'a> Setup<'a> {
    /// The references that the frame with this number may use.
    fn references_of(&self, sequence: u64) -> &'a [Reference] {
        let kernel = match self.introspection {
            Introspection::Later(late) => late.kernel.get(),
            Introspection::Off | Introspection::Read(_) => None,
        };
        kernel.filter(|kernel| sequence >= kernel.from).map_or(self.references, |kernel| &kernel.references)
    }

    /// The guest that is still to be read.
    fn unread(&self) -> Option<&'a LateGuest> {
        match self.introspection {
            Introspection::Later(late) if !late.is_read() => Some(late),
            _ => None,
        }
    }

    /// References that may have the guest's kernel, as far as it is to be used and not known.
    fn disks(&self, late: &LateGuest) -> &'a [Reference] {
        let is_wanted = self.techniques.has(Technique::Kernel) && late.kernel.get().is_none();
        if is_wanted { self.references } else { &[] }
    }
}

/// How the next block is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its effort, and what it may refer to.
    pub how: How,
    /// Pages that it holds at most. More pages compress better; fewer can follow the link sooner.
    pub pages: u64,
    /// Whether what the guest says of itself is worth the time to read it, if that is [to be read](Introspection::Later).
    pub guest: bool,
}

impl Choice {
    /// The same for every block, whatever there is to encode.
    pub fn always(effort: Effort, pages: u64) -> Self {
        Choice { how: How { effort, reach: Reach::All }, pages, guest: true }
    }
}

/// What a block is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Pages as they come.
    Fresh,
    /// What those before left for later, when all of them are settled: residual pages only, in the order in which the guest sees them.
    Left,
}

/// Is asked before each block; from any thread.
pub type Choose<'c> = &'c (dyn Fn(Next) -> Choice + Sync);

/// Takes frames in order. It may wait, and so hold the encoder back.
pub type Sink<'s, 'f> = &'s mut (dyn FnMut(OutFrame<'f>) -> Result<(), EncodeError> + Send);

/// The frames of one session.
pub struct Encoder<'a> {
    setup: Setup<'a>,
    history: History,
    sent: Sent,
    learned: bool,
    /// Whether a [`Choice`] asked for the guest.
    asked: bool,
    /// Whether the guest that was read is there no more.
    outdated: bool,
    lookout: Lookout,
}

/// What the end of the session says of all before it.
struct Sent {
    /// Of the next frame.
    sequence: u64,
    digest: Xxh3,
    pages: u64,
    blocks: u64,
}

impl Sent {
    /// Counts a frame; gives its place.
    fn frame(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence - 1
    }

    /// Counts a block's frame; gives its place.
    fn block(&mut self, block: &CodedBlock<'_>) -> u64 {
        self.digest.update(&block.digest());
        self.pages += block.delivers();
        self.blocks += 1;
        self.frame()
    }
}

impl std::fmt::Debug for Encoder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("setup", &self.setup)
            .field("sequence", &self.sent.sequence)
            .finish_non_exhaustive()
    }
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Batched {
    /// Pages that were sent.
    pub sent: u64,
    /// Pages that are as they were sent last, and were left out.
    pub unchanged: u64,
    /// Bytes of the frames.
    pub bytes: u64,
}

impl<'a> Encoder<'a> {
    /// A session; [`header`](Self::header) must be sent first.
    ///
    /// # Errors
    ///
    /// [`EncodeError::TooLarge`] for more pages or references than the format holds.
    pub fn new(setup: Setup<'a>) -> Result<Self, EncodeError> {
        let pages = setup.header.layout.page_count();
        for (what, value, max) in [
            ("pages", pages, limits::PAGE_COUNT),
            ("references", setup.references.len() as u64, limits::REFERENCES),
        ] {
            if value > max {
                return Err(EncodeError::TooLarge { what, value, max });
            }
        }
        let history = History::new(pages, setup.top, false).with_room_for(setup.references);
        let sent = Sent { sequence: 0, digest: Xxh3::new(), pages: 0, blocks: 0 };
        let (learned, asked, outdated, lookout) = (false, false, false, Lookout::default());
        Ok(Encoder { setup, history, sent, learned, asked, outdated, lookout })
    }

    /// What it was set up with.
    pub fn setup(&self) -> &Setup<'a> {
        &self.setup
    }

    /// The first frame.
    pub fn header(&mut self) -> OutFrame<'static> {
        OutFrame::of_meta(FrameType::Header, self.sent.frame(), &self.setup.header.write())
    }

    /// The last frame: the sum of all that was sent.
    pub fn end(&mut self) -> OutFrame<'static> {
        let Sent { digest, pages, blocks, .. } = &self.sent;
        let end =
            End { index_offset: 0, pages: *pages, blocks: *blocks, digest: digest_bytes(digest.digest128()) };
        OutFrame::of_meta(FrameType::End, self.sent.frame(), &end.write())
    }

    /// Bytes that are not memory, in order with the blocks: the device state of a VM, or what a proxy is to write. They
    /// arrive in the same pieces, of at most 4 MiB.
    ///
    /// # Errors
    ///
    /// [`EncodeError::TooLarge`], [`EncodeError::Zstd`].
    pub fn piece(&mut self, bytes: &[u8]) -> Result<OutFrame<'static>, EncodeError> {
        if bytes.len() as u64 > limits::OPAQUE {
            let (what, value) = ("bytes of a piece", bytes.len() as u64);
            return Err(EncodeError::TooLarge { what, value, max: limits::OPAQUE });
        }
        OutFrame::of_piece(self.sent.frame(), bytes)
    }

    /// A whole image, once: its bytes that are no pages, then its pages. Of pages that `have` has as they are in the image, only
    /// that is said.
    ///
    /// # Errors
    ///
    /// Whatever [`EncodeError`] says; the first error of the sink.
    pub fn image<'i>(
        &mut self,
        image: &'i MemoryImage,
        have: Option<&Have>,
        choose: Choose<'_>,
        sink: Sink<'_, 'i>,
    ) -> Result<(), EncodeError>
    where
        'a: 'i,
    {
        for (at, bytes) in opaque_parts(image.layout(), &|range| image.opaque(range)) {
            let sequence = self.sent.frame();
            sink(OutFrame::of_bytes(FrameType::Opaque, sequence, opaque_frame(sequence, at, bytes)?))?;
        }
        if image.page_count() == 0 {
            return Ok(());
        }
        let pages = PageSet::from_range(0..image.page_count());
        let pages = match have {
            Some(have) => self.kept(image, &pages, have, sink)?,
            None => Some(pages),
        };
        pages.map_or(Ok(()), |pages| self.pages_of(image, &pages, choose, sink))
    }

    /// These pages of an image. The guest is read before the first that is to be coded with it.
    fn pages_of<'i>(
        &mut self,
        image: &'i MemoryImage,
        pages: &PageSet,
        choose: Choose<'_>,
        sink: Sink<'_, 'i>,
    ) -> Result<(), EncodeError>
    where
        'a: 'i,
    {
        let mut done = self.blocks(image, (0, true), pages, choose, sink)?;
        while done < pages.len() {
            self.read_guest(image, sink)?;
            let rest = PageSet::from_ranges(pages.slice(done..pages.len()))?;
            done += self.blocks(image, (0, true), &rest, choose, sink)?;
        }
        Ok(())
    }

    /// Pages of the first round that were gathered: `image` has them, and all others that came, as they were captured. They are coded as an
    /// [`image`](Self::image)'s are, with what the guest says of itself and in its order, which is the smallest that they get. None of them has
    /// been sent before, and other pages of the round only by [`first_batch`](Self::first_batch). Gives the bytes of the frames.
    ///
    /// # Errors
    ///
    /// As for [`image`](Self::image).
    pub fn gathered(
        &mut self,
        image: &MemoryImage,
        pages: &PageSet,
        choose: Choose<'_>,
        sink: Sink<'_, 'static>,
    ) -> Result<u64, EncodeError> {
        let mut bytes = 0;
        let mut own = |frame: OutFrame<'_>| {
            bytes += frame.len();
            sink(frame.into_owned())
        };
        self.pages_of(image, pages, choose, &mut own)?;
        Ok(bytes)
    }

    /// Reads the guest that was to be read later, and tells the destination of its kernel.
    fn read_guest<'i>(&mut self, image: &MemoryImage, sink: Sink<'_, 'i>) -> Result<(), EncodeError> {
        let Some(late) = self.setup.unread() else { return Ok(()) };
        let disks = self.setup.disks(late);
        let (guest, kernel) =
            read_guest(image, image.layout(), disks, late.kernels.as_ref(), &self.setup.cancel)?;
        kernel.map_or(Ok(()), |kernel| self.tell_kernel(late, kernel, sink))?;
        late.guest.get_or_init(|| guest);
        Ok(())
    }

    /// Tells the destination of the guest's kernel, if there is room for one more reference.
    fn tell_kernel<'i>(
        &mut self,
        late: &LateGuest,
        kernel: Reference,
        sink: Sink<'_, 'i>,
    ) -> Result<(), EncodeError> {
        let known = self.setup.references;
        if known.len() as u64 >= limits::REFERENCES {
            return Ok(());
        }
        let sequence = self.sent.frame();
        sink(OutFrame::of_meta(FrameType::Reference, sequence, &kernel.need().to_meta()))?;
        let references = known.iter().cloned().chain([kernel]).collect();
        late.kernel.get_or_init(|| LateKernel { references, from: self.sent.sequence });
        Ok(())
    }

    /// Looks for the guest's kernel among the pages that have come, once that a [`Choice`] asked for the guest.
    fn look_out(
        &mut self,
        round: u64,
        batch: &Batch<'_>,
        sink: Sink<'_, 'static>,
    ) -> Result<(), EncodeError> {
        let Some(late) = self.setup.unread() else { return Ok(()) };
        let disks = self.setup.disks(late);
        if self.asked && !self.lookout.has_begun() && !disks.is_empty() {
            self.lookout.begin(Reference::disks(disks), late.kernels.clone());
        }
        let read = |page, to: &mut Page| match batch.new_version(page) {
            Some(new) => {
                *to = *new;
                true
            }
            None => batch.past.read(page, to),
        };
        match self.lookout.find(batch.pages, round > 0, &read) {
            Some(found) => self.tell_kernel(late, Reference::kernel(found), sink),
            None => Ok(()),
        }
    }

    /// Forgets the guest that was read in an earlier round, if it was started anew meanwhile.
    fn review_guest(&mut self, batch: &Batch<'_>) {
        if let Some(guest) = self.guest()
            && !guest.outlives(|page| batch.new_version(page))
        {
            log::info!("the guest was started anew: what was read of it is not used any more");
            self.outdated = true;
        }
    }

    /// What is known of the guest now.
    fn guest(&self) -> Option<&'a Guest> {
        self.setup.introspection.guest().filter(|_| !self.outdated)
    }

    /// Names the pages that the destination has, and gives the others.
    fn kept<'i>(
        &mut self,
        image: &'i MemoryImage,
        pages: &PageSet,
        have: &Have,
        sink: Sink<'_, 'i>,
    ) -> Result<Option<PageSet>, EncodeError>
    where
        'a: 'i,
    {
        let Setup { header, references, worker, level, cancel, .. } = &self.setup;
        let encoder: BlockEncoder<'i, MemoryImage> =
            BlockEncoder::new(image, references, *worker, *level, Effort::Store, false)?;
        let block_pages = header.block_pages;
        let how = How { effort: Effort::Store, reach: Reach::Alone };
        let mut missing: Vec<std::ops::Range<u64>> = Vec::new();
        let mut next = 0;
        while next < pages.len() {
            if cancel.is_cancelled() {
                return Err(EncodeError::Cancelled);
            }
            let end = pages.len().min(next + block_pages);
            let set = PageSet::from_ranges(pages.slice(next..end))?;
            next = end;
            let scanned = encoder.scan_as(set.clone(), how, None)?;
            let (mut there, mut fingerprints) = (Vec::new(), Vec::new());
            for (page, fingerprint) in set.ranges().flatten().zip(scanned.fingerprints()) {
                if have.has(page, fingerprint) {
                    there.push(page..page + 1);
                    fingerprints.push(fingerprint);
                } else {
                    missing.push(page..page + 1);
                }
            }
            if there.is_empty() {
                continue;
            }
            let block = encoder.code_kept(PageSet::from_ranges(there)?, &fingerprints)?;
            let sequence = self.sent.block(&block);
            sink(OutFrame::of_block(sequence, block, Effort::Store, true))?;
        }
        if missing.is_empty() { Ok(None) } else { PageSet::from_ranges(missing).map(Some) }
    }

    /// A batch of captured pages of one round: `bytes` are the pages of `pages`, in order. Pages that are as `past` has
    /// them are left out; all others are the past afterwards. A page comes once in a batch, and a batch belongs to
    /// one round.
    ///
    /// # Errors
    ///
    /// [`EncodeError::PageSet`] if the bytes are not as many as the pages; otherwise as for [`image`](Self::image).
    pub fn batch(
        &mut self,
        round: u64,
        pages: &PageSet,
        bytes: &[u8],
        past: &mut dyn LastSent,
        choose: Choose<'_>,
        sink: Sink<'_, 'static>,
    ) -> Result<Batched, EncodeError> {
        self.history.set_rewrites();
        self.code_batch(round, (pages, bytes), past, true, choose, sink)
    }

    /// The same for pages none of which was sent before, where [`gathered`](Self::gathered) ones may follow.
    ///
    /// # Errors
    ///
    /// As for [`batch`](Self::batch).
    pub fn first_batch(
        &mut self,
        round: u64,
        pages: &PageSet,
        bytes: &[u8],
        past: &mut dyn LastSent,
        choose: Choose<'_>,
        sink: Sink<'_, 'static>,
    ) -> Result<Batched, EncodeError> {
        self.code_batch(round, (pages, bytes), past, false, choose, sink)
    }

    fn code_batch(
        &mut self,
        round: u64,
        (pages, bytes): (&PageSet, &[u8]),
        past: &mut dyn LastSent,
        looks_out: bool,
        choose: Choose<'_>,
        sink: Sink<'_, 'static>,
    ) -> Result<Batched, EncodeError> {
        if bytes.len() as u64 != pages.len() * PAGE_SIZE as u64 {
            return Err(EncodeError::PageSet("it is not as long as its bytes"));
        }
        let changed = changed(self.setup.level, pages, bytes, past);
        let sent = changed.as_ref().map_or(0, PageSet::len);
        let mut batched = Batched { sent, unchanged: pages.len() - sent, bytes: 0 };
        let Some(changed) = changed else { return Ok(batched) };
        let page_count = self.setup.header.layout.page_count();
        let batch = Batch { page_count, pages, bytes, past };
        let mut own = |frame: OutFrame<'_>| {
            batched.bytes += frame.len();
            sink(frame.into_owned())
        };
        if looks_out {
            self.look_out(round, &batch, &mut own)?;
            self.review_guest(&batch);
        }
        self.blocks(&batch, (round, false), &changed, choose, &mut own)?;
        past.sent_all(pages, bytes);
        Ok(batched)
    }

    /// Codes pages of a round, which are `whole` or a batch of others. Gives how many of them were coded: all, unless the guest is to be read
    /// before the others.
    fn blocks<'s, S: PageSource + ?Sized>(
        &mut self,
        source: &'s S,
        (round, whole): (u64, bool),
        pages: &PageSet,
        choose: Choose<'_>,
        sink: Sink<'_, 's>,
    ) -> Result<u64, EncodeError>
    where
        'a: 's,
    {
        let (references, beside) = (self.setup.references_of(self.sent.sequence), self.setup.beside);
        beside.scan(source, references, |ahead| {
            self.blocks_ahead(source, (round, whole), (pages, ahead), choose, sink)
        })
    }

    /// The same while a device may be scanning.
    fn blocks_ahead<'s, S: PageSource + ?Sized>(
        &mut self,
        source: &'s S,
        (round, whole): (u64, bool),
        (pages, ahead): (&PageSet, Option<&ScanAhead>),
        choose: Choose<'_>,
        sink: Sink<'_, 's>,
    ) -> Result<u64, EncodeError>
    where
        'a: 's,
    {
        let Setup { header, worker, level, top, cancel, .. } = &self.setup;
        let references = self.setup.references_of(self.sent.sequence);
        let encoder: BlockEncoder<'s, S> =
            BlockEncoder::new(source, references, *worker, *level, *top, false)?.round(round);
        let encoder = match self.guest() {
            Some(guest) => encoder.with_guest(guest),
            None => encoder,
        };
        // Of pages that come again, a block must know which others are new at the destination by now: those before it. And nothing is
        // gained by an order within a batch.
        let techniques = match self.setup.techniques {
            techniques if whole => techniques,
            techniques => techniques.without(Technique::Order),
        };
        let encoder = encoder.with_techniques(techniques);
        // Of a batch, no guest could be read.
        let unread = whole && self.setup.unread().is_some();
        // Reading older images takes as long as reading the guest, and is worth it when that is.
        if !self.learned && !unread {
            self.history.learn(&encoder, cancel)?;
            self.learned = true;
        }
        let block_pages = header.block_pages;
        let sent = &mut self.sent;
        let mut send = |how: How, block: CodedBlock<'s>| {
            let sequence = sent.block(&block);
            sink(OutFrame::of_block(sequence, block, how.effort, false))
        };
        let mut announcer = Announcer::new(ahead, pages);
        let mut next = 0;
        let (history, asked) = (&mut self.history, &mut self.asked);
        let sets = || {
            if cancel.is_cancelled() {
                return Err(EncodeError::Cancelled);
            }
            if next == pages.len() {
                return Ok(None);
            }
            announcer.next_is(next);
            let choice = choose(Next::Fresh);
            *asked |= choice.guest;
            if unread && choice.guest {
                return Ok(None);
            }
            let end = pages.len().min(next + whole_chunks(choice.pages).clamp(1, block_pages));
            let set = PageSet::from_ranges(pages.slice(next..end))?;
            next = end;
            Ok(Some((choice.how, set)))
        };
        run(&encoder, history, sets, |how, set| encoder.scan_as(set, how, ahead), &mut send)?;
        // What was left for later comes in the order in which the guest sees it.
        let mut left = history.leftovers(&encoder);
        let lists = || {
            if cancel.is_cancelled() {
                return Err(EncodeError::Cancelled);
            }
            if left.is_empty() {
                return Ok(None);
            }
            let choice = choose(Next::Left);
            Ok(left.take(choice.pages.min(block_pages)).map(|list| (choice.how, list)))
        };
        run(&encoder, history, lists, |how, list| encoder.sample_as(list, how), &mut send)?;
        Ok(next)
    }
}

/// No more pages than these, in whole chunks if there is one: a device scans those, whatever blocks they are in.
fn whole_chunks(pages: u64) -> u64 {
    if pages < CHUNK_PAGES { pages } else { pages / CHUNK_PAGES * CHUNK_PAGES }
}

/// Takes sets of pages through the three steps of coding, several at once, and hands on their blocks in order.
fn run<'s, S: PageSource + ?Sized, T: Send>(
    encoder: &BlockEncoder<'s, S>,
    history: &mut History,
    next: impl FnMut() -> Result<Option<(How, T)>, EncodeError> + Send,
    scan: impl Fn(How, T) -> Result<Scanned, EncodeError> + Sync,
    send: &mut (impl FnMut(How, CodedBlock<'s>) -> Result<(), EncodeError> + Send),
) -> Result<(), EncodeError> {
    let steps = Steps {
        source: next,
        spread: |(how, pages): (How, T)| Ok((how, scan(how, pages)?)),
        ordered: |(how, scanned)| Ok((how, history.settle(encoder, scanned)?)),
        again: |(how, settled)| Ok((how, encoder.code(&settled)?)),
        sink: |(how, block): (How, CodedBlock<'s>)| send(how, block),
    };
    pipeline::run(rayon::current_num_threads() + 1, steps)
}

/// Finds out what a guest's image says of itself, and adds the kernel that it runs to its references, if one of them has it.
///
/// # Errors
///
/// [`EncodeError::Cancelled`].
pub fn read_image(
    image: &MemoryImage,
    references: &[Reference],
    kernels: Option<&KernelCache>,
    cancel: &Cancel,
) -> Result<(Option<Guest>, Vec<Reference>), EncodeError> {
    let (guest, kernel) = read_guest(image, image.layout(), references, kernels, cancel)?;
    Ok((guest, references.iter().cloned().chain(kernel).collect()))
}

/// Codes a block of a session once more, under the same number, so that it refers to nothing outside of itself: for a
/// destination that could not verify it. `source` gives the pages as they were sent.
///
/// # Errors
///
/// As for [`Encoder::image`].
pub fn alone<'s, S: PageSource + ?Sized>(
    setup: &Setup<'s>,
    source: &'s S,
    round: u64,
    pages: PageSet,
    sequence: u64,
) -> Result<OutFrame<'s>, EncodeError> {
    let effort = Effort::Fast;
    let references = setup.references_of(sequence);
    let encoder: BlockEncoder<'s, S> =
        BlockEncoder::new(source, references, setup.worker, setup.level, effort, false)?.round(round);
    let how = How { effort, reach: Reach::Alone };
    let mut history = History::of_nothing(pages.len());
    let block = encoder.code(&history.settle(&encoder, encoder.scan_as(pages, how, None)?)?)?;
    Ok(OutFrame::of_block(sequence, block, effort, false))
}

/// As [`alone`], for a block of a batch: `block` are those pages of the batch that it held.
///
/// # Errors
///
/// As for [`Encoder::batch`].
pub fn alone_of_batch(
    setup: &Setup<'_>,
    round: u64,
    (pages, bytes): (&PageSet, &[u8]),
    block: PageSet,
    sequence: u64,
) -> Result<OutFrame<'static>, EncodeError> {
    if bytes.len() as u64 != pages.len() * PAGE_SIZE as u64 {
        return Err(EncodeError::PageSet("it is not as long as its bytes"));
    }
    let page_count = setup.header.layout.page_count();
    let batch = Batch { page_count, pages, bytes, past: &NothingSent };
    let setup = Setup { header: setup.header.clone(), cancel: setup.cancel.clone(), ..*setup };
    Ok(alone(&setup, &batch, round, block, sequence)?.into_owned())
}

/// Those of the pages that are not as they were sent last.
fn changed(level: Level, pages: &PageSet, bytes: &[u8], past: &dyn LastSent) -> Option<PageSet> {
    let numbers: Vec<u64> = pages.ranges().flatten().collect();
    let differs = |last: &mut Page, (page, bytes): (&u64, &Page)| {
        !(past.read(*page, last) && page_eq(level, last, bytes))
    };
    let all = numbers.par_iter().zip(bytes.as_chunks::<PAGE_SIZE>().0).with_min_len(64);
    let changed: Vec<bool> = all.map_init(|| [0; PAGE_SIZE], differs).collect();
    let ranges = numbers.iter().zip(changed).filter(|(_, changed)| *changed).map(|(&page, _)| page..page + 1);
    PageSet::from_ranges(ranges).ok()
}
