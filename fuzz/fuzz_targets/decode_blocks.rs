//! Blocks behind a header that is good: every meta and data part goes straight to the block decoder, whether or not the
//! one before was any good, and pieces have the checksums that belong to them.
//!
//! What transports do, and the shortest way for a fuzzer into columns, long matches and groups: no panic, no hang.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mig_engine::{BlockDecoder, Level};
use mig_fuzz::store::MemStore;
use mig_fuzz::{reads, references, seal};
use mig_tests::handmade::{Builder, Head};

/// Headers of a plain stream and of one for random access; the references are those at hand, and one that is not.
fn header(random_access: bool, multi: bool) -> mig_engine::Header {
    let mut head = Head::raw(600);
    head.flags = u8::from(random_access);
    head.block_pages = if multi { reads::BLOCK_PAGES } else { 64 };
    let blocks = references::BLOCKS.into();
    for kind in [0, 1, 0] {
        head.references.push((kind, [kind; 16], blocks, "x".to_owned()));
    }
    reads::open_header(Builder::new(head).bytes()).expect("a good header")
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let header = header(choice & 1 == 1, choice & 2 == 2);
    let store = MemStore::default();
    let decoder = BlockDecoder::new(&header, references::at_hand(), Level::best());
    for mut frame in seal::split(bytes) {
        frame.kind = 3;
        seal::seal_pieces(&mut frame);
        let Some(Ok(parsed)) = frame.alone().map(|frame| decoder.parse(frame)) else { continue };
        let pages: u64 = parsed.runs().iter().map(|run| u64::from(run.pages)).sum();
        assert_eq!(pages, parsed.pages().len());
        let _ = decoder.apply(&parsed, &store);
    }
});
