//! `mig unpack` and `mig verify`.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use mig_engine::image::WriteAs;
use mig_engine::live::FlatFile;
use mig_engine::{
    DecodeError, DecodeLimits, FileStore, Header, ImageFormat, Level, PAGE_SIZE, Reader, Reference,
    UnpackSummary, Unpacker, qemu,
};
use mig_service::human;
use mig_service::output::{Output, folder_of, is_dash, print};
use mig_service::problem::Problem;
use mig_service::references::{explain, resolve};

use crate::cli::{UnpackArgs, VerifyArgs};
use crate::run::{Bar, Run, threads};

/// Bytes read from the stream at a time.
const READ: usize = 1 << 20;

pub(crate) fn run(args: &UnpackArgs, run: &Run) -> Result<()> {
    let output = if is_dash(&args.output) { None } else { Some(Output::new(&args.output, args.force)?) };
    let file = match &output {
        Some(output) => output.file()?,
        // Later pages refer to earlier ones, so what goes to a pipe is built in a file first.
        None => tempfile::tempfile().context("cannot make a temporary file")?,
    };
    let context = || format!("cannot unpack {}", args.input.display());
    if is_qemu(&args.input)? {
        unpack_stream(args, &file, run).with_context(context)?;
    } else if let Some(pages) = &args.pages {
        write_pages(args, pages.clone(), &file, run).with_context(context)?;
    } else {
        let target = if args.write_as.is_some() { WriteAs::Raw } else { WriteAs::Same };
        let scratch = folder_of(&args.output).to_owned();
        let bar = Bar::new("unpacking");
        let file = file.try_clone()?;
        let job = Job { input: &args.input, threads: threads(&args.work), run };
        let (_, summary) = job
            .unpack(&args.references.files, &bar, |header| {
                FileStore::new(file, &header.layout, target, &scratch)
            })
            .with_context(context)?;
        let time = bar.done();
        let bytes = summary.pages * PAGE_SIZE as u64;
        let (size, rate) = (human::bytes(bytes), human::rate(bytes, time));
        eprintln!("{size} unpacked and verified, {rate} in {}", human::seconds(time));
    }
    match output {
        Some(output) => output.finish(),
        None => copy_out(file),
    }
}

/// Whether a packed file is of a QEMU stream. Standard input is not looked at: it is taken as what it turns out to be.
fn is_qemu(path: &Path) -> Result<bool> {
    if is_dash(path) {
        return Ok(false);
    }
    let Ok(file) = File::open(path) else { return Ok(false) };
    let header = Unpacker::new(BufReader::new(file), DecodeLimits::default());
    Ok(header.is_ok_and(|unpacker| unpacker.header().layout.format() == ImageFormat::Qemu))
}

/// Rebuilds a QEMU stream, or writes a part of the memory in it.
fn unpack_stream(args: &UnpackArgs, file: &File, run: &Run) -> Result<()> {
    if args.write_as.is_none() && args.pages.is_none() {
        let bar = Bar::new("unpacking");
        let out = io::BufWriter::with_capacity(READ, file.try_clone()?);
        let (pages, _) = rebuild(&args.input, &args.references.files, out, threads(&args.work), run)?;
        let (bytes, time) = (pages * PAGE_SIZE as u64, bar.done());
        let (size, rate) = (human::bytes(bytes), human::rate(bytes, time));
        eprintln!(
            "QEMU stream with {size} of memory unpacked and verified, {rate} in {}",
            human::seconds(time)
        );
        return Ok(());
    }
    let (layout, memory) = {
        let header = Unpacker::new(BufReader::new(File::open(&args.input)?), DecodeLimits::default())?;
        let layout = header.header().layout.clone();
        let (_, memory) = rebuild(&args.input, &args.references.files, io::sink(), threads(&args.work), run)?;
        (layout, memory)
    };
    let mut page = vec![0; PAGE_SIZE];
    if let Some(pages) = &args.pages {
        if pages.end > memory.page_count() {
            let text =
                format!("--pages {}..{}: there are {} pages", pages.start, pages.end, memory.page_count());
            return Err(Problem::Usage(text).into());
        }
        let mut out: &File = file;
        for number in pages.clone() {
            memory.read_pages(number, &mut page)?;
            out.write_all(&page).context("cannot write")?;
        }
        return Ok(());
    }
    let addressed = layout.segments().iter().filter_map(|segment| segment.gpa.map(|gpa| (segment, gpa)));
    let end = addressed.clone().map(|(segment, gpa)| gpa + (segment.pages << 12)).max();
    let end = end.ok_or_else(|| {
        Problem::Usage("where the guest's memory lies is not known for this machine".into())
    })?;
    file.set_len(end)?;
    for (segment, gpa) in addressed {
        for place in 0..segment.pages {
            memory.read_pages(segment.first_page + place, &mut page)?;
            if page.iter().any(|&byte| byte != 0) {
                file.write_all_at(&page, gpa + (place << 12)).context("cannot write")?;
            }
        }
    }
    Ok(())
}

