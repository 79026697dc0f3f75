//! What the tests of the device share: the device, and pages of every kind.

mod faults;
mod open;
mod scan;
mod stages;

use std::io::Write;
use std::sync::{Arc, Once};

use super::{Gpu, GpuChoice, GpuMode};
use crate::hold::Hold;
use crate::image::Run;
use crate::page::PAGE_SIZE;
use crate::source::PageSource;

/// The best adapter, software if there is no other; `None` if there is none at all, which `MIG_REQUIRE=gpu` forbids.
pub(super) fn gpu() -> Option<Gpu> {
    static SAID: Once = Once::new();
    let adapters = Gpu::adapters();
    let opened = match adapters.first() {
        Some(adapter) => {
            Gpu::open(&GpuChoice::named(GpuMode::Require, &adapter.name)).map_err(|e| e.to_string())
        }
        None => Err("there is no adapter".into()),
    };
    SAID.call_once(|| {
        let name = opened.as_ref().map_or_else(
            |why| format!("none: {why}"),
            |gpu| gpu.as_ref().map_or(String::new(), |gpu| gpu.adapter().name.clone()),
        );
        // Past the test runner's capture: who reads the log should know what was not tested.
        writeln!(std::io::stderr(), "GPU tested: {name}").expect("standard error takes a line");
    });
    let required = std::env::var("MIG_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|name| name.trim() == "gpu");
    match opened {
        Ok(gpu) => gpu,
        Err(why) => {
            assert!(!required, "MIG_REQUIRE asks for a GPU: {why}");
            None
        }
    }
}

/// The repository's sample of a real desktop's memory.
pub(super) fn sample() -> Vec<u8> {
    zstd::decode_all(&include_bytes!("../../../../tests/data/sample.mem.zst")[..])
        .expect("the sample is whole")
}

/// The disk blocks that some of its pages equal.
pub(super) fn sample_disk() -> Vec<u8> {
    zstd::decode_all(&include_bytes!("../../../../tests/data/sample.disk.zst")[..])
        .expect("the sample is whole")
}

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// Seeded random pages, from sparse ones to ones of noise, and pages at every border: all zero, all ones, one odd byte
/// at every 97th place, uniform, words at the borders of what is counted, and each of the odd ones twice.
pub(super) fn strange_pages() -> Vec<u8> {
    let mut pages: Vec<u8> = Vec::new();
    let mut random = Random(7);
    let mut add = |word: &mut dyn FnMut(usize) -> u64| {
        (0..PAGE_SIZE / 8).for_each(|i| pages.extend_from_slice(&word(i).to_le_bytes()));
    };
    add(&mut |_| 0);
    add(&mut |_| u64::MAX);
    add(&mut |_| 0x4142_4344_4546_4748);
    add(&mut |i| i as u64);
    add(&mut |i| 0x7f12_3456_0000 + 16 * i as u64);
    add(&mut |i| 0xffff_8881_0000_0000 + 64 * i as u64);
    add(&mut |i| 0x2020_6161_7a7a_4141 + (i as u64 % 26));
    let borders: Vec<u64> = (0..64)
        .flat_map(|bit| [1 << bit, (1u64 << bit) - 1, !(1 << bit), (1u64 << bit).wrapping_neg()])
        .collect();
    for seed in 0..200u64 {
        random.0 = seed;
        let thin = random.word() % 9;
        match seed % 3 {
            0 => add(&mut |_| random.word()),
            1 => add(&mut |_| borders[random.word() as usize % borders.len()]),
            _ => {
                add(&mut |_| if random.word() % 8 < thin { 0 } else { random.word() >> (random.word() % 64) })
            }
        }
    }
    for twice in 0..2 {
        for place in (0..PAGE_SIZE).step_by(97 + twice * 97) {
            add(&mut |i| if i == place / 8 { 1 << (8 * (place % 8)) } else { 0 });
            add(&mut |i| 0x0707_0707_0707_0707 ^ if i == place / 8 { 0x80 << (8 * (place % 8)) } else { 0 });
        }
    }
    pages
}

/// Pages in memory, held for a device or not, of which some may be called holes.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) bytes: Arc<[u8]>,
    pub(super) held: bool,
    /// Bytes before the first page.
    pub(super) offset: usize,
    /// Every page whose number is a multiple of this is a hole.
    pub(super) holes: Option<u64>,
}

impl Memory {
    pub(super) fn new(bytes: &[u8], held: bool) -> Self {
        Memory { bytes: bytes.into(), held, offset: 0, holes: None }
    }
}

impl PageSource for Memory {
    fn page_count(&self) -> u64 {
        ((self.bytes.len() - self.offset) / PAGE_SIZE) as u64
    }

    fn run(&self, page: u64, max: u64) -> Run<'_> {
        if self.holes.is_some_and(|step| page.is_multiple_of(step)) {
            return Run::Hole(1);
        }
        let next = self.holes.map_or(u64::MAX, |step| page.next_multiple_of(step));
        let pages = max.min(self.page_count() - page).min(next - page) as usize;
        Run::Data(&self.bytes[self.offset + page as usize * PAGE_SIZE..][..pages * PAGE_SIZE])
    }

    fn holds(&self) -> Vec<Hold> {
        if self.held { vec![Hold::of_bytes(self.bytes.clone())] } else { Vec::new() }
    }
}
