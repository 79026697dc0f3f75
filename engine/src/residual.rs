//! Residual groups: pages of one class, coded together.
//!
//! What a group holds is the literal words of its pages, those that no long match covers. A quarter of them and more
//! are zero, scattered between pointers and counters: they are told by a mask of 64 bytes a page, and zstd at one of its low levels, or
//! the word coder, codes the others and then the masks. That is smaller and faster than zstd on all words; what else was tried is
//! in `docs/benchmarks.md`. A group that does not shrink is stored as it is.

use crossbeam::queue::ArrayQueue;
use mig_simd::{Level, relocated, self_relative, word_diff, word_patch};
use xxhash_rust::xxh3::xxh3_64;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, find_frame_compressed_size};

use crate::error::{DecodeError, EncodeError};
use crate::format::block::{Codec, MASK_LEN, Piece};
use crate::longmatch::{Match, Search};
use crate::options::Effort;
use crate::page::{PAGE_SIZE, PAGE_WORDS, Page};
use crate::wlz;

/// How a zstd frame begins; skippable ones begin otherwise.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How an effort codes residual pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    /// Long matches, if any.
    pub(crate) search: Option<Search>,
    /// Pages in a group at most.
    pub(crate) group_pages: u32,
    coder: Coder,
}

/// What codes a group's words.
#[derive(Clone, Copy, Debug)]
enum Coder {
    Store,
    /// zstd, at this level, and with a window of this power of two instead of the level's own.
    Zstd(i32, Option<u32>),
    /// The word coder.
    Words(wlz::Parse),
}

impl Recipe {
    /// Classes are wanted, and nothing is coded.
    pub(crate) const CLASSES: Recipe =
        Recipe { search: None, group_pages: 1 << 10, coder: Coder::Zstd(1, None) };

    /// With `random_access`, groups are small and nothing refers to other groups. With an older image, half as many pages are left over, so
    /// each may take longer.
    pub(crate) fn new(effort: Effort, random_access: bool, older: bool) -> Self {
        let recipe = match effort {
            Effort::Store => Recipe { search: None, group_pages: 1 << 14, coder: Coder::Store },
            Effort::Fast => Recipe {
                search: Some(Search { sparsity: 5, min_words: 32 }),
                group_pages: 1 << 10,
                coder: Coder::Zstd(1, None),
            },
            Effort::Balanced => Recipe {
                search: Some(Search { sparsity: 3, min_words: 16 }),
                group_pages: 1 << 12,
                coder: Coder::Zstd(if older { 5 } else { 4 }, Some(23)),
            },
            Effort::Dense => Recipe {
                search: Some(Search { sparsity: 3, min_words: 16 }),
                group_pages: 1 << 13,
                coder: Coder::Words(wlz::Parse::Lazy),
            },
            Effort::Max => Recipe {
                search: Some(Search { sparsity: 3, min_words: 16 }),
                group_pages: 1 << 13,
                coder: Coder::Words(wlz::Parse::Optimal),
            },
        };
        if random_access { Recipe { search: None, group_pages: 32, ..recipe } } else { recipe }
    }

    /// Whether groups are coded at all.
    pub(crate) fn compresses(&self) -> bool {
        !matches!(self.coder, Coder::Store)
    }
}

/// What coding a group takes, kept for the next one: the coder's tables, and buffers whose memory is there already.
pub(crate) struct GroupCoder {
    tables: Tables,
    /// Words of the pages so far that are neither zero nor covered by matches.
    words: Vec<u8>,
    /// Which words they are.
    masks: Vec<u8>,
    /// Bytes of literals, zero or not.
    literal_len: usize,
    scratch: Box<Scratch>,
    coded: Vec<u8>,
}

