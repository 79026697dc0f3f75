//! The memory that is scanned, and what the host can do with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use memmap2::MmapMut;
use mig_engine::image::Run as PageRun;
use mig_engine::reference::DiskImage;
use mig_engine::{Cancel, Gpu, Hold, Level, PAGE_SIZE, PageSet, PageSource, Reference};
use mig_simd::{PageRecord, page_scan};

use crate::corpus::tile::Tiles;
use crate::corpus::{sample_disk, sample_memory};
use crate::exit::Problem;
use crate::measure::Samples;
use crate::memory::{Backing, allocate};
use crate::scan::read_pass;

/// A guest's memory.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    map: Arc<MmapMut>,
    /// Whether a device may read it where it lies.
    held: bool,
}

impl Guest {
    /// So many bytes of tiled sample, in huge pages if the system gives them, as VMMs ask for.
    pub(super) fn new(len: usize) -> Result<Self> {
        let mut map = allocate(len, Backing::Huge)?;
        Tiles::new(sample_memory()?, 1)?.fill(0, &mut map);
        Ok(Guest { map: Arc::new(map), held: true })
    }

    /// The same memory, held or not.
    pub(super) fn held(&self, held: bool) -> Self {
        Guest { map: self.map.clone(), held }
    }

    pub(super) fn hold(&self) -> Hold {
        Hold::of_map_mut(self.map.clone())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(super) fn pages(&self) -> u64 {
        (self.map.len() / PAGE_SIZE) as u64
    }
}

impl PageSource for Guest {
    fn page_count(&self) -> u64 {
        self.pages()
    }

    fn run(&self, page: u64, max: u64) -> PageRun<'_> {
        PageSource::run(self.bytes(), page, max)
    }

    fn holds(&self) -> Vec<Hold> {
        if self.held { vec![self.hold()] } else { Vec::new() }
    }
}

/// The sample's disk, with its index.
pub(super) fn disk_reference(cancel: &Cancel) -> Result<Reference> {
    let file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    std::fs::write(file.path(), sample_disk()?)?;
    let mut reference = Reference::disk(DiskImage::open(file.path())?, "sample.disk".into())?;
    reference.build_index(Level::best(), cancel)?;
    Ok(reference)
}

/// How fast all threads together read the memory.
pub(super) fn read_rate(guest: &Guest, threads: usize, time: Duration) -> Result<Samples> {
    let once = || guest.bytes().len() as f64 / read_pass(Level::best(), threads, guest.bytes()) / 1e9;
    once();
    let (start, mut rates) = (Instant::now(), Vec::new());
    while rates.len() < 3 || start.elapsed() < time {
        rates.push(once());
    }
    Samples::new(rates).context("reading took no time at all")
}

/// Compares what a device says of every page with what the CPU says.
pub(super) fn verify(gpu: &Gpu, guest: &Guest, references: &[Reference]) -> Result<()> {
    for block in super::blocks(guest.pages()) {
        let start = block.start as usize;
        let set = PageSet::from_ranges(std::iter::once(block.clone()))?;
        let scans = gpu.scan(guest, &set, references).context("the device failed")?;
        let mut expected = vec![PageRecord::default(); (block.end - block.start) as usize];
        let bytes = &guest.bytes()[start * PAGE_SIZE..block.end as usize * PAGE_SIZE];
        page_scan(Level::best(), bytes, &mut expected);
        let records: Vec<PageRecord> = scans.iter().flat_map(|scan| scan.records.iter().copied()).collect();
        ensure!(records.len() == expected.len(), "{} records of {} pages", records.len(), expected.len());
        if let Some(page) = records.iter().zip(&expected).position(|(one, other)| one != other) {
            let what = format!("page {} has another record than the CPU's", start + page);
            return Err(Problem::Wrong { who: gpu.adapter().name.clone(), what }.into());
        }
    }
    Ok(())
}
