//! `mig index`.

use std::time::Instant;

use anyhow::{Context, Result};
use mig_engine::reference::{Index, IndexBuilder, IndexError, Samples};
use mig_engine::{Level, Progress, Reference, ReferenceKind, fingerprints};
use mig_service::human;
use mig_service::output::print;
use mig_service::references::{saved, tie_of};

use crate::cli::IndexArgs;
use crate::run::{Bar, Run};

pub(crate) fn run(args: &IndexArgs, run: &Run) -> Result<()> {
    let path = &args.image;
    let pool = run.pool(&args.work)?;
    let reference = Reference::open(path, 0).with_context(|| format!("cannot index {}", path.display()))?;
    let is_disk = reference.kind() == ReferenceKind::Disk;
    if !args.force
        && let (Some(index), samples) = pool.install(|| saved(path, &reference))
        && (!is_disk || samples.is_some())
    {
        return print(&format!(
            "{} fits {}: {} distinct blocks\n",
            Index::default_path(path).display(),
            path.display(),
            human::count(index.distinct())
        ));
    }
    let bar = Bar::new("indexing");
    let start = Instant::now();
    let show = |pages, total_pages| bar.show(progress(pages, total_pages));
    // The tie comes first: what changes from here on makes the index stale.
    let tie = tie_of(path, &reference)?;
    let built = pool.install(|| -> Result<_, IndexError> {
        let (level, source) = (Level::best(), reference.source());
        let builder = IndexBuilder::new().progress(&show).cancel(run.cancel.flag());
        let index = builder.build(source, tie.clone(), &fingerprints(level))?;
        // Memory is found like itself by its place; disks need samples for that.
        let samples = is_disk.then(|| Samples::build(source, tie, level, Some(run.cancel.flag())));
        Ok((index, samples.transpose()?))
    });
    let (index, samples) = built.with_context(|| format!("cannot index {}", path.display()))?;
    bar.done();
    let out = Index::default_path(path);
    index.save(&out)?;
    let mut files = out.display().to_string();
    if let Some(samples) = &samples {
        let out = Samples::default_path(path);
        samples.save(&out)?;
        files += &format!(" and {}", out.display());
    }
    let file_len = index.file_len() + samples.as_ref().map_or(0, Samples::file_len);
    let bytes = reference.need().blocks << 12;
    print(&format!(
        "{}: {} distinct blocks of {}, {}, built in {} ({})\n",
        files,
        human::count(index.distinct()),
        human::count(reference.need().blocks),
        human::bytes(file_len),
        human::seconds(start.elapsed()),
        human::rate(bytes, start.elapsed())
    ))
}

fn progress(pages: u64, total_pages: u64) -> Progress {
    Progress::new(pages, total_pages, 0)
}
