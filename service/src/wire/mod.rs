//! What goes over a connection: TLS, the version, messages. `docs/protocol.md` is the description of all of it.
//!
//! Threads and blocking sockets, one reader and any number of writers to a connection, a time limit for every wait.
//! Nothing in here knows what a frame holds.

mod channel;
mod dial;
mod error;
pub mod hello;
mod listen;
mod message;
mod preamble;
mod tls;

pub use channel::{Channel, Peer};
pub use dial::{Target, dial, dial_watched};
pub use error::{Code, WireError};
pub use listen::{Accepted, Listener, Listening};
pub use message::{Kind, Message, Meter, SEGMENT, SegmentHead};
pub use preamble::VERSIONS;
pub use tls::{Identity, Security};
