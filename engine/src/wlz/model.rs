//! What is coded, and the contexts of every bit.

use super::mix::{Logit, Weights};
use super::range::{Coder, Encoder, Prob};
use super::symbols::{Lengths, MixedByte, Nibble, Six, direct};
use super::token::{Around, History, MIN_MATCH, MIN_REPEAT, STATES, Token, length_class, slot_of};

/// Every adaptive probability, most of them by what is around a position ([`Around`]).
///
/// What is mixed has its predictions and their weights side by side here: `docs/format.md` has them in this order.
pub(super) struct Model {
    /// Whether there is a match or repeat.
    pub(super) match_by_phase: [[Logit; 8]; STATES],
    pub(super) match_by_previous: [[Logit; 256]; 8],
    pub(super) match_by_expected: [[Logit; 256]; STATES],
    pub(super) match_weights: [Weights<3>; 8],

    /// Whether there is a pointer.
    pub(super) pointer_by_state: [Logit; STATES],
    pub(super) pointer_by_expected: [[Logit; 256]; STATES],
    pub(super) pointer_by_past: [Logit; 256],
    pub(super) pointer_weights: Weights<3>,
    /// What the answers were, the last one in the lowest bit.
    pub(super) pointer_past: u32,

    /// Whether there is a repeat.
    pub(super) repeat_by_state: [Logit; STATES],
    pub(super) repeat_by_phase: [[Logit; 8]; STATES],
    pub(super) repeat_by_expected: [[Logit; 256]; STATES],
    pub(super) repeat_weights: [Weights<3>; 8],

    /// Whether a literal is another byte than the expected one.
    pub(super) miss_by_expected: [Logit; 256],
    pub(super) miss_by_state: [[[Logit; 8]; 8]; STATES],
    pub(super) miss_by_past: [Logit; 1024],
    pub(super) miss_weights: [Weights<3>; 8],
    /// What the answers were, the last one in the lowest bit.
    pub(super) miss_past: u32,

    /// The literal, by the phase's lowest bit and the expected byte, by the byte before, by that a word before, by phase and state.
    pub(super) literal_by_expected: Box<[[MixedByte; 256]]>,
    pub(super) literal_by_previous: Box<[MixedByte]>,
    pub(super) literal_by_above: Box<[MixedByte]>,
    pub(super) literal_by_state: Box<[[MixedByte; STATES]]>,
    /// By phase: for the high four bits, for the low four.
    pub(super) literal_weights: [[Weights<4>; 2]; 8],

    pub(super) nth: [[Prob; 3]; STATES],
    pub(super) repeat_lengths: Lengths,
    pub(super) match_lengths: Lengths,
    /// By length class and phase: whether a distance is a multiple of eight. What follows is by the answer.
    pub(super) aligned: [[Prob; 8]; 4],
    pub(super) slots: [[Six; 4]; 2],
    /// By how many bits there are.
    pub(super) distance_low: [[Nibble; 4]; 2],

    pub(super) base: Nibble,
    /// By whether the base is not 0: seven bits, how many the difference has and its sign.
    pub(super) magnitude: [[Prob; 128]; 2],
    /// By how many bits the difference has.
    pub(super) delta_low: [Nibble; 64],
    pub(super) delta_high: [Nibble; 64],
}

impl Model {
    pub(super) fn new() -> Box<Self> {
        Box::new(Model {
            match_by_phase: [[Logit::NEW; 8]; STATES],
            match_by_previous: [[Logit::NEW; 256]; 8],
            match_by_expected: [[Logit::NEW; 256]; STATES],
            match_weights: [Weights::NEW; 8],
            pointer_by_state: [Logit::NEW; STATES],
            pointer_by_expected: [[Logit::NEW; 256]; STATES],
            pointer_by_past: [Logit::NEW; 256],
            pointer_weights: Weights::NEW,
            pointer_past: 0,
            repeat_by_state: [Logit::NEW; STATES],
            repeat_by_phase: [[Logit::NEW; 8]; STATES],
            repeat_by_expected: [[Logit::NEW; 256]; STATES],
            repeat_weights: [Weights::NEW; 8],
            miss_by_expected: [Logit::NEW; 256],
            miss_by_state: [[[Logit::NEW; 8]; 8]; STATES],
            miss_by_past: [Logit::NEW; 1024],
            miss_weights: [Weights::NEW; 8],
            miss_past: 0,
            literal_by_expected: vec![[const { MixedByte::NEW }; 256]; 2].into_boxed_slice(),
            literal_by_previous: vec![MixedByte::NEW; 256].into_boxed_slice(),
            literal_by_above: vec![MixedByte::NEW; 256].into_boxed_slice(),
            literal_by_state: vec![[const { MixedByte::NEW }; STATES]; 8].into_boxed_slice(),
            literal_weights: [[Weights::NEW; 2]; 8],
            nth: [[Prob::NEW; 3]; STATES],
            repeat_lengths: Lengths::NEW,
            match_lengths: Lengths::NEW,
            aligned: [[Prob::NEW; 8]; 4],
            slots: [const { [const { Six::NEW }; 4] }; 2],
            distance_low: [[Nibble::NEW; 4]; 2],
            base: Nibble::NEW,
            magnitude: [[Prob::NEW; 128]; 2],
            delta_low: [Nibble::NEW; 64],
            delta_high: [Nibble::NEW; 64],
        })
    }

