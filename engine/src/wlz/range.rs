//! The binary range coder: bits with a probability in, 32-bit words out.

use crate::error::DecodeError;

/// Below this, `range` takes in the next word.
const LOW: u64 = 1 << 32;
/// Probabilities move by a sixteenth towards what they saw.
const ADAPT: u32 = 4;

/// Probability, in 1/65536, that the next bit is 0. Its own arithmetic keeps it within 15..=65521.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Prob(pub(super) u16);

impl Prob {
    pub(super) const NEW: Prob = Prob(1 << 15);

    /// Moves towards `bit`: up by `(65536 - p) >> 4` for a 0, down by `p >> 4` for a 1.
    #[inline(always)]
    pub(super) fn saw(&mut self, bit: u32) {
        // Without a branch, since bits are hard to predict: 15 makes the shift of a negative number round as `p >> 4` does.
        let target = if bit == 0 { 1 << 16 } else { 15 };
        let old = i32::from(self.0);
        self.0 = (old + ((target - old) >> ADAPT)) as u16;
    }
}

/// What a model needs from a coder; one model then serves both directions and cannot drift apart.
///
/// When encoding, bits and values are written and returned; when decoding, the arguments are ignored.
pub(super) trait Coder {
    /// Whether bits are read.
    const DECODES: bool;

    /// A bit that is 0 with probability `zero`, from 1 to 65535, in 1/65536.
    fn coin(&mut self, zero: u32, bit: u32) -> u32;

    /// `count` equally likely bits, at most 16.
    fn direct(&mut self, value: u32, count: u32) -> u32;

    #[inline(always)]
    fn bit(&mut self, prob: &mut Prob, bit: u32) -> u32 {
        let bit = self.coin(u32::from(prob.0), bit);
        prob.saw(bit);
        bit
    }
}

/// Writes bits: carry-propagating, with the carry added to the words already written.
#[derive(Debug)]
pub(super) struct Encoder<'a> {
    low: u64,
    range: u64,
    out: &'a mut Vec<u8>,
    /// Where the coder's own words start in `out`.
    start: usize,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        Encoder { low: 0, range: u64::MAX, out, start }
    }

    #[inline(always)]
    fn add(&mut self, bound: u64) {
        let (low, carry) = self.low.overflowing_add(bound);
        self.low = low;
        if carry {
            self.carry();
        }
    }

    #[cold]
    fn carry(&mut self) {
        for word in self.out[self.start..].as_chunks_mut::<4>().0.iter_mut().rev() {
            let (sum, carry) = u32::from_le_bytes(*word).overflowing_add(1);
            *word = sum.to_le_bytes();
            if !carry {
                return;
            }
        }
    }

    #[inline(always)]
    fn normalize(&mut self) {
        if self.range < LOW {
            self.range <<= 32;
            self.put();
        }
    }

    #[inline(never)]
    fn put(&mut self) {
        self.out.extend_from_slice(&((self.low >> 32) as u32).to_le_bytes());
        self.low <<= 32;
    }

    /// Writes what is still open.
    pub(super) fn finish(mut self) {
        self.put();
        self.put();
    }
}

impl Coder for Encoder<'_> {
    const DECODES: bool = false;

    #[inline(always)]
    fn coin(&mut self, zero: u32, bit: u32) -> u32 {
        let bound = (self.range >> 16) * u64::from(zero);
        let one = u64::from(bit).wrapping_neg();
        self.add(bound & one);
        self.range = if bit == 0 { bound } else { self.range - bound };
        self.normalize();
        bit
    }

    #[inline(always)]
    fn direct(&mut self, value: u32, count: u32) -> u32 {
        self.range >>= count;
        self.add(self.range * u64::from(value));
        self.normalize();
        value
    }
}

/// Reads bits. Past the end it reads zeros and remembers that it did: [`Decoder::finish`] tells.
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    code: u64,
    range: u64,
    rest: &'a [u8],
    overrun: u64,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Decoder { code: 0, range: u64::MAX, rest: bytes, overrun: 0 };
        decoder.next();
        decoder.next();
        decoder
    }

    #[inline(always)]
    fn next(&mut self) {
        let word = match self.rest.split_first_chunk() {
            Some((word, rest)) => {
                self.rest = rest;
                u32::from_le_bytes(*word)
            }
            None => {
                self.overrun += 1;
                0
            }
        };
        self.code = self.code << 32 | u64::from(word);
    }

    #[inline(always)]
    fn normalize(&mut self) {
        if self.range < LOW {
            self.range <<= 32;
            self.next();
        }
    }

    /// True once more words were asked for than there are.
    #[inline(always)]
    pub(super) fn overrun(&self) -> bool {
        self.overrun > 0
    }

    /// Checks that the bytes were used up, and not overused.
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        if self.overrun > 0 {
            return Err(DecodeError::Truncated { field: "word coder", needed: 4 * self.overrun, left: 0 });
        }
        if !self.rest.is_empty() {
            return Err(DecodeError::Invalid { field: "word coder", why: "bytes left over at the end" });
        }
        Ok(())
    }
}

impl Coder for Decoder<'_> {
    const DECODES: bool = true;

    #[inline(always)]
    fn coin(&mut self, zero: u32, _: u32) -> u32 {
        let bound = (self.range >> 16) * u64::from(zero);
        let one = self.code >= bound;
        // Both outcomes, and a choice without a branch.
        let (code, range) = (self.code.wrapping_sub(bound), self.range - bound);
        self.code = if one { code } else { self.code };
        self.range = if one { range } else { bound };
        self.normalize();
        u32::from(one)
    }

    #[inline(always)]
    fn direct(&mut self, _: u32, count: u32) -> u32 {
        self.range >>= count;
        let value = (self.code / self.range).min((1 << count) - 1);
        self.code -= value * self.range;
        self.normalize();
        value as u32
    }
}
