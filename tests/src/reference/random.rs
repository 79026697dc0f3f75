//! Section 8: one page of a file stream, without reading the others.
//!
//! It shares the parsing of frames and blocks with the walk through the whole stream, and none of its state.

use super::block::{Block, Guest, uniform};
use super::columns::What;
use super::frame::{self, FrameType};
use super::header::Header;
use super::trailer::{END_FRAME, Entry, parse_end, parse_index};
use super::{PAGE, Page};

/// Reads page `number` of a file stream whose header says that every block can be decoded alone: from its own block,
/// one more at most, and the references (as in [`super::decode`]). Damage elsewhere goes unseen.
///
/// # Errors
///
/// The stream is not complete, has no index or does not promise blocks that can be decoded alone; the page is not in
/// it; or what was read for it is not as the document demands.
pub fn page(stream: &[u8], references: &[Option<Vec<u8>>], number: u64) -> Result<Page, String> {
    let header = open(stream, 0, FrameType::Header, Some(0))?;
    let header = Header::parse(header.meta)?;
    if !header.independent {
        return Err("header flags: its blocks cannot be decoded alone".into());
    }
    if number >= header.page_count {
        return Err(format!("page {number}: the guest has {}", header.page_count));
    }
    let entries = index(stream, &header)?;
    let (own, mut block) = find(stream, &header, &entries, number)?;
    let ordinal = number - entries[own].first;
    // What other blocks made of the guest is not known here, and not needed.
    let guest = Guest { header: &header, references, file: &[], whats: &[] };
    let found = match block.whats[ordinal as usize] {
        What::Zero => [0; PAGE],
        What::Uniform(word) => uniform(word),
        What::Reference { index, position } => header.reference_block(references, index, position)?,
        What::Residual => block.residual_alone(ordinal, &guest)?,
        What::Later => return Err(format!("page {number}: it is left for later")),
        What::Duplicate { source } => match block.set.ordinal(source) {
            Some(other) => block.residual_alone(other, &guest)?,
            None => {
                let (place, mut other) = find(stream, &header, &entries, source)?;
                // To one who reads the stream in order, a page of a later block is still zero here.
                if place > own {
                    return Err(format!("duplicate: page {number}, source {source} is in a later block"));
                }
                other.residual_alone(source - entries[place].first, &guest)?
            }
        },
    };
    block.verify_one(ordinal, &found)?;
    Ok(found)
}

fn open(
    stream: &[u8],
    offset: u64,
    kind: FrameType,
    sequence: Option<u64>,
) -> Result<frame::Frame<'_>, String> {
    let frame = frame::read(stream, offset, sequence).map_err(|e| format!("frame at {offset}: {e}"))?;
    if frame.view.kind != kind {
        return Err(format!("frame at {offset}: type {:?}, should be {kind:?}", frame.view.kind));
    }
    Ok(frame)
}

/// The index, found from the end frame.
fn index(stream: &[u8], header: &Header) -> Result<Vec<Entry>, String> {
    let len = stream.len() as u64;
    let end_offset = len.checked_sub(END_FRAME).ok_or("end: the stream is shorter than an end frame")?;
    let end_frame = open(stream, end_offset, FrameType::End, None)?;
    let end = parse_end(end_frame.meta)?;
    if end.index == 0 {
        return Err("end index offset: there is no index".into());
    }
    let frame = open(stream, end.index, FrameType::Index, end_frame.view.sequence.checked_sub(1))?;
    if frame.view.end() != end_offset {
        return Err("end index offset: the index is not just before the end frame".into());
    }
    let entries = parse_index(frame.meta)?;
    if entries.len() as u64 != end.blocks {
        return Err(format!("index blocks: {}, the end frame says {}", entries.len(), end.blocks));
    }
    let mut pages = 0;
    for (number, entry) in entries.iter().enumerate() {
        if entry.first != pages || entry.pages == 0 {
            return Err(format!("index block {number}: {entry:?}, should go on at page {pages}"));
        }
        pages += entry.pages;
    }
    if pages != header.page_count || end.pages != pages {
        return Err(format!(
            "index pages: {pages}, the end frame says {}, the header {}",
            end.pages, header.page_count
        ));
    }
    Ok(entries)
}

/// The block that holds page `number`, and its place in the index.
fn find<'a>(
    stream: &'a [u8],
    header: &Header,
    entries: &[Entry],
    number: u64,
) -> Result<(usize, Block<'a>), String> {
    let place = entries.iter().position(|entry| (entry.first..entry.first + entry.pages).contains(&number));
    let place = place.ok_or_else(|| format!("page {number}: in no block"))?;
    let entry = entries[place];
    let frame = open(stream, entry.offset, FrameType::Block, None)?;
    let within = |e| format!("block at {}: {e}", entry.offset);
    let block = Block::parse(&frame, header).map_err(within)?;
    if block.view.round != 0 || block.set.ranges != [(entry.first, entry.pages)] {
        return Err(within(format!("page set: {:?}, the index says {entry:?}", block.set.ranges)));
    }
    Ok((place, block))
}