    #[inline(always)]
    pub(super) fn is_match(&mut self, coder: &mut impl Coder, around: &Around, bit: bool) -> bool {
        let (state, phase) = (usize::from(around.state), around.phase);
        let logits = [
            &mut self.match_by_phase[state][phase],
            &mut self.match_by_previous[phase][usize::from(around.previous)],
            &mut self.match_by_expected[state][usize::from(around.expected)],
        ];
        self.match_weights[phase].bit(coder, logits, u32::from(bit)) != 0
    }

    #[inline(always)]
    pub(super) fn is_pointer(&mut self, coder: &mut impl Coder, around: &Around, bit: bool) -> bool {
        let state = usize::from(around.state);
        let logits = [
            &mut self.pointer_by_state[state],
            &mut self.pointer_by_expected[state][usize::from(around.expected)],
            &mut self.pointer_by_past[(self.pointer_past & 255) as usize],
        ];
        let bit = self.pointer_weights.bit(coder, logits, u32::from(bit));
        self.pointer_past = self.pointer_past << 1 | bit;
        bit != 0
    }

    #[inline(always)]
    pub(super) fn is_repeat(&mut self, coder: &mut impl Coder, around: &Around, bit: bool) -> bool {
        let (state, phase) = (usize::from(around.state), around.phase);
        let logits = [
            &mut self.repeat_by_state[state],
            &mut self.repeat_by_phase[state][phase],
            &mut self.repeat_by_expected[state][usize::from(around.expected)],
        ];
        self.repeat_weights[phase].bit(coder, logits, u32::from(bit)) != 0
    }

    /// A literal byte.
    #[inline(always)]
    pub(super) fn literal(&mut self, coder: &mut impl Coder, around: &Around, byte: u8) -> u8 {
        let &Around { state, phase, expected, previous, above } = around;
        let logits = [
            &mut self.miss_by_expected[usize::from(expected)],
            &mut self.miss_by_state[usize::from(state)][phase][(self.miss_past & 7) as usize],
            &mut self.miss_by_past[(self.miss_past & 1023) as usize],
        ];
        let miss = self.miss_weights[phase].bit(coder, logits, u32::from(byte != expected));
        self.miss_past = self.miss_past << 1 | miss;
        if miss == 0 {
            return expected;
        }
        let mut bytes = [
            &mut self.literal_by_expected[phase & 1][usize::from(expected)],
            &mut self.literal_by_previous[usize::from(previous)],
            &mut self.literal_by_above[usize::from(above)],
            &mut self.literal_by_state[phase][usize::from(state)],
        ];
        let weights = &mut self.literal_weights[phase];
        let logits = bytes.each_mut().map(|byte| &mut byte.0[MixedByte::HIGH]);
        let high = weights[0].nibble(coder, logits, u32::from(byte >> 4));
        let logits = bytes.each_mut().map(|byte| &mut byte.0[high as usize & 15]);
        (high << 4 | weights[1].nibble(coder, logits, u32::from(byte & 15))) as u8
    }

    /// Which of the last distances a repeat has.
    #[inline(always)]
    pub(super) fn nth(&mut self, coder: &mut impl Coder, state: u8, nth: u32) -> u32 {
        let probs = &mut self.nth[usize::from(state)];
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
        MIN_REPEAT + self.repeat_lengths.code(coder, phase, len.wrapping_sub(MIN_REPEAT))
    }