/// Rebuilds a QEMU stream into `out`; gives the pages that were verified, and the memory.
fn rebuild(
    input: &Path,
    references: &[impl AsRef<Path>],
    out: impl Write + Send,
    threads: usize,
    run: &Run,
) -> Result<(u64, FlatFile)> {
    let file = BufReader::with_capacity(READ, File::open(input)?);
    let (header, frames) = Unpacker::new(file, DecodeLimits::default())?.into_parts();
    let references = resolve(&header, references)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.with_context(|| format!("cannot start {threads} threads"))?;
    let (dir, cancel) = (std::env::temp_dir(), &run.cancel);
    let (applied, memory) =
        pool.install(|| qemu::unpack(&header, &references, Level::best(), frames, &dir, out, cancel))?;
    Ok((applied.pages, memory))
}

pub(crate) fn verify(args: &VerifyArgs, run: &Run) -> Result<()> {
    let bar = Bar::new("verifying");
    if is_qemu(&args.input)? {
        let done = rebuild(&args.input, &args.references.files, io::sink(), threads(&args.work), run);
        let (pages, _) = done.with_context(|| format!("{} does not verify", args.input.display()))?;
        bar.done();
        let pages = human::count(pages);
        return print(&format!("{}: {pages} pages of a QEMU stream verified\n", args.input.display()));
    }
    let scratch = std::env::temp_dir();
    let file = tempfile::tempfile().context("cannot make a temporary file")?;
    let job = Job { input: &args.input, threads: threads(&args.work), run };
    let store = |header: &Header| FileStore::new(file, &header.layout, WriteAs::Same, &scratch);
    let (_, summary) = job
        .unpack(&args.references.files, &bar, store)
        .with_context(|| format!("{} does not verify", args.input.display()))?;
    bar.done();
    let (pages, bytes) = (human::count(summary.pages), human::bytes(summary.stream_bytes));
    print(&format!("{}: {pages} pages verified, {bytes}\n", args.input.display()))
}

/// A stream to unpack.
struct Job<'a> {
    input: &'a Path,
    threads: usize,
    run: &'a Run,
}

impl Job<'_> {
    fn open(&self) -> Result<Box<dyn Read + Send>> {
        if is_dash(self.input) {
            return Ok(Box::new(BufReader::with_capacity(READ, io::stdin())));
        }
        let file = File::open(self.input)?;
        Ok(Box::new(BufReader::with_capacity(READ, file)))
    }

    fn unpack(
        &self,
        references: &[impl AsRef<Path>],
        bar: &Bar,
        store: impl FnOnce(&Header) -> Result<FileStore, DecodeError>,
    ) -> Result<(FileStore, UnpackSummary)> {
        let show = |progress| bar.show(progress);
        let unpacker = Unpacker::new(self.open()?, DecodeLimits::default())?
            .threads(self.threads)
            .cancel(self.run.cancel.clone())
            .on_progress(&show);
        let references = resolve(unpacker.header(), references)?;
        let store = store(unpacker.header())?;
        let left_out = store.writer().left_out_pages() * PAGE_SIZE as u64;
        if left_out > 0 {
            log::warn!("{} of pages without an address are left out", human::bytes(left_out));
        }
        let summary = unpacker.unpack(&references, &store).map_err(explain)?;
        Ok((store, summary))
    }
}

/// Writes single pages: by random access if the file was packed for it, else by unpacking the rest, too.
fn write_pages(args: &UnpackArgs, pages: Range<u64>, mut out: &File, run: &Run) -> Result<()> {
    let check = |page_count: u64| {
        if pages.end <= page_count {
            return Ok(());
        }
        let text = format!("--pages {}..{}: there are {page_count} pages", pages.start, pages.end);
        Err(anyhow::Error::new(Problem::Usage(text)))
    };
    let reader = if is_dash(&args.input) { None } else { Reader::open(&args.input).ok() };
    if let Some(reader) = reader {
        check(reader.page_count())?;
        let references: Vec<Option<Reference>> = resolve(reader.header(), &args.references.files)?;
        let mut page = [0; PAGE_SIZE];
        for number in pages {
            reader.page(number, &references, &mut page).with_context(|| format!("page {number}"))?;
            out.write_all(&page).context("cannot write")?;
        }
        return Ok(());
    }
    let bar = Bar::new("unpacking");
    let scratch = std::env::temp_dir();
    let job = Job { input: &args.input, threads: threads(&args.work), run };
    let (store, _) = job.unpack(&args.references.files, &bar, |header| {
        let file = tempfile::tempfile()
            .map_err(|source| DecodeError::Io { what: "making a temporary file", source })?;
        FileStore::new(file, &header.layout, WriteAs::Same, &scratch)
    })?;
    bar.done();
    let writer = store.writer();
    let mut page = [0; PAGE_SIZE];
    for number in pages.clone() {
        let Some(offset) = writer.page_offset(number) else { return check(number) };
        writer.file().read_exact_at(&mut page, offset)?;
        out.write_all(&page).context("cannot write")?;
    }
    Ok(())
}

fn copy_out(mut file: File) -> Result<()> {
    file.rewind()?;
    match io::copy(&mut file, &mut io::stdout().lock()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map(|_| ()).context("cannot write to standard output"),
    }
}
