//! Small guests from few bytes: each page is a recipe, so that a fuzzer can make kin of earlier pages.

use mig_engine::{PAGE_SIZE, PAGE_WORDS, Page};
use mig_tests::handmade::Random;

/// A page, mostly in terms of others.
#[derive(Clone, Copy, Debug, arbitrary::Arbitrary)]
pub enum Recipe {
    /// All zero.
    Zero,
    /// One word, repeated.
    Uniform(u64),
    /// Random bytes, the same for the same seed.
    Random(u8),
    /// Words with few different values, which compress.
    Words { seed: u8, values: u8 },
    /// Bytes of text.
    Text(u8),
    /// Pointers among small numbers.
    Pointers { seed: u8, kernel: bool },
    /// A page made before, counted back.
    Copy(u8),
    /// The same, turned by some words.
    Shifted { back: u8, words: u16 },
    /// The same with some words changed.
    Touched { back: u8, seed: u8, words: u8 },
    /// A block of the disk.
    Disk(u8),
    /// A page of the older memory image.
    Older(u8),
    /// The same with some words changed.
    OlderTouched { page: u8, seed: u8, words: u8 },
}

/// The pages of a guest. `disk` and `older` are what [`Recipe`] refers to.
pub fn pages(recipes: &[Recipe], disk: &[u8], older: &[u8]) -> Vec<Page> {
    let mut pages: Vec<Page> = Vec::new();
    for &recipe in recipes {
        let page = one(recipe, &pages, disk, older);
        pages.push(page);
    }
    pages
}

fn one(recipe: Recipe, before: &[Page], disk: &[u8], older: &[u8]) -> Page {
    let earlier = |back: u8| {
        let back = usize::from(back) % before.len().max(1) + 1;
        before.len().checked_sub(back).map_or([0; PAGE_SIZE], |at| before[at])
    };
    match recipe {
        Recipe::Zero => [0; PAGE_SIZE],
        Recipe::Uniform(word) => from_words(|_| word),
        Recipe::Random(seed) => Random::new(seed.into()).page(),
        Recipe::Words { seed, values } => {
            let mut random = Random::new(u64::from(seed) << 8);
            from_words(|_| random.below(u64::from(values) + 2) << 20)
        }
        Recipe::Text(seed) => {
            let mut random = Random::new(u64::from(seed) << 16);
            from_words(|_| u64::from_le_bytes(std::array::from_fn(|_| b' ' + random.below(90) as u8)))
        }
        Recipe::Pointers { seed, kernel } => {
            let mut random = Random::new(u64::from(seed) << 24);
            let base = if kernel { 0xffff_8880_0000_0000 } else { 0x7f00_0000_0000 };
            from_words(|at| if at % 3 == 0 { base + random.below(1 << 30) } else { random.below(300) })
        }
        Recipe::Copy(back) => earlier(back),
        Recipe::Shifted { back, words } => {
            let mut page = earlier(back);
            page.rotate_left(usize::from(words) % PAGE_WORDS * 8);
            page
        }
        Recipe::Touched { back, seed, words } => touched(earlier(back), seed, words),
        Recipe::Disk(block) => block_of(disk, block),
        Recipe::Older(page) => block_of(older, page),
        Recipe::OlderTouched { page, seed, words } => touched(block_of(older, page), seed, words),
    }
}

fn from_words(mut word: impl FnMut(usize) -> u64) -> Page {
    let mut page = [0; PAGE_SIZE];
    for (at, bytes) in page.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *bytes = word(at).to_le_bytes();
    }
    page
}

fn touched(mut page: Page, seed: u8, words: u8) -> Page {
    let mut random = Random::new(u64::from(seed) << 32);
    for _ in 0..words {
        let at = random.below(PAGE_WORDS as u64) as usize * 8;
        page[at..at + 8].copy_from_slice(&random.word().to_le_bytes());
    }
    page
}

fn block_of(bytes: &[u8], number: u8) -> Page {
    let blocks = bytes.as_chunks::<PAGE_SIZE>().0;
    blocks[usize::from(number) % blocks.len()]
}
