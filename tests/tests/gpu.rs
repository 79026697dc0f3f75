//! Whoever scans, a device or the CPU, a chunk at a time and at any mix: the stream is the same.
//!
//! First with devices that are threads of the test, which take and leave chunks as they like, so that any mix is tried on any
//! machine; then with the best adapter there is.

use std::sync::atomic::{AtomicU64, Ordering};

use mig_engine::gpu::{Beside, GpuStats};
use mig_engine::live::{Choice, Encoder, InMemory, Introspection, OutFrame, Setup};
use mig_engine::{
    BlockEncoder, Cancel, ChunkScan, Claim, Class, CpuWorker, Effort, Gpu, GpuChoice, GpuMode, Header,
    History, How, Level, MemoryImage, PageSet, PageSource, Reach, Reference, ScanAhead, ScanWorker, Share,
    Techniques,
};
use mig_simd::{PAGE_SIZE, PageRecord};
use mig_tests::engine::{self, References, open_image, pack_image, packer};
use mig_tests::requires;
use mig_tests::{guests, sample};

const WAYS: [(Effort, bool); 4] =
    [(Effort::Store, false), (Effort::Fast, false), (Effort::Balanced, false), (Effort::Balanced, true)];

/// More than one block, and something of everything.
fn image() -> MemoryImage {
    open_image(&guests::of_many_blocks()[..9000 * PAGE_SIZE])
}

fn references() -> References {
    References::of(Some(sample::disk()), Some(sample::older()))
}

/// The best adapter, software if there is no other; `None` if there is none at all, which `MIG_REQUIRE=gpu` forbids.
fn gpu() -> Option<Gpu> {
    let name = Gpu::adapters().first().map(|adapter| adapter.name.clone());
    let opened = name.map(|name| Gpu::open(&GpuChoice::named(GpuMode::Require, name)));
    if let Some(Ok(gpu)) = opened {
        return gpu;
    }
    assert!(!requires("gpu"), "MIG_REQUIRE asks for a GPU: {opened:?}");
    eprintln!("SKIPPED: there is no GPU adapter");
    None
}

fn set_of(range: std::ops::Range<u64>) -> PageSet {
    PageSet::from_ranges(std::iter::once(range)).unwrap()
}

fn random(state: &AtomicU64) -> u64 {
    let mut z = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// What a device may say of pages: their records and classes, and of the rest something true, something wrong, or nothing.
fn scan<S: PageSource + ?Sized>(
    source: &S,
    task: &mig_engine::Task,
    references: usize,
    state: &AtomicU64,
) -> ChunkScan {
    let pages: Vec<u64> = task.pages().flatten().collect();
    let mut scan = ChunkScan::default();
    for &number in &pages {
        let page = source.page(number).copied().unwrap_or([0; PAGE_SIZE]);
        let mut record = [PageRecord::default()];
        CpuWorker { level: engine::level() }.scan(&page, &mut record);
        scan.classes.push(Class::of(&record[0], &page) as u8);
        scan.records.push(record[0]);
    }
    if !random(state).is_multiple_of(4) {
        // Earlier pages with the same bytes, any page at all, pages that are not there.
        scan.earlier = pages
            .iter()
            .map(|&number| match random(state) % 3 {
                0 => (0..number).rev().take(600).find(|&other| source.page(other) == source.page(number)),
                1 => Some(random(state) % 20_000),
                _ => None,
            })
            .map(|earlier| earlier.map_or(ChunkScan::NO_PAGE, |page| page as u32))
            .collect();
    }
    // Candidates decide what a page becomes, so what a device says there has to be what the index says, or nothing.
    scan.candidates = vec![None; references];
    scan
}

/// Devices of the test at work while blocks are encoded one after the other.
fn encode(
    image: &MemoryImage,
    references: &References,
    effort: Effort,
    share: Share,
    seed: u64,
) -> (Vec<u8>, [u64; 2]) {
    let state = AtomicU64::new(seed);
    let opened = references.open(true);
    let worker = CpuWorker { level: Level::best() };
    let ahead = ScanAhead::new(share);
    let encoder = BlockEncoder::new(image, &opened, &worker, Level::best(), effort, false).unwrap();
    let mut history = History::new(image.page_count(), effort, false);
    let sets: Vec<PageSet> = (0..image.page_count().div_ceil(3000))
        .map(|set| set_of(set * 3000..image.page_count().min((set + 1) * 3000)))
        .collect();
    let mut bytes = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Claim::Tasks(tasks) = ahead.claim(1 + random(&state) as usize % 3, true) {
                    for task in tasks {
                        // The lower the seed, the more is left to the CPU.
                        if random(&state) % 10 < seed % 10 {
                            ahead.finish(&task, scan(image, &task, opened.len(), &state));
                        } else {
                            ahead.give_back(&task);
                        }
                    }
                }
            });
        }
        sets.iter().for_each(|set| ahead.announce(set));
        for set in sets {
            let settled = history.settle(&encoder, encoder.scan_ahead(set, Some(&ahead)).unwrap()).unwrap();
            let block = encoder.code(&settled).unwrap();
            bytes.extend(block.head(7));
            block.data().for_each(|part| bytes.extend_from_slice(part));
        }
        ahead.close();
    });
    let stats = ahead.stats();
    (bytes, [stats.device, stats.cpu])
}

