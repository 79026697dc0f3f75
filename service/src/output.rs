//! Output files: whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

use crate::problem::Problem;

/// A file that appears under its name only when it is finished. Dropped before that, it leaves nothing.
///
/// What is no regular file, such as a device or a pipe, is written to as it is, and never replaced.
#[derive(Debug)]
pub struct Output {
    target: Target,
    path: PathBuf,
}

#[derive(Debug)]
enum Target {
    Temporary { file: NamedTempFile, force: bool },
    Special(File),
}

impl Output {
    /// Starts a file that is to be at `path`.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(path: &Path, force: bool) -> Result<Self> {
        let exists = path.metadata().ok();
        if exists.as_ref().is_some_and(|metadata| !metadata.is_file()) {
            let file = File::options().read(true).write(true).open(path);
            let file = file.or_else(|_| File::options().write(true).open(path));
            let file = file.with_context(|| format!("cannot write to {}", path.display()))?;
            return Ok(Output { target: Target::Special(file), path: path.to_owned() });
        }
        if !force && exists.is_some() {
            let text = format!("{} exists; say --force to replace it", path.display());
            return Err(Problem::Usage(text).into());
        }
        let file = NamedTempFile::with_prefix_in(".mig-", folder_of(path))
            .with_context(|| format!("cannot write to {}", folder_of(path).display()))?;
        Ok(Output { target: Target::Temporary { file, force }, path: path.to_owned() })
    }

    /// The unfinished file, for reading and writing.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn file(&self) -> Result<File> {
        let file = match &self.target {
            Target::Temporary { file, .. } => file.as_file(),
            Target::Special(file) => file,
        };
        file.try_clone().with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn finish(self) -> Result<()> {
        let Target::Temporary { file, force } = self.target else { return Ok(()) };
        let path = self.path;
        let rename = || -> io::Result<()> {
            file.as_file().sync_all()?;
            set_private(file.as_file())?;
            if force {
                file.persist(&path)?;
            } else {
                file.persist_noclobber(&path)?;
            }
            // The name is only safe once the folder is.
            File::open(folder_of(&path))?.sync_all()
        };
        rename().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Temporary files are private; guest memory stays so unless the user's umask was asked, which it can't be
/// without changing it. So: readable by the owner only.
///
/// # Errors
///
/// What the system says.
pub fn set_private(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}

/// The folder of a file.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Whether a path stands for standard input or output.
pub fn is_dash(path: &Path) -> bool {
    path == Path::new("-")
}

/// Standard output without the line buffer.
///
/// # Errors
///
/// What the system says.
pub fn stdout_file() -> Result<File> {
    let handle = io::stdout().as_fd().try_clone_to_owned();
    Ok(File::from(handle.context("cannot write to standard output")?))
}

/// Prints text that may be long; a reader that went away is no error.
///
/// # Errors
///
/// What the system says.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}
