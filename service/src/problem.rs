//! Problems that a user can do something about, where an error's type does not tell.

use crate::failure::Failure;

/// A problem that has an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Something the user said can't be done.
    #[error("{0}")]
    Usage(String),
    /// A needed reference is missing or has changed.
    #[error("{0}")]
    Reference(String),
    /// Everything was sent, but the destination never said that it is complete.
    #[error("{0}")]
    Unconfirmed(String),
    /// What a daemon said of its own work.
    #[error("{message}")]
    Daemon {
        /// Of which kind.
        failure: Failure,
        /// In words.
        message: String,
    },
}
