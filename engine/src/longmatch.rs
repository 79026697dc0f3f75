//! Long matches: word ranges that an earlier page of the stream, or an older memory image, already holds.
//!
//! zstd sees the few MiB of its group; memory repeats itself over gigabytes: the same library data in every
//! process, the same object at another offset. So every residual page is sampled by content (`mig_simd`'s
//! anchors: the places where a hash of four words has its low bits zero, the same places wherever the words
//! lie), each sample is looked up in a table of earlier samples, and what turns out equal for long enough is
//! taken out before the coder. The window is what the destination has already, so it costs no memory there.
//! The idea is rzip's and lrzip's long-range matching, on words.
//!
//! Three steps, so that only the middle one is serial: anchors are computed with the scan, [`Finder::probe`]
//! runs in stream order, and [`matches_of`] compares and extends in parallel again. Older memory images are sampled
//! before all that ([`Finder::learn`]), more thinly: they are as large as the guest, and the table is not.

use std::ops::Range;

use crate::page::{PAGE_SIZE, PAGE_WORDS, Page};
use crate::table::Table;

/// Table slots at most, as a power of two: 64 MiB, whatever the size of the guest; twice that with older images.
const MAX_TABLE_BITS: u32 = 23;
/// Table slots for each page of a small guest, as a power of two.
const PAGE_SLOT_BITS: u32 = 6;
/// Bits of a table entry that hold a word address plus one: 2 TiB of guest.
const ADDRESS_BITS: u32 = 38;
/// Bits above them that say which space it is in; the rest is a tag from the hash.
const SPACE_BITS: u32 = 4;
const PLACE_BITS: u32 = ADDRESS_BITS + SPACE_BITS;

/// What the long-match step of an effort looks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    /// One position in 2^sparsity is sampled.
    pub(crate) sparsity: u32,
    /// Shorter matches are left to zstd.
    pub(crate) min_words: usize,
}

/// Where the words of a page are found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    /// First word of the page that is covered.
    pub(crate) start: u16,
    /// Words covered, at least 1.
    pub(crate) words: u16,
    /// 0 for this stream, `1 + n` for reference `n`.
    pub(crate) space: u8,
    /// Address of the first word there: page number times 512, plus the word's place in the page.
    pub(crate) source: u64,
}

impl Match {
    /// The words that are covered.
    pub(crate) fn words(&self) -> Range<usize> {
        let start = usize::from(self.start);
        start..start + usize::from(self.words)
    }

    /// The bytes of the source page that they come from.
    pub(crate) fn source_bytes(&self) -> Range<usize> {
        let start = (self.source % PAGE_WORDS as u64) as usize * 8;
        start..start + usize::from(self.words) * 8
    }

    /// The bytes that are covered.
    pub(crate) fn bytes(&self) -> Range<usize> {
        let words = self.words();
        words.start * 8..words.end * 8
    }
}

/// A place that may match.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Word of the page.
    position: u16,
    /// As in [`Match`].
    space: u8,
    address: u64,
}

impl Candidate {
    /// The page of the guest's own that it names, if it is one.
    pub(crate) fn guest_page(&self) -> Option<u64> {
        (self.space == 0).then_some(self.address / PAGE_WORDS as u64)
    }

    /// The space and the word address of what would be the whole page, if it matched at this distance; `None` for one that
    /// starts before its space does.
    pub(crate) fn page_start(&self) -> Option<(u8, i64)> {
        let start = self.address.checked_sub(self.position.into())?;
        Some((self.space, start as i64))
    }
}

/// Gives the pages that matches may come from.
pub(crate) trait Sources {
    /// A page of a space: mapped bytes where they lie, others through `scratch`; `None` for zeros, and for what
    /// can't be read.
    fn page<'p>(&'p self, space: u8, page: u64, scratch: &'p mut Page) -> Option<&'p Page>;
}

/// Samples of all residual pages so far.
#[derive(Debug)]
pub(crate) struct Finder {
    table: Table,
    /// The bits of a hash above these choose its slot.
    shift: u32,
}

impl Finder {
    /// A table for a guest of `page_count` pages.
    pub(crate) fn new(page_count: u64) -> Self {
        let bits = (page_count.max(64).ilog2() + 1 + PAGE_SLOT_BITS).min(MAX_TABLE_BITS);
        Finder { table: Table::new(1 << bits), shift: 64 - bits }
    }

    /// The same, still without samples, with as much room again: for older images.
    pub(crate) fn with_room_for_older(self) -> Self {
        Finder { table: Table::new(2 * self.table.len()), shift: self.shift - 1 }
    }

