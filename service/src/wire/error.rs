//! What goes wrong between two hosts, in kinds that a caller acts on.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why one side refuses or ends a session, as it is told to the other (`docs/protocol.md`, section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Code {
    /// No version, format or effort that both know.
    Version,
    /// A message that is not allowed there, or makes no sense.
    Protocol,
    /// As many migrations as the receiver takes at once, and a full queue.
    Busy,
    /// The receiver is about to stop.
    Draining,
    /// This peer may not do that.
    Permission,
    /// A session that the receiver does not know, or not any more.
    UnknownSession,
    /// No destination was prepared for this VM.
    Unexpected,
    /// A guest larger than the receiver takes.
    TooLarge,
    /// The destination is there already.
    Exists,
    /// The destination can't be written: no space, say.
    Storage,
    /// Bytes that did not verify, however often they were sent.
    Damaged,
    /// A reference can't be used.
    Reference,
    /// Nothing was heard for too long.
    Timeout,
    /// The QEMU at that end.
    Qemu,
    /// Anything else.
    #[serde(other)]
    Internal,
}

impl Code {
    /// As it is in messages.
    pub fn name(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => name,
            _ => "internal".into(),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// Why a connection or a session came to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The system refuses.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The other end closed the connection, or the link is gone.
    #[error("the connection was closed by the other end while {what}")]
    Closed {
        /// What was being done.
        what: &'static str,
    },
    /// Nothing happened for too long.
    #[error("no progress for {limit:?} while {what}")]
    TimedOut {
        /// What was being done.
        what: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// The other end does not keep to the protocol, or is something else altogether.
    #[error("the other end does not keep to the protocol: {0}")]
    Protocol(String),
    /// No common version.
    #[error(
        "the other end speaks protocol versions {theirs}, this program {ours}: update the older of the two"
    )]
    Version {
        /// This program's.
        ours: String,
        /// The other end's.
        theirs: String,
    },
    /// TLS: a certificate that is not trusted, expired, of another host.
    #[error("TLS: {0}")]
    Tls(String),
    /// Keys and certificates can't be used.
    #[error("{0}")]
    Keys(String),
    /// The receiver refused the session.
    #[error("the receiver refused: {message} ({code})")]
    Refused {
        /// Why.
        code: Code,
        /// In words.
        message: String,
    },
    /// The other end gave up.
    #[error("the other end failed: {message} ({code})")]
    Failed {
        /// Why.
        code: Code,
        /// In words.
        message: String,
    },
    /// Somebody at the other end stopped it.
    #[error("cancelled at the other end: {0}")]
    CancelledThere(String),
    /// Somebody here stopped it.
    #[error("cancelled")]
    Cancelled,
    /// The source of what is sent stopped it.
    #[error("{0}")]
    Stopped(String),
}

impl WireError {
    /// What the system said while `what`.
    pub fn io(what: &'static str, limit: Duration) -> impl FnOnce(io::Error) -> WireError {
        move |source| match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => WireError::TimedOut { what, limit },
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
            | io::ErrorKind::UnexpectedEof => WireError::Closed { what },
            _ => WireError::Io { what, source },
        }
    }

    /// Whether connecting once more may help: the link or the other process went away.
    pub fn is_broken_link(&self) -> bool {
        matches!(self, WireError::Io { .. } | WireError::Closed { .. } | WireError::TimedOut { .. })
    }
}
