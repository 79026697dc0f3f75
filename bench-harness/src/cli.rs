//! The command line: what can be said, and nothing of what is done.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use mig_engine::{Effort, GpuChoice, GpuMode, default_threads};

use crate::contender::Named;
use crate::exit;

/// Measures MiG on this machine: speed, size and memory, beside what a user would pick instead.
///
/// Every contender's output is decoded and compared before its figures count. Reports name the machine, the compiler
/// and the commit. Figures of synthetic inputs are marked as such.
#[derive(Debug, Parser)]
#[command(name = "mig-bench", version, after_help = exit::HELP)]
pub(crate) struct Cli {
    /// `run quick`, if there is none.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(SuiteArgs),
    /// List the suites that come with the program
    List,
    Compare(CompareArgs),
    Scan(ScanArgs),
    Pack(PackArgs),
    Index(IndexArgs),
    Peak(PeakArgs),
    Sparse(SparseArgs),
    #[cfg(feature = "gpu")]
    Gpu(GpuBenchArgs),
    #[command(hide = true)]
    PeakChild(PeakChildArgs),
    #[command(hide = true)]
    WholeChild(WholeChildArgs),
}

/// What every measuring command can be asked for.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// Also write everything that was measured, with its provenance, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Exit with code 5 unless every goal was measured and met
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ThreadArgs {
    /// Number of threads [default: all cores]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl ThreadArgs {
    /// The number asked for, else that of the machine's cores.
    pub(crate) fn count(&self) -> usize {
        self.threads.map_or_else(default_threads, usize::from)
    }
}

#[derive(Debug, Args)]
pub(crate) struct ScratchArgs {
    /// Folder for streams, indexes and unpacked images [default: the system's temporary folder]
    #[arg(long = "scratch", value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl ScratchArgs {
    /// The folder asked for, else the system's.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.clone().unwrap_or_else(std::env::temp_dir)
    }
}

/// Measure the page kernels against the speed of reading memory
///
/// The memory is synthetic: real desktop pages, repeated, with a few words of each changed. It needs twice --mib.
#[derive(Debug, Args)]
pub(crate) struct ScanArgs {
    /// Size of the memory that is scanned, to be larger than the caches
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) mib: u32,
    /// How long to measure each level with each number of threads
    #[arg(long, default_value_t = 3.0, value_name = "S", value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Ask for huge pages, as VMMs do for guest memory, instead of small ones, as a mapped file has
    #[arg(long)]
    pub(crate) huge_pages: bool,
    #[command(flatten)]
    pub(crate) threads: ThreadArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Which efforts to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EffortChoice {
    /// Only `store`.
    Store,
    /// Only `fast`.
    Fast,
    /// Only `balanced`.
    Balanced,
    /// Only `dense`.
    Dense,
    /// Only `max`.
    Max,
    /// Every effort there is.
    All,
}

impl EffortChoice {
    /// The efforts meant.
    pub(crate) fn efforts(self) -> Vec<Effort> {
        match self {
            EffortChoice::Store => vec![Effort::Store],
            EffortChoice::Fast => vec![Effort::Fast],
            EffortChoice::Balanced => vec![Effort::Balanced],
            EffortChoice::Dense => vec![Effort::Dense],
            EffortChoice::Max => vec![Effort::Max],
            EffortChoice::All => Effort::AVAILABLE.to_vec(),
        }
    }
}

/// Whether each run maps the image anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mapping {
    /// Each run maps the image again and pays for its page faults, as a program that is started does.
    Fresh,
    /// The image stays mapped, as guest memory is in its VMM.
    Kept,
}

/// Whether to scan on a GPU, and on which; the same in every program.
#[derive(Debug, Args)]
pub(crate) struct GpuArgs {
    /// Whether to scan on a GPU besides the CPU: auto (if there is one that helps), off, or require (fail without one)
    #[arg(long, default_value = "auto", value_parser = gpu_modes())]
    pub(crate) gpu: GpuMode,
    /// Only adapters with this in their name, in any case. With --gpu require, it may be a software one
    #[arg(long, value_name = "NAME")]
    pub(crate) gpu_adapter: Option<String>,
}

