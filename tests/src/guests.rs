//! Small guests: real pages of every kind side by side, and the edges of what a guest can be.

pub mod linux;

use std::collections::{HashMap, HashSet};

use mig_engine::Effort;

use crate::engine::{References, pack};
use crate::handmade::Random;
use crate::reference::PAGE;
use crate::sample;

/// A guest with what its packer can refer to.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The raw image.
    pub memory: Vec<u8>,
    /// The same pages earlier.
    pub older: Vec<u8>,
    /// Blocks of its disk.
    pub disk: Vec<u8>,
}

impl Guest {
    /// Some of the pages, in this order.
    ///
    /// # Panics
    ///
    /// If there are not that many.
    pub fn some(&self, numbers: &[usize]) -> Guest {
        let some = |pages| numbers.iter().flat_map(|&number| sample::page(pages, number).to_vec()).collect();
        Guest { memory: some(&self.memory), older: some(&self.older), disk: self.disk.clone() }
    }
}

/// A dozen real pages: zero, uniform, on the disk, in the older image, changed since, new, incompressible, a duplicate,
/// and one that shares half its words with another.
///
/// # Panics
///
/// If the sample has no such pages.
pub fn of_every_kind() -> Guest {
    let pick = Pick::new();
    let (settled, fresh) = (pick.on_disk(), pick.fresh());
    let old = pick.unchanged();
    let changed = pick.changed();
    let noise = Random::new(77).page();
    let mut half = fresh[0].to_vec();
    half[PAGE / 2..].copy_from_slice(&Random::new(78).page()[..PAGE / 2]);
    let zero = [0; PAGE];
    let pages: Vec<Vec<u8>> = vec![
        zero.to_vec(),
        sample::page(sample::disk(), settled).to_vec(),
        sample::page(sample::disk(), settled + 1).to_vec(),
        uniform(0x5a5a_5a5a_5a5a_5a5a),
        uniform(!0),
        sample::page(sample::memory(), old).to_vec(),
        sample::page(sample::memory(), changed).to_vec(),
        fresh[0].to_vec(),
        noise.to_vec(),
        fresh[0].to_vec(),
        half,
        zero.to_vec(),
    ];
    let mut older = vec![uniform(9); pages.len()];
    older[5] = pages[5].clone();
    older[6] = sample::page(sample::older(), changed).to_vec();
    let disk = sample::disk()[settled.saturating_sub(3) * PAGE..][..8 * PAGE].to_vec();
    Guest { memory: pages.concat(), older: older.concat(), disk }
}

/// A stream of three blocks, packed by the engine for random access, what it refers to, and its image: pages of every kind
/// at the borders of blocks, and zeros between.
pub fn three_blocks() -> (Vec<u8>, References, Vec<u8>) {
    let guest = of_every_kind();
    let mut file = vec![0; 2200 * PAGE];
    for first in [0, 1018, 2042, 2188] {
        file[first * PAGE..][..guest.memory.len()].copy_from_slice(&guest.memory);
    }
    let references = References::of(Some(&guest.disk), Some(&guest.older));
    let stream = pack(&file, Effort::Fast, true, &references);
    (stream, references, file)
}

/// 512 times the word.
pub fn uniform(word: u64) -> Vec<u8> {
    word.to_le_bytes().repeat(PAGE / 8)
}

/// Pages of the sample by what they are, found with nothing but comparisons.
struct Pick {
    blocks: HashMap<&'static [u8], usize>,
}

impl Pick {
    fn new() -> Self {
        let mut blocks = HashMap::new();
        for (number, block) in sample::disk().chunks(PAGE).enumerate() {
            blocks.entry(block).or_insert(number);
        }
        Self { blocks }
    }

    fn pages() -> impl Iterator<Item = (usize, &'static [u8], &'static [u8])> {
        let pages = sample::memory().chunks(PAGE).zip(sample::older().chunks(PAGE));
        pages.enumerate().map(|(number, (page, older))| (number, page, older))
    }

    /// A block of the disk that a page equals, with three more on either side.
    fn on_disk(&self) -> usize {
        let found = Self::pages().find_map(|(_, page, _)| {
            let &block = self.blocks.get(page)?;
            let room = block >= 3 && (block + 5) * PAGE <= sample::disk().len();
            (room && !is_uniform(page) && !is_uniform(sample::page(sample::disk(), block + 1)))
                .then_some(block)
        });
        found.expect("the sample has pages of its disk")
    }

    /// A page that is as it was, and not on the disk.
    fn unchanged(&self) -> usize {
        let found = Self::pages()
            .find(|(_, page, older)| page == older && !is_uniform(page) && !self.blocks.contains_key(page));
        found.expect("the sample has unchanged pages").0
    }

