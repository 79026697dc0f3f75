//! The process that packs or unpacks once and watches its own memory.

use std::fs::{self, File};
use std::io::BufReader;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use mig_engine::image::WriteAs;
use mig_engine::{DecodeLimits, FileStore, Level, MemoryImage, Packer, Unpacker};

use super::Usage;
use crate::cli::{Job, PeakChildArgs};
use crate::measure::timed;
use crate::references::{open, resolve};

/// Between two samples.
const INTERVAL: Duration = Duration::from_millis(1);

pub(crate) fn run(args: &PeakChildArgs) -> Result<()> {
    let level = Level::from_env()?;
    let (result, peak) = watch(|| {
        timed(|| match args.job {
            Job::Pack => pack(args, level),
            Job::Unpack => unpack(args, level),
        })
    })?;
    let (stream_bytes, cost) = result?;
    let usage = Usage {
        anonymous: peak.anonymous,
        files: peak.files,
        all: peak.all,
        samples: peak.samples,
        cost,
        stream_bytes,
    };
    println!("{}", serde_json::to_string(&usage)?);
    Ok(())
}

fn pack(args: &PeakChildArgs, level: Level) -> Result<u64> {
    let image = MemoryImage::open(&args.image, None)?;
    let mut packer =
        Packer::new().effort(args.effort).threads(args.threads.count()).level(level).gpu(args.gpu.choice());
    for reference in open(&args.built.references, &args.built.indexes, image.page_count())? {
        packer = packer.reference(reference);
    }
    Ok(packer.pack(&image, File::create(&args.stream)?)?.stream_bytes)
}

fn unpack(args: &PeakChildArgs, level: Level) -> Result<u64> {
    let input = BufReader::with_capacity(1 << 20, File::open(&args.stream)?);
    let unpacker = Unpacker::new(input, DecodeLimits::default())?.threads(args.threads.count()).level(level);
    let references = resolve(&args.built.references, unpacker.header())?;
    let scratch = args.scratch.folder();
    let layout = unpacker.header().layout.clone();
    let store = FileStore::new(tempfile::tempfile_in(&scratch)?, &layout, WriteAs::Same, &scratch)?;
    Ok(unpacker.unpack(&references, &store)?.stream_bytes)
}

/// The largest values seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) anonymous: u64,
    files: u64,
    all: u64,
    samples: u64,
}

/// Does something while a thread samples this process's memory, and that of the programs that it started.
pub(crate) fn watch<T>(work: impl FnOnce() -> T) -> Result<(T, Seen)> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| -> Result<Seen> {
            let mut seen = Seen::default();
            loop {
                // The last sample is taken after the work, so there is always one.
                let last = stop.load(Ordering::Acquire);
                sample(&mut seen)?;
                if last {
                    return Ok(seen);
                }
                std::thread::sleep(INTERVAL);
            }
        });
        let result = work();
        stop.store(true, Ordering::Release);
        let seen = sampler.join().map_err(|_| anyhow::anyhow!("the sampler panicked"))??;
        Ok((result, seen))
    })
}

fn sample(seen: &mut Seen) -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("cannot watch memory without /proc")?;
    let own = anonymous(&status).context("this kernel does not tell anonymous memory")?;
    seen.anonymous = seen.anonymous.max(own + programs());
    seen.files = seen.files.max(field(&status, "RssFile:").unwrap_or(0));
    seen.all = field(&status, "VmHWM:").unwrap_or(0);
    seen.samples += 1;
    Ok(())
}

fn anonymous(status: &str) -> Option<u64> {
    Some(field(status, "RssAnon:")? + field(status, "RssShmem:").unwrap_or(0))
}

/// Of the programs that this one started and that still run. A kernel that does not tell them is no error: few have any.
fn programs() -> u64 {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return 0 };
    let of_task = |task: fs::DirEntry| {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let of = |child: &str| anonymous(&fs::read_to_string(format!("/proc/{child}/status")).ok()?);
        children.split_whitespace().filter_map(of).sum::<u64>()
    };
    tasks.flatten().map(of_task).sum()
}

/// Bytes in a line such as `RssAnon: 916 kB`.
fn field(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_given_back_was_seen() {
        const MIB: u64 = 1 << 20;
        let work = |mib: u64| {
            let memory = vec![1u8; (mib * MIB) as usize];
            std::thread::sleep(Duration::from_millis(100));
            memory.iter().step_by(4096).map(|&byte| u64::from(byte)).sum::<u64>()
        };
        let (sum, seen) = watch(|| work(300)).unwrap();
        assert_eq!(sum, 300 * MIB / 4096);
        // Other tests run in this process at the same time, so there may be more.
        assert!(seen.anonymous >= 300 * MIB, "{seen:?}");
        assert!(seen.samples >= 2);
    }

    #[test]
    fn status_lines_are_understood() {
        let status = "VmHWM:\t    5000 kB\nRssAnon:\t     916 kB\nRssFile:\t    1 kB\n";
        assert_eq!(field(status, "RssAnon:"), Some(916 << 10));
        assert_eq!(field(status, "RssShmem:"), None);
        assert_eq!(field("RssAnon: lots", "RssAnon:"), None);
    }
}
