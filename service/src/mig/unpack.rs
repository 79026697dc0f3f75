//! `mig unpack` and `mig verify`.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use mig_engine::image::WriteAs;
use mig_engine::{
    DecodeError, DecodeLimits, FileStore, Header, PAGE_SIZE, Reader, Reference, UnpackSummary, Unpacker,
};

use crate::cli::{UnpackArgs, VerifyArgs};
use crate::exit::Problem;
use crate::human;
use crate::output::{Output, folder_of, is_dash, print};
use crate::references::{explain, resolve};
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
    if let Some(pages) = &args.pages {
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

pub(crate) fn verify(args: &VerifyArgs, run: &Run) -> Result<()> {
    let bar = Bar::new("verifying");
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
