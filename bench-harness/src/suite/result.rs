//! What a suite came to, as it is in JSON, and as tables.

use serde::Serialize;

use super::whole::Whole;
use crate::contender::{Ends, Named, Nature, Round};
use crate::human;
use crate::link::Way;
use crate::measure::{Cost, Samples, Timing};
use crate::pack::result::{Blocks, Image};
use crate::references::BuiltIndex;
use crate::report::table::Table;

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct SuiteResult {
    /// The suite's name.
    pub(super) suite: String,
    /// What it is for.
    pub(super) about: String,
    /// Somebody stopped it: cases are missing.
    pub(super) interrupted: bool,
    /// Each corpus at each number of threads.
    pub(super) runs: Vec<CorpusRun>,
}

/// One corpus at one number of threads.
#[derive(Debug, Serialize)]
pub(crate) struct CorpusRun {
    pub(super) corpus: String,
    /// What the image says of itself if it is not real memory.
    pub(super) synthetic: Option<String>,
    pub(super) image: Image,
    pub(super) references: Vec<BuiltIndex>,
    pub(super) threads: usize,
    pub(super) contenders: Vec<Line>,
    /// Contenders that could not be measured here, and why.
    pub(super) absent: Vec<String>,
}

/// One contender.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(super) contender: String,
    /// What exactly was run.
    pub(super) about: String,
    /// Of the packed image. That of `mig auto` depends on the link; here it is over 1 Gbit/s.
    pub(super) bytes: u64,
    /// Packed into nothing.
    pub(super) pack: Timing,
    /// Of QEMU: what both ends said and used in the last of these runs.
    pub(super) ends: Option<Ends>,
    /// As a program of its own.
    pub(super) whole: Option<Whole>,
    /// What the pages are, where the contender tells.
    pub(super) blocks: Option<Blocks>,
    /// Live: the whole guest first, and then each time what had changed.
    pub(super) rounds: Vec<Round>,
    pub(super) links: Vec<OnLink>,
}

/// One contender on one link.
#[derive(Debug, Serialize)]
pub(crate) struct OnLink {
    pub(super) link: String,
    pub(super) bits_per_second: f64,
    /// Until the link has carried all.
    pub(super) seconds: Samples,
    pub(super) cpu_seconds: Samples,
    /// Over the link, each time: `auto` does not choose the same twice.
    pub(super) bytes: Samples,
    /// Decimal gigabytes of guest a second.
    pub(super) gb_per_second: Samples,
    /// What it waited for: the link, processors, one thread, or something else.
    pub(super) limit: &'static str,
    /// Not measured, since one thing alone decides: bytes over the rate, or what packing takes.
    pub(super) calculated: bool,
    /// Of QEMU, in the last run.
    pub(super) ends: Option<Ends>,
}

impl OnLink {
    /// From runs; `None` without any.
    pub(super) fn measured(
        way: Way,
        costs: &[Cost],
        bytes: &[u64],
        guest_bytes: u64,
        threads: usize,
    ) -> Option<Self> {
        let timing = Timing::new(guest_bytes, costs)?;
        let bytes = Samples::new(bytes.iter().map(|&bytes| bytes as f64))?;
        let (wall, cpu) = (timing.wall_seconds.median(), timing.cpu_seconds.median());
        let rate = way.rate;
        let limit = if rate.seconds(bytes.median() as u64) > 0.95 * wall {
            "link"
        } else if cpu > 0.85 * wall * threads as f64 {
            "processors"
        } else if cpu > 0.85 * wall {
            "one thread"
        } else {
            "other"
        };
        Some(OnLink {
            link: way.to_string(),
            bits_per_second: rate.bits(),
            seconds: timing.wall_seconds,
            cpu_seconds: timing.cpu_seconds,
            bytes,
            gb_per_second: timing.gb_per_second,
            limit,
            calculated: false,
            ends: None,
        })
    }

    /// Where packing takes little beside what the link takes, or the link beside packing.
    pub(super) fn calculated(way: Way, line: &Line, guest_bytes: u64) -> Option<Self> {
        let wall = way.rate.seconds(line.bytes).max(line.pack.wall_seconds.median());
        let cost = Cost { wall, cpu: line.pack.cpu_seconds.median() };
        let calculated = Self::measured(way, &[cost], &[line.bytes], guest_bytes, 1)?;
        Some(OnLink { calculated: true, ..calculated })
    }
}

impl Line {
    /// Decimal gigabytes a second; nothing of what does nothing.
    pub(super) fn speed(&self) -> String {
        match self.contender.parse::<Named>().map(|named| named.nature()) {
            Ok(Nature::Raw) => "-".into(),
            _ => self.pack.gb_per_second.to_string(),
        }
    }

    /// On the link of this name.
    pub(super) fn on(&self, link: &str) -> Option<&OnLink> {
        self.links.iter().find(|on| on.link == link)
    }
}

impl CorpusRun {
    /// The names of the links, in order.
    pub(super) fn links(&self) -> Vec<String> {
        let longest = self.contenders.iter().max_by_key(|line| line.links.len());
        longest.map_or_else(Vec::new, |line| line.links.iter().map(|on| on.link.clone()).collect())
    }

