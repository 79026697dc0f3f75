//! What is promised of `mig auto` on every link: never slower than sending everything as it is, and close to the best effort.

use super::result::{CorpusRun, Line};
use crate::contender::{Named, Nature};
use crate::goal::Goal;

/// How much longer than the best fixed effort it may take.
const OF_BEST: f64 = 1.05;

/// The goals of one run; none where a suite leaves out what they are about.
pub(super) fn goals(run: &CorpusRun) -> Vec<Goal> {
    let nature = |line: &Line| line.contender.parse::<Named>().ok().map(|named| named.nature());
    let of = |wanted: Nature| run.contenders.iter().find(|line| nature(line) == Some(wanted));
    let Some(auto) = of(Nature::Auto) else { return Vec::new() };
    let raw = of(Nature::Raw);
    let mut goals = Vec::new();
    for link in run.links() {
        let Some(ours) = auto.on(&link) else { continue };
        let place = format!("{}, {} threads, {link}", run.corpus, run.threads);
        if let Some(raw) = raw.and_then(|raw| raw.on(&link)) {
            let ratio = ours.seconds.median() / raw.seconds.median();
            goals.push(Goal::at_most(&format!("{place}: time of mig auto, of raw"), ratio, 1.0, ""));
        }
        let fixed = run
            .contenders
            .iter()
            .filter(|line| matches!(nature(line), Some(Nature::Fixed(_))))
            .filter_map(|line| Some(line.on(&link)?.seconds.median()))
            .min_by(f64::total_cmp);
        if let Some(best) = fixed {
            let ratio = ours.seconds.median() / best;
            let what = format!("{place}: time of mig auto, of the best fixed effort");
            goals.push(Goal::at_most(&what, ratio, OF_BEST, ""));
        }
    }
    goals
}
