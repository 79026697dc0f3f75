//! Each stage on the device against its twin in plain Rust, on the same buffers.

use std::collections::HashMap;

use mig_shaders::{
    CLASSIFY, DEDUP_FIND, DEDUP_INSERT, DEDUP_NOTE, Dispatch, LOOKUP, NO_BLOCK, NO_PAGE, SCAN, Shader, cpu,
};
use mig_simd::{Level, PageRecord, page_scan};

use super::{Random, gpu, sample, sample_disk, strange_pages};
use crate::gpu::Gpu;
use crate::gpu::stages::run_once;
use crate::page::{PAGE_SIZE, PAGE_WORDS};
use crate::reference::{Identity, IndexBuilder, SourceTie};
use crate::refs::fingerprints;

fn bytes_of<T: bytemuck::NoUninit>(items: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(items).to_vec()
}

fn items_of<T: bytemuck::Pod>(bytes: &[u8]) -> Vec<T> {
    bytemuck::pod_collect_to_vec(bytes)
}

fn run(gpu: &Gpu, shader: &'static Shader, dispatch: Dispatch, buffers: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut buffers = buffers.to_vec();
    run_once(&gpu.inner, shader, dispatch, &mut buffers).expect("the device works");
    buffers
}

fn records_of(pages: &[u8]) -> Vec<PageRecord> {
    let mut records = vec![PageRecord::default(); pages.len() / PAGE_SIZE];
    page_scan(Level::Scalar, pages, &mut records);
    records
}

fn all(pages: usize) -> Dispatch {
    Dispatch { end: pages as u32, ..Dispatch::default() }
}

/// Pages in an order of their own, and not from the first one on.
fn scan_both(gpu: &Gpu, pages: &[u8]) -> [Vec<Vec<u8>>; 2] {
    let count = pages.len() / PAGE_SIZE;
    let memory: Vec<u64> = items_of(pages);
    let places: Vec<u32> = (0..count).map(|page| ((count - 1 - page) * PAGE_WORDS) as u32).collect();
    let dispatch = Dispatch { first: 1, end: count as u32, ..Dispatch::default() };
    let (mut records, mut spreads) = (vec![PageRecord::default(); count], vec![0u32; count]);
    let before = [pages.to_vec(), bytes_of(&places), bytes_of(&records), bytes_of(&spreads)];
    let device = run(gpu, &SCAN, dispatch, &before);
    cpu::scan(&dispatch, &memory, &places, &mut records, &mut spreads);
    [device, vec![pages.to_vec(), bytes_of(&places), bytes_of(&records), bytes_of(&spreads)]]
}

#[test]
fn scan() {
    let Some(gpu) = gpu() else { return };
    for pages in [strange_pages(), sample()[..512 * PAGE_SIZE].to_vec()] {
        let [device, twin] = scan_both(&gpu, &pages);
        assert!(device == twin);
        let records: Vec<PageRecord> = items_of(&device[2]);
        let expected: Vec<PageRecord> = records_of(&pages).into_iter().rev().collect();
        assert_eq!(records[1..], expected[1..], "as the CPU's kernels say");
        assert_eq!(records[0], PageRecord::default(), "not asked for");
    }
}

/// The sibling: a flipped byte shows, wherever it is.
#[test]
fn scan_sees_every_byte() {
    let Some(gpu) = gpu() else { return };
    let page = &sample()[900 * PAGE_SIZE..901 * PAGE_SIZE];
    // The first page is not scanned.
    let mut pages = page.repeat(2);
    let [before, _] = scan_both(&gpu, &pages);
    for place in (0..PAGE_SIZE).step_by(61) {
        pages[place] ^= 1 << (place % 8);
        let [device, twin] = scan_both(&gpu, &pages);
        assert!(device == twin, "byte {place}");
        assert!(device[2] != before[2], "byte {place} shows");
        pages[place] ^= 1 << (place % 8);
    }
}

#[test]
fn classify() {
    let Some(gpu) = gpu() else { return };
    // Every border of the table, from below, at it and above, in all combinations that it can tell apart.
    let near = |value: u16| [value.saturating_sub(1), value, value + 1];
    let mut records = Vec::new();
    let mut spreads = Vec::new();
    for zero_words in near(256).into_iter().chain(near(8)) {
        for small_words in near(8) {
            for user_pointers in near(64) {
                for kernel_pointers in near(64) {
                    for text_words in near(256) {
                        for spread in [511, 599, 600, 601, 65536] {
                            records.push(PageRecord {
                                zero_words,
                                small_words,
                                user_pointers,
                                kernel_pointers,
                                text_words,
                                ..PageRecord::default()
                            });
                            spreads.push(spread);
                        }
                    }
                }
            }
        }
    }
    let dispatch = all(records.len());
    let mut classes = vec![u32::MAX; records.len()];
    let device =
        run(&gpu, &CLASSIFY, dispatch, &[bytes_of(&records), bytes_of(&spreads), bytes_of(&classes)]);
    cpu::classify(&dispatch, &records, &spreads, &mut classes);
    assert_eq!(items_of::<u32>(&device[2]), classes);
    let all_classes: std::collections::BTreeSet<u32> = classes.iter().copied().collect();
    assert_eq!(all_classes.len(), 6, "every class is among them");
}

