//! The twins against the kernels of `mig-simd` and against plain definitions; the device is held to the twins in the engine.

use std::collections::HashMap;

use mig_shaders::{Access, Dispatch, NO_BLOCK, NO_PAGE, SHADERS, cpu};
use mig_simd::{Level, PAGE_SIZE, PAGE_WORDS, PageRecord, page_scan};
use proptest::prelude::*;

fn records_of(pages: &[u64]) -> Vec<PageRecord> {
    let mut records = vec![PageRecord::default(); pages.len() / PAGE_WORDS];
    page_scan(Level::best(), bytemuck::cast_slice(pages), &mut records);
    records
}

fn scan(pages: &[u64]) -> (Vec<PageRecord>, Vec<u32>) {
    let count = pages.len() / PAGE_WORDS;
    let places: Vec<u32> = (0..count).map(|page| (page * PAGE_WORDS) as u32).collect();
    let (mut records, mut spreads) = (vec![PageRecord::default(); count], vec![0; count]);
    let dispatch = Dispatch { end: count as u32, ..Dispatch::default() };
    cpu::scan(&dispatch, pages, &places, &mut records, &mut spreads);
    (records, spreads)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn scan_is_the_kernels(words in prop::collection::vec(any::<u64>(), 1..20), seed: u64, shift in 0u32..64) {
        let mut state = seed;
        let mut pick = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            words[(state >> 40) as usize % words.len()] >> (shift & (state >> 33) as u32)
        };
        let pages: Vec<u64> = (0..3 * PAGE_WORDS).map(|_| pick()).collect();
        let (records, spreads) = scan(&pages);
        prop_assert_eq!(records, records_of(&pages));
        for (page, spread) in pages.chunks(PAGE_WORDS).zip(spreads) {
            let bytes: &[u8] = bytemuck::cast_slice(page);
            let mut counts = HashMap::new();
            bytes.iter().skip(7).step_by(16).for_each(|byte| *counts.entry(byte).or_insert(0u32) += 1);
            prop_assert_eq!(spread, counts.values().map(|count| count * count).sum::<u32>());
        }
    }

    /// Batches in any order: each page is named the lowest page of its kind that is in the table, if that is earlier.
    #[test]
    fn dedup_names_the_lowest(kinds in prop::collection::vec(0u64..40, 1..300), turn in 0usize..300, cut in 0usize..300) {
        let pages = kinds.len();
        let mut order: Vec<u32> = (0..pages as u32).collect();
        order.rotate_left(turn % pages);
        let mut fingerprints = vec![[0; 2]; pages];
        let mut slots = vec![0; pages.next_power_of_two() * 2];
        let mut lowest: HashMap<u64, u32> = HashMap::new();
        let (first, second) = order.split_at(cut % pages);
        for numbers in [first, second] {
            let record = |number: &u32| {
                let kind = kinds[*number as usize];
                PageRecord { fingerprint: [kind, kind * 7], ..PageRecord::default() }
            };
            let records: Vec<PageRecord> = numbers.iter().map(record).collect();
            let dispatch = Dispatch { end: numbers.len() as u32, ..Dispatch::default() };
            let mut earlier = vec![5; numbers.len()];
            cpu::dedup_note(&dispatch, &records, numbers, &mut fingerprints);
            cpu::dedup_insert(&dispatch, &records, numbers, &fingerprints, &mut slots);
            cpu::dedup_find(&dispatch, &records, numbers, &fingerprints, &slots, &mut earlier);
            for &number in numbers {
                let low = lowest.entry(kinds[number as usize]).or_insert(number);
                *low = number.min(*low);
            }
            for (&number, &earlier) in numbers.iter().zip(&earlier) {
                let low = lowest[&kinds[number as usize]];
                prop_assert_eq!(earlier, if low < number { low } else { NO_PAGE });
            }
        }
    }
}

/// The sibling: one bit of a page shows in what is said of it.
#[test]
fn every_byte_counts() {
    let mut pages: Vec<u64> = (0..PAGE_WORDS as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let before = scan(&pages).0;
    for place in 0..PAGE_SIZE {
        pages[place / 8] ^= 1 << (place % 64);
        assert_ne!(scan(&pages).0, before, "byte {place}");
        pages[place / 8] ^= 1 << (place % 64);
    }
}

#[test]
fn lookup_ends_at_the_tables_end() {
    // All fingerprints here have their home in the last bucket.
    let record = |tag: u64| PageRecord { fingerprint: [u64::MAX, tag << 40], ..PageRecord::default() };
    let entries: Vec<u64> = (0..3 * 8).map(|entry| entry << 40 | (entry + 1)).collect();
    let records: Vec<PageRecord> = (0..30).map(record).collect();
    let dispatch = Dispatch { end: 30, buckets: 2, blocks: 20, ..Dispatch::default() };
    let mut candidates = vec![1; 30];
    cpu::lookup(&dispatch, &records, &entries, &mut candidates);
    // Not the first bucket's entries, nor blocks beyond the reference.
    let expected: Vec<u64> = (0..30).map(|tag| if (8..20).contains(&tag) { tag } else { NO_BLOCK }).collect();
    assert_eq!(candidates, expected);
}

#[test]
fn shaders_are_what_the_crate_says() {
    let names: Vec<&str> = SHADERS.iter().map(|shader| shader.name).collect();
    assert_eq!(names, ["scan", "classify", "dedup_note", "dedup_insert", "dedup_find", "lookup"]);
    for shader in SHADERS {
        assert!(shader.source.contains(&format!("fn {}(", shader.name)));
        assert_eq!(shader.bindings[0].access, Access::Uniform, "{}", shader.name);
        assert!(shader.bindings.iter().any(|binding| binding.access == Access::ReadWrite), "{}", shader.name);
        assert_eq!(shader.workgroup_size, 64);
    }
}
