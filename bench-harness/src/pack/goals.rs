//! What was promised of packing an image whose disk is at hand on both sides.
//!
//! Goals that the command line leaves out (`--effort`, `--no-gzip`, `--no-peers`) are not listed. Speeds are compared
//! run by run, with the program as a user types it, or with the library where there is no program. The ratio to the library
//! is for the reader: it is in [`beside`].

use mig_engine::Effort;

use super::result::{Line, PackResult};
use crate::cli::PackArgs;
use crate::contender::Key;
use crate::goal::Goal;
use crate::measure::{Samples, Timing};
use crate::peak;

/// A 40 Gbit/s link's worth.
const STORE_GB_PER_SECOND: f64 = 5.0;
const FAST_OF_GZIP: f64 = 0.32;
const FAST_TIMES_ZSTD_1: f64 = 2.5;
const FAST_OF_ZSTD_1: f64 = 1.0 / 3.0;
const BALANCED_OF_GZIP: f64 = 0.275;
const BALANCED_TIMES_ZSTD_3: f64 = 1.0;
const BYTES_A_SETTLED_PAGE: f64 = 0.3;
const UNPACK_TIMES_PACK: f64 = 2.0;

/// All goals that the command line asks about. None without a reference: they are about images that have one.
pub(super) fn goals(result: &PackResult, args: &PackArgs) -> Vec<Goal> {
    if result.references.is_empty() {
        return Vec::new();
    }
    let mut goals = Vec::new();
    for effort in args.input.effort.efforts() {
        let Some(line) = result.line(Key::Mig { effort, references: true }) else { continue };
        match effort {
            Effort::Store => {
                goals.push(Goal::at_least("store", &line.pack.gb_per_second, STORE_GB_PER_SECOND, " GB/s"));
            }
            Effort::Fast if !args.no_peers => {
                of_gzip(&mut goals, result, args, line, FAST_OF_GZIP);
                against_zstd(&mut goals, result, line, 1, FAST_TIMES_ZSTD_1);
                of_zstd(&mut goals, result, line, 1, FAST_OF_ZSTD_1);
            }
            Effort::Balanced if !args.no_peers => {
                of_gzip(&mut goals, result, args, line, BALANCED_OF_GZIP);
                against_zstd(&mut goals, result, line, 3, BALANCED_TIMES_ZSTD_3);
            }
            _ => {}
        }
        goals.push(settled(effort, line));
        unpack(&mut goals, effort, line);
    }
    if !args.no_peak {
        goals.extend(peak::goals(&result.peaks));
    }
    goals
}

fn of_gzip(goals: &mut Vec<Goal>, result: &PackResult, args: &PackArgs, line: &Line, most: f64) {
    if args.no_gzip {
        return;
    }
    let what = format!("{}: bytes, of gzip -6", line.name);
    goals.push(match (line.of_gzip, result.line(Key::GzipProgram)) {
        (Some(share), Some(_)) => Goal::share_at_most(&what, share, most),
        _ => Goal::unmeasured(what, "there is no gzip program"),
    });
}

/// How much faster we are than libzstd in this process, which reads no file and starts no program.
pub(super) fn beside(result: &PackResult) -> Vec<String> {
    let mut notes = Vec::new();
    for (effort, level) in [(Effort::Fast, 1), (Effort::Balanced, 3)] {
        let ours = result.line(Key::Mig { effort, references: true });
        let library = result.line(Key::Zstd { level, threads: result.threads, program: false });
        if let (Some(ours), Some(library)) = (ours, library)
            && let Some(ratio) = speed_ratio(&ours.pack, &library.pack)
        {
            notes.push(format!("{} is {ratio} times as fast as {}", ours.name, library.name));
        }
    }
    notes
}

/// zstd at a level: program and library, those that ran.
fn zstd(result: &PackResult, level: i32) -> impl Iterator<Item = &Line> {
    let threads = result.threads;
    [true, false].into_iter().filter_map(move |program| result.line(Key::Zstd { level, threads, program }))
}

fn against_zstd(goals: &mut Vec<Goal>, result: &PackResult, line: &Line, level: i32, least: f64) {
    let peer = zstd(result, level).next();
    let ratio = peer.and_then(|zstd| Some((zstd, speed_ratio(&line.pack, &zstd.pack)?)));
    goals.push(match ratio {
        Some((zstd, ratio)) => {
            Goal::at_least(&format!("{}: speed, over {}", line.name, zstd.name), &ratio, least, "x")
        }
        None => Goal::unmeasured(format!("{}: speed, over zstd -{level}", line.name), "no zstd was measured"),
    });
}

fn of_zstd(goals: &mut Vec<Goal>, result: &PackResult, line: &Line, level: i32, most: f64) {
    let what = format!("{}: bytes, of zstd -{level}", line.name);
    goals.push(match zstd(result, level).map(|zstd| zstd.bytes).min() {
        Some(bytes) => Goal::share_at_most(&what, line.bytes as f64 / bytes as f64, most),
        None => Goal::unmeasured(what, "no zstd was measured"),
    });
}

fn settled(effort: Effort, line: &Line) -> Goal {
    let what = format!("mig {effort}: bytes on the wire for a settled page");
    match line.blocks.as_ref().and_then(|blocks| blocks.bytes_a_settled_page()) {
        Some(bytes) => Goal::at_most(&what, bytes, BYTES_A_SETTLED_PAGE, ""),
        None => Goal::unmeasured(what, "no page is settled"),
    }
}

