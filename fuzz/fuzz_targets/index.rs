//! Index files: whatever loads answers every lookup, with blocks below the reference's number of blocks.
//!
//! Bit 0 of the first byte: the checksums of header and table are put right, so that hostile tables are searched.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mig_engine::reference::Index;
use mig_fuzz::file;
use xxhash_rust::xxh3::xxh3_128;

const HEADER: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if choice & 1 == 1 {
        // The reserved part is cut out of inputs, or mutations would mostly fall into it.
        if bytes.len() < 112 {
            return;
        }
        let table = bytes.split_off(112);
        if choice & 2 == 2 {
            let buckets = (table.len() as u64 / 64).saturating_sub(31);
            bytes[88..96].copy_from_slice(&buckets.to_le_bytes());
        }
        // One piece: inputs are shorter than the 4 MiB of a second.
        let checksum = xxh3_128(&xxh3_128(&table).to_le_bytes());
        bytes[96..112].copy_from_slice(&checksum.to_le_bytes());
        bytes.resize(HEADER - 16, 0);
        let checksum = xxh3_128(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&table);
    }
    let held = file::with_bytes(&bytes);
    let Ok(index) = Index::load(&file::path_of(&held)) else { return };
    let mut fingerprints: Vec<u128> = (0..64).map(|i: u128| i << 122 | i << 58 | i << 104).collect();
    // Fingerprints that the table has, as far as an entry tells.
    let entries = bytes.get(HEADER..).unwrap_or_default().as_chunks::<8>().0;
    fingerprints
        .extend(entries.iter().take(64).map(|entry| u128::from(u64::from_le_bytes(*entry) >> 40) << 104));
    let mut answers = vec![0; fingerprints.len()];
    index.lookup_batch(&fingerprints, &mut answers);
    for (&fingerprint, answer) in fingerprints.iter().zip(answers) {
        assert_eq!(index.lookup(fingerprint).unwrap_or(Index::ABSENT), answer);
        assert!(index.candidates(fingerprint).all(|block| block < index.blocks()));
    }
});
