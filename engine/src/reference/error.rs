//! What can go wrong between a reference's files and its blocks.

use std::io;
use std::path::PathBuf;

/// A reference cannot be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// The system does not let a file be opened, mapped or read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// An image is of a kind, or uses a feature, that is not read here.
    #[error("{path}: {feature} is not supported")]
    Unsupported {
        /// The image.
        path: PathBuf,
        /// What it uses.
        feature: &'static str,
    },
    /// An image's own tables contradict themselves or its file.
    #[error("{path}: {field} {value:#x} is not possible: the image is damaged")]
    Damaged {
        /// The image.
        path: PathBuf,
        /// The field that is wrong.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// The text that describes a VMDK image has a line that makes no sense.
    #[error("{path}: line {line} of the descriptor: {why}")]
    Descriptor {
        /// The image.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The library that reads qcow2 refuses the image or a part of it.
    #[error("{path}: qcow2: {source}")]
    Qcow2 {
        /// The image.
        path: PathBuf,
        /// The library's words.
        source: io::Error,
    },
    /// A kernel image cannot be made from the disk that should have it.
    #[error("the kernel image cannot be made: {why}")]
    Derived {
        /// What is wrong with the disk, or with the recipe.
        why: String,
    },
    /// A compressed piece of an image does not decompress to its size.
    #[error("{path}: compressed data for guest offset {offset:#x} is damaged")]
    Compressed {
        /// The image.
        path: PathBuf,
        /// Where the guest would see the data, in bytes.
        offset: u64,
    },
    /// An image needs more files than allowed: mostly one that is its own backing file, in the end.
    #[error("{path}: needs more than {max} {what}")]
    TooMany {
        /// The image that was opened first.
        path: PathBuf,
        /// What there are too many of.
        what: &'static str,
        /// How many are allowed.
        max: usize,
    },
    /// The disk that an image holds is larger than can be referred to.
    #[error("{path}: a disk of {size} bytes is more than the {max} that are supported")]
    TooLarge {
        /// The image.
        path: PathBuf,
        /// Bytes that the guest would see.
        size: u64,
        /// Bytes that are supported.
        max: u64,
    },
    /// Blocks were asked for that are not there, or a part of a block.
    #[error("{bytes} bytes from block {block} on are not whole blocks of the reference's {blocks}")]
    OutOfRange {
        /// The first block asked for.
        block: u64,
        /// Bytes asked for.
        bytes: u64,
        /// Blocks that there are.
        blocks: u64,
    },
}
