//! The command line: what can be said, and nothing of what is done.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use mig_engine::{Effort, FormatChoice, GpuChoice, GpuMode};

/// Packs the memory of desktop VMs by understanding it.
///
/// Pages that are zero, that equal a block of the VM's disk, a page of an older snapshot or a page packed before
/// are settled; only the rest is compressed. Every page is verified when it is unpacked.
#[derive(Debug, Parser)]
#[command(name = "mig", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    a file can't be read or written, or the like
  2    the command line is wrong
  3    the input is damaged, or is not what it should be
  4    a reference that the packed file needs is missing or has changed
  130  interrupted; nothing was written";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Pack(PackArgs),
    Unpack(UnpackArgs),
    Verify(VerifyArgs),
    Index(IndexArgs),
    Inspect(InspectArgs),
    Devices(DevicesArgs),
    Demo(DemoArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Whether to scan on a GPU, and on which; the same in every program.
#[derive(Debug, Args)]
pub(crate) struct GpuArgs {
    /// Whether to scan on a GPU besides the CPU: auto (if there is one that helps), off, or require (fail without one)
    #[arg(long, default_value = "auto", value_parser = gpu_modes())]
    pub(crate) gpu: GpuMode,
    /// Only adapters with this in their name, in any case; `mig devices` lists them. With --gpu require, it may be a software one
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

/// Pack a memory image into a .mig file
#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    /// Memory image (raw, ELF core, LiME, QEMU mapped-ram, Firecracker, Cloud Hypervisor), or - for standard input
    pub(crate) input: PathBuf,
    /// The .mig file to write, or - for standard output
    #[arg(short, long, value_name = "OUT.mig")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) references: ReferenceArgs,
    /// How hard to compress: store, fast or balanced
    #[arg(short, long, default_value = "balanced")]
    pub(crate) effort: Effort,
    /// Make any page readable on its own (a tenth larger, more with a snapshot)
    #[arg(long)]
    pub(crate) random_access: bool,
    /// Format of the input, if it is not what it looks like
    #[arg(long)]
    pub(crate) format: Option<FormatChoice>,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    #[command(flatten)]
    pub(crate) gpu: GpuArgs,
    /// Replace the output file if it exists
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Print what was done as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReferenceArgs {
    /// Something the destination has: the VM's disk image (raw, qcow2, vmdk), an older memory image, an older .mig
    #[arg(short = 'r', long = "reference", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct WorkArgs {
    /// Number of threads [default: all cores]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

/// Rebuild the memory image that was packed, bit for bit
#[derive(Debug, Args)]
pub(crate) struct UnpackArgs {
    /// The .mig file, or - for standard input
    pub(crate) input: PathBuf,
    /// The image to write, or - for standard output
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) references: ReferenceArgs,
    /// Write guest-physical memory (byte N is address N) whatever the format that was packed
    #[arg(long = "as", value_enum)]
    pub(crate) write_as: Option<WriteAsArg>,
    /// Write only these pages, one after the other
    #[arg(long, value_name = "A..B", value_parser = page_range, conflicts_with = "write_as")]
    pub(crate) pages: Option<std::ops::Range<u64>>,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// Replace the output file if it exists
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WriteAsArg {
    /// Guest-physical memory.
    Raw,
}

fn page_range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (start, end) = text.split_once("..").ok_or("a range of page numbers looks like 16..32")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let range = number(start)?..number(end)?;
    if range.is_empty() { Err("the range is empty".into()) } else { Ok(range) }
}

/// Check that a .mig file unpacks and verifies, without keeping the image
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The .mig file, or - for standard input
    pub(crate) input: PathBuf,
    #[command(flatten)]
    pub(crate) references: ReferenceArgs,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

/// Build the index of a reference, so that packing does not have to
#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// Disk image or memory image; the index is written beside it, as IMAGE.migidx
    pub(crate) image: PathBuf,
    /// Build it even if there is one that fits
    #[arg(short, long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

/// Show what a memory image or a .mig file holds
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Memory image or .mig file
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) references: ReferenceArgs,
    /// Write a map of the guest's memory as a picture (memory images only)
    #[arg(long, value_name = "OUT.svg")]
    pub(crate) svg: Option<PathBuf>,
    /// Format of the image, if it is not what it looks like
    #[arg(long)]
    pub(crate) format: Option<FormatChoice>,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// List the GPUs that can scan, and measure them beside the CPU
#[derive(Debug, Args)]
pub(crate) struct DevicesArgs {
    /// How long to measure, all kinds of workers together; 0: not at all
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = measuring_time)]
    pub(crate) seconds: f64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn measuring_time(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=3600.0).contains(&number) => Ok(number),
        Ok(number) => Err(format!("{number} is not from 0 to 3600")),
        Err(error) => Err(error.to_string()),
    }
}

/// Pack and unpack real desktop memory that this program carries, beside gzip and zstd
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

/// Print shell completions
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    pub(crate) shell: Shell,
}

/// Write man pages into a folder
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    pub(crate) folder: PathBuf,
}
