//! What breaks between two hosts, and what becomes of a migration then: real processes, real connections, on loopback.
//!
//! After each fault both sides say what happened within their time limits, the source is as it was, and the destination
//! is whole, clean, or goes on later with what it has.

#[path = "../common/mod.rs"]
mod common;
mod hosts;
mod kills;
mod link;
mod links;
mod peers;
#[path = "../common/running.rs"]
mod running;
mod storage;
