//! What a caller can ask for, and why it can't be had. Here with and without the feature `gpu`.

use std::fmt;
use std::str::FromStr;

/// Whether to scan on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuMode {
    /// If there is one that helps: never a software adapter, nor one to which pages would have to be copied.
    Auto,
    /// Do not look for one.
    #[default]
    Off,
    /// Or fail.
    Require,
}

impl GpuMode {
    /// All modes.
    pub const ALL: [GpuMode; 3] = [GpuMode::Auto, GpuMode::Off, GpuMode::Require];

    /// The name that [`FromStr`] takes.
    pub fn name(self) -> &'static str {
        match self {
            GpuMode::Auto => "auto",
            GpuMode::Off => "off",
            GpuMode::Require => "require",
        }
    }
}

impl fmt::Display for GpuMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is no mode.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no GPU mode {0:?} (auto, off and require are)")]
pub struct UnknownGpuMode(String);

impl FromStr for GpuMode {
    type Err = UnknownGpuMode;

    fn from_str(name: &str) -> Result<Self, UnknownGpuMode> {
        let found = GpuMode::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| UnknownGpuMode(name.to_owned()))
    }
}

/// Whether to scan on a GPU, and on which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuChoice {
    /// Whether.
    pub mode: GpuMode,
    /// Part of the adapter's name, in any case; of all adapters if `None`. With [`GpuMode::Require`], a software adapter is
    /// used only if it is named.
    pub adapter: Option<String>,
}

impl GpuChoice {
    /// Whatever adapter there is, in this mode.
    pub fn new(mode: GpuMode) -> Self {
        GpuChoice { mode, adapter: None }
    }

    /// Only adapters that have `name` in their name.
    pub fn named(mode: GpuMode, name: impl Into<String>) -> Self {
        GpuChoice { mode, adapter: Some(name.into()) }
    }
}

/// An adapter that was not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its name.
    pub adapter: String,
    /// The reason.
    pub why: String,
}

/// There is no GPU to scan on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum GpuError {
    /// The engine was built without the feature `gpu`.
    #[error("no GPU worker: this build has none (it was made without the feature `gpu`)")]
    NotBuilt,
    /// No adapter was found at all.
    #[error("no GPU adapter was found: is a Vulkan driver installed, and may this user open its device?")]
    NoAdapter,
    /// Adapters were found, and none can be used.
    #[error("no GPU adapter can be used: {}", list(.0))]
    Refused(Vec<Refused>),
}

fn list(refused: &[Refused]) -> String {
    let lines: Vec<String> = refused.iter().map(|one| format!("{}: {}", one.adapter, one.why)).collect();
    lines.join("; ")
}

/// What kind of adapter, the fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdapterKind {
    /// A card with its own memory.
    Discrete,
    /// Part of the processor.
    Integrated,
    /// A part of a card that a hypervisor lends.
    Virtual,
    /// The driver does not say.
    Other,
    /// The CPU: slower than its own kernels, but good for tests.
    Software,
}

impl AdapterKind {
    /// A word for reports.
    pub fn name(self) -> &'static str {
        match self {
            AdapterKind::Discrete => "discrete",
            AdapterKind::Integrated => "integrated",
            AdapterKind::Virtual => "virtual",
            AdapterKind::Other => "other",
            AdapterKind::Software => "software",
        }
    }
}

/// What there is to know of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: AdapterKind,
    /// The driver, with its version.
    pub driver: String,
    /// The largest buffer that a shader can be given, in bytes.
    pub max_binding: u64,
    /// The largest buffer, in bytes.
    pub max_buffer: u64,
    /// Pages of a batch, at most.
    pub batch_pages: usize,
    /// Alignment in bytes at which host memory can be imported, or why it can't.
    pub import: Result<u64, String>,
    /// Why it can't be used at all, if it can't.
    pub unusable: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_names() {
        for mode in GpuMode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert!("AUTO".parse::<GpuMode>().unwrap_err().to_string().contains("auto, off and require"));
    }

    #[test]
    fn errors_say_what_was_seen_and_why_not() {
        let refused = |adapter: &str, why: &str| Refused { adapter: adapter.into(), why: why.into() };
        let error = GpuError::Refused(vec![refused("A", "too old"), refused("B", "too slow")]);
        assert_eq!(error.to_string(), "no GPU adapter can be used: A: too old; B: too slow");
    }

    #[test]
    fn the_fastest_kind_comes_first() {
        assert!(
            AdapterKind::Discrete < AdapterKind::Integrated
                && AdapterKind::Integrated < AdapterKind::Software
        );
    }
}
