//! Section 11: the word coder.

use std::sync::LazyLock;

use super::range::HALF;

/// `K` of section 11.2.
const K: [i64; 33] = [
    22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768, 40793,
    47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514,
];

/// `E(x)`: the probability of a 0 that a logit stands for.
fn probability(x: i64) -> i64 {
    let i = (x + 2048).div_euclid(128) as usize;
    let j = (x + 2048).rem_euclid(128);
    (K[i] * (128 - j) + K[i + 1] * j + 64) / 128
}

/// `N(l)` for `l` from -2047 to 2047.
static AFTER_ZERO: LazyLock<Vec<i64>> = LazyLock::new(|| {
    let after = |l: i64| {
        let wanted = probability(l) + (65536 - probability(l)) / 16;
        (-2047..2047).find(|&x| probability(x) >= wanted).unwrap_or(2047)
    };
    (-2047..=2047).map(after).collect()
});

fn after(l: i64, bit: u64) -> i64 {
    let next = |l: i64| AFTER_ZERO[(l + 2047) as usize];
    if bit == 0 { next(l) } else { -next(-l) }
}

/// Section 11.1.
struct Coder<'a> {
    units: std::slice::Chunks<'a, u8>,
    range: u64,
    code: u64,
}

impl<'a> Coder<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, String> {
        let mut coder = Self { units: bytes.chunks(4), range: u64::MAX, code: 0 };
        coder.code = coder.unit()? << 32 | coder.unit()?;
        Ok(coder)
    }

    fn unit(&mut self) -> Result<u64, String> {
        match self.units.next() {
            Some(&[a, b, c, d]) => Ok(u64::from(u32::from_le_bytes([a, b, c, d]))),
            Some(_) => Err("word coder: the last unit has less than four bytes".into()),
            None => Err("word coder: it wants more units than there are".into()),
        }
    }

    fn normalise(&mut self) -> Result<(), String> {
        if self.range < 1 << 32 {
            self.range <<= 32;
            self.code = self.code << 32 | self.unit()?;
        }
        Ok(())
    }

    /// A bit that is 0 with this probability.
    fn coin(&mut self, p: u64) -> Result<u64, String> {
        let bound = (self.range >> 16) * p;
        let bit = u64::from(self.code >= bound);
        if bit == 0 {
            self.range = bound;
        } else {
            self.code -= bound;
            self.range -= bound;
        }
        self.normalise()?;
        Ok(bit)
    }

    fn bit(&mut self, p: &mut u32) -> Result<u64, String> {
        let bit = self.coin(u64::from(*p))?;
        if bit == 0 {
            *p += (65536 - *p) >> 4;
        } else {
            *p -= *p >> 4;
        }
        Ok(bit)
    }

    fn direct(&mut self, k: u64) -> Result<u64, String> {
        let (mut left, mut value) = (k, 0);
        while left > 0 {
            let j = left.min(16);
            self.range >>= j;
            let part = (self.code / self.range).min((1 << j) - 1);
            self.code -= part * self.range;
            self.normalise()?;
            value = value << j | part;
            left -= j;
        }
        Ok(value)
    }

    /// A symbol of `bits` bits; `tree` has a probability for each node.
    fn tree(&mut self, tree: &mut [u32], bits: u64) -> Result<u64, String> {
        let mut node = 1;
        for _ in 0..bits {
            node = node * 2 + self.bit(&mut tree[node as usize])?;
        }
        Ok(node - (1 << bits))
    }

    fn reversed_tree(&mut self, tree: &mut [u32], bits: u64) -> Result<u64, String> {
        let (mut node, mut symbol) = (1, 0);
        for place in 0..bits {
            let bit = self.bit(&mut tree[node as usize])?;
            node = node * 2 + bit;
            symbol |= bit << place;
        }
        Ok(symbol)
    }
}

/// `p` of a mixed bit.
fn mix(logits: &[i64], weights: &[i32]) -> i64 {
    let mut sum = 0_i32;
    for (&logit, &weight) in logits.iter().zip(weights) {
        sum = sum.wrapping_add(weight.wrapping_mul(logit as i32));
    }
    let x = i64::from(sum).div_euclid(65536).clamp(-2047, 2047);
    probability(4 * (x + 2048).div_euclid(4) - 2046)
}

fn error(p: i64, bit: u64) -> i64 {
    if bit == 0 { 65535 - p } else { -p }
}

fn add(weight: &mut i32, sum: i64) {
    *weight = weight.wrapping_add(sum.div_euclid(8192) as i32);
}

