//! The destination's side of a session: frames in, verified pages out.
//!
//! Blocks are decoded several at once and applied in order. One that does not verify is asked for again, and what comes
//! behind it waits: it may refer to those pages. Nothing counts, and nothing behind it is delivered, before it verifies.

use std::sync::{Mutex, OnceLock, PoisonError};

use mig_simd::Level;
use xxhash_rust::xxh3::Xxh3;

use super::Bits;
use crate::columns::Settled;
use crate::decode::{BlockDecoder, PageStore, ParsedBlock};
use crate::encode::digest_bytes;
use crate::error::DecodeError;
use crate::format::Header;
use crate::format::frame::{Frame, FrameRead, FrameType};
use crate::format::index::End;
use crate::format::wire::Input;
use crate::kernel::KernelCache;
use crate::pipeline::{self, Steps};
use crate::progress::Cancel;
use crate::refs::Reference;
use crate::unpack::{DecodeLimits, FileStore, OpaqueStore, check_opaque, read_opaque, read_plain};

/// A frame that has come in, or what is wrong with it.
#[derive(Debug)]
pub struct Arrival {
    /// Its place in the stream.
    pub sequence: u64,
    /// The frame, its head and meta part verified.
    pub frame: Result<Frame, DecodeError>,
}

/// Brings a session's frames, whatever they travel over.
pub trait Arrivals: Sync {
    /// The next frame in the order of the stream, after the header; waits for it. `None` where the stream stops.
    ///
    /// # Errors
    ///
    /// Where no frame will come any more.
    fn next(&self) -> Result<Option<Arrival>, DecodeError>;

    /// Asks for a frame again, whose try number `attempt - 1` failed for that reason, and waits for it.
    ///
    /// # Errors
    ///
    /// That reason where it can't be had, or was asked for too often.
    fn again(&self, sequence: u64, attempt: u32, why: DecodeError) -> Result<Arrival, DecodeError>;

    /// Takes note that all frames up to this one are good, and of the pages in it.
    fn verified(&self, sequence: u64, pages: u64);

    /// Takes note that the stream's end was applied: whoever waits in [`next`](Self::next) gets `None`.
    fn ended(&self) {}
}

/// Where a session's contents go.
pub trait Destination: PageStore + OpaqueStore {
    /// Takes bytes that are no memory. All pages of earlier blocks are in place then, and none of later ones.
    ///
    /// # Errors
    ///
    /// Whatever keeps them from being used; the session ends with it.
    fn piece(&self, bytes: &[u8]) -> Result<(), DecodeError>;

    /// Takes note that a block's pages are stored and verified.
    ///
    /// # Errors
    ///
    /// As for [`piece`](Self::piece).
    fn block(&self, _pages: &ParsedBlock) -> Result<(), DecodeError> {
        Ok(())
    }
}

/// An image: it has nothing but pages and the bytes between them, so a piece is an error. For a session in rounds it must be a store
/// [`for_rounds`](FileStore::for_rounds).
impl Destination for FileStore {
    fn piece(&self, _: &[u8]) -> Result<(), DecodeError> {
        Err(DecodeError::Invalid { field: "stream", why: "a piece, in an image file" })
    }
}

/// What a session came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// Pages in all blocks; one that came twice counts twice.
    pub pages: u64,
    /// Blocks.
    pub blocks: u64,
    /// Different pages that came.
    pub distinct: u64,
    /// Frames that had to be asked for again.
    pub again: u64,
}

/// Reads the header of a session from its first frame.
///
/// # Errors
///
/// A frame that is no header, and a stream whose blocks are above the limits.
pub fn read_header(frame: &Frame, limits: DecodeLimits) -> Result<Header, DecodeError> {
    if frame.kind != FrameType::Header {
        return Err(DecodeError::Invalid { field: "header", why: "the first frame is another" });
    }
    let header = Header::read(&frame.meta)?;
    if header.block_pages > limits.block_pages {
        let (value, max) = (header.block_pages, limits.block_pages);
        return Err(DecodeError::TooLarge { field: "block pages", value, max });
    }
    Ok(header)
}

/// The bytes of a session's first frame, as [`Encoder::header`](super::Encoder::header) sends them: for those who keep what
/// they know of an image beside it.
pub fn header_frame(header: &Header) -> Vec<u8> {
    crate::format::frame::encode(FrameType::Header, 0, &header.write(), 0)
}

/// A frame with its entropy coding undone.
enum Parsed {
    Block(Box<ParsedBlock>),
    Opaque(u64, Vec<u8>),
    Piece(Vec<u8>),
    Reference,
    End(End),
}

