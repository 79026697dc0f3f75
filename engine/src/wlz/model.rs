//! What is coded, and the contexts of every bit.

use super::mix::{Logit, Weights};
use super::range::{Coder, Prob};

/// States of [`History`].
pub(super) const STATES: usize = 13;
/// The shortest match and the shortest repeat.
pub(super) const MIN_MATCH: u32 = 3;
pub(super) const MIN_REPEAT: u32 = 2;
/// Bases of a pointer.
pub(super) const BASES: usize = 16;
/// Words that are searched for bases.
pub(super) const BASE_WORDS: usize = 64;

/// A step of the coder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Literal,
    /// A word: base `base` plus `delta`.
    Pointer { base: u8, delta: i64 },
    /// `len` bytes from where the `nth` last distance points.
    Repeat { nth: u8, len: u32 },
    Match { distance: u32, len: u32 },
}

impl Token {
    pub(super) fn len(self) -> usize {
        match self {
            Token::Literal => 1,
            Token::Pointer { .. } => 8,
            Token::Repeat { len, .. } | Token::Match { len, .. } => len as usize,
        }
    }
}

/// What was coded last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct History {
    /// What the last steps were: as in LZMA 0 to 6 after a literal, 7 to 11 after a match or repeat; 12 after a pointer.
    pub(super) state: u8,
    pub(super) distances: [u32; 4],
}

const AFTER_LITERAL: [u8; STATES] = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 4, 5, 3];

impl History {
    pub(super) const NEW: History = History { state: 0, distances: [8, 16, 24, 32] };

    #[inline(always)]
    pub(super) fn literal(&mut self) {
        self.state = AFTER_LITERAL[usize::from(self.state)];
    }
    #[inline(always)]
    pub(super) fn pointer(&mut self) {
        self.state = 12;
    }
    #[inline(always)]
    fn after_literal(&self) -> bool {
        self.state < 7 || self.state == 12
    }
    #[inline(always)]
    pub(super) fn repeat(&mut self, nth: u32) {
        self.state = if self.after_literal() { 8 } else { 11 };
        let [a, b, c, d] = self.distances;
        self.distances = match nth {
            0 => [a, b, c, d],
            1 => [b, a, c, d],
            2 => [c, a, b, d],
            _ => [d, a, b, c],
        };
    }
    #[inline(always)]
    pub(super) fn distance(&mut self, distance: u32) {
        self.state = if self.after_literal() { 7 } else { 10 };
        let [a, b, c, _] = self.distances;
        self.distances = [distance, a, b, c];
    }
    #[inline]
    pub(super) fn apply(&mut self, token: Token) {
        match token {
            Token::Literal => self.literal(),
            Token::Pointer { .. } => self.pointer(),
            Token::Repeat { nth, .. } => self.repeat(u32::from(nth)),
            Token::Match { distance, .. } => self.distance(distance),
        }
    }
}

/// Sixteen probabilities, for four bits.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Nibble(pub(super) [Prob; 16]);

impl Nibble {
    const NEW: Nibble = Nibble([Prob::NEW; 16]);

    #[inline(always)]
    fn code(&mut self, coder: &mut impl Coder, symbol: u32, bits: u32) -> u32 {
        let mut node = 1;
        for place in (0..bits).rev() {
            node = node << 1 | coder.bit(&mut self.0[(node & 15) as usize], symbol >> place & 1) as u32;
        }
        node - (1 << bits)
    }

    /// Least significant bit first.
    #[inline(always)]
    fn code_low(&mut self, coder: &mut impl Coder, symbol: u32, bits: u32) -> u32 {
        let (mut node, mut value) = (1, 0);
        for place in 0..bits {
            let bit = coder.bit(&mut self.0[(node & 15) as usize], symbol >> place & 1);
            node = node << 1 | bit;
            value |= bit << place;
        }
        value
    }
}

