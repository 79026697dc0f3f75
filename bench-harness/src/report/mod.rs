//! One report type, two ways to print it.

mod json;
pub(crate) mod table;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::cli::OutputArgs;
use crate::goal::{Goal, Verdict, check};
use crate::provenance::Provenance;

pub(crate) use table::Table;

/// The JSON's `schema`. A change that a reader of old files would stumble over gets a new number.
pub(crate) const SCHEMA: &str = "mig-bench/2";

/// What a command measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report<R> {
    schema: &'static str,
    /// The subcommand; it says what `result` looks like.
    command: &'static str,
    /// The command line after the program's name.
    arguments: Vec<String>,
    /// What the measured input says of itself if it is not real memory.
    pub(crate) synthetic: Option<String>,
    /// Where and of what.
    provenance: Provenance,
    /// Things to know when reading the figures.
    pub(crate) notes: Vec<String>,
    /// The figures.
    pub(crate) result: R,
    /// Goals and whether they were met.
    pub(crate) goals: Vec<Goal>,
}

impl<R: Serialize> Report<R> {
    /// A report without figures of goals yet; `provenance` was taken before measuring.
    pub(crate) fn new(command: &'static str, provenance: Provenance, result: R) -> Self {
        Report {
            schema: SCHEMA,
            command,
            arguments: std::env::args().skip(1).collect(),
            synthetic: None,
            provenance,
            notes: Vec::new(),
            result,
            goals: Vec::new(),
        }
    }

    /// Where and of what the figures were taken.
    pub(crate) fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Prints the report around `figures`, writes the JSON if asked to, and judges if asked to.
    ///
    /// # Errors
    ///
    /// The JSON can't be written; with `--check`, goals that were missed or not measured.
    pub(crate) fn finish(&self, figures: &str, output: &OutputArgs) -> Result<()> {
        print(&self.text(figures))?;
        if let Some(path) = &output.json {
            json::write(self, path)?;
        }
        if output.check {
            check(&self.goals)?;
        }
        Ok(())
    }

    fn text(&self, figures: &str) -> String {
        let mut text = self.provenance.describe();
        if let Some(synthetic) = &self.synthetic {
            text += &format!("SYNTHETIC INPUT: {synthetic}\n");
        }
        text += &format!("\n{figures}");
        if !self.goals.is_empty() {
            let mut table = Table::new(&["", "goal", "measured"]);
            for goal in &self.goals {
                let verdict = match goal.verdict {
                    Verdict::Pass => "pass",
                    Verdict::Fail => "FAIL",
                    Verdict::Unmeasured => "not measured",
                };
                table.row(&[verdict, &goal.what, &goal.got]);
            }
            text += &format!("\n{}", table.left(3));
        }
        if !self.notes.is_empty() {
            text += "\n";
        }
        for note in &self.notes {
            text += &format!("* {note}\n");
        }
        text
    }
}

/// Prints text; a reader that went away is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    use std::io::{ErrorKind, Write, stdout};
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            bail!("cannot write to standard output: {error}")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synthetic_input_is_marked_wherever_the_report_goes() {
        let mut report = Report::new("pack", Provenance::now(), 7);
        assert!(!report.text("").contains("SYNTHETIC"));
        report.synthetic = Some("tiled".into());
        report.goals.push(Goal::at_most("bytes", 1.0, 2.0, ""));
        report.notes.push("by the way".into());
        let text = report.text("the figures\n");
        for part in ["SYNTHETIC INPUT", "tiled", "the figures", "pass", "bytes <= 2", "* by the way"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["synthetic"], &json["schema"]), (&"tiled".into(), &SCHEMA.into()));
        assert_eq!((&json["goals"][0]["verdict"], &json["result"]), (&"pass".into(), &7.into()));
        assert!(json["provenance"]["cpu"].is_string());
    }
}