/// What the three stages of the table leave, on the device and on the CPU.
struct Dedup {
    device: Vec<u32>,
    twin: Vec<u32>,
}

/// Several batches into one table of so many slots.
fn dedup(gpu: &Gpu, batches: &[(Vec<PageRecord>, Vec<u32>)], pages: usize, slots: usize) -> Vec<Dedup> {
    let mut fingerprints = vec![[0u64; 2]; pages];
    let mut table = vec![0u32; slots];
    let (mut device_fingerprints, mut device_table) = (bytes_of(&fingerprints), bytes_of(&table));
    let mut found = Vec::new();
    for (records, numbers) in batches {
        let dispatch = all(records.len());
        let (on_device, numbers_bytes) = (bytes_of(records), bytes_of(numbers));
        let mut earlier = vec![7; records.len()];
        cpu::dedup_note(&dispatch, records, numbers, &mut fingerprints);
        cpu::dedup_insert(&dispatch, records, numbers, &fingerprints, &mut table);
        cpu::dedup_find(&dispatch, records, numbers, &fingerprints, &table, &mut earlier);

        let buffers = [on_device.clone(), numbers_bytes.clone(), device_fingerprints];
        device_fingerprints = run(gpu, &DEDUP_NOTE, dispatch, &buffers).remove(2);
        assert!(device_fingerprints == bytes_of(&fingerprints));
        let buffers = [on_device.clone(), numbers_bytes.clone(), device_fingerprints.clone(), device_table];
        device_table = run(gpu, &DEDUP_INSERT, dispatch, &buffers).remove(3);
        let buffers = [
            on_device,
            numbers_bytes,
            device_fingerprints.clone(),
            device_table.clone(),
            vec![0; 4 * records.len()],
        ];
        let device = items_of(&run(gpu, &DEDUP_FIND, dispatch, &buffers)[4]);
        found.push(Dedup { device, twin: earlier });
    }
    found
}

fn record(fingerprint: [u64; 2]) -> PageRecord {
    PageRecord { fingerprint, ..PageRecord::default() }
}

#[test]
fn dedup_names_the_first_page_of_each_kind() {
    let Some(gpu) = gpu() else { return };
    // 3,000 pages of 700 kinds, in three batches of which the middle one comes last.
    let mut random = Random(3);
    let kinds: Vec<[u64; 2]> = (0..700).map(|_| [random.word(), random.word()]).collect();
    let guest: Vec<PageRecord> = (0..3000).map(|_| record(kinds[random.word() as usize % 700])).collect();
    let batch = |range: std::ops::Range<usize>| {
        (guest[range.clone()].to_vec(), range.map(|page| page as u32).collect::<Vec<u32>>())
    };
    let batches = [batch(0..1000), batch(2000..3000), batch(1000..2000)];
    let found = dedup(&gpu, &batches, 3000, 4096);
    let mut first: HashMap<[u64; 2], u32> = HashMap::new();
    for ((records, numbers), found) in batches.iter().zip(&found) {
        assert_eq!(found.device, found.twin);
        // The first page of each kind in the batches so far.
        for (record, &number) in records.iter().zip(numbers) {
            let first = first.entry(record.fingerprint).or_insert(number);
            *first = number.min(*first);
        }
        for ((record, &number), &earlier) in records.iter().zip(numbers).zip(&found.device) {
            let first = first[&record.fingerprint];
            assert_eq!(earlier, if first < number { first } else { NO_PAGE }, "page {number}");
        }
    }
}

#[test]
fn dedup_of_one_kind_alone() {
    let Some(gpu) = gpu() else { return };
    let numbers: Vec<u32> = (0..5000).rev().collect();
    let found = dedup(&gpu, &[(vec![record([1, 2]); 5000], numbers.clone())], 5000, 8192);
    let expected: Vec<u32> = numbers.iter().map(|&number| if number == 0 { NO_PAGE } else { 0 }).collect();
    assert_eq!(found[0].device, expected);
    assert_eq!(found[0].twin, expected);
}

