//! The word coder: LZ with a binary range coder, made for memory.
//!
//! It differs from its model, LZMA, in what it knows of memory: every context has the place of a byte in its word; distances are
//! mostly multiples of eight; a word may be told as an address near another one; and a literal is predicted by the byte at
//! the last distance, with several predictions mixed into one. `docs/format.md`, section 11, describes it to the bit.
//!
//! One `Model` serves both directions, so they cannot drift apart: `range::Coder` is what differs. Two parses decide
//! what to code: `lazy` looks one byte ahead, `optimal` finds the cheapest way through the next 4096 bytes at
//! the model's own prices. Both give the same kind of stream.
//!
//! Hostile bytes cost what good ones cost: the output's length is known beforehand, every step adds to it, and whatever cannot be
//! is an error.

mod buckets;
mod decode;
mod lazy;
mod mix;
mod model;
mod optimal;
mod price;
mod range;
mod symbols;
mod token;
mod tree;

use crate::error::DecodeError;
use model::Model;

/// How much work an encoder does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parse {
    /// One byte ahead.
    Lazy,
    /// The cheapest way through a stretch.
    Optimal,
}

/// An encoder, and the tables that it keeps for the next input.
pub struct Encoder(Parser);

enum Parser {
    Lazy(lazy::Lazy),
    Optimal(Box<optimal::Optimal>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder with empty tables: about 9 MiB of them, and for [`Parse::Optimal`] eight times the longest input besides.
    pub fn new(parse: Parse) -> Self {
        Encoder(match parse {
            Parse::Lazy => Parser::Lazy(lazy::Lazy::new()),
            Parse::Optimal => Parser::Optimal(Box::new(optimal::Optimal::new())),
        })
    }

    /// Codes `raw`, of less than 4 GiB, and appends what comes out.
    pub fn encode(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let mut model = Model::new();
        match &mut self.0 {
            Parser::Lazy(lazy) => lazy.encode(&mut model, raw, out),
            Parser::Optimal(optimal) => optimal.encode(&mut model, raw, out),
        }
    }
}

/// Decodes to exactly `raw_len` bytes, for which it takes memory; the caller has found it plausible.
///
/// # Errors
///
/// [`DecodeError`] for bytes that no encoder has made.
pub fn decode(coded: &[u8], raw_len: usize) -> Result<Vec<u8>, DecodeError> {
    let mut out = vec![0; raw_len];
    decode::decode(&mut Model::new(), coded, &mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests;