impl Parsed {
    fn new(decoder: &BlockDecoder<'_>, frame: Frame) -> Result<Self, DecodeError> {
        Ok(match frame.kind {
            FrameType::Header => {
                return Err(DecodeError::Invalid { field: "stream", why: "a second header" });
            }
            FrameType::Index => return Err(DecodeError::Invalid { field: "stream", why: "an index" }),
            FrameType::Block => Parsed::Block(Box::new(decoder.parse(frame)?)),
            FrameType::Opaque => {
                let (offset, bytes) = read_opaque(&frame)?;
                Parsed::Opaque(offset, bytes)
            }
            FrameType::Piece => Parsed::Piece(read_plain(&frame, Input::new(&frame.meta), "piece")?),
            FrameType::Reference => Parsed::Reference,
            FrameType::End => Parsed::End(End::read(&frame.meta)?),
        })
    }
}

/// The pages that have come, and the sum of the blocks.
struct Sum {
    digest: Xxh3,
    done: Applied,
    seen: Bits,
    ended: bool,
}

impl Sum {
    fn add(&mut self, block: &ParsedBlock) {
        self.digest.update(&block.digest());
        self.done.blocks += 1;
        let mut ordinal = 0;
        for run in block.runs() {
            let end = ordinal + u64::from(run.pages);
            if run.settled != Settled::Later {
                self.done.pages += u64::from(run.pages);
                for page in block.pages().slice(ordinal..end).flatten() {
                    self.done.distinct += u64::from(self.seen.insert(page));
                }
            }
            ordinal = end;
        }
    }
}

/// A session's header and references from the frame on that brought one more.
struct Late {
    sequence: u64,
    header: Header,
    references: Vec<Option<Reference>>,
}

/// Rebuilds what a session brings.
#[derive(Clone, Copy, Debug)]
pub struct Decoder<'a> {
    header: &'a Header,
    references: &'a [Option<Reference>],
    kernels: Option<&'a KernelCache>,
    level: Level,
    cancel: &'a Cancel,
}

impl<'a> Decoder<'a> {
    /// For the session with this header (see [`read_header`]). `references` are what it needs, in its order; what is not at hand is
    /// `None`, and an error only for blocks that use it. `cancel` stops the work.
    pub fn new(
        header: &'a Header,
        references: &'a [Option<Reference>],
        level: Level,
        cancel: &'a Cancel,
    ) -> Self {
        Decoder { header, references, kernels: None, level, cancel }
    }

    /// A kernel image that the session brings late is kept in, and taken from, a cache.
    pub fn kernels(mut self, cache: Option<&'a KernelCache>) -> Self {
        self.kernels = cache;
        self
    }

    /// Applies one frame. Errors before anything is lost may be mended by asking again.
    fn frame<D: Destination>(
        &self,
        blocks: &BlockDecoder<'_>,
        parsed: Parsed,
        to: &D,
        sum: &mut Sum,
    ) -> Result<u64, DecodeError> {
        if sum.ended {
            return Err(DecodeError::Invalid { field: "stream", why: "it goes on after its end" });
        }
        match parsed {
            Parsed::Block(block) => {
                let before = sum.done.pages;
                blocks.apply(&block, to)?;
                sum.add(&block);
                to.block(&block)?;
                return Ok(sum.done.pages - before);
            }
            Parsed::Opaque(offset, bytes) => {
                check_opaque(&self.header.layout, offset, bytes.len() as u64)?;
                let written = to.write_opaque(offset, &bytes);
                written.map_err(|source| DecodeError::Io { what: "storing bytes", source })?;
            }
            Parsed::Piece(bytes) => to.piece(&bytes)?,
            Parsed::Reference => {}
            Parsed::End(found) => {
                if found.index_offset != 0 {
                    return Err(DecodeError::Invalid {
                        field: "end",
                        why: "it names an index, and a session has none",
                    });
                }
                let digest = digest_bytes(sum.digest.digest128());
                if (found.pages, found.blocks, found.digest) != (sum.done.pages, sum.done.blocks, digest) {
                    return Err(DecodeError::Invalid {
                        field: "end",
                        why: "it does not sum up the blocks before it",
                    });
                }
                sum.ended = true;
            }
        }
        Ok(0)
    }

