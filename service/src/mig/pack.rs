//! `mig pack`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use mig_engine::{BlockStats, Class, MemoryImage, PackSummary, Packer};
use mig_service::events::KINDS;
use mig_service::human;
use mig_service::output::{Output, is_dash, print, stdout_file};
use mig_service::problem::Problem;
use mig_service::references;
use serde_json::{Value, json};

use crate::cli::{FreePages, PackArgs, SemanticArgs};
use crate::qemu;
use crate::run::{Bar, Run, beside};

pub(crate) fn run(args: &PackArgs, run: &Run) -> Result<()> {
    if is_dash(&args.output) && args.json {
        return Err(Problem::Usage("standard output can't take both the stream and --json".into()).into());
    }
    let beside = beside(&args.gpu)?;
    let output = if is_dash(&args.output) { None } else { Some(Output::new(&args.output, args.force)?) };
    if let Some(stream) = qemu::open_stream(&args.input, args.format)? {
        return qemu::pack(args, stream, output, &beside, run);
    }
    let image = open(&args.input, args)?;
    let pool = run.pool(&args.work)?;
    let bar = Bar::new("packing");
    let show = |progress| bar.show(progress);
    let summary = pool.install(|| -> Result<PackSummary> {
        let references =
            references::for_packing(&args.references.files, &[image.page_count()], &run.cancel, None)?;
        let mut packer = Packer::new()
            .effort(args.effort)
            .random_access(args.random_access)
            .beside(&beside)
            .on_progress(&show)
            .cancel(run.cancel.clone());
        for reference in references {
            packer = packer.reference(reference);
        }
        packer = semantic(packer, &args.semantics);
        Ok(match &output {
            Some(output) => packer.pack_here(&image, output.file()?)?,
            None => packer.pack_here(&image, stdout_file()?)?,
        })
    });
    let summary = summary.with_context(|| format!("cannot pack {}", args.input.display()))?;
    let time = bar.done();
    if let Some(output) = output {
        output.finish()?;
    }
    if args.json {
        let report = report(&image, &summary, time);
        return print(&format!("{report:#}\n"));
    }
    eprint!("{}", describe(&image, &summary, time));
    Ok(())
}

/// A packer that makes of what pages are what was asked for.
pub(crate) fn semantic<'a>(mut packer: Packer<'a>, args: &SemanticArgs) -> Packer<'a> {
    packer = packer.free_pages_as_zero(args.free_pages == FreePages::Zero);
    if let Some(cache) = references::kernel_cache() {
        packer = packer.kernel_cache(cache);
    }
    args.without.iter().fold(packer, |packer, &technique| packer.without(technique))
}

fn open(path: &Path, args: &PackArgs) -> Result<MemoryImage> {
    if is_dash(path) {
        // Pages packed before are compared and copied from, so the whole input must stay at hand.
        let image = MemoryImage::spool(qemu::stdin(), &std::env::temp_dir(), args.format);
        return image.context("cannot read standard input");
    }
    MemoryImage::open(path, args.format).with_context(|| format!("cannot read {}", path.display()))
}

fn describe(image: &MemoryImage, summary: &PackSummary, time: Duration) -> String {
    let guest = image.file_len();
    let mut text = format!(
        "{} of {} memory to {} ({}), {} in {}\n",
        human::bytes(guest),
        image.layout().format(),
        human::bytes(summary.stream_bytes),
        human::percent(summary.stream_bytes, guest),
        human::rate(guest, time),
        human::seconds(time),
    );
    text += &kinds_table(&summary.blocks, true);
    text
}

/// Pages by kind, and by class for what is left; with their bytes where they were `coded`.
pub(crate) fn kinds_table(blocks: &BlockStats, coded: bool) -> String {
    let total = blocks.delivered();
    let mut text = String::new();
    let mut line = |name: &str, pages: u64, bytes: Option<u64>| {
        let bytes = bytes.filter(|_| coded).map_or(String::new(), human::bytes);
        text += &format!(
            "  {name:<18} {:>12} pages {:>7}  {bytes:>10}\n",
            human::count(pages),
            human::percent(pages, total)
        );
    };
    let settled: u64 = blocks.pages[..4].iter().sum();
    for (name, &pages) in KINDS.iter().zip(&blocks.pages[..4]) {
        line(name, pages, None);
    }
    line("settled", settled, Some(blocks.settled_bytes));
    for class in Class::ALL {
        let pages = blocks.class_pages[class as usize];
        if pages > 0 {
            line(class.name(), pages, Some(blocks.class_bytes[class as usize]));
        }
    }
    let lists = blocks.match_bytes + blocks.residual_meta_bytes;
    let residual = blocks.class_bytes.iter().sum::<u64>() + lists;
    line("residual", blocks.pages[4], Some(residual));
    text
}

/// The same as JSON; also for `mig inspect`.
pub(crate) fn blocks_json(blocks: &BlockStats) -> Value {
    let kinds: serde_json::Map<String, Value> =
        KINDS.iter().zip(blocks.pages).map(|(name, pages)| ((*name).to_owned(), json!(pages))).collect();
    let classes: serde_json::Map<String, Value> = Class::ALL
        .into_iter()
        .map(|class| {
            let (pages, bytes) = (blocks.class_pages[class as usize], blocks.class_bytes[class as usize]);
            (class.name().to_owned(), json!({ "pages": pages, "bytes": bytes }))
        })
        .collect();
    json!({
        "pages": kinds,
        "runs": blocks.runs,
        "classes": classes,
        "settled_bytes": blocks.settled_bytes,
        "residual_meta_bytes": blocks.residual_meta_bytes,
        "match_bytes": blocks.match_bytes,
        "matched_bytes": blocks.matched,
    })
}

fn report(image: &MemoryImage, summary: &PackSummary, time: Duration) -> Value {
    json!({
        "format": image.layout().format().name(),
        "image_bytes": image.file_len(),
        "pages": summary.pages,
        "stream_bytes": summary.stream_bytes,
        "opaque_bytes": summary.opaque_bytes,
        "opaque_coded": summary.opaque_coded,
        "blocks": blocks_json(&summary.blocks),
        "seconds": time.as_secs_f64(),
    })
}
