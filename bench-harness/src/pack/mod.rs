//! `mig-bench pack`: sizes and speeds of MiG and its peers on one image, in interleaved runs.
//!
//! First all files are read once and indexes are built, then every contender proves itself, which warms it up. Then
//! come rounds: each contender packs once, in the same order in every round, then each of ours unpacks into a file and
//! into memory. Whatever disturbs the machine for a while so meets all of them.

mod goals;
pub(crate) mod result;

use anyhow::{Context, Result};
use mig_engine::{Gpu, Level, PAGE_SIZE};

use crate::cli::{InputArgs, PackArgs};
use crate::contender::{
    Contender, GzipProgram, Key, Library, Memcpy, Mig, Subject, Zlib, Zstd, ZstdProgram, compare_pages,
};
use crate::corpus::sparse::synthetic;
use crate::exit::Problem;
use crate::human;
use crate::measure::{Cost, Timing};
use crate::memory::{Backing, allocate, available};
use crate::packed::refuse_packed;
use crate::peak;
use crate::provenance::{Provenance, version_of};
use crate::references::{References, warm};
use crate::report::Report;
use crate::run::{Run, Steps};

use result::{Image, Line, PackResult};

/// Levels of zstd that the goals name.
const ZSTD_LEVELS: [i32; 2] = [1, 3];

pub(crate) fn run(args: &PackArgs, run: &Run) -> Result<()> {
    let provenance = Provenance::now();
    let input = &args.input;
    let scratch =
        tempfile::tempdir_in(input.scratch.folder()).context("cannot make a folder in --scratch")?;
    let (subject, data_bytes) = open_subject(input, args.mapping, scratch.path())?;
    let pages = subject.image().page_count();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(subject.threads).build()?;
    let references =
        pool.install(|| References::build(&input.references, scratch.path(), pages, subject.level, run))?;
    drop(pool);

    let mut notes = vec![
        "GB/s are decimal gigabytes of the image's file; the median of all runs, with the slowest and the fastest"
            .to_owned(),
        "mig and the libraries write into a sink that only counts, programs to /dev/null; page cache warm; indexes \
         built beforehand"
            .to_owned(),
        "unpacking into a file does not include syncing it; memory is populated beforehand, in huge pages if the \
         system gives them, as a receiving VMM's is"
            .to_owned(),
    ];
    let room = provenance.memory_available;
    let inputs =
        data_bytes + references.built.iter().map(|built| built.blocks * PAGE_SIZE as u64).sum::<u64>();
    if inputs > room / 2 {
        let (inputs, room) = (human::bytes(inputs), human::bytes(room));
        notes.push(format!("inputs of {inputs} may not all stay in the page cache ({room} were available)"));
    }
    let contenders = contenders(args, &subject, &references, run, &mut notes)?;
    let lines = measure(args, &subject, contenders, run, &mut notes)?;
    let peaks = if args.no_peak {
        Vec::new()
    } else {
        peak::measure(&subject, &references, &input.effort.efforts(), run)?
    };
    let image = Image {
        format: subject.image().layout().format().name(),
        bytes: subject.image().file_len(),
        pages,
        data_bytes,
    };
    let mapping = format!("{:?}", args.mapping).to_lowercase();
    let result = PackResult {
        image,
        mapping,
        threads: subject.threads,
        references: references.built,
        contenders: lines,
        peaks,
    };
    let goals = goals::goals(&result, args);
    let beside = goals::beside(&result);
    let mut report = Report::new("pack", provenance.with_gpu(subject.gpu.as_ref()), result);
    report.synthetic = synthetic(subject.path())?;
    report.goals = goals;
    notes.extend(beside);
    report.notes = notes;
    if report.result.references.is_empty() {
        report.notes.push("the goals are about an image with its disk as the reference (--reference)".into());
    } else if report.result.threads != 2 {
        report.notes.push("the goals were set for two threads".into());
    }
    report.finish(&report.result.describe(), &args.output)
}

/// Opens what is packed, with its page cache warm; gives its bytes of data as well.
pub(crate) fn open_subject(
    input: &InputArgs,
    mapping: crate::cli::Mapping,
    scratch: &std::path::Path,
) -> Result<(Subject, u64)> {
    let level = Level::from_env().map_err(|error| Problem::Usage(error.to_string()))?;
    refuse_packed(&input.image)?;
    let mut subject = Subject::open(&input.image, mapping, input.threads.count(), level, scratch)?;
    subject.gpu = Gpu::open(&input.gpu.choice()).map_err(|error| Problem::Usage(error.to_string()))?;
    if subject.image().page_count() == 0 {
        return Err(Problem::Usage(format!("{} holds no pages", input.image.display())).into());
    }
    let data = warm(subject.image().path().unwrap_or(&input.image))?;
    Ok((subject, data))
}

