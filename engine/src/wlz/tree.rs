//! Match finder for the optimal parse: for each hash of four bytes, a binary tree of all earlier positions, sorted by what follows
//! them; the last one is the root.

use super::token::{match_len, word};

/// Hashes of four, and of three, bytes.
const HEAD_BITS: u32 = 20;
const SHORT_BITS: u32 = 18;
const ODD: u64 = 0x9e37_79b1_85eb_ca87;
const NONE: u32 = u32::MAX;

pub(super) struct Tree {
    /// The last position with each hash.
    heads: Vec<u32>,
    short: Vec<u32>,
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
const DEPTH: u32 = 32;
/// Matches from this length on are not looked at further.
pub(super) const NICE: usize = 128;

impl Tree {
    pub(super) fn new() -> Self {
        Tree { heads: vec![NONE; 1 << HEAD_BITS], short: vec![NONE; 1 << SHORT_BITS], sons: Vec::new() }
    }

    /// Empties it for an input of so many bytes.
    pub(super) fn clear(&mut self, len: usize) {
        self.heads.fill(NONE);
        self.short.fill(NONE);
        if self.sons.len() < len {
            self.sons = vec![[NONE; 2]; len];
        }
    }

    /// Enters a position, and appends the matches there, if they are wanted: each longer than the one before, and nearest of its length.
    /// Positions come one after the other.
    pub(super) fn enter(&mut self, bytes: &[u8], at: usize, mut found: Option<&mut Vec<Found>>) {
        let max = (bytes.len() - at).min(NICE);
        if max < 8 {
            self.sons[at] = [NONE; 2];
            return;
        }
        let here = word(bytes, at);
        let hash =
            |bytes: u32, bits: u32| ((here << (64 - 8 * bytes)).wrapping_mul(ODD) >> (64 - bits)) as usize;
        let before = std::mem::replace(&mut self.short[hash(3, SHORT_BITS)], at as u32);
        if let Some(found) = &mut found
            && before != NONE
            && (word(bytes, before as usize) ^ here) << 40 == 0
        {
            found.push(Found { len: 3, distance: at as u32 - before });
        }
        let mut current = std::mem::replace(&mut self.heads[hash(4, HEAD_BITS)], at as u32);
        let mut longest = 3;
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
