//! Match finder for the optimal parse: for each hash of six bytes, a binary tree of earlier positions, sorted by what follows
//! them; the last one is the root. Of shorter matches, only the last position is known.

use mig_simd::prefetch;

use super::token::{match_len, word};

/// Hashes of six, four, and three bytes.
const HEAD_BITS: u32 = 20;
const FOUR_BITS: u32 = 20;
const THREE_BITS: u32 = 18;
const ODD: u64 = 0x9e37_79b1_85eb_ca87;
const NONE: u32 = u32::MAX;

pub(super) struct Tree {
    /// The last position with each hash.
    heads: Vec<u32>,
    four: Vec<u32>,
    three: Vec<u32>,
    /// For each position, the roots of those that sort before it and after it.
    sons: Vec<[u32; 2]>,
}

/// A match.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) len: u32,
    pub(super) distance: u32,
}

/// Positions that are looked at.
const DEPTH: u32 = 16;
/// Matches from this length on are not looked at further.
pub(super) const NICE: usize = 128;

/// How many positions ahead roots are asked for, and their numbers twice as many.
const AHEAD: usize = 4;

/// The hash of the first `bytes` bytes of a word.
#[inline(always)]
fn hash(word: u64, bytes: u32, bits: u32) -> usize {
    ((word << (64 - 8 * bytes)).wrapping_mul(ODD) >> (64 - bits)) as usize
}

impl Tree {
    pub(super) fn new() -> Self {
        Tree {
            heads: vec![NONE; 1 << HEAD_BITS],
            four: vec![NONE; 1 << FOUR_BITS],
            three: vec![NONE; 1 << THREE_BITS],
            sons: Vec::new(),
        }
    }

    /// Empties it for an input of so many bytes.
    pub(super) fn clear(&mut self, len: usize) {
        self.heads.fill(NONE);
        self.four.fill(NONE);
        self.three.fill(NONE);
        if self.sons.len() < len {
            self.sons = vec![[NONE; 2]; len];
        }
    }

    /// Asks for the roots of positions ahead: they are spread over more memory than caches hold.
    #[inline(always)]
    fn ask_ahead(&self, bytes: &[u8], at: usize) {
        let head = |at: usize| &self.heads[hash(word(bytes, at), 6, HEAD_BITS)];
        prefetch(head(at + 2 * AHEAD));
        let root = *head(at + AHEAD) as usize;
        if root < at {
            prefetch(&self.sons[root]);
            prefetch(&bytes[root]);
        }
    }

    /// Enters a position, and appends the matches there, if they are wanted: each longer than the one before, and nearest of its length.
    /// Positions ascend; those that are left out are not found.
    pub(super) fn enter(&mut self, bytes: &[u8], at: usize, mut found: Option<&mut Vec<Found>>) {
        let max = (bytes.len() - at).min(NICE);
        if max < 8 {
            self.sons[at] = [NONE; 2];
            return;
        }
        let here = word(bytes, at);
        self.ask_ahead(bytes, at);
        let last = |table: &mut [u32], bytes, bits| {
            std::mem::replace(&mut table[hash(here, bytes, bits)], at as u32)
        };
        let mut longest = 2;
        let recent = [last(&mut self.three, 3, THREE_BITS), last(&mut self.four, 4, FOUR_BITS)];
        if let Some(found) = &mut found {
            for before in recent.into_iter().filter(|&before| before != NONE) {
                let len = match_len(bytes, before as usize, at, max);
                if len > longest {
                    longest = len;
                    found.push(Found { len: len as u32, distance: at as u32 - before });
                }
            }
        }
        let mut current = last(&mut self.heads, 6, HEAD_BITS);
        // Where what sorts before `at` goes, and what sorts after it; how many bytes the last ones of both kinds share with it.
        let (mut less, mut more) = ((at, 0), (at, 1));
        let (mut less_len, mut more_len) = (0, 0);
        for _ in 0..DEPTH {
            if current == NONE {
                break;
            }
            let place = current as usize;
            let start: usize = less_len.min(more_len);
            let len = start + match_len(bytes, place + start, at + start, max - start);
            if len > longest {
                longest = len;
                if let Some(found) = &mut found {
                    found.push(Found { len: len as u32, distance: (at - place) as u32 });
                }
            }
            let sons = self.sons[place];
            if len == max {
                // As good as equal: it takes the other's place.
                self.sons[less.0][less.1] = sons[0];
                self.sons[more.0][more.1] = sons[1];
                return;
            }
            if bytes[place + len] < bytes[at + len] {
                self.sons[less.0][less.1] = current;
                (less, less_len, current) = ((place, 1), len, sons[1]);
            } else {
                self.sons[more.0][more.1] = current;
                (more, more_len, current) = ((place, 0), len, sons[0]);
            }
        }
        self.sons[less.0][less.1] = NONE;
        self.sons[more.0][more.1] = NONE;
    }
}
