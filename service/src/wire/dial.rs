//! Connecting to a receiver.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::error::WireError;
use super::preamble;
use super::tls::Security;

/// How long connecting may take, TLS and the version included.
const CONNECT: Duration = Duration::from_secs(10);

/// A receiver to reach.
#[derive(Clone, Debug)]
pub struct Target {
    /// `HOST:PORT`.
    pub address: String,
    /// The name that its certificate must have, if it is not the host's.
    pub peer: Option<String>,
    /// How to protect the connection.
    pub security: Security,
    /// How long a message may make no progress.
    pub limit: Duration,
}

impl Target {
    /// The host in the address, without the brackets of an IPv6 address.
    fn host(&self) -> Result<&str, WireError> {
        let host = self.address.rsplit_once(':').map(|(host, _)| host).filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| {
            WireError::Keys(format!("{:?} is no address: HOST:PORT is wanted", self.address))
        })?;
        Ok(host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host))
    }
}

/// Connects, proves and checks who is there, and agrees on a version.
///
/// # Errors
///
/// Whatever keeps the two from speaking to each other.
pub fn dial(target: &Target) -> Result<Channel, WireError> {
    dial_watched(target, &|_| {})
}

/// The same; `connected` gets the socket before anything is said on it, so that somebody else can shut it down.
///
/// # Errors
///
/// As for [`dial`].
pub fn dial_watched(target: &Target, connected: &dyn Fn(&TcpStream)) -> Result<Channel, WireError> {
    let until = Instant::now() + CONNECT;
    let host = target.host()?;
    let resolving = |source| WireError::Io { what: "looking up the receiver's address", source };
    let mut last = None;
    for address in target.address.to_socket_addrs().map_err(resolving)? {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(socket) => {
                connected(&socket);
                let name = target.peer.as_deref().unwrap_or(host);
                let channel = Channel::connected(socket, &target.security, name, target.limit, until)?;
                preamble::offer(&channel, preamble::VERSIONS, until)?;
                return Ok(channel);
            }
            Err(error) => last = Some(error),
        }
    }
    let source = last.unwrap_or_else(|| std::io::ErrorKind::NotFound.into());
    Err(WireError::io("connecting", CONNECT)(source))
}
