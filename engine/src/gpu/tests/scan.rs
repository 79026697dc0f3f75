//! Whole batches: what a device hands in, against the CPU's kernels, in every way that it gets at the pages.

use std::sync::Arc;

use memmap2::MmapMut;
use mig_simd::{Level, PageRecord, page_scan};
use proptest::prelude::*;

use super::{Memory, Random, gpu, sample, sample_disk, strange_pages};
use crate::ahead::ChunkScan;
use crate::class::Class;
use crate::gpu::{Fault, Gpu};
use crate::hold::Hold;
use crate::image::{MemoryImage, Run};
use crate::page::{PAGE_SIZE, PageSet};
use crate::progress::Cancel;
use crate::reference::DiskImage;
use crate::refs::Reference;
use crate::source::PageSource;

/// A reference with its index, from bytes of a disk.
fn disk_reference(bytes: &[u8]) -> Reference {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let image = DiskImage::open(file.path()).unwrap();
    let mut reference = Reference::disk(image, "disk".into()).unwrap();
    reference.build_index(Level::best(), &Cancel::new()).unwrap();
    reference
}

/// Compares what the device found with what the CPU finds, page by page; says what differs first.
fn compare<S: PageSource + ?Sized>(
    source: &S,
    set: &PageSet,
    references: &[Reference],
    scans: &[ChunkScan],
) -> Result<(), String> {
    let pages: Vec<u64> = set.ranges().flatten().collect();
    let chunks = pages.chunks(1024);
    assert_eq!(scans.len(), chunks.len(), "chunks");
    let mut seen = std::collections::HashMap::new();
    for (scan, pages) in scans.iter().zip(chunks) {
        assert_eq!(scan.records.len(), pages.len());
        for (place, &number) in pages.iter().enumerate() {
            let Some(page) = source.page(number) else { continue };
            let mut record = [PageRecord::default()];
            page_scan(Level::Scalar, page, &mut record);
            let fail = |what: &str| Err(format!("page {number}: {what}"));
            if scan.records[place] != record[0] {
                return fail("record");
            }
            if scan.classes[place] != Class::of(&record[0], page) as u8 {
                return fail("class");
            }
            if record[0].uniform().is_some() {
                continue;
            }
            let first = *seen.entry(record[0].fingerprint128()).or_insert(number);
            let earlier = if first < number { first as u32 } else { ChunkScan::NO_PAGE };
            if scan.earlier[place] != earlier {
                return fail("earlier page");
            }
            for (reference, candidates) in references.iter().zip(&scan.candidates) {
                let mut expected = [0];
                reference.look_up(&[record[0].fingerprint128()], &mut expected);
                if candidates.as_ref().expect("the index fits")[place] != expected[0] {
                    return fail("block");
                }
            }
        }
    }
    Ok(())
}

fn check<S: PageSource + ?Sized>(gpu: &Gpu, source: &S, set: &PageSet, references: &[Reference]) {
    let scans = gpu.scan(source, set, references).expect("the device works");
    compare(source, set, references, &scans).unwrap();
}

fn whole<S: PageSource + ?Sized>(source: &S) -> PageSet {
    PageSet::from_range(0..source.page_count())
}

#[test]
fn real_pages_imported_and_staged() {
    let Some(gpu) = gpu() else { return };
    let references = [disk_reference(&sample_disk())];
    for held in [true, false] {
        let source = Memory::new(&sample(), held);
        let before = gpu.stats();
        check(&gpu, &source, &whole(&source), &references);
        let (imported, staged) = (
            gpu.stats().imported_batches - before.imported_batches,
            gpu.stats().staged_batches - before.staged_batches,
        );
        let can = gpu.adapter().import.is_ok();
        assert_eq!((imported > 0, staged > 0), (held && can, !(held && can)));
        assert_eq!(gpu.stats().pages - before.pages, source.page_count());
    }
}

