//! Decoding with the engine as a caller would, and holding the answer against the slow decoder's.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use mig_engine::live::{Applied, Decoder, Destination};
use mig_engine::qemu::Rebuilder;
use mig_engine::{
    Cancel, DecodeError, DecodeLimits, Header, ImageFormat, Level, OpaqueStore, PAGE_SIZE, PageStore,
    ParsedBlock, Settled, UnpackError, UnpackSummary, Unpacker,
};
use mig_tests::reference::{self, Rules};
use xxhash_rust::xxh3::xxh3_128;

use crate::store::MemStore;
use crate::{references, seal};

/// The most pages of a block that the targets allow.
pub const BLOCK_PAGES: u64 = 256;
/// The slow decoder holds the whole file, so larger ones are not given to it.
const MAX_FILE: u64 = 8 << 20;
/// No piece of a block of so many pages decodes to more.
const MAX_PIECE: usize = BLOCK_PAGES as usize * 4096 + 64;

/// The limits that all targets decode with.
pub fn limits() -> DecodeLimits {
    let mut limits = DecodeLimits::default();
    limits.block_pages = BLOCK_PAGES;
    limits
}

/// The header of a stream, if it has one.
pub fn open_header(stream: &[u8]) -> Option<Header> {
    Unpacker::new(stream, limits()).ok().map(|unpacker| unpacker.header().clone())
}

/// Unpacks a whole stream into memory, on one thread.
///
/// # Errors
///
/// As for unpacking; none where even the header is bad.
pub fn unpack(stream: &[u8], store: &MemStore) -> Option<Result<UnpackSummary, UnpackError>> {
    let unpacker = Unpacker::new(stream, limits()).ok()?.threads(1);
    Some(unpacker.unpack(references::at_hand(), store))
}

/// Unpacks a stream with the engine and with the slow decoder: both must accept it or neither, with the same bytes, and
/// both must have verified as many pages when they stop.
///
/// # Panics
///
/// Where they don't agree. That is a finding: the engine, the slow decoder or the document is wrong.
pub fn agree(stream: &[u8]) {
    let store = MemStore::default();
    let Some(header) = open_header(stream) else { return };
    let Some(result) = unpack(stream, &store) else { return };
    // A QEMU stream is refused as a whole by who unpacks images, and is a session's to rebuild: see `session`.
    if header.layout.file_len() > MAX_FILE || header.layout.format() == ImageFormat::Qemu {
        return;
    }
    let (slow, error) = reference::decode_prefix(stream, references::at_hand_bytes(), Rules::File);
    if error.as_deref().is_some_and(is_known) || !zstd_is_clear(stream) {
        return;
    }
    let accepted = error.is_none() && slow.complete;
    let fast = match &result {
        Ok(done) => *done,
        Err(error) => error.done,
    };
    assert_eq!(result.is_ok(), accepted, "engine: {result:?}, slow decoder: {error:?}");
    assert_eq!(fast.pages, slow.pages, "engine: {result:?}, slow decoder: {error:?}");
    if accepted {
        assert!(store.file(&header.layout) == slow.file, "the files are different");
    }
}

/// The longest QEMU stream that a session may write here.
const MAX_QEMU: usize = 32 << 20;

/// A session's destination in memory.
#[derive(Default)]
struct Session {
    store: MemStore,
    is_qemu: bool,
    told: Mutex<Told>,
}

/// What a session told its destination.
#[derive(Default)]
struct Told {
    pages: u64,
    pieces: Vec<u8>,
    qemu: Option<Rebuilder<Capped>>,
}

/// An output that takes so much and no more.
#[derive(Default)]
struct Capped {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_QEMU {
            self.full = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PageStore for Session {
    fn write(&self, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        self.store.write(first_page, bytes)
    }

    fn write_zero(&self, first_page: u64, pages: u64) -> io::Result<()> {
        self.store.write_zero(first_page, pages)
    }

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> io::Result<()> {
        self.store.read(page, offset, out)
    }
}

impl OpaqueStore for Session {
    fn write_opaque(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.is_qemu {
            Err(io::ErrorKind::InvalidInput.into())
        } else {
            self.store.write_opaque(offset, bytes)
        }
    }
}

impl Destination for Session {
    fn piece(&self, bytes: &[u8]) -> Result<(), DecodeError> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(qemu) = &mut told.qemu {
            qemu.run(bytes, &mut |first, to| {
                (first..).zip(to.chunks_exact_mut(PAGE_SIZE)).try_for_each(|(page, to)| self.store.read(page, 0, to))
            })?;
        }
        told.pieces.extend_from_slice(bytes);
        Ok(())
    }

