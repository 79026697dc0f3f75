//! The adaptive binary range coder under the columns, and the models that sit on it.
//!
//! A carry-propagating 32-bit range coder as in LZMA (Igor Pavlov's, after G. N. N. Martin's range
//! encoding), with 16-bit probabilities that move by a sixteenth towards what they saw: columns are short, so
//! fast adaption beats precision. `docs/format.md`, "Range coder", describes it to the bit.
//!
//! Columns hold a few bits a page; this coder is not for page contents.

use crate::error::DecodeError;

const TOP: u32 = 1 << 24;
const HALF: u16 = 1 << 15;
const ADAPT: u32 = 4;

/// Probability, in 1/65536, that the next bit is 0. Stays within 15..=65521 by its own arithmetic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prob(u16);

impl Prob {
    pub(crate) const NEW: Prob = Prob(HALF);

    fn bound(self, range: u32) -> u32 {
        (range >> 16) * u32::from(self.0)
    }

    fn saw(&mut self, bit: bool) {
        if bit {
            self.0 -= self.0 >> ADAPT;
        } else {
            self.0 += ((0x1_0000 - u32::from(self.0)) >> ADAPT) as u16;
        }
    }
}

/// What a model needs from a coder; one model then serves both directions and cannot drift apart.
///
/// When encoding, `bit` writes the given bit and returns it; when decoding, the argument is ignored.
pub(crate) trait Coder {
    fn bit(&mut self, prob: &mut Prob, bit: bool) -> bool;
    /// `count` equally likely bits (at most 64), most significant first.
    fn direct(&mut self, value: u64, count: u32) -> u64;
}

/// Writes bits.
#[derive(Debug)]
pub(crate) struct Encoder {
    low: u64,
    range: u32,
    cache: u8,
    pending: u64,
    out: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Encoder { low: 0, range: u32::MAX, cache: 0, pending: 1, out: Vec::new() }
    }

    fn shift_low(&mut self) {
        let carry = (self.low >> 32) as u8;
        if carry != 0 || self.low < 0xff00_0000 {
            let mut byte = self.cache;
            while self.pending > 0 {
                self.out.push(byte.wrapping_add(carry));
                byte = 0xff;
                self.pending -= 1;
            }
            self.cache = (self.low >> 24) as u8;
        }
        self.pending += 1;
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    fn normalize(&mut self) {
        while self.range < TOP {
            self.range <<= 8;
            self.shift_low();
        }
    }

    /// Bytes written so far, up to a few that are still open.
    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// Flushes and returns the bytes; the first is always 0.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        for _ in 0..5 {
            self.shift_low();
        }
        self.out
    }
}

impl Coder for Encoder {
    fn bit(&mut self, prob: &mut Prob, bit: bool) -> bool {
        let bound = prob.bound(self.range);
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        prob.saw(bit);
        self.normalize();
        bit
    }

    fn direct(&mut self, value: u64, count: u32) -> u64 {
        for place in (0..count).rev() {
            self.range >>= 1;
            if value >> place & 1 != 0 {
                self.low += u64::from(self.range);
            }
            self.normalize();
        }
        value
    }
}

/// Reads bits. Past the end it reads zeros and remembers that it did: [`Decoder::finish`] tells.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    rest: std::slice::Iter<'a, u8>,
    code: u32,
    range: u32,
    overrun: u32,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() < 5 || bytes[0] != 0 {
            return Err(DecodeError::Invalid { field: "columns", why: "not a range coder's output" });
        }
        let mut decoder = Decoder { rest: bytes[1..].iter(), code: 0, range: u32::MAX, overrun: 0 };
        for _ in 0..4 {
            decoder.code = decoder.code << 8 | decoder.next();
        }
        Ok(decoder)
    }

    fn next(&mut self) -> u32 {
        match self.rest.next() {
            Some(&byte) => u32::from(byte),
            None => {
                self.overrun = self.overrun.saturating_add(1);
                0
            }
        }
    }

    fn normalize(&mut self) {
        while self.range < TOP {
            self.range <<= 8;
            self.code = self.code << 8 | self.next();
        }
    }

    /// True once more bytes were asked for than there are.
    pub(crate) fn overrun(&self) -> bool {
        self.overrun > 0
    }

    /// Checks that the bytes were used up, and not overused.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        if self.overrun > 0 {
            return Err(DecodeError::Truncated {
                field: "columns",
                needed: u64::from(self.overrun),
                left: 0,
            });
        }
        if self.rest.len() > 0 {
            return Err(DecodeError::Invalid { field: "columns", why: "bytes left over at the end" });
        }
        Ok(())
    }
}

impl Coder for Decoder<'_> {
    fn bit(&mut self, prob: &mut Prob, _: bool) -> bool {
        let bound = prob.bound(self.range);
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        prob.saw(bit);
        self.normalize();
        bit
    }

    fn direct(&mut self, _: u64, count: u32) -> u64 {
        let mut value = 0;
        for _ in 0..count {
            self.range >>= 1;
            let bit = self.code >= self.range;
            if bit {
                self.code -= self.range;
            }
            value = value << 1 | u64::from(bit);
            self.normalize();
        }
        value
    }
}

