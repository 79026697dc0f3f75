//! Files in memory, for interfaces that take a path or a mapping.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};

/// A file that lives in memory and holds these bytes.
///
/// # Panics
///
/// Where the system has no such files, or no room: then nothing can be tested.
pub fn with_bytes(bytes: &[u8]) -> File {
    let file = File::from(memfd_create("mig-fuzz", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.write_all_at(bytes, 0).expect("room for a small file");
    file
}

/// A path that leads to an open file.
pub fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// As [`with_bytes`], with this file descriptor number, so that an image can name it: paths are relative to the image's
/// folder, which is that of all descriptors.
///
/// # Panics
///
/// As for [`with_bytes`].
pub fn at_number(bytes: &[u8], number: i32) -> File {
    let held = with_bytes(bytes);
    let placed = rustix::io::fcntl_dupfd_cloexec(&held, number).expect("a free descriptor");
    assert_eq!(placed.as_raw_fd(), number, "the number is taken");
    File::from(placed)
}
