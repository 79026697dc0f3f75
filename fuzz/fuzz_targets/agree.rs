//! Streams that a strange packer wrote, from the document alone, valid or not (`mig_fuzz::strange`). The engine and the
//! slow decoder must agree on whether they are streams, and on every byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mig_fuzz::reads;
use mig_fuzz::strange::{self, Case};

fuzz_target!(|case: Case| {
    let stream = strange::stream(&case);
    if case.session { reads::agree_session(&stream) } else { reads::agree(&stream) }
});
