//! Round trips, and bytes that no encoder made.

use proptest::prelude::*;

use super::*;
use crate::wlz::token::{Token, is_address};

const PARSES: [Parse; 2] = [Parse::Lazy, Parse::Optimal];

fn coded(parse: Parse, raw: &[u8]) -> Vec<u8> {
    let mut out = b"before".to_vec();
    Encoder::new(parse).encode(raw, &mut out);
    assert_eq!(&out[..6], b"before");
    out.split_off(6)
}

fn check(raw: &[u8]) {
    for parse in PARSES {
        let coded = coded(parse, raw);
        let back = decode(&coded, raw.len()).unwrap();
        let differs = (0..raw.len()).find(|&at| back[at] != raw[at]);
        assert_eq!(differs, None, "{parse:?}, of {} bytes", raw.len());
        assert!(decode(&coded[..coded.len() - 4], raw.len()).is_err(), "{parse:?}: cut short");
        assert!(decode(&[&coded[..], &[0; 4]].concat(), raw.len()).is_err(), "{parse:?}: four bytes more");
        assert!(decode(&[&coded[..], &[0]].concat(), raw.len()).is_err(), "{parse:?}: a byte more");
    }
}

/// A generator of our own: tests do not change with a crate's version.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let x = self.0 ^ self.0 >> 33;
        x.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ x >> 29
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Memory of sorts: records of addresses near each other, counters, text, zeros, and copies of what was before.
fn memory(seed: u64, len: usize) -> Vec<u8> {
    let random = &mut Random(seed);
    let heap = 0x7f00_0000_0000 + (random.below(1 << 30) << 8);
    let mut out: Vec<u8> = Vec::new();
    while out.len() < len {
        match random.below(8) {
            0..3 => {
                let word = match random.below(5) {
                    0 => 0,
                    1 => random.below(256),
                    2 => random.next(),
                    3 => 0xffff_8880_0000_0000 + random.below(1 << 24) * 64,
                    _ => heap + random.below(1 << 12) * 16,
                };
                out.extend(word.to_le_bytes());
            }
            3 => {
                out.extend((0..random.below(40)).map(|_| b"etaoin shrdlu\0"[random.below(14) as usize]));
                out.resize(out.len().next_multiple_of(8), 0);
            }
            4 => out.resize(out.len().next_multiple_of(8), 0),
            5 => out.resize(out.len() + random.below(500) as usize, 0),
            _ if out.is_empty() => {}
            _ => {
                let from = random.below(out.len() as u64) as usize;
                let bits = random.below(11);
                let len = random.below(1 << bits) as usize;
                (from..from + len).for_each(|at| out.push(out[at]));
            }
        }
    }
    out.truncate(len);
    out
}

#[test]
fn memory_comes_back() {
    for (seed, len) in (0..).zip([1, 2, 7, 8, 9, 15, 16, 17, 64, 1000, 4095, 4096, 4097, 70_000, 300_001]) {
        check(&memory(seed, len));
    }
    check(&[]);
}

#[test]
fn every_kind_of_step_is_taken() {
    let raw = memory(99, 200_000);
    let words = raw.as_chunks::<8>().0.iter().filter(|word| is_address(u64::from_le_bytes(**word))).count();
    assert!(words > 200, "{words} addresses");
    for parse in PARSES {
        let coded = coded(parse, &raw);
        let mut steps = [0; 4];
        let mut out = vec![0; raw.len()];
        decode::decode_with(&mut Model::new(), &coded, &mut out, |token| {
            steps[match token {
                Token::Literal => 0,
                Token::Pointer { .. } => 1,
                Token::Repeat { .. } => 2,
                Token::Match { .. } => 3,
            }] += 1;
        })
        .unwrap();
        assert!(steps.iter().all(|&count| count > 50), "{parse:?}: {steps:?}");
    }
}

#[test]
fn the_optimal_parse_is_smaller() {
    let raw = memory(5, 1 << 20);
    let [lazy, optimal] = PARSES.map(|parse| coded(parse, &raw).len());
    assert!(optimal < lazy, "{optimal} bytes, {lazy} by the lazy parse");
}

/// What an encoder has coded before leaves no trace.
#[test]
fn encoders_forget() {
    for parse in PARSES {
        let mut encoder = Encoder::new(parse);
        for (seed, len) in [(1, 100_000), (2, 50_000), (3, 100_000), (1, 100_000)] {
            let (raw, mut out) = (memory(seed, len), Vec::new());
            encoder.encode(&raw, &mut out);
            assert!(out == coded(parse, &raw), "{parse:?}");
        }
    }
}

/// The ends of every range: lengths about the escapes, distances from 1 up, differences of every size and sign.
#[test]
fn extremes() {
    for len in (1..40).chain(270..300).chain([511, 512, 513, 65_535, 65_536, 100_000]) {
        check(&vec![0; len]);
        check(&[&[7; 3][..], &vec![1; len]].concat());
        let noise: Vec<u8> = memory(len as u64, 600);
        check(&[&noise[..], &vec![0; len], &noise].concat());
    }
    let base = 0x7f12_3456_7890_u64;
    let mut words = vec![base];
    for bits in 0..64 {
        words.extend([base.wrapping_add(1 << bits), base.wrapping_sub(1 << bits), base]);
        words.extend([1 << bits, (1_u64 << bits).wrapping_neg(), u64::MAX >> bits]);
    }
    words.extend([i64::MIN as u64, 0, i64::MIN as u64, u64::MAX, i64::MAX as u64]);
    check(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
}

/// Whatever the bytes are, an answer comes, and it has the length that was asked for.
#[test]
fn hostile_bytes() {
    let random = &mut Random(7);
    for round in 0..2000 {
        let len = random.below(400) as usize;
        let mut bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        if round % 3 == 0 {
            bytes.iter_mut().for_each(|byte| *byte &= 0x11 << (round % 5));
        }
        let raw_len = random.below(20_000) as usize;
        if let Ok(raw) = decode(&bytes, raw_len) {
            assert_eq!(raw.len(), raw_len);
        }
    }
    for byte in [0, 1, 0x7f, 0x80, 0xff] {
        for len in [0, 1, 4, 7, 8, 12, 4096] {
            drop(decode(&vec![byte; len], 100_000));
        }
    }
}

/// Every flipped bit is an error or other bytes, never the same ones; which of the two, only the block's digest tells.
#[test]
fn flipped_bits() {
    let raw = memory(3, 3000);
    for parse in PARSES {
        let coded = coded(parse, &raw);
        let mut same = 0;
        for bit in 0..coded.len() * 8 {
            let mut bad = coded.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            same += u32::from(decode(&bad, raw.len()).is_ok_and(|back| back == raw));
        }
        // The last bits of the coder's last word say nothing.
        assert!(same < 64, "{parse:?}: {same} bits");
        for len in [0, 1, raw.len() - 1, raw.len() + 1, 2 * raw.len()] {
            assert!(decode(&coded, len).map_or(true, |back| back != raw));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn memory_of_any_kind_comes_back(seed: u64, len in 0usize..20_000) {
        check(&memory(seed, len));
    }

    #[test]
    fn bytes_come_back(raw: Vec<u8>) {
        check(&raw);
    }

    #[test]
    fn sparse_words_come_back(words in prop::collection::vec((0u8..64, any::<u64>()), 0..600)) {
        let raw: Vec<u8> = words.iter().flat_map(|&(shift, word)| (word >> shift).to_le_bytes()).collect();
        check(&raw);
    }
}
