//! One file of the host that belongs to an image, mapped, with reads that check their bounds.

use std::path::{Path, PathBuf};

use crate::map::FileMap;
use crate::reference::ReferenceError;
use crate::reference::index::FileStamp;

/// A mapped file, its name for messages, and when it was last changed before it was mapped.
#[derive(Debug)]
pub(super) struct HostFile {
    pub(super) path: PathBuf,
    pub(super) map: FileMap,
    pub(super) stamp: FileStamp,
}

impl HostFile {
    pub(super) fn open(path: &Path) -> Result<Self, ReferenceError> {
        let failed = |source| ReferenceError::Io { path: path.to_owned(), source };
        let map = FileMap::open(path).map_err(failed)?;
        // Taken before any of the contents are read, so that a later change shows.
        let stamp = FileStamp::of(map.file()).map_err(failed)?;
        // The metadata of a block device tell neither its length nor, alas, when it was written to.
        let stamp = FileStamp { len: map.len(), ..stamp };
        Ok(Self { path: path.to_owned(), map, stamp })
    }

    pub(super) fn len(&self) -> u64 {
        self.map.len()
    }

    /// `len` bytes at `offset`, if the file has them.
    pub(super) fn bytes(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        self.map.bytes().get(start..end)
    }

    /// `N` bytes at `offset`, for an integer.
    pub(super) fn array<const N: usize>(
        &self,
        offset: u64,
        field: &'static str,
    ) -> Result<[u8; N], ReferenceError> {
        let bytes = self.bytes(offset, N as u64).and_then(|bytes| bytes.first_chunk());
        bytes.copied().ok_or_else(|| self.damaged(field, offset))
    }

    pub(super) fn damaged(&self, field: &'static str, value: u64) -> ReferenceError {
        ReferenceError::Damaged { path: self.path.clone(), field, value }
    }

    pub(super) fn unsupported(&self, feature: &'static str) -> ReferenceError {
        ReferenceError::Unsupported { path: self.path.clone(), feature }
    }

    /// The path of a file that this one names, which is relative to where this one lies.
    ///
    /// Names of QEMU's other forms than a path (a protocol, JSON) are refused.
    pub(super) fn neighbour(&self, name: &str) -> Result<PathBuf, ReferenceError> {
        let name = name.strip_prefix("file:").unwrap_or(name);
        if name.starts_with("json:") || name.contains("://") {
            return Err(self.unsupported("a backing file that is named by a URL or by JSON"));
        }
        Ok(self.path.parent().unwrap_or(Path::new("")).join(name))
    }
}