#[test]
fn any_mix_of_device_and_cpu_gives_the_same_blocks() {
    let (image, references) = (image(), references());
    for effort in [Effort::Store, Effort::Fast] {
        let (truth, [device, _]) = encode(&image, &references, effort, Share::Device, 0);
        assert_eq!(device, 0, "seed 0 leaves everything to the CPU");
        for seed in [1, 3, 5, 7, 9] {
            let (blocks, [device, cpu]) = encode(&image, &references, effort, Share::Device, seed);
            assert!(blocks == truth, "{effort}, seed {seed}");
            assert!(device > 0 && (cpu > 0 || seed == 9), "{effort}, seed {seed}: {device} and {cpu} chunks");
            // Whoever comes first.
            assert!(
                encode(&image, &references, effort, Share::Both, seed).0 == truth,
                "{effort}, seed {seed}"
            );
        }
    }
}

/// The sibling: a device's word counts, so a wrong one shows.
#[test]
fn a_device_that_is_wrong_shows() {
    let image = image();
    let worker = CpuWorker { level: Level::best() };
    let encode = |wrong: bool| {
        let ahead = ScanAhead::new(Share::Device);
        let encoder = BlockEncoder::new(&image, &[], &worker, Level::best(), Effort::Store, false).unwrap();
        let set = set_of(0..image.page_count());
        ahead.announce(&set);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while let Claim::Tasks(tasks) = ahead.claim(1, true) {
                    for task in tasks {
                        let mut scan = scan(&image, &task, 0, &AtomicU64::new(1));
                        if wrong {
                            scan.records[5].fingerprint[1] ^= 1 << 17;
                        }
                        ahead.finish(&task, scan);
                    }
                }
            });
            let mut history = History::new(image.page_count(), Effort::Store, false);
            let block = history.settle(&encoder, encoder.scan_ahead(set, Some(&ahead)).unwrap()).unwrap();
            ahead.close();
            encoder.code(&block).unwrap().digest()
        })
    };
    assert_ne!(encode(true), encode(false));
}

#[test]
fn an_adapter_gives_the_same_stream() {
    let Some(gpu) = gpu() else { return };
    let (image, references) = (image(), references());
    let data = (0..image.page_count()).filter(|&page| image.page(page).is_some()).count() as u64;
    for (effort, random_access) in WAYS {
        let truth = pack_image(&image, &packer(effort, random_access, &references)).0;
        for share in [Share::Device, Share::Both] {
            for threads in [1, 3] {
                let before = gpu.stats();
                let beside = Beside::open(&gpu).share(share);
                let packer = packer(effort, random_access, &references).threads(threads).beside(&beside);
                assert!(pack_image(&image, &packer).0 == truth, "{effort}, {share:?}, {threads} threads");
                let GpuStats { pages, faults, .. } = gpu.stats();
                assert_eq!(faults, 0);
                if share == Share::Device {
                    assert_eq!(pages - before.pages, data, "{effort}: the device did all of it");
                }
            }
        }
    }
}

/// Guests of every sort, without and with references.
#[test]
fn an_adapter_gives_the_same_stream_of_strange_guests() {
    let Some(gpu) = gpu() else { return };
    let guest = guests::of_every_kind();
    let one_page = guest.memory[8 * PAGE_SIZE..9 * PAGE_SIZE].to_vec();
    let same = one_page.repeat(3000);
    let zero = vec![0; 2000 * PAGE_SIZE];
    let tail = [&guest.memory[..], &[1, 2, 3]].concat();
    for memory in [guest.memory.clone(), one_page, same, zero, tail] {
        let image = open_image(&memory);
        for references in [References::of(None, None), References::of(Some(&guest.disk), Some(&guest.older))]
        {
            let truth = pack_image(&image, &packer(Effort::Fast, false, &references)).0;
            let beside = Beside::open(&gpu).share(Share::Device);
            let packer = packer(Effort::Fast, false, &references).beside(&beside);
            assert!(pack_image(&image, &packer).0 == truth, "{} bytes", memory.len());
        }
    }
}

