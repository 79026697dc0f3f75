//! The lazy parse: the step that seems to gain most, unless one from the next byte on gains much more.

use super::buckets::{Buckets, Key, View};
use super::model::Model;
use super::range::Encoder;
use super::token::{BASE_WORDS, BASES, History, Token, is_address, match_len, word};

// What steps gain, in quarters of a bit, over literals. Tuned on three cuts of two guests.

/// Gain for each byte that is not the expected one, among the first eight.
const MISS: i32 = 13;
/// For each byte among the first eight.
const BYTE: i32 = 7;
/// For each further byte.
const FAR_BYTE: i32 = 3;
/// Cost of a match; four times its distance's bits come on top.
const MATCH: i32 = 48;
/// What a distance that is a multiple of eight saves.
const ALIGNED: i32 = 24;
/// Cost of a repeat, and for each distance that is passed over.
const REPEAT: i32 = 8;
const NTH: i32 = 8;
/// Cost of a pointer; four times its difference's bits come on top.
const POINTER: i32 = 16;
/// How much more the next step must gain.
const DEFER: i32 = 30;
/// Differences with more bits are not tried.
const DELTA_BITS: i32 = 39;
/// Repeats from this length on are taken at once.
const LONG_REPEAT: usize = 32;
/// With a match of this length, four equal bytes are not looked for.
const LONG_MATCH: usize = 9;
/// Steps from this length on are not deferred.
const LONG: usize = 32;
/// How many positions ahead buckets are asked for.
const AHEAD: usize = 24;

pub(super) struct Lazy {
    finder: Buckets,
}

/// The last words that may be addresses, as [`super::token::base_word`] counts them.
struct Addresses {
    /// Words and where they are; the last one is before `next`.
    ring: [(u64, usize); BASES],
    next: usize,
    /// Words before this position have been looked at.
    seen: usize,
}

impl Addresses {
    /// The base that `word` is nearest to, and the difference. `at` is a multiple of eight, and never goes back.
    #[inline(always)]
    fn nearest(&mut self, bytes: &[u8], at: usize, word: u64, base_zero: u64) -> (u8, i64) {
        let from = self.seen.max(at.saturating_sub(8 * BASE_WORDS));
        for (nth, word) in bytes[from..at].as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_le_bytes(*word);
            if is_address(word) {
                self.ring[self.next % BASES] = (word, from + 8 * nth);
                self.next += 1;
            }
        }
        self.seen = at;
        let mut best = (0, word.wrapping_sub(base_zero) as i64);
        for base in 1..BASES.min(self.next + 1) {
            let (address, place) = self.ring[(self.next - base) % BASES];
            if at - place > 8 * BASE_WORDS {
                break;
            }
            let delta = word.wrapping_sub(address) as i64;
            if delta.unsigned_abs() < best.1.unsigned_abs() {
                best = (base as u8, delta);
            }
        }
        best
    }
}

/// The best step at a position.
#[derive(Clone, Copy)]
struct Best {
    gain: i32,
    token: Token,
}

impl Best {
    #[inline(always)]
    fn offer(&mut self, gain: i32, token: Token) {
        if gain > self.gain {
            *self = Best { gain, token };
        }
    }
}

/// Byte `n` of what it gives is the number of bytes that are not zero, of bytes 0 to `n`.
#[inline(always)]
fn count_nonzero(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut any = word | word >> 4;
    any |= any >> 2;
    any |= any >> 1;
    (any & ONES).wrapping_mul(ONES)
}

