//! Random access: any page of a packed file, without unpacking it.
//!
//! For files packed with `random_access`: blocks are small, groups smaller still, nothing but duplicates and
//! references leads out of a block, and each page has its own check. A restored VM can fault its pages in
//! from such a file. Other files are read block after block ([`crate::Unpacker`]).

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use mig_simd::{Level, PageRecord, page_scan};

use crate::columns::{self, Addressing, Run, Settled};
use crate::error::DecodeError;
use crate::format::Header;
use crate::format::block::{Block, Codec};
use crate::format::frame::{FrameHeader, FrameType, HEADER_LEN};
use crate::format::index::{END_FRAME_LEN, End, IndexEntry, read_index};
use crate::locate::{
    Residual, check_random_access, check_runs, invalid, is_checked, place, read_placements, residual_pages,
};
use crate::map::FileMap;
use crate::matches::MatchLists;
use crate::page::{PAGE_SIZE, Page};
use crate::refs::{Reference, reference_page, reference_words};
use crate::residual::{Against, PackedGroup};
use crate::unpack::DecodeLimits;

/// Blocks whose columns are kept decoded: of our packer's, some 80 KiB each.
const OPEN_BLOCKS: usize = 64;
const OPEN_BLOCK_BYTES: usize = 16 << 20;
/// Groups whose pages are kept decoded: of our packer's, at most 128 KiB each.
const OPEN_GROUPS: usize = 32;
const OPEN_GROUP_BYTES: usize = 8 << 20;

/// A packed file, open for reading any page at any time, from any thread.
#[derive(Debug)]
pub struct Reader {
    map: FileMap,
    header: Header,
    index: Vec<IndexEntry>,
    level: Level,
    blocks: Recent<usize, OpenBlock>,
    groups: Recent<(usize, usize), PackedGroup>,
}

/// A block's columns, decoded.
#[derive(Debug)]
struct OpenBlock {
    first_page: u64,
    /// The runs, each with the pages and the checks before it.
    runs: Vec<(Start, Run)>,
    block: Block,
    residual: Vec<Residual>,
    /// Where the checks lie in the file.
    checks: Range<usize>,
    /// Where each group lies in the file.
    groups: Vec<Range<usize>>,
}

#[derive(Clone, Copy, Debug)]
struct Start {
    pages: u64,
    checks: usize,
}

impl Reader {
    /// Opens a file and reads its header and index.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Io`] if it can't be mapped; [`DecodeError::Invalid`] if it was not packed for random access;
    /// otherwise what is wrong with its first and last frames.
    pub fn open(path: &Path) -> Result<Self, DecodeError> {
        let map = FileMap::open(path);
        Self::new(map.map_err(|source| DecodeError::Io { what: "opening the packed file", source })?)
    }

