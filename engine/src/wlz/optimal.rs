//! The optimal parse: the cheapest way through the next few thousand bytes, at the model's own prices.
//!
//! Forward dynamic programming: at each position the cheapest few ways to get there are kept, apart by their last
//! distance, since that decides what comes after. Prices are those of the model as it is at the start of the stretch; its last
//! bytes are planned again with the next.

use super::model::Model;
use super::price::{self, Prices};
use super::range::Encoder;
use super::token::{
    Around, BASES, History, MIN_MATCH, MIN_REPEAT, Token, addresses_before, base_word, length_class,
    match_len, word,
};
use super::tree::{Found, NICE, Tree};

/// Bytes that are planned at once, and how many of them again.
const STRETCH: usize = 4096;
const AGAIN: usize = 256;
/// Ways that are kept for a position.
const WAYS: usize = 2;
/// Ways that cost so much more than the cheapest, in 1/64 bit, are not followed.
const SLACK: u32 = 8 * 64;
/// Prices are looked up again after so many bytes.
const REFRESH: usize = 4096;
/// Within a long step, one position of so many is entered into the tree.
const STRIDE: usize = 8;

/// The last step of a way.
#[derive(Clone, Copy)]
enum Kind {
    Literal,
    Pointer(u8),
    Repeat(u8),
    Match(u32),
}

/// A way to get to a position.
#[derive(Clone, Copy)]
struct Way {
    /// In 1/64 bit.
    cost: u32,
    /// Where its last step starts, and which way led there.
    from: u32,
    way: u8,
    kind: Kind,
    len: u32,
    /// As in the model.
    miss_past: u16,
    pointer_past: u8,
    history: History,
}

const NO_WAY: Way = Way {
    cost: u32::MAX,
    from: 0,
    way: 0,
    kind: Kind::Literal,
    len: 0,
    miss_past: 0,
    pointer_past: 0,
    history: History::NEW,
};

/// The ways to a position, cheapest first.
type Ways = [Way; WAYS];

pub(super) struct Optimal {
    tree: Tree,
    prices: Prices,
    /// From the start of the stretch on.
    ways: Vec<Ways>,
    /// Of these, how many may be in use.
    used: usize,
    finds: Finds,
    tokens: Vec<Token>,
    bases: Vec<u64>,
}

/// Matches that were found, for positions that may be planned again.
struct Finds {
    first: usize,
    /// For each position from `first` on, where its matches end in `all`; they start where the others' end.
    ends: Vec<usize>,
    all: Vec<Found>,
}

impl Finds {
    /// The next position without matches.
    fn end(&self) -> usize {
        self.first + self.ends.len()
    }

    fn at(&self, at: usize) -> &[Found] {
        let nth = at - self.first;
        let start = if nth == 0 { 0 } else { self.ends[nth - 1] };
        &self.all[start..self.ends[nth]]
    }

    /// Forgets those before a position.
    fn drop_before(&mut self, at: usize) {
        let count = (at - self.first).min(self.ends.len());
        if count > 0 {
            let cut = self.ends[count - 1];
            self.all.drain(..cut);
            self.ends.drain(..count);
            self.ends.iter_mut().for_each(|end| *end -= cut);
        }
        self.first = at;
    }
}

impl Optimal {
    pub(super) fn new() -> Self {
        Optimal {
            tree: Tree::new(),
            prices: Prices::new(),
            ways: vec![[NO_WAY; WAYS]; STRETCH + NICE + 1],
            used: 0,
            finds: Finds { first: 0, ends: Vec::new(), all: Vec::new() },
            tokens: Vec::new(),
            bases: Vec::new(),
        }
    }

    pub(super) fn encode(&mut self, model: &mut Model, bytes: &[u8], out: &mut Vec<u8>) {
        self.tree.clear(bytes.len());
        self.finds = Finds { first: 0, ends: Vec::new(), all: Vec::new() };
        let mut coder = Encoder::new(out);
        let mut history = History::NEW;
        let (mut at, mut refresh_at) = (0, 0);
        while at < bytes.len() {
            if at >= refresh_at {
                self.prices.refresh(model);
                refresh_at = at + REFRESH;
            }
            self.finds.drop_before(at);
            let (planned, long) = self.plan(model, bytes, at, history);
            self.trace(bytes, at, planned);
            let end = at + planned;
            let enough = if long.is_none() && end < bytes.len() { end - AGAIN } else { end };
            while at < enough
                && let Some(token) = self.tokens.pop()
            {
                model.write(&mut coder, &mut history, bytes, at, token);
                at += token.len();
            }
            if let Some(found) = long {
                let token = long_step(bytes, at, &history, found);
                model.write(&mut coder, &mut history, bytes, at, token);
                // The position itself is in the tree.
                let others = (at + 1).next_multiple_of(STRIDE)..at + token.len();
                others.step_by(STRIDE).for_each(|at| self.tree.enter(bytes, at, None));
                at += token.len();
                self.finds = Finds { first: at, ends: Vec::new(), all: Vec::new() };
            }
        }
        coder.finish();
    }

