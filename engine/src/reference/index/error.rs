//! What can go wrong with an index.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::reference::ReferenceError;

/// An index cannot be built, written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The reference is not what it was when the index was built: build it again.
    #[error("{path}: the index is stale: the reference's {changed} changed since it was built")]
    Stale {
        /// The index.
        path: PathBuf,
        /// The first thing found to be different.
        changed: StaleCause,
    },
    /// The file is no index, or not as it was written: build it again.
    #[error("{path}: the index is damaged: its {field} is wrong")]
    Damaged {
        /// The index.
        path: PathBuf,
        /// Where it shows.
        field: &'static str,
    },
    /// The index was written by a later version of this program.
    #[error("{path}: index version {found} is not supported (this build reads version {supported})")]
    Version {
        /// The index.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The version that is read here.
        supported: u32,
    },
    /// A file can't be read or written: the index, or one that takes what does not fit into memory.
    #[error("{path}: {source}")]
    Io {
        /// The file, or the folder of a temporary file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The reference can't be read.
    #[error(transparent)]
    Source(#[from] ReferenceError),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// What makes an index stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StaleCause {
    /// The reference has more or fewer blocks.
    Blocks,
    /// The reference's file is longer or shorter.
    Length,
    /// The reference's file was written to.
    Modified,
    /// One of the further files of the image (a backing image, say) changed, or there are more or fewer of them.
    OtherFiles,
    /// The contents of the sampled blocks are different.
    Identity,
}

impl fmt::Display for StaleCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocks => "number of blocks",
            Self::Length => "length",
            Self::Modified => "modification time",
            Self::OtherFiles => "backing files",
            Self::Identity => "identity",
        })
    }
}
