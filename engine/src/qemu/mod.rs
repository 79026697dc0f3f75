//! QEMU's migration stream: taken apart so that its pages can be coded, and put together again, byte for byte.
//!
//! A stream is device state with guest memory in the middle. Only the `ram` section can be understood by itself: its records say
//! "page so-and-so is now these 4096 bytes". Those become pages of blocks; everything else, and the order of it all, becomes
//! *scripts* (`docs/format.md`, section 10), which say what to write: these bytes, then records for these pages as they are now.
//! Whoever runs the scripts over memory rebuilt from the blocks writes the very stream that was read. What can't be
//! understood is carried as bytes, from there to the end: less well packed, and never wrong.
//!
//! * [`Parser`] finds the records; [`Transcoder`] turns them into batches of pages and scripts; [`Rebuilder`] runs scripts.
//! * [`pack`], [`unpack`] and [`flatten`] do all of that for streams in files.
//!
//! Streams of multifd, of postcopy and with xbzrle are carried as bytes. Every byte read here is hostile input.

mod batch;
mod files;
mod parse;
mod script;
mod transcode;

pub use files::{
    Coder, Coding, Gather, Out, Packed, Rebuilt, StreamError, flatten, is_stream, machine_of, pack, unpack,
};
pub use parse::{Events, FromFile, Input, Parser, RamBlock, Record};
pub use script::Rebuilder;
pub use transcode::{Consumer, Holding, RoundEnd, Transcoder};
