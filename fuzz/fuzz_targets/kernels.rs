//! The kernels of `mig_simd`: on any pages, every level that this CPU has gives the scalar level's answer, and what a
//! crate by others says of the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mig_simd::{Anchors, Level, MAX_SPARSITY, PAGE_SIZE, PAGE_WORDS, PageRecord};
use mig_simd::{anchors, page_eq, page_scan, self_relative, word_diff, word_patch};
use xxhash_rust::xxh3::xxh3_128;

type Page = mig_simd::Page;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let (one, two) = pages(choice, bytes);
    // At an odd place, as pages of a file may be.
    let offset = usize::from(choice >> 4) * 4 + 1;
    let mut moved = vec![0xa5; offset];
    moved.extend_from_slice(&one);
    moved.extend_from_slice(&two);
    for level in Level::present() {
        scan(level, &moved[offset..], [&one, &two]);
        assert_eq!(page_eq(level, &one, &two), one == two);
        assert!(page_eq(level, moved[offset..].first_chunk().expect("a page"), &one));
        diff(level, &one, &two);
        relative(level, &one, u64::from(choice).wrapping_mul(0x7fff_1234_5000) | 0x2000);
        let sparsity = u32::from(choice) % (MAX_SPARSITY + 1);
        let (mut scalar, mut found) = (Anchors::new(), Anchors::new());
        anchors(Level::Scalar, &one, sparsity, &mut scalar);
        anchors(level, &one, sparsity, &mut found);
        assert_eq!((scalar.positions(), scalar.hashes()), (found.positions(), found.hashes()), "{level}");
    }
});

/// Two pages: the input repeated, and the same again with a part of it changed.
fn pages(choice: u8, bytes: &[u8]) -> (Page, Page) {
    let mut one = [0; PAGE_SIZE];
    if !bytes.is_empty() {
        one.chunks_mut(bytes.len()).for_each(|chunk| chunk.copy_from_slice(&bytes[..chunk.len()]));
    }
    let mut two = one;
    for (place, byte) in
        bytes.chunks_exact(3).take(usize::from(choice & 15)).map(|c| (u16::from_le_bytes([c[0], c[1]]), c[2]))
    {
        two[usize::from(place) % PAGE_SIZE] ^= byte;
    }
    (one, two)
}

fn scan(level: Level, bytes: &[u8], pages: [&Page; 2]) {
    let mut records = [PageRecord::default(); 2];
    page_scan(level, bytes, &mut records);
    let mut truth = [PageRecord::default(); 2];
    page_scan(Level::Scalar, bytes, &mut truth);
    assert_eq!(records, truth, "{level}");
    for (record, page) in records.iter().zip(pages) {
        assert_eq!(record.fingerprint128(), xxh3_128(page), "{level}");
        let first = u64::from_le_bytes(*page.first_chunk().expect("a word"));
        let uniform = page.as_chunks::<8>().0.iter().all(|word| u64::from_le_bytes(*word) == first);
        assert_eq!(record.uniform(), uniform.then_some(first), "{level}");
    }
}

fn diff(level: Level, one: &Page, two: &Page) {
    let (mut mask, mut words) = ([0; 8], [0; PAGE_WORDS]);
    let count = word_diff(level, one, two, &mut mask, &mut words);
    let pairs = one.as_chunks::<8>().0.iter().zip(two.as_chunks::<8>().0);
    for (at, (a, b)) in pairs.enumerate() {
        assert_eq!(mask[at / 64] >> (at % 64) & 1 == 1, a != b, "{level}: word {at}");
    }
    let mut back = [0x5a; PAGE_SIZE];
    let words: Vec<u8> = words[..count].iter().flat_map(|word| word.to_le_bytes()).collect();
    word_patch(level, two, &mask, &words, &mut back).expect("as many words as bits");
    assert!(back == *one, "{level}");
    assert!(
        word_patch(level, two, &mask, &words[..words.len().saturating_sub(1)], &mut back).is_err()
            || count == 0
    );
}

/// `address` is a multiple of 4096, and canonical.
fn relative(level: Level, page: &Page, address: u64) {
    let address = ((address << 7) as i64 >> 7) as u64 & !0xfff;
    let (mut once, mut scalar, mut back) = ([0; PAGE_SIZE], [0; PAGE_SIZE], [0; PAGE_SIZE]);
    self_relative(level, page, address, &mut once);
    self_relative(Level::Scalar, page, address, &mut scalar);
    self_relative(level, &once, address, &mut back);
    assert!(once == scalar && back == *page, "{level}: at {address:#x}");
}
