//! The engine against the slow decoder, on one stream.
//!
//! Each function gives the first difference as an error, so that tests can also show that a difference is found.

use std::io::Write;

use mig_engine::{
    BlockDecoder, DecodeError, DecodeLimits, FrameRead, FrameReader, FrameType, Header, Reader, Reference,
    Settled, SettledRun, Unpacker,
};

use crate::engine::{self, References};
use crate::reference::{self, Decoded, PAGE, Rules, Run, What};

/// Bytes that no frame of a test has more of.
const MAX_DATA: u64 = 1 << 29;

/// Checks that both decoders make this file of a whole stream, and see the same pages in it.
///
/// # Errors
///
/// The first difference.
pub fn whole(stream: &[u8], references: &References, file: &[u8]) -> Result<Decoded, String> {
    let slow = reference::decode(stream, &references.bytes()).map_err(|e| format!("slow decoder: {e}"))?;
    if !slow.complete {
        return Err("slow decoder: the stream has no end".into());
    }
    same_bytes("slow decoder", &slow.file, file)?;
    let at_hand = references.at_hand();
    let (result, store) = engine::unpack(stream, &at_hand);
    let done = result.map_err(|e| format!("engine: {e}"))?;
    same_bytes("engine", &store.map(engine::Store::into_bytes).unwrap_or_default(), file)?;
    let counts = (slow.pages, slow.blocks.len() as u64, stream.len() as u64);
    if (done.pages, done.blocks, done.stream_bytes) != counts {
        return Err(format!("engine: {done:?}, slow decoder: {counts:?}"));
    }
    kinds(stream, &at_hand, &slow)?;
    Ok(slow)
}

/// Checks that both decoders make this file of a stream of any rounds and page sets, and see the same pages in it.
///
/// # Errors
///
/// The first difference.
pub fn rounds(stream: &[u8], references: &References, file: &[u8]) -> Result<Decoded, String> {
    let slow = reference::decode_as(stream, &references.bytes(), Rules::Any);
    let slow = slow.map_err(|e| format!("slow decoder: {e}"))?;
    same_bytes("slow decoder", &slow.file, file)?;
    let text = |e: DecodeError| format!("engine: {e}");
    let (header, at_hand) = (header(stream).map_err(text)?, references.at_hand());
    let decoder = BlockDecoder::new(&header, &at_hand, engine::level());
    let store = engine::Store::new(&header.layout);
    let mut frames = FrameReader::new(stream, MAX_DATA);
    while let Some(frame) = frames.read_frame().map_err(text)? {
        if frame.kind() == FrameType::Block {
            decoder.parse(frame).and_then(|block| decoder.apply(&block, &store)).map_err(text)?;
        }
    }
    same_bytes("engine", &store.into_bytes(), file)?;
    kinds(stream, &at_hand, &slow)?;
    Ok(slow)
}

/// Checks that the engine reads the same runs of the same pages as the slow decoder did.
///
/// # Errors
///
/// The first difference.
pub fn kinds(stream: &[u8], references: &[Option<Reference>], slow: &Decoded) -> Result<(), String> {
    let text = |e: DecodeError| format!("engine: {e}");
    let header = header(stream).map_err(text)?;
    let decoder = BlockDecoder::new(&header, references, engine::level());
    let mut frames = FrameReader::new(stream, MAX_DATA);
    let mut blocks = slow.blocks.iter();
    while let Some(frame) = frames.read_frame().map_err(text)? {
        if frame.kind() != FrameType::Block {
            continue;
        }
        let block = decoder.parse(frame).map_err(text)?;
        let slow = blocks.next().ok_or("engine: a block more")?;
        let ranges: Vec<(u64, u64)> =
            block.pages().ranges().map(|range| (range.start, range.end - range.start)).collect();
        if (&ranges, block.digest()) != (&slow.ranges, slow.digest) {
            return Err(format!("engine: block of {ranges:?}, slow decoder: {:?}", slow.ranges));
        }
        let same = |(fast, slow): (&SettledRun, &Run)| {
            u64::from(fast.pages) == slow.pages && what(fast.settled) == slow.what
        };
        if block.runs().len() != slow.runs.len() || !block.runs().iter().zip(&slow.runs).all(same) {
            return Err(format!("runs: engine {:?}, slow decoder {:?}", block.runs(), slow.runs));
        }
    }
    if blocks.next().is_some() { Err("engine: a block fewer".into()) } else { Ok(()) }
}

fn what(settled: Settled) -> What {
    match settled {
        Settled::Zero => What::Zero,
        Settled::Uniform(word) => What::Uniform(word),
        Settled::Duplicate { source } => What::Duplicate { source },
        Settled::Reference { index, position } => What::Reference { index: index.into(), position },
        Settled::Residual => What::Residual,
        Settled::Later => What::Later,
    }
}

fn header(stream: &[u8]) -> Result<Header, DecodeError> {
    Ok(Unpacker::new(stream, DecodeLimits::default())?.header().clone())
}

/// Checks that every page can be read alone with the engine, and every `step`th with the slow decoder; `pages` are the
/// truth, in the order of their numbers.
///
/// # Errors
///
/// The first page that can't be read or is another.
pub fn single_pages(stream: &[u8], references: &References, pages: &[u8], step: usize) -> Result<(), String> {
    let reader = open_reader(stream).map_err(|e| format!("engine: {e}"))?;
    let (at_hand, bytes) = (references.at_hand(), references.bytes());
    if reader.page_count() != (pages.len() / PAGE) as u64 {
        return Err(format!("engine: {} pages", reader.page_count()));
    }
    let mut page = [0; PAGE];
    for (number, truth) in (0..).zip(pages.chunks(PAGE)) {
        page.fill(0xee);
        reader.page(number, &at_hand, &mut page).map_err(|e| format!("engine: page {number}: {e}"))?;
        same_bytes("engine: a page", &page, truth)?;
        if (number as usize).is_multiple_of(step) {
            let page =
                reference::page(stream, &bytes, number).map_err(|e| format!("slow: page {number}: {e}"))?;
            same_bytes("slow decoder: a page", &page, truth)?;
        }
    }
    Ok(())
}

/// A reader of a stream that is a file.
///
/// # Errors
///
/// As for [`Reader::open`].
///
/// # Panics
///
/// If the file can't be written.
pub fn open_reader(stream: &[u8]) -> Result<Reader, DecodeError> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(stream).expect("room for a small stream");
    Reader::open(file.path())
}

/// Checks that bytes are the same.
///
/// # Errors
///
/// Where the first difference is.
pub fn same_bytes(who: &str, found: &[u8], truth: &[u8]) -> Result<(), String> {
    if found == truth {
        return Ok(());
    }
    if found.len() != truth.len() {
        return Err(format!("{who}: {} bytes, should be {}", found.len(), truth.len()));
    }
    let at = found.iter().zip(truth).position(|(one, other)| one != other).unwrap_or_default();
    Err(format!("{who}: byte {} of page {} is another", at % PAGE, at / PAGE))
}
