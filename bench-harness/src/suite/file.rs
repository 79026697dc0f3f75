//! Suites: what is measured, as data.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::contender::Named;
use crate::exit::Problem;
use crate::link::Way;

/// Suites that come with the program: their names and texts.
pub(super) const BUILT_IN: [(&str, &str); 9] = [
    ("quick", include_str!("../../suites/quick.toml")),
    ("readme", include_str!("../../suites/readme.toml")),
    ("links", include_str!("../../suites/links.toml")),
    ("full", include_str!("../../suites/full.toml")),
    ("live", include_str!("../../suites/live.toml")),
    ("cable", include_str!("../../suites/cable.toml")),
    ("qemu", include_str!("../../suites/qemu.toml")),
    ("ablation", include_str!("../../suites/ablation.toml")),
    ("workers", include_str!("../../suites/workers.toml")),
];

/// The memory and the disk of the repository's sample, as suites name them.
pub(super) const BUILT_IN_MEMORY: &str = "built-in";
pub(super) const BUILT_IN_DISK: &str = "built-in disk";

/// A suite.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suite {
    /// What it is for, in a line.
    pub(super) about: String,
    /// Timed runs of each case.
    #[serde(default = "repeats")]
    pub(super) repeats: u32,
    /// Numbers of threads; 0 is that of the machine's cores.
    #[serde(default = "threads")]
    pub(super) threads: Vec<u16>,
    /// What links carry; none at all if nothing is to be sent.
    #[serde(default)]
    pub(super) links: Vec<Way>,
    /// Seconds that a case on a link may take before it is run once only, or, where the link alone decides, calculated.
    #[serde(default = "longest")]
    pub(super) longest: f64,
    /// Also run each contender as a program of its own, with the page cache warm and cold.
    #[serde(default)]
    pub(super) whole: bool,
    /// Who is measured, in the order of the rounds.
    pub(super) contenders: Vec<Named>,
    /// What is packed, unless the command line says.
    #[serde(default)]
    pub(super) corpus: Vec<Corpus>,
}

/// A memory image and what the destination has.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Corpus {
    /// Its name in reports.
    pub(super) name: String,
    /// `built-in`, or a file: relative to the suite's.
    pub(super) memory: PathBuf,
    /// `built-in disk`, or files.
    #[serde(default)]
    pub(super) references: Vec<PathBuf>,
    /// Later captures of the same guest, each a live round: files.
    #[serde(default)]
    pub(super) rounds: Vec<PathBuf>,
}

impl Corpus {
    /// All files that it names.
    pub(super) fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        std::iter::once(&mut self.memory).chain(&mut self.references).chain(&mut self.rounds)
    }
}

fn repeats() -> u32 {
    3
}

fn threads() -> Vec<u16> {
    vec![0]
}

fn longest() -> f64 {
    60.0
}

impl Suite {
    /// One of the program's own by its name, or a file. Files that it names are relative to `folder`, else to the suite's own file.
    ///
    /// # Errors
    ///
    /// [`Problem::Usage`] with the line where it is wrong; the file can't be read.
    pub(super) fn load(name: &str, folder: Option<&Path>) -> Result<Self> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            let mut suite = Self::parse(text, name)?;
            suite.look_in(folder.unwrap_or(Path::new("")));
            return Ok(suite);
        }
        let path = Path::new(name);
        if path.extension().is_none_or(|extension| extension != "toml") {
            let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            let text = format!("there is no suite {name}: say {}, or a .toml file", names.join(", "));
            return Err(Problem::Usage(text).into());
        }
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        let mut suite = Self::parse(&text, name)?;
        suite.look_in(folder.or(path.parent()).unwrap_or(Path::new("")));
        Ok(suite)
    }

    fn look_in(&mut self, folder: &Path) {
        for file in self.corpus.iter_mut().flat_map(Corpus::files) {
            if ![Path::new(BUILT_IN_MEMORY), Path::new(BUILT_IN_DISK)].contains(&file.as_path()) {
                *file = folder.join(&*file);
            }
        }
    }

    fn parse(text: &str, name: &str) -> Result<Self, Problem> {
        let suite: Suite =
            toml::from_str(text).map_err(|error| Problem::Usage(format!("suite {name}: {error}")))?;
        let why = if suite.repeats == 0 {
            "repeats is 0"
        } else if suite.contenders.is_empty() {
            "it has no contenders"
        } else if suite.threads.is_empty() {
            "threads is empty"
        } else if suite.longest.is_nan() || suite.longest <= 0.0 {
            "longest is not above 0"
        } else {
            return Ok(suite);
        };
        Err(Problem::Usage(format!("suite {name}: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_own_suites_are_sound() {
        for (name, _) in BUILT_IN {
            let suite = Suite::load(name, None).unwrap();
            assert!(!suite.about.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_wrong_suite_is_an_error_that_names_the_line() {
        let good = "about = \"x\"\ncontenders = [\"raw\"]\n";
        assert!(Suite::parse(good, "x").is_ok());
        for (bad, line) in [
            ("about = \"x\"\ncontenders = [\"raw\", \"zip\"]\n", "line 2"),
            ("about = \"x\"\ncontenders = [\"raw\"]\nrepets = 3\n", "line 3"),
            ("about = \"x\"\ncontenders = [\"raw\"]\nlinks = [\"20 MB\"]\n", "line 3"),
            ("about = \"x\"\n", "contenders"),
            ("about = \"x\"\ncontenders = []\n", "no contenders"),
            ("about = \"x\"\ncontenders = [\"raw\"]\nrepeats = 0\n", "repeats"),
            ("about = \"x\"\ncontenders = [\"raw\"]\nlongest = -1.0\n", "longest"),
        ] {
            let error = Suite::parse(bad, "mine").unwrap_err().to_string();
            assert!(error.contains(line) && error.contains("mine"), "{error}");
        }
        assert!(Suite::load("nothing", None).unwrap_err().to_string().contains("quick, readme, links"));
    }
}
