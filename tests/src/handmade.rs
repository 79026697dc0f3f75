//! Small streams by hand, from `docs/format.md` alone: the mirror of [`crate::reference`].
//!
//! [`Builder`] writes what it is told to, whether that is sensible or not: it is for tests that know what each run of a
//! block should be, and for streams that a sane encoder would not write. It chooses nothing and compresses badly.

pub mod cases;
mod coder;
mod places;
mod residual;

pub use coder::{NumberEncoder, PositionsEncoder, RangeEncoder, TreeEncoder};
pub(crate) use coder::{columns, list};
pub(crate) use places::encode as places;
pub use places::{Places, Where, of_pages as places_of};

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::reference::{LongMatch, Page, What};

/// The version of the format that is written here.
pub const VERSION: u8 = 2;

/// Numbers of the frame types.
pub mod frame_type {
    /// The first frame.
    pub const HEADER: u8 = 1;
    /// Bytes that belong to no page.
    pub const OPAQUE: u8 = 2;
    /// Pages.
    pub const BLOCK: u8 = 3;
    /// Where the blocks are.
    pub const INDEX: u8 = 4;
    /// The last frame.
    pub const END: u8 = 5;
    /// Bytes of a session that are not memory.
    pub const PIECE: u8 = 6;
    /// One more reference.
    pub const REFERENCE: u8 = 7;
}

/// What goes into a header frame; the fields are as the document names them.
#[derive(Clone, Debug)]
pub struct Head {
    /// 0 raw, 1 ELF core, 2 LiME, 3 QEMU mapped-ram.
    pub format: u8,
    /// Bit 0: every block can be decoded alone.
    pub flags: u8,
    /// 0 to 4.
    pub effort: u8,
    /// The most pages that a block holds.
    pub block_pages: u64,
    /// Bytes of the image's file.
    pub file_len: u64,
    /// `file_offset`, `pages` and `address` (as stored: plus one).
    pub segments: Vec<(u64, u64, u64)>,
    /// `kind`, `identity`, `blocks` and `name`.
    pub references: Vec<(u8, [u8; 16], u64, String)>,
}

impl Head {
    /// A raw image of so many pages, and nothing else.
    pub fn raw(pages: u64) -> Self {
        let segments = if pages == 0 { vec![] } else { vec![(0, pages, 1)] };
        Self {
            format: 0,
            flags: 0,
            effort: 2,
            block_pages: 64,
            file_len: pages * 4096,
            segments,
            references: vec![],
        }
    }

    fn meta(&self) -> Vec<u8> {
        let mut meta = vec![self.format, self.flags, self.effort];
        varint(&mut meta, self.block_pages);
        varint(&mut meta, self.file_len);
        varint(&mut meta, self.segments.len() as u64);
        for &(file_offset, pages, address) in &self.segments {
            varint(&mut meta, file_offset);
            varint(&mut meta, pages);
            varint(&mut meta, address);
        }
        varint(&mut meta, self.references.len() as u64);
        for (kind, identity, blocks, name) in &self.references {
            meta.push(*kind);
            meta.extend(identity);
            varint(&mut meta, *blocks);
            varint(&mut meta, name.len() as u64);
            meta.extend(name.as_bytes());
        }
        meta
    }
}

/// What goes into a block.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// The live round.
    pub round: u64,
    /// First page and number of pages of each range, in the order of the set.
    pub ranges: Vec<(u64, u64)>,
    /// Whether the set is written as a list.
    pub list: bool,
    /// Each run's pages and what they are.
    pub runs: Vec<(u64, What)>,
    /// The pages as they should come out, in the order of the set. Literals, digest and checks are made from these.
    /// Those that are left for later may be anything.
    pub truth: Vec<Page>,
    /// The class of each residual page.
    pub classes: Vec<u8>,
    /// The long matches of each residual page, if there are any in the block.
    pub matches: Option<Vec<Vec<LongMatch>>>,
    /// Whether it has checks.
    pub checks: bool,
    /// The addresses of residual pages, if there are any in the block.
    pub addresses: Option<Vec<Places>>,
    /// The bases of residual pages, if there are any in the block.
    pub bases: Option<Vec<Places>>,
    /// The words of the base of each residual page that has one; nothing else here knows them.
    pub base_words: Vec<Option<Page>>,
    /// Whether words that moved against those are told by how far.
    pub moved: bool,
    /// Whether pieces, other than checks, are zstd; groups then of packed words.
    pub zstd: bool,
    /// Classes whose groups are raw all the same.
    pub raw_classes: Vec<u8>,
    /// The most pages of a group; 0 for no limit.
    pub group_pages: usize,
}

/// Writes a stream, frame after frame.
#[derive(Clone, Debug)]
pub struct Builder {
    head: Head,
    stream: Vec<u8>,
    frames: u64,
    /// Offset, first page and pages of each block.
    blocks: Vec<(u64, u64, u64)>,
    /// Whether each block has one range, which starts where that of the one before ends.
    in_order: bool,
    /// Pages that the blocks bring.
    brought: u64,
    digests: Vec<u8>,
}

