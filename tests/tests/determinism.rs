//! The stream depends on the image, the references and the options, and on nothing else: not on the number of threads, the
//! SIMD level or the worker that scanned, and not on chance.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use mig_engine::inspect::StreamInfo;
use mig_engine::{CpuWorker, DecodeError, Effort, Level, MemoryImage, ScanWorker, Settled};
use mig_simd::{PAGE_SIZE, PageRecord};
use mig_tests::engine::{self, References, open_image, pack_image, packer};
use mig_tests::guests::linux;
use mig_tests::{guests, sample};
use xxhash_rust::xxh3::xxh3_128;

/// Every level present, after saying which those are; `MIG_REQUIRE` can ask for some.
fn levels() -> Vec<Level> {
    let present = Level::present();
    let names: BTreeSet<&str> = present.iter().map(|level| level.name()).collect();
    let absent: Vec<&str> = Level::NAMES.into_iter().filter(|name| !names.contains(name)).collect();
    // Past the test runner's capture: who reads the log should know what was not tested.
    let said = writeln!(std::io::stderr(), "SIMD levels tested: {names:?}; not on this CPU: {absent:?}");
    said.expect("standard error takes a line");
    let required = std::env::var("MIG_REQUIRE").unwrap_or_default();
    for name in required.split(',').map(str::trim) {
        assert!(!absent.contains(&name), "MIG_REQUIRE asks for {name}; the levels present are {names:?}");
    }
    present
}

/// More than one block, and something of everything.
fn image() -> MemoryImage {
    open_image(&guests::of_many_blocks()[..9000 * PAGE_SIZE])
}

fn references() -> References {
    References::of(Some(sample::disk()), Some(sample::older()))
}

const WAYS: [(Effort, bool); 7] = [
    (Effort::Store, false),
    (Effort::Fast, false),
    (Effort::Balanced, false),
    (Effort::Balanced, true),
    (Effort::Dense, false),
    (Effort::Dense, true),
    (Effort::Max, false),
];

fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    if one == other {
        return None;
    }
    Some(one.iter().zip(other).take_while(|(one, other)| one == other).count())
}

#[test]
fn threads_do_not_show() {
    let (image, references) = (image(), references());
    for (effort, random_access) in WAYS {
        let packed =
            |threads| pack_image(&image, &packer(effort, random_access, &references).threads(threads)).0;
        let truth = packed(1);
        for threads in [2, 3, 7, 2] {
            assert_eq!(first_difference(&truth, &packed(threads)), None, "{effort}, {threads} threads");
        }
    }
}

/// A guest whose pages come in its own order, in more than one block.
#[test]
fn neither_shows_in_the_order_of_a_guest() {
    let linux = linux::guest(linux::Size::LARGE);
    let image = open_image(&linux.memory);
    for older in [None, Some(&linux.older[..])] {
        let references = References::of(Some(&linux.disk), older);
        let packed = |threads, level| {
            let packer = packer(Effort::Fast, false, &references).threads(threads).level(level);
            pack_image(&image, &packer).0
        };
        let truth = packed(1, Level::Scalar);
        let info = StreamInfo::read(truth.as_slice()).unwrap();
        assert!(info.blocks.pages[Settled::Later.kind()] > 8192, "{:?}", info.blocks.pages);
        for (threads, level) in [(3, Level::Scalar), (2, Level::best()), (5, Level::best())] {
            let other = packed(threads, level);
            assert_eq!(first_difference(&truth, &other), None, "{threads} threads, {level}");
        }
    }
}

#[test]
fn simd_levels_do_not_show() {
    let (image, references) = (image(), references());
    let levels = levels();
    for (effort, random_access) in WAYS {
        let packed = |level| pack_image(&image, &packer(effort, random_access, &references).level(level)).0;
        let truth = packed(Level::Scalar);
        for &level in &levels {
            assert_eq!(first_difference(&truth, &packed(level)), None, "{effort}, {level}");
            // A level also reads what another one wrote.
            let unpacker = engine::unpacker(&truth).unwrap().level(level);
            let store = engine::Store::new(image.layout());
            unpacker.unpack(&references.at_hand(), &store).unwrap();
            assert!(store.into_bytes() == image.map().bytes(), "{effort}, {level}");
        }
    }
}