enum Tables {
    None,
    Zstd(Compressor<'static>),
    Words(wlz::Encoder),
}

struct Scratch {
    rest: Page,
    exchanged: Page,
    words: [u64; PAGE_WORDS],
}

const ZERO: Page = [0; PAGE_SIZE];

/// What a page's words are coded against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Against<'p> {
    /// Nothing: words that are not stored are 0, as with an address.
    Zero,
    /// The virtual address at which the guest sees the page: pointers into their own neighbourhood are distances.
    Address(u64),
    /// A page that it is like: words that are not stored are as there.
    Base(&'p Page),
    /// The same; pointers that moved against it are distances.
    Moved(&'p Page),
}

impl<'p> Against<'p> {
    /// The base of a page, if it has one, in a block where pointers that moved are distances or not; else its address, if it has one.
    pub(crate) fn new(base: Option<&'p Page>, moved: bool, address: Option<u64>) -> Self {
        match base {
            Some(base) if moved => Against::Moved(base),
            Some(base) => Against::Base(base),
            None => address.map_or(Against::Zero, Against::Address),
        }
    }

    /// Whether there is a page that it is like.
    pub(crate) fn is_base(self) -> bool {
        matches!(self, Against::Base(_) | Against::Moved(_))
    }

    /// What words that are not stored are as.
    fn base(self) -> &'p Page {
        match self {
            Against::Zero | Against::Address(_) => &ZERO,
            Against::Base(base) | Against::Moved(base) => base,
        }
    }

    /// Exchanges the pointers in `page` that are coded as distances, and back: fills `out`, unless there are none.
    fn exchange(self, level: Level, page: &Page, out: &mut Page) -> bool {
        match self {
            Against::Zero | Against::Base(_) => return false,
            Against::Address(address) => self_relative(level, page, address, out),
            Against::Moved(base) => relocated(level, page, base, out),
        }
        true
    }
}

/// Idle group coders; there are never more than threads that code at once.
pub(crate) struct GroupCoders {
    recipe: Recipe,
    idle: ArrayQueue<GroupCoder>,
}

impl std::fmt::Debug for GroupCoders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupCoders").field("recipe", &self.recipe).finish_non_exhaustive()
    }
}

impl GroupCoders {
    pub(crate) fn new(recipe: Recipe) -> Self {
        GroupCoders { recipe, idle: ArrayQueue::new(64) }
    }

    /// A coder without pages.
    pub(crate) fn take(&self) -> Result<GroupCoder, EncodeError> {
        if let Some(mut coder) = self.idle.pop() {
            coder.words.clear();
            coder.masks.clear();
            coder.literal_len = 0;
            return Ok(coder);
        }
        let tables = match self.recipe.coder {
            Coder::Store => Tables::None,
            Coder::Zstd(level, window) => Tables::Zstd(new_compressor(level, window)?),
            Coder::Words(parse) => Tables::Words(wlz::Encoder::new(parse)),
        };
        let scratch = Box::new(Scratch { rest: ZERO, exchanged: ZERO, words: [0; PAGE_WORDS] });
        let (words, masks, coded) = Default::default();
        Ok(GroupCoder { tables, words, masks, literal_len: 0, scratch, coded })
    }

    /// Gives a coder back.
    pub(crate) fn put(&self, coder: GroupCoder) {
        // One too many is dropped: that frees it.
        drop(self.idle.push(coder));
    }
}

fn new_compressor(level: i32, window: Option<u32>) -> Result<Compressor<'static>, EncodeError> {
    let fail = |error: std::io::Error| EncodeError::Zstd(error.to_string());
    let mut compressor = Compressor::new(level).map_err(fail)?;
    // Checksums are ours, lengths are in the block's meta.
    compressor.set_parameter(CParameter::ContentSizeFlag(false)).map_err(fail)?;
    compressor.set_parameter(CParameter::ChecksumFlag(false)).map_err(fail)?;
    if let Some(window) = window {
        compressor.set_parameter(CParameter::WindowLog(window)).map_err(fail)?;
    }
    Ok(compressor)
}

impl GroupCoder {
    /// Makes room for so many pages at once.
    pub(crate) fn reserve(&mut self, pages: usize) {
        self.words.reserve(pages * (PAGE_SIZE + MASK_LEN));
        self.masks.reserve(pages * MASK_LEN);
    }

    /// Adds the next page of the group: the words that no match covers and that are not as in what the page is coded against. Returns how
    /// many these were.
    pub(crate) fn push(
        &mut self,
        level: Level,
        page: &Page,
        matches: &[Match],
        against: Against<'_>,
    ) -> usize {
        let Scratch { rest, exchanged, words } = &mut *self.scratch;
        self.literal_len += PAGE_SIZE;
        let base = against.base();
        let mut page = page;
        if !matches.is_empty() {
            *rest = *page;
            for found in matches {
                rest[found.bytes()].copy_from_slice(&base[found.bytes()]);
                self.literal_len -= found.bytes().len();
            }
            page = rest;
        }
        // Words as in the base stay so, so this does not change which words are stored.
        if against.exchange(level, page, exchanged) {
            page = exchanged;
        }
        let mut mask = [0; 8];
        let count = word_diff(level, page, base, &mut mask, words);
        // Nothing to do where words are little-endian already.
        words[..count].iter_mut().for_each(|word| *word = word.to_le());
        self.words.extend_from_slice(bytemuck::cast_slice(&words[..count]));
        mask.iter().for_each(|bits| self.masks.extend_from_slice(&bits.to_le_bytes()));
        count
    }

