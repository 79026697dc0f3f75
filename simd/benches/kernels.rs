//! Every kernel at every level present, with plain reading and copying beside them.
//!
//! `page_scan`, `read_roof` and `memcpy` walk through more memory than any cache holds, so the first
//! two can be compared: a scan is as good as it can be where it reaches the roof. The others work on
//! pages in the second cache, as they do in the engine right after a scan. Run as a test
//! (`cargo test --benches`) everything runs once.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mig_simd::{
    Anchors, Level, PAGE_SIZE, PAGE_WORDS, Page, PageRecord, anchors, page_eq, page_scan, read_roof,
    relocated, self_relative, word_diff, word_patch,
};

/// What a turn of the out-of-cache benches walks through in all: more than the largest third caches.
const MEMORY: usize = 512 << 20;
/// What one iteration of them takes.
const WINDOW: usize = 16 << 20;
/// Pages that lie in the second cache together with a second set of as many.
const CACHED: usize = 32;

/// Pages of seeded random words, of which every eighth is nought.
fn memory(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = vec![0; len];
    for word in bytes.as_chunks_mut::<8>().0 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if state >> 61 != 0 {
            *word = (state ^ state >> 29).to_le_bytes();
        }
    }
    bytes
}

fn pages(bytes: &[u8]) -> &[Page] {
    bytes.as_chunks::<PAGE_SIZE>().0
}

/// Hands out one window of memory after another, for ever.
struct Walk<'a> {
    memory: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    fn next(&mut self) -> &'a [u8] {
        let window = &self.memory[self.at..][..WINDOW];
        self.at = (self.at + WINDOW) % self.memory.len();
        window
    }
}

fn out_of_cache(criterion: &mut Criterion) {
    let memory = memory(MEMORY);
    let mut walk = Walk { memory: &memory, at: 0 };
    let mut records = vec![PageRecord::default(); WINDOW / PAGE_SIZE];
    let mut copy = vec![0; WINDOW];
    let mut group = criterion.benchmark_group("out_of_cache");
    group.throughput(Throughput::Bytes(WINDOW as u64));
    group.bench_function("memcpy", |bench| bench.iter(|| copy.copy_from_slice(black_box(walk.next()))));
    for level in Level::present() {
        group.bench_function(format!("read_roof/{level}"), |bench| {
            bench.iter(|| read_roof(level, black_box(walk.next())));
        });
        group.bench_function(format!("page_scan/{level}"), |bench| {
            bench.iter(|| page_scan(level, black_box(walk.next()), &mut records));
        });
    }
}

fn in_cache(criterion: &mut Criterion) {
    let memory = memory(CACHED * PAGE_SIZE);
    // The same pages with every eleventh word changed, or unchanged.
    let mut changed = memory.clone();
    for word in changed.as_chunks_mut::<8>().0.iter_mut().step_by(11) {
        word[3] ^= 0x5A;
    }
    let same = memory.clone();
    let mut records = [PageRecord::default(); CACHED];
    let mut mask = [0; 8];
    let mut words = [0; PAGE_WORDS];
    let mut copy = [0; PAGE_SIZE];
    let mut found = Anchors::new();

    let mut group = criterion.benchmark_group("in_cache");
    group.throughput(Throughput::Bytes(memory.len() as u64));
    group.bench_function("memcpy", |bench| {
        bench.iter(|| pages(&memory).iter().for_each(|page| copy.copy_from_slice(black_box(page))));
    });
    for level in Level::present() {
        group.bench_function(format!("read_roof/{level}"), |bench| {
            bench.iter(|| read_roof(level, black_box(&memory)));
        });
        group.bench_function(format!("page_scan/{level}"), |bench| {
            bench.iter(|| page_scan(level, black_box(&memory), &mut records));
        });
        group.bench_function(format!("page_eq/{level}"), |bench| {
            bench.iter(|| {
                pages(&memory).iter().zip(pages(&same)).all(|(a, b)| page_eq(level, a, black_box(b)))
            });
        });
        group.bench_function(format!("word_diff/{level}"), |bench| {
            bench.iter(|| {
                for (page, base) in pages(&changed).iter().zip(pages(&memory)) {
                    black_box(word_diff(level, page, base, &mut mask, &mut words));
                }
            });
        });
        let count = word_diff(level, &pages(&changed)[0], &pages(&memory)[0], &mut mask, &mut words);
        let packed: &[u8] = bytemuck::cast_slice(&words[..count]);
        group.bench_function(format!("word_patch/{level}"), |bench| {
            bench.iter(|| {
                for base in pages(&memory) {
                    let patched = word_patch(level, base, &mask, black_box(packed), &mut copy);
                    patched.expect("the words go with the mask");
                }
            });
        });
        group.bench_function(format!("self_relative/{level}"), |bench| {
            bench.iter(|| {
                let pages = pages(&memory).iter();
                pages.for_each(|page| self_relative(level, black_box(page), 0x7f12_3456_7000, &mut copy));
            });
        });
        group.bench_function(format!("relocated/{level}"), |bench| {
            bench.iter(|| {
                for (page, base) in pages(&changed).iter().zip(pages(&memory)) {
                    relocated(level, black_box(page), base, &mut copy);
                }
            });
        });
        for sparsity in [3, 5] {
            group.bench_function(format!("anchors_{sparsity}/{level}"), |bench| {
                bench.iter(|| {
                    pages(&memory)
                        .iter()
                        .for_each(|page| anchors(level, black_box(page), sparsity, &mut found));
                });
            });
        }
    }
}

criterion_group!(benches, out_of_cache, in_cache);
criterion_main!(benches);
