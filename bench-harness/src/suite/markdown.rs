//! The table of sizes as Markdown, as the README has it: a line a contender, a corpus after the other.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::result::{CorpusRun, SuiteResult};
use crate::human;

/// Writes the table.
///
/// # Errors
///
/// The file can't be written.
pub(super) fn write(result: &SuiteResult, path: &Path) -> Result<()> {
    let text: String = result.runs.iter().map(table).collect::<Vec<_>>().join("\n");
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn table(run: &CorpusRun) -> String {
    let gzip = run.contenders.iter().find(|line| line.contender == "gzip -6").map(|line| line.bytes);
    let references: Vec<&str> = run.references.iter().map(|built| &*built.name).collect();
    let has = if references.is_empty() { "nothing".into() } else { references.join(", ") };
    let links = run.links();
    let mut text = format!("| {}; the destination has {has} | bytes | of `gzip -6` | GB/s |", run.corpus);
    text += &links.iter().map(|link| format!(" s at {link} |")).collect::<String>();
    text += &format!("\n|---|{}\n", "---:|".repeat(3 + links.len()));
    for line in &run.contenders {
        let share = gzip.map_or("-".into(), |gzip| human::percent(line.bytes as f64 / gzip.max(1) as f64));
        text +=
            &format!("| `{}` | {} | {share} | {} |", line.contender, human::count(line.bytes), line.speed());
        for link in &links {
            let seconds = line.on(link).map_or("-".into(), |on| human::number(on.seconds.median()));
            text += &format!(" {seconds} |");
        }
        text += "\n";
    }
    text
}