    /// Codes the pages; `None` if their literals do not shrink.
    pub(crate) fn compress(&mut self) -> Result<Option<(Piece, Vec<u8>)>, EncodeError> {
        self.words.append(&mut self.masks);
        self.coded.clear();
        let codec = match &mut self.tables {
            Tables::None => return Ok(None),
            Tables::Zstd(compressor) => {
                self.coded.reserve(zstd::zstd_safe::compress_bound(self.words.len()));
                let len = compressor.compress_to_buffer(&self.words, &mut self.coded);
                len.map_err(|error| EncodeError::Zstd(error.to_string()))?;
                Codec::Words
            }
            Tables::Words(encoder) => {
                encoder.encode(&self.words, &mut self.coded);
                Codec::Wlz
            }
        };
        if self.coded.len() >= self.literal_len {
            return Ok(None);
        }
        let piece = Piece { codec, ..Piece::zstd(self.words.len(), &self.coded) };
        Ok(Some((piece, self.coded.clone())))
    }
}

/// Codes a block's lists with zstd's default level, whatever the effort: they are short.
pub(crate) fn compress_list(bytes: &[u8]) -> Result<(Piece, Vec<u8>), EncodeError> {
    let coded = zstd::bulk::compress(bytes, 3).map_err(|error| EncodeError::Zstd(error.to_string()))?;
    Ok((Piece::zstd(bytes.len(), &coded), coded))
}

impl Piece {
    fn zstd(raw_len: usize, coded: &[u8]) -> Self {
        Piece {
            codec: Codec::Zstd,
            raw_len: raw_len as u64,
            coded_len: coded.len() as u64,
            checksum: xxh3_64(coded),
        }
    }

    /// A piece that is stored as it is.
    pub(crate) fn raw(len: usize) -> Self {
        Piece { codec: Codec::Raw, raw_len: len as u64, coded_len: len as u64, checksum: 0 }
    }

    /// Decodes a piece from exactly its coded bytes.
    pub(crate) fn decode(&self, coded: &[u8], field: &'static str) -> Result<Vec<u8>, DecodeError> {
        match self.codec {
            Codec::Raw => Ok(coded.to_vec()),
            Codec::Zstd | Codec::Words | Codec::Wlz => {
                if xxh3_64(coded) != self.checksum {
                    return Err(DecodeError::Checksum { field });
                }
                // `raw_len` was checked against the block's pages, so what is allocated for it is bounded by them.
                if self.codec == Codec::Wlz {
                    return wlz::decode(coded, self.raw_len as usize);
                }
                // zstd itself would pass over skippable frames, and go on with a second one.
                let whole =
                    coded.starts_with(&ZSTD_MAGIC) && find_frame_compressed_size(coded) == Ok(coded.len());
                if !whole {
                    return Err(DecodeError::Invalid { field, why: "not just one zstd frame" });
                }
                let fail = |error: std::io::Error| DecodeError::Zstd { field, message: error.to_string() };
                let mut decompressor = Decompressor::new().map_err(fail)?;
                let raw = decompressor.decompress(coded, self.raw_len as usize).map_err(fail)?;
                if raw.len() as u64 != self.raw_len {
                    return Err(DecodeError::Invalid { field, why: "it decodes to another length" });
                }
                Ok(raw)
            }
        }
    }
}

/// Appends the words of a page that its matches leave.
pub(crate) fn push_literals(page: &Page, matches: &[Match], out: &mut Vec<u8>) {
    let mut end = 0;
    for found in matches {
        out.extend_from_slice(&page[end..found.bytes().start]);
        end = found.bytes().end;
    }
    out.extend_from_slice(&page[end..]);
}

