//! What a caller can ask for.

use std::fmt;
use std::str::FromStr;

/// How much work to spend on residual pages.
///
/// The numbers are the format's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Effort {
    /// Residual pages are sent as they are: for links as fast as memory.
    Store = 0,
    /// Far long matches, then zstd's fastest: for 10 Gbit/s.
    Fast = 1,
    /// Long matches over the whole residual, then a stronger zstd: for 1 Gbit/s and below.
    Balanced = 2,
    /// Long matches, then the word coder: for 300 Mbit/s and below.
    Dense = 3,
    /// The word coder at its most thorough, some fifteen times slower to write and as fast to read: for links under 100 Mbit/s, and for files that
    /// are kept.
    Max = 4,
}

impl Effort {
    /// The efforts that this build can write.
    pub const AVAILABLE: [Effort; 5] =
        [Effort::Store, Effort::Fast, Effort::Balanced, Effort::Dense, Effort::Max];

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

/// A word that is no effort.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no effort {0:?} (those are {names})", names = Effort::AVAILABLE.map(Effort::name).join(", "))]
pub struct UnknownEffort(String);

impl FromStr for Effort {
    type Err = UnknownEffort;

    fn from_str(name: &str) -> Result<Self, UnknownEffort> {
        let available = Effort::AVAILABLE.into_iter().find(|effort| effort.name() == name);
        available.ok_or_else(|| UnknownEffort(name.to_owned()))
    }
}

/// A way of making the stream smaller that can be left out, to see what it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Technique {
    /// Reading the guest: classes, owners and addresses of pages. The next two, and kernel images, need it.
    Guest,
    /// Left-over pages in the order in which the guest sees them.
    Order,
    /// Pointers into their own neighbourhood as distances.
    SelfRelative,
    /// The kernel image on the disk, as the guest has it in memory.
    Kernel,
    /// Pages as what they differ in from one other page. The next one needs it.
    Bases,
    /// Pointers that moved against that page as the distances that they moved.
    Relocated,
    /// Ranges of words that other pages hold.
    LongMatches,
}

impl Technique {
    /// All of them.
    pub const ALL: [Technique; 7] = [
        Technique::Guest,
        Technique::Order,
        Technique::SelfRelative,
        Technique::Kernel,
        Technique::Bases,
        Technique::Relocated,
        Technique::LongMatches,
    ];

    /// The name that [`FromStr`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Technique::Guest => "guest",
            Technique::Order => "order",
            Technique::SelfRelative => "self-relative",
            Technique::Kernel => "kernel",
            Technique::Bases => "bases",
            Technique::Relocated => "relocated",
            Technique::LongMatches => "long-matches",
        }
    }
}

impl fmt::Display for Technique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is no technique.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no technique {0:?} (those are {names})", names = Technique::ALL.map(Technique::name).join(", "))]
pub struct UnknownTechnique(String);

impl FromStr for Technique {
    type Err = UnknownTechnique;

    fn from_str(name: &str) -> Result<Self, UnknownTechnique> {
        let found = Technique::ALL.into_iter().find(|technique| technique.name() == name);
        found.ok_or_else(|| UnknownTechnique(name.to_owned()))
    }
}

/// The techniques that packing uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Techniques(u32);

impl Techniques {
    /// All of them.
    pub const ALL: Techniques = Techniques(!0);

    /// These without one.
    #[must_use]
    pub fn without(self, technique: Technique) -> Self {
        Techniques(self.0 & !(1 << technique as u32))
    }

    /// Whether one is among them.
    pub fn has(self, technique: Technique) -> bool {
        self.0 >> technique as u32 & 1 != 0
    }
}

impl Default for Techniques {
    fn default() -> Self {
        Techniques::ALL
    }
}