/// A table that is too small, where searches go around its end, and one in which all begin at the last slot.
#[test]
fn dedup_in_a_full_table() {
    let Some(gpu) = gpu() else { return };
    let numbers: Vec<u32> = (0..200).collect();
    let kinds: Vec<PageRecord> = (0..100).map(|kind| record([kind, u64::MAX])).collect();
    let twice = [kinds.clone(), kinds].concat();
    // 32 of them find a place: which ones depends on who was first. The others are named by nobody.
    let found = dedup(&gpu, &[(twice, numbers.clone())], 200, 64);
    let named = |earlier: &[u32]| earlier.iter().filter(|&&page| page != NO_PAGE).count();
    assert_eq!(named(&found[0].twin), 32);
    assert_eq!(named(&found[0].device), 32);
    for (number, &earlier) in found[0].device.iter().enumerate() {
        assert!(earlier == NO_PAGE || earlier as usize + 100 == number, "page {number}: {earlier}");
    }
    // As many kinds as slots, all over the table.
    let mut random = Random(5);
    let kinds: Vec<PageRecord> = (0..128).map(|_| record([random.word(), random.word()])).collect();
    let (records, numbers) = ([kinds.clone(), kinds].concat(), (0..256).collect::<Vec<u32>>());
    let found = dedup(&gpu, &[(records, numbers)], 256, 128);
    for (number, &earlier) in found[0].device.iter().enumerate() {
        assert!(earlier == NO_PAGE || earlier as usize + 128 == number, "page {number}: {earlier}");
    }
    assert!(named(&found[0].device) > 100);
}

#[test]
fn dedup_leaves_uniform_pages_out() {
    let Some(gpu) = gpu() else { return };
    let uniform = PageRecord { flags: PageRecord::UNIFORM, ..record([9, 9]) };
    let found = dedup(&gpu, &[(vec![uniform; 10], (0..10).collect())], 10, 32);
    assert_eq!(found[0].device, [NO_PAGE; 10]);
    assert_eq!(found[0].twin, [NO_PAGE; 10]);
}

#[test]
fn lookup() {
    let Some(gpu) = gpu() else { return };
    let disk = sample_disk();
    let blocks = (disk.len() / PAGE_SIZE) as u64;
    let tie = SourceTie::new(Identity(1), blocks, &[]);
    let index = IndexBuilder::new().build(&disk[..], tie, &fingerprints(Level::Scalar)).unwrap();
    let mut records = records_of(&disk);
    records.extend(records_of(&sample()[..256 * PAGE_SIZE]));
    // All fingerprints that would be looked for behind the last bucket, and right at the first.
    records.extend([record([u64::MAX, 0]), record([0, 0]), record([u64::MAX, u64::MAX])]);
    let entries: Vec<u64> = items_of(index.table_bytes());
    let dispatch = Dispatch { buckets: index.buckets() as u32, blocks, ..all(records.len()) };
    let mut candidates = vec![1; records.len()];
    let device =
        run(&gpu, &LOOKUP, dispatch, &[bytes_of(&records), bytes_of(&entries), bytes_of(&candidates)]);
    cpu::lookup(&dispatch, &records, &entries, &mut candidates);
    assert_eq!(items_of::<u64>(&device[2]), candidates);
    for (record, &candidate) in records.iter().zip(&candidates) {
        let expected = if record.uniform().is_some() { None } else { index.lookup(record.fingerprint128()) };
        assert_eq!(candidate, expected.unwrap_or(NO_BLOCK), "as `Index::lookup` says");
    }
    assert!(candidates.iter().filter(|&&block| block != NO_BLOCK).count() > 500);
    // The sibling: another table, another answer.
    let mut other = entries.clone();
    let used = other.iter().position(|&entry| entry != 0).unwrap();
    other[used] ^= 1 << 40;
    let changed =
        run(&gpu, &LOOKUP, dispatch, &[bytes_of(&records), bytes_of(&other), bytes_of(&candidates)]);
    assert_ne!(changed[2], device[2]);
}

/// Full buckets one after the other: a search ends after 32 of them, and at a table's end.
#[test]
fn lookup_in_crowded_tables() {
    let Some(gpu) = gpu() else { return };
    let mut random = Random(11);
    for (buckets, stored) in [(1usize, 32usize), (40, 71), (3, 2)] {
        // Every entry has another tag, but two.
        let mut entries: Vec<u64> =
            (0..stored * 8).map(|entry| (entry as u64 + 1) << 40 | (entry as u64 + 1)).collect();
        if stored > 34 {
            entries[7] = 0;
        }
        let records: Vec<PageRecord> = (0..600)
            .map(|_| record([random.word(), (random.word() % (stored as u64 * 8 + 9)) << 40]))
            .collect();
        let dispatch = Dispatch { buckets: buckets as u32, blocks: stored as u64 * 8 - 3, ..all(600) };
        let mut candidates = vec![1; 600];
        let device =
            run(&gpu, &LOOKUP, dispatch, &[bytes_of(&records), bytes_of(&entries), bytes_of(&candidates)]);
        cpu::lookup(&dispatch, &records, &entries, &mut candidates);
        assert_eq!(items_of::<u64>(&device[2]), candidates, "{buckets} buckets, {stored} stored");
        assert!(candidates.iter().any(|&block| block != NO_BLOCK));
    }
}
