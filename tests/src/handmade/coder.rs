//! Section 6 from the encoder's side: the range coder as LZMA has it, the models, a block's columns and lists of pages.

use crate::reference::What;

/// Writes bits to the columns.
#[derive(Clone, Debug)]
pub struct RangeEncoder {
    low: u64,
    range: u32,
    /// The last byte that a carry may still change, and how many bytes FF follow it, plus one.
    cache: u8,
    pending: u64,
    out: Vec<u8>,
}

impl Default for RangeEncoder {
    fn default() -> Self {
        Self::new()
    }
}

impl RangeEncoder {
    /// One that has written nothing.
    pub fn new() -> Self {
        Self { low: 0, range: u32::MAX, cache: 0, pending: 1, out: vec![] }
    }

    fn shift_low(&mut self) {
        if self.low < 0xff00_0000 || self.low > 0xffff_ffff {
            let carry = (self.low >> 32) as u8;
            self.out.push(self.cache.wrapping_add(carry));
            for _ in 1..self.pending {
                self.out.push(0xff_u8.wrapping_add(carry));
            }
            self.pending = 0;
            self.cache = (self.low >> 24) as u8;
        }
        self.pending += 1;
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    fn normalise(&mut self) {
        while self.range < 1 << 24 {
            self.range <<= 8;
            self.shift_low();
        }
    }

    /// A bit with probability `p` of 0, which it then adapts.
    pub fn bit(&mut self, p: &mut u32, bit: u32) {
        let bound = (self.range >> 16) * *p;
        if bit == 0 {
            self.range = bound;
            *p += (65536 - *p) >> 4;
        } else {
            self.low += u64::from(bound);
            self.range -= bound;
            *p -= *p >> 4;
        }
        self.normalise();
    }

    /// The lowest `count` bits of `value` without a model, the most significant first.
    pub fn direct(&mut self, count: u32, value: u64) {
        for place in (0..count).rev() {
            self.range >>= 1;
            if value >> place & 1 == 1 {
                self.low += u64::from(self.range);
            }
            self.normalise();
        }
    }

    /// Flushes, and gives the bytes.
    pub fn finish(mut self) -> Vec<u8> {
        for _ in 0..5 {
            self.shift_low();
        }
        self.out
    }
}

/// A tree of some bits.
#[derive(Clone, Debug)]
pub struct TreeEncoder {
    bits: u32,
    p: Vec<u32>,
}

impl TreeEncoder {
    /// All probabilities at a half.
    pub fn new(bits: u32) -> Self {
        Self { bits, p: vec![32768; 1 << bits] }
    }

    /// A symbol below `2^bits`.
    pub fn encode(&mut self, coder: &mut RangeEncoder, symbol: u64) {
        self.encode_levels(coder, self.bits, symbol);
    }

    fn encode_levels(&mut self, coder: &mut RangeEncoder, levels: u32, symbol: u64) {
        // The nodes on the way are the symbol's highest bits with a 1 in front.
        let leaf = 1 << levels | symbol;
        for level in (0..levels).rev() {
            let bit = (leaf >> level & 1) as u32;
            coder.bit(&mut self.p[(leaf >> (level + 1)) as usize], bit);
        }
    }
}

/// A Number with some detail.
#[derive(Clone, Debug)]
pub struct NumberEncoder {
    detail: u32,
    magnitude: TreeEncoder,
    high: Vec<TreeEncoder>,
}

impl NumberEncoder {
    /// As every block starts with.
    pub fn new(detail: u32) -> Self {
        Self { detail, magnitude: TreeEncoder::new(6), high: vec![TreeEncoder::new(detail); 48] }
    }

    /// A value from 0 to 2^48 - 2.
    pub fn encode(&mut self, coder: &mut RangeEncoder, value: u64) {
        let x = value + 1;
        let m = x.ilog2();
        self.magnitude.encode(coder, u64::from(m));
        let r = x - (1 << m);
        if m <= self.detail {
            self.high[m as usize].encode_levels(coder, m, r);
        } else {
            let plain = m - self.detail;
            self.high[m as usize].encode_levels(coder, self.detail, r >> plain);
            coder.direct(plain, r);
        }
    }
}

/// Positions; it takes the nearest anchor, and the first of these.
#[derive(Clone, Debug)]
pub struct PositionsEncoder {
    anchors: Vec<i64>,
    last_mode: usize,
    modes: [TreeEncoder; 4],
    rank_same: NumberEncoder,
    rank_other: NumberEncoder,
    up: NumberEncoder,
    down: NumberEncoder,
}

impl Default for PositionsEncoder {
    fn default() -> Self {
        Self::new()
    }
}

impl PositionsEncoder {
    /// As every block starts with.
    pub fn new() -> Self {
        Self {
            anchors: vec![0],
            last_mode: 0,
            modes: [2, 2, 2, 2].map(TreeEncoder::new),
            rank_same: NumberEncoder::new(4),
            rank_other: NumberEncoder::new(4),
            up: NumberEncoder::new(4),
            down: NumberEncoder::new(4),
        }
    }