    /// As [`open`](Self::open), from a mapped file.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn new(map: FileMap) -> Result<Self, DecodeError> {
        let bytes = map.bytes();
        let (meta, _) = frame_at(bytes, 0, FrameType::Header, Some(0))?;
        let header = Header::read(&bytes[meta])?;
        if !header.random_access {
            return Err(invalid("stream flags", "the file was not packed for random access"));
        }
        let max = DecodeLimits::default().block_pages;
        if header.block_pages > max {
            return Err(DecodeError::TooLarge { field: "block pages", value: header.block_pages, max });
        }
        let end_at = bytes.len().checked_sub(END_FRAME_LEN).ok_or(DecodeError::Truncated {
            field: "end",
            needed: END_FRAME_LEN as u64,
            left: bytes.len() as u64,
        })?;
        let (meta, _) = frame_at(bytes, end_at as u64, FrameType::End, None)?;
        let end = End::read(&bytes[meta])?;
        let (meta, data) = frame_at(bytes, end.index_offset, FrameType::Index, None)?;
        if data.end != end_at {
            return Err(invalid("end", "the index is not right before it"));
        }
        let page_count = header.layout.page_count();
        let index = read_index(&bytes[meta], page_count, bytes.len() as u64)?;
        let pages = index.iter().try_fold(0, |next, entry| {
            // Within `page_count`, as `read_index` has checked.
            (entry.first_page == next).then(|| next + entry.pages)
        });
        if pages != Some(page_count) || (end.pages, end.blocks) != (page_count, index.len() as u64) {
            return Err(invalid("index", "its blocks do not hold just the pages that there are"));
        }
        Ok(Reader {
            header,
            index,
            level: Level::best(),
            blocks: Recent::new(OPEN_BLOCKS, OPEN_BLOCK_BYTES, OpenBlock::bytes),
            groups: Recent::new(OPEN_GROUPS, OPEN_GROUP_BYTES, PackedGroup::len),
            map,
        })
    }

    /// What the file holds and needs.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Number of pages.
    pub fn page_count(&self) -> u64 {
        self.header.layout.page_count()
    }

    /// Reads one page into `out` and verifies it. `references` are what the header needs, in its order.
    ///
    /// # Errors
    ///
    /// What is wrong with the page's block or group, a reference that is missing, or a page that does not verify.
    pub fn page(
        &self,
        number: u64,
        references: &[Option<Reference>],
        out: &mut Page,
    ) -> Result<(), DecodeError> {
        let (own, ordinal) = self.block_of(number)?;
        let block = self.open_block(own)?;
        let (start, run) = block.run_of(ordinal)?;
        let offset = ordinal - start.pages;
        match run.settled {
            Settled::Zero => {
                out.fill(0);
                return Ok(());
            }
            Settled::Uniform(word) => {
                out.as_chunks_mut::<8>().0.iter_mut().for_each(|bytes| *bytes = word.to_le_bytes());
                return Ok(());
            }
            Settled::Residual => self.residual(&block, number, references, out)?,
            Settled::Duplicate { source } => {
                let (home, ordinal) = self.block_of(source + offset)?;
                if home > own {
                    return Err(invalid("columns", "a duplicate's source is in a later block"));
                }
                let home = self.open_block(home)?;
                if home.run_of(ordinal)?.1.settled != Settled::Residual {
                    return Err(invalid("columns", "a duplicate's source is not residual"));
                }
                self.residual(&home, source + offset, references, out)?;
            }
            Settled::Reference { index, position } => {
                let mut scratch = [0; PAGE_SIZE];
                *out =
                    *reference_page(&self.header, references, index.into(), position + offset, &mut scratch)?;
            }
            Settled::Later => return Err(invalid("columns", "a page is left for later")),
        }
        let mut record = [PageRecord::default()];
        page_scan(self.level, out, &mut record);
        let check = block.checks.start + (start.checks + offset as usize) * 8;
        if self.map.bytes().get(check..check + 8) != Some(&record[0].fingerprint[0].to_le_bytes()) {
            return Err(DecodeError::Digest { first_page: number, pages: 1 });
        }
        Ok(())
    }

    /// The block that holds a page, and the page's place in it.
    fn block_of(&self, page: u64) -> Result<(usize, u64), DecodeError> {
        let at = self.index.partition_point(|entry| entry.first_page <= page).checked_sub(1);
        let found = at.map(|at| (at, &self.index[at]));
        match found {
            Some((at, entry)) if page - entry.first_page < entry.pages => Ok((at, page - entry.first_page)),
            _ => {
                let max = self.page_count().saturating_sub(1);
                Err(DecodeError::TooLarge { field: "page number", value: page, max })
            }
        }
    }

    fn open_block(&self, number: usize) -> Result<Arc<OpenBlock>, DecodeError> {
        self.blocks.get(number, || {
            let entry = &self.index[number];
            let (meta, data) = frame_at(self.map.bytes(), entry.offset, FrameType::Block, None)?;
            OpenBlock::read(self.map.bytes(), meta, data, entry, &self.header)
        })
    }

    /// A residual page of an open block.
    fn residual(
        &self,
        block: &OpenBlock,
        page: u64,
        references: &[Option<Reference>],
        out: &mut Page,
    ) -> Result<(), DecodeError> {
        // Of one range, so their order is that of the numbers.
        let at = block.residual.binary_search_by_key(&page, |residual| residual.page);
        let residual = &block.residual[at.map_err(|_| invalid("columns", "a residual page is missing"))?];
        let piece = &block.block.groups[residual.group].piece;
        let coded = &self.map.bytes()[block.groups[residual.group].clone()];
        let key = (block.first_page as usize, residual.group);
        if piece.codec == Codec::Raw {
            let bytes = coded[residual.start..].first_chunk();
            *out = *bytes.ok_or(invalid("groups", "a page ends beyond its group"))?;
            return Ok(());
        }
        let pages = block.block.groups[residual.group].pages;
        let group = self.groups.get(key, || PackedGroup::decode(piece, coded, pages))?;
        let mut words = [0; PAGE_SIZE];
        let base = match residual.base {
            Some(base) => {
                let index = usize::from(base.space).checked_sub(1);
                let index = index.filter(|&index| index < self.header.references.len());
                let index = index.ok_or(invalid("bases", "one is a page of the guest"))?;
                reference_words(&self.header, references, index, base.address, &mut words)?;
                Some(&words)
            }
            None => None,
        };
        group.unpack(self.level, residual.nth, Against::new(base, block.block.moved, residual.address), out);
        Ok(())
    }
}

