//! Streams in files: packed, unpacked, or just their memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use mig_simd::Level;

use super::parse::{Events, FromFile, Input, Parser, RamBlock};
use super::script::Rebuilder;
use super::transcode::{Consumer, RoundEnd, Transcoder};
use crate::decode::{PageStore, ParsedBlock};
use crate::encode::BlockStats;
use crate::error::{DecodeError, EncodeError};
use crate::format::frame::FrameRead;
use crate::format::{FrameWrite, Header};
use crate::gpu::Beside;
use crate::image::{ImageError, ImageFormat, ImageLayout, MemoryImage, Segment, mapped_ram};
use crate::live::{
    self, Applied, Choice, Decoder, Destination, Encoder, FlatFile, Introspection, LastSent, LateGuest,
    OutFrame, Setup, Sink,
};
use crate::options::{Effort, Techniques};
use crate::page::{PAGE_SIZE, Page, PageSet};
use crate::progress::{Cancel, OnProgress, Progress};
use crate::refs::Reference;
use crate::unpack::OpaqueStore;
use crate::worker::ScanWorker;

/// Pages of a block.
const BLOCK_PAGES: u64 = 1 << 13;
/// Batches whose bytes are used again.
const LENT: usize = 4;
/// Bytes of scripts that wait for the first round: some hundred GiB of memory have as many.
const SCRIPTS: usize = 64 << 20;

/// Whether a file that begins like this is a stream that is read from its start to its end: not one with mapped-ram, which is
/// an image.
pub fn is_stream(start: &[u8]) -> bool {
    matches!(crate::image::parse_layout(start, None, None), Err(ImageError::Stream))
}

/// What a stream says of its machine in its first bytes: its type and its blocks of RAM. Empty if they are not found in `start`.
pub fn machine_of(start: &[u8]) -> (String, Vec<RamBlock>) {
    let mut machine = Machine::default();
    // It always ends with an error: that is how it stops.
    let _ = Parser::new(FromFile(start)).run(&mut machine);
    (machine.0, machine.1)
}

#[derive(Default)]
struct Machine(String, Vec<RamBlock>);

impl Events for Machine {
    type Error = io::Error;

    fn blocks(&mut self, machine: &str, blocks: &[RamBlock]) -> io::Result<()> {
        *self = Machine(machine.to_owned(), blocks.to_vec());
        Err(io::ErrorKind::Interrupted.into())
    }

    fn bytes(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn record(&mut self, _: super::parse::Record<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// The layout of a stream's memory: one block of RAM after the other, with addresses where they are known.
pub(super) fn layout(
    machine: &str,
    blocks: &[RamBlock],
    format: ImageFormat,
) -> Result<ImageLayout, ImageError> {
    let named: Vec<(&[u8], u64)> = blocks.iter().map(|block| (&block.name[..], block.pages)).collect();
    let mut segments = Vec::new();
    let mut first_page = 0;
    for (pages, gpa) in mapped_ram::addresses(machine, &named) {
        segments.push(Segment { file_offset: first_page * PAGE_SIZE as u64, pages, first_page, gpa });
        first_page += pages;
    }
    ImageLayout::new(format, first_page * PAGE_SIZE as u64, segments)
}

/// What packing a stream came to.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Packed {
    /// Blocks of RAM.
    pub blocks_of_ram: Vec<RamBlock>,
    /// The machine's type.
    pub machine: String,
    /// Page records.
    pub records: u64,
    /// All blocks together.
    pub blocks: BlockStats,
    /// Bytes of frames that hold no pages.
    pub scripts: u64,
    /// Bytes of the packed stream.
    pub stream_bytes: u64,
    /// Why a part of the stream was carried as it is, if it was.
    pub opaque: Option<String>,
}

/// What a stream's frames are made with.
#[derive(Clone, Debug)]
pub struct Coding<'a> {
    /// What blocks may refer to.
    pub references: &'a [Reference],
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
    /// The most pages of a block.
    pub block_pages: u64,
    /// What the guest says of itself, if that is used: read when its first round was [gathered](Gather), and else its kernel only, found
    /// when it has come by.
    pub guest: Option<&'a LateGuest>,
    /// Which pages of the first round are taken in before they are coded, if any.
    pub gather: Option<Gather<'a>>,
    /// Stops the work.
    pub cancel: Cancel,
}

/// Takes in pages of the first round, to code them when all are there: as an image, with what the guest says of itself.
///
/// A running QEMU sends them as fast as it can, and then takes the link for that fast: it must not go by that when it stops its guest.
#[derive(Clone, Copy)]
pub struct Gather<'a> {
    /// Whether the pages that come now can wait: what was sent has not arrived yet.
    pub can_wait: &'a (dyn Fn() -> bool + Sync),
}