impl Builder {
    /// A stream that starts with this header.
    pub fn new(head: Head) -> Self {
        let meta = head.meta();
        let mut builder = Self {
            head,
            stream: vec![],
            frames: 0,
            blocks: vec![],
            in_order: true,
            brought: 0,
            digests: vec![],
        };
        builder.frame(frame_type::HEADER, &meta, &[]);
        builder
    }

    /// The stream so far.
    pub fn bytes(&self) -> &[u8] {
        &self.stream
    }

    /// Adds a frame of any kind.
    pub fn frame(&mut self, kind: u8, meta: &[u8], data: &[u8]) {
        let mut head = b"MiGf".to_vec();
        head.extend([VERSION, kind, 0, 0]);
        head.extend((meta.len() as u32).to_le_bytes());
        head.extend((data.len() as u32).to_le_bytes());
        head.extend(self.frames.to_le_bytes());
        let checksum = xxh3_64(&[&head[..], meta].concat());
        self.stream.extend(head);
        self.stream.extend(checksum.to_le_bytes());
        self.stream.extend(meta);
        self.stream.extend(data);
        self.frames += 1;
    }

    /// Adds an opaque frame.
    pub fn opaque(&mut self, file_offset: u64, bytes: &[u8], zstd: bool) {
        let (mut meta, mut data) = (vec![], vec![]);
        varint(&mut meta, file_offset);
        meta.extend(xxh3_64(bytes).to_le_bytes());
        piece(&mut meta, &mut data, bytes, zstd);
        self.frame(frame_type::OPAQUE, &meta, &data);
    }

    /// Adds a block.
    pub fn block(&mut self, block: &Block) {
        let (meta, data) = self.block_parts(block);
        let pages = block.truth.len() as u64;
        let end = self.blocks.last().map_or(0, |&(_, first, pages)| first + pages);
        self.in_order &= block.ranges == [(end, pages)];
        self.blocks.push((self.stream.len() as u64, block.ranges[0].0, pages));
        self.frame(frame_type::BLOCK, &meta, &data);
    }

    fn block_parts(&mut self, block: &Block) -> (Vec<u8>, Vec<u8>) {
        let numbers: Vec<u64> =
            block.ranges.iter().flat_map(|&(first, pages)| first..first + pages).collect();
        let whats: Vec<What> =
            block.runs.iter().flat_map(|&(pages, what)| vec![what; pages as usize]).collect();
        let residual: Vec<usize> = (0..whats.len()).filter(|&i| whats[i] == What::Residual).collect();
        let fingerprints: Vec<[u8; 16]> =
            block.truth.iter().map(|page| xxh3_128(page).to_le_bytes()).collect();
        let brought: Vec<u8> =
            (0..whats.len()).filter(|&i| whats[i] != What::Later).flat_map(|i| fingerprints[i]).collect();
        self.brought += brought.len() as u64 / 16;
        let digest = xxh3_128(&brought).to_le_bytes();
        self.digests.extend(digest);

        let (mut meta, mut data) = (vec![], vec![]);
        varint(&mut meta, block.round);
        page_set(&mut meta, &block.ranges, block.list);
        meta.extend(digest);
        let kinds: Vec<u8> = self.head.references.iter().map(|reference| reference.0).collect();
        let columns = coder::columns(&block.runs, &block.classes, &numbers, &kinds);
        varint(&mut meta, columns.len() as u64);
        meta.extend(columns);
        let flags = [
            block.matches.is_some(),
            block.checks,
            block.addresses.is_some(),
            block.bases.is_some(),
            block.moved,
        ];
        meta.push((0..).zip(flags).map(|(bit, set)| u8::from(set) << bit).sum());
        // Runs that go beyond the set have pages of no number.
        let own: Vec<u64> =
            residual.iter().map(|&ordinal| numbers.get(ordinal).copied().unwrap_or_default()).collect();
        if let Some(matches) = &block.matches {
            piece(&mut meta, &mut data, &matches_columns(matches, &own), block.zstd);
        }
        if block.checks {
            let checked = |what: &What| !matches!(what, What::Zero | What::Uniform(_) | What::Later);
            let checks: Vec<u8> = whats
                .iter()
                .zip(&fingerprints)
                .filter(|(what, _)| checked(what))
                .flat_map(|(_, fingerprint)| fingerprint[..8].to_vec())
                .collect();
            piece(&mut meta, &mut data, &checks, false);
        }

        for (places, step) in [(&block.addresses, places::PAGES), (&block.bases, places::WORDS)] {
            let Some(places) = places else { continue };
            let coded = places::encode(places, step);
            varint(&mut meta, coded.len() as u64);
            meta.extend(coded);
        }
        residual::groups(&mut meta, &mut data, block, &residual, &own);
        (meta, data)
    }

