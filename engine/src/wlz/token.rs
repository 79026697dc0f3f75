//! The steps that a stream is made of, and what of the past decides about the next one.

/// States of [`History`].
pub(super) const STATES: usize = 13;
/// The shortest match and the shortest repeat.
pub(super) const MIN_MATCH: u32 = 3;
pub(super) const MIN_REPEAT: u32 = 2;
/// Words that an address may be told by.
pub(super) const BASES: usize = 16;
/// How many words back they are searched.
pub(super) const BASE_WORDS: usize = 64;

/// A step: one byte, or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A byte.
    Literal,
    /// A word, at a multiple of eight bytes: `delta` more than [`base_word`] number `base`.
    Pointer { base: u8, delta: i64 },
    /// `len` bytes from where the `nth` last distance points.
    Repeat { nth: u8, len: u32 },
    /// `len` bytes from `distance` before.
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
    /// What the last steps were: 0 to 6 after a literal, 7 and 10 after a match, 8 and 11 after a repeat, 12 after a pointer.
    pub(super) state: u8,
    /// The last four distances, the last one first.
    pub(super) distances: [u32; 4],
}

/// The state after a literal, by the one before it.
const AFTER_LITERAL: [u8; STATES] = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 4, 5, 3];
const AFTER_POINTER: u8 = 12;

impl History {
    pub(super) const NEW: History = History { state: 0, distances: [8, 16, 24, 32] };

    #[inline(always)]
    pub(super) fn literal(&mut self) {
        self.state = AFTER_LITERAL[usize::from(self.state)];
    }

    #[inline(always)]
    pub(super) fn pointer(&mut self) {
        self.state = AFTER_POINTER;
    }

    #[inline(always)]
    fn no_match_before(&self) -> bool {
        self.state < 7 || self.state == AFTER_POINTER
    }

    /// A repeat of the `nth` last distance, which becomes the last.
    #[inline(always)]
    pub(super) fn repeat(&mut self, nth: u32) {
        self.state = if self.no_match_before() { 8 } else { 11 };
        let [a, b, c, d] = self.distances;
        self.distances = match nth {
            0 => [a, b, c, d],
            1 => [b, a, c, d],
            2 => [c, a, b, d],
            _ => [d, a, b, c],
        };
    }

    /// A match.
    #[inline(always)]
    pub(super) fn distance(&mut self, distance: u32) {
        self.state = if self.no_match_before() { 7 } else { 10 };
        let [a, b, c, _] = self.distances;
        self.distances = [distance, a, b, c];
    }
}

/// What is around a position: with the history's state, the contexts of what is coded there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    pub(super) state: u8,
    /// The position's place in its word.
    pub(super) phase: usize,
    /// The byte at the last distance.
    pub(super) expected: u8,
    /// The byte before.
    pub(super) previous: u8,
    /// The byte a word before.
    pub(super) above: u8,
}

impl Around {
    /// Bytes before the first are zero. `bytes` may end at the position.
    #[inline(always)]
    pub(super) fn new(bytes: &[u8], at: usize, history: &History) -> Self {
        let before = |distance: usize| if distance <= at { bytes[at - distance] } else { 0 };
        Around {
            state: history.state,
            phase: at & 7,
            expected: before(history.distances[0] as usize),
            previous: before(1),
            above: before(8),
        }
    }
}

/// Distances cost less for long matches: 0 to 3 by length.
#[inline(always)]
pub(super) fn length_class(len: u32) -> usize {
    match len {
        0..8 => 0,
        8..16 => 1,
        16..32 => 2,
        _ => 3,
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

/// The word at a position, which need not be aligned; 0 if it is not all there.
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

/// What a pointer at `at` is told by. Base 0: the word at the last distance, if it is before `at`. Others: the `base`th
/// word that may be an address, going back from `at`. 0 where there is none.
#[inline]
pub(super) fn base_word(bytes: &[u8], at: usize, last: u32, base: u8) -> u64 {
    if base == 0 {
        let last = last as usize;
        return if last >= 8 && last <= at { word(bytes, at - last) } else { 0 };
    }
    addresses_before(bytes, at).nth(usize::from(base) - 1).unwrap_or(0)
}

/// Words before `at`, a multiple of eight, that may be addresses, the last one first.
#[inline(always)]
pub(super) fn addresses_before(bytes: &[u8], at: usize) -> impl Iterator<Item = u64> {
    let words = bytes[at.saturating_sub(8 * BASE_WORDS)..at].as_chunks::<8>().0.iter().rev();
    words.map(|word| u64::from_le_bytes(*word)).filter(|&word| is_address(word))
}

/// How many bytes are the same from `one` and from `other` on, at most `max`, which both have.
#[inline(always)]
pub(super) fn match_len(bytes: &[u8], one: usize, other: usize, max: usize) -> usize {
    let mut len = 0;
    while len + 8 <= max {
        let differs = word(bytes, one + len) ^ word(bytes, other + len);
        if differs != 0 {
            return len + (differs.trailing_zeros() / 8) as usize;
        }
        len += 8;
    }
    while len < max && bytes[one + len] == bytes[other + len] {
        len += 1;
    }
    len
}