    #[inline(always)]
    pub(super) fn match_len(&mut self, coder: &mut impl Coder, phase: usize, len: u32) -> u32 {
        MIN_MATCH + self.match_lengths.code(coder, phase, len.wrapping_sub(MIN_MATCH))
    }

    /// A match's distance; hostile bytes make it 0.
    #[inline(always)]
    pub(super) fn distance(&mut self, coder: &mut impl Coder, phase: usize, len: u32, distance: u32) -> u32 {
        let class = length_class(len);
        let is_aligned = u32::from(distance.is_multiple_of(8));
        let aligned = coder.bit(&mut self.aligned[class][phase], is_aligned) as usize;
        let value = if aligned == 1 { distance / 8 } else { distance }.wrapping_sub(1);
        let slot = self.slots[aligned][class].code(coder, slot_of(value));
        let value = if slot < 4 {
            slot
        } else {
            let extra = slot / 2 - 1;
            let lowest = extra.min(4);
            let rest = extra - lowest;
            let high = direct(coder, u64::from(value >> lowest) & ((1 << rest) - 1), rest) as u32;
            let low = &mut self.distance_low[aligned][(lowest - 1) as usize];
            let low = low.code_low(coder, value & ((1 << lowest) - 1), lowest);
            (2 | slot & 1) << extra | high << lowest | low
        };
        if aligned == 1 { value.wrapping_add(1).wrapping_mul(8) } else { value.wrapping_add(1) }
    }

    #[inline(always)]
    pub(super) fn base(&mut self, coder: &mut impl Coder, base: u8) -> u8 {
        self.base.code(coder, u32::from(base), 4) as u8
    }

    /// A pointer's difference, not `i64::MIN`: how many bits it has and its sign; then, below its highest bit, the lowest four, the highest three of
    /// the others, and the rest as direct bits.
    #[inline(always)]
    pub(super) fn delta(&mut self, coder: &mut impl Coder, base: u8, delta: i64) -> i64 {
        let size = delta.unsigned_abs();
        let bits = 64 - size.leading_zeros();
        let probs = &mut self.magnitude[usize::from(base != 0)];
        let symbol = bits << 1 | u32::from(delta < 0);
        let mut node = 1;
        for place in (0..7).rev() {
            node = node << 1 | coder.bit(&mut probs[node as usize & 127], symbol >> place & 1);
        }
        let (bits, negative) = (node >> 1 & 63, node & 1);
        let signed = |size: u64| if negative == 1 { (size as i64).wrapping_neg() } else { size as i64 };
        if bits < 2 {
            return signed(bits.into());
        }
        let below = bits - 1;
        let lowest = below.min(4);
        let highest = (below - lowest).min(3);
        let rest = below - lowest - highest;
        let low = size as u32 & ((1 << lowest) - 1);
        let low = self.delta_low[bits as usize].code_low(coder, low, lowest);
        let high = (size >> (below - highest)) as u32 & ((1 << highest) - 1);
        let high = self.delta_high[bits as usize].code(coder, high, highest);
        let middle = direct(coder, size >> lowest & ((1 << rest) - 1), rest);
        signed(1 << below | u64::from(high) << (below - highest) | middle << lowest | u64::from(low))
    }

    /// Writes a step at `at`, and notes it.
    pub(super) fn write(
        &mut self,
        coder: &mut Encoder<'_>,
        history: &mut History,
        bytes: &[u8],
        at: usize,
        token: Token,
    ) {
        let around = &Around::new(bytes, at, history);
        let Around { state, phase, .. } = *around;
        match token {
            Token::Literal => {
                self.is_match(coder, around, false);
                if phase == 0 {
                    self.is_pointer(coder, around, false);
                }
                self.literal(coder, around, bytes[at]);
                history.literal();
            }
            Token::Pointer { base, delta } => {
                self.is_match(coder, around, false);
                self.is_pointer(coder, around, true);
                self.base(coder, base);
                self.delta(coder, base, delta);
                history.pointer();
            }
            Token::Repeat { nth, len } => {
                self.is_match(coder, around, true);
                self.is_repeat(coder, around, true);
                self.nth(coder, state, u32::from(nth));
                self.repeat_len(coder, phase, len);
                history.repeat(u32::from(nth));
            }
            Token::Match { distance, len } => {
                self.is_match(coder, around, true);
                self.is_repeat(coder, around, false);
                self.match_len(coder, phase, len);
                self.distance(coder, phase, len, distance);
                history.distance(distance);
            }
        }
    }
}