    /// A page of which a few words changed.
    fn changed(&self) -> usize {
        let found = Self::pages().find(|(_, page, older)| {
            let words = page.chunks(8).zip(older.chunks(8)).filter(|(one, other)| one != other).count();
            (4..100).contains(&words) && !is_uniform(older) && !self.blocks.contains_key(page)
        });
        found.expect("the sample has changed pages").0
    }

    /// Pages that are neither on the disk nor where they were, all different.
    fn fresh(&self) -> Vec<&'static [u8]> {
        let mut seen = HashSet::new();
        let fresh = Self::pages().filter(|(_, page, older)| {
            let same = page.chunks(8).zip(older.chunks(8)).filter(|(one, other)| one == other).count();
            same < 64 && !is_uniform(page) && !self.blocks.contains_key(page) && seen.insert(*page)
        });
        let fresh: Vec<_> = fresh.map(|(_, page, _)| page).collect();
        assert!(fresh.len() > 8, "the sample has new pages");
        fresh
    }
}

fn is_uniform(page: &[u8]) -> bool {
    page.chunks(8).all(|word| word == &page[..8])
}

/// Guests at the edges, by name.
pub fn edges() -> Vec<(&'static str, Vec<u8>)> {
    let mut random = Random::new(1);
    let noise: Vec<u8> = (0..300).flat_map(|_| random.page()).collect();
    let words: Vec<u8> =
        (0..300u64).flat_map(|page| uniform(1 << (page % 7) | 1 << (page * page % 61))).collect();
    let tail = [sample::page(sample::memory(), 700), &[7; 4095]].concat();
    let mut far = sample::memory()[..40 * PAGE].to_vec();
    far.extend(vec![0; 1500 * PAGE]);
    far.extend(&sample::memory()[..40 * PAGE]);
    vec![
        ("one page", sample::page(sample::memory(), 700).to_vec()),
        ("one zero page", vec![0; PAGE]),
        ("all zero", vec![0; 300 * PAGE]),
        ("all uniform", words),
        ("all duplicates", sample::page(sample::memory(), 700).repeat(500)),
        ("all incompressible", noise),
        ("another class each page", classes(252)),
        ("a tail that is no page", tail),
        ("the same pages far apart", far),
    ]
}

/// More than one block of pages (8,192, or 1,024 for random access), with kin of pages in other blocks: the sample five
/// times, the later ones with some words changed, some pages moved and some gone.
pub fn of_many_blocks() -> Vec<u8> {
    let mut random = Random::new(5);
    let mut memory = sample::memory().to_vec();
    for round in 1..5usize {
        let mut copy = sample::memory().to_vec();
        for (number, page) in copy.chunks_mut(PAGE).enumerate() {
            match (number * 7 + round * 3) % 11 {
                0..4 => {}
                4..7 => {
                    let at = random.below(512) as usize * 8;
                    page[at..at + 8].copy_from_slice(&random.word().to_le_bytes());
                }
                7 => page.rotate_left(8 * (number % 512)),
                8 => page.fill(0),
                9 => page.copy_from_slice(&uniform(random.below(5))),
                _ => page.copy_from_slice(sample::page(sample::memory(), random.below(2048) as usize)),
            }
        }
        memory.extend(copy);
    }
    memory
}

/// Pages that go through all classes in turn, each different.
fn classes(pages: u64) -> Vec<u8> {
    let mut random = Random::new(3);
    let mut memory = Vec::new();
    for page in 0..pages {
        let kind = page % 6;
        for word in 0..512u64 {
            let noise = random.word();
            let value: u64 = match kind {
                0 => noise,
                1 => 0x2020_2020_2020_2020 | noise & 0x5f5f_5f5f_5f5f_5f5f,
                2 if word % 3 == 0 => 0x7f00_0000_0000 | noise & 0xffff_fff8,
                3 if word % 3 == 0 => 0xffff_8880_0000_0000 | noise & 0xffff_fff8,
                4 if word % 5 != 0 => 0,
                5 => noise & 0xffff_0000_00ff,
                _ => word * page,
            };
            memory.extend(value.to_le_bytes());
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_of_every_kind() {
        let guest = of_every_kind();
        let page = |number| sample::page(&guest.memory, number);
        assert_eq!((guest.memory.len(), guest.older.len()), (12 * PAGE, 12 * PAGE));
        assert!(guest.disk.chunks(PAGE).any(|block| block == page(1)));
        assert!(guest.disk.chunks(PAGE).any(|block| block == page(2)));
        assert_eq!(page(5), sample::page(&guest.older, 5));
        assert_ne!(page(6), sample::page(&guest.older, 6));
        assert_eq!(page(7), page(9));
        assert!((0..12).filter(|&number| is_uniform(page(number))).eq([0, 3, 4, 11]));
    }
}
