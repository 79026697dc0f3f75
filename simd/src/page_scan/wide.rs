//! The scan's loop, shared by all vector levels.
//!
//! Three things keep it at the speed of memory (bench `page_scan` beside `read_roof`). XXH3 adds each
//! word to its neighbour's accumulator; here the words are summed apart and the sums exchanged once a
//! block, which saves a shuffle for each vector (addition wraps, so the order is free). The counts are
//! not taken from 64-bit words: what they ask about is first packed into 8-bit lanes, so that one
//! operation answers for eight times as many words; packing clamps, and clamping keeps apart what the
//! counts keep apart. And one cache line in sixteen is asked for a page ahead.

use super::PageRecord;
use super::xxh3::{self, BLOCK};
use crate::lanes::Lanes;
use crate::{PAGE_SIZE, PAGE_WORDS, Page};

/// Bytes of the page that are tested at a time for being filled with one word.
const GROUP: usize = 256;
/// How far ahead of its use each block's first line is asked for. The CPU's own prefetchers stop at
/// the end of a page and start slowly in the next, and the scan keeps too few loads in flight to hide
/// that. A nudge for each KiB is enough for them to go on, and better than asking for every line,
/// which takes the place of their own, deeper requests.
const AHEAD: usize = PAGE_SIZE;

#[inline(always)]
pub(super) fn page_scan<L: Lanes>(lanes: L, pages: &[u8], records: &mut [PageRecord]) {
    for (page, record) in pages.as_chunks::<PAGE_SIZE>().0.iter().zip(records) {
        *record = scan(lanes, page);
    }
}

#[inline(always)]
fn scan<L: Lanes>(lanes: L, page: &Page) -> PageRecord {
    let mut hash = Hash::new(lanes);
    let mut counts = Counts::new(lanes);

    for (number, block) in page.as_chunks::<BLOCK>().0.iter().enumerate() {
        let last = number == PAGE_SIZE / BLOCK - 1;
        let keys = xxh3::KEYS[number].0.as_flattened();
        lanes.prefetch(block.as_ptr().wrapping_add(AHEAD));
        for (turn, keys) in block.chunks_exact(8 * L::BYTES).zip(keys.chunks_exact(8 * L::WORDS)) {
            let mut vectors = [lanes.zero(); 8];
            for (i, vector) in vectors.iter_mut().enumerate() {
                *vector = lanes.load(&turn[i * L::BYTES..]);
                hash.add(lanes, i, *vector, lanes.load_words(&keys[i * L::WORDS..]));
            }
            counts.add(lanes, vectors);
        }
        hash.end_block(lanes, last);
    }

    let mut record = counts.record(lanes);
    record.first_word = u64::from_le_bytes(*page.first_chunk().expect("a page has a first word"));
    record.fingerprint = hash.finish(lanes);
    let uniform = match record.first_word {
        0 => usize::from(record.zero_words) == PAGE_WORDS,
        word => is_filled_with(lanes, page, word),
    };
    record.flags = u16::from(uniform) * PageRecord::UNIFORM;
    record
}

/// Whether `word` fills the page. The page is in the first cache by now, and nearly all pages are
/// out after one step.
#[inline(always)]
fn is_filled_with<L: Lanes>(lanes: L, page: &Page, word: u64) -> bool {
    let fill = lanes.splat64(word);
    for group in page.as_chunks::<GROUP>().0 {
        let mut differs = lanes.zero();
        for i in 0..GROUP / L::BYTES {
            let vector = lanes.load(&group[i * L::BYTES..]);
            differs = lanes.or(differs, lanes.xor(vector, fill));
        }
        if lanes.any(differs) {
            return false;
        }
    }
    true
}

/// XXH3's eight accumulators, in as many vectors as they need (the others stay unused).
struct Hash<L: Lanes> {
    accumulators: [L::Vector; 4],
    /// Sums of the block's words, not yet exchanged between neighbours.
    words: [L::Vector; 4],
}

impl<L: Lanes> Hash<L> {
    /// Vectors in a stripe.
    const STRIPE: usize = 64 / L::BYTES;

    #[inline(always)]
    fn new(lanes: L) -> Self {
        let zero = lanes.zero();
        let mut accumulators = [zero; 4];
        for (i, accumulator) in accumulators.iter_mut().enumerate().take(Self::STRIPE) {
            *accumulator = lanes.load_words(&xxh3::START[i * L::WORDS..]);
        }
        Self { accumulators, words: [zero; 4] }
    }

    /// Takes in the vector at place `at` of the group.
    #[inline(always)]
    fn add(&mut self, lanes: L, at: usize, vector: L::Vector, key: L::Vector) {
        let i = at % Self::STRIPE;
        let product = lanes.mul_halves(lanes.xor(vector, key));
        self.accumulators[i] = lanes.add64(self.accumulators[i], product);
        self.words[i] = lanes.add64(self.words[i], vector);
    }