    /// Adds an index frame; gives its offset.
    pub fn index(&mut self) -> u64 {
        let mut meta = vec![];
        varint(&mut meta, self.blocks.len() as u64);
        let (mut last_offset, mut end) = (0, 0);
        for &(offset, first, pages) in &self.blocks {
            varint(&mut meta, offset - last_offset);
            varint(&mut meta, first - end);
            varint(&mut meta, pages);
            last_offset = offset;
            end = first + pages;
        }
        let at = self.stream.len() as u64;
        self.frame(frame_type::INDEX, &meta, &[]);
        at
    }

    /// Adds an end frame that says that the index is at `index`.
    pub fn end(&mut self, index: u64) {
        let mut meta = index.to_le_bytes().to_vec();
        meta.extend(self.brought.to_le_bytes());
        meta.extend((self.blocks.len() as u64).to_le_bytes());
        meta.extend(xxh3_128(&self.digests).to_le_bytes());
        self.frame(frame_type::END, &meta, &[]);
    }

    /// Adds an index, where the blocks are in order, and the end, and gives the whole stream.
    pub fn finish(mut self) -> Vec<u8> {
        let index = if self.in_order { self.index() } else { 0 };
        self.end(index);
        self.stream
    }
}

/// Makes the checksum of the frame at `offset` right again after its head or meta part was changed.
pub fn reseal(stream: &mut [u8], offset: usize) {
    let mut len = [0; 4];
    len.copy_from_slice(&stream[offset + 8..offset + 12]);
    let meta = &stream[offset + 32..offset + 32 + u32::from_le_bytes(len) as usize];
    let checksum = xxh3_64(&[&stream[offset..offset + 24], meta].concat());
    stream[offset + 24..offset + 32].copy_from_slice(&checksum.to_le_bytes());
}

/// Appends a varint.
pub fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// One zstd frame.
pub fn zstd(raw: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(raw, ruzstd::encoding::CompressionLevel::Fastest)
}

fn piece(meta: &mut Vec<u8>, data: &mut Vec<u8>, raw: &[u8], compress: bool) {
    if compress {
        return zstd_piece(meta, data, 1, raw);
    }
    meta.push(0);
    varint(meta, raw.len() as u64);
    data.extend(raw);
}

/// A piece of codec 1 or 2.
fn zstd_piece(meta: &mut Vec<u8>, data: &mut Vec<u8>, codec: u8, raw: &[u8]) {
    let coded = zstd(raw);
    meta.push(codec);
    varint(meta, raw.len() as u64);
    varint(meta, coded.len() as u64);
    meta.extend(xxh3_64(&coded).to_le_bytes());
    data.extend(coded);
}

/// A page set, from its count on.
fn page_set(meta: &mut Vec<u8>, ranges: &[(u64, u64)], as_list: bool) {
    if as_list {
        let coded = list(ranges);
        varint(meta, 0);
        varint(meta, ranges.iter().map(|range| range.1).sum());
        varint(meta, coded.len() as u64);
        meta.extend(coded);
        return;
    }
    varint(meta, ranges.len() as u64);
    let mut end = 0;
    for &(first, pages) in ranges {
        varint(meta, first - end);
        varint(meta, pages);
        end = first + pages;
    }
}

fn matches_columns(matches: &[Vec<LongMatch>], pages: &[u64]) -> Vec<u8> {
    let mut columns = [vec![], vec![], vec![], vec![]];
    let mut last = (0, 0);
    for (matches, &page) in matches.iter().zip(pages) {
        varint(&mut columns[0], matches.len() as u64);
        let mut end = 0;
        for m in matches {
            varint(&mut columns[1], m.start - end);
            varint(&mut columns[2], m.words - 1);
            end = m.start + m.words;
            let displacement = (page * 512 + m.start).wrapping_sub(m.source) as i64;
            if (m.space, displacement) == last {
                varint(&mut columns[3], 0);
            } else {
                varint(&mut columns[3], m.space + 1);
                varint(&mut columns[3], ((displacement << 1) ^ (displacement >> 63)) as u64);
                last = (m.space, displacement);
            }
        }
    }
    let mut out = vec![];
    for column in &columns {
        varint(&mut out, column.len() as u64);
    }
    out.extend(columns.concat());
    out
}

/// Numbers that look random and are the same each time (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.word() % limit
    }

    /// A number of so many bits, at most 64.
    pub fn bits(&mut self, count: u32) -> u64 {
        if count == 0 { 0 } else { self.word() >> (64 - count) }
    }

    /// A page of random bytes.
    pub fn page(&mut self) -> Page {
        let mut page = [0; 4096];
        for bytes in page.chunks_exact_mut(8) {
            bytes.copy_from_slice(&self.word().to_le_bytes());
        }
        page
    }
}