/// A symbol of `BITS` bits as a binary tree of probabilities, most significant bit first.
#[derive(Clone, Debug)]
pub(crate) struct Tree<const BITS: u32> {
    probs: Vec<Prob>,
}

impl<const BITS: u32> Tree<BITS> {
    pub(crate) fn new() -> Self {
        Tree { probs: vec![Prob::NEW; 1 << BITS] }
    }

    pub(crate) fn code(&mut self, coder: &mut impl Coder, symbol: u32) -> u32 {
        code_tree(&mut self.probs, coder, u64::from(symbol), BITS) as u32
    }
}

fn code_tree(probs: &mut [Prob], coder: &mut impl Coder, symbol: u64, bits: u32) -> u64 {
    let mut node = 1usize;
    for place in (0..bits).rev() {
        let bit = coder.bit(&mut probs[node], symbol >> place & 1 != 0);
        node = node << 1 | usize::from(bit);
    }
    (node - (1 << bits)) as u64
}

/// A number from 0 to 2^48 - 2: its magnitude by a tree, then its `DETAIL` highest bits by a tree for each
/// magnitude, then the rest as they are.
#[derive(Clone, Debug)]
pub(crate) struct Number<const DETAIL: u32> {
    magnitude: Tree<6>,
    detail: Vec<Prob>,
}

/// The largest value a [`Number`] holds.
pub(crate) const NUMBER_MAX: u64 = (1 << 48) - 2;

impl<const DETAIL: u32> Number<DETAIL> {
    pub(crate) fn new() -> Self {
        Number { magnitude: Tree::new(), detail: vec![Prob::NEW; 48 << DETAIL] }
    }

    /// Decoding yields a value above [`NUMBER_MAX`] only from hostile bytes; callers check their own ranges.
    pub(crate) fn code(&mut self, coder: &mut impl Coder, value: u64) -> u64 {
        debug_assert!(value <= NUMBER_MAX);
        let plus_one = value + 1;
        let magnitude = self.magnitude.code(coder, plus_one.ilog2());
        if magnitude >= 48 {
            return u64::MAX;
        }
        let rest = plus_one & ((1 << magnitude) - 1);
        let detail = magnitude.min(DETAIL);
        let plain = magnitude - detail;
        let probs = &mut self.detail[(magnitude as usize) << DETAIL..][..1 << DETAIL];
        let high = code_tree(probs, coder, rest >> plain, detail);
        let low = coder.direct(rest & ((1 << plain) - 1), plain);
        (1 << magnitude | high << plain | low) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of every size, in an order without pattern.
    fn values() -> Vec<u64> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        (0..20_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 16) >> (state % 48)
            })
            .map(|value| value.min(NUMBER_MAX))
            .collect()
    }

    #[test]
    fn numbers_and_trees_round_trip() {
        let values = values();
        let mut encoder = Encoder::new();
        let (mut number, mut tree) = (Number::<4>::new(), Tree::<3>::new());
        for &value in &values {
            number.code(&mut encoder, value);
            tree.code(&mut encoder, (value % 8) as u32);
        }
        let bytes = encoder.finish();
        let mut decoder = Decoder::new(&bytes).unwrap();
        let (mut number, mut tree) = (Number::<4>::new(), Tree::<3>::new());
        for &value in &values {
            assert_eq!(number.code(&mut decoder, 0), value);
            assert_eq!(u64::from(tree.code(&mut decoder, 0)), value % 8);
        }
        decoder.finish().unwrap();
    }

    #[test]
    fn a_constant_costs_next_to_nothing() {
        let mut encoder = Encoder::new();
        let mut number = Number::<4>::new();
        for _ in 0..10_000 {
            number.code(&mut encoder, 7);
        }
        assert!(encoder.finish().len() < 60);
    }

    #[test]
    fn carries_travel() {
        // Long runs of unlikely bits push the low end up to the carry again and again.
        let mut encoder = Encoder::new();
        let mut prob = Prob::NEW;
        let bits: Vec<bool> = (0..5000).map(|i| i % 97 != 0).collect();
        for &bit in &bits {
            encoder.bit(&mut prob, bit);
            encoder.direct(u64::MAX, 3);
        }
        let bytes = encoder.finish();
        let mut decoder = Decoder::new(&bytes).unwrap();
        let mut prob = Prob::NEW;
        for &bit in &bits {
            assert_eq!(decoder.bit(&mut prob, false), bit);
            assert_eq!(decoder.direct(0, 3), 7);
        }
        decoder.finish().unwrap();
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_pass() {
        let bytes = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let mut decoder = Decoder::new(&bytes).unwrap();
        let mut number = Number::<4>::new();
        for _ in 0..1000 {
            number.code(&mut decoder, 0);
        }
        assert!(decoder.overrun());
        assert!(decoder.finish().is_err());
        assert!(Decoder::new(&[1, 0, 0, 0, 0]).is_err());
        assert!(Decoder::new(&[0, 0, 0, 0]).is_err());
    }
}