/// Memory that was imported before is not imported again, and let go of when nobody wants it any more.
#[test]
fn memory_stays_imported_for_as_long_as_it_is_wanted() {
    let Some(gpu) = gpu() else { return };
    let source = Memory::new(&sample(), true);
    let copied = Memory::new(&sample(), false);
    assert!(matches!(gpu.import(&copied, u64::MAX), Err(Fault::NoImport(_))));
    if gpu.adapter().import.is_err() {
        assert!(matches!(gpu.import(&source, u64::MAX), Err(Fault::NoImport(_))));
        return;
    }
    let gpu = gpu.resized(|sizes| sizes.piece = 1 << 20);
    let weak = Arc::downgrade(&source.bytes);
    let some = gpu.import(&source, 3 << 20).unwrap();
    let all = gpu.import(&source, u64::MAX).unwrap();
    assert_eq!(some.bytes(), 3 << 20);
    assert_eq!(all.bytes(), page_range(&source).len() as u64);
    drop(some);
    let before = gpu.imports();
    check(&gpu, &source, &whole(&source), &[]);
    assert_eq!(gpu.imports(), before, "nothing was imported again");
    drop((all, source));
    // What is left of it is let go of by a thread.
    let begun = std::time::Instant::now();
    while weak.strong_count() > 0 {
        assert!(begun.elapsed().as_secs() < 60, "the memory is still there");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let source = Memory::new(&sample(), true);
    check(&gpu, &source, &whole(&source), &[]);
    assert!(gpu.imports() > before, "other memory is");
}

/// The addresses that hold a source's bytes, in whole pages of the system.
fn page_range(source: &Memory) -> std::ops::Range<usize> {
    let addresses = source.bytes.as_ptr().addr();
    addresses / 4096 * 4096..(addresses + source.bytes.len()).next_multiple_of(4096)
}

#[test]
fn strange_pages_in_every_order() {
    let Some(gpu) = gpu() else { return };
    let pages = strange_pages();
    for held in [true, false] {
        let source = Memory::new(&pages, held);
        check(&gpu, &source, &whole(&source), &[]);
        // One page; pages here and there.
        let count = source.page_count();
        check(&gpu, &source, &PageSet::from_range(count - 1..count), &[]);
        let set = PageSet::from_ranges((0..count / 3).map(|page| 3 * page..3 * page + 1 + page % 2)).unwrap();
        check(&gpu, &source, &set, &[]);
        // Holes between them.
        let source = Memory { holes: Some(3), ..Memory::new(&pages, held) };
        check(&gpu, &source, &whole(&source), &[]);
    }
}

/// The sibling: the comparison fails where a byte of the source differs from what was scanned.
#[test]
fn a_flipped_byte_is_noticed() {
    let Some(gpu) = gpu() else { return };
    let pages = sample()[..300 * PAGE_SIZE].to_vec();
    let source = Memory::new(&pages, true);
    let scans = gpu.scan(&source, &whole(&source), &[]).unwrap();
    let mut flipped = pages;
    flipped[123 * PAGE_SIZE + 45] ^= 4;
    let other = Memory::new(&flipped, true);
    let error = compare(&other, &whole(&other), &[], &scans).unwrap_err();
    assert!(error.starts_with("page 123: "), "{error}");
}

/// Pages at odd places of their memory: some alignments can be imported, others are copied.
#[test]
fn pages_at_any_alignment() {
    let Some(gpu) = gpu() else { return };
    for offset in [8, 64, 4088, 1, 4, 4095] {
        let pages = [vec![0xee; offset], strange_pages()].concat();
        let source = Memory { offset, ..Memory::new(&pages, true) };
        check(&gpu, &source, &whole(&source), &[]);
    }
}

/// Files and anonymous memory, as a VMM has it.
#[test]
fn mapped_files_and_anonymous_memory() {
    let Some(gpu) = gpu() else { return };
    let pages = sample();
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &pages).unwrap();
    let image = MemoryImage::from_file(file, None).unwrap();
    check(&gpu, &image, &whole(&image), &[]);

    struct Anonymous(Arc<MmapMut>);
    impl PageSource for Anonymous {
        fn page_count(&self) -> u64 {
            PageSource::page_count(&self.0[..])
        }
        fn run(&self, page: u64, max: u64) -> Run<'_> {
            PageSource::run(&self.0[..], page, max)
        }
        fn holds(&self) -> Vec<Hold> {
            vec![Hold::of_map_mut(self.0.clone())]
        }
    }
    let mut map = MmapMut::map_anon(pages.len()).unwrap();
    map.copy_from_slice(&pages);
    let source = Anonymous(Arc::new(map));
    let before = gpu.stats();
    check(&gpu, &source, &whole(&source), &[]);
    assert_eq!(gpu.stats().imported_batches > before.imported_batches, gpu.adapter().import.is_ok());
}

