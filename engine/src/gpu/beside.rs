//! A device beside the CPU for as long as a stream takes: opened once, with tables that stay on it from batch to batch.

use std::sync::{Arc, Mutex, PoisonError};

#[cfg(not(feature = "gpu"))]
use super::absent::Kept;
#[cfg(feature = "gpu")]
use super::serve::Kept;
use super::{Gpu, GpuChoice, GpuError, GpuMode};
use crate::ahead::{ScanAhead, Share};
use crate::refs::Reference;
use crate::source::PageSource;

/// Pages of a guest from which on a GPU is looked for, unless one is required: 1 GiB, which the CPU scans in less time than it
/// takes to open a device.
const AUTO_PAGES: u64 = 1 << 18;

/// Who scans pages besides the CPU, if anybody: for one stream at a time. What is sent is the same with a device and without. Clones
/// share it.
///
/// The device works in a thread of its own, which lives while pages of one source are coded. What it needs in its memory for
/// the stream's references stays there in between.
#[derive(Clone, Debug)]
pub struct Beside {
    choice: GpuChoice,
    share: Share,
    device: Arc<Mutex<Device>>,
}

#[derive(Debug)]
enum Device {
    /// None, or not any more.
    No,
    /// One if there is one that helps, once it was looked for.
    Maybe,
    /// This one, and what the stream has on it.
    Open(Gpu, Kept),
}

impl Default for Beside {
    /// Nobody.
    fn default() -> Self {
        Beside::of(GpuChoice::default(), Device::No)
    }
}

impl Beside {
    fn of(choice: GpuChoice, device: Device) -> Self {
        Beside { choice, share: Share::Both, device: Arc::new(Mutex::new(device)) }
    }

    /// Whoever this choice allows. One that is required is opened at once, so that nothing is written where there is none; others
    /// are looked for when coding has begun, and only for guests of 1 GiB or more.
    ///
    /// # Errors
    ///
    /// A GPU is required, and there is none.
    pub fn new(choice: &GpuChoice) -> Result<Self, GpuError> {
        let device = match choice.mode {
            GpuMode::Require => {
                Gpu::open(choice)?.map_or(Device::No, |gpu| Device::Open(gpu, Kept::default()))
            }
            GpuMode::Auto => Device::Maybe,
            GpuMode::Off => Device::No,
        };
        Ok(Beside::of(choice.clone(), device))
    }

    /// A GPU that is open already.
    pub fn open(gpu: &Gpu) -> Self {
        Beside::of(GpuChoice::default(), Device::Open(gpu.clone(), Kept::default()))
    }

    /// Sets who scans if there is a device.
    pub fn share(mut self, share: Share) -> Self {
        self.share = share;
        self
    }

    /// The same, but nobody where a device was to be used only if it helps: for work that consists of little but scanning. Pinning memory for a
    /// device takes longer than scanning it on all threads, so there the device only helps with memory that it has imported before, which
    /// a caller knows who has opened it.
    pub(crate) fn unless_auto(self) -> Self {
        if self.choice.mode == GpuMode::Auto { Beside::default() } else { self }
    }

    /// Does some work, and meanwhile has a device scan what the work announces, if there is one. References are the same every
    /// time.
    pub(crate) fn scan<S: PageSource + ?Sized, R>(
        &self,
        source: &S,
        references: &[Reference],
        work: impl FnOnce(Option<&ScanAhead>) -> R,
    ) -> R {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = match *device {
            Device::No => false,
            Device::Maybe => source.page_count() >= AUTO_PAGES,
            Device::Open(..) => true,
        };
        if !wanted {
            drop(device);
            return work(None);
        }
        let ahead = ScanAhead::new(self.share);
        std::thread::scope(|scope| {
            let device = &mut *device;
            let thread = std::thread::Builder::new().name("mig-gpu".into());
            let spawned = thread.spawn_scoped(scope, || {
                if matches!(device, Device::Maybe) {
                    // Meanwhile the CPU has begun.
                    let found = Gpu::open(&self.choice).ok().flatten();
                    *device = found.map_or(Device::No, |gpu| Device::Open(gpu, Kept::default()));
                }
                let worked = match device {
                    Device::Open(gpu, kept) => gpu.serve_keeping(&ahead, source, references, kept),
                    _ => false,
                };
                if !worked {
                    ahead.retire();
                    *device = Device::No;
                }
            });
            if let Err(error) = spawned {
                log::warn!("no thread for the GPU: {error}; the CPU scans alone");
                ahead.retire();
            }
            // However the work ends, the device's thread ends with it.
            let _closing = Closing(&ahead);
            let done = work(Some(&ahead));
            let stats = ahead.stats();
            log::info!("{} of {} chunks scanned on the GPU", stats.device, stats.device + stats.cpu);
            done
        })
    }
}

/// Closes the queue when it goes.
struct Closing<'a>(&'a ScanAhead);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
