//! Section 6.2: trees, Numbers and Positions.

use super::range::{HALF, RangeDecoder};

/// How long the lists of anchors and of words get.
pub(super) const LIST: usize = 64;

/// Symbols of a fixed number of bits.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    bits: u32,
    /// By node; node 0 is not used.
    p: Vec<u32>,
}

impl Tree {
    pub(super) fn new(bits: u32) -> Self {
        Self { bits, p: vec![HALF; 1 << bits] }
    }

    pub(super) fn decode(&mut self, coder: &mut RangeDecoder<'_>) -> Result<u64, String> {
        self.decode_levels(coder, self.bits)
    }

    /// A symbol of `levels` bits, from the first levels of the tree.
    fn decode_levels(&mut self, coder: &mut RangeDecoder<'_>, levels: u32) -> Result<u64, String> {
        let mut node = 1;
        for _ in 0..levels {
            let bit = coder.bit(&mut self.p[node])?;
            node = node * 2 + bit as usize;
        }
        Ok(node as u64 - (1 << levels))
    }
}

/// A value from 0 to 2^48 - 2.
#[derive(Clone, Debug)]
pub(super) struct Number {
    detail: u32,
    magnitude: Tree,
    high: Vec<Tree>,
}

impl Number {
    pub(super) fn new(detail: u32) -> Self {
        Self { detail, magnitude: Tree::new(6), high: vec![Tree::new(detail); 48] }
    }

    pub(super) fn decode(&mut self, coder: &mut RangeDecoder<'_>) -> Result<u64, String> {
        let m = self.magnitude.decode(coder)? as u32;
        if m >= 48 {
            return Err(format!("range coder: a Number of magnitude {m}"));
        }
        let t = m.min(self.detail);
        let top = self.high[m as usize].decode_levels(coder, t)?;
        let rest = coder.direct(m - t)?;
        let r = top << (m - t) | rest;
        Ok((1 << m) + r - 1)
    }
}

/// Places that tend to be near where earlier ones were.
#[derive(Clone, Debug)]
pub(super) struct Positions {
    anchors: Vec<i64>,
    last_mode: usize,
    modes: Vec<Tree>,
    ranks: Vec<Number>,
    distances: Vec<Number>,
}

impl Positions {
    pub(super) fn new() -> Self {
        Self {
            anchors: vec![0],
            last_mode: 0,
            modes: vec![Tree::new(2); 4],
            ranks: vec![Number::new(4); 2],
            distances: vec![Number::new(4); 2],
        }
    }

    /// Steps 1 to 3, and the first half of step 4: an anchor near the value is removed.
    pub(super) fn decode(&mut self, coder: &mut RangeDecoder<'_>) -> Result<i64, String> {
        let mode = self.modes[self.last_mode].decode(coder)? as usize;
        if mode == 3 {
            return Err("range coder: a position of mode 3".into());
        }
        self.last_mode = mode;
        let rank = self.ranks[usize::from(mode != 0)].decode(coder)?;
        let Some(&anchor) = self.anchors.get(rank as usize) else {
            return Err(format!("range coder: anchor {rank} of {}", self.anchors.len()));
        };
        let value = match mode {
            0 => anchor,
            1 => anchor + 1 + self.distances[0].decode(coder)? as i64,
            _ => anchor - 1 - self.distances[1].decode(coder)? as i64,
        };
        if (value - anchor).abs() < 64 {
            self.anchors.remove(rank as usize);
        }
        Ok(value)
    }