impl std::fmt::Debug for Gather<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gather").finish_non_exhaustive()
    }
}

impl Gather<'_> {
    /// All pages.
    pub const ALL: Gather<'static> = Gather { can_wait: &|| true };
}

/// What was gathered so far of the first round.
struct Gathered<'a> {
    can_wait: &'a (dyn Fn() -> bool + Sync),
    /// Ascending, as the pages of a round come.
    pages: Vec<Range<u64>>,
    /// What is to follow the first of those.
    scripts: Vec<Vec<u8>>,
}

impl<'a> Coding<'a> {
    /// What the session with this header is made with.
    pub fn setup(&self, header: Header) -> Setup<'a> {
        let Coding { references, worker, beside, level, top, techniques, .. } = *self;
        let introspection = self.guest.map_or(Introspection::Off, Introspection::Later);
        let cancel = self.cancel.clone();
        Setup { header, references, introspection, worker, beside, level, top, techniques, cancel }
    }
}

/// An error while a stream is coded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The stream can't be read.
    #[error("reading the QEMU stream: {0}")]
    Read(#[from] io::Error),
    /// Its frames can't be made, or not be handed on.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A machine that is not possible.
    #[error(transparent)]
    Machine(#[from] ImageError),
}

/// What a [`Coder`] hands out, in order.
#[derive(Debug)]
pub enum Out<'o> {
    /// The stream's header: the next frame.
    Header(&'o Header),
    /// A batch of a round: the pages that the next blocks are made of, and their bytes.
    Batch(u64, &'o Arc<PageSet>, &'o Arc<Vec<u8>>),
    /// The first round, gathered: the next blocks are made of this memory, which changes when the next batch comes.
    Gathered(&'o Arc<MemoryImage>),
    /// A frame.
    Frame(OutFrame<'static>),
    /// A round of the guest's memory is over, and the bytes of its frames.
    Round(RoundEnd, u64),
    /// From here on the stream is carried as it is.
    Opaque(&'o str),
}

/// Turns what a [`Transcoder`] finds into a session's frames.
pub struct Coder<'a, F> {
    coding: Coding<'a>,
    choose: live::Choose<'a>,
    past: Option<File>,
    session: Option<(Encoder<'a>, FlatFile)>,
    /// While pages of the first round may be gathered.
    gathered: Option<Gathered<'a>>,
    out: F,
    round_bytes: u64,
    /// Bytes of the last batches, which others may have, too.
    lent: VecDeque<Arc<Vec<u8>>>,
    /// The last version of a page that has come.
    last: Box<Page>,
}

impl<F> std::fmt::Debug for Coder<'_, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coder").field("coding", &self.coding).finish_non_exhaustive()
    }
}

impl<'a, F: FnMut(Out<'_>) -> Result<(), EncodeError> + Send> Coder<'a, F> {
    /// `past` is an empty file for the memory as it was sent last; `out` takes what comes.
    pub fn new(coding: Coding<'a>, choose: live::Choose<'a>, past: File, out: F) -> Self {
        let gathered = coding.gather.map(|Gather { can_wait }| Gathered {
            can_wait,
            pages: Vec::new(),
            scripts: Vec::new(),
        });
        let (past, lent, last) = (Some(past), VecDeque::new(), Box::new([0; PAGE_SIZE]));
        Coder { coding, choose, past, session: None, gathered, out, round_bytes: 0, lent, last }
    }

    /// Sends what was gathered, if that was not done before.
    fn release(&mut self) -> Result<(), StreamError> {
        let (Some(gathered), Some((encoder, past))) = (self.gathered.take(), &mut self.session) else {
            return Ok(());
        };
        if !gathered.pages.is_empty() {
            let pages = PageSet::from_ranges(gathered.pages)?;
            let layout = encoder.setup().header.layout.clone();
            let image = Arc::new(MemoryImage::of_parts(past.file().try_clone()?, layout)?);
            (self.out)(Out::Gathered(&image))?;
            let out = &mut self.out;
            let mut sink = |frame| out(Out::Frame(frame));
            self.round_bytes += encoder.gathered(&image, &pages, self.choose, &mut sink)?;
        }
        gathered.scripts.into_iter().try_for_each(|script| self.script(script))
    }

    /// Sends the end, and gives back the memory as it was sent last.
    ///
    /// # Errors
    ///
    /// From whoever takes the frames; none if nothing was started.
    pub fn end(mut self) -> Result<Option<FlatFile>, StreamError> {
        self.release()?;
        let Some((mut encoder, past)) = self.session.take() else { return Ok(None) };
        (self.out)(Out::Frame(encoder.end()))?;
        Ok(Some(past))
    }
}

