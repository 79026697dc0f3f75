//! Sections 5.4, 6.3 and 6.4: what a block's pages are, from its columns.

use super::header::Header;
use super::models::{LIST, Number, Positions, Tree};
use super::pageset::PageSet;
use super::range::RangeDecoder;

/// What the pages of a run are; `i` counts them from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// All bytes 0.
    Zero,
    /// This word, 512 times.
    Uniform(u64),
    /// Equal to page `source + i` of this guest.
    Duplicate {
        /// The first source page.
        source: u64,
    },
    /// Equal to block `position + i` of reference `index`.
    Reference {
        /// Which reference.
        index: u64,
        /// The first block.
        position: u64,
    },
    /// Built from literals, a base and long matches.
    Residual,
    /// Not in this block, though in its set: a later block brings the page.
    Later,
}

impl What {
    /// How many kinds there are.
    pub const KINDS: usize = 6;

    /// The kind's number in the format, 0 to 5.
    pub fn kind(self) -> usize {
        match self {
            Self::Zero => 0,
            Self::Uniform(_) => 1,
            Self::Duplicate { .. } => 2,
            Self::Reference { .. } => 3,
            Self::Residual => 4,
            Self::Later => 5,
        }
    }
}

/// Consecutive ordinals of a block that are the same kind of page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first ordinal.
    pub ordinal: u64,
    /// How many.
    pub pages: u64,
    /// What they are.
    pub what: What,
}

/// Decodes the columns of a block: its runs, and the class of each residual page.
pub(super) fn decode(bytes: &[u8], set: &PageSet, header: &Header) -> Result<(Vec<Run>, Vec<u8>), String> {
    let mut coder = RangeDecoder::new(bytes)?;
    let mut models = Models::new(header);
    let mut runs = Vec::new();
    let mut done = 0;
    let (mut k1, mut k2) = (7, 7);
    while done < set.pages {
        let kind = models.kinds[k1 * 8 + k2].decode(&mut coder)? as usize;
        if kind > 5 {
            return Err(format!("a run of kind {kind}"));
        }
        let pages = 1 + models.lengths[kind * 2 + usize::from(kind == k1)].decode(&mut coder)?;
        if pages > set.pages - done {
            return Err(format!("a run of {pages} pages at ordinal {done} of {}", set.pages));
        }
        let what = match kind {
            0 => What::Zero,
            1 => What::Uniform(models.word(&mut coder)?),
            2 => What::Duplicate { source: models.source(&mut coder, pages, header)? },
            3 => models.reference(&mut coder, pages, set.page(done), header)?,
            4 => What::Residual,
            _ => What::Later,
        };
        runs.push(Run { ordinal: done, pages, what });
        done += pages;
        k2 = k1;
        k1 = kind;
    }

    let residual: u64 = runs.iter().filter(|run| run.what == What::Residual).map(|run| run.pages).sum();
    let mut classes = Vec::new();
    let (mut c1, mut c2) = (0, 0);
    for _ in 0..residual {
        let class = models.classes[c1 * 16 + c2].decode(&mut coder)? as usize;
        classes.push(class as u8);
        c2 = c1;
        c1 = class;
    }
    coder.finish()?;
    Ok((runs, classes))
}

struct Models {
    kinds: Vec<Tree>,
    lengths: Vec<Number>,
    words: Vec<u64>,
    word_rank: Number,
    sources: Positions,
    index: Number,
    /// One for each reference.
    positions: Vec<Positions>,
    classes: Vec<Tree>,
}

impl Models {
    fn new(header: &Header) -> Self {
        Self {
            kinds: vec![Tree::new(3); 64],
            lengths: vec![Number::new(6); 2 * What::KINDS],
            words: Vec::new(),
            word_rank: Number::new(4),
            sources: Positions::new(),
            index: Number::new(4),
            positions: vec![Positions::new(); header.references.len()],
            classes: vec![Tree::new(4); 256],
        }
    }

