//! The operations whose every input can be tried; the kernels' tests cover the others.

use super::{Lanes, all_words};
use crate::Level;
use crate::testing;

/// Runs a generic function on every vector level present.
macro_rules! on_each_level {
    ($check:ident) => {
        for level in testing::levels() {
            match level {
                Level::Scalar => {}
                #[cfg(target_arch = "x86_64")]
                Level::Avx2(lanes) => $check(lanes),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512(lanes) => $check(lanes),
                #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
                Level::Neon(lanes) => $check(lanes),
            }
        }
    };
}

#[test]
fn words_are_packed_and_spread_by_every_mask() {
    fn check<L: Lanes>(lanes: L) {
        let words: Vec<u64> = (1..).map(|i| i * 0x0101_0101_0101_0101).take(L::WORDS).collect();
        for bits in 0..=all_words::<L>() {
            let chosen = |i: usize| bits >> i & 1 == 1;
            let expected: Vec<_> = (0..L::WORDS).filter(|&i| chosen(i)).map(|i| words[i]).collect();
            let mut packed = vec![0; L::WORDS];
            lanes.store_words(lanes.compress64(lanes.load_words(&words), bits), &mut packed);
            assert_eq!(packed[..expected.len()], expected, "{bits:#b}");

            let mut rest = words.iter();
            let expected: Vec<_> =
                (0..L::WORDS).map(|i| if chosen(i) { *rest.next().expect("a word") } else { 0 }).collect();
            let mut spread = vec![0; L::WORDS];
            lanes.store_words(lanes.expand64(lanes.load_words(&words), bits), &mut spread);
            assert_eq!(spread, expected, "{bits:#b}");

            let other = vec![7; L::WORDS];
            let blended = lanes.blend(lanes.mask64(bits), lanes.load_words(&words), lanes.load_words(&other));
            let expected: Vec<_> = (0..L::WORDS).map(|i| if chosen(i) { words[i] } else { 7 }).collect();
            lanes.store_words(blended, &mut spread);
            assert_eq!(spread, expected, "{bits:#b}");
        }
    }
    on_each_level!(check);
}

#[test]
fn equal_words_are_told_apart() {
    fn check<L: Lanes>(lanes: L) {
        let words = vec![5; L::WORDS];
        for bits in 0..=all_words::<L>() {
            // Differences in the upper half only must count too.
            let other: Vec<_> =
                (0..L::WORDS).map(|i| if bits >> i & 1 == 1 { 5 } else { 5 | 1 << 63 }).collect();
            let (a, b) = (lanes.load_words(&words), lanes.load_words(&other));
            assert_eq!(lanes.eq64_bits(a, b), bits, "{bits:#b}");
            assert_eq!(lanes.eq64_bits(lanes.eq64(a, b), lanes.mask64(bits)), all_words::<L>(), "{bits:#b}");
            assert_eq!(lanes.any(lanes.xor(a, b)), bits != all_words::<L>(), "{bits:#b}");
        }
    }
    on_each_level!(check);
}