/// The frames of a session: an image, as a destination without it is sent one, or its pages in captured batches of two rounds.
fn session(image: &MemoryImage, references: &[Reference], beside: &Beside, captured: bool) -> Vec<u8> {
    let worker = CpuWorker { level: engine::level() };
    let needs = references.iter().map(|reference| reference.need().clone()).collect();
    let setup = Setup {
        header: Header::new(image.layout().clone(), Effort::Balanced, 4096, needs),
        references,
        introspection: Introspection::Off,
        worker: &worker,
        beside,
        level: engine::level(),
        top: Effort::Balanced,
        techniques: Techniques::ALL,
        cancel: Cancel::new(),
    };
    // Efforts and lengths change, also to such as are no multiple of anything.
    let count = AtomicU64::new(0);
    let choose = |_| {
        let count = count.fetch_add(1, Ordering::Relaxed);
        let effort = [Effort::Fast, Effort::Balanced, Effort::Store][count as usize % 3];
        let reach = if count == 2 { Reach::Alone } else { Reach::All };
        Choice { how: How { effort, reach }, ..Choice::always(effort, 1024 + count % 4 * 777) }
    };
    let mut encoder = Encoder::new(setup).unwrap();
    let mut stream = Vec::new();
    let mut sink = |frame: OutFrame<'_>| {
        frame.parts().for_each(|part| stream.extend_from_slice(part));
        Ok(())
    };
    if captured {
        let mut past = InMemory::new(64 << 20);
        let mut memory = image.map().bytes().to_vec();
        for round in 0..2 {
            for range in [0..3000, 3000..9000] {
                let bytes = &memory[range.start as usize * PAGE_SIZE..range.end as usize * PAGE_SIZE];
                let mut own = |frame: OutFrame<'static>| sink(frame);
                encoder.batch(round, &set_of(range), bytes, &mut past, &choose, &mut own).unwrap();
            }
            memory.iter_mut().step_by(5000).for_each(|byte| *byte ^= 0x55);
        }
    } else {
        encoder.image(image, None, &choose, &mut sink).unwrap();
    }
    stream
}

/// What goes over a wire is scanned by the same device, whose tables stay from batch to batch.
#[test]
fn an_adapter_gives_the_same_session() {
    let Some(gpu) = gpu() else { return };
    let image = image();
    let opened = references().open(true);
    for captured in [false, true] {
        let truth = session(&image, &opened, &Beside::default(), captured);
        for share in [Share::Device, Share::Both] {
            let before = gpu.stats();
            let beside = Beside::open(&gpu).share(share);
            assert!(session(&image, &opened, &beside, captured) == truth, "{share:?}, captured: {captured}");
            let GpuStats { pages, faults, .. } = gpu.stats();
            assert_eq!(faults, 0);
            if share == Share::Device {
                let data = (0..image.page_count()).filter(|&page| image.page(page).is_some()).count() as u64;
                let scanned = pages - before.pages;
                assert!(scanned >= data, "{scanned} of {data} pages, captured: {captured}");
            }
        }
    }
}

/// Pages in memory pack as a file of them does.
#[test]
fn memory_packs_as_a_raw_image() {
    let image = image();
    let references = References::of(None, None);
    let truth = pack_image(&image, &packer(Effort::Fast, false, &references)).0;
    let mut stream = Vec::new();
    packer(Effort::Fast, false, &references).pack_source(image.map().bytes(), &mut stream).unwrap();
    assert!(stream == truth);
}

#[test]
fn a_gpu_that_is_required_and_not_there_is_an_error_before_anything_is_written() {
    let mut stream = Vec::new();
    let packer = mig_engine::Packer::new().gpu(GpuChoice::named(GpuMode::Require, "no such adapter"));
    let error = packer.pack(&image(), &mut stream).unwrap_err();
    assert!(matches!(error, mig_engine::EncodeError::Gpu(_)), "{error}");
    assert!(stream.is_empty());
}
