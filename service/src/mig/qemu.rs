//! QEMU migration streams in files: packed as they are read, from their start to their end.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use mig_engine::gpu::Beside;
use mig_engine::live::LateGuest;
use mig_engine::qemu::{self, Coding, FromFile, Gather, Packed, RamBlock};
use mig_engine::{CpuWorker, Effort, FormatChoice, FrameWrite, Level, Progress, Technique, Techniques};
use mig_service::output::{Output, is_dash, print, stdout_file};
use mig_service::problem::Problem;
use mig_service::transfer::guest_sizes;
use mig_service::{human, references};
use serde_json::json;

use crate::cli::{FreePages, PackArgs};
use crate::pack::{blocks_json, kinds_table};
use crate::run::{Bar, Run};

/// Enough of a stream to see what it is and which machine it is of.
const START: usize = 1 << 16;
/// The most pages of a block.
const BLOCK_PAGES: u64 = 8192;

/// A stream that is open, and its first bytes.
pub(crate) struct Stream {
    input: Box<dyn Read + Send>,
    start: Vec<u8>,
}

/// Standard input, which may have been looked at.
static STDIN: Mutex<Option<BufReader<io::Stdin>>> = Mutex::new(None);

/// All of standard input, even what [`open_stream`] has looked at.
pub(crate) fn stdin() -> BufReader<io::Stdin> {
    let mut stdin = STDIN.lock().unwrap_or_else(PoisonError::into_inner);
    stdin.take().unwrap_or_else(|| BufReader::with_capacity(START, io::stdin()))
}

/// Opens what is to be packed, if it is a stream.
pub(crate) fn open_stream(path: &Path, format: Option<FormatChoice>) -> Result<Option<Stream>> {
    if format.is_some_and(|format| format != FormatChoice::Qemu) {
        return Ok(None);
    }
    let forced = format == Some(FormatChoice::Qemu);
    if is_dash(path) {
        let mut input = stdin();
        // A pipe gives less than there is; but the first bytes of a stream come together.
        let start = input.fill_buf().context("cannot read standard input")?.to_vec();
        if forced || qemu::is_stream(&start) {
            return Ok(Some(Stream { input: Box::new(input), start }));
        }
        *STDIN.lock().unwrap_or_else(PoisonError::into_inner) = Some(input);
        return Ok(None);
    }
    let context = || format!("cannot read {}", path.display());
    if !path.metadata().with_context(context)?.is_file() {
        return Ok(None);
    }
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(START as u64).read_to_end(&mut start))
        .with_context(context)?;
    if !forced && !qemu::is_stream(&start) {
        return Ok(None);
    }
    let file = File::open(path).with_context(context)?;
    Ok(Some(Stream { input: Box::new(BufReader::with_capacity(1 << 20, file)), start }))
}

impl Stream {
    /// Its first bytes.
    pub(crate) fn start(&self) -> &[u8] {
        &self.start
    }
}

pub(crate) fn pack(
    args: &PackArgs,
    stream: Stream,
    output: Option<Output>,
    beside: &Beside,
    run: &Run,
) -> Result<()> {
    if args.random_access {
        let text = "--random-access is for images; the pages of a QEMU stream come in its own order";
        return Err(Problem::Usage(text.into()).into());
    }
    if args.semantics.free_pages == FreePages::Zero {
        let text = "--free-pages is for images; a QEMU stream comes back as it was, to the byte";
        return Err(Problem::Usage(text.into()).into());
    }
    let bar = Bar::new("packing");
    let show = |progress: Progress| bar.show(progress);
    let pool = run.pool(&args.work)?;
    let worker = CpuWorker { level: Level::best() };
    let packed = pool.install(|| -> Result<Packed> {
        let sizes = guest_sizes(&stream.start);
        let references = references::for_packing(&args.references.files, &sizes, &run.cancel, None)?;
        let without = &args.semantics.without;
        let techniques =
            without.iter().fold(Techniques::ALL, |techniques, &technique| techniques.without(technique));
        let guest = LateGuest::new(references::kernel_cache());
        let reads = techniques.has(Technique::Guest) && args.effort != Effort::Store;
        let coding = Coding {
            references: &references,
            worker: &worker,
            beside,
            level: Level::best(),
            top: args.effort,
            techniques,
            block_pages: BLOCK_PAGES,
            guest: reads.then_some(&guest),
            gather: reads.then_some(Gather::ALL),
            cancel: run.cancel.clone(),
        };
        let input = FromFile(stream.input);
        let dir = std::env::temp_dir();
        Ok(match &output {
            Some(output) => qemu::pack(input, coding, &dir, Buffered::new(output.file()?), Some(&show))?,
            None => qemu::pack(input, coding, &dir, Buffered::new(stdout_file()?), Some(&show))?,
        })
    });
    let packed = packed.with_context(|| format!("cannot pack {}", args.input.display()))?;
    let time = bar.done();
    if let Some(output) = output {
        output.finish()?;
    }
    if let Some(why) = &packed.opaque {
        log::warn!("a part of the stream was carried as it is: {why}");
    }
    let pages = packed.blocks.delivered();
    if args.json {
        let report = json!({
            "format": "qemu",
            "machine": packed.machine,
            "ram": packed.blocks_of_ram.iter().map(block_json).collect::<Vec<_>>(),
            "records": packed.records,
            "pages": pages,
            "stream_bytes": packed.stream_bytes,
            "script_bytes": packed.scripts,
            "opaque": packed.opaque,
            "blocks": blocks_json(&packed.blocks),
            "seconds": time.as_secs_f64(),
        });
        return print(&format!("{report:#}\n"));
    }
    let guest = pages << 12;
    eprintln!(
        "QEMU stream of {} with {} of memory to {} ({}), {} in {}",
        packed.machine,
        human::bytes(guest),
        human::bytes(packed.stream_bytes),
        human::percent(packed.stream_bytes, guest),
        human::rate(guest, time),
        human::seconds(time),
    );
    eprint!("{}", kinds_table(&packed.blocks, true));
    eprintln!("  {:<18} {:>39}", "device state, order", human::bytes(packed.scripts));
    Ok(())
}

/// One block of RAM, for JSON.
pub(crate) fn block_json(block: &RamBlock) -> serde_json::Value {
    json!({ "name": String::from_utf8_lossy(&block.name), "pages": block.pages })
}

/// Gathers small frames.
struct Buffered(io::BufWriter<File>);

impl Buffered {
    fn new(file: File) -> Self {
        Buffered(io::BufWriter::with_capacity(1 << 20, file))
    }
}

impl FrameWrite for Buffered {
    fn write_frame(&mut self, kind: mig_engine::FrameType, parts: &mut [io::IoSlice<'_>]) -> io::Result<()> {
        self.0.write_frame(kind, parts)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.0.finish()
    }
}