impl<F: FnMut(Out<'_>) -> Result<(), EncodeError> + Send> Consumer for Coder<'_, F> {
    type Error = StreamError;

    fn start(&mut self, machine: &str, blocks: &[RamBlock]) -> Result<(), StreamError> {
        let Coding { references, top, block_pages, .. } = self.coding;
        let needs = references.iter().map(|reference| reference.need().clone()).collect();
        let header = Header::new(layout(machine, blocks, ImageFormat::Qemu)?, top, block_pages, needs);
        (self.out)(Out::Header(&header))?;
        let pages = header.layout.page_count();
        let past = self.past.take().ok_or(io::ErrorKind::InvalidInput).map_err(io::Error::from)?;
        let past = FlatFile::new(past, pages)?;
        let mut encoder = Encoder::new(self.coding.setup(header))?;
        (self.out)(Out::Frame(encoder.header()))?;
        self.session = Some((encoder, past));
        Ok(())
    }

    fn pages(&mut self, round: u64, pages: PageSet, bytes: Vec<u8>) -> Result<(), StreamError> {
        let Some((encoder, past)) = &mut self.session else { return Ok(()) };
        if let Some(gathered) = &mut self.gathered
            && (gathered.can_wait)()
        {
            past.sent_all(&pages, &bytes);
            gathered.pages.extend(pages.ranges());
            return if past.is_complete() { Ok(()) } else { Err(full().into()) };
        }
        let (pages, bytes) = (Arc::new(pages), Arc::new(bytes));
        if self.lent.len() < LENT {
            self.lent.push_back(bytes.clone());
        }
        (self.out)(Out::Batch(round, &pages, &bytes))?;
        let out = &mut self.out;
        let mut sink = |frame| out(Out::Frame(frame));
        let sink: Sink<'_, 'static> = &mut sink;
        let batched = match &self.gathered {
            Some(_) => encoder.first_batch(round, &pages, &bytes, past, self.choose, sink)?,
            None => encoder.batch(round, &pages, &bytes, past, self.choose, sink)?,
        };
        self.round_bytes += batched.bytes;
        Ok(())
    }

    fn room(&mut self) -> Vec<u8> {
        let is_back = |bytes: &mut Arc<Vec<u8>>| Arc::strong_count(bytes) == 1;
        let back = self.lent.pop_front_if(is_back).and_then(|bytes| Arc::try_unwrap(bytes).ok());
        let mut room = back.unwrap_or_default();
        room.clear();
        room
    }

    fn script(&mut self, script: Vec<u8>) -> Result<(), StreamError> {
        let Some((encoder, _)) = &mut self.session else { return Ok(()) };
        if let Some(gathered) = &mut self.gathered
            && !gathered.pages.is_empty()
        {
            gathered.scripts.push(script);
            // So much is no memory: what is gathered would wait in vain.
            let is_much = gathered.scripts.iter().map(Vec::len).sum::<usize>() > SCRIPTS;
            return if is_much { self.release() } else { Ok(()) };
        }
        let frame = encoder.piece(&script)?;
        self.round_bytes += frame.len();
        (self.out)(Out::Frame(frame))?;
        Ok(())
    }

    fn is_unchanged(&mut self, page: u64, content: &Page) -> bool {
        let Some((_, past)) = &self.session else { return false };
        LastSent::read(past, page, &mut self.last) && *self.last == *content
    }

    fn round(&mut self, round: RoundEnd) -> Result<(), StreamError> {
        self.release()?;
        let bytes = std::mem::take(&mut self.round_bytes);
        Ok((self.out)(Out::Round(round, bytes))?)
    }

    fn opaque(&mut self, why: &str) {
        // Whoever is told can't do anything about it.
        let _ = (self.out)(Out::Opaque(why));
    }
}

/// Packs a stream, which is read once from its start to its end. `dir` is a folder for a temporary copy of the guest's memory.
/// Runs on the current rayon pool.
///
/// # Errors
///
/// [`StreamError`]; what the stream holds is none.
pub fn pack(
    input: impl Input,
    coding: Coding<'_>,
    dir: &Path,
    mut out: impl FrameWrite,
    progress: Option<OnProgress<'_>>,
) -> Result<Packed, StreamError> {
    let mut packed = Packed::default();
    let effort = coding.top;
    let choose = move |_| Choice::always(effort, BLOCK_PAGES);
    let (mut pages, mut total_pages) = (0, 0);
    let past = tempfile::tempfile_in(dir)?;
    let mut take = |event: Out<'_>| {
        match event {
            Out::Header(header) => total_pages = header.layout.page_count(),
            Out::Frame(frame) => {
                packed.stream_bytes += frame.len();
                match frame.stats() {
                    Some(stats) => {
                        packed.blocks.add(stats);
                        pages += stats.delivered();
                    }
                    None => packed.scripts += frame.len(),
                }
                let mut parts: Vec<IoSlice<'_>> = frame.parts().map(IoSlice::new).collect();
                out.write_frame(frame.kind(), &mut parts).map_err(EncodeError::Write)?;
                if let Some(progress) = progress {
                    let pages = pages.min(total_pages);
                    progress(Progress { pages, total_pages, stream_bytes: packed.stream_bytes });
                }
            }
            Out::Round(round, _) => packed.records += round.records,
            Out::Opaque(why) => packed.opaque = Some(why.to_owned()),
            Out::Batch(..) | Out::Gathered(_) => {}
        }
        Ok(())
    };
    let mut machine = (String::new(), Vec::new());
    let coder = Coder::new(coding, &choose, past, &mut take);
    let mut transcoder = Transcoder::exact(Remember { inner: coder, machine: &mut machine });
    Parser::new(input).run(&mut transcoder)?;
    transcoder.finish()?.inner.end()?;
    out.finish().map_err(EncodeError::Write)?;
    (packed.machine, packed.blocks_of_ram) = machine;
    Ok(packed)
}