fn unpack(goals: &mut Vec<Goal>, effort: Effort, line: &Line) {
    for (target, timing) in [("memory", &line.unpack_memory), ("a file", &line.unpack_file)] {
        let what = format!("mig {effort}: unpacking into {target}, over packing");
        let ratio = timing.as_ref().and_then(|unpack| speed_ratio(unpack, &line.pack));
        goals.push(match ratio {
            Some(ratio) => Goal::at_least(&what, &ratio, UNPACK_TIMES_PACK, "x"),
            None => Goal::unmeasured(what, "it was not unpacked there"),
        });
    }
}

/// How many times faster, run by run.
fn speed_ratio(ours: &Timing, theirs: &Timing) -> Option<Samples> {
    ours.gb_per_second.ratio(&theirs.gb_per_second)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::goal::Verdict;
    use crate::measure::Cost;
    use crate::pack::result::{Blocks, Image};
    use crate::references::BuiltIndex;

    const GB: u64 = 1_000_000_000;

    fn args(more: &[&str]) -> PackArgs {
        let line = ["mig-bench", "pack", "image", "--reference", "disk"].iter().chain(more);
        match Cli::try_parse_from(line).unwrap().command {
            Some(Command::Pack(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    fn line(key: Key, bytes: u64, gb_per_second: f64) -> Line {
        let cost = Cost { wall: 1.0 / gb_per_second, cpu: 1.0 };
        let timing = |factor| Timing::new(GB * factor, &[cost, cost]).unwrap();
        let mig = matches!(key, Key::Mig { .. });
        let blocks = Blocks {
            kinds: Vec::new(),
            runs: 1,
            settled_pages: 1000,
            settled_bytes: 299,
            match_bytes: 0,
            matched_bytes: 0,
            classes: Vec::new(),
        };
        Line {
            name: key.to_string(),
            key,
            about: String::new(),
            bytes,
            of_gzip: Some(bytes as f64 / 1000.0),
            pack: timing(1),
            unpack_file: mig.then(|| timing(2)),
            unpack_memory: mig.then(|| timing(3)),
            blocks: mig.then_some(blocks),
        }
    }

    /// A result that meets every goal, but barely.
    fn good() -> PackResult {
        let mig = |effort| Key::Mig { effort, references: true };
        let zstd = |level, program| Key::Zstd { level, threads: 2, program };
        let built = BuiltIndex {
            name: "disk".into(),
            kind: "disk",
            blocks: 9,
            distinct: 9,
            index_bytes: 9,
            build_seconds: 1.0,
        };
        PackResult {
            image: Image { format: "raw", bytes: GB, pages: 1, data_bytes: GB },
            mapping: "fresh".into(),
            threads: 2,
            references: vec![built],
            contenders: vec![
                line(Key::GzipProgram, 1000, 0.05),
                line(zstd(1, true), 1000, 0.8),
                line(zstd(1, false), 960, 1.1),
                line(zstd(3, true), 900, 0.6),
                line(mig(Effort::Store), 2000, 5.0),
                line(mig(Effort::Fast), 320, 2.01),
                line(mig(Effort::Balanced), 275, 0.61),
            ],
            peaks: Vec::new(),
        }
    }

    fn failed(result: &PackResult, more: &[&str]) -> Vec<String> {
        let more = [&["--no-peak"], more].concat();
        let goals = goals(result, &args(&more));
        goals.into_iter().filter(|goal| goal.verdict != Verdict::Pass).map(|goal| goal.what).collect()
    }

    #[test]
    fn a_good_run_meets_all_goals() {
        assert_eq!(failed(&good(), &[]), Vec::<String>::new());
        assert_eq!(goals(&good(), &args(&["--no-peak"])).len(), 1 + 3 + 2 + 3 * 3);
    }

    #[test]
    fn each_goal_can_be_missed() {
        let spoilt = |effort, spoil: fn(&mut Line), expected: &str| {
            let mut result = good();
            let key = Key::Mig { effort, references: true };
            spoil(result.contenders.iter_mut().find(|line| line.key == key).unwrap());
            let failed = failed(&result, &[]);
            assert!(failed.len() == 1 && failed[0].contains(expected), "{expected}: {failed:?}");
        };
        let slower = |line: &mut Line| {
            let cost = Cost { wall: 1.2 * line.pack.wall_seconds.median(), cpu: 1.0 };
            line.pack = Timing::new(GB, &[cost, cost]).unwrap();
        };
        spoilt(Effort::Store, slower, "store >= 5 GB/s");
        spoilt(Effort::Fast, slower, "over zstd -1 -T2 (program) >= 2.5x");
        spoilt(Effort::Balanced, slower, "over zstd -3");
        spoilt(Effort::Fast, |line| line.of_gzip = Some(0.3201), "of gzip -6 <= 32 %");
        spoilt(Effort::Fast, |line| line.bytes = 321, "of zstd -1 <= 33.3");
        spoilt(Effort::Balanced, |line| line.of_gzip = Some(0.2751), "of gzip -6 <= 27.5 %");
        spoilt(Effort::Store, |line| line.blocks.as_mut().unwrap().settled_bytes = 301, "settled page");
        spoilt(Effort::Store, |line| line.unpack_file = Some(line.pack.clone()), "into a file");
        spoilt(Effort::Fast, |line| line.unpack_memory = None, "into memory");
    }

    #[test]
    fn what_was_left_out_is_not_asked_and_what_is_missing_is() {
        let mut result = good();
        result.contenders.retain(|line| matches!(line.key, Key::Mig { .. }));
        result.contenders.iter_mut().for_each(|line| line.of_gzip = None);
        assert_eq!(failed(&result, &["--no-peers"]), Vec::<String>::new());
        assert_eq!(failed(&result, &["--no-gzip"]).len(), 3);
        assert_eq!(failed(&result, &[]).len(), 5);
        result.references.clear();
        assert_eq!(goals(&result, &args(&[])), []);
    }
}