    /// Adds a page's anchors without looking them up: of an older image, say. `positions` and `hashes` are as
    /// `mig_simd::anchors` gives them.
    pub(crate) fn learn(&mut self, space: u8, page: u64, positions: &[u16], hashes: &[u64]) {
        if page >= 1 << (ADDRESS_BITS - 9) || space >= 1 << SPACE_BITS {
            return;
        }
        let place = u64::from(space) << ADDRESS_BITS | (page * PAGE_WORDS as u64 + 1);
        for (&position, &hash) in positions.iter().zip(hashes) {
            self.table[(hash >> self.shift) as usize] = tag(hash) | (place + u64::from(position));
        }
    }

    /// Looks up a page's anchors, then adds them.
    pub(crate) fn probe(&mut self, page: u64, positions: &[u16], hashes: &[u64], out: &mut Vec<Candidate>) {
        // Looking up everything before adding anything keeps a page from matching itself, and lets the
        // table's cache misses overlap.
        for (&position, &hash) in positions.iter().zip(hashes) {
            let entry = self.table[(hash >> self.shift) as usize];
            if entry != 0 && (entry ^ tag(hash)) >> PLACE_BITS == 0 {
                let space = (entry >> ADDRESS_BITS) as u8 & ((1 << SPACE_BITS) - 1);
                let address = (entry & ((1 << ADDRESS_BITS) - 1)) - 1;
                out.push(Candidate { position, space, address });
            }
        }
        self.learn(0, page, positions, hashes);
    }
}

/// Bits of a hash that chose no slot, at the top of an entry.
fn tag(hash: u64) -> u64 {
    hash << (MAX_TABLE_BITS + 1) >> PLACE_BITS << PLACE_BITS
}

/// The `index`th word of a page.
#[cfg(test)]
fn word(page: &Page, index: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&page[index * 8..index * 8 + 8]);
    u64::from_le_bytes(bytes)
}

/// Some words of a page.
fn words(page: &Page, start: usize, end: usize) -> &[[u8; 8]] {
    &page.as_chunks().0[start..end]
}

/// How many words two sequences begin with in common.
fn common<'w>(one: impl Iterator<Item = &'w [u8; 8]>, other: impl Iterator<Item = &'w [u8; 8]>) -> usize {
    one.zip(other).take_while(|(one, other)| one == other).count()
}

/// Appends the page's long matches to `out`, in ascending order and without overlap: the candidates, whose bytes `sources`
/// gives, extended as far as they hold. If only some words are `wanted` (bit `i % 64` of `wanted[i / 64]` for word `i`), a match
/// must have enough of those.
pub(crate) fn matches_of(
    page: &Page,
    candidates: &[Candidate],
    wanted: Option<&[u64; PAGE_WORDS / 64]>,
    sources: &impl Sources,
    search: Search,
    out: &mut Vec<Match>,
) {
    let mut low = 0;
    let mut scratch = [0; PAGE_SIZE];
    for &Candidate { position, space, address } in candidates {
        let position = usize::from(position);
        if position < low || wanted.is_some_and(|wanted| wanted[position / 64] >> (position % 64) & 1 == 0) {
            continue;
        }
        let source_page = address / PAGE_WORDS as u64;
        let at = (address % PAGE_WORDS as u64) as usize;
        let Some(source) = sources.page(space, source_page, &mut scratch) else { continue };
        let after = common(words(page, position, PAGE_WORDS).iter(), words(source, at, PAGE_WORDS).iter());
        let before = common(words(page, low, position).iter().rev(), words(source, 0, at).iter().rev());
        let (start, end) = (position - before, position + after);
        // A hash that collided matches nothing; what surrounds it is no match of ours either.
        if after < 4 || end - start < search.min_words {
            continue;
        }
        if wanted.is_some_and(|wanted| count_ones(wanted, start, end) < search.min_words) {
            continue;
        }
        out.push(Match {
            start: start as u16,
            words: (end - start) as u16,
            space,
            source: address - before as u64,
        });
        low = end;
    }
}

/// How many bits from `start` up to `end` are set.
pub(crate) fn count_ones(mask: &[u64; PAGE_WORDS / 64], start: usize, end: usize) -> usize {
    (start..end).filter(|&index| mask[index / 64] >> (index % 64) & 1 != 0).count()
}

#[cfg(test)]
mod tests {
    use mig_simd::{Anchors, Level, anchors};

    use super::*;

    const SEARCH: Search = Search { sparsity: 2, min_words: 8 };

