//! What is promised of `mig auto` on every link: never slower than sending everything as it is, and close to the best effort.

use super::result::{CorpusRun, Line};
use crate::contender::{Named, Nature};
use crate::goal::Goal;

/// How much longer than the best fixed effort it may take.
const OF_BEST: f64 = 1.05;
/// Seconds that are no difference: nothing is known of a link before it was looked at once, and an image of a few MiB may be over by then.
const NO_DIFFERENCE: f64 = 0.02;

/// The goals of one run; none where a suite leaves out what they are about.
pub(super) fn goals(run: &CorpusRun) -> Vec<Goal> {
    let nature = |line: &Line| line.contender.parse::<Named>().ok().map(|named| named.nature());
    let of = |wanted: Nature| run.contenders.iter().find(|line| nature(line) == Some(wanted));
    let Some(auto) = of(Nature::Auto) else { return Vec::new() };
    let raw = of(Nature::Raw);
    let mut goals = Vec::new();
    for link in run.links() {
        let Some(ours) = auto.on(&link) else { continue };
        let place = format!("{}, {} threads, {link}: time of mig auto", run.corpus, run.threads);
        let mut hold_to = |what: &str, other: f64, most: f64| {
            let what = format!("{place}, of {what}");
            goals.push(Goal::time_at_most(&what, ours.seconds.median(), other, most, NO_DIFFERENCE));
        };
        if let Some(raw) = raw.and_then(|raw| raw.on(&link)) {
            hold_to("raw", raw.seconds.median(), 1.0);
        }
        let fixed = run
            .contenders
            .iter()
            .filter(|line| matches!(nature(line), Some(Nature::Fixed(_))))
            .filter_map(|line| Some(line.on(&link)?.seconds.median()))
            .min_by(f64::total_cmp);
        if let Some(best) = fixed {
            hold_to("the best fixed effort", best, OF_BEST);
        }
    }
    goals
}
