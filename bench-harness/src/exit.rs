//! Exit codes: what a script can tell apart.

use std::process::ExitCode;

use mig_engine::{DecodeError, EncodeError, UnpackError};

/// A problem that has an exit code of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// Something the user said can't be done.
    #[error("{0}")]
    Usage(String),
    /// Somebody's output is not what it should be; there is no figure then.
    #[error("{who}: {what}")]
    Wrong {
        /// The contender or kernel.
        who: String,
        /// What is wrong.
        what: String,
    },
    /// `--check`: goals were missed.
    #[error("{missed} of {goals} goals missed, {unmeasured} not measured")]
    Missed {
        /// Goals that were measured and missed.
        missed: usize,
        /// Goals that nothing was measured for.
        unmeasured: usize,
        /// All goals.
        goals: usize,
    },
    /// `compare`: cases that became worse.
    #[error("{worse} of {compared} cases are worse than before")]
    Worse {
        /// Cases that became worse.
        worse: usize,
        /// All that both reports have.
        compared: usize,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const WRONG: u8 = 3;
const MISSED: u8 = 5;
const INTERRUPTED: u8 = 130;

/// Shown by `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0    done; with --check: every goal was measured and met
  1    a file can't be read or written, or the like
  2    the command line is wrong
  3    a wrong answer: a contender's output does not decode to what it was given
  5    with --check: a goal was missed, or could not be measured; compare: something is worse than before
  130  interrupted";

/// The exit code for an error.
pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(number_of(error))
}

fn number_of(error: &anyhow::Error) -> u8 {
    error.chain().find_map(number_of_cause).unwrap_or(FAILED)
}

fn number_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(problem) = cause.downcast_ref::<Problem>() {
        return Some(match problem {
            Problem::Usage(_) => USAGE,
            Problem::Wrong { .. } => WRONG,
            Problem::Missed { .. } | Problem::Worse { .. } => MISSED,
            Problem::Interrupted => INTERRUPTED,
        });
    }
    if let Some(EncodeError::Cancelled) = cause.downcast_ref() {
        return Some(INTERRUPTED);
    }
    let decode = match cause.downcast_ref::<UnpackError>() {
        Some(error) => &error.source,
        None => cause.downcast_ref::<DecodeError>()?,
    };
    Some(match decode {
        DecodeError::Cancelled => INTERRUPTED,
        DecodeError::Io { .. } => FAILED,
        // What we packed ourselves does not unpack.
        _ => WRONG,
    })
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, Error};

    use super::*;

    #[test]
    fn each_problem_has_its_code_however_deep_it_is() {
        let wrong = || Problem::Wrong { who: "zstd".into(), what: "3 bytes too many".into() };
        let cases: [(Error, u8); 7] = [
            (Problem::Usage("no".into()).into(), USAGE),
            (wrong().into(), WRONG),
            (Err::<(), _>(wrong()).context("while packing").unwrap_err(), WRONG),
            (Problem::Missed { missed: 1, unmeasured: 0, goals: 4 }.into(), MISSED),
            (EncodeError::Cancelled.into(), INTERRUPTED),
            (DecodeError::Checksum { field: "block" }.into(), WRONG),
            (std::io::Error::other("disk on fire").into(), FAILED),
        ];
        for (error, code) in cases {
            assert_eq!(number_of(&error), code, "{error:#}");
            assert!(HELP.contains(&format!("\n  {code} ")), "--help must name {code}");
        }
    }
}
