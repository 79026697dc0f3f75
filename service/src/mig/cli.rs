//! The command line: what can be said, and nothing of what is done.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use mig_engine::{Effort, FormatChoice, GpuChoice, GpuMode, Technique};
use mig_service::keys::Host;
use mig_service::local::unix_path;
use mig_service::transfer::EffortChoice;

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
  4    a reference that is needed is missing or has changed
  5    the other host can't be reached, was silent for too long, refused, or failed
  6    the migration was cancelled at the other end, or by QEMU
  7    all was sent, but the other end did not confirm that it is complete
  130  interrupted; nothing was written";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Pack(PackArgs),
    Unpack(UnpackArgs),
    Verify(VerifyArgs),
    Index(IndexArgs),
    Inspect(InspectArgs),
    Devices(DevicesArgs),
    Send(SendArgs),
    Receive(ReceiveArgs),
    Keys(KeysArgs),
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
    /// How hard to compress: store, fast, balanced, dense or max
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
    #[command(flatten)]
    pub(crate) semantics: SemanticArgs,
    /// Replace the output file if it exists
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Print what was done as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// What may be made of what the guest's pages are.
#[derive(Debug, Args)]
pub(crate) struct SemanticArgs {
    /// What becomes of pages that the guest has free: keep what they hold, or pack them as zero, which the guest does not notice
    #[arg(long, value_enum, default_value_t = FreePages::Keep)]
    pub(crate) free_pages: FreePages,
    /// Leave out a technique, to see what it is worth (guest, order, self-relative, kernel, bases, long-matches); may be given
    /// several times
    #[arg(long, value_name = "NAME", value_parser = techniques())]
    pub(crate) without: Vec<Technique>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FreePages {
    /// As they are.
    Keep,
    /// As pages of zeros.
    Zero,
}

fn techniques() -> impl TypedValueParser<Value = Technique> {
    PossibleValuesParser::new(Technique::ALL.map(Technique::name)).try_map(|name| name.parse::<Technique>())
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
    /// Disk image or memory image; the index is written beside it, as IMAGE.migidx, of disks also IMAGE.migsmp
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
    /// Pack the image to nowhere, and say how each class of pages was coded and what each technique saved (memory images only)
    #[arg(long, conflicts_with = "svg")]
    pub(crate) explain: bool,
    /// Effort to explain
    #[arg(short, long, default_value = "balanced", requires = "explain")]
    pub(crate) effort: Effort,
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

/// How to reach the other host
#[derive(Debug, Args)]
pub(crate) struct LinkArgs {
    /// Folder with ca.pem, cert.pem and key.pem of this host, as `mig keys` makes it
    #[arg(long, value_name = "FOLDER")]
    pub(crate) keys: Option<PathBuf>,
    /// Without TLS: for tests, on loopback only
    #[arg(long, conflicts_with = "keys")]
    pub(crate) insecure: bool,
    /// Connections for data [default: one for each core, at most 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) connections: Option<u8>,
    /// Seconds of silence, or without progress, after which the link counts as broken
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) timeout: u32,
    /// Seconds to try to connect again, or to wait for the other host to do so
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=86400))]
    pub(crate) retry: u32,
}