    fn describe(&self) -> String {
        let image = &self.image;
        let mut text = format!(
            "{}: {} of {} memory, {} of data; {} threads\n",
            self.corpus,
            human::bytes(image.bytes),
            image.format,
            human::bytes(image.data_bytes),
            self.threads
        );
        if let Some(synthetic) = &self.synthetic {
            text += &format!("SYNTHETIC INPUT: {synthetic}\n");
        }
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
        for absent in &self.absent {
            text += &format!("not measured: {absent}\n");
        }
        let gzip = self.contenders.iter().find(|line| line.contender == "gzip -6").map(|line| line.bytes);
        let mut sizes = Table::new(&["packing", "bytes", "of gzip -6", "of input", "GB/s", "CPU s"]);
        for line in &self.contenders {
            let share = |of: u64| human::percent(line.bytes as f64 / of.max(1) as f64);
            sizes.row(&[
                line.contender.clone(),
                human::count(line.bytes),
                gzip.map_or("-".into(), share),
                share(image.bytes),
                line.speed(),
                human::number(line.pack.cpu_seconds.median()),
            ]);
        }
        text += &format!("\n{}", sizes.left(1));
        for table in [self.ends_table(), self.whole_table(), self.rounds_table()].into_iter().flatten() {
            text += &format!("\n{}", table.left(1));
        }
        let links = self.links();
        if !links.is_empty() {
            let mut heads = vec!["seconds to move it"];
            heads.extend(links.iter().map(String::as_str));
            let mut table = Table::new(&heads);
            for line in self.contenders.iter().filter(|line| !line.links.is_empty()) {
                let cell = |link: &String| {
                    line.on(link).map_or("-".into(), |on| {
                        let mark = if on.calculated { "~" } else { "" };
                        format!("{mark}{} {}", human::number(on.seconds.median()), short(on.limit))
                    })
                };
                let mut row = vec![line.contender.clone()];
                row.extend(links.iter().map(cell));
                table.row(&row);
            }
            text += &format!(
                "\n{}  limited by l the link, p processors, 1 one thread, o other things; ~ calculated\n",
                table.left(1)
            );
        }
        text
    }
}

impl CorpusRun {
    /// What QEMU says; `None` where nobody has two ends.
    pub(super) fn ends_table(&self) -> Option<Table> {
        let heads = ["QEMU's own figures", "total s", "downtime s", "source CPU s", "destination CPU s"];
        let row = |line: &Line| {
            let ends = line.ends?;
            let numbers = [
                ends.total_seconds,
                ends.downtime_seconds,
                ends.sender_cpu_seconds,
                ends.receiver_cpu_seconds,
            ];
            Some(numbers.map(human::number).into())
        };
        self.table(&heads, row)
    }

    /// What whole programs took; `None` where a suite does not ask.
    pub(super) fn whole_table(&self) -> Option<Table> {
        let heads = ["whole program", "warm s", "cold s", "read from storage", "peak memory"];
        let row = |line: &Line| {
            let whole = line.whole?;
            Some(vec![
                human::number(whole.warm.wall),
                human::number(whole.cold.wall),
                human::bytes(whole.cold_storage_bytes),
                human::bytes(whole.peak_anonymous_bytes),
            ])
        };
        self.table(&heads, row)
    }

    /// Rounds of a guest that runs; `None` without any.
    fn rounds_table(&self) -> Option<Table> {
        let most = self.contenders.iter().map(|line| &line.rounds).max_by_key(|rounds| rounds.len())?;
        let changed: Vec<String> =
            most.iter().skip(1).map(|round| format!("{} changed", human::count(round.pages))).collect();
        let mut heads = vec!["live: bytes (seconds)", "all pages"];
        heads.extend(changed.iter().map(String::as_str));
        let cell =
            |round: &Round| format!("{} ({})", human::count(round.bytes), human::number(round.cost.wall));
        let row = |line: &Line| (!line.rounds.is_empty()).then(|| line.rounds.iter().map(cell).collect());
        self.table(&heads, row)
    }

    /// A row for each contender that has one; `None` if none has.
    fn table(&self, heads: &[&str], row: impl Fn(&Line) -> Option<Vec<String>>) -> Option<Table> {
        let mut table = Table::new(heads);
        for line in &self.contenders {
            if let Some(cells) = row(line) {
                table.row(&[vec![line.contender.clone()], cells].concat());
            }
        }
        // The first is that of the heads.
        (table.rows().len() > 1).then_some(table)
    }
}

fn short(limit: &str) -> &str {
    match limit {
        "one thread" => "1",
        limit => &limit[..1],
    }
}

impl SuiteResult {
    /// Tables for people.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("suite {}: {}\n", self.suite, self.about);
        if self.interrupted {
            text += "INTERRUPTED: what was not measured is missing\n";
        }
        for run in &self.runs {
            text += &format!("\n{}", run.describe());
        }
        text
    }
}