/// What is chosen by up to three numbers. All entries start alike.
struct Table<T> {
    sizes: [usize; 3],
    entries: Vec<T>,
}

impl<T: Clone> Table<T> {
    fn new(sizes: [usize; 3], entry: &T) -> Self {
        Self { sizes, entries: vec![entry.clone(); sizes.iter().product()] }
    }

    fn at(&mut self, numbers: [usize; 3]) -> &mut T {
        for (number, size) in numbers.iter().zip(self.sizes) {
            assert!(*number < size, "{numbers:?} in {:?}", self.sizes);
        }
        &mut self.entries[(numbers[0] * self.sizes[1] + numbers[1]) * self.sizes[2] + numbers[2]]
    }
}

/// The logits of a bit that three of them are mixed for, and its weights.
struct Mixed {
    logits: [Table<i64>; 3],
    weights: Table<[i32; 3]>,
}

impl Mixed {
    fn new(sizes: [[usize; 3]; 3], weights: usize) -> Self {
        Self {
            logits: sizes.map(|sizes| Table::new(sizes, &0)),
            weights: Table::new([weights, 1, 1], &[24272; 3]),
        }
    }

    fn bit(
        &mut self,
        coder: &mut Coder<'_>,
        numbers: [[usize; 3]; 3],
        weights: usize,
    ) -> Result<u64, String> {
        let weights = self.weights.at([weights, 0, 0]);
        let [a, b, c] = &mut self.logits;
        let logits = [a.at(numbers[0]), b.at(numbers[1]), c.at(numbers[2])];
        let before = [*logits[0], *logits[1], *logits[2]];
        let p = mix(&before, weights);
        let bit = coder.coin(p as u64)?;
        for ((logit, before), weight) in logits.into_iter().zip(before).zip(weights) {
            add(weight, error(p, bit) * before);
            *logit = after(before, bit);
        }
        Ok(bit)
    }
}

/// Lengths less the shortest.
struct Length {
    bits: [Table<u32>; 2],
    trees: [Table<[u32; 8]>; 2],
    long: Vec<u32>,
    longest: Vec<u32>,
}

impl Length {
    fn new() -> Self {
        let by_phase = [8, 1, 1];
        Self {
            bits: [Table::new(by_phase, &HALF), Table::new(by_phase, &HALF)],
            trees: [Table::new(by_phase, &[HALF; 8]), Table::new(by_phase, &[HALF; 8])],
            long: vec![HALF; 256],
            longest: vec![HALF; 64],
        }
    }

    fn decode(&mut self, coder: &mut Coder<'_>, phase: usize) -> Result<u64, String> {
        for nth in 0..2 {
            if coder.bit(self.bits[nth].at([phase, 0, 0]))? == 0 {
                return Ok(8 * nth as u64 + coder.tree(self.trees[nth].at([phase, 0, 0]), 3)?);
            }
        }
        let long = coder.tree(&mut self.long, 8)?;
        if long < 255 {
            return Ok(16 + long);
        }
        let m = coder.tree(&mut self.longest, 6)?.min(30);
        Ok(270 + (1 << m) + coder.direct(m)?)
    }
}

/// Everything that adapts.
struct Model {
    is_match: Mixed,
    is_pointer: Mixed,
    is_repeat: Mixed,
    is_miss: Mixed,
    /// A logit for each node of each tree.
    bytes: [Table<Vec<i64>>; 4],
    byte_weights: Table<[i32; 4]>,
    which: Table<u32>,
    repeats: Length,
    matches: Length,
    aligned: Table<u32>,
    slots: Table<Vec<u32>>,
    low_distance: Table<Vec<u32>>,
    base: Vec<u32>,
    sizes: Table<Vec<u32>>,
    low: Table<Vec<u32>>,
    high: Table<Vec<u32>>,
}

impl Model {
    fn new() -> Self {
        let trees = |sizes, bits: u32| Table::new(sizes, &vec![HALF; 1 << bits]);
        Self {
            is_match: Mixed::new([[13, 8, 1], [8, 256, 1], [13, 256, 1]], 8),
            is_pointer: Mixed::new([[13, 1, 1], [13, 256, 1], [256, 1, 1]], 1),
            is_repeat: Mixed::new([[13, 1, 1], [13, 8, 1], [13, 256, 1]], 8),
            is_miss: Mixed::new([[256, 1, 1], [13, 8, 8], [1024, 1, 1]], 8),
            bytes: [[2, 256, 1], [256, 1, 1], [256, 1, 1], [8, 13, 1]]
                .map(|sizes| Table::new(sizes, &vec![0; 256])),
            byte_weights: Table::new([8, 2, 1], &[18204; 4]),
            which: Table::new([13, 3, 1], &HALF),
            repeats: Length::new(),
            matches: Length::new(),
            aligned: Table::new([4, 8, 1], &HALF),
            slots: trees([2, 4, 1], 6),
            low_distance: trees([2, 5, 1], 4),
            base: vec![HALF; 16],
            sizes: trees([2, 1, 1], 7),
            low: trees([64, 1, 1], 4),
            high: trees([64, 1, 1], 3),
        }
    }