    fn random_page(seed: u64) -> Page {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        std::array::from_fn(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
    }

    struct Pages<'a>(&'a [Page]);

    impl Sources for Pages<'_> {
        fn page<'p>(&'p self, space: u8, page: u64, _: &'p mut Page) -> Option<&'p Page> {
            assert_eq!(space, 0);
            self.0.get(page as usize)
        }
    }

    fn find(pages: &[Page]) -> Vec<Vec<Match>> {
        let mut finder = Finder::new(pages.len() as u64);
        let level = Level::best();
        let mut all = Vec::new();
        for (number, page) in pages.iter().enumerate() {
            let mut sampled = Anchors::default();
            anchors(level, page, SEARCH.sparsity, &mut sampled);
            let (mut candidates, mut found) = (Vec::new(), Vec::new());
            finder.probe(number as u64, sampled.positions(), sampled.hashes(), &mut candidates);
            matches_of(page, &candidates, None, &Pages(pages), SEARCH, &mut found);
            for found in &found {
                assert_eq!(found.space, 0);
                for i in 0..usize::from(found.words) {
                    let source = found.source as usize + i;
                    let bytes = &pages[source / PAGE_WORDS];
                    assert_eq!(word(page, usize::from(found.start) + i), word(bytes, source % PAGE_WORDS));
                }
            }
            all.push(found);
        }
        all
    }

    #[test]
    fn a_moved_range_is_found_whole() {
        let one = random_page(1);
        let mut two = random_page(2);
        two[800..2800].copy_from_slice(&one[1600..3600]);
        let found = find(&[one, two]);
        assert!(found[0].is_empty());
        assert_eq!(found[1], [Match { start: 100, words: 250, space: 0, source: 200 }]);
    }

    #[test]
    fn what_was_learned_of_another_space_is_found_there() {
        let (one, mut two) = (random_page(5), random_page(6));
        two[800..2800].copy_from_slice(&one[1600..3600]);
        let level = Level::best();
        let mut finder = Finder::new(100);
        let mut sampled = Anchors::default();
        anchors(level, &one, SEARCH.sparsity, &mut sampled);
        finder.learn(3, 70, sampled.positions(), sampled.hashes());
        anchors(level, &two, SEARCH.sparsity, &mut sampled);
        let (mut candidates, mut found) = (Vec::new(), Vec::new());
        finder.probe(0, sampled.positions(), sampled.hashes(), &mut candidates);
        struct Other(Page);
        impl Sources for Other {
            fn page<'p>(&'p self, space: u8, page: u64, _: &'p mut Page) -> Option<&'p Page> {
                ((space, page) == (3, 70)).then_some(&self.0)
            }
        }
        matches_of(&two, &candidates, None, &Other(one), SEARCH, &mut found);
        assert_eq!(found, [Match { start: 100, words: 250, space: 3, source: 70 * 512 + 200 }]);
    }

    #[test]
    fn a_page_does_not_match_itself() {
        let mut page = random_page(3);
        page.copy_within(0..2048, 2048);
        assert!(find(&[page])[0].is_empty());
    }

    #[test]
    fn only_matches_of_wanted_words_are_kept() {
        let one = random_page(4);
        let mut two = random_page(5);
        two[800..2800].copy_from_slice(&one[800..2800]);
        let level = Level::best();
        let mut finder = Finder::new(2);
        let (mut sampled, mut candidates) = (Anchors::default(), Vec::new());
        anchors(level, &one, SEARCH.sparsity, &mut sampled);
        finder.learn(0, 0, sampled.positions(), sampled.hashes());
        anchors(level, &two, SEARCH.sparsity, &mut sampled);
        finder.probe(1, sampled.positions(), sampled.hashes(), &mut candidates);
        assert!(candidates.iter().all(|candidate| candidate.page_start() == Some((0, 0))));
        let find = |wanted: &[u64; 8]| {
            let mut found = Vec::new();
            matches_of(&two, &candidates, Some(wanted), &Pages(&[one]), SEARCH, &mut found);
            found
        };
        let whole = Match { start: 100, words: 250, space: 0, source: 100 };
        assert_eq!(find(&[!0; 8]), [whole]);
        assert_eq!(find(&[0, 0, !0, 0, 0, 0, 0, 0]), [whole]);
        // Seven words are too few, and so are those outside.
        assert_eq!(find(&[0, 0, 0x7f, 0, 0, 0, 0, 0]), []);
        assert_eq!(find(&[!0, 0, 0, 0, 0, 0, !0, !0]), []);
    }
}
