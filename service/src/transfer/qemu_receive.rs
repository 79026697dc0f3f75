//! A running guest that comes in: its stream is put together and written to the QEMU that waits for it.

use std::io::{self, BufWriter, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mig_engine::qemu::Rebuilt;
use mig_engine::{Cancel, Reference};

use super::receiving::{Receiving, why};
use super::snapshot::Snapshot;
use crate::events::Event;
use crate::local;
use crate::session::{Admitted, Incoming, Outcome};
use crate::wire::Code;
use crate::wire::hello::{Complete, Content, Proposal, Refusal};

/// How long QEMU may take to be there.
const THERE: Duration = Duration::from_secs(10);
/// How long it may take nothing of its stream: devices of a large machine are loaded without reading on.
const STUCK: Duration = Duration::from_secs(60);
/// How long it may take to close its end once it has everything.
const CLOSE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// What QEMU sends last when it has loaded everything: message 1, four bytes, no error.
const ALL_IS_WELL: [u8; 8] = [0, 1, 0, 4, 0, 0, 0, 0];

/// A QEMU that waits for its guest.
#[derive(Clone, Debug)]
pub struct QemuTarget {
    /// The socket of its `-incoming unix:PATH`.
    pub path: PathBuf,
    /// Where the memory is kept for the way back.
    pub snapshot: Option<PathBuf>,
    /// Folder for a temporary copy of the guest's memory, where no snapshot is kept.
    pub scratch: PathBuf,
}

impl QemuTarget {
    /// Admits a migration into this QEMU.
    ///
    /// # Errors
    ///
    /// The refusal for the sender.
    pub fn admit(
        &self,
        proposal: &Proposal,
        references: Vec<Option<Reference>>,
        receiving: &Receiving,
        cancel: Cancel,
    ) -> Result<Admitted, Refusal> {
        if proposal.kind != Content::Qemu {
            return Err(Refusal::new(Code::Unexpected, "this receiver waits for a QEMU migration stream"));
        }
        receiving.check(proposal)?;
        let socket = local::connect(&self.path, THERE, &cancel);
        let socket = socket.map_err(|error| {
            let message =
                format!("the destination QEMU is not there ({error}): start it with -incoming unix:PATH");
            Refusal::new(Code::Qemu, message)
        })?;
        let (target, how) = (self.clone(), receiving.clone());
        let job = Box::new(move |session: &Arc<Incoming>, references| {
            let done = target.run(session, references, &socket, &how);
            // Closed before it has all of its stream, QEMU gives up: there is no guest here then.
            let _ = socket.shutdown(Shutdown::Both);
            done
        });
        Ok(receiving.admit(references, None, cancel, job))
    }

    fn run(
        &self,
        session: &Arc<Incoming>,
        references: Vec<Option<Reference>>,
        socket: &UnixStream,
        how: &Receiving,
    ) -> Result<Complete, Refusal> {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let back = scope.spawn(|| give_back(session, socket, &over));
            let done = self.rebuild(session, references, socket, how);
            if done.is_err() {
                let _ = socket.shutdown(Shutdown::Both);
            }
            over.store(true, Ordering::Relaxed);
            let returned = back.join().unwrap_or_default();
            let complete = done?;
            match returned {
                Returned::Nothing => Ok(complete),
                Returned::Well => Ok(Complete {
                    message: "the destination QEMU says that it has loaded the guest".into(),
                    ..complete
                }),
                Returned::Badly => {
                    let message =
                        "the destination QEMU says that it could not load the guest: see its own messages";
                    Err(Refusal::new(Code::Qemu, message))
                }
            }
        })
    }

    fn rebuild(
        &self,
        session: &Arc<Incoming>,
        references: Vec<Option<Reference>>,
        socket: &UnixStream,
        how: &Receiving,
    ) -> Result<Complete, Refusal> {
        let storage = |error: &dyn std::fmt::Display| Refusal::new(Code::Storage, error.to_string());
        let (header, references) = how.header(session, references)?;
        let snapshot = Snapshot::new(self.snapshot.clone(), &self.scratch)
            .map_err(|error| storage(&format!("{error:#}")))?;
        let out = ToQemu { socket, session, written: false };
        let file = snapshot.file().map_err(|error| storage(&error))?;
        let to = Rebuilt::new(&header, file, BufWriter::with_capacity(1 << 18, out))
            .map_err(|error| why(session, &error))?;
        let applied =
            how.pool()?.install(|| how.decoder(&header, &references, session).apply(&to, session.as_ref()));
        let applied = applied.map_err(|error| match error {
            mig_engine::DecodeError::Io { what: "writing the stream", source }
                if session.outcome().is_none() =>
            {
                let message = format!(
                    "the destination QEMU takes no more of its stream ({source}): see its own messages"
                );
                Refusal::new(Code::Qemu, message)
            }
            error => why(session, &error),
        })?;
        // QEMU has all of it and may run the guest: from here on nobody stops this any more.
        if !session.settle() {
            return Err(Refusal::new(Code::Internal, "it ended before the guest could be started"));
        }
        let (memory, _, written) = to.into_parts();
        // The end of the stream, for a QEMU that waits for it.
        let _ = socket.shutdown(Shutdown::Write);
        snapshot.keep(memory, &|event| {
            if let Event::Warning { message } = event {
                log::warn!("{message}");
            }
        });
        log::info!("{}: {written} bytes written to QEMU", session.proposal.vm);
        let (bytes, _) = session.progress();
        Ok(Complete { pages: applied.pages, bytes, message: String::new() })
    }
}

/// QEMU's socket, for a writer that stops when the session does.
struct ToQemu<'s> {
    socket: &'s UnixStream,
    session: &'s Incoming,
    written: bool,
}

impl io::Write for ToQemu<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.written {
            self.socket.set_write_timeout(Some(LOOK))?;
            self.written = true;
        }
        let until = Instant::now() + STUCK;
        loop {
            match (&mut &*self.socket).write(bytes) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    let over = self.session.outcome().is_some() || self.session.cancel().is_cancelled();
                    if over || Instant::now() > until {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What QEMU said on its return path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Returned {
    /// Nothing, as without that capability.
    #[default]
    Nothing,
    /// In the end, that all is well.
    Well,
    /// In the end, something else.
    Badly,
}

/// Passes on what QEMU sends back, until it closes its end, or for a while after everything was written to it.
fn give_back(session: &Incoming, socket: &UnixStream, over: &AtomicBool) -> Returned {
    let mut buffer = [0; 4096];
    let mut last = Vec::new();
    let mut until: Option<Instant> = None;
    if socket.set_read_timeout(Some(LOOK)).is_err() {
        return Returned::Nothing;
    }
    loop {
        match (&mut &*socket).read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                last.extend_from_slice(&buffer[..read]);
                let from = last.len().saturating_sub(ALL_IS_WELL.len());
                last.drain(..from);
                if session.give_back(&buffer[..read]).is_err() {
                    // Between two connections: QEMU's source would miss it, and say so.
                    log::warn!("{}: what QEMU sends back can't be passed on", session.proposal.vm);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if over.load(Ordering::Relaxed)
                    && *until.get_or_insert(Instant::now() + CLOSE) < Instant::now()
                {
                    break;
                }
                if matches!(
                    session.outcome(),
                    Some(Outcome::Failed(_) | Outcome::Cancelled | Outcome::CancelledThere(_))
                ) {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    match last.as_slice() {
        [] => Returned::Nothing,
        last if *last == ALL_IS_WELL => Returned::Well,
        _ => Returned::Badly,
    }
}