    fn word(&mut self, coder: &mut RangeDecoder<'_>) -> Result<u64, String> {
        let rank = self.word_rank.decode(coder)?;
        let listed = self.words.len() as u64;
        let word = if rank < listed {
            self.words.remove(rank as usize)
        } else if rank == listed {
            coder.direct(64)?
        } else {
            return Err(format!("word {rank} of {listed}"));
        };
        self.words.insert(0, word);
        self.words.truncate(LIST);
        Ok(word)
    }

    fn source(&mut self, coder: &mut RangeDecoder<'_>, pages: u64, header: &Header) -> Result<u64, String> {
        let value = self.sources.decode(coder)?;
        let source = place(value, pages, header.page_count, "duplicate source")?;
        self.sources.put(&[value + pages as i64, value]);
        Ok(source)
    }

    fn reference(
        &mut self,
        coder: &mut RangeDecoder<'_>,
        pages: u64,
        page: u64,
        header: &Header,
    ) -> Result<What, String> {
        let index = self.index.decode(coder)?;
        let Some(reference) = header.references.get(index as usize) else {
            return Err(format!("reference {index} of {}", header.references.len()));
        };
        let positions = &mut self.positions[index as usize];
        let value = positions.decode(coder)?;
        let is_disk = reference.kind == 0;
        let start = if is_disk { value } else { value + page as i64 };
        let position = place(start, pages, reference.blocks, "reference position")?;
        positions.put(&[if is_disk { value + pages as i64 } else { value }]);
        Ok(What::Reference { index, position })
    }
}

