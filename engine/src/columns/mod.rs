//! The columns of a block: what each page is, as runs, in a few bits a run.
//!
//! A block's pages are described by runs of one kind: zero, uniform, duplicate, reference, residual, later. The
//! positions of references and duplicates are where the information lies. Pages of one file come back
//! interleaved with those of others, so a run most often goes on where one of the last runs ended, or near
//! it: the coder keeps the last ends as *anchors*, most recently used first, and codes a rank and a small
//! distance. On desktop guests that takes 0.27 byte for each settled page.
//!
//! One function codes each thing in both directions ([`Coder`]), so encoder and decoder cannot drift apart;
//! the independent reading is the slow decoder in `tests/`, written from `docs/format.md`.

mod list;
mod placement;
mod range_coder;

pub(crate) use list::{decode as decode_list, encode as encode_list};
pub(crate) use placement::{Placements, decode as decode_placements, encode as encode_placements};

use crate::class::Class;
use crate::error::DecodeError;
use crate::page::PageSet;
use range_coder::{Coder, Decoder, Encoder, NUMBER_MAX, Number, Tree};

/// What the pages of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// All zero.
    Zero,
    /// One 64-bit word, repeated.
    Uniform(u64),
    /// Equal to pages of this stream, from page number `source` on.
    Duplicate {
        /// The page that the run's first page equals.
        source: u64,
    },
    /// Equal to pages of a reference, from block `position` on.
    Reference {
        /// Place of the reference in the stream's list.
        index: u8,
        /// The block that the run's first page equals.
        position: u64,
    },
    /// None of these: the pages' bytes are in the block's groups.
    Residual,
    /// A later block of the stream has these pages.
    Later,
}

impl Settled {
    /// Number of kinds; the order is the format's.
    pub const KINDS: usize = 6;
    /// Number of kinds of pages that need no coding: the first ones.
    pub const SETTLED: usize = 4;

    /// Place of the kind in the format's list.
    pub fn kind(self) -> usize {
        match self {
            Settled::Zero => 0,
            Settled::Uniform(_) => 1,
            Settled::Duplicate { .. } => 2,
            Settled::Reference { .. } => 3,
            Settled::Residual => 4,
            Settled::Later => 5,
        }
    }

    /// Whether `next` describes the page that lies `distance` pages after one that `self` describes, in the
    /// same run.
    pub(crate) fn continues(self, distance: u64, next: Settled) -> bool {
        match (self, next) {
            (Settled::Duplicate { source: a }, Settled::Duplicate { source: b }) => a + distance == b,
            (Settled::Reference { index: i, position: a }, Settled::Reference { index: j, position: b }) => {
                i == j && a + distance == b
            }
            (a, b) => a == b,
        }
    }
}

/// Some consecutive pages of a block's page set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of pages, at least 1.
    pub pages: u32,
    /// What they are.
    pub settled: Settled,
}

/// Which references address by page number: older memory images, where a page is likely to be found where
/// it was. Disks do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addressing {
    Blocks,
    Pages,
}

/// A block's columns as bytes.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) bytes: Vec<u8>,
    /// About how many of them the runs take; the classes have the others.
    pub(crate) runs_len: usize,
}

/// Codes a block's columns: its runs, then the class of each residual page.
pub(crate) fn encode(pages: &PageSet, runs: &[Run], classes: &[Class], references: &[Addressing]) -> Encoded {
    let mut encoder = Encoder::new();
    let mut models = Models::new(references);
    let mut ordinal = 0;
    for &run in runs {
        let coded = models.code_run(&mut encoder, run, pages.page_at(ordinal));
        debug_assert_eq!(coded, Ok(run));
        ordinal += u64::from(run.pages);
    }
    let runs_len = encoder.len();
    for &class in classes {
        models.code_class(&mut encoder, class as u32);
    }
    Encoded { bytes: encoder.finish(), runs_len }
}

