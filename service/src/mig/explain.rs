//! `mig inspect --explain`: how each class of pages is coded, and what each technique saves.

use std::io;
use std::time::Duration;

use anyhow::Result;
use mig_engine::{BlockStats, Class, MemoryImage, PackSummary, Packer, Reference, Settled, Technique, Words};
use mig_service::human;
use mig_service::output::print;
use mig_service::references;
use serde_json::{Value, json};

use crate::cli::{FreePages, InspectArgs, SemanticArgs};
use crate::pack::semantic;
use crate::run::{Bar, Run};

/// Packs an image to nowhere: once with everything, and once without each technique.
pub(crate) fn run(args: &InspectArgs, image: &MemoryImage, run: &Run) -> Result<()> {
    let pool = run.pool(&args.work)?;
    let bar = Bar::new("packing");
    let explained = pool.install(|| -> Result<Explained> {
        let files = &args.references.files;
        let references = references::for_packing(files, &[image.page_count()], &run.cancel, None)?;
        let pack = |without: Option<Technique>| pack(args, image, &references, run, &bar, without);
        let whole = pack(None)?;
        let without =
            Technique::ALL.into_iter().map(|technique| Ok((technique, pack(Some(technique))?.stream_bytes)));
        Ok(Explained { whole, without: without.collect::<Result<_>>()? })
    })?;
    let time = bar.done();
    if args.json {
        return print(&format!("{:#}\n", explained.json(args)));
    }
    print(&explained.text(args, image, time))
}

fn pack(
    args: &InspectArgs,
    image: &MemoryImage,
    references: &[Reference],
    run: &Run,
    bar: &Bar,
    without: Option<Technique>,
) -> Result<PackSummary> {
    let show = |progress| bar.show(progress);
    let packer = Packer::new().effort(args.effort).on_progress(&show).cancel(run.cancel.clone());
    let packer = references.iter().cloned().fold(packer, Packer::reference);
    let semantics = SemanticArgs { free_pages: FreePages::Keep, without: without.into_iter().collect() };
    Ok(semantic(packer, &semantics).pack_here(image, io::sink())?)
}

/// What is known of an image after it was packed.
struct Explained {
    whole: PackSummary,
    /// Bytes of the stream without each technique.
    without: Vec<(Technique, u64)>,
}

/// The pages of a class.
struct Row {
    name: &'static str,
    settled: [u64; Settled::SETTLED],
    residual: u64,
    words: Words,
    coded: u64,
}

impl Row {
    fn pages(&self) -> u64 {
        self.settled.iter().sum::<u64>() + self.residual
    }
}

/// All classes that have pages. Where nobody says what settled pages are used for, they are a row of their own.
fn rows(blocks: &BlockStats) -> Vec<Row> {
    let mut unknown: [u64; Settled::SETTLED] = std::array::from_fn(|kind| blocks.pages[kind]);
    let mut rows = Vec::new();
    for class in Class::ALL {
        let at = class as usize;
        let settled = blocks.class_settled[at];
        unknown.iter_mut().zip(settled).for_each(|(rest, pages)| *rest -= pages);
        let (words, coded) = (blocks.class_words[at], blocks.class_bytes[at]);
        rows.push(Row { name: class.name(), settled, residual: blocks.class_pages[at], words, coded });
    }
    rows.push(Row { name: "not known", settled: unknown, residual: 0, words: Words::default(), coded: 0 });
    rows.retain(|row| row.pages() > 0);
    rows
}