/// A byte: its high four bits, then by those its low four.
#[derive(Clone, Debug)]
pub(super) struct Byte {
    pub(super) high: Nibble,
    pub(super) low: [Nibble; 16],
}

impl Byte {
    const NEW: Byte = Byte { high: Nibble::NEW, low: [Nibble::NEW; 16] };

    #[inline(always)]
    fn code(&mut self, coder: &mut impl Coder, symbol: u32) -> u32 {
        let high = self.high.code(coder, symbol >> 4, 4);
        high << 4 | self.low[(high & 15) as usize].code(coder, symbol & 15, 4)
    }
}

/// The same for mixing.
#[derive(Clone, Debug)]
#[repr(align(32))]
pub(super) struct MixedByte(pub(super) [[Logit; 16]; 17]);

impl MixedByte {
    const NEW: MixedByte = MixedByte([[Logit::NEW; 16]; 17]);
}

#[inline(always)]
fn mixed_byte<const N: usize>(w: &mut [Weights<N>; 2], coder: &mut impl Coder, mut b: [&mut MixedByte; N], symbol: u32) -> u32 {
    let high = w[0].nibble(coder, b.each_mut().map(|b| &mut b.0[16]), symbol >> 4);
    high << 4 | w[1].nibble(coder, b.each_mut().map(|b| &mut b.0[high as usize & 15]), symbol & 15)
}

/// Six bits: two, then by those four.
#[derive(Clone, Debug)]
pub(super) struct Six {
    pub(super) high: Nibble,
    pub(super) low: [Nibble; 4],
}

