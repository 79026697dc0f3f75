//! The lazy parse.
use super::buckets::{Buckets, Key, View};
use super::model::*;
use super::range::Encoder;

fn env(name: &str, default: i32) -> i32 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

pub(super) struct Lazy {
    finder: Option<Buckets>,
    t: [i32; 12],
}

#[inline(always)]
pub(super) fn mlen(bytes: &[u8], a: usize, b: usize, max: usize) -> usize {
    let mut n = 0;
    while n + 8 <= max {
        let x = word(bytes, a + n) ^ word(bytes, b + n);
        if x != 0 {
            return n + (x.trailing_zeros() / 8) as usize;
        }
        n += 8;
    }
    while n < max && bytes[a + n] == bytes[b + n] {
        n += 1;
    }
    n
}

/// The last addresses.
struct Addresses {
    ring: [(u64, u32); 16],
    next: usize,
    fed: usize,
}
impl Addresses {
    #[inline(always)]
    fn feed(&mut self, bytes: &[u8], at: usize) {
        let from = self.fed.max(at.saturating_sub(8 * BASE_WORDS));
        for (i, w) in bytes[from..at].as_chunks::<8>().0.iter().enumerate() {
            let w = u64::from_le_bytes(*w);
            if is_address(w) {
                self.ring[self.next & 15] = (w, (from + 8 * i) as u32);
                self.next += 1;
            }
        }
        self.fed = at;
    }
    #[inline(always)]
    fn nearest(&mut self, bytes: &[u8], at: usize, w: u64, zero: u64) -> (u64, u8, i64) {
        self.feed(bytes, at);
        let d = w.wrapping_sub(zero) as i64;
        let mut best = (d.unsigned_abs(), 0, d);
        for b in 1..16usize {
            if b > self.next { break; }
            let (v, p) = self.ring[self.next.wrapping_sub(b) & 15];
            if at - p as usize > 8 * BASE_WORDS { break; }
            let d = w.wrapping_sub(v) as i64;
            if d.unsigned_abs() < best.0 { best = (d.unsigned_abs(), b as u8, d); }
        }
        best
    }
}

#[derive(Clone, Copy)]
struct Best { gain: i32, token: Token }

impl Lazy {
    pub(super) fn new() -> Self {
        let t = [env("T0", 19), env("T1", 4), env("T2", 48), env("T3", 16), env("T4", 4), env("T5", 3), env("T6", 40), env("T7", 0), env("T8", 20), env("T9", 28), env("T10", 24), env("T11", 6)];
        Lazy { finder: Some(Buckets::new()), t }
    }

    #[inline(always)]
    fn best(&self, finder: &View<'_>, bytes: &[u8], at: usize, h: &History, ad: &mut Addresses, key: Key, w: u64) -> Best {
        let t = &self.t;
        let max = bytes.len() - at;
        let mut best = Best { gain: 0, token: Token::Literal };
        let d0 = h.distances[0] as usize;
        let r0 = if d0 <= at { word(bytes, at - d0) } else { 0 };
        let x0 = w ^ r0;
        // value of covering: bytes that differ from what is expected
        let mut nz = x0 | x0 >> 4;
        nz |= nz >> 2;
        nz |= nz >> 1;
        let nz = nz & 0x0101_0101_0101_0101;
        // prefix counts: byte k holds number of differing among bytes 0..=k
        let pre = nz.wrapping_mul(0x0101_0101_0101_0101);
        // all in 1/4 bit
        let value = |len: usize| -> i32 {
            let first = len.min(8);
            let diff = (pre >> (8 * (first - 1)) & 15) as i32;
            diff * t[0] + first as i32 * t[1] + (len - first) as i32 * t[5]
        };
        for (nth, &d) in h.distances.iter().enumerate() {
            let d = d as usize;
            if d <= at {
                let x = word(bytes, at - d) ^ w;
                if x & 0xffff != 0 { continue; }
                let len = if x != 0 { ((x.trailing_zeros() / 8) as usize).min(max) } else { mlen(bytes, at - d, at, max) };
                if len < 2 { continue; }
                let g = value(len) - t[4] - t[11] * nth as i32;
                if g > best.gain { best = Best { gain: g, token: Token::Repeat { nth: nth as u8, len: len as u32 } }; }
            }
        }
        if max < 8 || best.token.len() >= 64 { return best; }
        let mut longest = 0;
        finder.long(key, |q| {
            if q >= at { return; }
            let len = mlen(bytes, q, at, max);
            if len < 8 { return; }
            let d = (at - q) as u32;
            let g = value(len) - t[2] - 4 * d.ilog2() as i32 + if d % 8 == 0 { t[10] } else { 0 };
            if g > best.gain { best = Best { gain: g, token: Token::Match { distance: d, len: len as u32 } }; longest = longest.max(len); }
        });
        if longest < 16 {
            finder.short(key, |q| {
                if q >= at { return; }
                let len = mlen(bytes, q, at, max);
                if len < 4 { return; }
                let d = (at - q) as u32;
                let g = value(len) - t[2] - 4 * d.ilog2() as i32 + if d % 8 == 0 { t[10] } else { 0 };
                if g > best.gain { best = Best { gain: g, token: Token::Match { distance: d, len: len as u32 } }; }
            });
        }
        if at & 7 == 0 && best.token.len() < 16 && is_address(w) {
            let zero = if d0 >= 8 { r0 } else { 0 };
            let (size, base, delta) = ad.nearest(bytes, at, w, zero);
            let bits = 64 - size.leading_zeros() as i32;
            let g = value(8) - t[3] - 4 * bits + t[7];
            if bits < 40 && g > best.gain { best = Best { gain: g, token: Token::Pointer { base, delta } }; }
        }
        best
    }

