//! What steps would cost, in 1/64 bit, by the model as it is.

use super::mix::{Logit, Weights};
use super::model::Model;
use super::range::Prob;
use super::symbols::{Lengths, MixedByte, Nibble};
use super::token::{Around, length_class, slot_of};

/// `-64 * log2((2 * i + 1) / 8192)`, rounded: of a probability in 1/65536, by its highest twelve bits.
static PRICES: [u16; 4096] = {
    let mut table = [0; 4096];
    let mut i = 0;
    while i < 4096 {
        let x = 2 * i as u64 + 1;
        let log = x.ilog2();
        // Between 1 and 2, in 1/2^31; each square gives a bit of the logarithm.
        let mut mantissa = x << (31 - log);
        let (mut bits, mut rounds) = (log, 0);
        while rounds < 7 {
            mantissa = (mantissa * mantissa) >> 31;
            bits = bits << 1 | (mantissa >> 32) as u32;
            mantissa = if mantissa >> 32 == 1 { mantissa >> 1 } else { mantissa };
            rounds += 1;
        }
        table[i] = ((13 * 128 - bits) / 2) as u16;
        i += 1;
    }
    table
};

/// Lengths, less the shortest, that are told apart; longer ones cost what the last one does.
const LENS: usize = 290;
/// What an escaped length costs more.
const ESCAPE: u32 = 600;

/// Prices that are looked up; the others are made from the model when they are asked for.
pub(super) struct Prices {
    /// By length, less the shortest, and phase.
    repeat_lengths: Vec<[u16; 8]>,
    match_lengths: Vec<[u16; 8]>,
    slots: [[[u16; 64]; 4]; 2],
    distance_low: [[[u16; 16]; 4]; 2],
    aligned: [[[u16; 2]; 8]; 4],
    base: [u16; 16],
    magnitude: [[u16; 128]; 2],
}

/// The price of a bit that has this probability of being 0.
#[inline(always)]
fn coin(zero: u32, bit: u32) -> u32 {
    let probability = if bit == 0 { zero } else { 65535 - zero };
    u32::from(PRICES[(probability >> 4) as usize & 4095])
}

#[inline(always)]
fn bit(prob: Prob, bit: u32) -> u32 {
    coin(u32::from(prob.0), bit)
}

#[inline(always)]
fn mixed<const N: usize>(weights: &Weights<N>, logits: [Logit; N]) -> [u32; 2] {
    let zero = weights.predict(logits);
    [coin(zero, 0), coin(zero, 1)]
}

/// The price of a symbol, most significant bit first. `probs` has a power of two of probabilities.
fn tree(probs: &[Prob], symbol: u32, bits: u32) -> u32 {
    let (mut node, mut sum) = (1, 0);
    for place in (0..bits).rev() {
        let value = symbol >> place & 1;
        sum += bit(probs[node as usize & (probs.len() - 1)], value);
        node = node << 1 | value;
    }
    sum
}

/// The same, least significant bit first.
fn low_tree(nibble: &Nibble, symbol: u32, bits: u32) -> u32 {
    let (mut node, mut sum) = (1, 0);
    for place in 0..bits {
        let value = symbol >> place & 1;
        sum += bit(nibble.0[(node & 15) as usize], value);
        node = node << 1 | value;
    }
    sum
}

fn price_lengths(lengths: &Lengths, out: &mut [[u16; 8]]) {
    for phase in 0..8 {
        let not_short = bit(lengths.not_short[phase], 1);
        let not_middle = not_short + bit(lengths.not_middle[phase], 1);
        for (value, prices) in out.iter_mut().enumerate() {
            let value = value as u32;
            prices[phase] = match value {
                0..8 => bit(lengths.not_short[phase], 0) + tree(&lengths.short[phase].0, value, 3),
                8..16 => {
                    not_short
                        + bit(lengths.not_middle[phase], 0)
                        + tree(&lengths.middle[phase].0, value - 8, 3)
                }
                // The same for all phases: from the first.
                _ if phase > 0 => u32::from(prices[0]) - first_of_long(lengths) + not_middle,
                _ => {
                    let long = (value - 16).min(255);
                    let low = &lengths.long.low[(long >> 4) as usize];
                    let escape = if long == 255 { ESCAPE } else { 0 };
                    not_middle
                        + tree(&lengths.long.high.0, long >> 4, 4)
                        + tree(&low.0, long & 15, 4)
                        + escape
                }
            } as u16;
        }
    }
}

