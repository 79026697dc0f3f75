//! The stream's bytes: frames and what is in them, exactly as `docs/format.md` says.
//!
//! Reading here means checking: every length is compared with a limit before it is used, and what comes out is
//! typed. Nothing in this module knows how pages are found or coded.

pub(crate) mod block;
pub(crate) mod data;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod index;
pub(crate) mod limits;
pub(crate) mod wire;

/// The version of the format that this build writes and reads.
pub const VERSION: u8 = 2;

pub use frame::{Frame, FrameRead, FrameReader, FrameType, FrameWrite};
pub use header::{Header, ReferenceKind, ReferenceNeed};