    fn block(&self, block: &ParsedBlock) -> Result<(), DecodeError> {
        let brought = block.runs().iter().filter(|run| run.settled != Settled::Later);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.pages += brought.map(|run| u64::from(run.pages)).sum::<u64>();
        Ok(())
    }
}

/// Applies a session with the engine, on one thread.
fn apply(stream: &[u8], to: &Session) -> Option<Result<Applied, DecodeError>> {
    static POOL: OnceLock<rayon::ThreadPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread"));
    let (header, frames) = Unpacker::new(stream, limits()).ok()?.into_parts();
    let given = references::at_hand();
    Some(pool.install(|| Decoder::new(&header, given, Level::best(), &Cancel::new()).apply_file(to, frames)))
}

/// As [`agree`], for a session: pages that come again, pieces, QEMU streams.
///
/// # Panics
///
/// As [`agree`].
pub fn agree_session(stream: &[u8]) {
    let Some(header) = open_header(stream) else { return };
    let is_qemu = header.layout.format() == ImageFormat::Qemu;
    let to = Session { is_qemu, ..Session::default() };
    if is_qemu {
        let qemu = Rebuilder::new(Capped::default(), header.layout.page_count());
        to.told.lock().unwrap_or_else(PoisonError::into_inner).qemu = Some(qemu);
    }
    let Some(result) = apply(stream, &to) else { return };
    let told = to.told.into_inner().unwrap_or_else(PoisonError::into_inner);
    let qemu = told.qemu.map(Rebuilder::into_output).unwrap_or_default();
    if header.layout.file_len() > MAX_FILE || qemu.full {
        return;
    }
    let (slow, error) = reference::decode_prefix(stream, references::at_hand_bytes(), Rules::Any);
    if error.as_deref().is_some_and(is_known) || !zstd_is_clear(stream) {
        return;
    }
    let accepted = error.is_none() && slow.complete;
    assert_eq!(result.is_ok(), accepted, "engine: {result:?}, slow decoder: {error:?}");
    assert_eq!(told.pages, slow.pages, "engine: {result:?}, slow decoder: {error:?}");
    if accepted {
        assert!(to.store.file(&header.layout) == slow.file, "the files are different");
        assert!(told.pieces == slow.pieces, "the pieces are different");
        assert!(qemu.bytes == slow.qemu, "the QEMU streams are different");
    }
}

/// Where the engine is known to accept more than the document does; no page is at risk, for each is verified.
fn is_known(error: &str) -> bool {
    // To see it, one must know of each page of the guest whether it was residual: `docs/threat-model.md`.
    error.contains("is no residual page of an earlier block")
}

/// Whether the engine's zstd library and the slow decoder's give the same bytes for each zstd frame of a stream.
///
/// They do for all frames that an encoder writes. Of damaged ones, each accepts some that the other refuses, and a few
/// give other bytes. That is between the two; whatever comes out must have the block's digest.
pub fn zstd_is_clear(stream: &[u8]) -> bool {
    seal::split(stream).iter().all(|frame| {
        let mut rest = frame.data.as_slice();
        seal::pieces_of(frame).unwrap_or_default().iter().all(|piece| {
            let Some((coded, after)) = rest.split_at_checked(piece.coded_len as usize) else { return true };
            rest = after;
            // What is not just one frame, both must refuse.
            let one = zstd::zstd_safe::find_frame_compressed_size(coded) == Ok(coded.len());
            piece.checksum_at.is_none() || !one || decoded_alike(coded)
        })
    })
}

fn decoded_alike(coded: &[u8]) -> bool {
    // Most inputs are kin of others and have the same pieces; the slow decoder's zstd is slow.
    static KNOWN: Mutex<BTreeMap<u128, bool>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() > 10_000 {
        known.clear();
    }
    *known.entry(xxh3_128(coded)).or_insert_with(|| decode_twice(coded))
}

fn decode_twice(coded: &[u8]) -> bool {
    let ours = zstd::bulk::decompress(coded, MAX_PIECE).ok();
    let mut theirs = Vec::new();
    let read = ruzstd::decoding::StreamingDecoder::new(coded)
        .is_ok_and(|decoder| decoder.take(MAX_PIECE as u64 + 1).read_to_end(&mut theirs).is_ok());
    ours.as_ref() == read.then_some(&theirs)
}
