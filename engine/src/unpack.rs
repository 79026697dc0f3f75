//! Unpacking a stream: the image it was packed from, or what is left of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use mig_simd::Level;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::decode::{BlockDecoder, PageStore, ParsedBlock};
use crate::encode::digest_bytes;
use crate::error::DecodeError;
use crate::format::block::Piece;
use crate::format::frame::{Frame, FrameRead, FrameReader, FrameType};
use crate::format::index::{End, IndexEntry, read_index};
use crate::format::wire::Input;
use crate::format::{Header, limits};
use crate::image::{ImageFormat, ImageLayout, ImageWriter, WriteAs};
use crate::live::Bits;
use crate::pack::default_threads;
use crate::page::PAGE_SIZE;
use crate::pending::Pending;
use crate::pipeline::{self, Steps};
use crate::progress::{Cancel, OnProgress, Progress};
use crate::refs::Reference;

/// What decoding may use, set by the caller and not by the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DecodeLimits {
    /// Pages that a block may hold. Memory for a few blocks is needed at a time: 4 KiB a page for what was
    /// received, and as much again for what it decodes to.
    pub block_pages: u64,
}

impl Default for DecodeLimits {
    /// What this build's packer writes: 8,192 pages.
    fn default() -> Self {
        DecodeLimits { block_pages: 1 << 13 }
    }
}

/// Reads a stream, from any [`Read`] or from a transport, and rebuilds the image.
pub struct Unpacker<'a, F> {
    frames: F,
    header: Header,
    threads: usize,
    level: Level,
    progress: Option<OnProgress<'a>>,
    cancel: Cancel,
    first_bytes: u64,
}

impl<F> std::fmt::Debug for Unpacker<'_, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").field("header", &self.header).finish_non_exhaustive()
    }
}

/// How far unpacking came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnpackSummary {
    /// Pages rebuilt and verified.
    pub pages: u64,
    /// Blocks rebuilt and verified.
    pub blocks: u64,
    /// Bytes of the stream that were read.
    pub stream_bytes: u64,
}

/// Unpacking failed; `done` says how much of the image is good. Which pages those are is not told: pages that others are like
/// come late in a stream.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct UnpackError {
    /// What was rebuilt and verified before.
    pub done: UnpackSummary,
    /// Why there is no more.
    pub source: DecodeError,
}

impl<R: Read + Send> Unpacker<'_, FrameReader<R>> {
    /// Reads the stream's header.
    ///
    /// # Errors
    ///
    /// What keeps the first frame from being a header that this build reads, and a stream whose blocks are above
    /// the limits.
    pub fn new(input: R, limits: DecodeLimits) -> Result<Self, DecodeError> {
        // Room for a block's pages, and its lists with them.
        let max_data = limits.block_pages.saturating_mul(2 * PAGE_SIZE as u64).saturating_add(limits::OPAQUE);
        Self::from_frames(FrameReader::new(input, max_data.min(limits::DATA)), limits)
    }
}

