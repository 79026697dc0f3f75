//! Match finder for the optimal parse: a binary tree of all earlier positions for each hash of four bytes.

use super::lazy::mlen;
use super::model::word;

pub(super) const NONE: u32 = u32::MAX;

pub(super) struct Tree {
    heads: Vec<u32>,
    short: Vec<u32>,
    sons: Vec<[u32; 2]>,
    pub(super) depth: u32,
    pub(super) nice: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) len: u32,
    pub(super) distance: u32,
}

const BITS: u32 = 20;
const SHORT_BITS: u32 = 18;

impl Tree {
    pub(super) fn new(depth: u32, nice: usize) -> Self {
        Tree { heads: vec![NONE; 1 << BITS], short: vec![NONE; 1 << SHORT_BITS], sons: Vec::new(), depth, nice }
    }
    pub(super) fn reset(&mut self, len: usize) {
        self.heads.fill(NONE);
        self.short.fill(NONE);
        if self.sons.len() < len {
            self.sons = vec![[NONE; 2]; len];
        }
    }
    /// Enters `at`; positions must come one after the other. Appends what is found, lengths ascending.
    pub(super) fn find(&mut self, bytes: &[u8], at: usize, mut found: Option<&mut Vec<Found>>) {
        let max = (bytes.len() - at).min(self.nice);
        if max < 8 {
            self.sons[at] = [NONE; 2];
            return;
        }
        let w = word(bytes, at);
        let h3 = ((w << 40).wrapping_mul(0x9E37_79B1_85EB_CA87) >> (64 - SHORT_BITS)) as usize;
        let q = std::mem::replace(&mut self.short[h3], at as u32);
        if let Some(found) = &mut found && q != NONE && (word(bytes, q as usize) ^ w) << 40 == 0 {
            found.push(Found { len: 3, distance: at as u32 - q });
        }
        let h = ((w << 32).wrapping_mul(0x9E37_79B1_85EB_CA87) >> (64 - BITS)) as usize;
        let mut current = std::mem::replace(&mut self.heads[h], at as u32);
        let mut best = 3;
        let (mut less, mut more) = ((at, 0), (at, 1));
        let (mut less_len, mut more_len) = (0, 0);
        for _ in 0..self.depth {
            if current == NONE {
                break;
            }
            let c = current as usize;
            let start = less_len.min(more_len);
            let len = start + mlen(bytes, c + start, at + start, max - start);
            if len > best {
                best = len;
                if let Some(found) = &mut found {
                    found.push(Found { len: len as u32, distance: (at - c) as u32 });
                }
            }
            let sons = self.sons[c];
            if len == max {
                self.sons[less.0][less.1] = sons[0];
                self.sons[more.0][more.1] = sons[1];
                return;
            }
            if bytes[c + len] < bytes[at + len] {
                self.sons[less.0][less.1] = current;
                less = (c, 1);
                current = sons[1];
                less_len = len;
            } else {
                self.sons[more.0][more.1] = current;
                more = (c, 0);
                current = sons[0];
                more_len = len;
            }
        }
        self.sons[less.0][less.1] = NONE;
        self.sons[more.0][more.1] = NONE;
    }
}
