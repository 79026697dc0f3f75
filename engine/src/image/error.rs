//! Why a file can't be read as a memory image, or not be written again.

use std::io;
use std::path::PathBuf;

use super::{ImageFormat, MAX_SEGMENTS};

/// What stands between a file and its pages. The messages name the place in the file and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file can't be opened, measured or mapped.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Input that has no name (standard input, a file handle) can't be read, kept or mapped.
    #[error("cannot {what}")]
    Spool {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The file to write can't be given its length.
    #[error("cannot make the output file {len} bytes long")]
    Output {
        /// Its length in bytes.
        len: u64,
        /// What the system says.
        source: io::Error,
    },
    /// The name is none that a format has.
    #[error(
        "unknown format {name:?}: it is one of raw, elf, lime, mapped-ram, qemu, firecracker, cloud-hypervisor"
    )]
    UnknownFormat {
        /// What was given.
        name: String,
    },
    /// The file is something else, which would be packed badly as raw memory.
    #[error(
        "this is {kind}, not a plain memory image: {advice} (or use --format raw to pack its bytes as they are)"
    )]
    Foreign {
        /// What it is.
        kind: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// The file is a QEMU migration stream, whose pages lie in records: it has to be read from its start to its end.
    #[error("this is a QEMU migration stream, which can't be read page by page where it lies")]
    Stream,
    /// The file isn't what the user said it is.
    #[error("this is no {format} file: {why}")]
    WrongFormat {
        /// The format asked for.
        format: ImageFormat,
        /// What is missing.
        why: &'static str,
    },
    /// The file ends inside something that its headers promise.
    #[error(
        "{format}: {what} at offset {offset:#x} needs {need} bytes, but the file has {file_len} in all; \
         it may have been cut short (copy it again, or use --format raw to pack it as it is)"
    )]
    Truncated {
        /// The format being read.
        format: ImageFormat,
        /// What was being read.
        what: &'static str,
        /// Where it begins in the file.
        offset: u64,
        /// Its length in bytes.
        need: u64,
        /// The length of the file.
        file_len: u64,
    },
    /// A header holds a value that it can't have.
    #[error("{format}: {what} at offset {offset:#x} is {value:#x}: {why}")]
    Field {
        /// The format being read.
        format: ImageFormat,
        /// The field.
        what: &'static str,
        /// Where it is in the file.
        offset: u64,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The `state.json` of a Cloud Hypervisor snapshot says nothing usable.
    #[error(
        "state.json of the Cloud Hypervisor snapshot: {why} (use --format raw to pack memory-ranges as it is)"
    )]
    Snapshot {
        /// What is wrong.
        why: &'static str,
    },
    /// The `state.json` of a Cloud Hypervisor snapshot isn't JSON.
    #[error("state.json of the Cloud Hypervisor snapshot is not valid JSON")]
    SnapshotJson(#[from] serde_json::Error),
    /// The file holds no whole page.
    #[error("{format}: no whole page of 4096 bytes in a file of {file_len} bytes")]
    NoPages {
        /// The format.
        format: ImageFormat,
        /// The length of the file.
        file_len: u64,
    },
    /// The memory is in more pieces than any real image's.
    #[error("{format}: more than {MAX_SEGMENTS} pieces of memory or headers")]
    TooManySegments {
        /// The format.
        format: ImageFormat,
    },
    /// A layout contradicts itself.
    #[error("segment {index} of the layout: {why}")]
    Segment {
        /// Which segment, counted from 0.
        index: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A layout's file is longer than a file can be.
    #[error("a file of {file_len} bytes is longer than a file can be")]
    FileLength {
        /// The length.
        file_len: u64,
    },
    /// No page has a guest address, so nothing can be written as raw memory.
    #[error("the guest addresses of this {format} image are not known: it can only be written as it was")]
    NoAddresses {
        /// The format of the image.
        format: ImageFormat,
    },
}
