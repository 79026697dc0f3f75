//! MiG's compute shaders: what a GPU does with a batch of pages, and the same in plain Rust.
//!
//! | stage | from | to, for each page |
//! |---|---|---|
//! | [`SCAN`] | the pages | [`PageRecord`](mig_simd::PageRecord), and the spread of 256 of its bytes |
//! | [`CLASSIFY`] | both | its content [`class`] |
//! | [`DEDUP_NOTE`], [`DEDUP_INSERT`], [`DEDUP_FIND`] | fingerprints | an earlier page with the same one |
//! | [`LOOKUP`] | fingerprints, a reference's index | the block that may hold the page |
//!
//! The stages are `wgsl/*.wgsl`, one entry point each, in WGSL without any extension and in integers only, so that every
//! adapter gives the same bytes. Each has a twin in [`cpu`] of the same name on the same buffers in the same order. The
//! scan is `mig_simd::page_scan`, byte for byte.
//!
//! This crate hands out sources and layouts and never opens a device; `engine/src/gpu` does.

#![forbid(unsafe_code)]

/// Numbers of the content classes, and the borders between them.
pub mod class;
pub mod cpu;
mod layout;
mod xxh3;

pub use layout::{Dispatch, NO_BLOCK, NO_PAGE};

/// How a stage uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A [`Dispatch`], as a uniform.
    Uniform,
    /// Storage that is read.
    ReadOnly,
    /// Storage that is written, and maybe read.
    ReadWrite,
}

/// A buffer of a stage; its place in [`Shader::bindings`] is its binding in group 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its name in the source.
    pub name: &'static str,
    /// How it is used.
    pub access: Access,
}

/// A stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shader {
    /// Its name, which is that of its entry point.
    pub name: &'static str,
    /// Invocations of a workgroup, all in one row.
    pub workgroup_size: u32,
    /// Its buffers in the order of their bindings.
    pub bindings: &'static [Binding],
    /// WGSL with everything that it imports.
    pub source: &'static str,
}

mod wgsl {
    use super::{Access, Binding, Shader};

    include!(concat!(env!("OUT_DIR"), "/wgsl.rs"));
}

pub use wgsl::{CLASSIFY, DEDUP_FIND, DEDUP_INSERT, DEDUP_NOTE, LOOKUP, SCAN};

/// All stages.
pub static SHADERS: [&Shader; 6] = [&SCAN, &CLASSIFY, &DEDUP_NOTE, &DEDUP_INSERT, &DEDUP_FIND, &LOOKUP];