impl Explained {
    /// Bytes of the stream by what they are for; all of them.
    fn parts(&self) -> [(&'static str, u64); 6] {
        let blocks = &self.whole.blocks;
        let groups = blocks.class_bytes.iter().sum();
        let (addresses, bases) = (blocks.address_bytes, blocks.base_bytes);
        let classes = blocks.residual_meta_bytes - addresses - bases;
        let known = groups + blocks.settled_bytes + blocks.match_bytes + blocks.residual_meta_bytes;
        [
            ("words that are left, coded", groups),
            ("what settled pages are", blocks.settled_bytes),
            ("where long matches are", blocks.match_bytes),
            ("where bases are", bases),
            ("virtual addresses", addresses),
            ("classes, groups; start and end", classes + self.whole.stream_bytes - known),
        ]
    }

    fn text(&self, args: &InspectArgs, image: &MemoryImage, time: Duration) -> String {
        let (guest, total) = (image.page_count() << 12, self.whole.stream_bytes);
        let mut text = format!(
            "{}: {} of guest memory to {} ({}) at effort {}; measured in {}\n\n",
            args.file.display(),
            human::bytes(guest),
            human::bytes(total),
            human::percent(total, guest),
            args.effort,
            human::seconds(time),
        );
        text += &format!(
            "{:<16} {:>9} | {:>9} {:>9} {:>9} {:>9} | {:>8} {:>8} {:>8} {:>8} | {:>12}\n",
            "",
            "pages",
            "zero",
            "duplicate",
            "reference",
            "residual",
            "matched",
            "base",
            "zero",
            "stored",
            "coded bytes"
        );
        let mut sum = Row { name: "all", settled: [0; 4], residual: 0, words: Words::default(), coded: 0 };
        let mut line = |row: &Row| {
            let [zero, uniform, duplicate, reference] = row.settled;
            let share = |words: u64| {
                if row.residual == 0 { String::new() } else { human::percent(words, row.words.all()) }
            };
            text += &format!(
                "{:<16} {:>9} | {:>9} {:>9} {:>9} {:>9} | {:>8} {:>8} {:>8} {:>8} | {:>12}\n",
                row.name,
                human::count(row.pages()),
                human::count(zero + uniform),
                human::count(duplicate),
                human::count(reference),
                human::count(row.residual),
                share(row.words.matched),
                share(row.words.base),
                share(row.words.zero),
                share(row.words.stored),
                human::count(row.coded),
            );
        };
        for row in rows(&self.whole.blocks) {
            line(&row);
            sum.settled.iter_mut().zip(row.settled).for_each(|(sum, pages)| *sum += pages);
            sum.residual += row.residual;
            sum.words += row.words;
            sum.coded += row.coded;
        }
        line(&sum);
        text += "\nPages by how they are sent (zero: any single word repeated); of residual pages, the shares of their words that long \
                 matches cover,\nthat are the base page's, that are zero, and that are left to be coded.\n\nBytes of the stream\n";
        for (name, bytes) in self.parts() {
            text +=
                &format!("  {name:<32} {:>14} {:>8}\n", human::count(bytes), human::percent(bytes, total));
        }
        text += &format!(
            "  {:<32} {:>14}\n\nWithout one technique it would be larger by\n",
            "all",
            human::count(total)
        );
        for (technique, bytes) in &self.without {
            let more = *bytes as i64 - total as i64;
            let sign = if more < 0 { "-" } else { "" };
            let share = human::percent(more.unsigned_abs(), total);
            text += &format!(
                "  {:<32} {sign}{:>13} {share:>8}\n",
                technique.name(),
                human::count(more.unsigned_abs())
            );
        }
        text
    }

    fn json(&self, args: &InspectArgs) -> Value {
        let blocks = &self.whole.blocks;
        let classes = rows(blocks).into_iter().map(|row| {
            let [zero, uniform, duplicate, reference] = row.settled;
            json!({
                "class": row.name,
                "pages": row.pages(),
                "zero": zero,
                "uniform": uniform,
                "duplicate": duplicate,
                "reference": reference,
                "residual": row.residual,
                "words": {
                    "matched": row.words.matched,
                    "base": row.words.base,
                    "zero": row.words.zero,
                    "stored": row.words.stored,
                },
                "coded_bytes": row.coded,
            })
        });
        let parts = self.parts().map(|(name, bytes)| json!({ "part": name, "bytes": bytes }));
        let without = self
            .without
            .iter()
            .map(|(technique, bytes)| json!({ "technique": technique.name(), "stream_bytes": bytes }));
        json!({
            "effort": args.effort.name(),
            "stream_bytes": self.whole.stream_bytes,
            "classes": classes.collect::<Vec<_>>(),
            "parts": parts,
            "without": without.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_add_up_to_all_pages() {
        let mut blocks = BlockStats::default();
        blocks.pages = [5, 4, 3, 2, 7, 0];
        blocks.class_settled[Class::Slab as usize] = [1, 0, 3, 0];
        blocks.class_pages[Class::Slab as usize] = 7;
        let rows = rows(&blocks);
        assert_eq!(rows.iter().map(Row::pages).sum::<u64>(), 21);
        let names: Vec<_> = rows.iter().map(|row| (row.name, row.pages())).collect();
        assert_eq!(names, [("slab", 11), ("not known", 10)]);
    }
}