    /// A value; the new anchors come with [`PositionsEncoder::put`].
    ///
    /// # Panics
    ///
    /// If there is no anchor: `put` should have come after the value before.
    pub fn encode(&mut self, coder: &mut RangeEncoder, value: i64) {
        let (rank, anchor) = self
            .anchors
            .iter()
            .copied()
            .enumerate()
            .min_by_key(|(_, a)| a.abs_diff(value))
            .expect("an anchor");
        let step = value - anchor;
        let mode = match step {
            0 => 0,
            1.. => 1,
            _ => 2,
        };
        self.modes[self.last_mode].encode(coder, mode as u64);
        self.last_mode = mode;
        let ranks = if mode == 0 { &mut self.rank_same } else { &mut self.rank_other };
        ranks.encode(coder, rank as u64);
        match mode {
            0 => {}
            1 => self.up.encode(coder, step as u64 - 1),
            _ => self.down.encode(coder, step.unsigned_abs() - 1),
        }
        if step.abs() < 64 {
            self.anchors.remove(rank);
        }
    }

    /// New anchors, the likeliest first.
    pub fn put(&mut self, new: &[i64]) {
        for &anchor in new.iter().rev() {
            self.anchors.insert(0, anchor);
        }
        self.anchors.truncate(64);
    }
}

/// The columns of a block whose pages have these numbers; `kinds` are the references' kinds. Runs may be wrong in any
/// way that can be written.
///
/// # Panics
///
/// If a reference's index is not among `kinds`, or a run starts beyond `numbers`.
pub(crate) fn columns(runs: &[(u64, What)], classes: &[u8], numbers: &[u64], kinds: &[u8]) -> Vec<u8> {
    let mut coder = RangeEncoder::new();
    let mut kind_trees = vec![TreeEncoder::new(3); 64];
    let mut lengths = vec![NumberEncoder::new(6); 12];
    let mut words: Vec<u64> = vec![];
    let mut word_ranks = NumberEncoder::new(4);
    let mut sources = PositionsEncoder::new();
    let mut indexes = NumberEncoder::new(4);
    let mut positions = vec![PositionsEncoder::new(); kinds.len()];
    let mut history = (7, 7);
    let mut done = 0;
    for &(pages, what) in runs {
        let kind = what.kind();
        kind_trees[history.0 * 8 + history.1].encode(&mut coder, kind as u64);
        let again = usize::from(kind == history.0);
        lengths[kind * 2 + again].encode(&mut coder, pages - 1);
        match what {
            What::Zero | What::Residual | What::Later => {}
            What::Uniform(word) => {
                let known = words.iter().position(|&w| w == word);
                word_ranks.encode(&mut coder, known.unwrap_or(words.len()) as u64);
                match known {
                    Some(rank) => drop(words.remove(rank)),
                    None => coder.direct(64, word),
                }
                words.insert(0, word);
                words.truncate(64);
            }
            What::Duplicate { source } => {
                let source = source as i64;
                sources.encode(&mut coder, source);
                sources.put(&[source + pages as i64, source]);
            }
            What::Reference { index, position } => {
                indexes.encode(&mut coder, index);
                let own = &mut positions[index as usize];
                if kinds[index as usize] == 0 {
                    own.encode(&mut coder, position as i64);
                    own.put(&[position as i64 + pages as i64]);
                } else {
                    let shift = position as i64 - numbers[done as usize] as i64;
                    own.encode(&mut coder, shift);
                    own.put(&[shift]);
                }
            }
        }
        history = (kind, history.0);
        done += pages;
    }
    let mut class_trees = vec![TreeEncoder::new(4); 256];
    let mut history = (0, 0);
    // Groups can have a class that there is not; here there is no way to write it.
    for class in classes.iter().map(|class| class % 16) {
        class_trees[history.0 * 16 + history.1].encode(&mut coder, u64::from(class));
        history = (usize::from(class), history.0);
    }
    coder.finish()
}

/// The bytes of a list of pages, whose ranges are these: first page and pages of each.
pub(crate) fn list(ranges: &[(u64, u64)]) -> Vec<u8> {
    let mut coder = RangeEncoder::new();
    let mut sizes = NumberEncoder::new(6);
    let mut firsts = PositionsEncoder::new();
    for &(first, pages) in ranges {
        sizes.encode(&mut coder, pages - 1);
        firsts.encode(&mut coder, first as i64);
        firsts.put(&[(first + pages + 1) as i64, first as i64 - 1]);
    }
    coder.finish()
}
