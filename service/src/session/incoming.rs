//! A receiver's session: takes what its connections bring, says how far it is, and tells the sender how it ended.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use mig_engine::live::{Arrival, Arrivals, Have};
use mig_engine::{Cancel, DecodeError, Reference};

use super::inbox::Inbox;
use super::lock;
use super::sender::Limits;
use crate::load::Load;
use crate::wire::hello::{Again, Cancelled, Complete, Machine, Proposal, Refusal, Resume, Welcome, agent};
use crate::wire::{Channel, Code, Kind, Message, Meter, Peer, WireError};

/// The meter is sent when something was verified, but not more often than this: at first, while its sender finds out what the link is, and
/// then.
const METER: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(5)];
/// How long a session has begun.
const FIRST: Duration = Duration::from_millis(100);
/// If nothing was verified, it is sent this often.
const SILENCE: Duration = Duration::from_millis(250);
/// How long the end is kept for a sender that comes back to ask.
const LINGER: Duration = Duration::from_secs(10);
/// Tries of one frame.
const ATTEMPTS: u32 = 3;

/// How long it takes at least from one meter to the next, so long after the first frame.
pub fn meter_interval(age: Duration) -> Duration {
    METER[usize::from(age > FIRST)]
}

/// Sessions that are open.
pub type Open<'o> = &'o dyn Fn() -> Vec<Arc<Incoming>>;

/// Decides about migrations that come in.
pub trait Host: Send + Sync + 'static {
    /// Takes or refuses one; of those with the same [`turn`](Self::turn), one at a time is asked about. `open` gives those that are open
    /// at that moment.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    fn admit(&self, peer: &Peer, proposal: &Proposal, open: Open<'_>) -> Result<Admitted, Refusal>;

    /// What only one can be admitted to at a time.
    fn turn<'p>(&self, proposal: &'p Proposal) -> &'p str;

    /// Takes note of the end of one that was admitted.
    fn ended(&self, session: &Incoming, outcome: &Outcome);
}

/// What does the work of a session, in a thread of its own.
pub type Job = Box<dyn FnOnce(&Arc<Incoming>, Vec<Option<Reference>>) -> Result<Complete, Refusal> + Send>;

/// A migration that is taken.
pub struct Admitted {
    /// For each reference of the proposal, the one at hand, if it may be used.
    pub references: Vec<Option<Reference>>,
    /// What is there from an earlier try.
    pub have: Option<Have>,
    /// The most pages of a block.
    pub block_pages: u64,
    /// Bytes of frames that may be held.
    pub window: u64,
    /// Efforts that can be decoded.
    pub efforts: Vec<String>,
    /// What the session may use.
    pub limits: Limits,
    /// Stops it.
    pub cancel: Cancel,
    /// The work.
    pub job: Job,
}

impl std::fmt::Debug for Admitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admitted").field("references", &self.references).finish_non_exhaustive()
    }
}

/// How a session ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Everything is verified and in place.
    Complete(Complete),
    /// It failed here or there.
    Failed(Refusal),
    /// Somebody at this end stopped it.
    Cancelled,
    /// Somebody at the sender's end stopped it.
    CancelledThere(String),
}

/// One session.
#[derive(Debug)]
pub struct Incoming {
    /// What the sender proposed.
    pub proposal: Proposal,
    /// Who it is.
    pub peer: Peer,
    welcome: Welcome,
    have: Mutex<Option<Have>>,
    limits: Limits,
    cancel: Cancel,
    inbox: Inbox,
    received: AtomicU64,
    pages: AtomicU64,
    started: Instant,
    control: Mutex<Control>,
    changed: Condvar,
    data: Mutex<Vec<Weak<Channel>>>,
    outcome: Mutex<Option<Outcome>>,
    /// The job puts its result in place, and nothing else ends the session any more. Changes only under `outcome`.
    settling: AtomicBool,
    said_bye: AtomicBool,
}

/// The control connection, as far as there is one.
#[derive(Debug)]
struct Control {
    channel: Option<Arc<Channel>>,
    /// Connections that are told what is there.
    greeting: u32,
    /// When it broke.
    since: Instant,
    /// Something was verified since the last meter.
    news: bool,
}