/// Scans every other batch itself, from the definition of the record, and leaves the others to the CPU worker.
#[derive(Debug, Default)]
struct EveryOther {
    batches: AtomicU64,
    own: AtomicU64,
}

impl ScanWorker for EveryOther {
    fn name(&self) -> &str {
        "every other"
    }

    fn scan(&self, pages: &[u8], records: &mut [PageRecord]) {
        if self.batches.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return CpuWorker { level: engine::level() }.scan(pages, records);
        }
        self.own.fetch_add(1, Ordering::Relaxed);
        for (page, record) in pages.chunks(PAGE_SIZE).zip(records) {
            *record = naive(page);
        }
    }
}

/// A page's record, one word and one question at a time.
fn naive(page: &[u8]) -> PageRecord {
    let words: Vec<u64> = page.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let count = |of: &dyn Fn(u64) -> bool| words.iter().filter(|&&word| of(word)).count() as u16;
    let fingerprint = xxh3_128(page);
    PageRecord {
        fingerprint: [fingerprint as u64, (fingerprint >> 64) as u64],
        first_word: words[0],
        zero_words: count(&|word| word == 0),
        small_words: count(&|word| (1..1 << 32).contains(&word)),
        user_pointers: count(&|word| (1 << 40..1 << 47).contains(&word)),
        kernel_pointers: count(&|word| word >= 0xffff_8000_0000_0000),
        text_words: count(&|word| word.to_le_bytes().iter().all(u8::is_ascii) && word >= 1 << 48),
        flags: if words.iter().all(|&word| word == words[0]) { PageRecord::UNIFORM } else { 0 },
        reserved: 0,
    }
}

#[test]
fn workers_do_not_show() {
    let (image, references) = (image(), references());
    for (effort, random_access) in WAYS {
        let truth = pack_image(&image, &packer(effort, random_access, &references)).0;
        let worker = EveryOther::default();
        let other = pack_image(&image, &packer(effort, random_access, &references).worker(&worker)).0;
        assert_eq!(first_difference(&truth, &other), None, "{effort}");
        let own = worker.own.into_inner();
        assert!(own > 20, "{effort}: the worker did {own} batches itself");
    }
}

/// Gets one bit of one page's fingerprint wrong.
#[derive(Debug)]
struct OneBitOff {
    /// The page that is to suffer.
    victim: Vec<u8>,
    bit: u32,
}

impl ScanWorker for OneBitOff {
    fn name(&self) -> &str {
        "one bit off"
    }

    fn scan(&self, pages: &[u8], records: &mut [PageRecord]) {
        CpuWorker { level: engine::level() }.scan(pages, records);
        for (page, record) in pages.chunks(PAGE_SIZE).zip(records) {
            if page == self.victim {
                record.fingerprint[self.bit as usize / 64] ^= 1 << (self.bit % 64);
            }
        }
    }
}

/// The sibling: streams do show what a worker says, and a wrong fingerprint does not pass unnoticed.
#[test]
fn a_worker_that_is_wrong_is_found_out() {
    let guest = guests::of_every_kind();
    let references = References::of(Some(&guest.disk), Some(&guest.older));
    let image = open_image(&guest.memory);
    for (effort, random_access) in WAYS {
        let truth = pack_image(&image, &packer(effort, random_access, &references)).0;
        // A page of the disk, one of the older image, and a residual one.
        for victim in [1, 5, 8] {
            for bit in [0, 63, 64, 127] {
                let victim = sample::page(&guest.memory, victim).to_vec();
                let worker = OneBitOff { victim, bit };
                let stream =
                    pack_image(&image, &packer(effort, random_access, &references).worker(&worker)).0;
                assert!(first_difference(&truth, &stream).is_some());
                let error = engine::unpack(&stream, &references.at_hand()).0.unwrap_err();
                assert!(
                    matches!(error.source, DecodeError::Digest { first_page: 0, pages: 12 }),
                    "{effort}, bit {bit}: {error}"
                );
            }
        }
    }
}

/// The sibling of the comparison itself.
#[test]
fn a_difference_of_one_bit_is_a_difference() {
    let stream = [7; 100];
    assert_eq!(first_difference(&stream, &stream), None);
    for at in [0, 50, 99] {
        let mut other = stream;
        other[at] ^= 0x10;
        assert_eq!(first_difference(&stream, &other), Some(at));
    }
    assert_eq!(first_difference(&stream, &stream[..99]), Some(99));
}