/// Send a VM's memory to another host, where `mig receive` or `migd` takes it
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// Memory image (raw, ELF core, LiME, QEMU mapped-ram, Firecracker, Cloud Hypervisor)
    #[arg(required_unless_present = "qemu", conflicts_with = "qemu")]
    pub(crate) file: Option<PathBuf>,
    /// Instead of an image: a running guest. A socket is made here, for QEMU's `migrate unix:PATH`
    #[arg(long, value_name = "unix:PATH", value_parser = unix_path, requires = "vm")]
    pub(crate) qemu: Option<PathBuf>,
    /// Keep a running guest's memory in this file for its way back, and use what is in it from the last time
    #[arg(long, value_name = "FILE", requires = "qemu")]
    pub(crate) snapshot: Option<PathBuf>,
    /// MiB of a running guest's pages that may be held back because they keep changing
    #[arg(long, value_name = "MiB", default_value_t = 16, requires = "qemu", value_parser = clap::value_parser!(u64).range(0..=65536))]
    pub(crate) hold: u64,
    /// The guest is paused: take in its memory as fast as QEMU gives it, and send what can wait as an image is sent, which is smaller. A guest
    /// that runs would be stopped for as long as that takes
    #[arg(long, requires = "qemu")]
    pub(crate) paused: bool,
    /// Where to
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) to: String,
    /// Name that the other host's certificate must have, if it is not HOST
    #[arg(long, value_name = "NAME")]
    pub(crate) peer: Option<String>,
    /// What the VM is called [default: the file's name without its ending]
    #[arg(long, value_name = "NAME")]
    pub(crate) vm: Option<String>,
    #[command(flatten)]
    pub(crate) references: ReferenceArgs,
    /// How hard to compress: auto (as the link asks for), store, fast, balanced, dense or max
    #[arg(short, long, default_value = "auto")]
    pub(crate) effort: EffortChoice,
    /// Format of the image, if it is not what it looks like
    #[arg(long)]
    pub(crate) format: Option<FormatChoice>,
    /// Have the migd with this control socket do it, as its configuration says; it goes on if this program is killed
    #[arg(long, value_name = "unix:PATH", value_parser = unix_path,
        conflicts_with_all = ["snapshot", "wait", "keys", "insecure", "connections", "threads", "gpu", "gpu_adapter"])]
    pub(crate) daemon: Option<PathBuf>,
    /// Seconds to go on trying a destination that is busy
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=86400))]
    pub(crate) wait: u32,
    #[command(flatten)]
    pub(crate) link: LinkArgs,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    #[command(flatten)]
    pub(crate) gpu: GpuArgs,
    /// Print what happens as lines of JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Wait for one migration and receive it
#[derive(Debug, Args)]
pub(crate) struct ReceiveArgs {
    /// The image to write; it appears when all of it is verified
    #[arg(short, long, value_name = "OUT", required_unless_present = "qemu", conflicts_with = "qemu")]
    pub(crate) output: Option<PathBuf>,
    /// Instead of an image: a running guest, for a QEMU that was started with `-incoming unix:PATH`
    #[arg(long, value_name = "unix:PATH", value_parser = unix_path)]
    pub(crate) qemu: Option<PathBuf>,
    /// Keep a running guest's memory in this file for its way back, and use what is in it from the last time
    #[arg(long, value_name = "FILE", requires = "qemu")]
    pub(crate) snapshot: Option<PathBuf>,
    /// Where to listen; port 0 is any that is free
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: String,
    /// The only host that may send: the name in its certificate [default: all that the CA has signed]
    #[arg(long, value_name = "NAME")]
    pub(crate) from: Option<String>,
    #[command(flatten)]
    pub(crate) references: ReferenceArgs,
    #[command(flatten)]
    pub(crate) link: LinkArgs,
    /// MiB of data that may be held before it is verified
    #[arg(long, value_name = "MiB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub(crate) window: u64,
    /// GiB of the largest guest to take
    #[arg(long, value_name = "GiB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1048576))]
    pub(crate) max_size: u64,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// Replace the output file if it exists
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Print what happens as lines of JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Make a private CA, and certificates for hosts
#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    /// Folder for them; a CA that is there is used again
    pub(crate) folder: PathBuf,
    /// Hosts, with further names and addresses that they are reached by
    #[arg(required = true, value_name = "NAME[=ADDRESS,...]")]
    pub(crate) hosts: Vec<Host>,
    /// Days that the hosts' certificates are valid
    #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub(crate) days: u32,
}

/// Migrate real desktop memory that this program carries to another process, and pack it, beside gzip and zstd
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
