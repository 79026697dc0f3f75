//! Random access to a stream that an attacker made: no panic, and every page that is delivered is the page that
//! unpacking gives, and the page that the slow decoder gives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mig_engine::map::FileMap;
use mig_engine::{PAGE_SIZE, Reader};
use mig_fuzz::store::MemStore;
use mig_fuzz::{file, reads, references, seal};

/// Pages that are read, from the first on and from the last back.
const READ: u64 = 300;
/// Pages that the slow decoder reads, too.
const READ_SLOWLY: u64 = 20;

fuzz_target!(|bytes: &[u8]| {
    let stream = seal::seal(bytes);
    let map = FileMap::from_file(file::with_bytes(&stream)).expect("a mapping");
    let Ok(reader) = Reader::new(map) else { return };
    let store = MemStore::default();
    let unpacked = reads::unpack(&stream, &store).is_some_and(|result| result.is_ok());
    let clear = reads::zstd_is_clear(&stream);
    let pages = reader.page_count();
    let mut page = [0; PAGE_SIZE];
    assert!(reader.page(pages, references::at_hand(), &mut page).is_err());
    for number in (0..pages.min(READ)).chain(pages.saturating_sub(READ)..pages) {
        let read = reader.page(number, references::at_hand(), &mut page);
        if unpacked {
            // A duplicate of a page that is not residual is one that only reading in order can follow.
            assert!(read.is_err() || page == store.page(number), "page {number}");
        }
        if number < READ_SLOWLY && clear {
            let slow = mig_tests::reference::page(&stream, references::at_hand_bytes(), number);
            // Of a block that is wrong elsewhere, the engine gives nothing; the slow decoder does not look elsewhere.
            let both = read.is_ok() == slow.is_ok() || slow.is_ok() && !unpacked;
            assert!(both, "page {number}: {read:?}, slow decoder: {:?}", slow.err());
            assert!(read.is_err() || slow == Ok(page), "page {number}");
        }
    }
});
