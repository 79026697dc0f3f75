//! A contender as a program of its own: what opening and starting cost, the peak of its memory, and all of it once more with its files not
//! in the page cache.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use mig_engine::Level;
use serde::{Deserialize, Serialize};

use crate::cli::{BuiltArgs, Mapping, WholeChildArgs};
use crate::contender::{Chosen, Named, Nature, Subject};
use crate::measure::{Cost, timed_all};
use crate::peak::answer;
use crate::peak::child::watch;
use crate::references::{References, evict};
use crate::run::Run;

/// Of one run each.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Whole {
    /// With all files in the page cache.
    pub(super) warm: Cost,
    /// With none of them there.
    pub(super) cold: Cost,
    /// What the cold run had to fetch; not of what is a program, which the system does not tell.
    pub(super) cold_storage_bytes: u64,
    /// The larger of both runs' peaks of memory that is its own: mapped files are not in it.
    pub(super) peak_anonymous_bytes: u64,
}

/// What the process says.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Said {
    cost: Cost,
    storage_bytes: u64,
    anonymous_bytes: u64,
}

impl Whole {
    /// `None` for what is no program of one end, or can't be measured here.
    ///
    /// # Errors
    ///
    /// The process for it failed.
    pub(super) fn measure(
        name: &Named,
        image: &Path,
        references: &References,
        threads: usize,
        scratch: &Path,
    ) -> Result<Option<Self>> {
        if name.nature() == Nature::Roof || name.has_two_ends() {
            return Ok(None);
        }
        let run = || -> Result<Option<Said>> {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("whole-child").arg(name.to_string()).arg(image).arg("--scratch").arg(scratch);
            references.tell(&mut command);
            command.args(["--threads", &threads.to_string()]);
            answer(command)
        };
        let Some(warm) = run()? else { return Ok(None) };
        for path in std::iter::once(image).chain(references.paths.iter().map(AsRef::as_ref)) {
            evict(path).with_context(|| format!("cannot drop {} from the page cache", path.display()))?;
        }
        references.index_files().try_for_each(|file| evict(&file))?;
        let Some(cold) = run()? else { return Ok(None) };
        Ok(Some(Whole {
            warm: warm.cost,
            cold: cold.cost,
            cold_storage_bytes: cold.storage_bytes,
            peak_anonymous_bytes: warm.anonymous_bytes.max(cold.anonymous_bytes),
        }))
    }
}

/// The process: packs once and says how that went; `null` if the contender can't be measured here.
pub(crate) fn child(args: &WholeChildArgs, run: &Run) -> Result<()> {
    let before = storage_bytes();
    let (measured, seen) = watch(|| timed_all(|| pack(args, run)))?;
    let (is_here, cost) = measured?;
    let said =
        Said { cost, storage_bytes: storage_bytes().saturating_sub(before), anonymous_bytes: seen.anonymous };
    println!("{}", serde_json::to_string(&is_here.then_some(said))?);
    Ok(())
}

fn pack(args: &WholeChildArgs, run: &Run) -> Result<bool> {
    let scratch = args.scratch.folder();
    let subject =
        Subject::open(&args.image, Mapping::Kept, args.threads.count(), Level::from_env()?, &scratch)?;
    let BuiltArgs { references: paths, indexes } = args.built.clone();
    let references = References { paths, indexes, ..References::default() };
    match args.contender.choose(&subject, &references, None, run)? {
        Chosen::Here(mut contender) => contender.pack(&subject).map(|_| true),
        Chosen::NotHere(_) => Ok(false),
    }
}

/// What this process has fetched from storage so far, in bytes; 0 where the system does not tell.
fn storage_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}