impl<'a, F: FrameRead> Unpacker<'a, F> {
    /// As [`new`](Self::new), from frames that come some other way.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn from_frames(mut frames: F, limits: DecodeLimits) -> Result<Self, DecodeError> {
        let frame =
            frames.read_frame()?.ok_or(DecodeError::Truncated { field: "header", needed: 1, left: 0 })?;
        if frame.kind != FrameType::Header {
            return Err(DecodeError::Invalid { field: "header", why: "the first frame is another" });
        }
        let header = Header::read(&frame.meta)?;
        if header.block_pages > limits.block_pages {
            let (value, max) = (header.block_pages, limits.block_pages);
            return Err(DecodeError::TooLarge { field: "block pages", value, max });
        }
        let first_bytes = frame.frame_len();
        Ok(Unpacker {
            frames,
            header,
            threads: default_threads(),
            level: Level::best(),
            progress: None,
            cancel: Cancel::new(),
            first_bytes,
        })
    }

    /// What the stream holds and needs.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The header and the frames behind it, for streams that are no images: see [`crate::qemu::unpack`].
    pub fn into_parts(self) -> (Header, F) {
        (self.header, self.frames)
    }

    /// Sets the number of threads, at least 1.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Sets the SIMD level.
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Is told after each block.
    pub fn on_progress(mut self, progress: OnProgress<'a>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Stops with [`DecodeError::Cancelled`] once this token says so.
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// Rebuilds the image into `store`. `references` are what the header needs, in its order.
    ///
    /// # Errors
    ///
    /// Whatever [`DecodeError`] says, with what was good before.
    pub fn unpack(
        self,
        references: &[Option<Reference>],
        store: &(impl PageStore + OpaqueStore),
    ) -> Result<UnpackSummary, UnpackError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build();
        let pool = pool.map_err(|error| UnpackError {
            done: UnpackSummary::default(),
            source: DecodeError::Io { what: "starting threads", source: io::Error::other(error) },
        })?;
        pool.install(|| self.unpack_here(references, store))
    }

    fn unpack_here(
        self,
        references: &[Option<Reference>],
        store: &(impl PageStore + OpaqueStore),
    ) -> Result<UnpackSummary, UnpackError> {
        let Unpacker { mut frames, header, level, progress, cancel, first_bytes, .. } = self;
        if header.layout.format() == ImageFormat::Qemu {
            let why = "a QEMU stream is rebuilt in another way than an image";
            let source = DecodeError::Invalid { field: "image format", why };
            return Err(UnpackError { done: UnpackSummary::default(), source });
        }
        let decoder = BlockDecoder::new(&header, references, level);
        let total_pages = header.layout.page_count();
        let mut done = UnpackSummary { stream_bytes: first_bytes, ..UnpackSummary::default() };
        let (mut end, mut pending) = (EndCheck::default(), Pending::default());
        let steps = Steps {
            source: || {
                if cancel.is_cancelled() {
                    return Err(DecodeError::Cancelled);
                }
                frames.read_frame()
            },
            spread: |frame: Frame| Ok((frame.frame_len(), Parsed::new(&decoder, total_pages, frame)?)),
            ordered: |(frame_len, parsed)| {
                end.check_place(&parsed)?;
                match parsed {
                    Parsed::Block(block) => {
                        if block.round() != 0 {
                            return Err(DecodeError::Invalid {
                                field: "round",
                                why: "a file has none but 0",
                            });
                        }
                        let brings = pending.take(block.pages(), block.runs())?;
                        decoder.apply(&block, store)?;
                        end.digest.update(&block.digest());
                        let (first_page, pages) = (block.pages().first(), block.pages().len());
                        end.add_place(&IndexEntry { offset: done.stream_bytes, first_page, pages });
                        done.pages += brings;
                        done.blocks += 1;
                    }
                    Parsed::Opaque(offset, bytes) => {
                        check_opaque(&header.layout, offset, bytes.len() as u64)?;
                        let written = store.write_opaque(offset, &bytes);
                        written.map_err(|source| DecodeError::Io { what: "storing bytes", source })?;
                    }
                    Parsed::Index(entries) => end.check_index(&entries, done.stream_bytes)?,
                    Parsed::End(found) => end.check(found, &done)?,
                }
                done.stream_bytes += frame_len;
                if let Some(progress) = progress {
                    let (pages, stream_bytes) = (done.pages, done.stream_bytes);
                    progress(Progress { pages, total_pages, stream_bytes });
                }
                Ok(())
            },
            again: Ok,
            sink: Ok,
        };
        let result = pipeline::run(rayon::current_num_threads() + 1, steps);
        let result = result.and_then(|()| match end.end {
            Some(_) if pending.is_complete(total_pages) => Ok(()),
            Some(_) => Err(DecodeError::Invalid { field: "end", why: "pages are missing" }),
            None => Err(DecodeError::Truncated {
                field: "stream (it has no end)",
                needed: total_pages * PAGE_SIZE as u64,
                left: done.pages * PAGE_SIZE as u64,
            }),
        });
        result.map(|()| done).map_err(|source| UnpackError { done, source })
    }
}

/// A frame with its entropy coding undone.
enum Parsed {
    Block(Box<ParsedBlock>),
    Opaque(u64, Vec<u8>),
    Index(Vec<IndexEntry>),
    End(End),
}

