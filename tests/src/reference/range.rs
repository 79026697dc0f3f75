//! Section 6.1: the range decoder.

/// Where every probability starts.
pub(super) const HALF: u32 = 32768;

/// Reads bits from range-coded bytes.
#[derive(Debug)]
pub(super) struct RangeDecoder<'a> {
    bytes: &'a [u8],
    at: usize,
    range: u32,
    code: u32,
}

impl<'a> RangeDecoder<'a> {
    /// Reading: a `code` that is not below `range` at the start (four bytes FF) is not an error of its own.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, String> {
        let mut decoder = Self { bytes, at: 0, range: u32::MAX, code: 0 };
        let first = decoder.next()?;
        if first != 0 {
            return Err(format!("range coder: the first byte is {first}, not 0"));
        }
        for _ in 0..4 {
            decoder.code = decoder.code << 8 | decoder.next()?;
        }
        Ok(decoder)
    }

    fn next(&mut self) -> Result<u32, String> {
        let byte = self.bytes.get(self.at).ok_or("range coder: it wants more bytes than there are")?;
        self.at += 1;
        Ok(u32::from(*byte))
    }

    fn normalise(&mut self) -> Result<(), String> {
        while self.range < 1 << 24 {
            self.range <<= 8;
            // The shift drops the highest byte: the arithmetic is modulo 2^32.
            self.code = self.code << 8 | self.next()?;
        }
        Ok(())
    }

    /// A bit with probability `p` of 0, which it then adapts.
    pub(super) fn bit(&mut self, p: &mut u32) -> Result<u32, String> {
        let bound = (self.range >> 16) * *p;
        let bit = if self.code < bound {
            self.range = bound;
            *p += (65536 - *p) >> 4;
            0
        } else {
            self.code -= bound;
            self.range -= bound;
            *p -= *p >> 4;
            1
        };
        self.normalise()?;
        Ok(bit)
    }

    /// `count` bits (at most 64) without a model, the most significant first.
    pub(super) fn direct(&mut self, count: u32) -> Result<u64, String> {
        let mut value = 0;
        for _ in 0..count {
            self.range >>= 1;
            let bit = self.code >= self.range;
            if bit {
                self.code -= self.range;
            }
            value = value << 1 | u64::from(bit);
            self.normalise()?;
        }
        Ok(value)
    }

    /// All bytes must be used. Reading: `code` need not be 0 then.
    pub(super) fn finish(&self) -> Result<(), String> {
        let left = self.bytes.len() - self.at;
        if left != 0 {
            return Err(format!("range coder: {left} bytes too many"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handmade::{Random, RangeEncoder};

    /// Enough bits, skewed enough, that carries run through bytes FF.
    #[test]
    fn bits_come_back() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let odds = 1 + random.below(64);
            let bits: Vec<u32> = (0..5000).map(|_| u32::from(random.below(odds) == 0)).collect();
            let plain: Vec<(u32, u64)> = (0..=64).map(|k| (k, random.bits(k))).collect();
            let mut encoder = RangeEncoder::new();
            let mut p = [HALF; 3];
            for (i, &bit) in bits.iter().enumerate() {
                encoder.bit(&mut p[i % 3], bit);
            }
            for &(count, value) in &plain {
                encoder.direct(count, value);
            }
            let coded = encoder.finish();

            let mut decoder = RangeDecoder::new(&coded).unwrap();
            let mut p = [HALF; 3];
            for (i, &bit) in bits.iter().enumerate() {
                assert_eq!(decoder.bit(&mut p[i % 3]), Ok(bit), "seed {seed}, bit {i}");
            }
            for &(count, value) in &plain {
                assert_eq!(decoder.direct(count), Ok(value), "seed {seed}, {count} bits");
            }
            assert_eq!(decoder.finish(), Ok(()));
            assert_eq!(decoder.code, 0, "the encoder flushes `low` itself");
        }
    }

    /// Steps worked out by hand from the document.
    #[test]
    fn bits_by_hand() {
        // code 0x7fff7fff, bound 0xffff * 32768 = 0x7fff8000.
        let mut decoder = RangeDecoder::new(&[0, 0x7f, 0xff, 0x7f, 0xff]).unwrap();
        let mut p = HALF;
        assert_eq!(decoder.bit(&mut p), Ok(0));
        assert_eq!((p, decoder.range, decoder.code), (32768 + 2048, 0x7fff_8000, 0x7fff_7fff));
        let mut decoder = RangeDecoder::new(&[0, 0x7f, 0xff, 0x80, 0x00]).unwrap();
        let mut p = HALF;
        assert_eq!(decoder.bit(&mut p), Ok(1));
        assert_eq!((p, decoder.range, decoder.code), (32768 - 2048, 0x8000_7fff, 0));
        // Direct: range 0x7fffffff, and seven bits more before a byte is wanted.
        let mut decoder = RangeDecoder::new(&[0, 0x7f, 0xff, 0xff, 0xff]).unwrap();
        assert_eq!(decoder.direct(1), Ok(1));
        assert_eq!((decoder.range, decoder.code), (0x7fff_ffff, 0));
        assert_eq!(decoder.direct(6), Ok(0));
        assert_eq!(decoder.finish(), Ok(()));
        assert!(decoder.direct(2).is_err(), "no byte left");
    }

    #[test]
    fn probabilities_stay_inside() {
        let (mut low, mut high) = (HALF, HALF);
        for _ in 0..10_000 {
            low -= low >> 4;
            high += (65536 - high) >> 4;
        }
        assert_eq!((low, high), (15, 65521));
    }

    #[test]
    fn bad_starts_and_ends() {
        assert!(RangeDecoder::new(&[]).is_err());
        assert!(RangeDecoder::new(&[0, 1, 2, 3]).is_err());
        assert!(RangeDecoder::new(&[1, 0, 0, 0, 0]).is_err());
        assert!(RangeDecoder::new(&[0, 0, 0, 0, 0, 0]).unwrap().finish().is_err());
    }
}
