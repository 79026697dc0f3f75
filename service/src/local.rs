//! Unix sockets: where QEMU is, and where the daemon's control API is.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mig_engine::Cancel;

use crate::problem::Problem;
use crate::wire::WireError;

const LOOK: Duration = Duration::from_millis(50);

/// The path in `unix:PATH`.
///
/// # Errors
///
/// What is wrong with the text.
pub fn unix_path(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix:") {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => Err(format!("{text:?}: only sockets of the form unix:PATH are known")),
    }
}

/// A socket file, removed when this is dropped.
#[derive(Debug)]
pub struct Bound {
    listener: UnixListener,
    path: PathBuf,
}

impl Bound {
    /// Makes a socket for this user at `path`. One that nobody listens to any more is replaced.
    ///
    /// # Errors
    ///
    /// [`Problem::Usage`] where something else is; what the system says.
    pub fn new(path: &Path) -> Result<Self> {
        let context = || format!("cannot make a socket at {}", path.display());
        if let Ok(there) = fs::symlink_metadata(path) {
            let in_use = || Problem::Usage(format!("{} is in use", path.display()));
            if !there.file_type().is_socket() {
                return Err(in_use().into());
            }
            match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).with_context(context)?;
                }
                _ => return Err(in_use().into()),
            }
        }
        let listener = UnixListener::bind(path).with_context(context)?;
        let bound = Bound { listener, path: path.to_owned() };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(context)?;
        Ok(bound)
    }

    /// The listener.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes one connection.
    ///
    /// # Errors
    ///
    /// What the system says; [`WireError::Cancelled`].
    pub fn accept_one(&self, cancel: &Cancel) -> Result<UnixStream> {
        self.listener.set_nonblocking(true).context("cannot use a socket")?;
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(false).context("cannot use a socket")?;
                    return Ok(socket);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if cancel.is_cancelled() {
                        return Err(WireError::Cancelled.into());
                    }
                    thread::sleep(LOOK);
                }
                Err(error) => return Err(error).context("cannot take a connection"),
            }
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Connects to a socket that may come into being within `limit`.
///
/// # Errors
///
/// What the system says in the end; `Interrupted` when cancelled.
pub fn connect(path: &Path, limit: Duration, cancel: &Cancel) -> io::Result<UnixStream> {
    let until = Instant::now() + limit;
    loop {
        match UnixStream::connect(path) {
            Ok(socket) => return Ok(socket),
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) if cancel.is_cancelled() => return Err(io::ErrorKind::Interrupted.into()),
            Err(_) => thread::sleep(LOOK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_made_once_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let bound = Bound::new(&path).unwrap();
        assert!(Bound::new(&path).unwrap_err().to_string().contains("in use"));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(bound);
        assert!(!path.exists());
        // One that was left behind by a process that was killed.
        drop(UnixListener::bind(&path).unwrap());
        drop(Bound::new(&path).unwrap());
        fs::write(&path, b"a file").unwrap();
        assert!(Bound::new(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"a file");
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(Bound::new(&folder.path().join("other")).unwrap().accept_one(&cancel).is_err());
        assert!(connect(&folder.path().join("other"), Duration::ZERO, &cancel).is_err());
        assert_eq!(unix_path("unix:/a"), Ok("/a".into()));
        assert!(unix_path("unix:").is_err() && unix_path("tcp:1").is_err());
    }
}
