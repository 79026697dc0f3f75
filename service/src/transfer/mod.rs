//! Migrations from end to end: a memory image file, or a QEMU that runs.

mod image_receive;
mod image_send;
mod one_shot;
mod partial;
mod qemu_receive;
mod qemu_send;
mod receiving;
mod sending;
mod snapshot;

pub use image_receive::ImageTarget;
pub use image_send::send_image;
pub use one_shot::{OneShot, Target, Waiting};
pub(crate) use one_shot::{make_room, sizes as guest_sizes_of};
pub use qemu_receive::QemuTarget;
pub use qemu_send::{QemuSource, guest_sizes, send_qemu, wait_for_qemu};
pub use receiving::{Receiving, matching};
pub use sending::{EffortChoice, Sending, WhileBusy, pause};
pub use snapshot::open_snapshot;
