//! One connection, both ways at once: a TCP stream, with TLS in it or (on loopback) without.
//!
//! One thread reads, any thread writes, and neither waits for the other: what TLS keeps is behind a lock that is only
//! held while bytes are turned into records and back, never while the socket blocks. Every wait has a limit.

use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::Connection;
use socket2::SockRef;

use super::error::WireError;
use super::message::{HEAD, Kind, Message, SegmentHead, head, parse_head};
use super::tls::{Security, name_of};

/// Plaintext that is turned into records at a time.
const STEP: usize = 1 << 16;
/// Bytes that are read from the socket at a time.
const READ: usize = 1 << 17;
/// Unsent bytes in the kernel above which a write waits: what is queued should be queued here, where it can be counted and
/// sent over another connection.
const NOTSENT: u32 = 1 << 18;

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The first DNS name of its certificate; empty without TLS.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Its certificate, empty without TLS: to tell whether two connections are of one peer.
    pub certificate: Vec<u8>,
}

/// An open connection.
pub struct Channel {
    socket: TcpStream,
    tls: Option<Mutex<Connection>>,
    /// What was read from the socket and not yet looked at.
    incoming: Mutex<Incoming>,
    /// Held while records go out, so that they go out in order.
    outgoing: Mutex<Vec<u8>>,
    peer: Peer,
    limit: Duration,
    /// The socket's read timeout, in milliseconds, so that it is only set when it changes.
    read_timeout: AtomicU64,
}

#[derive(Debug)]
struct Incoming {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("peer", &self.peer).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Channel {
    /// Protects a connection that was made to `host`, until then.
    pub(super) fn connected(
        socket: TcpStream,
        security: &Security,
        host: &str,
        limit: Duration,
        until: Instant,
    ) -> Result<Self, WireError> {
        let tls = match security {
            Security::Tls(identity) => Some(Connection::Client(identity.client(host)?)),
            Security::Insecure => None,
        };
        Self::new(socket, tls, limit, until)
    }

    /// Protects a connection that was accepted, until then.
    pub(super) fn accepted(
        socket: TcpStream,
        security: &Security,
        limit: Duration,
        until: Instant,
    ) -> Result<Self, WireError> {
        let tls = match security {
            Security::Tls(identity) => Some(Connection::Server(identity.server()?)),
            Security::Insecure => None,
        };
        Self::new(socket, tls, limit, until)
    }

    fn new(
        socket: TcpStream,
        tls: Option<Connection>,
        limit: Duration,
        until: Instant,
    ) -> Result<Self, WireError> {
        let fail = |error| WireError::io("setting up a connection", limit)(error);
        let address = socket.peer_addr().map_err(fail)?;
        if tls.is_none() && !address.ip().to_canonical().is_loopback() {
            let why = format!("--insecure is for loopback, and {address} is not");
            return Err(WireError::Keys(why));
        }
        socket.set_nodelay(true).map_err(fail)?;
        socket.set_write_timeout(Some(limit)).map_err(fail)?;
        if let Err(error) = SockRef::from(&socket).set_tcp_notsent_lowat(NOTSENT) {
            log::debug!("TCP_NOTSENT_LOWAT: {error}");
        }
        let peer = Peer { name: String::new(), address, certificate: Vec::new() };
        let incoming = Incoming { bytes: vec![0; READ].into_boxed_slice(), start: 0, end: 0 };
        let mut channel = Channel {
            socket,
            tls: tls.map(Mutex::new),
            incoming: Mutex::new(incoming),
            outgoing: Mutex::default(),
            peer,
            limit,
            read_timeout: AtomicU64::new(0),
        };
        channel.handshake(until)?;
        Ok(channel)
    }