impl Incoming {
    /// A session that is admitted; gives it, the references and the work.
    pub(super) fn new(
        peer: Peer,
        proposal: Proposal,
        admitted: Admitted,
    ) -> (Arc<Self>, Vec<Option<Reference>>, Job) {
        let Admitted { references, have, block_pages, window, efforts, limits, cancel, job } = admitted;
        let welcome = Welcome {
            format: mig_engine::VERSION,
            efforts,
            references: references.iter().map(Option::is_some).collect(),
            block_pages,
            window,
            connections: limits.connections,
            late_reference: true,
            moved_words: true,
            have: have.is_some(),
            resume: None,
            host: Machine::here(),
            agent: agent(),
        };
        // Room for a block's pages, and its lists with them, as when a file is unpacked.
        let max_frame = (block_pages * 2 * 4096 + (1 << 22)).min(u32::MAX.into());
        let session = Incoming {
            proposal,
            peer,
            welcome,
            have: Mutex::new(have),
            limits,
            cancel,
            inbox: Inbox::new(window, max_frame),
            received: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            started: Instant::now(),
            control: Mutex::new(Control { channel: None, greeting: 0, since: Instant::now(), news: false }),
            changed: Condvar::new(),
            data: Mutex::default(),
            outcome: Mutex::default(),
            settling: AtomicBool::new(false),
            said_bye: AtomicBool::new(false),
        };
        (Arc::new(session), references, job)
    }