    pub(super) fn encode(&mut self, model: &mut Model, bytes: &[u8], out: &mut Vec<u8>) {
        let mut finder = self.finder.take().unwrap();
        let mut view = finder.clear();
        let view = &mut view;
        let mut c = Encoder::new(out);
        let mut h = History::NEW;
        let mut at = 0;
        let mut stats = [0usize; 4];
        let mut ad = Addresses { ring: [(0, 0); 16], next: 0, fed: 0 };
        let mut w = word(bytes, at);
        let mut key = Key::new(w);
        let mut now = self.best(view, bytes, at, &h, &mut ad, key, w);
        while at < bytes.len() {
            if at + 8 <= bytes.len() { view.enter(key, at); }
            let mut entered = at + 1;
            let mut token = now.token;
            let mut following = None;
            if at + 1 < bytes.len() && (token.len() < 32) {
                let mut h2 = h;
                h2.literal();
                w = word(bytes, at + 1);
                key = Key::new(w);
                let next = self.best(view, bytes, at + 1, &h2, &mut ad, key, w);
                if token == Token::Literal || next.gain > now.gain + self.t[9] {
                    token = Token::Literal;
                    following = Some(next);
                }
            }
            stats[match token { Token::Literal => 0, Token::Pointer { .. } => 1, Token::Repeat { .. } => 2, _ => 3 }] += 1;
            encode_token(model, &mut c, &mut h, bytes, at, token);
            at += token.len();
            if let Some(f) = following { now = f; continue; }
            let step = if token.len() > 64 { 8 } else if token.len() > 16 { 4 } else { 1 };
            while entered < at {
                if entered + 8 <= bytes.len() { view.enter(Key::new(word(bytes, entered)), entered); }
                entered = (entered + step) & !(step - 1);
            }
            if at >= bytes.len() { break; }
            w = word(bytes, at);
            key = Key::new(w);
            now = self.best(view, bytes, at, &h, &mut ad, key, w);
        }
        c.finish();
        self.finder = Some(finder);
        if std::env::var("WLZ_STATS").is_ok() { eprintln!("lit ptr rep match {stats:?}"); }
    }
}
pub(super) fn encode_token(m: &mut Model, c: &mut Encoder<'_>, h: &mut History, bytes: &[u8], at: usize, token: Token) {
    let phase = at & 7;
    let s = h.state;
    let last = h.distances[0] as usize;
    let e = if last <= at { bytes[at - last] } else { 0 };
    let prev = if at > 0 { bytes[at - 1] } else { 0 };
    match token {
        Token::Literal => {
            m.is_match(c, s, phase, prev, e, false);
            if phase == 0 {
                m.is_pointer(c, s, e, false);
            }
            let above = if at > 7 { bytes[at - 8] } else { 0 };
            m.literal(c, s, phase, e, prev, above, bytes[at]);
            h.literal();
        }
        Token::Pointer { base, delta } => {
            m.is_match(c, s, phase, prev, e, false);
            m.is_pointer(c, s, e, true);
            m.pointer_base(c, base);
            m.pointer_delta(c, base, delta);
            h.pointer();
        }
        Token::Repeat { nth, len } => {
            m.is_match(c, s, phase, prev, e, true);
            m.is_repeat(c, s, phase, e, true);
            m.repeat_nth(c, s, u32::from(nth));
            m.repeat_len(c, phase, len);
            h.repeat(u32::from(nth));
        }
        Token::Match { distance, len } => {
            m.is_match(c, s, phase, prev, e, true);
            m.is_repeat(c, s, phase, e, false);
            m.match_len(c, phase, len);
            m.match_distance(c, phase, len, distance);
            h.distance(distance);
        }
    }
}
