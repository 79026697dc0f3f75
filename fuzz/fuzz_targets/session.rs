//! A session that an attacker made: pages that come again, pieces, scripts of QEMU streams.
//!
//! The destination neither panics nor hangs, and the slow decoder accepts the same sessions, with the same memory, pieces
//! and QEMU stream. Bit 0 of the first byte: checksums and digests are put right first.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mig_fuzz::{reads, seal};

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    if choice & 1 == 1 {
        reads::agree_session(&seal::seal_session(bytes));
    } else {
        reads::agree_session(bytes);
    }
});
