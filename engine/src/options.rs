//! What a caller can ask for.

use std::fmt;
use std::str::FromStr;

/// How much work to spend on residual pages.
///
/// The numbers are the format's. [`Effort::Dense`] and [`Effort::Max`] have their place in it; this build reads
/// their names and says that it cannot write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Effort {
    /// Residual pages are sent as they are: for links as fast as memory.
    Store = 0,
    /// Far long matches, then zstd's fastest: for 10 Gbit/s.
    Fast = 1,
    /// Long matches over the whole residual, then a stronger zstd: for 1 Gbit/s and below.
    Balanced = 2,
    /// Reserved for the word-aware coder.
    Dense = 3,
    /// Reserved for its optimal parse.
    Max = 4,
}

impl Effort {
    /// The efforts that this build can write.
    pub const AVAILABLE: [Effort; 3] = [Effort::Store, Effort::Fast, Effort::Balanced];

    pub(crate) fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            0 => Effort::Store,
            1 => Effort::Fast,
            2 => Effort::Balanced,
            3 => Effort::Dense,
            4 => Effort::Max,
            _ => return None,
        })
    }

    /// The name that [`FromStr`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Effort::Store => "store",
            Effort::Fast => "fast",
            Effort::Balanced => "balanced",
            Effort::Dense => "dense",
            Effort::Max => "max",
        }
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is no effort, or one that this build does not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no effort {0:?} (store, fast and balanced are)")]
pub struct UnknownEffort(String);

impl FromStr for Effort {
    type Err = UnknownEffort;

    fn from_str(name: &str) -> Result<Self, UnknownEffort> {
        let available = Effort::AVAILABLE.into_iter().find(|effort| effort.name() == name);
        available.ok_or_else(|| UnknownEffort(name.to_owned()))
    }
}
