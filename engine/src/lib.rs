//! MiG's engine: guest memory in, a stream a fraction of its size out, and back, byte for byte.
//!
//! A desktop VM's memory is mostly things that need not be sent: zero pages, pages that equal a block of the VM's
//! own disk, pages of an older snapshot, pages sent before. The engine settles those first, takes far repetitions
//! out of the rest, and hands what is left to an entropy coder. What it writes is verified page by page when it is
//! read. `ARCHITECTURE.md` tells the life of a page, `docs/format.md` the stream's bytes.
//!
//! * Files: [`Packer`] and [`Unpacker`] for [`MemoryImage`]s, on any `Write` and `Read`; [`Reader`] for any page of
//!   a packed file.
//! * Transports and VMMs: [`BlockEncoder`] with its [`History`], and [`BlockDecoder`], which turn sets of captured
//!   pages into blocks and back.
//!
//! No sockets, no async, no global state; threads end with the call that started them. Nothing panics on any
//! bytes from outside.

#![deny(unsafe_code)]

mod ahead;
mod class;
mod columns;
mod decode;
mod encode;
mod error;
mod format;
pub mod gpu;
pub mod guest;
mod hold;
pub mod image;
pub mod inspect;
mod kernel;
pub mod live;
mod locate;
mod longmatch;
pub mod map;
mod matches;
mod options;
mod pack;
mod page;
mod pending;
mod pipeline;
mod progress;
pub mod qemu;
mod reader;
pub mod reference;
mod refs;
mod residual;
mod settle;
mod source;
mod table;
mod unpack;
#[doc(hidden)] // for benches and fuzzing
pub mod wlz;
mod worker;

pub use ahead::{AheadStats, ChunkScan, Claim, ScanAhead, Share, Task};
pub use class::Class;
pub use columns::{Run as SettledRun, Settled};
pub use decode::{BlockDecoder, PageStore, ParsedBlock};
pub use encode::{
    BlockEncoder, BlockStats, CodedBlock, History, How, Leftover, Reach, Scanned, SettledBlock, Words,
};
pub use error::{DecodeError, EncodeError};
pub use format::{
    Frame, FrameRead, FrameReader, FrameType, FrameWrite, Header, ReferenceKind, ReferenceNeed, VERSION,
};
pub use gpu::{Gpu, GpuChoice, GpuError, GpuMode};
pub use hold::Hold;
pub use image::{FormatChoice, ImageFormat, ImageLayout, MemoryImage};
pub use kernel::{Derivation, KernelCache};
pub use mig_simd::Level;
pub use options::{Effort, Technique, Techniques, UnknownEffort, UnknownTechnique};
pub use pack::{PackSummary, Packer, default_threads};
pub use page::{PAGE_SIZE, PAGE_WORDS, Page, PageSet};
pub use progress::{Cancel, OnProgress, Progress};
pub use reader::Reader;
pub use refs::{OpenError, Reference, Resolved, fingerprints};
pub use source::PageSource;
pub use unpack::{DecodeLimits, FileStore, OpaqueStore, UnpackError, UnpackSummary, Unpacker};
pub use worker::{CpuWorker, ScanWorker};
