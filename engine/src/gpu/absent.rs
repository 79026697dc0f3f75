//! The GPU of a build without the feature `gpu`: there is none, and the compiler knows.

use std::convert::Infallible;

use super::{Adapter, GpuChoice, GpuError, GpuMode, GpuStats};
use crate::ahead::ScanAhead;
use crate::refs::Reference;
use crate::source::PageSource;

/// A GPU. This build has none.
#[derive(Clone, Debug)]
pub struct Gpu(Infallible);

/// What a stream has on it.
#[derive(Debug, Default)]
pub(super) struct Kept {}

impl Gpu {
    /// No adapter.
    pub fn adapters() -> Vec<Adapter> {
        Vec::new()
    }

    /// Nothing.
    ///
    /// # Errors
    ///
    /// [`GpuError::NotBuilt`] where one is required.
    pub fn open(choice: &GpuChoice) -> Result<Option<Self>, GpuError> {
        if choice.mode == GpuMode::Require { Err(GpuError::NotBuilt) } else { Ok(None) }
    }

    /// What it is.
    pub fn adapter(&self) -> &Adapter {
        match self.0 {}
    }

    /// What it did.
    pub fn stats(&self) -> GpuStats {
        match self.0 {}
    }

    /// Scans what is announced.
    pub fn serve<S: PageSource + ?Sized>(&self, _ahead: &ScanAhead, _source: &S, _references: &[Reference]) {
        match self.0 {}
    }

    pub(super) fn serve_keeping<S: PageSource + ?Sized>(
        &self,
        _ahead: &ScanAhead,
        _source: &S,
        _references: &[Reference],
        _kept: &mut Kept,
    ) -> bool {
        match self.0 {}
    }
}
