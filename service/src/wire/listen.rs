//! Taking connections: each proves who it is and says what it wants before anything else happens, within a time limit.
//!
//! A connection that says nothing costs a thread and a socket for ten seconds. There are never more than a few hundred of
//! them: one more, and the one that has waited longest is closed. Those who mean it need milliseconds.

use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::error::WireError;
use super::hello::Hello;
use super::message::Kind;
use super::preamble;
use super::tls::Security;

/// From accepting a connection to its hello.
const HELLO: Duration = Duration::from_secs(10);
/// Connections between accept and hello.
const PENDING: usize = 256;
/// Stack of a connection's thread.
const STACK: usize = 512 << 10;

/// A connection that has said what it wants.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub channel: Channel,
    /// Its first message.
    pub hello: Hello,
}

/// A socket that takes connections.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    security: Security,
    limit: Duration,
}

/// A listener at work; stops when dropped.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    pending: Arc<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    waiting: Mutex<(u64, VecDeque<(u64, TcpStream)>)>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, (u64, VecDeque<(u64, TcpStream)>)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a connection, and closes the one that has waited longest if there are too many.
    fn add(&self, socket: TcpStream) -> u64 {
        let mut waiting = self.lock();
        waiting.0 += 1;
        let number = waiting.0;
        waiting.1.push_back((number, socket));
        if waiting.1.len() > PENDING
            && let Some((_, oldest)) = waiting.1.pop_front()
        {
            let _ = oldest.shutdown(Shutdown::Both);
        }
        number
    }

    fn remove(&self, number: u64) {
        self.lock().1.retain(|(other, _)| *other != number);
    }

    fn close_all(&self) {
        for (_, socket) in self.lock().1.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Listener {
    /// Binds to an address, `HOST:PORT`; port 0 is any that is free.
    ///
    /// # Errors
    ///
    /// [`WireError::Io`] if the system refuses; [`WireError::Keys`] for an address that is not loopback, without TLS.
    pub fn bind(address: &str, security: Security, limit: Duration) -> Result<Self, WireError> {
        let fail = |source| WireError::Io { what: "listening", source };
        let socket = TcpListener::bind(address).map_err(fail)?;
        let bound = socket.local_addr().map_err(fail)?;
        if matches!(security, Security::Insecure) && !bound.ip().is_loopback() {
            return Err(WireError::Keys(format!("--insecure is for loopback, and {bound} is not")));
        }
        Ok(Listener { socket, security, limit })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// [`WireError::Io`] if the system does not say.
    pub fn address(&self) -> Result<SocketAddr, WireError> {
        self.socket.local_addr().map_err(|source| WireError::Io { what: "listening", source })
    }

    /// Takes connections until the result is dropped, each in a thread of its own, and hands them on.
    ///
    /// # Errors
    ///
    /// [`WireError::Io`] if the system refuses.
    pub fn start(self, each: impl Fn(Accepted) + Send + Sync + 'static) -> Result<Listening, WireError> {
        let fail = |source| WireError::Io { what: "listening", source };
        let address = self.address()?;
        let stop = Arc::new(AtomicBool::new(false));
        let pending = Arc::new(Pending::default());
        let (flag, waiting) = (stop.clone(), pending.clone());
        let run = move || self.run(&Arc::new(each), &flag, &waiting);
        let thread = thread::Builder::new().name("listen".into()).spawn(run).map_err(fail)?;
        Ok(Listening { address, stop, thread: Some(thread), pending })
    }

    fn run(
        self,
        each: &Arc<impl Fn(Accepted) + Send + Sync + 'static>,
        stop: &AtomicBool,
        pending: &Arc<Pending>,
    ) {
        let shared = Arc::new(self);
        loop {
            let accepted = shared.socket.accept();
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let (socket, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file handles, say: those that are open go on, and this may pass.
                    log::warn!("cannot take a connection: {error}");
                    thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            let Ok(handle) = socket.try_clone() else { continue };
            let number = pending.add(handle);
            let (shared, each, waiting) = (shared.clone(), each.clone(), pending.clone());
            let greet = move || {
                let greeted = shared.greet(socket);
                waiting.remove(number);
                match greeted {
                    Ok(accepted) => each(accepted),
                    Err(error) => log::warn!("{address}: {error}"),
                }
            };
            let spawned = thread::Builder::new().name("connection".into()).stack_size(STACK).spawn(greet);
            if let Err(error) = spawned {
                log::warn!("cannot start a thread for a connection: {error}");
                pending.remove(number);
            }
        }
    }

    fn greet(&self, socket: TcpStream) -> Result<Accepted, WireError> {
        let until = Instant::now() + HELLO;
        let channel = Channel::accepted(socket, &self.security, self.limit, until)?;
        preamble::answer(&channel, preamble::VERSIONS, until)?;
        let message = channel.receive_before(until, "waiting for its hello")?;
        match message.kind {
            Kind::Hello => Ok(Accepted { hello: message.parse()?, channel }),
            _ => Err(message.unexpected()),
        }
    }
}

impl Listening {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops taking connections, and closes those that have not said anything yet.
    pub fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.stop.store(true, Ordering::Relaxed);
        // Accepting only ends with a connection: ours.
        let mut address = self.address;
        if address.ip().is_unspecified() {
            let local: std::net::IpAddr = match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            address.set_ip(local);
        }
        if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
            let _ = thread.join();
        }
        self.pending.close_all();
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop();
    }
}