impl GpuArgs {
    /// What the engine is to be told.
    pub(crate) fn choice(&self) -> GpuChoice {
        GpuChoice { mode: self.gpu, adapter: self.gpu_adapter.clone() }
    }
}

fn gpu_modes() -> impl TypedValueParser<Value = GpuMode> {
    PossibleValuesParser::new(GpuMode::ALL.map(GpuMode::name)).try_map(|name| name.parse::<GpuMode>())
}

/// Measure what a GPU takes off the CPU, and what getting pages there costs
///
/// The memory is synthetic: real desktop pages, repeated, with a few words of each changed.
#[cfg(feature = "gpu")]
#[derive(Debug, Args)]
pub(crate) struct GpuBenchArgs {
    /// Size of the memory, to be larger than the caches; host memory of that size is needed once
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = clap::value_parser!(u32).range(8..=1 << 20))]
    pub(crate) mib: u32,
    /// How long to measure each thing
    #[arg(long, default_value_t = 3.0, value_name = "S", value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Timed runs of each pipeline
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeats: u32,
    /// Efforts to measure, with commas between them
    #[arg(short, long, value_enum, value_delimiter = ',', default_value = "store,fast,balanced")]
    pub(crate) effort: Vec<EffortChoice>,
    #[command(flatten)]
    pub(crate) gpu: GpuArgs,
    #[command(flatten)]
    pub(crate) threads: ThreadArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Run a suite: corpora, contenders and links as it says
///
/// Every contender's output is decoded and compared first. Links are paced in this process. With --check, `mig auto` must be no slower
/// than sending everything as it is, and within 5 % of the best fixed effort, on every link. Ctrl-C leaves what was measured so far.
#[derive(Debug, Args)]
pub(crate) struct SuiteArgs {
    /// Name of a suite (`mig-bench list`), or a .toml file
    #[arg(default_value = "quick")]
    pub(crate) suite: String,
    /// Memory image of a real guest, instead of the suite's; of one that was packed, what it was made of is measured
    pub(crate) image: Option<PathBuf>,
    /// Something the destination has: the VM's disk image, an older memory image
    #[arg(short, long = "reference", value_name = "FILE", requires = "image")]
    pub(crate) references: Vec<PathBuf>,
    /// A later capture of the same guest, to be sent as a live round; several in order
    #[arg(long = "round", value_name = "FILE", requires = "image")]
    pub(crate) rounds: Vec<PathBuf>,
    /// Where the files are that the suite names
    #[arg(long, value_name = "DIR", conflicts_with = "image")]
    pub(crate) corpora: Option<PathBuf>,
    /// Also write the sizes as a Markdown table
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Also write a report with pictures, as one HTML file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) gpu: GpuArgs,
    #[command(flatten)]
    pub(crate) threads: ThreadArgs,
    #[command(flatten)]
    pub(crate) scratch: ScratchArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Compare two reports of the same suite; code 5 if something is worse beyond the noise
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// What `run --json` wrote before
    pub(crate) old: PathBuf,
    /// What it wrote now
    pub(crate) new: PathBuf,
    /// Compare times of different machines and builds, too
    #[arg(long)]
    pub(crate) any_machine: bool,
}

/// What is packed, and with what.
#[derive(Debug, Args)]
pub(crate) struct InputArgs {
    /// Memory image of a real guest, in any format that `mig pack` reads
    pub(crate) image: PathBuf,
    /// Something the destination has: the VM's disk image, an older memory image
    #[arg(short, long = "reference", value_name = "FILE")]
    pub(crate) references: Vec<PathBuf>,
    /// Efforts to measure
    #[arg(short, long, value_enum, default_value = "all")]
    pub(crate) effort: EffortChoice,
    #[command(flatten)]
    pub(crate) gpu: GpuArgs,
    #[command(flatten)]
    pub(crate) threads: ThreadArgs,
    #[command(flatten)]
    pub(crate) scratch: ScratchArgs,
}