/// The nonzero words of a group's pages, and which they are: what [`Codec::Words`] and [`Codec::Wlz`] decode to.
#[derive(Debug)]
pub(crate) struct PackedGroup {
    /// Words of all pages, then the masks.
    bytes: Vec<u8>,
    /// Where each page's words start, and where those of the last one end.
    starts: Vec<u32>,
}

impl PackedGroup {
    /// Decodes a group of so many pages.
    pub(crate) fn decode(piece: &Piece, coded: &[u8], pages: u32) -> Result<Self, DecodeError> {
        let bytes = piece.decode(coded, "group")?;
        let wrong =
            DecodeError::Invalid { field: "groups", why: "a group's length is not that of its pages" };
        let Some(end) = bytes.len().checked_sub(pages as usize * MASK_LEN) else { return Err(wrong) };
        let mut start = 0u32; // at most 2^16 pages of 2^12 bytes
        let mut starts = Vec::with_capacity(pages as usize + 1);
        starts.push(start);
        for mask in bytes[end..].as_chunks::<MASK_LEN>().0 {
            start +=
                8 * mask.as_chunks().0.iter().map(|&bits| u64::from_le_bytes(bits).count_ones()).sum::<u32>();
            starts.push(start);
        }
        if start as usize != end {
            return Err(wrong);
        }
        Ok(PackedGroup { bytes, starts })
    }

    /// Which words of a page are here; `nth` is its place in the group.
    fn mask(&self, nth: usize) -> [u64; 8] {
        let masks = self.starts[self.starts.len() - 1] as usize;
        let mask = &self.bytes[masks + nth * MASK_LEN..][..MASK_LEN];
        let mut words = mask.as_chunks().0.iter().map(|&bits| u64::from_le_bytes(bits));
        std::array::from_fn(|_| words.next().unwrap_or_default())
    }

    /// Puts a page together: its words that are here, and everywhere else what is in the page that it was coded against.
    pub(crate) fn unpack(&self, level: Level, nth: usize, against: Against<'_>, page: &mut Page) {
        let words = &self.bytes[self.starts[nth] as usize..];
        let patched = word_patch(level, against.base(), &self.mask(nth), words, page);
        debug_assert!(patched.is_ok(), "the starts are those of the masks");
        let mut exchanged = ZERO;
        if against.exchange(level, page, &mut exchanged) {
            *page = exchanged;
        }
    }

    /// Checks that no word is here that a match covers.
    pub(crate) fn check_matches(&self, nth: usize, matches: &[Match]) -> Result<(), DecodeError> {
        if matches.is_empty() {
            return Ok(());
        }
        let mask = self.mask(nth);
        for word in matches.iter().flat_map(Match::words) {
            if mask[word / 64] >> (word % 64) & 1 != 0 {
                let why = "a word that a long match covers is in its group";
                return Err(DecodeError::Invalid { field: "groups", why });
            }
        }
        Ok(())
    }

    /// Memory that it takes, about.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.starts)
    }
}

/// Spreads a page's literals over what its matches leave; the rest stays as it was.
///
/// `literals` are as long as that.
pub(crate) fn spread_literals(mut literals: &[u8], matches: &[Match], page: &mut Page) {
    let mut end = 0;
    for found in matches {
        let (head, rest) = literals.split_at(found.bytes().start - end);
        page[end..found.bytes().start].copy_from_slice(head);
        (literals, end) = (rest, found.bytes().end);
    }
    page[end..].copy_from_slice(literals);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_one_zstd_frame_and_nothing_else() {
        let (bytes, skippable) = ([7; 100], [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);
        let (_, frame) = compress_list(&bytes).unwrap();
        let decode = |raw_len, coded: &[u8]| Piece::zstd(raw_len, coded).decode(coded, "test");
        assert_eq!(decode(100, &frame).unwrap(), bytes);
        let bad = [
            (200, [&frame[..], &frame].concat()),
            (100, [&frame[..], &skippable].concat()),
            (100, [&skippable[..], &frame].concat()),
            (100, [&frame[..], &[0]].concat()),
            (100, frame[..frame.len() - 1].to_vec()),
            (0, skippable.to_vec()),
            (0, Vec::new()),
        ];
        for (raw_len, coded) in bad {
            assert!(decode(raw_len, &coded).is_err(), "{coded:x?}");
        }
        // A frame of another length, which its header does not tell.
        assert!(decode(99, &frame).is_err());
        assert!(decode(101, &frame).is_err());
    }
}