    /// Takes note of the frame that brings one more reference; a session has one such frame at most.
    fn late(&self, sequence: u64, frame: &Frame, late: &OnceLock<Late>) -> Result<(), DecodeError> {
        let header = self.header.with_late_reference(&frame.meta)?;
        let need = header.references.last();
        let made = need.and_then(|need| Reference::made(need, self.references, self.kernels));
        let references = self.references.iter().cloned().chain([made]).collect();
        if late.get_or_init(|| Late { sequence, header, references }).sequence != sequence {
            return Err(DecodeError::Invalid { field: "stream", why: "a second late reference" });
        }
        Ok(())
    }

    /// Applies a session's frames, from the one after the header to the end, in the current rayon pool.
    ///
    /// # Errors
    ///
    /// What could not be mended by asking again; a stream that stops before its end.
    pub fn apply<D: Destination>(&self, to: &D, frames: &impl Arrivals) -> Result<Applied, DecodeError> {
        let Decoder { header, references, level, cancel, .. } = *self;
        let first = BlockDecoder::new(header, references, level);
        let (late, second) = (OnceLock::<Late>::new(), OnceLock::new());
        // Frames before the late reference are read without it, whenever that is.
        let decoder = |sequence: u64| match late.get() {
            Some(late) if sequence > late.sequence => {
                second.get_or_init(|| BlockDecoder::new(&late.header, &late.references, level))
            }
            _ => &first,
        };
        let mut sum =
            Sum { digest: Xxh3::new(), done: Applied::default(), seen: Bits::default(), ended: false };
        let parse = |Arrival { sequence, frame }| {
            let parsed = frame.and_then(|frame| {
                if frame.kind == FrameType::Reference {
                    self.late(sequence, &frame, &late)?;
                }
                Parsed::new(decoder(sequence), frame)
            });
            (sequence, parsed)
        };
        let steps = Steps {
            source: || {
                if cancel.is_cancelled() {
                    return Err(DecodeError::Cancelled);
                }
                let next = frames.next()?;
                if let Some(Arrival { sequence, frame: Ok(frame) }) = &next
                    && frame.kind == FrameType::Reference
                {
                    // Those behind it may be read before it is applied. What is wrong with it is said when its turn comes.
                    let _ = self.late(*sequence, frame, &late);
                }
                Ok(next)
            },
            spread: |arrival: Arrival| Ok(parse(arrival)),
            ordered: |(sequence, mut parsed): (u64, Result<Parsed, DecodeError>)| {
                let mut attempt = 0;
                let pages = loop {
                    let applied =
                        parsed.and_then(|parsed| self.frame(decoder(sequence), parsed, to, &mut sum));
                    match applied {
                        Ok(pages) => break pages,
                        Err(error) if is_mendable(&error) && !cancel.is_cancelled() => {
                            attempt += 1;
                            sum.done.again += 1;
                            parsed = parse(frames.again(sequence, attempt, error)?).1;
                        }
                        Err(error) => return Err(error),
                    }
                };
                frames.verified(sequence, pages);
                if sum.ended {
                    frames.ended();
                }
                Ok(())
            },
            again: Ok,
            sink: Ok,
        };
        pipeline::run(rayon::current_num_threads() + 1, steps)?;
        if !sum.ended {
            let (needed, left) = (header.layout.page_count(), sum.done.distinct);
            return Err(DecodeError::Truncated { field: "stream (it has no end)", needed, left });
        }
        Ok(sum.done)
    }

    /// As [`apply`](Self::apply), from a stream that was recorded.
    ///
    /// # Errors
    ///
    /// As for [`apply`](Self::apply); nothing can be asked for again.
    pub fn apply_file<D: Destination>(&self, to: &D, frames: impl FrameRead) -> Result<Applied, DecodeError> {
        self.apply(to, &FromFile(Mutex::new((frames, 0))))
    }
}

/// Whether the same frame, coded without references, may do better.
fn is_mendable(error: &DecodeError) -> bool {
    !matches!(error, DecodeError::Io { .. } | DecodeError::Cancelled | DecodeError::Layout(_))
}

/// The frames of a file: what is wrong with them stays wrong.
struct FromFile<F>(Mutex<(F, u64)>);

impl<F: FrameRead> Arrivals for FromFile<F> {
    fn next(&self) -> Result<Option<Arrival>, DecodeError> {
        let mut source = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(frame) = source.0.read_frame()? else { return Ok(None) };
        source.1 += 1;
        Ok(Some(Arrival { sequence: source.1, frame: Ok(frame) }))
    }

    fn again(&self, _: u64, _: u32, why: DecodeError) -> Result<Arrival, DecodeError> {
        Err(why)
    }

    fn verified(&self, _: u64, _: u64) {}
}
