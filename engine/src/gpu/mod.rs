//! The GPU as one more worker: it scans, classifies, and looks up pages ahead of the CPU. All of wgpu is in this folder.
//!
//! [`Gpu::open`] finds an adapter, and [`Gpu::serve`] is its thread: it claims chunks from a [`ScanAhead`] queue, has
//! the stages of `mig-shaders` run over them, and hands in what they found. Several batches are under way at once. Pages
//! are read from where they lie if the driver imports host memory (`import.rs`, the only unsafe code here), and are copied
//! to the device otherwise. Whatever goes wrong, the CPU does what the device did not: `fault.rs` has the list.
//! `docs/gpu.md` tells the buffers, and why.
//!
//! [`ScanAhead`]: crate::ScanAhead

mod beside;
mod choice;

#[cfg(not(feature = "gpu"))]
mod absent;
#[cfg(feature = "gpu")]
mod adapter;
#[cfg(feature = "gpu")]
mod batch;
#[cfg(feature = "gpu")]
mod device;
#[cfg(feature = "gpu")]
mod fault;
#[cfg(feature = "gpu")]
mod import;
mod measure;
#[cfg(feature = "gpu")]
mod pieces;
#[cfg(feature = "gpu")]
mod serve;
#[cfg(feature = "gpu")]
mod stages;
#[cfg(feature = "gpu")]
mod tables;
#[cfg(all(test, feature = "gpu"))]
mod tests;

#[cfg(not(feature = "gpu"))]
pub use absent::Gpu;
pub use beside::Beside;
pub use choice::{Adapter, AdapterKind, GpuChoice, GpuError, GpuMode, Refused, UnknownGpuMode};
#[cfg(feature = "gpu")]
pub use device::Gpu;
#[cfg(feature = "gpu")]
pub use fault::Fault;
#[cfg(feature = "gpu")]
pub use measure::{DeviceRates, ImportRates};
pub use measure::{ScanRate, measure_all, scan_on_cpu};
#[cfg(feature = "gpu")]
pub use pieces::Imported;

/// What a GPU did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GpuStats {
    /// Pages scanned.
    pub pages: u64,
    /// Batches whose pages were read where they lay.
    pub imported_batches: u64,
    /// Batches whose pages were copied to the device.
    pub staged_batches: u64,
    /// Faults, each of which ended the device's part in a stream.
    pub faults: u64,
}