    /// Finds ways from `start` on: through how many bytes, and a match so long that it is to be taken after them.
    fn plan(
        &mut self,
        model: &Model,
        bytes: &[u8],
        start: usize,
        history: History,
    ) -> (usize, Option<Found>) {
        self.ways[..self.used].fill([NO_WAY; WAYS]);
        let (miss_past, pointer_past) = (model.miss_past as u16, model.pointer_past as u8);
        self.ways[0][0] = Way { cost: 0, miss_past, pointer_past, history, ..NO_WAY };
        let max = STRETCH.min(bytes.len() - start);
        for offset in 0..max {
            let at = start + offset;
            self.used = offset + NICE + 1;
            if at == self.finds.end() {
                self.tree.enter(bytes, at, Some(&mut self.finds.all));
                self.finds.ends.push(self.finds.all.len());
            }
            match self.finds.at(at).last() {
                Some(longest) if longest.len as usize >= NICE => return (offset, Some(*longest)),
                _ => self.step(model, bytes, start, offset),
            }
        }
        (max, None)
    }

    /// Lists the steps of the cheapest way, the last one first.
    fn trace(&mut self, bytes: &[u8], start: usize, planned: usize) {
        self.tokens.clear();
        let (mut offset, mut way) = (planned, 0);
        while offset > 0 {
            let Way { kind, len, from, way: before, .. } = self.ways[offset][way];
            (offset, way) = (from as usize, usize::from(before));
            self.tokens.push(match kind {
                Kind::Literal => Token::Literal,
                Kind::Repeat(nth) => Token::Repeat { nth, len },
                Kind::Match(distance) => Token::Match { distance, len },
                Kind::Pointer(base) => {
                    let (at, last) = (start + offset, self.ways[offset][way].history.distances[0]);
                    let delta = word(bytes, at).wrapping_sub(base_word(bytes, at, last, base)) as i64;
                    Token::Pointer { base, delta }
                }
            });
        }
    }

    /// Goes on from all ways to a position.
    fn step(&mut self, model: &Model, bytes: &[u8], start: usize, offset: usize) {
        let at = start + offset;
        let here = word(bytes, at);
        let max = (bytes.len() - at).min(NICE);
        let ways = self.ways[offset];
        let limit = ways[0].cost.saturating_add(SLACK);
        // Pointers to less are rare.
        let may_point = at.is_multiple_of(8) && here >> 32 != 0;
        let nearest = if may_point { self.cheapest_base(model, bytes, at, here) } else { None };
        // The price of a literal, and what it is for.
        let mut literal = (u32::MAX, 0);
        for (way, now) in ways.iter().enumerate() {
            if now.cost == u32::MAX || now.cost > limit {
                break;
            }
            let around = &Around::new(bytes, at, &now.history);
            let next = Way { from: offset as u32, way: way as u8, ..*now };
            let is_match = price::is_match(model, around);
            let is_repeat = price::is_repeat(model, around);
            let is_pointer = match around.phase {
                0 => price::is_pointer(model, around, now.pointer_past),
                _ => [0; 2],
            };

            let miss = bytes[at] != around.expected;
            let mut to = Way { kind: Kind::Literal, len: 1, ..next };
            to.cost += is_match[0] + is_pointer[0];
            to.cost += price::is_miss(model, around, now.miss_past)[usize::from(miss)];
            if miss {
                let contexts = u32::from(around.expected) << 8 | u32::from(around.state);
                if literal.0 != contexts {
                    literal = (contexts, price::literal(model, around, bytes[at]));
                }
                to.cost += literal.1;
            }
            to.miss_past = now.miss_past << 1 | u16::from(miss);
            if around.phase == 0 {
                to.pointer_past <<= 1;
            }
            to.history.literal();
            put(&mut self.ways[offset + 1], to);

            if may_point {
                let delta = here.wrapping_sub(base_word(bytes, at, now.history.distances[0], 0)) as i64;
                let zero = (delta != i64::MIN).then(|| (self.prices.pointer(model, 0, delta), 0));
                if let Some((cost, base)) = [zero, nearest].into_iter().flatten().min() {
                    let mut to = Way { kind: Kind::Pointer(base), len: 8, ..next };
                    to.cost += is_match[0] + is_pointer[1] + cost;
                    to.pointer_past = now.pointer_past << 1 | 1;
                    to.history.pointer();
                    put(&mut self.ways[offset + 8], to);
                }
            }

            for (nth, distance) in now.history.distances.into_iter().enumerate() {
                let distance = distance as usize;
                if distance > at {
                    continue;
                }
                let len = match_len(bytes, at - distance, at, max);
                if len < MIN_REPEAT as usize {
                    continue;
                }
                let mut to = Way { kind: Kind::Repeat(nth as u8), ..next };
                to.history.repeat(nth as u32);
                let cost = now.cost + is_match[1] + is_repeat[1] + price::nth(model, around.state, nth);
                for_lengths(MIN_REPEAT as usize, len, around.phase, |len| {
                    to.cost = cost + self.prices.repeat_len(around.phase, len - MIN_REPEAT as usize);
                    to.len = len as u32;
                    put(&mut self.ways[offset + len], to);
                });
            }

            // From another way, a match leads to what it leads to from the cheapest, and hardly ever for less.
            if way > 0 {
                continue;
            }
            let cost = now.cost + is_match[1] + is_repeat[0];
            let mut shortest = MIN_MATCH as usize;
            for found in self.finds.at(at) {
                let mut to = Way { kind: Kind::Match(found.distance), ..next };
                to.history.distance(found.distance);
                // The price of the distance, by length class.
                let mut far = (usize::MAX, 0);
                for_lengths(shortest, found.len as usize, around.phase, |len| {
                    let class = length_class(len as u32);
                    if far.0 != class {
                        far = (class, self.prices.distance(around.phase, len as u32, found.distance));
                    }
                    to.cost = cost + far.1 + self.prices.match_len(around.phase, len - MIN_MATCH as usize);
                    to.len = len as u32;
                    put(&mut self.ways[offset + len], to);
                });
                shortest = found.len as usize + 1;
            }
        }
    }

