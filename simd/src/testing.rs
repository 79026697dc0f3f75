//! What the kernels' tests share: the levels to run, pages of every kind, and canaries.

use std::collections::BTreeSet;
use std::io::Write;
use std::ops::Range;
use std::sync::Once;

use crate::{Level, PAGE_SIZE, PAGE_WORDS, Page};

/// Names that `MIG_REQUIRE` may hold for other crates' tests.
const OTHER_REQUIREMENTS: [&str; 11] = [
    "cable",
    "gpu",
    "gzip",
    "holes",
    "makedumpfile",
    "mounts",
    "pe",
    "qemu",
    "qemu-img",
    "qemu-live",
    "zstd",
];

/// Every level present, after saying which those are (once, past the test runner's capture).
///
/// Panics where `MIG_REQUIRE`, a list with commas, names a level that is absent: a test that did not
/// run must not look like one that passed.
pub(crate) fn levels() -> Vec<Level> {
    static SAID: Once = Once::new();
    let present = Level::present();
    let names: BTreeSet<_> = present.iter().map(|level| level.name()).collect();
    SAID.call_once(|| {
        let absent: Vec<_> = Level::NAMES.into_iter().filter(|name| !names.contains(name)).collect();
        let mut stderr = std::io::stderr();
        let said = writeln!(stderr, "SIMD levels tested: {names:?}; not on this CPU: {absent:?}");
        said.expect("standard error takes a line");
    });
    let required = std::env::var("MIG_REQUIRE").unwrap_or_default();
    for name in required.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let known = names.contains(name) || OTHER_REQUIREMENTS.contains(&name);
        assert!(known, "MIG_REQUIRE asks for {name:?}; the levels present are {names:?}");
    }
    present
}

/// A seeded generator (SplitMix64): the same pages in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.word() % end as u64) as usize
    }
}

/// A page of these words.
pub(crate) fn page_of(word: impl FnMut(usize) -> u64) -> Box<Page> {
    let bytes: Vec<u8> = (0..PAGE_WORDS).map(word).flat_map(u64::to_le_bytes).collect();
    bytes.into_boxed_slice().try_into().expect("512 words are a page")
}

/// A page's words.
pub(crate) fn words_of(page: &Page) -> Vec<u64> {
    page.chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes"))).collect()
}

/// Words at and beside every border that a kernel's tests or clamps could get wrong.
pub(crate) fn border_words() -> Vec<u64> {
    let mut words = vec![0, u64::MAX, 0x4142_4344_4546_4748, 0x7f7f_7f7f_7f7f_7f7f, 0x8080_8080_8080_8080];
    for bit in 0..64 {
        let power = 1u64 << bit;
        words.extend([power, power - 1, power + 1, !power, power.wrapping_neg(), power.wrapping_neg() - 1]);
    }
    for byte in 0..8 {
        // Text with one byte that is not, and one lone byte.
        words.push(0x4142_4344_4546_4748 ^ 0xC0 << (8 * byte));
        words.push(0xff << (8 * byte));
    }
    words
}

/// Pages of every kind, with a name for each.
pub(crate) fn pages() -> Vec<(String, Box<Page>)> {
    let mut pages = Vec::new();
    let mut add = |name: &str, page| pages.push((name.to_owned(), page));
    add("zero", page_of(|_| 0));
    add("ones", page_of(|_| u64::MAX));
    add("counting", page_of(|i| i as u64));
    add("text", page_of(|i| 0x2020_6161_7a7a_4141 + (i as u64 % 26)));
    add("user pointers", page_of(|i| 0x7f12_3456_0000 + 16 * i as u64));
    add("kernel pointers", page_of(|i| 0xffff_8881_0000_0000 + 64 * i as u64));

    let borders = border_words();
    let seeds = if cfg!(miri) { 1 } else { 40 };
    for seed in 0..seeds {
        let mut random = Random::new(seed);
        add(&format!("random {seed}"), page_of(|_| random.word()));
        add(&format!("borders {seed}"), page_of(|_| borders[random.below(borders.len())]));
        let thin = 1 + random.below(8);
        add(
            &format!("sparse {seed}"),
            page_of(|_| if random.below(8) < thin { 0 } else { random.word() >> random.below(64) }),
        );
        let runs = 1 + random.below(12);
        let mut word = 0;
        add(
            &format!("runs {seed}"),
            page_of(|_| {
                if random.below(runs) == 0 {
                    word = borders[random.below(borders.len())];
                }
                word
            }),
        );
    }
    for (i, &word) in borders.iter().enumerate() {
        if cfg!(miri) && i != 7 {
            continue;
        }
        add(&format!("all {word:#x}"), page_of(|_| word));
        add(&format!("all but the first {word:#x}"), page_of(|i| if i == 0 { !word } else { word }));
        add(&format!("all but the last {word:#x}"), page_of(|i| if i == 511 { !word } else { word }));
    }
    if cfg!(miri) {
        // A kernel and its reference take seconds for a page there.
        pages = pages.into_iter().step_by(4).collect();
    }
    pages
}

/// The places through which tests move an odd byte: all 4096, or a few where that takes too long.
pub(crate) fn places() -> impl Iterator<Item = usize> {
    (0..PAGE_SIZE).step_by(if cfg!(miri) { 2047 } else { 1 })
}

/// Bytes in the middle of canaries, at an alignment of choice.
pub(crate) struct Fenced {
    bytes: Vec<u8>,
    inside: Range<usize>,
}

impl Fenced {
    const CANARY: u8 = 0xC5;
    const MARGIN: usize = 256;

    /// A copy of `content` that starts `offset` bytes after a multiple of 64.
    pub(crate) fn new(content: &[u8], offset: usize) -> Self {
        let mut bytes = vec![Self::CANARY; content.len() + 2 * Self::MARGIN + offset + 64];
        let start = bytes.as_ptr().align_offset(64) + Self::MARGIN + offset;
        let inside = start..start + content.len();
        bytes[inside.clone()].copy_from_slice(content);
        Self { bytes, inside }
    }

    pub(crate) fn inside(&self) -> &[u8] {
        &self.bytes[self.inside.clone()]
    }

    pub(crate) fn page(&self) -> &Page {
        self.inside().try_into().expect("a page")
    }

    /// The page inside, to be written to.
    pub(crate) fn page_mut(&mut self) -> &mut Page {
        (&mut self.bytes[self.inside.clone()]).try_into().expect("a page")
    }

    /// Panics where a canary has changed.
    pub(crate) fn check(&self) {
        let (before, after) = (&self.bytes[..self.inside.start], &self.bytes[self.inside.end..]);
        let intact = before.iter().chain(after).all(|&byte| byte == Self::CANARY);
        assert!(intact, "bytes outside the output were written");
    }
}

#[test]
#[should_panic(expected = "bytes outside the output were written")]
fn a_dead_canary_is_noticed() {
    let mut fenced = Fenced::new(&[0; PAGE_SIZE], 3);
    let end = fenced.inside.end;
    fenced.bytes[end] ^= 1;
    fenced.check();
}

/// How many cases property tests try, and no files of failures kept beside the sources.
pub(crate) fn cases() -> proptest::test_runner::Config {
    let cases = if cfg!(miri) { 1 } else { 256 };
    proptest::test_runner::Config { cases, failure_persistence: None, ..Default::default() }
}