/// Reads a block's columns.
///
/// # Errors
///
/// Runs that do not add up to the page set, unknown kinds and classes, positions that no number holds, and
/// bytes too few or too many. Whether a position exists in its reference is the caller's to check.
pub(crate) fn decode(
    bytes: &[u8],
    pages: &PageSet,
    references: &[Addressing],
) -> Result<(Vec<Run>, Vec<Class>), DecodeError> {
    let mut decoder = Decoder::new(bytes)?;
    let mut models = Models::new(references);
    let (mut runs, mut ordinal, mut residual) = (Vec::new(), 0, 0u64);
    while ordinal < pages.len() {
        let blank = Run { pages: 1, settled: Settled::Zero };
        let run = models.code_run(&mut decoder, blank, pages.page_at(ordinal)).map_err(invalid)?;
        if decoder.overrun() {
            break; // `finish` below says so; without this, hostile bytes could grow `runs` for a while
        }
        if u64::from(run.pages) > pages.len() - ordinal {
            return Err(invalid("a run reaches beyond the block"));
        }
        ordinal += u64::from(run.pages);
        if run.settled == Settled::Residual {
            residual += u64::from(run.pages);
        }
        runs.push(run);
    }
    let mut classes = Vec::with_capacity(residual as usize);
    for _ in 0..residual {
        let class = models.code_class(&mut decoder, 0);
        classes.push(Class::from_id(class).ok_or(invalid("unknown page class"))?);
    }
    decoder.finish()?;
    Ok((runs, classes))
}

fn invalid(why: &'static str) -> DecodeError {
    DecodeError::Invalid { field: "columns", why }
}

/// Most recently used values that the next one is likely to repeat or to come close to.
const ANCHORS: usize = 64;

/// Codes positions by their distance from an earlier one.
#[derive(Debug)]
struct Positions {
    anchors: Vec<i64>,
    mode: [Tree<2>; 4],
    last_mode: usize,
    rank: [Number<4>; 2],
    distance: [Number<4>; 2],
}

impl Positions {
    fn new() -> Self {
        Positions {
            anchors: vec![0],
            mode: std::array::from_fn(|_| Tree::new()),
            last_mode: 0,
            rank: std::array::from_fn(|_| Number::new()),
            distance: std::array::from_fn(|_| Number::new()),
        }
    }

    /// The anchor that makes `value` cheapest: an estimate of the coder's bits, doubled.
    fn nearest(&self, value: i64) -> usize {
        let cost = |(rank, &anchor): (usize, &i64)| {
            let distance = value.abs_diff(anchor);
            let far = if distance == 0 { 0 } else { 8 + 3 * (distance.ilog2() + 1) };
            far + 3 * (rank + 1).ilog2()
        };
        let ranked = self.anchors.iter().enumerate().map(|entry| (cost(entry), entry.0));
        ranked.min().map_or(0, |(_, rank)| rank)
    }

    /// Codes `value`; afterwards `next(value)` are the anchors to add, the likeliest first.
    fn code<C: Coder, const N: usize>(
        &mut self,
        coder: &mut C,
        value: i64,
        next: impl Fn(i64) -> [i64; N],
    ) -> Result<i64, &'static str> {
        let rank = self.nearest(value);
        let away = value.wrapping_sub(self.anchors[rank]);
        let mode = if away == 0 { 0 } else { 1 + u32::from(away < 0) };
        let mode = self.mode[self.last_mode].code(coder, mode) as usize;
        if mode == 3 {
            return Err("unknown position mode");
        }
        self.last_mode = mode;
        let rank = self.rank[usize::from(mode > 0)].code(coder, rank as u64) as usize;
        let &anchor = self.anchors.get(rank).ok_or("anchor rank out of range")?;
        let away = if mode == 0 {
            0
        } else {
            // Decoding, `away` has no meaning and no bounds.
            let given = away.unsigned_abs().saturating_sub(1).min(NUMBER_MAX);
            let magnitude = self.distance[mode - 1].code(coder, given);
            if magnitude > NUMBER_MAX {
                return Err("distance out of range");
            }
            let magnitude = magnitude as i64 + 1;
            if mode == 2 { -magnitude } else { magnitude }
        };
        let value = anchor.checked_add(away).ok_or("position out of range")?;
        if away.unsigned_abs() < ANCHORS as u64 {
            self.anchors.remove(rank);
        }
        for anchor in next(value).into_iter().rev() {
            self.anchors.insert(0, anchor);
        }
        self.anchors.truncate(ANCHORS);
        Ok(value)
    }
}

