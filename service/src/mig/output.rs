//! Output files: whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

use crate::exit::Problem;

/// A file that appears under its name only when it is finished. Dropped before that, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Output {
    file: NamedTempFile,
    path: PathBuf,
    force: bool,
}

impl Output {
    /// Starts a file that is to be at `path`.
    pub(crate) fn new(path: &Path, force: bool) -> Result<Self> {
        if !force && path.exists() {
            let text = format!("{} exists; say --force to replace it", path.display());
            return Err(Problem::Usage(text).into());
        }
        let file = NamedTempFile::with_prefix_in(".mig-", folder_of(path))
            .with_context(|| format!("cannot write to {}", folder_of(path).display()))?;
        Ok(Output { file, path: path.to_owned(), force })
    }

    /// The unfinished file, for reading and writing.
    pub(crate) fn file(&self) -> Result<File> {
        self.file.as_file().try_clone().with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Syncs the file and gives it its name.
    pub(crate) fn finish(self) -> Result<()> {
        let context = || format!("cannot write {}", self.path.display());
        self.file.as_file().sync_all().with_context(context)?;
        let folder = folder_of(&self.path).to_owned();
        let path = self.path.clone();
        let failed = |error: io::Error| anyhow::Error::new(error).context(format!("cannot write {}", path.display()));
        set_usual_mode(self.file.as_file()).map_err(failed)?;
        if self.force {
            self.file.persist(&path).map_err(|error| failed(error.error))?;
        } else {
            self.file.persist_noclobber(&path).map_err(|error| failed(error.error))?;
        }
        // The name is only safe once the folder is.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

/// Temporary files are private; guest memory stays so unless the user's umask was asked, which it can't be
/// without changing it. So: readable by the owner only.
fn set_usual_mode(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}

/// The folder of a file.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Whether a path stands for standard input or output.
pub(crate) fn is_dash(path: &Path) -> bool {
    path == Path::new("-")
}

/// Prints text that may be long; a reader that went away is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}
