//! Symbols of several bits, each bit with a probability of its own.

use super::mix::Logit;
use super::range::{Coder, Prob};

/// Sixteen probabilities, for up to four bits.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Nibble(pub(super) [Prob; 16]);

impl Nibble {
    pub(super) const NEW: Nibble = Nibble([Prob::NEW; 16]);

    /// Most significant bit first.
    #[inline(always)]
    pub(super) fn code(&mut self, coder: &mut impl Coder, symbol: u32, bits: u32) -> u32 {
        let mut node = 1;
        for place in (0..bits).rev() {
            node = node << 1 | coder.bit(&mut self.0[(node & 15) as usize], symbol >> place & 1);
        }
        node - (1 << bits)
    }

    /// Least significant bit first.
    #[inline(always)]
    pub(super) fn code_low(&mut self, coder: &mut impl Coder, symbol: u32, bits: u32) -> u32 {
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

/// One of several predictions of a byte: sixteen logits for the high four bits, the last, and by those for the low four.
#[derive(Clone, Debug)]
#[repr(align(32))]
pub(super) struct MixedByte(pub(super) [[Logit; 16]; 17]);

impl MixedByte {
    pub(super) const NEW: MixedByte = MixedByte([[Logit::NEW; 16]; 17]);
    pub(super) const HIGH: usize = 16;
}

/// Six bits: two, then by those four.
#[derive(Clone, Debug)]
pub(super) struct Six {
    pub(super) high: Nibble,
    pub(super) low: [Nibble; 4],
}

impl Six {
    pub(super) const NEW: Six = Six { high: Nibble::NEW, low: [Nibble::NEW; 4] };

    #[inline(always)]
    pub(super) fn code(&mut self, coder: &mut impl Coder, symbol: u32) -> u32 {
        let high = self.high.code(coder, symbol >> 4, 2);
        high << 4 | self.low[(high & 3) as usize].code(coder, symbol & 15, 4)
    }
}

/// Lengths, less the shortest one: below 8, below 16, below 271, and others.
#[derive(Clone, Debug)]
pub(super) struct Lengths {
    /// By phase: whether it is 8 or more, and whether it is 16 or more.
    pub(super) not_short: [Prob; 8],
    pub(super) not_middle: [Prob; 8],
    pub(super) short: [Nibble; 8],
    pub(super) middle: [Nibble; 8],
    pub(super) long: Byte,
    pub(super) escape: Six,
}

/// Values that [`Lengths::long`] does not tell: they are this and a number of at least 1.
const ESCAPED: u32 = 16 + 255 - 1;

impl Lengths {
    pub(super) const NEW: Lengths = Lengths {
        not_short: [Prob::NEW; 8],
        not_middle: [Prob::NEW; 8],
        short: [Nibble::NEW; 8],
        middle: [Nibble::NEW; 8],
        long: Byte::NEW,
        escape: Six::NEW,
    };

    #[inline(always)]
    pub(super) fn code(&mut self, coder: &mut impl Coder, phase: usize, value: u32) -> u32 {
        if coder.bit(&mut self.not_short[phase], u32::from(value >= 8)) == 0 {
            return self.short[phase].code(coder, value & 7, 3);
        }
        if coder.bit(&mut self.not_middle[phase], u32::from(value >= 16)) == 0 {
            return 8 + self.middle[phase].code(coder, value & 7, 3);
        }
        let long = self.long.code(coder, value.saturating_sub(16).min(255));
        if long < 255 { 16 + long } else { self.escaped(coder, value) }
    }

    #[cold]
    fn escaped(&mut self, coder: &mut impl Coder, value: u32) -> u32 {
        let rest = value.wrapping_sub(ESCAPED).max(1);
        let bits = self.escape.code(coder, rest.ilog2()).min(30);
        let low = direct(coder, u64::from(rest) & ((1 << bits) - 1), bits) as u32;
        (1 << bits | low) + ESCAPED
    }
}

/// Equally likely bits, up to 64, the high ones first; a coder takes at most 16 at once.
#[inline(always)]
pub(super) fn direct(coder: &mut impl Coder, value: u64, count: u32) -> u64 {
    let (mut left, mut read) = (count, 0);
    while left > 0 {
        let part = left.min(16);
        left -= part;
        read = read << part | u64::from(coder.direct((value >> left) as u32 & ((1 << part) - 1), part));
    }
    read
}
