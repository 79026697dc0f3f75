//! What both ends already have: disk images, their indexes, and how a reference is told apart from another.
//!
//! A reference is a row of 4096-byte blocks ([`BlockSource`]). Its [`Index`] finds, for the fingerprint of a page,
//! the block that probably holds the same bytes; its [`Identity`] finds, on the other side, the file that probably
//! is the same reference. Both say "probably": whoever uses a block compares its bytes, or checks a digest.
//!
//! Not for memory images as such: `image` reads those, and they become references by implementing
//! [`BlockSource`].

mod block_source;
mod disk;
mod error;
mod identity;
mod index;
mod samples;

pub(crate) use block_source::check_range;
pub use block_source::{BLOCK_SIZE, BlockSource, DiskRun, MAX_BLOCKS};
pub use disk::{DiskFormat, DiskImage};
pub use error::ReferenceError;
pub use identity::Identity;
pub use index::{
    Candidates, FileStamp, FingerprintFn, Index, IndexBuilder, IndexError, SourceTie, StaleCause,
};
pub(crate) use samples::SPARSITY as SAMPLE_SPARSITY;
pub use samples::Samples;
