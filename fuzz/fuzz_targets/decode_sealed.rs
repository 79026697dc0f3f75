//! A stream that an attacker made: changed anywhere, then given the checksums and digests that belong to it.
//!
//! The engine neither panics nor hangs, and the slow decoder, which was written from the document alone, accepts the
//! same streams, with the same bytes, and verifies as many pages of the others.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mig_engine::inspect::StreamInfo;
use mig_fuzz::{reads, seal};

fuzz_target!(|bytes: &[u8]| {
    let stream = seal::seal(bytes);
    let _ = StreamInfo::read(stream.as_slice());
    reads::agree(&stream);
});
