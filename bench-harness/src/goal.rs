//! Goals: figures that were promised, and whether this run met them.

use serde::Serialize;

use crate::exit::Problem;
use crate::human;
use crate::measure::Samples;

/// How a goal came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Measured and met.
    Pass,
    /// Measured and missed.
    Fail,
    /// Nothing was measured for it; with `--check` that is no success either.
    Unmeasured,
}

impl Verdict {
    fn of(met: bool) -> Self {
        if met { Verdict::Pass } else { Verdict::Fail }
    }
}

/// One promised figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Goal {
    /// What is measured, and what it has to be.
    pub(crate) what: String,
    /// What was measured, or why it was not.
    pub(crate) got: String,
    /// Whether it is good enough; medians decide.
    pub(crate) verdict: Verdict,
}

impl Goal {
    /// `what` must be `least` or more; `unit` starts with a space if one belongs there.
    pub(crate) fn at_least(what: &str, got: &Samples, least: f64, unit: &str) -> Self {
        let what = format!("{what} >= {}{unit}", trim(least));
        Goal { what, got: format!("{got}{unit}"), verdict: Verdict::of(got.median() >= least) }
    }

    /// As [`Goal::at_least`], for one number that must not be above `most`.
    pub(crate) fn at_most(what: &str, got: f64, most: f64, unit: &str) -> Self {
        let what = format!("{what} <= {}{unit}", trim(most));
        Goal { what, got: format!("{}{unit}", human::number(got)), verdict: Verdict::of(got <= most) }
    }

    /// A share of something, which must not be above `most`.
    pub(crate) fn share_at_most(what: &str, got: f64, most: f64) -> Self {
        let what = format!("{what} <= {} %", trim((most * 1000.0).round() / 10.0));
        Goal { what, got: human::percent(got), verdict: Verdict::of(got <= most) }
    }

    /// A time in seconds, as a multiple of another, which must not be above `most`, unless it is no more than `same` seconds longer.
    pub(crate) fn time_at_most(what: &str, got: f64, other: f64, most: f64, same: f64) -> Self {
        let ratio = got / other;
        let what = format!("{what} <= {} (or {} s more)", trim(most), trim(same));
        let verdict = Verdict::of(ratio <= most || got - other <= same);
        Goal { what, got: human::number(ratio), verdict }
    }

    /// Whether it was measured and met.
    pub(crate) fn is_met(&self) -> bool {
        self.verdict == Verdict::Pass
    }

    /// Nothing was measured.
    pub(crate) fn unmeasured(what: impl Into<String>, why: impl Into<String>) -> Self {
        Goal { what: what.into(), got: why.into(), verdict: Verdict::Unmeasured }
    }
}

/// A round number without needless digits.
fn trim(value: f64) -> String {
    // Products such as 0.275 * 100 are off in the last bit.
    format!("{}", (value * 1e6).round() / 1e6)
}

/// What `--check` makes of goals.
///
/// # Errors
///
/// [`Problem::Missed`] unless every one was measured and met.
pub(crate) fn check(goals: &[Goal]) -> Result<(), Problem> {
    let count = |verdict| goals.iter().filter(|goal| goal.verdict == verdict).count();
    let (missed, unmeasured) = (count(Verdict::Fail), count(Verdict::Unmeasured));
    if missed + unmeasured == 0 && !goals.is_empty() {
        return Ok(());
    }
    Err(Problem::Missed { missed, unmeasured, goals: goals.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_decide_and_limits_are_inclusive() {
        let got = Samples::new([4.0, 5.0, 6.0]).unwrap();
        assert_eq!(Goal::at_least("store", &got, 5.0, " GB/s").verdict, Verdict::Pass);
        assert_eq!(Goal::at_least("store", &got, 5.1, " GB/s").verdict, Verdict::Fail);
        assert_eq!(Goal::at_most("bytes", 0.3, 0.3, "").verdict, Verdict::Pass);
        assert_eq!(Goal::at_most("bytes", 0.31, 0.3, "").verdict, Verdict::Fail);
        assert_eq!(Goal::time_at_most("auto", 1.2, 1.1, 1.05, 0.01).verdict, Verdict::Fail);
        assert_eq!(Goal::time_at_most("auto", 0.012, 0.004, 1.05, 0.01).verdict, Verdict::Pass);
        assert_eq!(Goal::time_at_most("auto", 10.4, 10.0, 1.05, 0.01).verdict, Verdict::Pass);
        let share = Goal::share_at_most("balanced, of gzip -6", 0.2751, 0.275);
        assert_eq!((share.what.as_str(), share.verdict), ("balanced, of gzip -6 <= 27.5 %", Verdict::Fail));
    }

    #[test]
    fn only_goals_that_were_all_met_are_a_success() {
        let pass = Goal::at_most("a", 1.0, 2.0, "");
        let fail = Goal::at_most("b", 3.0, 2.0, "");
        let unmeasured = Goal::unmeasured("c", "no gzip here");
        assert!(check(std::slice::from_ref(&pass)).is_ok());
        assert!(check(&[]).is_err());
        assert!(check(&[pass.clone(), fail]).is_err());
        assert!(check(&[pass, unmeasured]).is_err());
    }
}
