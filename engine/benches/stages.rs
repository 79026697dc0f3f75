//! What each stage of a pack and each coder of groups costs, on the repository's sample of real memory, with copying beside them.
//!
//!     cargo bench -p mig-engine --bench stages
//!
//! Stages run on all threads, at each effort, with the sample's disk as the reference; coders on one, on the words that are not 0. All of
//! it fits into a large cache: what memory costs is in `mig-bench scan` and `mig-bench pack`. Run as a test, everything runs once.

use std::hint::black_box;
use std::io::Write;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mig_engine::image::WriteAs;
use mig_engine::reference::DiskImage;
use mig_engine::wlz::{self, Encoder, Parse};
use mig_engine::{
    BlockEncoder, Cancel, CpuWorker, DecodeLimits, Effort, FileStore, History, Level, MemoryImage, Packer,
    PageSet, Reference, Unpacker,
};

/// Bytes of words that the coders take.
const WORDS: usize = 1 << 20;

fn sample() -> Vec<u8> {
    zstd::decode_all(&include_bytes!("../../tests/data/sample.mem.zst")[..]).expect("the sample is whole")
}

fn disk() -> Reference {
    let bytes = zstd::decode_all(&include_bytes!("../../tests/data/sample.disk.zst")[..]);
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(&bytes.expect("the sample is whole")).expect("a temporary file takes it");
    let image = DiskImage::open(file.path()).expect("a raw image");
    let mut disk = Reference::disk(image, "sample.disk".into()).expect("it can be read");
    disk.build_index(Level::best(), &Cancel::new()).expect("it can be read");
    disk
}

fn stages(criterion: &mut Criterion) {
    let mut file = tempfile::tempfile().expect("a temporary file");
    let bytes = sample();
    file.write_all(&bytes).expect("a temporary file takes it");
    let image = MemoryImage::from_file(file, None).expect("a raw image");
    let (pages, level) = (image.page_count(), Level::best());
    let references = [disk()];
    let worker = CpuWorker { level };
    for effort in Effort::AVAILABLE {
        let mut group = criterion.benchmark_group(format!("stages, {}", effort.name()));
        group.throughput(Throughput::Bytes(bytes.len() as u64)).sample_size(10);
        group.bench_function("memcpy", |bencher| bencher.iter(|| black_box(&bytes).clone()));
        let encoder = BlockEncoder::new(&image, &references, &worker, level, effort, false)
            .expect("the sample is not too large");
        let all = PageSet::from_ranges(std::iter::once(0..pages)).expect("one range is a set");
        let scan = || encoder.scan(all.clone()).expect("the sample can be read");
        let past = || History::new(pages, effort, false);
        group.bench_function("scan", |bencher| bencher.iter(scan));
        group.bench_function("settle", |bencher| {
            bencher.iter_batched(
                || (past(), scan()),
                |(mut past, scanned)| past.settle(&encoder, scanned).expect("the sample can be read"),
                BatchSize::LargeInput,
            );
        });
        let settled = past().settle(&encoder, scan()).expect("the sample can be read");
        group.bench_function("code", |bencher| bencher.iter(|| encoder.code(&settled).expect("it is coded")));
        let mut stream = Vec::new();
        let packer = Packer::new().effort(effort).reference(disk());
        packer.pack(&image, &mut stream).expect("the sample is packed");
        let disks = [Some(disk())];
        group.bench_function("unpack into a file", |bencher| {
            bencher.iter(|| {
                let file = tempfile::tempfile().expect("a temporary file");
                let store = FileStore::new(file, image.layout(), WriteAs::Same, Path::new("."));
                let unpacker = Unpacker::new(&stream[..], DecodeLimits::default()).expect("what was packed");
                let store = store.expect("a temporary file takes it");
                unpacker.unpack(&disks, &store).expect("what was packed")
            });
        });
    }
}

/// Codes the words, and decodes them.
type Coder<'a> = (&'static str, Box<dyn FnMut(&[u8]) -> Vec<u8> + 'a>, Box<dyn Fn(&[u8]) -> Vec<u8> + 'a>);

fn word_coder<'a>(name: &'static str, parse: Parse) -> Coder<'a> {
    let mut encoder = Encoder::new(parse);
    let encode = move |words: &[u8]| {
        let mut out = Vec::new();
        encoder.encode(words, &mut out);
        out
    };
    (name, Box::new(encode), Box::new(|coded| wlz::decode(coded, WORDS).expect("what was just coded")))
}

fn zstd_at<'a>(name: &'static str, level: i32) -> Coder<'a> {
    (
        name,
        Box::new(move |words| zstd::bulk::compress(words, level).expect("zstd")),
        Box::new(|coded| zstd::bulk::decompress(coded, WORDS).expect("zstd")),
    )
}

fn coders(criterion: &mut Criterion) {
    let bytes = sample();
    let words = bytes.as_chunks::<8>().0.iter().filter(|word| **word != [0; 8]);
    let words: Vec<u8> = words.flatten().copied().take(WORDS).collect();
    assert_eq!(words.len(), WORDS, "the sample has that many");
    let coders: [Coder<'_>; 6] = [
        ("memcpy", Box::new(<[u8]>::to_vec), Box::new(<[u8]>::to_vec)),
        (
            "lz4",
            Box::new(lz4_flex::block::compress),
            Box::new(|coded| lz4_flex::block::decompress(coded, WORDS).expect("lz4")),
        ),
        zstd_at("zstd -1", 1),
        zstd_at("zstd -3", 3),
        word_coder("words, lazy (dense)", Parse::Lazy),
        word_coder("words, optimal (max)", Parse::Optimal),
    ];
    let mut group = criterion.benchmark_group("coders");
    group.throughput(Throughput::Bytes(WORDS as u64)).sample_size(10);
    for (name, mut encode, decode) in coders {
        let coded = encode(&words);
        assert!(decode(&coded) == words, "{name}");
        group.bench_function(format!("{name}, code"), |bencher| bencher.iter(|| encode(&words)));
        group.bench_function(format!("{name}, decode"), |bencher| bencher.iter(|| decode(&coded)));
    }
}

criterion_group!(benches, stages, coders);
criterion_main!(benches);