impl OpenBlock {
    fn read(
        bytes: &[u8],
        meta: Range<usize>,
        data: Range<usize>,
        entry: &IndexEntry,
        header: &Header,
    ) -> Result<Self, DecodeError> {
        let page_count = header.layout.page_count();
        let block = Block::read(&bytes[meta], data.len() as u64, header.block_pages, page_count)?;
        if block.pages.first() != entry.first_page
            || block.pages.len() != entry.pages
            || block.pages.ranges().len() != 1
        {
            return Err(invalid("index", "a block holds other pages than the index says"));
        }
        if block.round != 0 {
            return Err(invalid("round", "a file has none but 0"));
        }
        check_random_access(&block)?;
        let addressing: Vec<Addressing> =
            header.references.iter().map(|need| need.kind.addressing()).collect();
        let (runs, classes) = columns::decode(&block.columns, &block.pages, &addressing)?;
        check_runs(header, &block.pages, &runs)?;
        let numbers = residual_pages(&block.pages, &runs);
        let mut residual = place(&block, &classes, &MatchLists::default(), &numbers)?;
        let pages: Vec<u64> = numbers.iter().map(|&(_, page)| page).collect();
        read_placements(header, &block, &pages, &mut residual)?;
        let mut start = Start { pages: 0, checks: 0 };
        let starts = runs.into_iter().map(|run| {
            let entry = (start, run);
            start.pages += u64::from(run.pages);
            if is_checked(&run) {
                start.checks += run.pages as usize;
            }
            entry
        });
        let runs = starts.collect();
        let mut end = data.start;
        let mut pieces: Vec<Range<usize>> = Vec::new();
        for piece in block.pieces() {
            pieces.push(end..end + piece.coded_len as usize); // `Block::read` has added them up
            end += piece.coded_len as usize;
        }
        let groups = pieces.split_off(1); // there are checks, and no matches before them
        let checks = pieces.remove(0);
        if checks.len() != start.checks * 8 {
            return Err(invalid("checks", "not eight bytes for each page that needs one"));
        }
        Ok(OpenBlock { first_page: entry.first_page, runs, residual, checks, groups, block })
    }

    /// Memory that it takes, about.
    fn bytes(&self) -> usize {
        size_of_val(&*self.runs)
            + size_of_val(&*self.residual)
            + size_of_val(&*self.groups)
            + size_of_val(&*self.block.groups)
            + self.block.columns.len()
            + self.block.addresses.len()
            + self.block.bases.len()
    }

    fn run_of(&self, ordinal: u64) -> Result<(Start, Run), DecodeError> {
        let at = self.runs.partition_point(|(start, _)| start.pages <= ordinal).checked_sub(1);
        at.map(|at| self.runs[at]).ok_or(invalid("columns", "a page has no run"))
    }
}

/// Meta and data parts of the frame at an offset, as places in the file; the head and meta are verified.
fn frame_at(
    bytes: &[u8],
    offset: u64,
    kind: FrameType,
    sequence: Option<u64>,
) -> Result<(Range<usize>, Range<usize>), DecodeError> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let rest = bytes.get(start..).unwrap_or_default();
    let short = |needed| DecodeError::Truncated { field: "frame", needed, left: rest.len() as u64 };
    let head = rest.first_chunk::<HEADER_LEN>().ok_or(short(HEADER_LEN as u64))?;
    let header = FrameHeader::parse(head)?;
    if header.kind != kind {
        return Err(invalid("frame type", "another frame lies where this one should"));
    }
    let meta = start + HEADER_LEN..start + HEADER_LEN + header.meta_len as usize;
    let data = meta.end..meta.end + header.data_len as usize;
    if data.end > bytes.len() {
        return Err(short(header.frame_len()));
    }
    header.verify(&bytes[meta.clone()], sequence.unwrap_or(header.sequence))?;
    Ok((meta, data))
}

