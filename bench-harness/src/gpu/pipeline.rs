//! Scan and settle, and whole pipelines, with the CPU alone, the GPU alone, and both.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Result, anyhow};
use mig_engine::gpu::Beside;
use mig_engine::{
    BlockEncoder, CpuWorker, Effort, Gpu, Level, PackSummary, Packer, PageSet, Reference, ScanAhead, Share,
};
use rayon::prelude::*;

use super::host::{Guest, disk_reference};
use super::result::{Memory, Pipeline, Scan, Way};
use super::{blocks, costs};
use crate::exit::Problem;
use crate::measure::{Timing, timed};
use crate::run::Run;

/// Threads that settle what a device scans.
const SETTLING: usize = 2;

/// Scan and settle of all blocks: the CPU's levels, then the GPU with memory of each kind.
pub(super) fn settles(
    guest: &Guest,
    references: &[Reference],
    gpu: &Gpu,
    memories: &[Memory],
    threads: usize,
    time: Duration,
    run: &Run,
) -> Result<Vec<Scan>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let bytes = guest.bytes().len();
    let mut settles = Vec::new();
    for level in Level::present() {
        let once = || pool.install(|| settle(guest, references, level, None));
        settles.push(Scan::new(level.name().to_owned(), None, bytes, &costs(time, run, once)?)?);
    }
    // Whom the device leaves little to do: more threads would mostly be woken.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.min(SETTLING)).build()?;
    for &memory in memories {
        let (guest, _imported) = memory.of(guest, gpu)?;
        let once = || {
            let ahead = ScanAhead::new(Share::Device);
            std::thread::scope(|scope| {
                scope.spawn(|| gpu.serve(&ahead, &guest, references));
                let settled = pool.install(|| settle(&guest, references, Level::best(), Some(&ahead)));
                ahead.close();
                settled
            })
        };
        let costs = costs(time, run, once)?;
        settles.push(Scan::new(format!("GPU, pages {}", memory.name()), Some(memory), bytes, &costs)?);
    }
    Ok(settles)
}

fn settle(guest: &Guest, references: &[Reference], level: Level, ahead: Option<&ScanAhead>) -> Result<()> {
    let worker = CpuWorker { level };
    // The effort `store` settles and does no more.
    let encoder = BlockEncoder::new(guest, references, &worker, level, Effort::Store, false)?;
    let sets: Vec<PageSet> = blocks(guest.pages())
        .map(|block| PageSet::from_ranges(std::iter::once(block)))
        .collect::<Result<_, _>>()?;
    if let Some(ahead) = ahead {
        sets.iter().for_each(|set| ahead.announce(set));
    }
    // Several blocks at once, as when packing, so that threads do not wait for the last chunk of each.
    let at_once = rayon::current_num_threads();
    sets.chunks(at_once).try_for_each(|sets| {
        sets.par_iter().try_for_each(|set| Ok(encoder.scan_ahead(set.clone(), ahead).map(drop)?))
    })
}

/// Packs in turns; every stream must be the same.
pub(super) fn packs(
    guest: &Guest,
    memory: Memory,
    effort: Effort,
    gpu: &Gpu,
    threads: usize,
    repeats: u32,
    run: &Run,
) -> Result<Pipeline> {
    let (guest, _imported) = memory.of(guest, gpu)?;
    let packer = || -> Result<Packer<'_>> {
        let reference = disk_reference(&run.cancel)?;
        Ok(Packer::new().effort(effort).threads(threads).cancel(run.cancel.clone()).reference(reference))
    };
    let (alone, both) = (Beside::open(gpu).share(Share::Device), Beside::open(gpu));
    let contenders = [
        (Way::CpuOnly, packer()?),
        (Way::GpuOnly, packer()?.beside(&alone)),
        (Way::Both, packer()?.beside(&both)),
    ];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let mut truth: Option<Sink> = None;
    let mut costs = contenders.each_ref().map(|_| Vec::new());
    for turn in 0..=repeats {
        for ((way, packer), costs) in contenders.iter().zip(&mut costs) {
            run.check()?;
            let mut sink = Sink::default();
            let pack =
                || -> Result<PackSummary> { Ok(pool.install(|| packer.pack_source(&guest, &mut sink))?) };
            let (_, cost) = timed(pack)?;
            if truth.get_or_insert_with(|| sink.clone()) != &sink {
                let what = format!("the stream at {effort} is not the CPU's");
                return Err(Problem::Wrong { who: format!("{way:?}"), what }.into());
            }
            // The first turn warms up.
            if turn > 0 {
                costs.push(cost);
            }
        }
    }
    let bytes = guest.bytes().len() as u64;
    let timings: Option<Vec<(Way, Timing)>> = contenders
        .iter()
        .zip(&costs)
        .map(|((way, _), costs)| Some((*way, Timing::new(bytes, costs)?)))
        .collect();
    Ok(Pipeline {
        effort: effort.name(),
        memory,
        stream_bytes: truth.map_or(0, |sink| sink.bytes),
        timings: timings.ok_or_else(|| anyhow!("packing took no time at all"))?,
    })
}

/// Counts and sums bytes: enough to tell streams apart, and nearly free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sink {
    bytes: u64,
    sum: u64,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Frames' heads have the digests of their pages and the checksums of their parts, so samples of the rest will do.
        let (words, _) = bytes.as_chunks::<8>();
        let step = (words.len() / 4096).max(1);
        for word in words.iter().step_by(step) {
            self.sum =
                self.sum.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from_le_bytes(*word);
        }
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sink_tells_streams_apart() {
        let sunk = |bytes: &[u8]| {
            let mut sink = Sink::default();
            sink.write_all(bytes).unwrap();
            sink
        };
        let stream = vec![3; 1000];
        assert_eq!(sunk(&stream), sunk(&stream));
        let mut other = stream.clone();
        other[800] ^= 1;
        assert_ne!(sunk(&stream), sunk(&other));
        assert_ne!(sunk(&stream), sunk(&stream[..992]));
    }
}
