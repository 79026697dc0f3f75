//! What `pack` reports, and how it reads.

use mig_engine::{Class, PackSummary, Settled};
use serde::Serialize;

use crate::contender::Key;
use crate::human;
use crate::measure::Timing;
use crate::peak::{self, Peak};
use crate::references::BuiltIndex;
use crate::report::Table;

/// The `result` of a `pack` report.
#[derive(Debug, Serialize)]
pub(crate) struct PackResult {
    pub(crate) image: Image,
    /// `fresh` if each run mapped the image anew, else `kept`.
    pub(crate) mapping: String,
    /// Threads of every contender that can use several.
    pub(crate) threads: usize,
    /// Empty where there are none.
    pub(crate) references: Vec<BuiltIndex>,
    pub(crate) contenders: Vec<Line>,
    /// Empty where they were not measured.
    pub(crate) peaks: Vec<Peak>,
}

/// What was packed.
#[derive(Debug, Serialize)]
pub(crate) struct Image {
    pub(crate) format: &'static str,
    /// Of the file: what rates and ratios are of.
    pub(crate) bytes: u64,
    /// Guest pages.
    pub(crate) pages: u64,
    /// Bytes of the file that are not holes.
    pub(crate) data_bytes: u64,
}

/// One contender.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    #[serde(skip)]
    pub(crate) key: Key,
    pub(crate) about: String,
    /// Of the packed image.
    pub(crate) bytes: u64,
    /// `bytes` over those of the program `gzip -6`.
    pub(crate) of_gzip: Option<f64>,
    pub(crate) pack: Timing,
    pub(crate) unpack_file: Option<Timing>,
    pub(crate) unpack_memory: Option<Timing>,
    /// What the pages are, where the contender tells.
    pub(crate) blocks: Option<Blocks>,
}

impl Line {
    /// Whether its bytes are those of something packed.
    pub(crate) fn is_packed(&self) -> bool {
        self.key != Key::Memcpy
    }
}

/// What pages turned out to be.
#[derive(Debug, Serialize)]
pub(crate) struct Blocks {
    /// Pages of each kind: zero, uniform, duplicate, reference, residual.
    pub(crate) kinds: Vec<Kind>,
    /// Runs of duplicate and reference pages.
    pub(crate) runs: u64,
    /// Pages that are not residual.
    pub(crate) settled_pages: u64,
    /// What the stream spends on saying what all pages are.
    pub(crate) settled_bytes: u64,
    /// Coded bytes of long matches.
    pub(crate) match_bytes: u64,
    /// Bytes of residual pages that long matches cover.
    pub(crate) matched_bytes: u64,
    /// Residual pages and their coded bytes by class.
    pub(crate) classes: Vec<ClassOf>,
}

/// Pages of a kind.
#[derive(Debug, Serialize)]
pub(crate) struct Kind {
    name: &'static str,
    pages: u64,
}

/// Residual pages of a class.
#[derive(Debug, Serialize)]
pub(crate) struct ClassOf {
    name: &'static str,
    pages: u64,
    /// What they are coded in.
    bytes: u64,
}

/// Names of the page kinds, in the engine's order.
const KINDS: [&str; Settled::KINDS] = ["zero", "uniform", "duplicate", "reference", "residual", "later"];
const RESIDUAL: usize = 4;

impl From<&PackSummary> for Blocks {
    fn from(summary: &PackSummary) -> Self {
        let blocks = &summary.blocks;
        let class = |class: Class| ClassOf {
            name: class.name(),
            pages: blocks.class_pages[class as usize],
            bytes: blocks.class_bytes[class as usize],
        };
        Blocks {
            kinds: KINDS.into_iter().zip(blocks.pages).map(|(name, pages)| Kind { name, pages }).collect(),
            runs: blocks.runs,
            settled_pages: blocks.pages[..RESIDUAL].iter().sum(),
            settled_bytes: blocks.settled_bytes,
            match_bytes: blocks.match_bytes,
            matched_bytes: blocks.matched,
            classes: Class::ALL.into_iter().map(class).collect(),
        }
    }
}

impl PackResult {
    /// The contender with this key.
    pub(crate) fn line(&self, key: Key) -> Option<&Line> {
        self.contenders.iter().find(|line| line.key == key)
    }

    /// Tables for people.
    pub(crate) fn describe(&self) -> String {
        let image = &self.image;
        let mut text = format!(
            "{} of {} memory, {} pages, {} of data; {} threads; mapping {}\n",
            human::bytes(image.bytes),
            image.format,
            human::count(image.pages),
            human::bytes(image.data_bytes),
            self.threads,
            self.mapping,
        );
        for built in &self.references {
            text += &format!(
                "reference {} ({}), {} blocks; index of {} built in {} s\n",
                built.name,
                built.kind,
                human::count(built.blocks),
                human::bytes(built.index_bytes),
                human::number(built.build_seconds),
            );
        }
        text += &format!("\n{}", self.contender_table());
        let blocks =
            self.contenders.iter().filter_map(|line| line.blocks.as_ref().map(|blocks| (line, blocks)));
        if blocks.clone().next().is_some() {
            let mut heads = vec!["pages"];
            heads.extend(KINDS);
            heads.extend(["runs", "settled, bytes a page", "long matches cover"]);
            let mut table = Table::new(&heads);
            for (line, blocks) in blocks {
                let mut row = vec![line.name.clone()];
                row.extend(blocks.kinds.iter().map(|kind| human::count(kind.pages)));
                row.push(human::count(blocks.runs));
                row.push(blocks.bytes_a_settled_page().map_or("-".into(), human::number));
                row.push(human::bytes(blocks.matched_bytes));
                table.row(&row);
            }
            text += &format!("\n{}", table.left(1));
        }
        if !self.peaks.is_empty() {
            text += &format!("\n{}", peak::table(&self.peaks));
        }
        text
    }

    fn contender_table(&self) -> String {
        let mut table = Table::new(&[
            "packing",
            "bytes",
            "of gzip -6",
            "of input",
            "GB/s",
            "CPU s",
            "unpack to file GB/s",
            "to memory GB/s",
        ]);
        for line in &self.contenders {
            let rate =
                |timing: &Option<Timing>| timing.as_ref().map_or("-".into(), |t| t.gb_per_second.to_string());
            let packed = |text: String| if line.is_packed() { text } else { "-".into() };
            table.row(&[
                line.name.clone(),
                packed(human::count(line.bytes)),
                line.of_gzip.map_or("-".into(), human::percent),
                packed(human::percent(line.bytes as f64 / self.image.bytes as f64)),
                line.pack.gb_per_second.to_string(),
                human::number(line.pack.cpu_seconds.median()),
                rate(&line.unpack_file),
                rate(&line.unpack_memory),
            ]);
        }
        table.left(1)
    }
}

impl Blocks {
    /// Coded bytes of residual pages by class.
    pub(crate) fn class_bytes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.classes.iter().map(|class| (class.name, class.bytes))
    }

    /// `None` where no page is settled.
    pub(crate) fn bytes_a_settled_page(&self) -> Option<f64> {
        (self.settled_pages > 0).then(|| self.settled_bytes as f64 / self.settled_pages as f64)
    }
}