impl Parsed {
    fn new(decoder: &BlockDecoder<'_>, page_count: u64, frame: Frame) -> Result<Self, DecodeError> {
        Ok(match frame.kind {
            FrameType::Header => {
                return Err(DecodeError::Invalid { field: "stream", why: "a second header" });
            }
            FrameType::Block => Parsed::Block(Box::new(decoder.parse(frame)?)),
            FrameType::Opaque => {
                let (offset, bytes) = read_opaque(&frame)?;
                Parsed::Opaque(offset, bytes)
            }
            FrameType::Piece => {
                return Err(DecodeError::Invalid { field: "stream", why: "a piece, in a file of memory" });
            }
            FrameType::Reference => {
                let why = "a late reference, in a file of memory";
                return Err(DecodeError::Invalid { field: "stream", why });
            }
            FrameType::Index => Parsed::Index(read_index(&frame.meta, page_count, u64::MAX)?),
            FrameType::End => Parsed::End(End::read(&frame.meta)?),
        })
    }
}

/// Reads an opaque frame: bytes of the image's file that belong to no page.
pub(crate) fn read_opaque(frame: &Frame) -> Result<(u64, Vec<u8>), DecodeError> {
    let field = "opaque bytes";
    let mut input = Input::new(&frame.meta);
    let offset = input.varint(field)?;
    Ok((offset, read_plain(frame, input, field)?))
}

/// Reads the bytes of a frame without pages, as [`plain_frame`](crate::pack::plain_frame) writes them; `input` is what its meta part
/// has of them.
pub(crate) fn read_plain(
    frame: &Frame,
    mut input: Input<'_>,
    field: &'static str,
) -> Result<Vec<u8>, DecodeError> {
    let checksum = input.u64(field)?;
    let piece = Piece::read(&mut input, limits::OPAQUE)?;
    input.finish(field)?;
    if piece.coded_len != frame.data.len() as u64 {
        return Err(DecodeError::Invalid { field, why: "its length is not that of its data" });
    }
    let bytes = piece.decode(&frame.data.get(0..frame.data.len()), field)?;
    if xxh3_64(&bytes) != checksum {
        return Err(DecodeError::Checksum { field });
    }
    Ok(bytes)
}

/// Opaque bytes lie in one gap between segments: a store must not be asked to change pages by them.
pub(crate) fn check_opaque(layout: &ImageLayout, offset: u64, len: u64) -> Result<(), DecodeError> {
    let ranges = layout.opaque_ranges();
    let inside = offset.checked_add(len).is_some_and(|end| {
        let range = ranges.get(ranges.partition_point(|range| range.end < end));
        range.is_some_and(|range| range.start <= offset)
    });
    if inside {
        return Ok(());
    }
    Err(DecodeError::Invalid { field: "opaque bytes", why: "they are not between the pages" })
}

/// What the index and end frames are compared with.
#[derive(Default)]
struct EndCheck {
    /// Of the blocks' digests.
    digest: Xxh3,
    /// Of the blocks' places: the places themselves could be millions.
    places: Xxh3,
    /// Where the index is.
    index_at: Option<u64>,
    end: Option<End>,
}

fn hash_place(hash: &mut Xxh3, place: &IndexEntry) {
    for value in [place.offset, place.first_page, place.pages] {
        hash.update(&value.to_le_bytes());
    }
}

impl EndCheck {
    /// After the index comes the end, and after that nothing.
    fn check_place(&self, parsed: &Parsed) -> Result<(), DecodeError> {
        let is_end = matches!(parsed, Parsed::End(_));
        if self.end.is_some() || self.index_at.is_some() && !is_end {
            return Err(DecodeError::Invalid {
                field: "stream",
                why: "it goes on after its index or its end",
            });
        }
        Ok(())
    }

    fn add_place(&mut self, place: &IndexEntry) {
        hash_place(&mut self.places, place);
    }

    fn check_index(&mut self, entries: &[IndexEntry], at: u64) -> Result<(), DecodeError> {
        let mut places = Xxh3::new();
        entries.iter().for_each(|entry| hash_place(&mut places, entry));
        if places.digest128() != self.places.digest128() {
            return Err(DecodeError::Invalid { field: "index", why: "it lists other blocks than there are" });
        }
        self.index_at = Some(at);
        Ok(())
    }