/// Keeps the machine for the report.
struct Remember<'m, C> {
    inner: C,
    machine: &'m mut (String, Vec<RamBlock>),
}

impl<C: Consumer> Consumer for Remember<'_, C> {
    type Error = C::Error;

    fn start(&mut self, machine: &str, blocks: &[RamBlock]) -> Result<(), C::Error> {
        *self.machine = (machine.to_owned(), blocks.to_vec());
        self.inner.start(machine, blocks)
    }

    fn pages(&mut self, round: u64, pages: PageSet, bytes: Vec<u8>) -> Result<(), C::Error> {
        self.inner.pages(round, pages, bytes)
    }

    fn room(&mut self) -> Vec<u8> {
        self.inner.room()
    }

    fn script(&mut self, script: Vec<u8>) -> Result<(), C::Error> {
        self.inner.script(script)
    }

    fn round(&mut self, round: RoundEnd) -> Result<(), C::Error> {
        self.inner.round(round)
    }

    fn opaque(&mut self, why: &str) {
        self.inner.opaque(why);
    }
}

/// A stream being rebuilt, over the memory that its pages make.
pub struct Rebuilt<W> {
    memory: FlatFile,
    stream: Mutex<Rebuilder<W>>,
}

impl<W> std::fmt::Debug for Rebuilt<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rebuilt").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl<W: Write> Rebuilt<W> {
    /// The stream goes to `out`, the memory into `file`, which is emptied.
    ///
    /// # Errors
    ///
    /// A header of something else than a stream; a file that can't have the memory's length.
    pub fn new(header: &Header, file: File, out: W) -> Result<Self, DecodeError> {
        if header.layout.format() != ImageFormat::Qemu {
            return Err(DecodeError::Invalid { field: "image format", why: "it is no QEMU stream" });
        }
        let pages = header.layout.page_count();
        let memory = FlatFile::new(file, pages)
            .map_err(|source| DecodeError::Io { what: "making room for the guest's memory", source })?;
        Ok(Rebuilt { memory, stream: Mutex::new(Rebuilder::new(out, pages)) })
    }

    /// The memory, and the output; how many bytes were written.
    pub fn into_parts(self) -> (FlatFile, W, u64) {
        let stream = self.stream.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let written = stream.written();
        (self.memory, stream.into_output(), written)
    }
}

