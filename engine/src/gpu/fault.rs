//! What can go wrong with a device while it works, and a place for tests to make it happen.
//!
//! Every fault ends the same way, in `serve.rs`: one warning, the chunks under way go back to the CPU, and the device does
//! no more for this stream.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A device failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The driver gave the device up: it was reset, unplugged, or crashed.
    #[error("the device is lost: {0}")]
    Lost(String),
    /// A buffer can't be had.
    #[error("out of device memory: {0}")]
    OutOfMemory(String),
    /// Results can't be read.
    #[error("a buffer can't be mapped: {0}")]
    Map(String),
    /// A batch did not finish.
    #[error("a batch did not finish in {0:?}")]
    Hung(Duration),
    /// Pages would have to be copied to the device, which costs the CPU as much as scanning them itself.
    #[error(
        "pages can't be imported ({0}), and copying them to the device costs the CPU as much as scanning them"
    )]
    NoImport(String),
    /// Something else that the driver, or wgpu, says.
    #[error("{0}")]
    Other(String),
}

/// Steps of a batch at which a test can make the device fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Buffers are made.
    Allocate,
    /// Work is handed to the device.
    Submit,
    /// The work's end is waited for.
    Wait,
    /// Results are mapped.
    Map,
}

/// Makes things go wrong: asked before each step whether it shall.
pub(super) trait Saboteur: Send + Sync {
    /// Whether the step is to fail, as really as it can be made to.
    fn spoils(&self, step: Step) -> bool;
}

/// What a device says of itself outside of any call.
#[derive(Default)]
pub(super) struct Health {
    lost: Mutex<Option<String>>,
    error: Mutex<Option<String>>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

impl Health {
    /// Listens to a device: no error of wgpu's is a panic from now on.
    pub(super) fn of(device: &wgpu::Device) -> Arc<Self> {
        let health = Arc::new(Health::default());
        let listener = health.clone();
        device.set_device_lost_callback(move |reason, message| {
            note(&listener.lost, format!("{reason:?}: {message}"));
        });
        let listener = health.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            note(&listener.error, error.to_string())
        }));
        health
    }

    /// # Errors
    ///
    /// What the device said.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let read = |slot: &Mutex<Option<String>>| slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(message) = read(&self.lost) {
            return Err(Fault::Lost(message));
        }
        read(&self.error).map_or(Ok(()), |message| Err(Fault::Other(message)))
    }
}

/// Keeps the first message.
fn note(slot: &Mutex<Option<String>>, message: String) {
    slot.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
}