/// Batches of a chunk each, pieces of a megabyte: many of both, and pages in two pieces.
#[test]
fn small_batches_and_pieces() {
    let Some(gpu) = gpu() else { return };
    let gpu = gpu.resized(|sizes| {
        sizes.batch_pages = 1024;
        sizes.piece = 1 << 20;
    });
    let references = [disk_reference(&sample_disk())];
    let pages = [vec![0; 4088], sample(), strange_pages()].concat();
    for held in [true, false] {
        let source = Memory { offset: 4088, ..Memory::new(&pages, held) };
        check(&gpu, &source, &whole(&source), &references);
    }
}

/// Pages so far apart that a batch of them lies in more pieces than it may: they are copied.
#[test]
fn pages_far_apart_are_copied() {
    let Some(gpu) = gpu() else { return };
    let gpu = gpu.resized(|sizes| sizes.piece = 64 << 10);
    let source = Memory::new(&sample(), true);
    let set = PageSet::from_ranges((0..60).map(|page| 32 * page..32 * page + 1)).unwrap();
    let before = gpu.stats();
    check(&gpu, &source, &set, &[]);
    assert_eq!(gpu.stats().staged_batches, before.staged_batches + 1);
    check(&gpu, &source, &PageSet::from_range(0..500), &[]);
}

/// Tables that don't fit are left out, and all else works.
#[test]
fn tables_that_do_not_fit() {
    let Some(gpu) = gpu() else { return };
    let references = [disk_reference(&sample_disk())];
    let source = Memory::new(&sample(), true);
    // Four megabytes are a batch of pages, but less than an index needs after the change below.
    let gpu = gpu.resized(|sizes| sizes.binding = 8 << 10);
    let scans = gpu.scan(&source, &whole(&source), &references).unwrap();
    for scan in &scans {
        assert!(scan.earlier.is_empty());
        assert_eq!(scan.candidates, [None]);
    }
    let mut records = vec![PageRecord::default(); 1024];
    page_scan(Level::best(), &sample()[..1024 * PAGE_SIZE], &mut records);
    assert_eq!(scans[0].records, records);
}

/// A device that imports nothing copies, or, if it may not, does nothing.
#[test]
fn without_import() {
    let Some(gpu) = gpu() else { return };
    let gpu = gpu.without_import();
    let source = Memory::new(&strange_pages(), true);
    check(&gpu, &source, &whole(&source), &[]);
    assert_eq!(gpu.stats().imported_batches, 0);
    let gpu = gpu.without_staging();
    let fault = gpu.scan(&source, &whole(&source), &[]).unwrap_err();
    assert!(fault.to_string().contains("as much as scanning"), "{fault}");
    assert_eq!(gpu.stats().faults, 0, "not a fault of the device's");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any words in any mixture, any pages of them.
    #[test]
    fn any_pages(words in prop::collection::vec(any::<u64>(), 1..12), seed: u64, step in 1u64..5, held: bool) {
        let Some(gpu) = shared() else { return Ok(()) };
        let mut random = Random(seed);
        let pages: Vec<u8> = (0..200)
            .flat_map(|_| {
                let (one, mixed) = (words[random.word() as usize % words.len()], random.word() % 4);
                (0..PAGE_SIZE / 8).flat_map(|_| {
                    let other = words[random.word() as usize % words.len()] >> (8 * (random.word() % 8));
                    if random.word() % 4 < mixed { other } else { one }.to_le_bytes()
                }).collect::<Vec<u8>>()
            })
            .collect();
        let source = Memory::new(&pages, held);
        let set = PageSet::from_ranges((0..200 / step).map(|page| page * step..page * step + 1)).unwrap();
        let scans = gpu.scan(&source, &set, &[]).unwrap();
        prop_assert_eq!(compare(&source, &set, &[], &scans), Ok(()));
    }
}

/// One device for all cases.
fn shared() -> Option<&'static Gpu> {
    static GPU: std::sync::OnceLock<Option<Gpu>> = std::sync::OnceLock::new();
    GPU.get_or_init(gpu).as_ref()
}
