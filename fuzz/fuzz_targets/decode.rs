//! Any bytes, unpacked and inspected: no panic, no hang, and no more memory than the limits allow.
//!
//! Few inputs get past the first checksum; `decode_sealed` and `decode_blocks` are for what lies behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mig_engine::inspect::StreamInfo;
use mig_fuzz::reads;

fuzz_target!(|bytes: &[u8]| {
    let _ = StreamInfo::read(bytes);
    reads::agree(bytes);
});