#[inline(always)]
fn find(
    finder: &View<'_>,
    bytes: &[u8],
    at: usize,
    history: &History,
    addresses: &mut Addresses,
    (here, key): (u64, Key),
) -> Best {
    let mut best = Best { gain: 0, token: Token::Literal };
    let max = bytes.len() - at;
    if max < 8 {
        return best;
    }
    let last = history.distances[0] as usize;
    let expected = if last <= at { word(bytes, at - last) } else { 0 };
    let misses = count_nonzero(here ^ expected);
    // What telling so many bytes at once is worth.
    let value = |len: usize| -> i32 {
        let first = len.min(8);
        let missed = (misses >> (8 * (first - 1)) & 15) as i32;
        missed * MISS + first as i32 * BYTE + (len - first) as i32 * FAR_BYTE
    };
    for (nth, &distance) in history.distances.iter().enumerate() {
        let distance = distance as usize;
        if distance > at {
            continue;
        }
        let differs = word(bytes, at - distance) ^ here;
        if differs & 0xffff != 0 {
            continue;
        }
        let len = match differs {
            0 => match_len(bytes, at - distance, at, max),
            _ => (differs.trailing_zeros() / 8) as usize,
        };
        let gain = value(len) - REPEAT - NTH * nth as i32;
        best.offer(gain, Token::Repeat { nth: nth as u8, len: len as u32 });
    }
    if best.token.len() >= LONG_REPEAT {
        return best;
    }
    let longest = std::cell::Cell::new(0);
    let mut try_match = |from: usize, min: usize| {
        if from >= at {
            return;
        }
        let len = match_len(bytes, from, at, max);
        if len >= min {
            let distance = (at - from) as u32;
            let aligned = if distance.is_multiple_of(8) { ALIGNED } else { 0 };
            let gain = value(len) - MATCH - 4 * distance.ilog2() as i32 + aligned;
            best.offer(gain, Token::Match { distance, len: len as u32 });
            longest.set(longest.get().max(len));
        }
    };
    finder.long(key, |from| try_match(from, 8));
    if longest.get() < LONG_MATCH {
        finder.short(key, |from| try_match(from, 4));
    }
    if at.is_multiple_of(8) && best.token.len() < 16 && is_address(here) {
        let base_zero = if last >= 8 { expected } else { 0 };
        let (base, delta) = addresses.nearest(bytes, at, here, base_zero);
        let bits = 64 - delta.unsigned_abs().leading_zeros() as i32;
        if bits <= DELTA_BITS {
            best.offer(value(8) - POINTER - 4 * bits, Token::Pointer { base, delta });
        }
    }
    best
}

impl Lazy {
    pub(super) fn new() -> Self {
        Lazy { finder: Buckets::new() }
    }

    pub(super) fn encode(&mut self, model: &mut Model, bytes: &[u8], out: &mut Vec<u8>) {
        let finder = &mut self.finder.clear(bytes.len());
        let mut addresses = Addresses { ring: [(0, 0); BASES], next: 0, seen: 0 };
        let mut coder = Encoder::new(out);
        let mut history = History::NEW;
        let mut at = 0;
        let look = |at: usize| {
            let here = word(bytes, at);
            (here, Key::new(here))
        };
        // Positions before this one have had their buckets asked for.
        let mut ahead = 0;
        let mut here = look(0);
        let mut now = find(finder, bytes, at, &history, &mut addresses, here);
        while at < bytes.len() {
            if at + 8 <= bytes.len() {
                finder.enter(here.1, at);
            }
            let token = now.token;
            ahead = ahead.max(at + 1);
            while ahead < bytes.len().min(at + AHEAD) {
                finder.soon(look(ahead).1);
                ahead += 1;
            }
            if at + 1 < bytes.len() && token.len() < LONG {
                let mut after = history;
                after.literal();
                here = look(at + 1);
                let next = find(finder, bytes, at + 1, &after, &mut addresses, here);
                if token == Token::Literal || next.gain > now.gain + DEFER {
                    finder.next(look(at + 2).1, bytes);
                    model.write(&mut coder, &mut history, bytes, at, Token::Literal);
                    at += 1;
                    now = next;
                    continue;
                }
            }
            let end = at + token.len();
            finder.next(look(end).1, bytes);
            model.write(&mut coder, &mut history, bytes, at, token);
            // Within a step, fewer positions the longer it is.
            let stride = match token.len() {
                65.. => 8,
                17.. => 4,
                _ => 1,
            };
            let mut entered = at + 1;
            while entered < end && entered + 8 <= bytes.len() {
                finder.enter(look(entered).1, entered);
                entered = (entered + stride) & !(stride - 1);
            }
            at = end;
            if at < bytes.len() {
                here = look(at);
                now = find(finder, bytes, at, &history, &mut addresses, here);
            }
        }
        coder.finish();
    }
}
