//! A receiver for one migration: `mig receive`, and the receiving half of `mig demo`.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mig_engine::{Cancel, Reference, ReferenceKind};

use super::image_receive::ImageTarget;
use super::qemu_receive::QemuTarget;
use super::receiving::{Receiving, matching};
use super::snapshot::open_snapshot;
use crate::references::for_unpacking;
use crate::session::{Admitted, Host, Incoming, Open, Outcome, Sessions, lock};
use crate::wire::hello::{Offered, Proposal, Refusal};
use crate::wire::{Code, Listener, Listening, Peer, WireError};

/// How long an abandoned session may take to let go of its files.
const LET_GO: Duration = Duration::from_secs(5);

/// Why a session ends whose sender opens another.
const BEGUN_AGAIN: &str = "the sender has begun again";

/// What to do with the one migration that comes.
#[derive(Debug)]
pub struct OneShot {
    /// Where it goes.
    pub target: Target,
    /// Files that it may refer to.
    pub references: Vec<PathBuf>,
    /// How.
    pub receiving: Receiving,
    /// The only peer that may send, if it is to be only one.
    pub from: Option<String>,
    /// Stops it.
    pub cancel: Cancel,
}

/// Where a migration goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// To a file.
    Image(ImageTarget),
    /// To a QEMU that waits for it.
    Qemu(QemuTarget),
}

impl Target {
    /// Admits a migration that goes there. `ours` are the references that it may use.
    ///
    /// # Errors
    ///
    /// The refusal for the sender.
    pub fn admit(
        &self,
        proposal: &Proposal,
        ours: Vec<Reference>,
        receiving: &Receiving,
        cancel: Cancel,
    ) -> Result<Admitted, Refusal> {
        let references = matching(proposal, ours);
        match self {
            Target::Image(target) => target.admit(proposal, references, receiving, cancel),
            Target::Qemu(target) => target.admit(proposal, references, receiving, cancel),
        }
    }

    /// The snapshot that was kept for this guest, if there may be one.
    fn snapshot(&self) -> Option<&Path> {
        match self {
            Target::Image(_) => None,
            Target::Qemu(target) => target.snapshot.as_deref(),
        }
    }
}

/// A receiver that waits for its migration.
#[derive(Debug)]
pub struct Waiting {
    listening: Listening,
    sessions: Arc<Sessions<Waiter>>,
    ended: Receiver<Outcome>,
    cancel: Cancel,
}

#[derive(Debug)]
struct Waiter {
    shot: OneShot,
    ended: Mutex<Sender<Outcome>>,
}

impl OneShot {
    /// Starts to listen.
    ///
    /// # Errors
    ///
    /// [`WireError`] if the system refuses.
    pub fn start(self, listener: Listener) -> Result<Waiting, WireError> {
        let (ended, outcome) = channel();
        let cancel = self.cancel.clone();
        let sessions = Sessions::new(Waiter { shot: self, ended: Mutex::new(ended) });
        let serving = sessions.clone();
        let listening = listener.start(move |accepted| serving.serve(accepted))?;
        Ok(Waiting { listening, sessions, ended: outcome, cancel })
    }
}

impl Waiting {
    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        self.listening.address()
    }

    /// The session that is open, if one is.
    pub fn session(&self) -> Option<Arc<Incoming>> {
        self.sessions.open().into_iter().next()
    }

    /// How the migration ended, if it did within that time.
    pub fn outcome(&self, wait: Duration) -> Option<Outcome> {
        if let Ok(outcome) = self.ended.recv_timeout(wait) {
            return Some(outcome);
        }
        // Cancelled before anything came.
        (self.cancel.is_cancelled() && self.session().is_none()).then_some(Outcome::Cancelled)
    }
}

impl Host for Waiter {
    fn admit(&self, peer: &Peer, proposal: &Proposal, open: Open<'_>) -> Result<Admitted, Refusal> {
        let OneShot { target, references, receiving, from, cancel } = &self.shot;
        if from.as_ref().is_some_and(|from| *from != peer.name) {
            let message = format!("{} may not send here", peer.name);
            return Err(Refusal::new(Code::Permission, message));
        }
        if cancel.is_cancelled() {
            return Err(Refusal::new(Code::Draining, "this receiver is about to stop"));
        }
        make_room(peer, proposal, open)?;
        let open = || -> anyhow::Result<Vec<Reference>> {
            let mut given = for_unpacking(references, &sizes(proposal), cancel)?;
            if let Some(path) = target.snapshot() {
                given.extend(open_snapshot(path, false, cancel)?);
            }
            Ok(given)
        };
        let given = open().map_err(|error| {
            log::error!("{error:#}");
            Refusal::new(Code::Reference, "the receiver can't open one of its references")
        })?;
        target.admit(proposal, given, receiving, cancel.clone())
    }

    /// There is but one destination, whatever the VM is called.
    fn turn<'p>(&self, _: &'p Proposal) -> &'p str {
        ""
    }

    fn ended(&self, _: &Incoming, outcome: &Outcome) {
        // One that was replaced by another is not the end.
        if matches!(outcome, Outcome::Failed(refusal) if refusal.message == BEGUN_AGAIN) {
            return;
        }
        // Nobody may wait any more.
        let _ = lock(&self.ended).send(outcome.clone());
    }
}

/// Sizes that a memory image may have which the sender means: that of the guest, and those that it offers.
pub(crate) fn sizes(proposal: &Proposal) -> Vec<u64> {
    let memory = |offered: &&Offered| offered.kind() == Some(ReferenceKind::Memory);
    let offered = proposal.references.iter().filter(memory).map(|offered| offered.blocks);
    std::iter::once(proposal.pages).chain(offered).filter(|&pages| pages > 0).collect()
}

/// `open` are sessions that exclude this one; but a sender that was started anew takes the place of what it left behind.
pub(crate) fn make_room(peer: &Peer, proposal: &Proposal, open: Open<'_>) -> Result<(), Refusal> {
    let until = Instant::now() + LET_GO;
    loop {
        let Some(current) = open().into_iter().next() else { return Ok(()) };
        let same = current.peer.certificate == peer.certificate && current.proposal.vm == proposal.vm;
        if !same || current.is_connected() || Instant::now() > until {
            return Err(Refusal::new(Code::Busy, "another migration is under way there"));
        }
        current.finish(Outcome::Failed(Refusal::new(Code::Timeout, BEGUN_AGAIN)));
        std::thread::sleep(Duration::from_millis(20));
    }
}