/// Words that uniform pages repeat, most recently used first.
#[derive(Debug)]
struct Words {
    recent: Vec<u64>,
    rank: Number<4>,
}

impl Words {
    fn code(&mut self, coder: &mut impl Coder, word: u64) -> Result<u64, &'static str> {
        let rank = self.recent.iter().position(|&recent| recent == word).unwrap_or(self.recent.len());
        let rank = self.rank.code(coder, rank as u64) as usize;
        let word = match rank {
            _ if rank < self.recent.len() => self.recent.remove(rank),
            _ if rank == self.recent.len() => coder.direct(word, 64),
            _ => return Err("word rank out of range"),
        };
        self.recent.insert(0, word);
        self.recent.truncate(ANCHORS);
        Ok(word)
    }
}

/// A kind that no run has, where there is no run before.
const NO_KIND: usize = 7;

/// Everything that adapts while a block's columns are coded.
#[derive(Debug)]
struct Models<'a> {
    references: &'a [Addressing],
    kind: Vec<Tree<3>>,
    last_kinds: [usize; 2],
    length: Vec<Number<6>>,
    words: Words,
    sources: Positions,
    reference: Number<4>,
    positions: Vec<Positions>,
    class: Vec<Tree<4>>,
    last_classes: [usize; 2],
}

impl<'a> Models<'a> {
    fn new(references: &'a [Addressing]) -> Self {
        Models {
            references,
            kind: vec![Tree::new(); 64],
            last_kinds: [NO_KIND; 2],
            length: vec![Number::new(); 16],
            words: Words { recent: Vec::new(), rank: Number::new() },
            sources: Positions::new(),
            reference: Number::new(),
            positions: references.iter().map(|_| Positions::new()).collect(),
            class: vec![Tree::new(); Class::ALL.len() * Class::ALL.len()],
            last_classes: [0; 2],
        }
    }

