//! A link that a test can cut, slow down, hold and damage: connections on loopback, passed on.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

/// Bytes that the link takes at each end before anybody reads them.
const BUFFER: usize = 64 << 10;

/// What is done to connections. They are numbered from 0, in the order in which they were made.
#[derive(Default)]
struct State {
    /// Where they go; nowhere while there is nothing.
    to: Option<SocketAddr>,
    /// Bytes a second from the sender, for all connections together.
    rate: Option<u64>,
    /// And for one of them.
    rate_of: Option<(usize, u64)>,
    /// Connections from this one on pass nothing on.
    held_from: Option<usize>,
    /// The number of a connection, and which of the sender's bytes on it is changed.
    flip: Option<(usize, u64)>,
    /// When the next byte may go.
    free: Option<Instant>,
    count: usize,
    open: Vec<TcpStream>,
    stopped: bool,
}

/// A link. Cut with this value.
pub(crate) struct Link {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// To a port.
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        // The system would take megabytes from the sender, as no link does. Connections have what their listener has.
        SockRef::from(&listener).set_recv_buffer_size(BUFFER).expect("a smaller buffer");
        let own = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if lock(&shared).stopped {
                    return;
                }
                accept(socket, &shared);
            }
        });
        let link = Link { port: own, state };
        link.heal(port);
        link
    }

    /// Breaks all connections; there are no new ones.
    pub(crate) fn cut(&self) {
        let mut state = lock(&self.state);
        state.to = None;
        state.open.drain(..).for_each(|socket| drop(socket.shutdown(Shutdown::Both)));
    }

    /// Lets new connections through.
    pub(crate) fn heal(&self, port: u16) {
        lock(&self.state).to = Some((Ipv4Addr::LOCALHOST, port).into());
    }

    /// At most so many bytes a second from the sender.
    pub(crate) fn slow(&self, rate: u64) {
        lock(&self.state).rate = Some(rate);
    }

    /// The same for one connection.
    pub(crate) fn slow_one(&self, number: usize, rate: u64) {
        lock(&self.state).rate_of = Some((number, rate));
    }

    /// From this connection on, nothing gets through, until [`release`](Self::release).
    pub(crate) fn hold(&self, from: usize) {
        lock(&self.state).held_from = Some(from);
    }

    pub(crate) fn release(&self) {
        lock(&self.state).held_from = None;
    }

    /// Changes one byte from the sender.
    pub(crate) fn flip(&self, connection: usize, at: u64) {
        lock(&self.state).flip = Some((connection, at));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.cut();
        lock(&self.state).stopped = true;
        // It wakes whoever accepts.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn accept(socket: TcpStream, shared: &Arc<Mutex<State>>) {
    let (to, number) = {
        let mut state = lock(shared);
        state.count += 1;
        (state.to, state.count - 1)
    };
    let Some(Ok(there)) = to.map(TcpStream::connect) else { return };
    SockRef::from(&there).set_send_buffer_size(BUFFER).expect("a smaller buffer");
    let clone = |socket: &TcpStream| socket.try_clone().expect("a handle");
    {
        let mut state = lock(shared);
        if state.to.is_none() {
            return;
        }
        state.open.extend([clone(&socket), clone(&there)]);
    }
    let (back, forth) = ((clone(&there), clone(&socket)), (socket, there));
    let (one, other) = (shared.clone(), shared.clone());
    thread::spawn(move || pass(forth.0, forth.1, &one, number, true));
    thread::spawn(move || pass(back.0, back.1, &other, number, false));
}

/// Passes on what comes, until either end closes.
fn pass(mut from: TcpStream, mut to: TcpStream, shared: &Mutex<State>, number: usize, outward: bool) {
    let mut buffer = [0; 8192];
    let mut passed = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        while lock(shared).held_from.is_some_and(|first| number >= first) {
            if lock(shared).to.is_none() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        if outward {
            let mut state = lock(shared);
            if let Some((of, at)) = state.flip
                && of == number
                && (passed..passed + count as u64).contains(&at)
            {
                buffer[(at - passed) as usize] ^= 0x10;
                state.flip = None;
            }
            let took = |rate: u64| Duration::from_secs_f64(count as f64 / rate as f64);
            let until = state.rate.map(|rate| {
                let start = state.free.unwrap_or_else(Instant::now).max(Instant::now());
                start + took(rate)
            });
            state.free = until;
            let alone = state.rate_of.filter(|(of, _)| *of == number).map(|(_, rate)| took(rate));
            drop(state);
            let wait = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
            thread::sleep(wait.max(alone.unwrap_or_default()));
        }
        passed += count as u64;
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