/// Pack and unpack an image beside gzip, zstd and memcpy, in interleaved runs
#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    /// Timed runs of each contender
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeats: u32,
    /// Whether each run maps the image anew
    #[arg(long, value_enum, default_value = "fresh")]
    pub(crate) mapping: Mapping,
    /// Leave gzip out, which takes long; no size can be compared with it then
    #[arg(long)]
    pub(crate) no_gzip: bool,
    /// Leave out the contenders that are not MiG, but for memcpy
    #[arg(long)]
    pub(crate) no_peers: bool,
    /// Leave out MiG without references
    #[arg(long)]
    pub(crate) no_bare: bool,
    /// Leave out peak memory
    #[arg(long)]
    pub(crate) no_peak: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Measure what the fingerprint index of a reference costs
#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// Disk image or memory image
    pub(crate) image: PathBuf,
    /// Timed builds with each number of threads
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeats: u32,
    #[command(flatten)]
    pub(crate) threads: ThreadArgs,
    #[command(flatten)]
    pub(crate) scratch: ScratchArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Measure the peak memory of packing and unpacking, each in a process of its own
#[derive(Debug, Args)]
pub(crate) struct PeakArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Make a large sparse image of tiled real pages: SYNTHETIC, for `peak` only
///
/// Its first page says that it is synthetic, and every report about it does.
#[derive(Debug, Args)]
pub(crate) struct SparseArgs {
    /// Size of the image
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 14))]
    pub(crate) gib: u32,
    /// How much of it is data
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) data_mib: u32,
    /// Size of the pieces in which the data lies; large ones hold whole blocks of the engine, as a real guest does
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) piece_mib: u32,
    /// Another seed makes another image
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// The image to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Replace the file if it exists
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// References and the indexes that were built of them, as this program tells its own processes.
#[derive(Clone, Debug, Args)]
pub(crate) struct BuiltArgs {
    /// References in order
    #[arg(long = "reference")]
    pub(crate) references: Vec<PathBuf>,
    /// Their indexes in the same order
    #[arg(long = "index")]
    pub(crate) indexes: Vec<PathBuf>,
}

/// One run in a process of its own; says how it went as JSON
#[derive(Debug, Args)]
pub(crate) struct PeakChildArgs {
    /// What to run
    #[arg(value_enum)]
    pub(crate) job: Job,
    /// The image, also for unpacking
    pub(crate) image: PathBuf,
    /// The stream to write or to read
    #[arg(long)]
    pub(crate) stream: PathBuf,
    #[command(flatten)]
    pub(crate) built: BuiltArgs,
    /// Effort
    #[arg(long, default_value = "balanced")]
    pub(crate) effort: Effort,
    #[command(flatten)]
    pub(crate) gpu: GpuArgs,
    #[command(flatten)]
    pub(crate) threads: ThreadArgs,
    #[command(flatten)]
    pub(crate) scratch: ScratchArgs,
}

/// One contender in a process of its own, packing once; says how it went as JSON
#[derive(Debug, Args)]
pub(crate) struct WholeChildArgs {
    /// As suites name it
    pub(crate) contender: Named,
    /// The image
    pub(crate) image: PathBuf,
    #[command(flatten)]
    pub(crate) built: BuiltArgs,
    #[command(flatten)]
    pub(crate) threads: ThreadArgs,
    #[command(flatten)]
    pub(crate) scratch: ScratchArgs,
}

/// What a process of its own does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Job {
    /// The image into the stream.
    Pack,
    /// The stream into an unnamed file.
    Unpack,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.001..=3600.0).contains(&number) => Ok(number),
        Ok(number) => Err(format!("{number} is not from 0.001 to 3600")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_bounded() {
        assert_eq!(seconds("2.5"), Ok(2.5));
        for bad in ["0", "-1", "NaN", "inf", "1e9", "soon"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