    /// The second half of step 4: the new anchors, the likeliest first.
    pub(super) fn put(&mut self, new: &[i64]) {
        let mut anchors = new.to_vec();
        anchors.extend(&self.anchors);
        anchors.truncate(LIST);
        self.anchors = anchors;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handmade::{NumberEncoder, PositionsEncoder, Random, RangeEncoder, TreeEncoder};

    #[test]
    fn trees_come_back() {
        let mut encoder = RangeEncoder::new();
        let mut tree = TreeEncoder::new(3);
        for i in 0..1000 {
            tree.encode(&mut encoder, i * i % 8);
        }
        let coded = encoder.finish();
        let mut decoder = RangeDecoder::new(&coded).unwrap();
        let mut tree = Tree::new(3);
        for i in 0..1000 {
            assert_eq!(tree.decode(&mut decoder), Ok(i * i % 8));
        }
        decoder.finish().unwrap();
    }

    #[test]
    fn numbers_come_back() {
        for detail in [4, 6] {
            let mut random = Random::new(u64::from(detail));
            let mut values: Vec<u64> = (0..3000)
                .map(|_| {
                    let bits = random.below(49) as u32;
                    random.bits(bits).min((1 << 48) - 2)
                })
                .collect();
            values.extend([0, 1, 2, (1 << 47) - 2, (1 << 47) - 1, (1 << 48) - 2]);
            let mut encoder = RangeEncoder::new();
            let mut number = NumberEncoder::new(detail);
            for &value in &values {
                number.encode(&mut encoder, value);
            }
            let coded = encoder.finish();
            let mut decoder = RangeDecoder::new(&coded).unwrap();
            let mut number = Number::new(detail);
            for &value in &values {
                assert_eq!(number.decode(&mut decoder), Ok(value));
            }
            decoder.finish().unwrap();
        }
    }

    #[test]
    fn a_number_too_large() {
        let mut encoder = RangeEncoder::new();
        TreeEncoder::new(6).encode(&mut encoder, 48);
        let coded = encoder.finish();
        let mut decoder = RangeDecoder::new(&coded).unwrap();
        assert!(Number::new(4).decode(&mut decoder).is_err());
    }

    #[test]
    fn positions_come_back() {
        let mut random = Random::new(3);
        let mut values = vec![0, 5, 63, 64, 65, 128, 1 << 40, 7];
        for _ in 0..4000 {
            let back = values[values.len() - 1 - random.below(values.len() as u64) as usize];
            let step = random.below(200) as i64 - 100;
            let far = random.bits(40) as i64;
            values.push(match random.below(4) {
                0 => back,
                1 | 2 => back + step,
                _ => far,
            });
        }
        let mut encoder = RangeEncoder::new();
        let mut positions = PositionsEncoder::new();
        for &value in &values {
            positions.encode(&mut encoder, value);
            positions.put(&[value + 9, value]);
        }
        let coded = encoder.finish();
        let mut decoder = RangeDecoder::new(&coded).unwrap();
        let mut positions = Positions::new();
        for &value in &values {
            assert_eq!(positions.decode(&mut decoder), Ok(value));
            positions.put(&[value + 9, value]);
        }
        decoder.finish().unwrap();
        assert_eq!(positions.anchors.len(), LIST);
    }

    #[test]
    fn anchors_by_hand() {
        let mut encoder = RangeEncoder::new();
        let mut number = [NumberEncoder::new(4), NumberEncoder::new(4)];
        let mut distance = NumberEncoder::new(4);
        let mut tree = [TreeEncoder::new(2), TreeEncoder::new(2)];
        // Anchor 0, up by 1 + 62: 63, near enough to take the anchor away.
        tree[0].encode(&mut encoder, 1);
        number[1].encode(&mut encoder, 0);
        distance.encode(&mut encoder, 62);
        // Anchor 63, up by 1 + 63: 127, too far for that.
        tree[1].encode(&mut encoder, 1);
        number[1].encode(&mut encoder, 0);
        distance.encode(&mut encoder, 63);
        let coded = encoder.finish();
        let mut decoder = RangeDecoder::new(&coded).unwrap();
        let mut positions = Positions::new();
        assert_eq!(positions.decode(&mut decoder), Ok(63));
        assert!(positions.anchors.is_empty());
        positions.put(&[63]);
        assert_eq!(positions.decode(&mut decoder), Ok(127));
        positions.put(&[200, 127]);
        assert_eq!(positions.anchors, [200, 127, 63]);
        decoder.finish().unwrap();
    }

    #[test]
    fn bad_positions() {
        let decode = |mode: u64, rank: u64| {
            let mut encoder = RangeEncoder::new();
            TreeEncoder::new(2).encode(&mut encoder, mode);
            NumberEncoder::new(4).encode(&mut encoder, rank);
            NumberEncoder::new(4).encode(&mut encoder, 0);
            let coded = encoder.finish();
            Positions::new().decode(&mut RangeDecoder::new(&coded).unwrap())
        };
        assert_eq!(decode(0, 0), Ok(0));
        assert_eq!(decode(2, 0), Ok(-1));
        assert!(decode(3, 0).is_err());
        assert!(decode(0, 1).is_err());
    }
}