    /// A byte by a mixed tree; which tree of each set.
    fn byte(&mut self, coder: &mut Coder<'_>, numbers: [[usize; 3]; 4], phase: usize) -> Result<u8, String> {
        let mut node = 1;
        for half in 0..2 {
            let weights = self.byte_weights.at([phase, half, 0]);
            let mut sums = [0; 4];
            for _ in 0..4 {
                let mut logits = [0; 4];
                for (nth, table) in self.bytes.iter_mut().enumerate() {
                    logits[nth] = table.at(numbers[nth])[node];
                }
                let p = mix(&logits, weights);
                let bit = coder.coin(p as u64)?;
                for (nth, table) in self.bytes.iter_mut().enumerate() {
                    sums[nth] += error(p, bit) * logits[nth];
                    table.at(numbers[nth])[node] = after(logits[nth], bit);
                }
                node = node * 2 + bit as usize;
            }
            weights.iter_mut().zip(sums).for_each(|(weight, sum)| add(weight, sum));
        }
        Ok((node - 256) as u8)
    }

    fn distance(&mut self, coder: &mut Coder<'_>, phase: usize, len: u64) -> Result<u64, String> {
        let c = match len {
            ..8 => 0,
            8..16 => 1,
            16..32 => 2,
            _ => 3,
        };
        let a = coder.bit(self.aligned.at([c, phase, 0]))?;
        let t = coder.tree(self.slots.at([a as usize, c, 0]), 6)?;
        let v = if t < 4 {
            t
        } else {
            let e = t / 2 - 1;
            let k = e.min(4);
            let high = coder.direct(e - k)?;
            let low = coder.reversed_tree(self.low_distance.at([a as usize, k as usize, 0]), k)?;
            ((2 + t % 2) << e) + (high << k) + low
        };
        Ok(if a == 1 { 8 * (v + 1) } else { v + 1 } % (1 << 32))
    }

