//! `migd`: real daemons on loopback with TLS, driven through their control sockets as an operator's programs would.

#[path = "../common/mod.rs"]
mod common;
mod config;
mod host;
mod http;
#[path = "../faults/link.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod link;
mod migrations;
mod peers;
#[path = "../common/running.rs"]
mod running;
mod stopping;
mod upkeep;