/// Everybody who was asked for and is installed, in the order of the rounds.
fn contenders(
    args: &PackArgs,
    subject: &Subject,
    references: &References,
    run: &Run,
    notes: &mut Vec<String>,
) -> Result<Vec<Box<dyn Contender>>> {
    let mut list: Vec<Box<dyn Contender>> = vec![Box::new(Memcpy::new(subject.bytes().len())?)];
    if !args.no_peers {
        let installed = |program: &str, notes: &mut Vec<String>| {
            let found = version_of(program).is_some();
            if !found {
                notes.push(format!("there is no {program} program on this machine"));
            }
            found
        };
        if !args.no_gzip {
            if installed("gzip", notes) {
                list.push(Box::new(GzipProgram::new()));
            }
            list.push(Box::new(Library::new(Key::Zlib, Zlib)));
        }
        let zstd = installed("zstd", notes);
        for level in ZSTD_LEVELS {
            if zstd {
                list.push(Box::new(ZstdProgram::new(level, subject.threads)));
            }
            let threads = subject.threads;
            let key = Key::Zstd { level, threads, program: false };
            list.push(Box::new(Library::new(key, Zstd { level, threads, long: false })));
        }
    }
    let none = References::default();
    for with in [references, &none] {
        if with.paths.is_empty() && args.no_bare && !references.paths.is_empty() {
            continue;
        }
        for effort in args.input.effort.efforts() {
            list.push(Box::new(Mig::new(subject, effort, with, &run.cancel)?));
        }
        if references.paths.is_empty() {
            break;
        }
    }
    Ok(list)
}

/// What one contender came to so far.
struct Running {
    contender: Box<dyn Contender>,
    bytes: u64,
    pack: Vec<Cost>,
    unpack_file: Vec<Cost>,
    unpack_memory: Vec<Cost>,
}

fn measure(
    args: &PackArgs,
    subject: &Subject,
    contenders: Vec<Box<dyn Contender>>,
    run: &Run,
    notes: &mut Vec<String>,
) -> Result<Vec<Line>> {
    let steps = Steps::new(contenders.len() as u64 * (u64::from(args.repeats) + 1));
    let mut all = Vec::new();
    for mut contender in contenders {
        run.check()?;
        let name = contender.key().to_string();
        steps.now(format!("verifying {name}"));
        let verified = contender.verify(subject).context(name)?;
        let pack = if contender.once() { vec![verified.cost] } else { Vec::new() };
        let bytes = verified.bytes;
        all.push(Running { contender, bytes, pack, unpack_file: Vec::new(), unpack_memory: Vec::new() });
        steps.done();
    }
    let mut memory = receiver(subject, notes)?;
    for round in 1..=args.repeats {
        for running in all.iter_mut().filter(|running| !running.contender.once()) {
            run.check()?;
            let name = running.contender.key().to_string();
            steps.now(format!("round {round} of {}: {name}", args.repeats));
            running.pack.push(running.contender.pack(subject).context(name)?);
        }
        for running in &mut all {
            run.check()?;
            let name = running.contender.key().to_string();
            steps.now(format!("round {round} of {}: {name}, unpacking", args.repeats));
            running.unpack(subject, memory.as_deref_mut()).context(name)?;
            steps.done();
        }
    }
    let bytes = subject.image().file_len();
    let lines: Option<Vec<Line>> = all.iter().map(|running| running.line(bytes)).collect();
    let mut lines = lines.context("a contender was not measured")?;
    let gzip = lines.iter().find(|line| line.key == Key::GzipProgram).map(|line| line.bytes);
    for line in &mut lines {
        line.of_gzip = gzip.filter(|_| line.is_packed()).map(|gzip| line.bytes as f64 / gzip as f64);
    }
    Ok(lines)
}

/// A receiver's memory, if this machine has room for it.
fn receiver(subject: &Subject, notes: &mut Vec<String>) -> Result<Option<memmap2::MmapMut>> {
    let needed = subject.image().page_count() * PAGE_SIZE as u64;
    // Half of it again for everything else, the page cache of what is unpacked among it.
    if available().is_some_and(|available| available < needed + needed / 2) {
        let needed = human::bytes(needed);
        notes.push(format!(
            "unpacking into memory is not measured: there is no room for {needed} of guest memory"
        ));
        return Ok(None);
    }
    Ok(Some(allocate(usize::try_from(needed)?, Backing::Huge)?))
}

impl Running {
    fn unpack(&mut self, subject: &Subject, memory: Option<&mut [u8]>) -> Result<()> {
        self.unpack_file.extend(self.contender.unpack_to_file(subject)?);
        if let Some(memory) = memory
            && let Some(cost) = self.contender.unpack_to_memory(subject, memory)?
        {
            compare_pages(&self.contender.key().to_string(), memory, subject.image())?;
            self.unpack_memory.push(cost);
            memory.fill(0);
        }
        Ok(())
    }

    fn line(&self, bytes: u64) -> Option<Line> {
        let key = self.contender.key();
        Some(Line {
            name: key.to_string(),
            key,
            about: self.contender.about(),
            bytes: self.bytes,
            of_gzip: None,
            pack: Timing::new(bytes, &self.pack)?,
            unpack_file: Timing::new(bytes, &self.unpack_file),
            unpack_memory: Timing::new(bytes, &self.unpack_memory),
            blocks: self.contender.summary().map(Into::into),
        })
    }
}
