//! The long matches of a block as bytes: four columns of varints, then zstd.
//!
//! For each residual page the number of its matches; for each match the literal words before it, its words, and
//! where it comes from. The last is a displacement (own address minus source address), and a single zero
//! when it is that of the match before: a page found elsewhere with a few words changed is one displacement
//! and many zeros.

use crate::error::DecodeError;
use crate::format::limits;
use crate::format::wire::{Input, put_varint, unzigzag, zigzag};
use crate::longmatch::Match;
use crate::page::PAGE_WORDS;

/// The matches of a block's residual pages: all in one list, with the end of each page's part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MatchLists {
    pub(crate) matches: Vec<Match>,
    ends: Vec<u32>,
}

impl MatchLists {
    /// Closes the list of a page: what was pushed since the last call is its own.
    pub(crate) fn end_page(&mut self) {
        self.ends.push(self.matches.len() as u32);
    }

    /// Appends the pages of another list.
    pub(crate) fn append(&mut self, other: &MatchLists) {
        let base = self.matches.len() as u32;
        self.matches.extend_from_slice(&other.matches);
        self.ends.extend(other.ends.iter().map(|end| base + end));
    }

    /// The matches of the `index`th page; none for a page beyond the list.
    pub(crate) fn of_page(&self, index: usize) -> &[Match] {
        let Some(&end) = self.ends.get(index) else { return &[] };
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.matches[start as usize..end as usize]
    }

    /// Words that the matches of the `index`th page cover.
    pub(crate) fn covered(&self, index: usize) -> usize {
        self.of_page(index).iter().map(|found| usize::from(found.words)).sum()
    }
}

/// `page_numbers` are those of the residual pages, in order.
pub(crate) fn encode(lists: &MatchLists, page_numbers: impl Iterator<Item = u64>) -> Vec<u8> {
    let [mut counts, mut gaps, mut lengths, mut sources] = [const { Vec::new() }; 4];
    let mut last = (0, 0);
    for (index, page) in page_numbers.enumerate() {
        let matches = lists.of_page(index);
        put_varint(&mut counts, matches.len() as u64);
        let mut end = 0;
        for found in matches {
            put_varint(&mut gaps, u64::from(found.start - end));
            put_varint(&mut lengths, u64::from(found.words) - 1);
            end = found.start + found.words;
            let address = page * PAGE_WORDS as u64 + u64::from(found.start);
            let displacement = address.wrapping_sub(found.source) as i64;
            if (found.space, displacement) == last {
                sources.push(0);
            } else {
                put_varint(&mut sources, u64::from(found.space) + 1);
                put_varint(&mut sources, zigzag(displacement));
                last = (found.space, displacement);
            }
        }
    }
    let mut out = Vec::new();
    for column in [&counts, &gaps, &lengths, &sources] {
        put_varint(&mut out, column.len() as u64);
    }
    for column in [&counts, &gaps, &lengths, &sources] {
        out.extend_from_slice(column);
    }
    out
}

/// Reads the matches of the residual pages with these numbers.
///
/// # Errors
///
/// Anything that [`encode`] does not write: matches beyond a page's end, in no space, sources that cross a
/// page's end or lie outside any memory. Whether the source page is one that may be used is the caller's to check.
pub(crate) fn decode(
    bytes: &[u8],
    page_numbers: impl Iterator<Item = u64>,
    spaces: usize,
) -> Result<MatchLists, DecodeError> {
    let field = "long matches";
    let invalid = |why| DecodeError::Invalid { field, why };
    let mut input = Input::new(bytes);
    let mut lens = [0; 4];
    for len in &mut lens {
        *len = input.varint_max(field, bytes.len() as u64)? as usize;
    }
    let mut columns = [const { None }; 4];
    for (column, len) in columns.iter_mut().zip(lens) {
        *column = Some(Input::new(input.take(len, field)?));
    }
    input.finish(field)?;
    let [Some(mut counts), Some(mut gaps), Some(mut lengths), Some(mut sources)] = columns else {
        return Err(invalid("four columns are needed"));
    };
    let mut lists = MatchLists::default();
    let mut last = (0u8, 0i64);
    for page in page_numbers {
        let mut end = 0;
        for _ in 0..counts.varint_max(field, limits::PAGE_MATCHES)? {
            let room = PAGE_WORDS as u64;
            let start = end + gaps.varint_max(field, room)?;
            let words = lengths.varint_max(field, room)? + 1;
            if start + words > room {
                return Err(invalid("a match ends beyond its page"));
            }
            let space = sources.varint_max(field, spaces as u64)?;
            if space > 0 {
                last = (space as u8 - 1, unzigzag(sources.varint(field)?));
            }
            let address = page * room + start;
            let source = (address as i64).checked_sub(last.1).and_then(|source| u64::try_from(source).ok());
            let source = source.filter(|source| source / room < limits::PAGE_COUNT);
            let source = source.ok_or(invalid("a source lies outside any memory"))?;
            if source % room + words > room {
                return Err(invalid("a source crosses the end of its page"));
            }
            let (start, words) = (start as u16, words as u16);
            lists.matches.push(Match { start, words, space: last.0, source });
            end = u64::from(start + words);
        }
        lists.end_page();
    }
    for column in [counts, gaps, lengths, sources] {
        column.finish(field)?;
    }
    Ok(lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists() -> MatchLists {
        let mut lists = MatchLists::default();
        let mut add = |start, words, space, source| lists.matches.push(Match { start, words, space, source });
        add(0, 100, 0, 512 * 3 + 1);
        add(101, 410, 0, 512 * 3 + 1 + 101);
        lists.end_page();
        lists.end_page();
        lists.matches.push(Match { start: 12, words: 1, space: 2, source: 1 << 30 });
        lists.end_page();
        lists
    }

    #[test]
    fn lists_round_trip() {
        let bytes = encode(&lists(), [10, 11, 500].into_iter());
        assert_eq!(decode(&bytes, [10, 11, 500].into_iter(), 3).unwrap(), lists());
        assert_eq!(lists().covered(0), 510);
        assert_eq!(lists().of_page(7), []);
        // A space that does not exist, one page too few, and damage anywhere must not pass silently or panic.
        assert!(decode(&bytes, [10, 11, 500].into_iter(), 2).is_err());
        assert!(decode(&bytes, [10, 11].into_iter(), 3).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(decode(&damaged, [10, 11, 500].into_iter(), 3).ok(), Some(lists()), "bit {bit}");
        }
    }
}
