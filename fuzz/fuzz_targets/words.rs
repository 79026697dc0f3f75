//! The word coder: what it codes comes back, by either parse, and hostile bytes decode to an error or to the length asked for.
//!
//! Bits 0 and 1 of the first byte: hostile bytes, or by which parse the others are coded. The next two bytes are the length
//! that hostile ones are to decode to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mig_engine::wlz::{Encoder, Parse, decode};

fuzz_target!(|bytes: &[u8]| {
    let &[choice, low, high, ref bytes @ ..] = bytes else { return };
    let parse = match choice & 3 {
        0 => Parse::Lazy,
        1 => Parse::Optimal,
        _ => {
            let raw_len = usize::from(u16::from_le_bytes([low, high]));
            if let Ok(raw) = decode(bytes, raw_len) {
                assert_eq!(raw.len(), raw_len);
            }
            return;
        }
    };
    let mut coded = Vec::new();
    Encoder::new(parse).encode(bytes, &mut coded);
    assert!(decode(&coded, bytes.len()).is_ok_and(|back| back == bytes));
    // One bit wrong is an error or other bytes, but never a panic.
    let bit = usize::from(u16::from_le_bytes([low, high])) % (coded.len() * 8);
    coded[bit / 8] ^= 1 << (bit % 8);
    drop(decode(&coded, bytes.len()));
});