    /// How much a pointer's word is more than its base, modulo 2^64; and the base.
    fn pointer(&mut self, coder: &mut Coder<'_>) -> Result<(u64, u64), String> {
        let base = coder.tree(&mut self.base, 4)?;
        let symbol = coder.tree(self.sizes.at([usize::from(base != 0), 0, 0]), 7)?;
        let (n, s) = (symbol / 2, symbol % 2);
        let size = if n < 2 {
            n
        } else {
            let k = n - 1;
            let l = k.min(4);
            let h = (k - l).min(3);
            let low = coder.reversed_tree(self.low.at([n as usize, 0, 0]), l)?;
            let high = coder.tree(self.high.at([n as usize, 0, 0]), h)?;
            let middle = coder.direct(k - l - h)?;
            (1 << k) + (high << (k - h)) + (middle << l) + low
        };
        Ok((base, if s == 1 { 0_u64.wrapping_sub(size) } else { size }))
    }
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// `w` of section 11.4, for a pointer at the end of `bytes`.
fn base_word(bytes: &[u8], last: u64, base: u64) -> u64 {
    let at = bytes.len();
    if base == 0 {
        let is_there = last >= 8 && last <= at as u64;
        return if is_there { word_at(bytes, at - last as usize) } else { 0 };
    }
    let mut left = base;
    for back in 1..=64.min(at / 8) {
        let word = word_at(bytes, at - 8 * back);
        let top = word >> 47;
        if word >> 32 != 0 && (top == 0 || top == 0x1_ffff) {
            left -= 1;
            if left == 0 {
                return word;
            }
        }
    }
    0
}

/// Decodes to `raw_len` bytes.
pub(super) fn decode(coded: &[u8], raw_len: u64) -> Result<Vec<u8>, String> {
    const AFTER_LITERAL: [usize; 13] = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 4, 5, 3];
    let coder = &mut Coder::new(coded)?;
    let mut model = Model::new();
    let mut state = 0;
    let mut distances = vec![8_u64, 16, 24, 32];
    let (mut pointers, mut misses) = (0_usize, 0_usize);
    let mut out: Vec<u8> = Vec::new();
    while (out.len() as u64) < raw_len {
        let (at, phase) = (out.len(), out.len() % 8);
        let left = raw_len - at as u64;
        let before = |distance: u64| match usize::try_from(distance) {
            Ok(distance) if distance <= at => usize::from(out[at - distance]),
            _ => 0,
        };
        let (expected, previous, above) = (before(distances[0]), before(1), before(8));
        let numbers = [[state, phase, 0], [phase, previous, 0], [state, expected, 0]];
        if model.is_match.bit(coder, numbers, phase)? == 0 {
            if phase == 0 {
                let numbers = [[state, 0, 0], [state, expected, 0], [pointers % 256, 0, 0]];
                let is_pointer = model.is_pointer.bit(coder, numbers, 0)?;
                pointers = (pointers * 2 + is_pointer as usize) % 65536;
                if is_pointer == 1 {
                    let (base, more) = model.pointer(coder)?;
                    let word = base_word(&out, distances[0], base).wrapping_add(more);
                    if left < 8 {
                        return Err(format!("word coder: a pointer where {left} bytes are left"));
                    }
                    out.extend(word.to_le_bytes());
                    state = 12;
                    continue;
                }
            }
            let numbers = [[expected, 0, 0], [state, phase, misses % 8], [misses % 1024, 0, 0]];
            let is_miss = model.is_miss.bit(coder, numbers, phase)?;
            misses = (misses * 2 + is_miss as usize) % 65536;
            let mut byte = expected as u8;
            if is_miss == 1 {
                let numbers = [[phase % 2, expected, 0], [previous, 0, 0], [above, 0, 0], [phase, state, 0]];
                byte = model.byte(coder, numbers, phase)?;
            }
            out.push(byte);
            state = AFTER_LITERAL[state];
            continue;
        }
        let numbers = [[state, 0, 0], [state, phase, 0], [state, expected, 0]];
        let alone = state < 7 || state == 12;
        let len;
        if model.is_repeat.bit(coder, numbers, phase)? == 1 {
            let mut which = 0;
            while which < 3 && coder.bit(model.which.at([state, which, 0]))? == 1 {
                which += 1;
            }
            let distance = distances.remove(which);
            distances.insert(0, distance);
            len = 2 + model.repeats.decode(coder, phase)?;
            state = if alone { 8 } else { 11 };
        } else {
            len = 3 + model.matches.decode(coder, phase)?;
            distances.insert(0, model.distance(coder, phase, len)?);
            distances.pop();
            state = if alone { 7 } else { 10 };
        }
        let distance = distances[0];
        if distance == 0 || distance > at as u64 {
            return Err(format!("word coder: a distance of {distance} after {at} bytes"));
        }
        if len > left {
            return Err(format!("word coder: {len} bytes where {left} are left"));
        }
        for _ in 0..len {
            out.push(out[out.len() - distance as usize]);
        }
    }
    match coder.units.len() {
        0 => Ok(out),
        left => Err(format!("word coder: {left} units too many")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand from the document.
    #[test]
    fn logits_by_hand() {
        assert_eq!((probability(0), probability(-2048), probability(2047)), (32768, 22, 65514));
        assert_eq!((probability(64), probability(-64)), ((32768 + 40793) / 2 + 1, (32768 + 24743) / 2 + 1));
        // 34816 is wanted; from 0 on each step of x adds 8025 / 128.
        assert_eq!((after(0, 0), after(0, 1)), (33, -33));
        assert_eq!((after(2047, 0), after(-2047, 1)), (2047, -2047));
        assert_eq!(mix(&[0; 3], &[24272; 3]), probability(2));
        assert_eq!(mix(&[2047; 3], &[24272; 3]), probability(2046));
        assert_eq!(mix(&[-2047; 4], &[18204; 4]), probability(-2046));
    }

    /// No bits but the start: every bit of a code of 0 is 0, so all is the expected byte, which is 0.
    #[test]
    fn nothing_but_zeros() {
        assert_eq!(decode(&[0; 8], 5), Ok(vec![0; 5]));
        assert!(decode(&[0; 7], 5).is_err());
        assert!(decode(&[0; 9], 5).is_err());
        assert!(decode(&[0; 12], 5).is_err());
        assert!(decode(&[], 0).is_err());
        assert_eq!(decode(&[0xff; 8], 0), Ok(Vec::new()));
    }
}