    /// Codes one run whose first page has the number `page`.
    fn code_run<C: Coder>(&mut self, coder: &mut C, run: Run, page: u64) -> Result<Run, &'static str> {
        let [before, last] = self.last_kinds;
        let kind = self.kind[last * 8 + before].code(coder, run.settled.kind() as u32) as usize;
        if kind >= Settled::KINDS {
            return Err("unknown kind");
        }
        self.last_kinds = [last, kind];
        let length = &mut self.length[kind * 2 + usize::from(kind == last)];
        let length = length.code(coder, u64::from(run.pages) - 1);
        let pages =
            u32::try_from(length).ok().and_then(|length| length.checked_add(1)).ok_or("run length")?;
        let settled = match kind {
            0 => Settled::Zero,
            1 => {
                let word = if let Settled::Uniform(word) = run.settled { word } else { 0 };
                Settled::Uniform(self.words.code(coder, word)?)
            }
            2 => {
                let source = if let Settled::Duplicate { source } = run.settled { source as i64 } else { 0 };
                let after = i64::from(pages);
                let source = self.sources.code(coder, source, |s| [s.saturating_add(after), s])?;
                Settled::Duplicate { source: u64::try_from(source).map_err(|_| "source below zero")? }
            }
            3 => self.code_reference(coder, run.settled, page, pages)?,
            4 => Settled::Residual,
            _ => Settled::Later,
        };
        Ok(Run { pages, settled })
    }

    fn code_reference<C: Coder>(
        &mut self,
        coder: &mut C,
        settled: Settled,
        page: u64,
        pages: u32,
    ) -> Result<Settled, &'static str> {
        let (index, position) = match settled {
            Settled::Reference { index, position } => (index, position),
            _ => (0, 0), // decoding: the values are read, not given
        };
        let index = self.reference.code(coder, u64::from(index)) as usize;
        let &addressing = self.references.get(index).ok_or("no such reference")?;
        let positions = &mut self.positions[index];
        let (base, step) = match addressing {
            Addressing::Blocks => (0, i64::from(pages)),
            Addressing::Pages => (page as i64, 0),
        };
        let value = (position as i64).wrapping_sub(base);
        let value = positions.code(coder, value, |value| [value.saturating_add(step)])?;
        let position = value.checked_add(base).and_then(|position| u64::try_from(position).ok());
        Ok(Settled::Reference { index: index as u8, position: position.ok_or("position below zero")? })
    }

    fn code_class(&mut self, coder: &mut impl Coder, class: u32) -> u32 {
        let [before, last] = self.last_classes;
        let class = self.class[last * Class::ALL.len() + before].code(coder, class);
        self.last_classes = [last, class as usize];
        class
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settled() -> impl Strategy<Value = Settled> {
        prop_oneof![
            Just(Settled::Zero),
            prop_oneof![Just(!0u64), Just(0x5a5a), any::<u64>()].prop_map(Settled::Uniform),
            (0u64..1 << 40).prop_map(|source| Settled::Duplicate { source }),
            (0u8..2, prop_oneof![0u64..100, 0u64..1 << 40])
                .prop_map(|(index, position)| Settled::Reference { index, position }),
            Just(Settled::Residual),
            Just(Settled::Later),
        ]
    }

    proptest! {
        #[test]
        fn runs_and_classes_round_trip(list in proptest::collection::vec((1u32..400, settled()), 1..60), first in 0u64..1 << 40) {
            let runs: Vec<Run> = list.into_iter().map(|(pages, settled)| Run { pages, settled }).collect();
            let total: u64 = runs.iter().map(|run| u64::from(run.pages)).sum();
            let residual: u64 = runs.iter().filter(|run| run.settled == Settled::Residual).map(|run| u64::from(run.pages)).sum();
            let classes: Vec<Class> = (0..residual).map(|i| Class::from_id((i % 16) as u32).unwrap()).collect();
            let pages = PageSet::from_range(first..first + total);
            let references = [Addressing::Blocks, Addressing::Pages];
            let bytes = encode(&pages, &runs, &classes, &references).bytes;
            let decoded = decode(&bytes, &pages, &references).unwrap();
            prop_assert_eq!(&decoded.0, &runs);
            prop_assert_eq!(&decoded.1, &classes);
            // One byte fewer or more is noticed.
            prop_assert!(decode(&bytes[..bytes.len() - 1], &pages, &references).is_err());
            let longer = [bytes.as_slice(), &[0]].concat();
            prop_assert!(decode(&longer, &pages, &references).is_err());
        }

        #[test]
        fn hostile_bytes_are_errors_or_runs_that_fit(mut bytes in proptest::collection::vec(any::<u8>(), 5..300)) {
            bytes[0] = 0;
            let pages = PageSet::from_range(0..5000);
            if let Ok((runs, _)) = decode(&bytes, &pages, &[Addressing::Blocks]) {
                prop_assert_eq!(runs.iter().map(|run| u64::from(run.pages)).sum::<u64>(), 5000);
            }
        }
    }

    #[test]
    fn positions_may_wander_far_from_where_they_began() {
        // No guest is that large, but columns that say so must be read to their end all the same.
        let source = |i: u64| Settled::Duplicate { source: i << 46 };
        let runs: Vec<Run> = (0..200).map(|i| Run { pages: 1, settled: source(i) }).collect();
        let pages = PageSet::from_range(0..200);
        let bytes = encode(&pages, &runs, &[], &[]);
        assert_eq!(decode(&bytes.bytes, &pages, &[]).unwrap().0, runs);
    }

    #[test]
    fn interleaved_files_cost_less_than_their_positions() {
        // Three files read in turns, each going on where it stopped.
        let mut next = [1_000u64, 700_000, 90_000];
        let mut runs = Vec::new();
        for i in 0..600 {
            let file = (i * 7 + i / 5) % 3;
            runs.push(Run { pages: 4, settled: Settled::Reference { index: 0, position: next[file] } });
            next[file] += 4;
        }
        let pages = PageSet::from_range(0..2400);
        let bytes = encode(&pages, &runs, &[], &[Addressing::Blocks]).bytes;
        assert!(bytes.len() < 600 / 2, "{} bytes for 600 runs", bytes.len());
    }
}