impl<W: Send> PageStore for Rebuilt<W> {
    fn write(&self, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        PageStore::write(&self.memory, first_page, bytes)
    }

    fn write_zero(&self, first_page: u64, pages: u64) -> io::Result<()> {
        self.memory.write_zero(first_page, pages)
    }

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> io::Result<()> {
        PageStore::read(&self.memory, page, offset, out)
    }
}

impl<W: Send> OpaqueStore for Rebuilt<W> {
    fn write_opaque(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "opaque bytes, in a QEMU stream"))
    }
}

impl<W: Write + Send> Destination for Rebuilt<W> {
    fn piece(&self, bytes: &[u8]) -> Result<(), DecodeError> {
        let mut stream = self.stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        stream.run(bytes, &mut |page, to| self.memory.read_pages(page, to))?;
        stream.flush()
    }

    fn block(&self, _: &ParsedBlock) -> Result<(), DecodeError> {
        Ok(())
    }
}

/// Rebuilds a stream that was packed. `frames` go on behind the header; `dir` is a folder for a temporary copy of the
/// guest's memory. Gives what was applied, and the memory. Runs on the current rayon pool.
///
/// # Errors
///
/// Whatever [`DecodeError`] says; the output then holds a beginning.
pub fn unpack(
    header: &Header,
    references: &[Option<Reference>],
    level: Level,
    frames: impl FrameRead,
    dir: &Path,
    out: impl Write + Send,
    cancel: &Cancel,
) -> Result<(Applied, FlatFile), DecodeError> {
    let file = tempfile::tempfile_in(dir)
        .map_err(|source| DecodeError::Io { what: "making a temporary file", source })?;
    let to = Rebuilt::new(header, file, out)?;
    let applied = Decoder::new(header, references, level, cancel).apply_file(&to, frames)?;
    Ok((applied, to.into_parts().0))
}

/// Copies the memory in a stream, as it is at its end, into a nameless temporary file in `dir`: one block of RAM after the other.
///
/// # Errors
///
/// [`ImageError::NoPages`] if no memory is found in it; [`ImageError::Spool`] where the system refuses.
pub fn flatten(stream: impl Read, dir: &Path) -> Result<(File, ImageLayout), ImageError> {
    let spool = |what| move |source| ImageError::Spool { what, source };
    let file = tempfile::tempfile_in(dir).map_err(spool("make a temporary file"))?;
    let flat = Flat { file: Some(file), to: None };
    let mut transcoder = Transcoder::exact(flat);
    let parsed = Parser::new(FromFile(stream)).run(&mut transcoder);
    let finished = parsed.and_then(|()| transcoder.finish());
    let flat = finished.map_err(|error| match error {
        StreamError::Machine(error) => error,
        StreamError::Read(source) => ImageError::Spool { what: "copy the stream's memory", source },
        StreamError::Encode(error) => {
            ImageError::Spool { what: "copy the stream's memory", source: io::Error::other(error) }
        }
    })?;
    let (memory, layout) = flat.to.ok_or(ImageError::NoPages { format: ImageFormat::Qemu, file_len: 0 })?;
    let file = memory.file().try_clone().map_err(spool("map the stream's memory"))?;
    Ok((file, layout))
}

/// Why memory can't be kept in a file.
fn full() -> io::Error {
    io::Error::other("the temporary file takes no more: is the disk full?")
}

/// Keeps only the memory.
struct Flat {
    file: Option<File>,
    to: Option<(FlatFile, ImageLayout)>,
}

impl Consumer for Flat {
    type Error = StreamError;

    fn start(&mut self, machine: &str, blocks: &[RamBlock]) -> Result<(), StreamError> {
        let layout = layout(machine, blocks, ImageFormat::Raw)?;
        if layout.page_count() == 0 {
            return Err(ImageError::NoPages { format: ImageFormat::Qemu, file_len: 0 }.into());
        }
        if let Some(file) = self.file.take() {
            self.to = Some((FlatFile::new(file, layout.page_count())?, layout));
        }
        Ok(())
    }

    fn pages(&mut self, _: u64, pages: PageSet, bytes: Vec<u8>) -> Result<(), StreamError> {
        let Some((memory, _)) = &mut self.to else { return Ok(()) };
        memory.sent_all(&pages, &bytes);
        if memory.is_complete() { Ok(()) } else { Err(full().into()) }
    }

    fn script(&mut self, _: Vec<u8>) -> Result<(), StreamError> {
        Ok(())
    }
}