impl Six {
    const NEW: Six = Six { high: Nibble::NEW, low: [Nibble::NEW; 4] };
    #[inline(always)]
    fn code(&mut self, coder: &mut impl Coder, symbol: u32) -> u32 {
        let high = self.high.code(coder, symbol >> 4, 2);
        high << 4 | self.low[(high & 3) as usize].code(coder, symbol & 15, 4)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Lengths {
    pub(super) short: [Prob; 8],
    pub(super) middle: [Prob; 8],
    pub(super) low: [Nibble; 8],
    pub(super) mid: [Nibble; 8],
    pub(super) high: Byte,
    pub(super) escape: Six,
}

impl Lengths {
    fn new() -> Self {
        Lengths {
            short: [Prob::NEW; 8],
            middle: [Prob::NEW; 8],
            low: [Nibble::NEW; 8],
            mid: [Nibble::NEW; 8],
            high: Byte::NEW,
            escape: Six::NEW,
        }
    }

    #[inline(always)]
    fn code(&mut self, coder: &mut impl Coder, phase: usize, value: u32) -> u32 {
        if coder.bit(&mut self.short[phase], u32::from(value >= 8)) == 0 {
            return self.low[phase].code(coder, value & 7, 3);
        }
        if coder.bit(&mut self.middle[phase], u32::from(value >= 16)) == 0 {
            return 8 + self.mid[phase].code(coder, value & 7, 3);
        }
        let high = self.high.code(coder, value.saturating_sub(16).min(255));
        if high < 255 { 16 + high } else { self.long(coder, value) }
    }

    #[cold]
    fn long(&mut self, coder: &mut impl Coder, value: u32) -> u32 {
        let rest = value.wrapping_sub(16 + 255 - 1).max(1);
        let bits = self.escape.code(coder, rest.ilog2()).min(30);
        let low = direct(coder, u64::from(rest) & ((1 << bits) - 1), bits) as u32;
        (1 << bits | low) + (16 + 255 - 1)
    }
}

/// More direct bits than a coder takes at once: 16 at a time, high ones first.
#[inline(always)]
fn direct(coder: &mut impl Coder, value: u64, count: u32) -> u64 {
    let (mut left, mut read) = (count, 0);
    while left > 0 {
        let part = left.min(16);
        left -= part;
        read = read << part | u64::from(coder.direct((value >> left) as u32 & ((1 << part) - 1), part));
    }
    read
}

/// Every adaptive probability.
pub(super) struct Model {
    pub(super) is_match: [[Logit; 8]; STATES],
    pub(super) is_match_prev: [[Logit; 256]; 8],
    pub(super) is_match_exp: [[Logit; 256]; STATES],
    pub(super) is_match_weights: [Weights<3>; 8],
    pub(super) same_state: [[[Logit; 8]; 8]; STATES],
    pub(super) same_hits: [Logit; 1024],
    pub(super) same_weights: [Weights<3>; 8],
    pub(super) hits: u32,
    pub(super) is_repeat: [Logit; STATES],
    pub(super) is_repeat2: [[Logit; 8]; STATES],
    pub(super) is_repeat3: [[Logit; 256]; STATES],
    pub(super) is_repeat_w: [Weights<3>; 8],
    pub(super) is_pointer2: [[Logit; 256]; STATES],
    pub(super) is_pointer3: [Logit; 256],
    pub(super) is_pointer_w: Weights<3>,
    pub(super) words: u32,
    pub(super) repeat_nth: [[Prob; 3]; STATES],
    pub(super) is_pointer: [Logit; STATES],
    /// By phase and the byte at the last distance: whether the literal is that byte.
    pub(super) same: [Logit; 256],
    pub(super) literals: Box<[[MixedByte; 256]]>,
    pub(super) literals1: Box<[MixedByte]>,
    pub(super) literals8: Box<[MixedByte]>,
    pub(super) literal_weights: [[Weights<4>; 2]; 8],
    pub(super) order0: Box<[[MixedByte; STATES]]>,
    pub(super) repeat_len: Lengths,
    pub(super) match_len: Lengths,
    pub(super) aligned: [[Prob; 8]; 4],
    pub(super) slots: [[Six; 4]; 2],
    pub(super) low: [[Nibble; 4]; 2],
    pub(super) base: Nibble,
    pub(super) magnitude: [[Prob; 128]; 2],
    pub(super) delta_low: [Nibble; 64],
    pub(super) delta_high: [Nibble; 64],
}

#[inline(always)]
pub(super) fn class(len: u32) -> usize {
    match len {
        0..8 => 0,
        8..16 => 1,
        16..32 => 2,
        _ => 3,
    }
}

impl Model {
    pub(super) fn new() -> Box<Self> {
        Box::new(Model {
            is_match: [[Logit::NEW; 8]; STATES],
            is_match_prev: [[Logit::NEW; 256]; 8],
            is_match_exp: [[Logit::NEW; 256]; STATES],
            is_match_weights: [Weights::NEW; 8],
            same_state: [[[Logit::NEW; 8]; 8]; STATES],
            same_hits: [Logit::NEW; 1024],
            same_weights: [Weights::NEW; 8],
            hits: 0,
            is_repeat: [Logit::NEW; STATES],
            is_repeat2: [[Logit::NEW; 8]; STATES],
            is_repeat3: [[Logit::NEW; 256]; STATES],
            is_repeat_w: [Weights::NEW; 8],
            is_pointer2: [[Logit::NEW; 256]; STATES],
            is_pointer3: [Logit::NEW; 256],
            is_pointer_w: Weights::NEW,
            words: 0,
            repeat_nth: [[Prob::NEW; 3]; STATES],
            is_pointer: [Logit::NEW; STATES],
            same: [Logit::NEW; 256],
            literals: vec![[const { MixedByte::NEW }; 256]; 2].into_boxed_slice(),
            literals1: vec![MixedByte::NEW; 256].into_boxed_slice(),
            literals8: vec![MixedByte::NEW; 256].into_boxed_slice(),
            literal_weights: [[Weights::NEW; 2]; 8],
            order0: vec![[const { MixedByte::NEW }; STATES]; 8].into_boxed_slice(),
            repeat_len: Lengths::new(),
            match_len: Lengths::new(),
            aligned: [[Prob::NEW; 8]; 4],
            slots: [const { [const { Six::NEW }; 4] }; 2],
            low: [[Nibble::NEW; 4]; 2],
            base: Nibble::NEW,
            magnitude: [[Prob::NEW; 128]; 2],
            delta_low: [Nibble::NEW; 64],
            delta_high: [Nibble::NEW; 64],
        })
    }

    #[inline(always)]
    pub(super) fn is_match(&mut self, coder: &mut impl Coder, state: u8, phase: usize, prev: u8, exp: u8, bit: bool) -> bool {
        let s = usize::from(state);
        let probs = [&mut self.is_match[s][phase], &mut self.is_match_prev[phase][usize::from(prev)], &mut self.is_match_exp[s][usize::from(exp)]];
        self.is_match_weights[phase].bit(coder, probs, u32::from(bit)) != 0
    }

    #[inline(always)]
    pub(super) fn is_pointer(&mut self, coder: &mut impl Coder, state: u8, exp: u8, bit: bool) -> bool {
        let s = usize::from(state);
        let probs = [&mut self.is_pointer[s], &mut self.is_pointer2[s][usize::from(exp)], &mut self.is_pointer3[(self.words & 255) as usize]];
        let b = self.is_pointer_w.bit(coder, probs, u32::from(bit));
        self.words = self.words << 1 | b;
        b != 0
    }

    #[inline(always)]
    pub(super) fn is_repeat(&mut self, coder: &mut impl Coder, state: u8, phase: usize, exp: u8, bit: bool) -> bool {
        let s = usize::from(state);
        let probs = [&mut self.is_repeat[s], &mut self.is_repeat2[s][phase], &mut self.is_repeat3[s][usize::from(exp)]];
        self.is_repeat_w[phase].bit(coder, probs, u32::from(bit)) != 0
    }

    /// `expected` is the byte at the last distance.
    #[inline(always)]
    pub(super) fn literal(&mut self, coder: &mut impl Coder, state: u8, phase: usize, expected: u8, prev: u8, above: u8, byte: u8) -> u8 {
        let probs = [
            &mut self.same[usize::from(expected)],
            &mut self.same_state[usize::from(state)][phase][(self.hits & 7) as usize],
            &mut self.same_hits[(self.hits & 1023) as usize],
        ];
        let miss = self.same_weights[phase].bit(coder, probs, u32::from(byte != expected));
        self.hits = self.hits << 1 | miss;
        if miss == 0 {
            return expected;
        }
        let b = [
            &mut self.literals[phase&1][usize::from(expected)],
            &mut self.literals1[usize::from(prev)],
            &mut self.literals8[usize::from(above)],
            &mut self.order0[phase][usize::from(state)],
        ];
        mixed_byte(&mut self.literal_weights[phase], coder, b, u32::from(byte)) as u8
    }

    #[inline(always)]
    pub(super) fn repeat_nth(&mut self, coder: &mut impl Coder, state: u8, nth: u32) -> u32 {
        let probs = &mut self.repeat_nth[usize::from(state)];
        if coder.bit(&mut probs[0], u32::from(nth > 0)) == 0 {
            return 0;
        }
        if coder.bit(&mut probs[1], u32::from(nth > 1)) == 0 {
            return 1;
        }
        2 + coder.bit(&mut probs[2], u32::from(nth > 2))
    }

    #[inline(always)]
    pub(super) fn repeat_len(&mut self, coder: &mut impl Coder, phase: usize, len: u32) -> u32 {
        MIN_REPEAT + self.repeat_len.code(coder, phase, len.wrapping_sub(MIN_REPEAT))
    }

    #[inline(always)]
    pub(super) fn match_len(&mut self, coder: &mut impl Coder, phase: usize, len: u32) -> u32 {
        MIN_MATCH + self.match_len.code(coder, phase, len.wrapping_sub(MIN_MATCH))
    }

    #[inline(always)]
    pub(super) fn match_distance(&mut self, coder: &mut impl Coder, phase: usize, len: u32, distance: u32) -> u32 {
        let class = class(len);
        let aligned = coder.bit(&mut self.aligned[class][phase], u32::from(distance % 8 == 0)) as usize;
        let value = if aligned == 1 { (distance / 8).wrapping_sub(1) } else { distance.wrapping_sub(1) };
        let slot = self.slots[aligned][class].code(coder, slot_of(value));
        let value = if slot < 4 {
            slot
        } else {
            let extra = slot / 2 - 1;
            let lowest = extra.min(4);
            let rest = extra - lowest;
            let high = direct(coder, u64::from(value >> lowest) & ((1 << rest) - 1), rest) as u32;
            let low = self.low[aligned][(lowest - 1) as usize].code_low(coder, value & ((1 << lowest) - 1), lowest);
            ((2 | slot & 1) << extra) | high << lowest | low
        };
        if aligned == 1 { value.wrapping_add(1).wrapping_mul(8) } else { value.wrapping_add(1) }
    }

    #[inline(always)]
    pub(super) fn pointer_base(&mut self, coder: &mut impl Coder, base: u8) -> u8 {
        self.base.code(coder, u32::from(base), 4) as u8
    }

    #[inline(always)]
    pub(super) fn pointer_delta(&mut self, coder: &mut impl Coder, base: u8, delta: i64) -> i64 {
        let size = delta.unsigned_abs();
        let bits = 64 - size.leading_zeros();
        let probs = &mut self.magnitude[usize::from(base != 0)];
        let symbol = bits << 1 | u32::from(delta < 0);
        let mut node = 1;
        for place in (0..7).rev() {
            node = node << 1 | coder.bit(&mut probs[node as usize & 127], symbol >> place & 1);
        }
        let (bits, negative) = (node >> 1 & 63, node & 1);
        if bits < 2 {
            return if negative == 1 { -i64::from(bits) } else { i64::from(bits) };
        }
        let below = bits - 1;
        let lowest = below.min(4);
        let low = self.delta_low[bits as usize].code_low(coder, size as u32 & ((1 << lowest) - 1), lowest);
        let highest = (below - lowest).min(3);
        let high = (size >> (below - highest)) as u32 & ((1 << highest) - 1);
        let high = self.delta_high[bits as usize].code(coder, high, highest);
        let middle = below - lowest - highest;
        let mid = direct(coder, size >> lowest & ((1 << middle) - 1), middle);
        let size = 1 << below | u64::from(high) << (below - highest) | mid << lowest | u64::from(low);
        if negative == 1 { (size as i64).wrapping_neg() } else { size as i64 }
    }
}

/// 0 to 3 for themselves, then two for each power of two.
#[inline(always)]
pub(super) fn slot_of(value: u32) -> u32 {
    if value < 4 {
        return value;
    }
    let log = value.ilog2();
    log * 2 + (value >> (log - 1) & 1)
}

#[inline(always)]
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { return 0 };
    u64::from_le_bytes(*word)
}

/// Whether a word may be an address: canonical, and beyond the first 4 GiB.
#[inline(always)]
pub(super) fn is_address(word: u64) -> bool {
    word >> 32 != 0 && (word >> 47 == 0 || word >> 47 == 0x1_ffff)
}

/// Base 0: the word at the last distance; others: the `base`th word that may be an address, going back from `at`.
/// Zero where there is none.
#[inline]
pub(super) fn base_word(bytes: &[u8], at: usize, last: u32, base: u8) -> u64 {
    if base == 0 {
        let last = last as usize;
        return if last >= 8 && last <= at { word(bytes, at - last) } else { 0 };
    }
    let mut left = base;
    let words = bytes[at.saturating_sub(8 * BASE_WORDS)..at].as_chunks::<8>().0;
    for word in words.iter().rev() {
        let word = u64::from_le_bytes(*word);
        if is_address(word) {
            left -= 1;
            if left == 0 {
                return word;
            }
        }
    }
    0
}
