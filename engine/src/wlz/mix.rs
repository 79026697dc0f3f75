//! Logistic mixing: several predictions of one bit into a better one.

use super::range::Coder;

/// `65536 / (1 + e^-x)` for `x` from -8 to 8 in halves, rounded.
const KNOTS: [u32; 33] = [
    22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768, 40793,
    47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514,
];

const fn squash_exact(logit: i32) -> u32 {
    let at = (logit + 2048) as u32;
    let (knot, part) = ((at >> 7) as usize, at & 127);
    (KNOTS[knot] * (128 - part) + KNOTS[knot + 1] * part + 64) >> 7
}

/// By `(logit + 2048) >> 2`.
static SQUASH: [u16; 1024] = {
    let mut table = [0; 1024];
    let mut i = 0;
    while i < 1024 {
        table[i] = squash_exact(4 * i as i32 - 2046) as u16;
        i += 1;
    }
    table
};

/// By `logit + 2048`: the logit after a 0.
static AFTER_ZERO: [i16; 4096] = {
    let mut table = [0; 4096];
    let mut i = 0;
    let mut to = -2047;
    while i < 4096 {
        let p = squash_exact(i as i32 - 2048);
        let p = p + (65536 - p) / 16;
        while to < 2047 && squash_exact(to) < p {
            to += 1;
        }
        table[i] = to as i16;
        i += 1;
    }
    table
};

#[inline(always)]
pub(super) fn squash(logit: i32) -> u32 {
    u32::from(SQUASH[((logit.clamp(-2047, 2047) + 2048) >> 2) as usize & 1023])
}

/// `ln(p / (1 - p))` in 1/256, where `p` is the probability of a 0; -2047..=2047.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Logit(i16);

impl Logit {
    pub(super) const NEW: Logit = Logit(0);

    #[inline(always)]
    fn saw(&mut self, bit: u32) {
        let flip = -(bit as i32);
        let at = (i32::from(self.0) ^ flip) - flip;
        self.0 = ((i32::from(AFTER_ZERO[(at + 2048) as usize & 4095]) ^ flip) - flip) as i16;
    }
}

/// How much each of several predictions counts, in 1/65536.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weights<const N: usize>([i32; N]);

/// Weights move by the error times the logit, divided by two to this power.
const RATE: u32 = 13;

#[inline(always)]
fn error(p: u32, bit: u32) -> i32 {
    (if bit == 0 { 65535 } else { 0 }) - p as i32
}

impl<const N: usize> Weights<N> {
    pub(super) const NEW: Self = Weights([(1 << 16) * 10 / 9 / N as i32; N]);

    #[inline(always)]
    /// The probability of a 0.
    pub(super) fn predict(&self, logits: [Logit; N]) -> u32 {
        let mut dot = 0i32;
        for (weight, logit) in self.0.iter().zip(logits) {
            dot = weight.wrapping_mul(i32::from(logit.0)).wrapping_add(dot);
        }
        squash(dot >> 16)
    }

    /// The same, where each prediction is by what came before of four bits.
    #[inline(always)]
    fn predict_at(&self, n: &[&mut [Logit; 16]; N], node: usize) -> u32 {
        let mut dot = 0i32;
        for (weight, logits) in self.0.iter().zip(n) {
            dot = weight.wrapping_mul(i32::from(logits[node & 15].0)).wrapping_add(dot);
        }
        squash(dot >> 16)
    }

    #[inline(always)]
    /// A bit, from which the logits and weights learn.
    pub(super) fn bit(&mut self, coder: &mut impl Coder, logits: [&mut Logit; N], bit: u32) -> u32 {
        let seen: [Logit; N] = std::array::from_fn(|i| *logits[i]);
        let p = self.predict(seen);
        let bit = coder.coin(p, bit);
        let error = error(p, bit);
        for (i, logit) in logits.into_iter().enumerate() {
            self.0[i] = self.0[i].wrapping_add((error * i32::from(seen[i].0)) >> RATE);
            logit.saw(bit);
        }
        bit
    }

    /// Four bits; the weights learn at their end.
    #[inline(always)]
    pub(super) fn nibble<C: Coder>(&mut self, coder: &mut C, n: [&mut [Logit; 16]; N], symbol: u32) -> u32 {
        let mut node = 1;
        let mut learn = [0i32; N];
        let mut p = self.predict_at(&n, 1);
        for place in (0..4).rev() {
            // Before the bit is known, what comes next for either.
            let below = match C::DECODES && place > 0 {
                true => [self.predict_at(&n, node << 1), self.predict_at(&n, node << 1 | 1)],
                false => [0; 2],
            };
            let bit = coder.coin(p, symbol >> place & 1);
            let error = error(p, bit);
            for i in 0..N {
                let logit = &mut n[i][node & 15];
                learn[i] += error * i32::from(logit.0);
                logit.saw(bit);
            }
            node = node << 1 | bit as usize;
            if place > 0 {
                p = if !C::DECODES {
                    self.predict_at(&n, node)
                } else {
                    below[0] ^ (below[0] ^ below[1]) & bit.wrapping_neg()
                };
            }
        }
        for (weight, learn) in self.0.iter_mut().zip(learn) {
            *weight = weight.wrapping_add(learn >> RATE);
        }
        node as u32 - 16
    }
}
