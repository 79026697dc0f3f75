//! What the fuzz targets share: places to decode into, references at hand, and tools that let a fuzzer past checksums.
//!
//! A fuzzer that changes a byte of a stream gets no further than the frame's checksum. So most targets take their
//! input for a stream that an attacker made: [`seal`] puts in the lengths, checksums and digests that an attacker
//! would put in, and what then reaches the decoder is hostile where it matters.

pub mod file;
pub mod guest;
pub mod reads;
pub mod references;
pub mod seal;
pub mod store;
pub mod strange;
