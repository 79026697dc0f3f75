//! Word-aware LZ.
#![allow(missing_docs, dead_code, reason = "being written")]
mod buckets;
mod decode;
mod lazy;
mod mix;
mod model;
mod optimal;
mod price;
mod tree;
mod range;

use crate::error::DecodeError;
pub struct Coder { lazy: lazy::Lazy, optimal: optimal::Optimal }
impl std::fmt::Debug for Coder { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("Coder") } }
impl Coder {
    pub fn new() -> Self { Coder { lazy: lazy::Lazy::new(), optimal: optimal::Optimal::new() } }
    pub fn compress_max(&mut self, raw: &[u8], out: &mut Vec<u8>) { self.optimal.encode(&mut model::Model::new(), raw, out) }
    pub fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) { self.lazy.encode(&mut model::Model::new(), raw, out) }
}
pub fn decompress(coded: &[u8], raw_len: usize) -> Result<Vec<u8>, DecodeError> {
    let mut out = vec![0; raw_len];
    decode::decode(&mut model::Model::new(), coded, &mut out)?;
    Ok(out)
}