    fn check(&mut self, found: End, done: &UnpackSummary) -> Result<(), DecodeError> {
        let digest = digest_bytes(self.digest.digest128());
        if (found.pages, found.blocks, found.digest) != (done.pages, done.blocks, digest) {
            return Err(DecodeError::Invalid {
                field: "end",
                why: "it does not sum up the blocks before it",
            });
        }
        if found.index_offset != self.index_at.unwrap_or(0) {
            return Err(DecodeError::Invalid { field: "end", why: "the index lies elsewhere" });
        }
        self.end = Some(found);
        Ok(())
    }
}

/// Where bytes go that belong to an image's file, but to no page.
pub trait OpaqueStore: Sync {
    /// Stores bytes at an offset of the image's file.
    ///
    /// # Errors
    ///
    /// Whatever keeps them from being stored, and an offset where no such bytes belong.
    fn write_opaque(&self, file_offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// An image file being rebuilt. Zero pages stay holes.
#[derive(Debug)]
pub struct FileStore {
    writer: ImageWriter,
    /// Pages that the file has no place for, since later ones may refer to them: at page number times 4096.
    left_out: Option<File>,
    /// Pages that were written, where pages may come again.
    written: Option<Mutex<Bits>>,
}

impl FileStore {
    /// Rebuilds into `file`, which is emptied and must be open for reading, too. `scratch` is a folder for what a
    /// [`WriteAs::Raw`] file leaves out.
    ///
    /// # Errors
    ///
    /// The file cannot be given its length, or has no place for any page.
    pub fn new(
        file: File,
        layout: &ImageLayout,
        target: WriteAs,
        scratch: &Path,
    ) -> Result<Self, DecodeError> {
        let writer = ImageWriter::new(file, layout, target)?;
        let left_out = if writer.left_out_pages() > 0 {
            let file = tempfile::tempfile_in(scratch);
            Some(file.map_err(|source| DecodeError::Io { what: "making a temporary file", source })?)
        } else {
            None
        };
        Ok(FileStore { writer, left_out, written: None })
    }

    /// Pages may come again, as in the rounds of a session, and be zero then.
    pub fn for_rounds(mut self) -> Self {
        self.written = Some(Mutex::default());
        self
    }

    /// The writer, to ask what it leaves out.
    pub fn writer(&self) -> &ImageWriter {
        &self.writer
    }

    /// The rebuilt file, not synced.
    pub fn into_file(self) -> File {
        self.writer.into_file()
    }
}

impl PageStore for FileStore {
    fn write(&self, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(left_out) = &self.left_out {
            for (page, bytes) in (first_page..).zip(bytes.chunks_exact(PAGE_SIZE)) {
                if self.writer.page_offset(page).is_none() {
                    left_out.write_all_at(bytes, page * PAGE_SIZE as u64)?;
                }
            }
        }
        self.writer.write_pages(first_page, bytes)?;
        if let Some(written) = &self.written {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            for page in (first_page..).take(bytes.len() / PAGE_SIZE) {
                written.insert(page);
            }
        }
        Ok(())
    }

    fn write_zero(&self, first_page: u64, pages: u64) -> io::Result<()> {
        // The file was empty, and a file stream has each page once.
        let Some(written) = &self.written else { return Ok(()) };
        let is_written = |&page: &u64| written.lock().unwrap_or_else(PoisonError::into_inner).contains(page);
        (first_page..first_page + pages)
            .filter(is_written)
            .try_for_each(|page| self.write(page, &[0; PAGE_SIZE]))
    }

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> io::Result<()> {
        let (file, start) = match (self.writer.page_offset(page), &self.left_out) {
            (Some(start), _) => (self.writer.file(), start),
            (None, Some(left_out)) => (left_out, page * PAGE_SIZE as u64),
            (None, None) => return Err(io::ErrorKind::InvalidInput.into()),
        };
        match file.read_exact_at(out, start + offset as u64) {
            // A hole at the end of the scratch file: a page of zeros.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.left_out.is_some() => {
                out.fill(0);
                Ok(())
            }
            result => result,
        }
    }
}

impl OpaqueStore for FileStore {
    fn write_opaque(&self, file_offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_opaque(file_offset, bytes)
    }
}