    /// Bytes that came, and pages that were verified.
    pub fn progress(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.pages.load(Ordering::Relaxed))
    }

    /// How long it has been going on.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Says whether somebody stopped it.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Whether its sender is there.
    pub fn is_connected(&self) -> bool {
        lock(&self.control).channel.is_some()
    }

    /// How it ended, if it did.
    pub fn outcome(&self) -> Option<Outcome> {
        lock(&self.outcome).clone()
    }

    /// Whether the sender, once it was told, can go on later with what is there.
    pub fn may_go_on_later(&self) -> bool {
        match self.outcome() {
            Some(Outcome::Failed(refusal)) => {
                matches!(refusal.code, Code::Timeout | Code::Storage | Code::Draining | Code::Internal)
            }
            _ => false,
        }
    }

    /// For the job, before it puts its result in place: from now on only the job ends the session. False if it has ended already;
    /// then nothing may be put in place.
    pub fn settle(&self) -> bool {
        let end = lock(&self.outcome);
        self.settling.store(end.is_none(), Ordering::Relaxed);
        end.is_none()
    }

    fn is_settling(&self) -> bool {
        self.settling.load(Ordering::Relaxed)
    }

    /// Ends the session, unless it has ended or its job is about to end it.
    pub fn finish(&self, outcome: Outcome) {
        self.end(outcome, |end| end.is_none() && !self.is_settling());
    }

    /// Ends the session as its job ended. What is in place is in place, whatever was said before.
    pub(super) fn finish_job(&self, result: Result<Complete, Refusal>) {
        let done = result.is_ok();
        let outcome = result.map_or_else(Outcome::Failed, Outcome::Complete);
        self.end(outcome, |end| end.is_none() || done);
    }

    fn end(&self, outcome: Outcome, counts: impl FnOnce(&Option<Outcome>) -> bool) {
        let mut end = lock(&self.outcome);
        if counts(&end) {
            *end = Some(match outcome {
                // What stops because somebody stopped it has not failed, whoever notices first.
                Outcome::Failed(_) if self.cancel.is_cancelled() => Outcome::Cancelled,
                outcome => outcome,
            });
        }
        drop(end);
        self.inbox.close();
        self.changed.notify_all();
    }

    /// Sends bytes of the destination VMM to the source's.
    ///
    /// # Errors
    ///
    /// [`WireError::Closed`] while there is no connection.
    pub fn give_back(&self, bytes: &[u8]) -> Result<(), WireError> {
        let channel = lock(&self.control).channel.clone();
        let channel = channel.ok_or(WireError::Closed { what: "sending back" })?;
        for part in bytes.chunks(Kind::Return.limit()) {
            channel.send_message(&Message { kind: Kind::Return, body: part.to_vec() })?;
        }
        Ok(())
    }

    /// Serves a control connection until it breaks or the session is over.
    pub(super) fn serve_control(&self, channel: Channel, resume: bool) {
        let channel = Arc::new(channel);
        let mut welcome = self.welcome.clone();
        if resume {
            let (next, complete) = self.inbox.resume();
            welcome.resume = Some(Resume { next, complete });
            welcome.have = false;
        }
        // What it has may be long, and the link slow; each part has its own time limit.
        lock(&self.control).greeting += 1;
        let greeted = self.greet(&channel, &welcome);
        {
            let mut control = lock(&self.control);
            control.greeting -= 1;
            if let Err(error) = greeted {
                log::info!("{}: {error}", self.name());
                control.since = Instant::now();
                return;
            }
            if let Some(old) = control.channel.replace(channel.clone()) {
                old.close();
            }
            control.news = true;
        }
        self.changed.notify_all();
        let heard = self.hear(&channel);
        let mut control = lock(&self.control);
        if control.channel.as_ref().is_some_and(|current| Arc::ptr_eq(current, &channel)) {
            control.channel = None;
            control.since = Instant::now();
            if let Err(error) = heard
                && lock(&self.outcome).is_none()
            {
                log::warn!("{}: {error}; waiting for the sender to come back", self.name());
            }
        }
        drop(control);
        channel.close();
        self.changed.notify_all();
    }

    fn greet(&self, channel: &Channel, welcome: &Welcome) -> Result<(), WireError> {
        channel.send_message(&Message::json(Kind::Welcome, welcome))?;
        let have = if welcome.have { lock(&self.have).take() } else { None };
        if let Some(have) = have {
            for marks in have.marks.chunks(Kind::Have.limit() / 4) {
                let body = marks.iter().flat_map(|mark| mark.to_le_bytes()).collect();
                channel.send_message(&Message { kind: Kind::Have, body })?;
            }
            channel.send_message(&Message::empty(Kind::Have))?;
        }
        Ok(())
    }

    fn hear(&self, channel: &Channel) -> Result<(), WireError> {
        loop {
            let message = channel.receive(self.limits.silence, "listening to the sender")?;
            match message.kind {
                Kind::Alive => {}
                Kind::Bye => {
                    self.said_bye.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                Kind::Cancel => {
                    let words: Cancelled = message.parse()?;
                    self.said_bye.store(true, Ordering::Relaxed);
                    self.finish(Outcome::CancelledThere(words.reason));
                    return Ok(());
                }
                Kind::Fail => {
                    let words: Refusal = message.parse()?;
                    self.said_bye.store(true, Ordering::Relaxed);
                    self.finish(Outcome::Failed(words));
                    return Ok(());
                }
                _ => {
                    let error = message.unexpected();
                    self.finish(Outcome::Failed(Refusal::new(Code::Protocol, error.to_string())));
                    return Err(error);
                }
            }
        }
    }

    /// Takes segments from a data connection until it breaks or the session is over.
    pub(super) fn serve_data(&self, channel: Channel) {
        let channel = Arc::new(channel);
        if channel.send_message(&Message::json(Kind::Welcome, &Welcome::default())).is_err() {
            return;
        }
        {
            let mut data = lock(&self.data);
            data.retain(|channel| channel.strong_count() > 0);
            data.push(Arc::downgrade(&channel));
        }
        while lock(&self.outcome).is_none() {
            let taken = channel
                .receive_segment(|segment| self.inbox.admit(segment), &self.received)
                .and_then(|(segment, bytes)| self.inbox.put(&segment, bytes));
            match taken {
                Ok(()) => {}
                Err(error) if error.is_broken_link() => {
                    log::debug!("{}: {error}", self.name());
                    return;
                }
                Err(error) => {
                    self.finish(Outcome::Failed(Refusal::new(Code::Protocol, error.to_string())));
                    return;
                }
            }
        }
    }

    /// Whether a new data connection is one too many.
    pub(super) fn is_full(&self) -> bool {
        let open = lock(&self.data).iter().filter(|channel| channel.strong_count() > 0).count();
        // A connection that broke may not have noticed yet.
        open >= 2 * self.limits.connections as usize
    }

    /// Says how far it is until the session is over, then how it ended; ends the session when its sender stays away.
    pub(super) fn report(&self) {
        let mut last = Instant::now() - SILENCE;
        let mut first_news = None;
        loop {
            let channel = {
                let mut control = lock(&self.control);
                loop {
                    if lock(&self.outcome).is_some() {
                        break;
                    }
                    let may_end = !self.is_settling();
                    if may_end && self.cancel.is_cancelled() {
                        drop(control);
                        self.finish(Outcome::Cancelled);
                        control = lock(&self.control);
                        break;
                    }
                    let is_gone = control.channel.is_none() && control.greeting == 0;
                    if may_end && is_gone && control.since.elapsed() > self.limits.retry {
                        drop(control);
                        let why = format!("the sender did not come back within {:?}", self.limits.retry);
                        self.finish(Outcome::Failed(Refusal::new(Code::Timeout, why)));
                        control = lock(&self.control);
                        break;
                    }
                    let due = if control.news {
                        meter_interval(first_news.get_or_insert_with(Instant::now).elapsed())
                    } else {
                        SILENCE
                    };
                    let left = due.saturating_sub(last.elapsed());
                    if left.is_zero() && control.channel.is_some() {
                        break;
                    }
                    // A missing connection is looked at ten times a second.
                    let left = if control.channel.is_some() { left } else { SILENCE };
                    let waited = self.changed.wait_timeout(control, left.max(Duration::from_millis(1)));
                    control = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                control.news = false;
                control.channel.clone()
            };
            last = Instant::now();
            if lock(&self.outcome).is_some() {
                break;
            }
            if let Some(channel) = channel
                && channel
                    .send_message(&Message { kind: Kind::Meter, body: self.meter().write().to_vec() })
                    .is_err()
            {
                channel.close();
            }
        }
        self.say_the_end();
    }

    fn meter(&self) -> Meter {
        let (next, waiting) = self.inbox.progress();
        let (received, load) = (self.received.load(Ordering::Relaxed), Load::now());
        let time = self.started.elapsed().as_micros() as u64 + 1;
        Meter { next, received, cpu: load.used, idle: load.idle, waiting, time }
    }

    /// Tells the sender, over this connection or the next one, until it has taken note or time is up.
    fn say_the_end(&self) {
        let Some(outcome) = self.outcome() else { return };
        let message = match &outcome {
            Outcome::Complete(complete) => Message::json(Kind::Complete, complete),
            Outcome::Failed(refusal) => Message::json(Kind::Fail, refusal),
            Outcome::Cancelled => {
                Message::json(Kind::Cancel, &Cancelled { reason: "stopped by the receiver".into() })
            }
            Outcome::CancelledThere(_) => return self.close(),
        };
        let until = Instant::now() + LINGER;
        let mut told: Option<Arc<Channel>> = None;
        while Instant::now() < until && !self.said_bye.load(Ordering::Relaxed) {
            let channel = lock(&self.control).channel.clone();
            if let Some(channel) = channel
                && !told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &channel))
            {
                // The last acknowledgements go first: the sender must not send what is verified.
                let meter = Message { kind: Kind::Meter, body: self.meter().write().to_vec() };
                let sent = channel.send_message(&meter).and_then(|()| channel.send_message(&message));
                if sent.is_err() {
                    channel.close();
                }
                told = Some(channel);
            }
            // A sender that was never there is not waited for.
            if matches!(&outcome, Outcome::Failed(refusal) if refusal.code == Code::Timeout) && told.is_none()
            {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.close();
    }

    fn close(&self) {
        if let Some(channel) = lock(&self.control).channel.take() {
            channel.end();
            channel.close();
        }
        for channel in lock(&self.data).iter().filter_map(Weak::upgrade) {
            channel.close();
        }
    }

    fn name(&self) -> String {
        format!("{} from {}", self.proposal.vm, self.peer.address)
    }

    /// The first frame, as [`Arrivals`] gives the others.
    ///
    /// # Errors
    ///
    /// As for [`Arrivals::next`].
    pub fn first(&self) -> Result<Arrival, DecodeError> {
        self.next()?.ok_or(DecodeError::Cancelled)
    }
}

impl Arrivals for Incoming {
    fn next(&self) -> Result<Option<Arrival>, DecodeError> {
        match self.inbox.next() {
            None if !self.inbox.is_ended() => Err(DecodeError::Cancelled),
            arrival => Ok(arrival),
        }
    }

    fn ended(&self) {
        self.inbox.end();
    }

    fn again(&self, sequence: u64, attempt: u32, why: DecodeError) -> Result<Arrival, DecodeError> {
        if attempt > ATTEMPTS {
            return Err(why);
        }
        log::warn!("{}: frame {sequence} is asked for again: {why}", self.name());
        self.inbox.expect(sequence, attempt);
        let again = Again { sequence, attempt, reason: why.to_string() };
        let message = Message::json(Kind::Again, &again);
        let until = Instant::now() + self.limits.retry + self.limits.silence;
        // Said once on each control connection, for the sender may have lost it with the last.
        let mut told: Option<Arc<Channel>> = None;
        while Instant::now() < until && lock(&self.outcome).is_none() {
            let channel = lock(&self.control).channel.clone();
            if let Some(channel) = channel
                && !told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &channel))
            {
                if channel.send_message(&message).is_err() {
                    channel.close();
                }
                told = Some(channel);
            }
            if let Some(arrival) = self.inbox.expected(sequence, Instant::now() + SILENCE) {
                return Ok(arrival);
            }
        }
        Err(why)
    }

    fn verified(&self, sequence: u64, pages: u64) {
        self.pages.fetch_add(pages, Ordering::Relaxed);
        self.inbox.verified(sequence);
        let mut control = lock(&self.control);
        control.news = true;
        drop(control);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::hello::Content;

    fn session() -> Arc<Incoming> {
        let peer = Peer { name: String::new(), address: ([127, 0, 0, 1], 1).into(), certificate: Vec::new() };
        let proposal = Proposal {
            session: "0".repeat(32),
            resume: false,
            vm: "vm".into(),
            kind: Content::Image,
            format: vec![mig_engine::VERSION],
            page_size: 4096,
            pages: 1,
            bytes: 4096,
            efforts: Vec::new(),
            references: Vec::new(),
            host: Machine::default(),
            agent: String::new(),
        };
        let second = Duration::from_secs(1);
        let admitted = Admitted {
            references: Vec::new(),
            have: None,
            block_pages: 1,
            window: 1 << 20,
            efforts: Vec::new(),
            limits: Limits { connections: 1, retry: second, silence: second },
            cancel: Cancel::new(),
            job: Box::new(|_, _| Err(failed())),
        };
        Incoming::new(peer, proposal, admitted).0
    }

    fn failed() -> Refusal {
        Refusal::new(Code::Timeout, "the sender began again")
    }

    fn complete() -> Complete {
        Complete { pages: 1, bytes: 4096, message: String::new() }
    }

    #[test]
    fn what_is_being_put_in_place_is_not_ended_by_others() {
        let session = session();
        assert!(session.settle());
        session.finish(Outcome::Failed(failed()));
        session.cancel().cancel();
        assert!(session.outcome().is_none());
        session.finish_job(Ok(complete()));
        assert!(matches!(session.outcome(), Some(Outcome::Complete(_))));
    }

    #[test]
    fn nothing_is_put_in_place_after_the_end() {
        let session = session();
        session.finish(Outcome::CancelledThere("stopped".into()));
        assert!(!session.settle());
        session.finish_job(Err(failed()));
        assert!(matches!(session.outcome(), Some(Outcome::CancelledThere(_))));
    }

    #[test]
    fn what_is_stopped_has_not_failed() {
        let session = session();
        session.cancel().cancel();
        session.finish_job(Err(failed()));
        assert!(matches!(session.outcome(), Some(Outcome::Cancelled)));
    }
}