    /// The cheapest base but 0 for a word, which is the same for all ways, and what it costs.
    fn cheapest_base(&mut self, model: &Model, bytes: &[u8], at: usize, here: u64) -> Option<(u32, u8)> {
        self.bases.clear();
        self.bases.extend(addresses_before(bytes, at).take(BASES - 1));
        let priced = (1..).zip(&self.bases).filter_map(|(base, address)| {
            let delta = here.wrapping_sub(*address) as i64;
            (delta != i64::MIN).then(|| (self.prices.pointer(model, base, delta), base))
        });
        priced.min()
    }
}

/// Lengths that are tried: all up to 4, then those that end with a word, and the last one.
#[inline(always)]
fn for_lengths(from: usize, to: usize, phase: usize, mut f: impl FnMut(usize)) {
    const ALL: usize = 4;
    (from..=to.min(ALL)).for_each(&mut f);
    if to > ALL {
        let mut len = (from.max(ALL + 1) + phase).next_multiple_of(8) - phase;
        while len < to {
            f(len);
            len += 8;
        }
        f(to);
    }
}

/// Adds a way, if it is among the cheapest; of those with the same last distance and kind of step, only one is kept.
#[inline(always)]
fn put(ways: &mut Ways, way: Way) {
    if way.cost >= ways[WAYS - 1].cost {
        return;
    }
    let alike = |other: &Way| {
        let literals = [other, &way].map(|way| way.history.state < 7);
        other.history.distances[0] == way.history.distances[0] && literals[0] == literals[1]
    };
    let mut place = WAYS - 1;
    for (nth, other) in ways.iter().enumerate() {
        if other.cost == u32::MAX {
            place = nth;
            break;
        }
        if alike(other) {
            if other.cost <= way.cost {
                return;
            }
            place = nth;
            break;
        }
    }
    while place > 0 && ways[place - 1].cost > way.cost {
        ways[place] = ways[place - 1];
        place -= 1;
    }
    ways[place] = way;
}

/// A step of [`NICE`] bytes or more: the match that was found, or a repeat that is nearly as long.
fn long_step(bytes: &[u8], at: usize, history: &History, found: Found) -> Token {
    let max = bytes.len() - at;
    let len_of = |distance: u32| match_len(bytes, at - distance as usize, at, max) as u32;
    let len = len_of(found.distance);
    let mut best = (0, 0);
    for (nth, &distance) in history.distances.iter().enumerate().filter(|(_, d)| **d as usize <= at) {
        let len = len_of(distance);
        if len > best.0 {
            best = (len, nth as u8);
        }
    }
    match best {
        (repeat, nth) if repeat + 4 >= len && repeat as usize >= NICE => Token::Repeat { nth, len: repeat },
        _ => Token::Match { distance: found.distance, len },
    }
}
