//! What tokens would cost, in 1/64 bit.
use super::model::*;
use super::range::Prob;

static PRICES: std::sync::LazyLock<Box<[u16; 4096]>> = std::sync::LazyLock::new(|| {
    Box::new(std::array::from_fn(|i| (-((i as f64 + 0.5) / 4096.0).log2() * 64.0).round() as u16))
});

pub(super) const LENS: usize = 290;

pub(super) struct Prices {
    table: &'static [u16; 4096],
    pub(super) repeat_len: Vec<[u16; 8]>,
    pub(super) match_len: Vec<[u16; 8]>,
    slots: [[[u16; 64]; 4]; 2],
    low: [[[u16; 16]; 4]; 2],
    aligned: [[[u16; 2]; 8]; 4],
    base: [u16; 16],
    magnitude: [[u16; 128]; 2],
}

impl Prices {
    pub(super) fn new() -> Self {
        Prices { table: &PRICES, repeat_len: vec![[0; 8]; LENS], match_len: vec![[0; 8]; LENS], slots: [[[0; 64]; 4]; 2], low: [[[0; 16]; 4]; 2], aligned: [[[0; 2]; 8]; 4], base: [0; 16], magnitude: [[0; 128]; 2] }
    }
    #[inline(always)]
    pub(super) fn zero(&self, p: u32, bit: u32) -> u32 {
        let p = if bit == 0 { p } else { 65535 - p };
        u32::from(self.table[(p >> 4) as usize & 4095])
    }
    #[inline(always)]
    pub(super) fn bit(&self, p: Prob, bit: u32) -> u32 {
        self.zero(u32::from(p.0), bit)
    }
    fn nibble(&self, n: &Nibble, symbol: u32, bits: u32) -> u32 {
        let (mut node, mut sum) = (1, 0);
        for place in (0..bits).rev() {
            let bit = symbol >> place & 1;
            sum += self.bit(n.0[(node & 15) as usize], bit);
            node = node << 1 | bit;
        }
        sum
    }
    fn nibble_low(&self, n: &Nibble, symbol: u32, bits: u32) -> u32 {
        let (mut node, mut sum) = (1, 0);
        for place in 0..bits {
            let bit = symbol >> place & 1;
            sum += self.bit(n.0[(node & 15) as usize], bit);
            node = node << 1 | bit;
        }
        sum
    }
    fn lens(&self, l: &Lengths, out: &mut [[u16; 8]]) {
        for phase in 0..8 {
            let s = self.bit(l.short[phase], 1);
            for v in 0..8 {
                out[v as usize][phase] = (self.bit(l.short[phase], 0) + self.nibble(&l.low[phase], v, 3)) as u16;
                out[v as usize + 8][phase] = (s + self.bit(l.middle[phase], 0) + self.nibble(&l.mid[phase], v, 3)) as u16;
            }
        }
        for v in 16..LENS as u32 {
            let h = (v - 16).min(255);
            let p = self.nibble(&l.high.high, h >> 4, 4) + self.nibble(&l.high.low[(h >> 4) as usize], h & 15, 4) + if h == 255 { 600 } else { 0 };
            for phase in 0..8 {
                out[v as usize][phase] = (p + self.bit(l.short[phase], 1) + self.bit(l.middle[phase], 1)) as u16;
            }
        }
    }
    pub(super) fn refresh(&mut self, m: &Model) {
        let mut out = std::mem::take(&mut self.repeat_len);
        self.lens(&m.repeat_len, &mut out);
        self.repeat_len = out;
        let mut out = std::mem::take(&mut self.match_len);
        self.lens(&m.match_len, &mut out);
        self.match_len = out;
        for a in 0..2 {
            for c in 0..4 {
                for s in 0..64 {
                    let six = &m.slots[a][c];
                    let extra = if s < 4 { 0 } else { s / 2 - 1 };
                    self.slots[a][c][s as usize] = (self.nibble(&six.high, s >> 4, 2) + self.nibble(&six.low[(s >> 4) as usize], s & 15, 4) + 64 * (extra - extra.min(4))) as u16;
                }
            }
            for k in 0..4 {
                for v in 0..16 {
                    self.low[a][k][v] = self.nibble_low(&m.low[a][k], v as u32, k as u32 + 1) as u16;
                }
            }
        }
        for c in 0..4 {
            for ph in 0..8 {
                for b in 0..2 {
                    self.aligned[c][ph][b] = self.bit(m.aligned[c][ph], b as u32) as u16;
                }
            }
        }
        for b in 0..16 {
            self.base[b] = self.nibble(&m.base, b as u32, 4) as u16;
        }
        for z in 0..2 {
            for v in 0..128u32 {
                let (mut node, mut sum) = (1, 0);
                for place in (0..7).rev() {
                    let bit = v >> place & 1;
                    sum += self.bit(m.magnitude[z][node as usize & 127], bit);
                    node = node << 1 | bit;
                }
                self.magnitude[z][v as usize] = sum as u16;
            }
        }
    }
    #[inline(always)]
    pub(super) fn distance(&self, phase: usize, len: u32, d: u32) -> u32 {
        let c = class(len);
        let a = usize::from(d % 8 == 0);
        let v = if a == 1 { d / 8 - 1 } else { d - 1 };
        let s = slot_of(v);
        let mut sum = u32::from(self.aligned[c][phase][a]) + u32::from(self.slots[a][c][s as usize]);
        if s >= 4 {
            let k = (s / 2 - 1).min(4);
            sum += u32::from(self.low[a][k as usize - 1][(v & ((1 << k) - 1)) as usize]);
        }
        sum
    }
    pub(super) fn pointer(&self, m: &Model, base: u8, delta: i64) -> u32 {
        let size = delta.unsigned_abs();
        let bits = 64 - size.leading_zeros();
        let mut sum = u32::from(self.base[usize::from(base)]) + u32::from(self.magnitude[usize::from(base != 0)][(bits << 1 | u32::from(delta < 0)) as usize & 127]);
        if bits > 1 {
            let below = bits - 1;
            let lowest = below.min(4);
            let highest = (below - lowest).min(3);
            sum += self.nibble_low(&m.delta_low[bits as usize & 63], size as u32 & ((1 << lowest) - 1), lowest);
            sum += self.nibble(&m.delta_high[bits as usize & 63], (size >> (below - highest)) as u32 & ((1 << highest) - 1), highest);
            sum += 64 * (below - lowest - highest);
        }
        sum
    }
    fn both(&self, p: u32) -> [u32; 2] {
        [self.zero(p, 0), self.zero(p, 1)]
    }
    #[inline(always)]
    pub(super) fn is_match(&self, m: &Model, state: u8, phase: usize, prev: u8, exp: u8) -> [u32; 2] {
        let s = usize::from(state);
        self.both(m.is_match_weights[phase].predict([m.is_match[s][phase], m.is_match_prev[phase][usize::from(prev)], m.is_match_exp[s][usize::from(exp)]]))
    }
    #[inline(always)]
    pub(super) fn is_repeat(&self, m: &Model, state: u8, phase: usize, exp: u8) -> [u32; 2] {
        let s = usize::from(state);
        self.both(m.is_repeat_w[phase].predict([m.is_repeat[s], m.is_repeat2[s][phase], m.is_repeat3[s][usize::from(exp)]]))
    }
    #[inline(always)]
    pub(super) fn is_pointer(&self, m: &Model, state: u8, exp: u8, words: u8) -> [u32; 2] {
        let s = usize::from(state);
        self.both(m.is_pointer_w.predict([m.is_pointer[s], m.is_pointer2[s][usize::from(exp)], m.is_pointer3[usize::from(words)]]))
    }
    #[inline(always)]
    pub(super) fn same(&self, m: &Model, state: u8, phase: usize, exp: u8, hits: u32) -> [u32; 2] {
        self.both(m.same_weights[phase].predict([m.same[usize::from(exp)], m.same_state[usize::from(state)][phase][(hits & 7) as usize], m.same_hits[(hits & 1023) as usize]]))
    }
    pub(super) fn literal(&self, m: &Model, state: u8, phase: usize, exp: u8, prev: u8, above: u8, byte: u8) -> u32 {
        let b = [&m.literals[phase & 1][usize::from(exp)], &m.literals1[usize::from(prev)], &m.literals8[usize::from(above)], &m.order0[phase][usize::from(state)]];
        let w = &m.literal_weights[phase];
        let symbol = u32::from(byte);
        let (mut node, mut sum) = (1u32, 0);
        for place in (4..8).rev() {
            let bit = symbol >> place & 1;
            sum += self.zero(w[0].predict(b.map(|b| b.0[16][(node & 15) as usize])), bit);
            node = node << 1 | bit;
        }
        let high = (node & 15) as usize;
        let mut node = 1;
        for place in (0..4).rev() {
            let bit = symbol >> place & 1;
            sum += self.zero(w[1].predict(b.map(|b| b.0[high][(node & 15) as usize])), bit);
            node = node << 1 | bit;
        }
        sum
    }
    #[inline(always)]
    pub(super) fn repeat_nth(&self, m: &Model, state: u8, nth: usize) -> u32 {
        let p = &m.repeat_nth[usize::from(state)];
        match nth {
            0 => self.bit(p[0], 0),
            1 => self.bit(p[0], 1) + self.bit(p[1], 0),
            2 => self.bit(p[0], 1) + self.bit(p[1], 1) + self.bit(p[2], 0),
            _ => self.bit(p[0], 1) + self.bit(p[1], 1) + self.bit(p[2], 1),
        }
    }
}