    #[inline(always)]
    fn end_block(&mut self, lanes: L, last: bool) {
        let prime = lanes.splat64(xxh3::PRIME32_1);
        for i in 0..Self::STRIPE {
            let exchanged = lanes.swap_pairs(self.words[i]);
            let mut sum = lanes.add64(self.accumulators[i], exchanged);
            if !last {
                let key = lanes.load_words(&xxh3::SCRAMBLE[i * L::WORDS..]);
                sum = lanes.xor(sum, lanes.xor(lanes.shr64::<47>(sum), key));
                let upper = lanes.mul32(lanes.shr64::<32>(sum), prime);
                sum = lanes.add64(lanes.mul32(sum, prime), lanes.shl64::<32>(upper));
            }
            self.accumulators[i] = sum;
            self.words[i] = lanes.zero();
        }
    }

    #[inline(always)]
    fn finish(&self, lanes: L) -> [u64; 2] {
        let mut accumulators = Aligned([0; 8]);
        for i in 0..Self::STRIPE {
            lanes.store_words(self.accumulators[i], &mut accumulators.0[i * L::WORDS..]);
        }
        // The black box is for the loop above this: with an aligned array that must exist, the compiler
        // aligns the stack frame, and with it the vectors that it has no registers for. Where those lay
        // across cache lines, which was up to the luck of the process, AVX2 ran at half the speed.
        xxh3::finish(&std::hint::black_box(accumulators).0)
    }
}

/// The accumulators in memory.
#[repr(align(64))]
struct Aligned([u64; 8]);

/// The classes' counters, in 8-bit lanes. No lane counts more than 32 words of a page.
struct Counts<L: Lanes> {
    zero: L::Vector,
    below_2_32: L::Vector,
    user: L::Vector,
    kernel: L::Vector,
    text: L::Vector,
}

/// What the counts ask about the words of four vectors, in 16-bit lanes.
struct Narrow<L: Lanes> {
    /// Zero where the word is.
    any: L::Vector,
    /// Zero where the upper half of the word is.
    upper: L::Vector,
    /// The word's bits from 40 up as a signed number, clamped.
    top: L::Vector,
    /// Zero where no byte of the word is above 127.
    signs: L::Vector,
}

impl<L: Lanes> Narrow<L> {
    #[inline(always)]
    fn new(lanes: L, a: L::Vector, b: L::Vector, c: L::Vector, d: L::Vector) -> Self {
        let upper = [lanes.odd32(a, b), lanes.odd32(c, d)];
        let any = [lanes.or(lanes.even32(a, b), upper[0]), lanes.or(lanes.even32(c, d), upper[1])];
        let signs = lanes.splat64(0x8080_8080_8080_8080);
        Self {
            any: lanes.pack32(any[0], any[1]),
            upper: lanes.pack32(upper[0], upper[1]),
            top: lanes.pack32(lanes.sar32::<8>(upper[0]), lanes.sar32::<8>(upper[1])),
            signs: lanes.pack32(lanes.and(any[0], signs), lanes.and(any[1], signs)),
        }
    }
}

impl<L: Lanes> Counts<L> {
    #[inline(always)]
    fn new(lanes: L) -> Self {
        let zero = lanes.zero();
        Self { zero, below_2_32: zero, user: zero, kernel: zero, text: zero }
    }

    /// Counts the words of eight vectors.
    #[inline(always)]
    fn add(&mut self, lanes: L, [a, b, c, d, e, f, g, h]: [L::Vector; 8]) {
        let first = Narrow::new(lanes, a, b, c, d);
        let second = Narrow::new(lanes, e, f, g, h);
        // Clamping makes nothing zero that was not.
        let any = lanes.pack16(first.any, second.any);
        let upper = lanes.pack16(first.upper, second.upper);
        let top = lanes.pack16(first.top, second.top);
        let signs = lanes.pack16(first.signs, second.signs);
        // Bits 47 and up: 0 and -1 come through both clamps as they are, and nothing else becomes them.
        let side = lanes.pack16(lanes.sar16::<7>(first.top), lanes.sar16::<7>(second.top));

        // In each lane 1 where it is zero: `1 - x`, or 0 where that is negative. One step less than to
        // compare and count the mask, on every level.
        let one = lanes.splat8(1);
        let below_2_47 = lanes.sub_or_zero8(one, side);
        self.zero = lanes.add8(self.zero, lanes.sub_or_zero8(one, any));
        self.below_2_32 = lanes.add8(self.below_2_32, lanes.sub_or_zero8(one, upper));
        self.user = lanes.add8(self.user, below_2_47);
        self.user = lanes.sub8(self.user, lanes.sub_or_zero8(one, top));
        // 1 where it is -1, which is 255.
        self.kernel = lanes.add8(self.kernel, lanes.sub_or_zero8(side, lanes.splat8(254)));
        // Without a byte above 127, bit 47 is clear, so not below 2^47 is a bit from 48 up.
        let plain = lanes.sub_or_zero8(one, signs);
        self.text = lanes.add8(self.text, lanes.sub_or_zero8(plain, below_2_47));
    }

    /// The counts, in a record that is empty otherwise.
    #[inline(always)]
    fn record(&self, lanes: L) -> PageRecord {
        let zero_words = lanes.sum8(self.zero);
        PageRecord {
            zero_words,
            small_words: lanes.sum8(self.below_2_32) - zero_words,
            user_pointers: lanes.sum8(self.user),
            kernel_pointers: lanes.sum8(self.kernel),
            text_words: lanes.sum8(self.text),
            ..PageRecord::default()
        }
    }
}
