//! What MiG's programs do beyond packing files: migrations over the wire.
//!
//! [`wire`] is a connection, [`session`] a migration over several of them, [`controller`] decides how much work to spend,
//! [`transfer`] is what `mig send`, `mig receive` and `migd` do with all of that, [`daemon`] what only `migd` does. `docs/protocol.md` tells how two hosts speak
//! to each other, `ARCHITECTURE.md` why the parts are as they are.

#![forbid(unsafe_code)]

pub mod controller;
pub mod daemon;
pub mod events;
pub mod failure;
pub mod human;
pub mod keys;
pub mod load;
pub mod local;
pub mod output;
pub mod problem;
pub mod references;
pub mod session;
pub mod transfer;
pub mod wire;
