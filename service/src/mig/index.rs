//! `mig index`.

use std::time::Instant;

use anyhow::{Context, Result};
use mig_engine::reference::Samples;
use mig_engine::{Progress, Reference, ReferenceKind};
use mig_service::human;
use mig_service::output::print;
use mig_service::references::{IndexFiles, save_index, saved};

use crate::cli::IndexArgs;
use crate::run::{Bar, Run};

pub(crate) fn run(args: &IndexArgs, run: &Run) -> Result<()> {
    let path = &args.image;
    let pool = run.pool(&args.work)?;
    let reference = Reference::open(path, 0).with_context(|| format!("cannot index {}", path.display()))?;
    let is_disk = reference.kind() == ReferenceKind::Disk;
    let files = IndexFiles::beside(path);
    if !args.force
        && let (Some(index), samples) = pool.install(|| saved(path, &reference, &files))
        && (!is_disk || samples.is_some())
    {
        return print(&format!(
            "{} fits {}: {} distinct blocks\n",
            files.index.display(),
            path.display(),
            human::count(index.distinct())
        ));
    }
    let bar = Bar::new("indexing");
    let start = Instant::now();
    let show = |pages, total_pages| bar.show(Progress::new(pages, total_pages, 0));
    let (index, samples) = pool.install(|| save_index(path, &reference, &files, &run.cancel, &show))?;
    bar.done();
    let mut names = files.index.display().to_string();
    if samples.is_some() {
        names += &format!(" and {}", files.samples.display());
    }
    let file_len = index.file_len() + samples.as_ref().map_or(0, Samples::file_len);
    let bytes = reference.need().blocks << 12;
    print(&format!(
        "{}: {} distinct blocks of {}, {}, built in {} ({})\n",
        names,
        human::count(index.distinct()),
        human::count(reference.need().blocks),
        human::bytes(file_len),
        human::seconds(start.elapsed()),
        human::rate(bytes, start.elapsed())
    ))
}
