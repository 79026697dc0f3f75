//! The sum against a plain one, at every length near a step and at any alignment.

use super::*;
use crate::testing::{self, Fenced, Random};

fn reference(bytes: &[u8]) -> u64 {
    let places = bytes.iter().enumerate();
    places.fold(0, |sum: u64, (i, &byte)| sum.wrapping_add(u64::from(byte) << (8 * (i % 8))))
}

#[test]
fn agrees_with_the_reference() {
    let mut random = Random::new(5);
    let bytes: Vec<u8> = (0..2100).map(|_| random.word() as u8).collect();
    for level in testing::levels() {
        for len in (0..bytes.len()).step_by(if cfg!(miri) { 299 } else { 1 }) {
            let fenced = Fenced::new(&bytes[..len], len % 64);
            assert_eq!(read_roof(level, fenced.inside()), reference(&bytes[..len]), "{level}: {len} bytes");
        }
    }
}

#[test]
fn no_byte_is_left_out() {
    for level in testing::levels() {
        for place in testing::places() {
            let mut bytes = [0; crate::PAGE_SIZE];
            bytes[place] = 1;
            assert_ne!(read_roof(level, &bytes), 0, "{level}: byte {place}");
        }
    }
}
