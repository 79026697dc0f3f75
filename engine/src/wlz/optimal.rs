//! The optimal parse.
use super::lazy::{encode_token, mlen};
use super::model::*;
use super::price::{LENS, Prices};
use super::range::Encoder;
use super::tree::{Found, Tree};

fn env(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[derive(Clone, Copy)]
enum Kind { Literal, Pointer(u8), Repeat(u8), Match(u32) }

#[derive(Clone, Copy)]
struct Arrival {
    cost: u32,
    from: u32,
    slot: u8,
    len: u32,
    kind: Kind,
    hits: u16,
    words: u8,
    history: History,
}
const NOWHERE: Arrival = Arrival { cost: u32::MAX, from: 0, slot: 0, len: 0, kind: Kind::Literal, hits: 0, words: 0, history: History::NEW };

pub(super) struct Optimal {
    tree: Tree,
    k: usize,
    chunk: usize,
    keep: usize,
    slack: u32,
    pen: u32,
    prices: Prices,
}

impl Optimal {
    pub(super) fn new() -> Self {
        Optimal { tree: Tree::new(env("DEPTH", 32) as u32, env("NICE", 128)), k: env("K", 3), chunk: env("CHUNK", 4096), keep: env("KEEP", 512), pen: env("PEN", 0) as u32, slack: env("SLACK", 32) as u32 * 64, prices: Prices::new() }
    }

    pub(super) fn encode(&mut self, m: &mut Model, bytes: &[u8], out: &mut Vec<u8>) {
        self.tree.reset(bytes.len());
        let nice = self.tree.nice;
        let k = self.k;
        let mut c = Encoder::new(out);
        let mut h = History::NEW;
        let mut pos = 0;
        let span = self.chunk + nice + 1;
        let mut nodes = vec![NOWHERE; span * k];
        let mut counts = [0usize; 4];
        // cached finds: for positions from `base`
        let mut found: Vec<Found> = Vec::new();
        let mut starts: Vec<(usize, usize)> = Vec::new(); // by position - first
        let mut first = 0; // position of starts[0]
        let mut entered = 0; // positions below are in the tree
        let mut tokens = Vec::new();
        let mut bases: Vec<u64> = Vec::new();
        while pos < bytes.len() {
            self.prices.refresh(m);
            // drop cached finds before pos
            let drop = (pos - first).min(starts.len());
            starts.drain(..drop);
            first = pos;
            if starts.is_empty() {
                found.clear();
            } else if found.len() > 1 << 20 {
                let cut = starts[0].0;
                found.drain(..cut);
                starts.iter_mut().for_each(|s| { s.0 -= cut; s.1 -= cut; });
            }
            nodes.fill(NOWHERE);
            nodes[0] = Arrival { cost: 0, from: 0, slot: 0, len: 0, kind: Kind::Literal, hits: m.hits as u16, words: m.words as u8, history: h };
            let mut i = 0;
            let mut forced = None;
            loop {
                let at = pos + i;
                if at == bytes.len() || i == self.chunk { break; }
                if at - first >= starts.len() {
                    let start = found.len();
                    debug_assert_eq!(entered, at);
                    self.tree.find(bytes, at, Some(&mut found));
                    entered = at + 1;
                    starts.push((start, found.len()));
                }
                let (s, e) = starts[at - first];
                let finds = &found[s..e];
                if let Some(last) = finds.last() && last.len as usize >= nice {
                    forced = Some(*last);
                    break;
                }
                self.step(m, bytes, pos, i, finds, &mut nodes, &mut bases);
                i += 1;
            }
            // trace back from the best arrival at i
            tokens.clear();
            let (mut n, mut slot) = (i, 0usize);
            while n > 0 {
                let a = nodes[n * k + slot];
                let at = pos + a.from as usize;
                let token = match a.kind {
                    Kind::Literal => Token::Literal,
                    Kind::Pointer(base) => {
                        let from = &nodes[a.from as usize * k + usize::from(a.slot)];
                        let delta = word(bytes, at).wrapping_sub(base_word(bytes, at, from.history.distances[0], base)) as i64;
                        Token::Pointer { base, delta }
                    }
                    Kind::Repeat(nth) => Token::Repeat { nth, len: a.len },
                    Kind::Match(distance) => Token::Match { distance, len: a.len },
                };
                tokens.push(token);
                n = a.from as usize;
                slot = usize::from(a.slot);
            }
            let end = pos + i;
            let until = if forced.is_none() && end < bytes.len() { end - self.keep } else { end };
            while let Some(token) = tokens.pop() {
                if pos + token.len() > until && until < end && !(pos < until && token.len() > self.keep) { break; }
                counts[match token { Token::Literal => 0, Token::Pointer { .. } => 1, Token::Repeat { .. } => 2, _ => 3 }] += 1;
                encode_token(m, &mut c, &mut h, bytes, pos, token);
                pos += token.len();
            }
            if let Some(f) = forced {
                let max = bytes.len() - pos;
                let mut best = (0, None);
                for (nth, &d) in h.distances.iter().enumerate() {
                    if d as usize <= pos {
                        let len = mlen(bytes, pos - d as usize, pos, max);
                        if len > best.0 { best = (len, Some(Token::Repeat { nth: nth as u8, len: len as u32 })); }
                    }
                }
                let len = mlen(bytes, pos - f.distance as usize, pos, max);
                let token = if best.0 + 4 >= len && best.0 >= nice.min(max) { best.1.unwrap() } else { Token::Match { distance: f.distance, len: len as u32 } };
                counts[if let Token::Repeat { .. } = token { 2 } else { 3 }] += 1;
                encode_token(m, &mut c, &mut h, bytes, pos, token);
                pos += token.len();
                while entered < pos {
                    self.tree.find(bytes, entered, None);
                    entered += 1;
                }
                starts.clear();
                found.clear();
                first = pos;
            }
        }
        c.finish();
        if std::env::var("WLZ_STATS").is_ok() { eprintln!("lit ptr rep match {counts:?}"); }
    }

    fn step(&self, m: &Model, bytes: &[u8], pos: usize, i: usize, finds: &[Found], nodes: &mut [Arrival], bases: &mut Vec<u64>) {
        let (k, nice, pr) = (self.k, self.tree.nice, &self.prices);
        let at = pos + i;
        let phase = at & 7;
        let cap = (bytes.len() - at).min(nice);
        let prev = if at > 0 { bytes[at - 1] } else { 0 };
        let above = if at > 7 { bytes[at - 8] } else { 0 };
        let byte = bytes[at];
        let here = word(bytes, at);
        let pointer = phase == 0 && here >> 32 != 0;
        let limit = nodes[i * k].cost.saturating_add(self.slack);
        let mut memo = (u32::MAX, 0);
        if pointer {
            bases.clear();
            bases.push(0);
            let words = bytes[at.saturating_sub(8 * BASE_WORDS)..at].as_chunks::<8>().0;
            for w in words.iter().rev() {
                let w = u64::from_le_bytes(*w);
                if is_address(w) {
                    bases.push(w);
                    if bases.len() == BASES { break; }
                }
            }
        }
        let mut best_base = (u32::MAX, 0u8);
        for slot in 0..k {
            let a = nodes[i * k + slot];
            if a.cost == u32::MAX || a.cost > limit { break; }
            let h = a.history;
            let last = h.distances[0] as usize;
            let exp = if last <= at { bytes[at - last] } else { 0 };
            let is_pointer = if phase == 0 { pr.is_pointer(m, h.state, exp, a.words) } else { [0; 2] };
            let is_repeat = pr.is_repeat(m, h.state, phase, exp);
            let flag = pr.is_match(m, h.state, phase, prev, exp).map(|f| f + self.pen);
            // literal
            let base = Arrival { cost: 0, from: i as u32, slot: slot as u8, len: 1, kind: Kind::Literal, hits: a.hits, words: a.words, history: h };
            let mut cost = a.cost + flag[0];
            cost += is_pointer[0];
            let same = pr.same(m, h.state, phase, exp, u32::from(a.hits));
            let miss = byte != exp;
            cost += same[usize::from(miss)];
            if miss {
                if memo.0 != u32::from(exp) << 8 | u32::from(h.state) { memo = (u32::from(exp) << 8 | u32::from(h.state), pr.literal(m, h.state, phase, exp, prev, above, byte)); }
                cost += memo.1;
            }
            let mut next = base;
            next.cost = cost;
            next.hits = a.hits << 1 | u16::from(miss);
            if phase == 0 { next.words <<= 1; }
            next.history.literal();
            put(&mut nodes[(i + 1) * k..(i + 2) * k], next);
            // pointer
            if pointer && slot < 2 {
                if best_base.0 == u32::MAX {
                    for (b, &w) in bases.iter().enumerate().skip(1) {
                        let cost = pr.pointer(m, b as u8, here.wrapping_sub(w) as i64);
                        if cost < best_base.0 { best_base = (cost, b as u8); }
                    }
                }
                let w = if last >= 8 && last <= at { word(bytes, at - last) } else { 0 };
                let zero = pr.pointer(m, 0, here.wrapping_sub(w) as i64);
                let (cost, b) = if zero < best_base.0 { (zero, 0) } else { best_base };
                let mut next = base;
                next.cost = a.cost + flag[0] + is_pointer[1] + cost;
                next.kind = Kind::Pointer(b);
                next.len = 8;
                next.words = a.words << 1 | 1;
                next.history.pointer();
                put(&mut nodes[(i + 8) * k..(i + 9) * k], next);
            }
            let cost = a.cost + flag[1];
            // repeats
            for nth in 0..4 {
                let d = h.distances[nth] as usize;
                if d > at { continue; }
                let len = mlen(bytes, at - d, at, cap);
                if len < MIN_REPEAT as usize { continue; }
                let cost = cost + is_repeat[1] + pr.repeat_nth(m, h.state, nth);
                let mut next = base;
                next.kind = Kind::Repeat(nth as u8);
                next.history.repeat(nth as u32);
                edges(MIN_REPEAT as usize, len, phase, |len| {
                    next.cost = cost + u32::from(pr.repeat_len[(len - MIN_REPEAT as usize).min(LENS - 1)][phase]);
                    next.len = len as u32;
                    put(&mut nodes[(i + len) * k..(i + len + 1) * k], next);
                });
            }
            // matches
            if slot < 2 {
                let cost = cost + is_repeat[0];
                let mut from = MIN_MATCH as usize;
                for f in finds {
                    let mut next = base;
                    next.kind = Kind::Match(f.distance);
                    next.history.distance(f.distance);
                    let mut priced = (9, 0);
                    edges(from, f.len as usize, phase, |len| {
                        let c = class(len as u32);
                        if priced.0 != c { priced = (c, pr.distance(phase, len as u32, f.distance)); }
                        next.cost = cost + priced.1 + u32::from(pr.match_len[(len - MIN_MATCH as usize).min(LENS - 1)][phase]);
                        next.len = len as u32;
                        put(&mut nodes[(i + len) * k..(i + len + 1) * k], next);
                    });
                    from = f.len as usize + 1;
                }
            }
        }
    }
}

#[inline(always)]
fn edges(from: usize, to: usize, phase: usize, mut f: impl FnMut(usize)) {
    for len in from..=to.min(8) { f(len); }
    if to > 8 {
        let mut len = (from.max(9) + phase + 7 & !7) - phase;
        while len < to { f(len); len += 8; }
        f(to);
    }
}

#[inline(always)]
fn put(slots: &mut [Arrival], a: Arrival) {
    let last = slots.len() - 1;
    if a.cost >= slots[last].cost { return; }
    let mut place = last;
    for (n, s) in slots.iter().enumerate() {
        if s.cost == u32::MAX { place = n; break; }
        if s.history.distances[0] == a.history.distances[0] && (s.history.state < 7) == (a.history.state < 7) {
            if s.cost <= a.cost { return; }
            place = n;
            break;
        }
    }
    while place > 0 && slots[place - 1].cost > a.cost {
        slots[place] = slots[place - 1];
        place -= 1;
    }
    slots[place] = a;
}
