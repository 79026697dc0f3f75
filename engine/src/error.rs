//! What can go wrong, one small enum for each boundary.

use std::io;

use crate::gpu::GpuError;
use crate::guest::FreePagesError;
use crate::image::ImageError;
use crate::reference::ReferenceError;

/// Bytes of a stream that are not what `docs/format.md` allows, or pages that do not verify.
///
/// Every variant means that the block (or the stream, where the frame itself is bad) was not delivered;
/// pages that were verified before stay good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("{field}: {needed} bytes needed, {left} left")]
    Truncated {
        /// The field that was being read.
        field: &'static str,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that there are.
        left: u64,
    },
    /// A field holds something that the format does not allow.
    #[error("{field}: {why}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// A number is above the format's or the caller's limit.
    #[error("{field}: {value} is more than the {max} allowed")]
    TooLarge {
        /// The field.
        field: &'static str,
        /// What it says.
        value: u64,
        /// What it may say at most.
        max: u64,
    },
    /// The stream's version is not one that this build reads.
    #[error("format version {found} is not supported (this build reads version {supported})")]
    Version {
        /// The version in the stream.
        found: u8,
        /// The version that this build reads.
        supported: u8,
    },
    /// A checksum over stored bytes does not hold: they were damaged on the way.
    #[error("{field}: checksum mismatch, the bytes were damaged after they were written")]
    Checksum {
        /// What the checksum covers.
        field: &'static str,
    },
    /// The pages of a block were rebuilt, but are not the pages that were packed.
    #[error(
        "the {pages} pages from page {first_page} on do not verify: a reference has changed since packing, \
         or the stream is damaged"
    )]
    Digest {
        /// First page of the block.
        first_page: u64,
        /// Pages in the block.
        pages: u64,
    },
    /// The stream refers to something the caller did not give.
    #[error("reference {index} ({name}) is needed, but not at hand")]
    MissingReference {
        /// Its place in the stream's list.
        index: usize,
        /// The name that the packer knew it by.
        name: String,
    },
    /// zstd refuses a payload.
    #[error("{field}: zstd: {message}")]
    Zstd {
        /// The payload.
        field: &'static str,
        /// zstd's own words.
        message: String,
    },
    /// A reference cannot be read.
    #[error("reference {index}: {source}")]
    Reference {
        /// Its place in the stream's list.
        index: usize,
        /// What its reader says.
        source: ReferenceError,
    },
    /// The stream can't be read, or pages can't be stored.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The image's layout in the header is not possible.
    #[error("image layout: {0}")]
    Layout(#[from] ImageError),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Packing failed; nothing of the output is to be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Guest memory cannot be read or is not understood.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Guest memory could be read when it was opened, but not any more.
    #[error("reading pages {first} to {last}: {source}")]
    Read {
        /// First page of those that were to be read.
        first: u64,
        /// Last one.
        last: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// A reference cannot be read.
    #[error("reference {name}: {source}")]
    Reference {
        /// The name that the caller gave it.
        name: String,
        /// What its reader says.
        source: ReferenceError,
    },
    /// The stream can't be written.
    #[error("writing the stream: {0}")]
    Write(#[source] io::Error),
    /// zstd refuses to work: out of memory, say.
    #[error("zstd: {0}")]
    Zstd(String),
    /// More than the format can hold.
    #[error("{what}: {value} is more than the {max} that the format holds")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        value: u64,
        /// How much there may be.
        max: u64,
    },
    /// A page set is empty, unordered, or reaches beyond the guest's memory.
    #[error("page set: {0}")]
    PageSet(&'static str),
    /// Worker threads cannot be started.
    #[error("starting {threads} threads: {message}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// The pool's own words.
        message: String,
    },
    /// Free pages were to be sent as zero, and can't be.
    #[error("free pages are not sent as zero: {0}")]
    FreePages(#[from] FreePagesError),
    /// A GPU is required, and there is none.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}