fn first_of_long(lengths: &Lengths) -> u32 {
    bit(lengths.not_short[0], 1) + bit(lengths.not_middle[0], 1)
}

impl Prices {
    pub(super) fn new() -> Self {
        Prices {
            repeat_lengths: vec![[0; 8]; LENS],
            match_lengths: vec![[0; 8]; LENS],
            slots: [[[0; 64]; 4]; 2],
            distance_low: [[[0; 16]; 4]; 2],
            aligned: [[[0; 2]; 8]; 4],
            base: [0; 16],
            magnitude: [[0; 128]; 2],
        }
    }

    /// Takes over what the model has learnt.
    pub(super) fn refresh(&mut self, model: &Model) {
        price_lengths(&model.repeat_lengths, &mut self.repeat_lengths);
        price_lengths(&model.match_lengths, &mut self.match_lengths);
        for aligned in 0..2 {
            for class in 0..4 {
                let six = &model.slots[aligned][class];
                for slot in 0..64u32 {
                    let direct = (slot / 2).saturating_sub(5);
                    let low = &six.low[(slot >> 4) as usize];
                    let price = tree(&six.high.0, slot >> 4, 2) + tree(&low.0, slot & 15, 4) + 64 * direct;
                    self.slots[aligned][class][slot as usize] = price as u16;
                }
                let low = &model.distance_low[aligned][class];
                let prices = &mut self.distance_low[aligned][class];
                let bits = class as u32 + 1;
                (0..1 << bits).for_each(|value| prices[value as usize] = low_tree(low, value, bits) as u16);
            }
        }
        for (prices, probs) in self.aligned.as_flattened_mut().iter_mut().zip(model.aligned.as_flattened()) {
            *prices = [0, 1].map(|value| bit(*probs, value) as u16);
        }
        (0..16).for_each(|base| self.base[base as usize] = tree(&model.base.0, base, 4) as u16);
        for (prices, probs) in self.magnitude.iter_mut().zip(&model.magnitude) {
            (0..128).for_each(|symbol| prices[symbol as usize] = tree(probs, symbol, 7) as u16);
        }
    }

    /// A repeat's length, less the shortest.
    #[inline(always)]
    pub(super) fn repeat_len(&self, phase: usize, value: usize) -> u32 {
        u32::from(self.repeat_lengths[value.min(LENS - 1)][phase])
    }

    /// A match's length, less the shortest.
    #[inline(always)]
    pub(super) fn match_len(&self, phase: usize, value: usize) -> u32 {
        u32::from(self.match_lengths[value.min(LENS - 1)][phase])
    }

    #[inline(always)]
    pub(super) fn distance(&self, phase: usize, len: u32, distance: u32) -> u32 {
        let class = length_class(len);
        let aligned = usize::from(distance.is_multiple_of(8));
        let value = if aligned == 1 { distance / 8 - 1 } else { distance - 1 };
        let slot = slot_of(value);
        let sum = self.aligned[class][phase][aligned] + self.slots[aligned][class][slot as usize];
        let mut sum = u32::from(sum);
        if slot >= 4 {
            let bits = (slot / 2 - 1).min(4);
            let low = value & ((1 << bits) - 1);
            sum += u32::from(self.distance_low[aligned][bits as usize - 1][low as usize]);
        }
        sum
    }

