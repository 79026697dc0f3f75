//! A small guest, packed and unpacked: the same bytes come back, whatever the guest, effort, references and access;
//! and the stream's bytes depend on neither threads nor SIMD level, and are good in the slow decoder's eyes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mig_engine::map::FileMap;
use mig_engine::{Effort, FormatChoice, Level, MemoryImage, PAGE_SIZE, Packer, Reader, Unpacker};
use mig_fuzz::guest::{self, Recipe};
use mig_fuzz::store::MemStore;
use mig_fuzz::{file, references};

/// A guest of more pages is cut.
const MAX_PAGES: usize = 160;

#[derive(Debug, arbitrary::Arbitrary)]
struct Case {
    effort: u8,
    random_access: bool,
    with_references: bool,
    /// Bytes behind the last page: opaque.
    tail: u16,
    recipes: Vec<Recipe>,
}

fuzz_target!(|case: Case| {
    let recipes = &case.recipes[..case.recipes.len().min(MAX_PAGES)];
    if recipes.is_empty() {
        return;
    }
    let mut bytes = guest::pages(recipes, references::disk(), references::older()).concat();
    bytes.extend((0..case.tail % 5000).map(|at| (at / 3) as u8));
    let image = MemoryImage::from_file(file::with_bytes(&bytes), Some(FormatChoice::Raw)).expect("raw");

    let packer = packer(&case).threads(1).level(Level::Scalar);
    let stream = pack(&packer, &image);
    let packer = packer.threads(3).level(Level::best());
    assert!(stream == pack(&packer, &image), "the bytes depend on threads or level");
    assert!(stream.len() <= bytes.len() + bytes.len() / 1000 + 4096, "{} for {}", stream.len(), bytes.len());

    let store = MemStore::default();
    // The packer's own block sizes, so its own limits.
    let unpacker = Unpacker::new(stream.as_slice(), Default::default()).expect("a header").threads(2);
    let layout = unpacker.header().layout.clone();
    let own = if case.with_references { references::at_hand() } else { &[] };
    let done = unpacker.unpack(own, &store).expect("our own stream");
    assert_eq!((done.pages, done.stream_bytes), (image.page_count(), stream.len() as u64));
    assert!(store.file(&layout) == bytes, "other bytes came back");

    let slow =
        mig_tests::reference::decode(&stream, references::at_hand_bytes()).expect("a stream by the document");
    assert!(slow.complete && slow.file == bytes, "the slow decoder sees other bytes");

    if case.random_access {
        let map = FileMap::from_file(file::with_bytes(&stream)).expect("a mapping");
        let reader = Reader::new(map).expect("random access");
        let mut page = [0; PAGE_SIZE];
        for (number, truth) in bytes.as_chunks::<PAGE_SIZE>().0.iter().enumerate() {
            reader.page(number as u64, own, &mut page).expect("a page");
            assert!(page == *truth, "page {number}");
        }
    }
});

fn packer(case: &Case) -> Packer<'static> {
    let effort = Effort::AVAILABLE[usize::from(case.effort) % Effort::AVAILABLE.len()];
    let mut packer = Packer::new().effort(effort).random_access(case.random_access);
    if case.with_references {
        for reference in references::open() {
            packer = packer.reference(reference);
        }
    }
    packer
}

fn pack(packer: &Packer<'_>, image: &MemoryImage) -> Vec<u8> {
    let mut stream = Vec::new();
    let summary = packer.pack(image, &mut stream).expect("packing into memory");
    assert_eq!(summary.stream_bytes, stream.len() as u64);
    stream
}
