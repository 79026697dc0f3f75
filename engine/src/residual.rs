//! Residual groups: pages of one class, coded together.
//!
//! What a group stores is the literal words of its pages, those that no long match covers, one page after the
//! other. zstd codes them at its own low levels; other parameters, and everything word-wise that was tried in front
//! of it, did not pay (`docs/benchmarks.md`). A group that does not shrink is stored as it is.

use crossbeam::queue::ArrayQueue;
use xxhash_rust::xxh3::xxh3_64;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, find_frame_compressed_size};

use crate::error::{DecodeError, EncodeError};
use crate::format::block::{Codec, Piece};
use crate::longmatch::{Match, Search};
use crate::options::Effort;
use crate::page::{PAGE_SIZE, Page};

/// How a zstd frame begins; skippable ones begin otherwise.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How an effort codes residual pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    /// Long matches, if any.
    pub(crate) search: Option<Search>,
    /// Pages in a group at most.
    pub(crate) group_pages: u32,
    /// zstd's level; `None` stores.
    zstd: Option<i32>,
}

impl Recipe {
    /// Classes are wanted, and nothing is coded.
    pub(crate) const CLASSES: Recipe = Recipe { search: None, group_pages: 1 << 10, zstd: Some(1) };

    /// With `random_access`, groups are small and nothing refers to other groups.
    pub(crate) fn new(effort: Effort, random_access: bool) -> Self {
        let recipe = match effort {
            Effort::Store => Recipe { search: None, group_pages: 1 << 14, zstd: None },
            Effort::Fast => Recipe {
                search: Some(Search { sparsity: 5, min_words: 32 }),
                group_pages: 1 << 10,
                zstd: Some(1),
            },
            // Dense and max are refused where options are read; they code as balanced until they exist.
            Effort::Balanced | Effort::Dense | Effort::Max => Recipe {
                search: Some(Search { sparsity: 3, min_words: 8 }),
                group_pages: 1 << 12,
                zstd: Some(3),
            },
        };
        if random_access { Recipe { search: None, group_pages: 32, ..recipe } } else { recipe }
    }

    /// Whether groups are coded at all.
    pub(crate) fn compresses(&self) -> bool {
        self.zstd.is_some()
    }
}

/// What coding a group takes, kept for the next one: zstd's tables, and buffers whose memory is there already.
pub(crate) struct GroupCoder {
    compressor: Option<Compressor<'static>>,
    /// The group's literals, to be filled before [`GroupCoder::compress`].
    pub(crate) literals: Vec<u8>,
    coded: Vec<u8>,
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

    /// A coder with empty literals.
    pub(crate) fn take(&self) -> Result<GroupCoder, EncodeError> {
        if let Some(mut coder) = self.idle.pop() {
            coder.literals.clear();
            return Ok(coder);
        }
        let compressor = self.recipe.zstd.map(new_compressor).transpose()?;
        Ok(GroupCoder { compressor, literals: Vec::new(), coded: Vec::new() })
    }

    /// Gives a coder back.
    pub(crate) fn put(&self, coder: GroupCoder) {
        // One too many is dropped: that frees it.
        drop(self.idle.push(coder));
    }
}

fn new_compressor(level: i32) -> Result<Compressor<'static>, EncodeError> {
    let fail = |error: std::io::Error| EncodeError::Zstd(error.to_string());
    let mut compressor = Compressor::new(level).map_err(fail)?;
    // Checksums are ours, lengths are in the block's meta.
    compressor.set_parameter(CParameter::ContentSizeFlag(false)).map_err(fail)?;
    compressor.set_parameter(CParameter::ChecksumFlag(false)).map_err(fail)?;
    Ok(compressor)
}

impl GroupCoder {
    /// Codes the literals; `None` if they do not shrink.
    pub(crate) fn compress(&mut self) -> Result<Option<(Piece, Vec<u8>)>, EncodeError> {
        let Some(compressor) = &mut self.compressor else { return Ok(None) };
        self.coded.clear();
        self.coded.reserve(zstd::zstd_safe::compress_bound(self.literals.len()));
        let len = compressor.compress_to_buffer(&self.literals, &mut self.coded);
        let len = len.map_err(|error| EncodeError::Zstd(error.to_string()))?;
        if len >= self.literals.len() {
            return Ok(None);
        }
        Ok(Some((Piece::zstd(self.literals.len(), &self.coded), self.coded.clone())))
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
            Codec::Zstd => {
                if xxh3_64(coded) != self.checksum {
                    return Err(DecodeError::Checksum { field });
                }
                // zstd itself would pass over skippable frames, and go on with a second one.
                let whole =
                    coded.starts_with(&ZSTD_MAGIC) && find_frame_compressed_size(coded) == Ok(coded.len());
                if !whole {
                    return Err(DecodeError::Invalid { field, why: "not just one zstd frame" });
                }
                let fail = |error: std::io::Error| DecodeError::Zstd { field, message: error.to_string() };
                let mut decompressor = Decompressor::new().map_err(fail)?;
                // `raw_len` was checked against the block's pages, so this allocation is bounded by them.
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
        let start = usize::from(found.start) * 8;
        out.extend_from_slice(&page[end..start]);
        end = start + usize::from(found.words) * 8;
    }
    out.extend_from_slice(&page[end..]);
}

/// Puts a page together from literals and matches; returns the literal bytes left.
///
/// `copy` fills words from a match's source.
///
/// # Errors
///
/// Too few literals, or what `copy` gives.
pub(crate) fn rebuild<'l>(
    mut literals: &'l [u8],
    matches: &[Match],
    page: &mut Page,
    mut copy: impl FnMut(&Match, &mut [u8]) -> Result<(), DecodeError>,
) -> Result<&'l [u8], DecodeError> {
    let mut take = |to: &mut [u8]| match literals.split_at_checked(to.len()) {
        Some((head, rest)) => {
            to.copy_from_slice(head);
            literals = rest;
            Ok(())
        }
        None => Err(DecodeError::Truncated {
            field: "group",
            needed: to.len() as u64,
            left: literals.len() as u64,
        }),
    };
    let mut end = 0;
    for found in matches {
        let start = usize::from(found.start) * 8;
        let after = start + usize::from(found.words) * 8;
        take(&mut page[end..start])?;
        copy(found, &mut page[start..after])?;
        end = after;
    }
    take(&mut page[end..PAGE_SIZE])?;
    Ok(literals)
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