    /// A pointer's base and difference, which is not `i64::MIN`.
    pub(super) fn pointer(&self, model: &Model, base: u8, delta: i64) -> u32 {
        let size = delta.unsigned_abs();
        let bits = 64 - size.leading_zeros();
        let symbol = (bits << 1 | u32::from(delta < 0)) as usize;
        let sum = self.base[usize::from(base)] + self.magnitude[usize::from(base != 0)][symbol & 127];
        let mut sum = u32::from(sum);
        if bits > 1 {
            let below = bits - 1;
            let lowest = below.min(4);
            let highest = (below - lowest).min(3);
            let (low, high) = (&model.delta_low[bits as usize & 63], &model.delta_high[bits as usize & 63]);
            sum += low_tree(low, size as u32 & ((1 << lowest) - 1), lowest);
            sum += tree(&high.0, (size >> (below - highest)) as u32 & ((1 << highest) - 1), highest);
            sum += 64 * (below - lowest - highest);
        }
        sum
    }
}

/// Whether there is a match or repeat.
#[inline(always)]
pub(super) fn is_match(model: &Model, around: &Around) -> [u32; 2] {
    let (state, phase) = (usize::from(around.state), around.phase);
    let logits = [
        model.match_by_phase[state][phase],
        model.match_by_previous[phase][usize::from(around.previous)],
        model.match_by_expected[state][usize::from(around.expected)],
    ];
    mixed(&model.match_weights[phase], logits)
}

/// Whether there is a repeat.
#[inline(always)]
pub(super) fn is_repeat(model: &Model, around: &Around) -> [u32; 2] {
    let (state, phase) = (usize::from(around.state), around.phase);
    let logits = [
        model.repeat_by_state[state],
        model.repeat_by_phase[state][phase],
        model.repeat_by_expected[state][usize::from(around.expected)],
    ];
    mixed(&model.repeat_weights[phase], logits)
}

/// Whether there is a pointer; `past` is what the last answers were.
#[inline(always)]
pub(super) fn is_pointer(model: &Model, around: &Around, past: u8) -> [u32; 2] {
    let state = usize::from(around.state);
    let logits = [
        model.pointer_by_state[state],
        model.pointer_by_expected[state][usize::from(around.expected)],
        model.pointer_by_past[usize::from(past)],
    ];
    mixed(&model.pointer_weights, logits)
}

/// Whether a literal is not the expected byte; `past` is what the last answers were.
#[inline(always)]
pub(super) fn is_miss(model: &Model, around: &Around, past: u16) -> [u32; 2] {
    let (state, phase) = (usize::from(around.state), around.phase);
    let logits = [
        model.miss_by_expected[usize::from(around.expected)],
        model.miss_by_state[state][phase][usize::from(past & 7)],
        model.miss_by_past[usize::from(past & 1023)],
    ];
    mixed(&model.miss_weights[phase], logits)
}

/// A literal that is not the expected byte.
pub(super) fn literal(model: &Model, around: &Around, byte: u8) -> u32 {
    let &Around { state, phase, expected, previous, above } = around;
    let bytes = [
        &model.literal_by_expected[phase & 1][usize::from(expected)],
        &model.literal_by_previous[usize::from(previous)],
        &model.literal_by_above[usize::from(above)],
        &model.literal_by_state[phase][usize::from(state)],
    ];
    let (mut rows, mut sum) = (MixedByte::HIGH, 0);
    for (weights, symbol) in model.literal_weights[phase].iter().zip([byte >> 4, byte & 15]) {
        let mut node = 1;
        for place in (0..4).rev() {
            let bit = usize::from(symbol) >> place & 1;
            sum += mixed(weights, bytes.map(|byte| byte.0[rows][node & 15]))[bit];
            node = node << 1 | bit;
        }
        rows = node & 15;
    }
    sum
}

/// Which of the last distances a repeat has.
#[inline(always)]
pub(super) fn nth(model: &Model, state: u8, nth: usize) -> u32 {
    let probs = &model.nth[usize::from(state)];
    let before: u32 = probs[..nth].iter().map(|&prob| bit(prob, 1)).sum();
    before + probs.get(nth).map_or(0, |&prob| bit(prob, 0))
}
