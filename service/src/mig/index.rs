//! `mig index`.

use std::time::Instant;

use anyhow::{Context, Result};
use mig_engine::reference::{Index, IndexBuilder};
use mig_engine::{Level, Progress, Reference, fingerprints};
use mig_service::human;
use mig_service::output::print;
use mig_service::references::{saved_index, tie_of};

use crate::cli::IndexArgs;
use crate::run::{Bar, Run};

pub(crate) fn run(args: &IndexArgs, run: &Run) -> Result<()> {
    let path = &args.image;
    let pool = run.pool(&args.work)?;
    let reference = Reference::open(path, 0).with_context(|| format!("cannot index {}", path.display()))?;
    if !args.force
        && let Some(index) = pool.install(|| saved_index(path, &reference))
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
    let index = pool.install(|| {
        let builder = IndexBuilder::new().progress(&show).cancel(run.cancel.flag());
        builder.build(reference.source(), tie, &fingerprints(Level::best()))
    });
    let index = index.with_context(|| format!("cannot index {}", path.display()))?;
    bar.done();
    let out = Index::default_path(path);
    index.save(&out)?;
    let bytes = reference.need().blocks << 12;
    print(&format!(
        "{}: {} distinct blocks of {}, {}, built in {} ({})\n",
        out.display(),
        human::count(index.distinct()),
        human::count(reference.need().blocks),
        human::bytes(index.file_len()),
        human::seconds(start.elapsed()),
        human::rate(bytes, start.elapsed())
    ))
}

fn progress(pages: u64, total_pages: u64) -> Progress {
    Progress::new(pages, total_pages, 0)
}
