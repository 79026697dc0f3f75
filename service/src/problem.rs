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

/// Does some work that must not take others down with it; if it panics, gives what it said.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
        format!("a bug, please report it: {}", said.as_deref().unwrap_or("it panicked"))
    })
}

#[cfg(test)]
mod tests {
    use super::guarded;

    #[test]
    fn a_panic_is_an_error_with_what_it_said() {
        assert_eq!(guarded(|| 7), Ok(7));
        let said = guarded(|| assert_eq!(1 + 1, 3, "sums")).unwrap_err();
        assert!(said.contains("a bug") && said.contains("sums"), "{said}");
    }
}