    fn handshake(&mut self, until: Instant) -> Result<(), WireError> {
        let Some(tls) = &self.tls else { return Ok(()) };
        loop {
            self.flush(&mut lock(&self.outgoing))?;
            if !lock(tls).is_handshaking() {
                break;
            }
            let mut incoming = lock(&self.incoming);
            if incoming.start == incoming.end {
                self.fill(&mut incoming, Some(until), "the TLS handshake")?;
            }
            self.take_records(&mut lock(tls), &mut incoming)?;
        }
        let tls = lock(tls);
        if let Some(first) = tls.peer_certificates().and_then(|list| list.first()) {
            self.peer.certificate = first.to_vec();
            let name = name_of(first);
            self.peer.name = name.ok_or(WireError::Tls("its certificate has no DNS name".into()))?;
        }
        Ok(())
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Closes the connection; whoever waits in it stops waiting.
    pub fn close(&self) {
        // Not connected any more is fine.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Says that nothing more comes, as TLS does it, and closes.
    pub fn end(&self) {
        if let Some(tls) = &self.tls {
            lock(tls).send_close_notify();
            let _ = self.flush(&mut lock(&self.outgoing));
        }
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Reads more from the socket, waiting until then, or for ever.
    fn fill(
        &self,
        incoming: &mut Incoming,
        until: Option<Instant>,
        what: &'static str,
    ) -> Result<(), WireError> {
        let timed_out = WireError::TimedOut { what, limit: self.limit };
        let left = match until {
            None => 0,
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(timed_out);
                }
                left.as_millis() as u64 + 1
            }
        };
        let fail = |error| WireError::io(what, self.limit)(error);
        if self.read_timeout.swap(left, Ordering::Relaxed) != left {
            let timeout = (left > 0).then(|| Duration::from_millis(left));
            self.socket.set_read_timeout(timeout).map_err(fail)?;
        }
        loop {
            match (&self.socket).read(&mut incoming.bytes) {
                Ok(0) => return Err(WireError::Closed { what }),
                Ok(count) => {
                    (incoming.start, incoming.end) = (0, count);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(fail(error)),
            }
        }
    }

    /// Hands what was read to TLS; gives the number of bytes that can be read now.
    fn take_records(&self, tls: &mut Connection, incoming: &mut Incoming) -> Result<usize, WireError> {
        let mut rest = &incoming.bytes[incoming.start..incoming.end];
        let before = rest.len();
        let taken = tls.read_tls(&mut rest).map_err(|error| WireError::Tls(error.to_string()))?;
        incoming.start += before - rest.len();
        if taken == 0 && before > 0 {
            return Err(WireError::Protocol("bytes behind the end of TLS".into()));
        }
        match tls.process_new_packets() {
            Ok(state) => Ok(state.plaintext_bytes_to_read()),
            Err(error) => {
                // The alert that tells the other end why; it may not want to hear it.
                let mut alert = Vec::new();
                if tls.write_tls(&mut alert).is_ok() {
                    let _ = (&self.socket).write_all(&alert);
                }
                Err(WireError::Tls(explain(&error)))
            }
        }
    }

    /// Sends the records that TLS has ready.
    fn flush(&self, records: &mut Vec<u8>) -> Result<(), WireError> {
        let Some(tls) = &self.tls else { return Ok(()) };
        records.clear();
        {
            let mut tls = lock(tls);
            while tls.wants_write() {
                tls.write_tls(records).map_err(|error| WireError::Tls(error.to_string()))?;
            }
        }
        self.send(records)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), WireError> {
        let sent = (&self.socket).write_all(bytes);
        sent.map_err(|error| WireError::io("sending", self.limit)(error))
    }

    /// Sends bytes, part after part, and nothing else in between.
    ///
    /// # Errors
    ///
    /// [`WireError::TimedOut`] where the other end takes nothing for the connection's limit.
    pub fn write(&self, parts: &[&[u8]]) -> Result<(), WireError> {
        let mut records = lock(&self.outgoing);
        let Some(tls) = &self.tls else {
            return parts.iter().try_for_each(|part| self.send(part));
        };
        for chunk in parts.iter().flat_map(|part| part.chunks(STEP)) {
            let taken = lock(tls).writer().write_all(chunk);
            taken.map_err(|error| WireError::Tls(error.to_string()))?;
            self.flush(&mut records)?;
        }
        Ok(())
    }

    /// Reads some bytes, at least one; waits until then, or for ever.
    fn read_some(
        &self,
        to: &mut [u8],
        until: Option<Instant>,
        what: &'static str,
    ) -> Result<usize, WireError> {
        let copy = &mut |bytes: &[u8]| {
            let count = to.len().min(bytes.len());
            to[..count].copy_from_slice(&bytes[..count]);
            count
        };
        self.take_some(copy, until, what)
    }

    /// Has bytes taken that have come, at least one; waits for them until then, or for ever. `take` says how many it took.
    fn take_some(
        &self,
        take: &mut dyn FnMut(&[u8]) -> usize,
        until: Option<Instant>,
        what: &'static str,
    ) -> Result<usize, WireError> {
        let mut incoming = lock(&self.incoming);
        let Some(tls) = &self.tls else {
            if incoming.start == incoming.end {
                self.fill(&mut incoming, until, what)?;
            }
            let count = take(&incoming.bytes[incoming.start..incoming.end]);
            incoming.start += count;
            return Ok(count);
        };
        loop {
            let (readable, answer) = {
                let mut tls = lock(tls);
                let mut reader = tls.reader();
                match reader.fill_buf() {
                    Ok([]) => return Err(WireError::Closed { what }),
                    Ok(bytes) => {
                        let count = take(bytes);
                        reader.consume(count);
                        return Ok(count);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(WireError::io(what, self.limit)(error)),
                }
                let any = incoming.start < incoming.end;
                let readable = if any { self.take_records(&mut tls, &mut incoming)? } else { 0 };
                (readable, tls.wants_write())
            };
            if answer {
                self.flush(&mut lock(&self.outgoing))?;
            }
            if incoming.start == incoming.end && readable == 0 {
                self.fill(&mut incoming, until, what)?;
            }
        }
    }

    /// Fills a buffer before then.
    ///
    /// # Errors
    ///
    /// What keeps the bytes from coming.
    pub fn read_exact(&self, to: &mut [u8], until: Instant, what: &'static str) -> Result<(), WireError> {
        self.read_all(to, Some(until), what)
    }

    fn read_all(&self, to: &mut [u8], until: Option<Instant>, what: &'static str) -> Result<(), WireError> {
        let mut filled = 0;
        while filled < to.len() {
            filled += self.read_some(&mut to[filled..], until, what)?;
        }
        Ok(())
    }

    /// Reads a message's head; waits for its first byte until then, or for ever, and then for the rest as for any bytes.
    fn read_head(&self, until: Option<Instant>, what: &'static str) -> Result<(Kind, usize), WireError> {
        let mut bytes = [0; HEAD];
        let first = self.read_some(&mut bytes, until, what)?;
        self.read_exact(&mut bytes[first..], Instant::now() + self.limit, what)?;
        parse_head(bytes)
    }

    /// Reads one message, other than a segment.
    ///
    /// # Errors
    ///
    /// Silence for longer than `silence`; a message that is cut, too long, or none.
    pub fn receive(&self, silence: Duration, what: &'static str) -> Result<Message, WireError> {
        self.receive_body(self.read_head(Some(Instant::now() + silence), what)?, None, what)
    }

    /// Reads one message, all of it before then.
    ///
    /// # Errors
    ///
    /// As for [`receive`](Self::receive).
    pub fn receive_before(&self, until: Instant, what: &'static str) -> Result<Message, WireError> {
        let mut head = [0; HEAD];
        self.read_exact(&mut head, until, what)?;
        self.receive_body(parse_head(head)?, Some(until), what)
    }

    fn receive_body(
        &self,
        (kind, len): (Kind, usize),
        until: Option<Instant>,
        what: &'static str,
    ) -> Result<Message, WireError> {
        if kind == Kind::Segment {
            return Err(Message { kind, body: Vec::new() }.unexpected());
        }
        // A length that a head only promises costs no memory.
        let mut body = Vec::new();
        while body.len() < len {
            let start = body.len();
            body.resize(len.min(start + (1 << 16)), 0);
            let until = until.unwrap_or_else(|| Instant::now() + self.limit);
            self.read_exact(&mut body[start..], until, what)?;
        }
        Ok(Message { kind, body })
    }

    /// Reads one segment; `admit` is asked before its bytes are, which are added to `count` as they come. Waits for ever
    /// for it to begin.
    ///
    /// # Errors
    ///
    /// As for [`receive`](Self::receive), and what `admit` says.
    pub fn receive_segment(
        &self,
        admit: impl FnOnce(&SegmentHead) -> Result<(), WireError>,
        count: &AtomicU64,
    ) -> Result<(SegmentHead, Box<[u8]>), WireError> {
        let what = "receiving segments";
        let (kind, len) = self.read_head(None, what)?;
        if kind != Kind::Segment {
            return Err(Message { kind, body: Vec::new() }.unexpected());
        }
        let until = Instant::now() + self.limit;
        let mut bytes = [0; SegmentHead::LEN];
        self.read_exact(&mut bytes, until, what)?;
        let segment = SegmentHead::read(&bytes)?;
        if len != SegmentHead::LEN + segment.len() {
            return Err(WireError::Protocol(format!("a segment of {len} bytes that should have others")));
        }
        admit(&segment)?;
        let mut body = Vec::with_capacity(segment.len());
        while body.len() < segment.len() {
            let append = &mut |bytes: &[u8]| {
                let count = bytes.len().min(segment.len() - body.len());
                body.extend_from_slice(&bytes[..count]);
                count
            };
            let more = self.take_some(append, Some(Instant::now() + self.limit), what)?;
            count.fetch_add(more as u64, Ordering::Relaxed);
        }
        Ok((segment, body.into_boxed_slice()))
    }

    /// Sends one message.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    pub fn send_message(&self, message: &Message) -> Result<(), WireError> {
        self.write(&[&head(message.kind, message.body.len()), &message.body])
    }

    /// Sends one segment, whose bytes are all of `parts`.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    pub fn send_segment(&self, segment: &SegmentHead, parts: &[&[u8]]) -> Result<(), WireError> {
        let heads = [&head(Kind::Segment, SegmentHead::LEN + segment.len())[..], &segment.write()].concat();
        let mut all = Vec::with_capacity(parts.len() + 1);
        all.push(heads.as_slice());
        all.extend_from_slice(parts);
        self.write(&all)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.close();
    }
}

/// TLS errors in words that say what to do.
fn explain(error: &rustls::Error) -> String {
    use rustls::{AlertDescription, CertificateError, Error};
    let advice = match error {
        // Another CA of the same name, as two runs of `mig keys` make them, gives a bad signature.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is not signed by the CA that this host trusts"
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired (or this host's clock is wrong)"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "its certificate is not valid yet (or this host's clock is wrong)",
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for another host (--peer NAME says which name to expect)",
        Error::NoCertificatesPresented => "it shows no certificate",
        Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            "it does not trust this host's certificate: it is signed by another CA"
        }
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "it refuses this host's certificate, which has expired"
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => "it wants a certificate",
        Error::InvalidMessage(_) => "it does not speak TLS",
        _ => return error.to_string(),
    };
    format!("{advice} ({error})")
}