/// Checks that `pages` pages from `start` lie among the first `limit`.
fn place(start: i64, pages: u64, limit: u64, field: &str) -> Result<u64, String> {
    match u64::try_from(start) {
        Ok(first) if first + pages <= limit => Ok(first),
        _ => Err(format!("{field}: {pages} from {start} do not lie in {limit}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handmade::{self, NumberEncoder, Random, RangeEncoder, TreeEncoder};
    use crate::reference::Reference;

    /// One block of pages 0 to 3, in a guest without references.
    fn decode_four(encoder: RangeEncoder) -> Result<(Vec<Run>, Vec<u8>), String> {
        let set = PageSet { ranges: vec![(0, 4)], pages: 4, is_list: false };
        let header = Header { page_count: 4, ..Header::default() };
        decode(&encoder.finish(), &set, &header)
    }

    fn start(kind: u64, pages: u64) -> RangeEncoder {
        let mut encoder = RangeEncoder::new();
        TreeEncoder::new(3).encode(&mut encoder, kind);
        NumberEncoder::new(6).encode(&mut encoder, pages - 1);
        encoder
    }

    #[test]
    fn single_runs() {
        let run = |what| Ok((vec![Run { ordinal: 0, pages: 4, what }], vec![]));
        assert_eq!(decode_four(start(0, 4)), run(What::Zero));
        let mut uniform = start(1, 4);
        NumberEncoder::new(4).encode(&mut uniform, 0);
        uniform.direct(64, 0x8000_0000_0000_0001);
        assert_eq!(decode_four(uniform), run(What::Uniform(0x8000_0000_0000_0001)));
        assert_eq!(decode_four(start(5, 4)), run(What::Later));
        for kind in 6..8 {
            assert!(decode_four(start(kind, 4)).unwrap_err().contains("kind"));
        }
        assert!(decode_four(start(0, 5)).unwrap_err().contains("a run of 5"));
        let mut word = start(1, 4);
        NumberEncoder::new(4).encode(&mut word, 1);
        assert!(decode_four(word).unwrap_err().contains("word 1 of 0"));
        let mut reference = start(3, 4);
        NumberEncoder::new(4).encode(&mut reference, 0);
        assert!(decode_four(reference).unwrap_err().contains("reference 0 of 0"));
        // Down from anchor 0: a source below 0.
        let mut source = start(2, 4);
        TreeEncoder::new(2).encode(&mut source, 2);
        NumberEncoder::new(4).encode(&mut source, 0);
        NumberEncoder::new(4).encode(&mut source, 0);
        assert!(decode_four(source).unwrap_err().contains("4 from -1"));
    }

    /// The state that runs share, with the models for each step picked by hand.
    #[test]
    fn contexts() {
        let mut encoder = RangeEncoder::new();
        let mut trees: Vec<TreeEncoder> = vec![TreeEncoder::new(3); 64];
        let mut lengths: Vec<NumberEncoder> = vec![NumberEncoder::new(6); 12];
        let mut classes: Vec<TreeEncoder> = vec![TreeEncoder::new(4); 256];
        for (tree, kind, length) in [(7 * 8 + 7, 4, 8), (4 * 8 + 7, 4, 9), (4 * 8 + 4, 0, 0), (4, 4, 8)] {
            trees[tree].encode(&mut encoder, kind);
            lengths[length].encode(&mut encoder, 0);
        }
        for (tree, class) in [(0, 15), (15 * 16, 3), (3 * 16 + 15, 1)] {
            classes[tree].encode(&mut encoder, class);
        }
        let (runs, classes) = decode_four(encoder).unwrap();
        let kinds: Vec<usize> = runs.iter().map(|run| run.what.kind()).collect();
        assert_eq!((kinds, classes), (vec![4, 4, 0, 4], vec![15, 3, 1]));
    }

    /// Many runs of all kinds in a list of three ranges, so that every model has learnt something that another in its
    /// place has not.
    #[test]
    fn columns_come_back() {
        let ranges = vec![(5000, 6000), (3, 500), (900, 1500)];
        let set = PageSet { ranges, pages: 8000, is_list: true };
        let numbers: Vec<u64> = (0..set.pages).map(|ordinal| set.page(ordinal)).collect();
        let kinds = [0, 1, 0, 1];
        let reference = |kind| Reference { kind, identity: [0; 16], blocks: 1 << 36, name: String::new() };
        let references = kinds.map(reference).to_vec();
        let header = Header { page_count: 1 << 36, references, ..Header::default() };
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let mut runs: Vec<Run> = vec![];
            let mut done = 0;
            while done < set.pages {
                let bits = random.below(7) as u32;
                let pages = (1 + random.bits(bits)).min(set.pages - done);
                let near = random.below(1000) + [1 << 20, 1 << 30][random.below(2) as usize];
                let what = match random.below(7) {
                    0 => What::Zero,
                    1 => What::Uniform(random.below(100)),
                    2 => What::Duplicate { source: near },
                    3 => What::Reference { index: random.below(4), position: near },
                    // Goes on where the run before ends, if that is from a reference.
                    4 => match runs.last() {
                        Some(&Run { pages, what: What::Reference { index, position }, .. }) => {
                            What::Reference { index, position: position + pages }
                        }
                        _ => What::Residual,
                    },
                    5 => What::Later,
                    _ => What::Residual,
                };
                runs.push(Run { ordinal: done, pages, what });
                done += pages;
            }
            let residual: u64 =
                runs.iter().filter(|run| run.what == What::Residual).map(|run| run.pages).sum();
            let mut classes = vec![0, 0];
            while (classes.len() as u64) < residual + 2 {
                // Mostly a function of the two before.
                let (c2, c1) = (classes[classes.len() - 2], classes[classes.len() - 1]);
                let noise = u8::from(random.below(5) == 0);
                classes.push((c1 * 2 + c2 + 1 + noise) % 16);
            }
            let classes = classes.split_off(2);
            let plain: Vec<(u64, What)> = runs.iter().map(|run| (run.pages, run.what)).collect();
            let mut coded = handmade::columns(&plain, &classes, &numbers, &kinds);
            assert_eq!(decode(&coded, &set, &header), Ok((runs, classes)), "seed {seed}");
            let fewer = &coded[..coded.len() - 1];
            assert!(decode(fewer, &set, &header).unwrap_err().contains("more bytes than there are"));
            coded.push(0);
            assert!(decode(&coded, &set, &header).unwrap_err().contains("too many"));
        }
    }
}
