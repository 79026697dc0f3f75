//! Section 5.5 from the encoder's side: groups of literals.

use super::{Block, piece, places, varint, zstd_piece};
use crate::reference::{LongMatch, Page};

/// A residual page, and what its literals are told by.
struct Residual<'a> {
    page: &'a Page,
    matches: &'a [LongMatch],
    address: Option<u64>,
    base: Option<&'a Page>,
    /// Whether words that moved against it are told by how far.
    moved: bool,
}

/// Writes the groups of a block; `residual` are the ordinals of its residual pages, `numbers` their numbers.
pub(super) fn groups(
    meta: &mut Vec<u8>,
    data: &mut Vec<u8>,
    block: &Block,
    residual: &[usize],
    numbers: &[u64],
) {
    let runs = block.addresses.as_deref().unwrap_or(&[]);
    let addresses = places::of_pages(runs, numbers, places::PAGES);
    let pages: Vec<Residual<'_>> = (0..residual.len())
        .map(|place| Residual {
            page: &block.truth[residual[place]],
            matches: block.matches.as_ref().map_or(&[], |all| &all[place]),
            address: addresses[place].map(|at| (at as u64).wrapping_mul(4096)),
            base: block.base_words.get(place).and_then(Option::as_ref),
            moved: block.moved,
        })
        .collect();
    let mut groups = vec![];
    for class in 0..=u8::MAX {
        let of_class: Vec<&Residual<'_>> =
            pages.iter().zip(&block.classes).filter(|(_, c)| **c == class).map(|(page, _)| page).collect();
        let most = if block.group_pages == 0 { usize::MAX } else { block.group_pages };
        groups.extend(of_class.chunks(most).map(|pages| (class, pages.to_vec())));
    }
    varint(meta, groups.len() as u64);
    for (class, pages) in groups {
        meta.push(class);
        varint(meta, pages.len() as u64);
        if block.zstd && !block.raw_classes.contains(&class) {
            zstd_piece(meta, data, 2, &packed(&pages));
        } else {
            let raw: Vec<u8> = pages.iter().flat_map(|page| uncovered(page.page, page.matches)).collect();
            piece(meta, data, &raw, false);
        }
    }
}

fn is_covered(word: u64, matches: &[LongMatch]) -> bool {
    matches.iter().any(|m| (m.start..m.start + m.words).contains(&word))
}

fn uncovered(page: &Page, matches: &[LongMatch]) -> Vec<u8> {
    let words = page.chunks_exact(8).zip(0..);
    words.filter(|&(_, word)| !is_covered(word, matches)).flat_map(|(bytes, _)| bytes.to_vec()).collect()
}

/// What a group of codec 2 decodes to. Of the words that need not be stored, one in 64 is all the same: that is allowed.
fn packed(pages: &[&Residual<'_>]) -> Vec<u8> {
    let (mut words, mut masks) = (vec![], vec![]);
    for page in pages {
        let mut mask = [0; 64];
        for (bytes, word) in page.page.chunks_exact(8).zip(0..) {
            let base = page.base.map_or(&[0; 8][..], |base| &base[word as usize * 8..][..8]);
            if !is_covered(word, page.matches) && (bytes != base || word % 64 == 5) {
                match page.address {
                    None if page.moved && page.base.is_some() => words.extend(moved(bytes, base)),
                    None => words.extend(bytes),
                    Some(address) => words.extend(exchanged(bytes, address, word)),
                }
                mask[word as usize / 8] |= 1 << (word % 8);
            }
        }
        masks.extend(mask);
    }
    [words, masks].concat()
}

/// The word that stands for a literal of a page whose base has another word there. Pointers and distances change places, so it is the literal
/// for the word, too.
fn moved(literal: &[u8], base: &[u8]) -> [u8; 8] {
    let signed = |bytes: &[u8]| {
        let mut word = [0; 8];
        word.copy_from_slice(bytes);
        i128::from(i64::from_le_bytes(word))
    };
    let pointers = [-(1_i128 << 47)..0, 1 << 32..1 << 47];
    let is_pointer = |word: i128| pointers.iter().any(|range| range.contains(&word));
    let (literal, base, told) = (signed(literal), signed(base), -(0x7fff_i128 << 48));
    let is_distance = |distance: i128| distance != 0 && distance % 4096 == 0;
    let stored = if is_pointer(base) && is_pointer(literal) && is_distance(literal - base) {
        told + (literal - base)
    } else if is_pointer(base) && is_distance(literal - told) && is_pointer(base + (literal - told)) {
        base + (literal - told)
    } else {
        literal
    };
    (stored as u64).to_le_bytes()
}

/// The word that stands for a literal of a page at `address`. Distances from the page's own words and those words
/// change places, so it is the literal for the word, too.
fn exchanged(literal: &[u8], address: u64, word: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(literal);
    let literal = i128::from(u64::from_le_bytes(bytes));
    let near = i128::from(address) + 8 * i128::from(word) - 4096;
    let told = 0x8001_i128 << 48;
    let distance = |from: i128| (literal - from).rem_euclid(1 << 64);
    let stored = if distance(near) < 8192 {
        told + distance(near)
    } else if distance(told) < 8192 {
        near + distance(told)
    } else {
        literal
    };
    (stored as u64).to_le_bytes()
}
