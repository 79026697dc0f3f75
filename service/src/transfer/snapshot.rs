//! A guest's memory that is kept when it has left, or arrived, for the way back.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mig_engine::live::FlatFile;
use mig_engine::{Cancel, Level, Reference, ReferenceKind};
use tempfile::NamedTempFile;

use crate::events::{Event, OnEvent};
use crate::output::folder_of;

/// A file that is to hold a guest's memory: under its name when that is complete, and nameless until then.
#[derive(Debug)]
pub(super) enum Snapshot {
    Kept(NamedTempFile, PathBuf),
    Scratch(File),
}

impl Snapshot {
    /// To be kept at `path`, or else only for now, in `scratch`.
    pub(super) fn new(path: Option<PathBuf>, scratch: &Path) -> Result<Self> {
        let context = || "cannot make a file for the guest's memory".to_owned();
        Ok(match path {
            Some(path) => {
                let file = NamedTempFile::with_prefix_in(".mig-", folder_of(&path)).with_context(context)?;
                Snapshot::Kept(file, path)
            }
            None => Snapshot::Scratch(tempfile::tempfile_in(scratch).with_context(context)?),
        })
    }

    /// The file, to be filled.
    pub(super) fn file(&self) -> io::Result<File> {
        match self {
            Snapshot::Kept(file, _) => file.as_file().try_clone(),
            Snapshot::Scratch(file) => file.try_clone(),
        }
    }

    /// Gives it its name, if it is to have one. That it can't be kept is no reason to fail a migration.
    pub(super) fn keep(self, memory: FlatFile, on: OnEvent<'_>) {
        let Snapshot::Kept(file, path) = self else { return };
        drop(memory);
        if let Err(error) = file.persist(&path) {
            let message = format!("the snapshot is not kept: {}: {error}", path.display());
            on(&Event::Warning { message });
        }
    }
}

/// Opens a snapshot that was kept, if there is one; indexed if it is to send with.
///
/// # Errors
///
/// One that is there and can't be used.
pub fn open_snapshot(path: &Path, indexed: bool, cancel: &Cancel) -> Result<Option<Reference>> {
    if !path.exists() {
        return Ok(None);
    }
    let context = || format!("cannot use the snapshot {}", path.display());
    let mut reference = Reference::open_as(path, ReferenceKind::Memory).with_context(context)?;
    if indexed {
        reference.build_index(Level::best(), cancel).with_context(context)?;
    }
    Ok(Some(reference))
}
