//! Migrations from end to end: a memory image file, or a QEMU that runs.

mod image_receive;
mod image_send;
mod one_shot;
mod partial;
mod receiving;
mod sending;

pub use image_receive::ImageTarget;
pub use image_send::send_image;
pub use one_shot::{OneShot, Waiting};
pub use receiving::{Receiving, matching};
pub use sending::{EffortChoice, Sending};
