//! All sessions of a receiver, and which connection belongs to which.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use mig_engine::EncodeError;

use super::incoming::{Host, Incoming, Outcome};
use super::lock;
use crate::problem::guarded;
use crate::wire::hello::{Hello, Proposal, Refusal};
use crate::wire::{Accepted, Channel, Code, Kind, Message, Peer};

/// The sessions of one listener.
pub struct Sessions<H> {
    host: H,
    open: Mutex<HashMap<String, Arc<Incoming>>>,
    admitting: Admitting,
}

/// Admissions under way: opening what one may refer to can take long, and others need not wait for that.
#[derive(Debug, Default)]
struct Admitting {
    now: Mutex<Vec<Turn>>,
    ended: Condvar,
}

/// The session that is being admitted, and whose turn it is: see [`Host::turn`].
#[derive(Clone, Debug, PartialEq)]
struct Turn {
    session: String,
    of: String,
}

/// An admission under way, until it is dropped.
struct Admission<'a> {
    all: &'a Admitting,
    turn: Turn,
}

impl Admitting {
    /// Waits for its turn; `None` if a session of that name is being admitted in another.
    fn begin(&self, session: &str, of: &str) -> Option<Admission<'_>> {
        let turn = Turn { session: session.to_owned(), of: of.to_owned() };
        let taken = |now: &mut Vec<Turn>| now.iter().any(|other| other.of == turn.of);
        let mut now = self.ended.wait_while(lock(&self.now), taken).unwrap_or_else(PoisonError::into_inner);
        if now.iter().any(|other| other.session == turn.session) {
            return None;
        }
        now.push(turn.clone());
        Some(Admission { all: self, turn })
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        lock(&self.all.now).retain(|turn| *turn != self.turn);
        self.all.ended.notify_all();
    }
}

impl<H> std::fmt::Debug for Sessions<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("open", &lock(&self.open).len()).finish_non_exhaustive()
    }
}

impl<H: Host> Sessions<H> {
    /// None yet; `host` decides about new ones.
    pub fn new(host: H) -> Arc<Self> {
        Arc::new(Sessions { host, open: Mutex::default(), admitting: Admitting::default() })
    }

    /// Who decides.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// Sessions that are open at present.
    pub fn open(&self) -> Vec<Arc<Incoming>> {
        lock(&self.open).values().cloned().collect()
    }

    /// Serves a connection to its end, in the calling thread.
    pub fn serve(self: &Arc<Self>, accepted: Accepted) {
        let Accepted { channel, hello } = accepted;
        let peer = channel.peer().clone();
        match hello {
            Hello::Control(proposal) if proposal.resume => match self.find(&proposal.session, &peer) {
                Ok(session) => session.serve_control(channel, true),
                Err(refusal) => refuse(&channel, &refusal),
            },
            Hello::Control(proposal) => match self.admit(peer, proposal) {
                Ok(session) => session.serve_control(channel, false),
                Err(refusal) => refuse(&channel, &refusal),
            },
            Hello::Data { session, .. } => match self.find(&session, &peer) {
                Ok(session) if session.is_full() => {
                    refuse(&channel, &Refusal::new(Code::Busy, "too many data connections"));
                }
                Ok(session) => session.serve_data(channel),
                Err(refusal) => refuse(&channel, &refusal),
            },
        }
    }

    /// A session of this peer's. Somebody else's is as unknown as one that never was.
    fn find(&self, id: &str, peer: &Peer) -> Result<Arc<Incoming>, Refusal> {
        let session = lock(&self.open).get(id).cloned();
        session
            .filter(|session| session.peer.certificate == peer.certificate)
            .ok_or_else(|| Refusal::new(Code::UnknownSession, "there is no such session here (any more)"))
    }

    fn admit(self: &Arc<Self>, peer: Peer, proposal: Proposal) -> Result<Arc<Incoming>, Refusal> {
        proposal.check()?;
        let admission = self.admitting.begin(&proposal.session, self.host.turn(&proposal));
        if admission.is_none() || lock(&self.open).contains_key(&proposal.session) {
            return Err(Refusal::new(Code::Protocol, "a session of that name is open"));
        }
        let admitted = self.host.admit(&peer, &proposal, &|| self.open())?;
        let (session, references, job) = Incoming::new(peer, proposal, admitted);
        let id = session.proposal.session.clone();
        lock(&self.open).insert(id.clone(), session.clone());
        let (shared, all) = (session.clone(), self.clone());
        let work = move || {
            let reporter = shared.clone();
            let report = thread::Builder::new().name("report".into()).spawn(move || reporter.report());
            // Whatever happens in it, the session ends, and its host hears of it.
            let done = guarded(|| job(&shared, references));
            shared.finish_job(done.unwrap_or_else(|bug| Err(Refusal::new(Code::Internal, bug))));
            if let Ok(report) = report {
                let _ = report.join();
            }
            lock(&all.open).remove(&id);
            if let Some(outcome) = shared.outcome() {
                all.host.ended(&shared, &outcome);
            }
        };
        if let Err(error) = thread::Builder::new().name("session".into()).spawn(work) {
            lock(&self.open).remove(&session.proposal.session);
            let refusal = Refusal::new(Code::Internal, format!("cannot start a thread: {error}"));
            session.finish(Outcome::Failed(refusal.clone()));
            self.host.ended(&session, &Outcome::Failed(refusal.clone()));
            return Err(refusal);
        }
        Ok(session)
    }
}

fn refuse(channel: &Channel, refusal: &Refusal) {
    log::info!("{}: refused: {} ({})", channel.peer().address, refusal.message, refusal.code);
    let _ = channel.send_message(&Message::json(Kind::Refuse, refusal));
    channel.end();
    // Closing with unread bytes would take back what was just said.
    thread::sleep(std::time::Duration::from_millis(50));
}

/// An engine error in words for the other side.
impl From<EncodeError> for Refusal {
    fn from(error: EncodeError) -> Self {
        Refusal::new(Code::Internal, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn admissions_wait_for_their_turn_and_for_nobody_elses() {
        let admitting = Admitting::default();
        let first = admitting.begin("1", "desktop");
        assert!(first.is_some());
        // Another's turn is its own, but a name is one session's.
        assert!(admitting.begin("2", "other").is_some());
        assert!(admitting.begin("1", "other").is_none());
        let (begun, is_begun) = channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let second = admitting.begin("3", "desktop");
                begun.send(second.is_some()).unwrap();
            });
            assert!(is_begun.recv_timeout(Duration::from_millis(100)).is_err(), "it did not wait");
            drop(first);
            assert!(is_begun.recv().unwrap());
        });
        assert!(lock(&admitting.now).is_empty());
        assert!(admitting.begin("1", "desktop").is_some());
    }
}