/// The values used last, made once for all threads that ask at the same time or soon after.
#[derive(Debug)]
struct Recent<K, V> {
    entries: Mutex<Vec<(K, Arc<V>)>>,
    /// Values that are kept at most, and their bytes together, but for the last one alone.
    max: usize,
    max_bytes: usize,
    bytes_of: fn(&V) -> usize,
}

impl<K: PartialEq + Copy, V> Recent<K, V> {
    fn new(max: usize, max_bytes: usize, bytes_of: fn(&V) -> usize) -> Self {
        Recent { entries: Mutex::new(Vec::new()), max, max_bytes, bytes_of }
    }

    fn get(&self, key: K, make: impl FnOnce() -> Result<V, DecodeError>) -> Result<Arc<V>, DecodeError> {
        let lock = || self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut entries = lock();
            if let Some(at) = entries.iter().rposition(|(other, _)| *other == key) {
                let entry = entries.remove(at);
                let value = Arc::clone(&entry.1);
                entries.push(entry);
                return Ok(value);
            }
        }
        // Made outside the lock: a second thread may make it, too, which is only work.
        let value = Arc::new(make()?);
        let mut entries = lock();
        entries.push((key, Arc::clone(&value)));
        let mut bytes: usize = entries.iter().map(|(_, value)| (self.bytes_of)(value)).sum();
        while entries.len() > 1 && (entries.len() > self.max || bytes > self.max_bytes) {
            bytes -= (self.bytes_of)(&entries.remove(0).1);
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::format::frame;
    use crate::format::index::write_index;
    use crate::image::{ImageFormat, ImageLayout};
    use crate::options::Effort;

    /// A reader of a file without any pages, whose header names these limits.
    fn empty(block_pages: u64) -> Result<Reader, DecodeError> {
        let layout = ImageLayout::new(ImageFormat::Raw, 10, Vec::new()).unwrap();
        let references = Vec::new();
        let header = Header { layout, effort: Effort::Store, random_access: true, block_pages, references };
        let mut bytes = frame::encode(FrameType::Header, 0, &header.write(), 0);
        let index_offset = bytes.len() as u64;
        bytes.extend(frame::encode(FrameType::Index, 1, &write_index(&[]), 0));
        let digest = crate::encode::digest_bytes(xxhash_rust::xxh3::xxh3_128(&[]));
        let end = End { index_offset, pages: 0, blocks: 0, digest };
        bytes.extend(frame::encode(FrameType::End, 2, &end.write(), 0));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        Reader::new(FileMap::from_file(file).unwrap())
    }

    #[test]
    fn a_file_without_pages_has_none_to_read() {
        let reader = empty(100).unwrap();
        for number in [0, 1, u64::MAX] {
            let read = reader.page(number, &[], &mut [0; PAGE_SIZE]);
            assert!(matches!(read, Err(DecodeError::TooLarge { max: 0, .. })), "{read:?}");
        }
    }

    #[test]
    fn blocks_above_the_limit_are_refused() {
        assert!(matches!(empty(1 << 16), Err(DecodeError::TooLarge { field: "block pages", .. })));
    }

    #[test]
    fn what_is_kept_is_bounded_by_number_and_bytes() {
        let kept = Recent::new(3, 100, Vec::len);
        let get = |key: u32, len: usize| kept.get(key, || Ok(vec![0u8; len])).unwrap();
        let keys = || kept.entries.lock().unwrap().iter().map(|entry| entry.0).collect::<Vec<_>>();
        for key in 0..5 {
            get(key, 10);
        }
        assert_eq!(keys(), [2, 3, 4]);
        get(2, 0);
        get(9, 85);
        assert_eq!(keys(), [2, 9]);
        get(10, 1000);
        assert_eq!(keys(), [10]);
        get(11, 1);
        assert_eq!(keys(), [11]);
    }
}
