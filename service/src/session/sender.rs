//! A sender's session: keeps its connections alive, sends what is in the outbox, and hears what the receiver says.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mig_engine::live::{Choice, Have, Next, OutFrame};
use mig_engine::{Cancel, EncodeError, FrameType};

use super::link::Link;
use super::lock;
use super::outbox::Outbox;
use crate::wire::hello::{Again, Cancelled, Complete, Hello, Proposal, Refusal, Welcome};
use crate::wire::{Channel, Code, Kind, Message, Meter, Target, WireError, dial, dial_watched};

/// How often a sender says that it is alive, and looks whether somebody cancelled.
const ALIVE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);
/// Between tries to connect: doubled each time, up to the second.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];
/// Blocks that had to be sent again, after which references are not used any more.
const DISTRUST: u32 = 3;

/// What a session may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Data connections.
    pub connections: u32,
    /// How long to try to reconnect.
    pub retry: Duration,
    /// How long the other end may be silent.
    pub silence: Duration,
}

/// Is told what happens; called from any thread.
pub trait Watch: Sync {
    /// A connection broke; the session goes on.
    fn broken(&self, _error: &WireError) {}
    /// The session goes on after a break.
    fn resumed(&self) {}
    /// The receiver asked for a frame again.
    fn again(&self, _again: &Again) {}
    /// Bytes came back for the source VMM.
    fn returned(&self, _bytes: &[u8]) {}
}

/// Makes a block once more, so that it stands alone.
pub type Recode<'r, 'f> = &'r (dyn Fn(&OutFrame<'f>) -> Result<OutFrame<'f>, EncodeError> + Sync);

/// One session.
#[derive(Debug)]
pub struct Sender<'f> {
    target: Target,
    proposal: Proposal,
    limits: Limits,
    connections: u32,
    outbox: Outbox<'f>,
    link: Link,
    cancel: Cancel,
    /// How it ended, until somebody has waited for it.
    end: Mutex<Option<Result<Complete, WireError>>>,
    ended: Condvar,
    over: AtomicBool,
    again: Mutex<u32>,
    /// What to tell the receiver before the end.
    last_words: Mutex<Option<Message>>,
}

/// Opens a session's control connection: says hello, and hears welcome.
///
/// # Errors
///
/// [`WireError::Refused`], and whatever keeps the two from speaking.
pub fn dial_session(
    target: &Target,
    proposal: &Proposal,
) -> Result<(Channel, Welcome, Option<Have>), WireError> {
    let channel = dial(target)?;
    channel.send_message(&Message::json(Kind::Hello, &Hello::Control(proposal.clone())))?;
    // A receiver may look through what it has from an earlier try first.
    let patience = target.limit.max(Duration::from_secs(120));
    let welcome: Welcome = welcome(&channel, patience)?;
    if !proposal.resume {
        check(proposal, &welcome)?;
    }
    let have = welcome.have.then(|| receive_have(&channel, proposal.pages, patience)).transpose()?;
    Ok((channel, welcome, have))
}

fn welcome(channel: &Channel, patience: Duration) -> Result<Welcome, WireError> {
    let message = channel.receive(patience, "waiting for its welcome")?;
    match message.kind {
        Kind::Welcome => message.parse(),
        Kind::Refuse => Err(message.parse::<Refusal>()?.into()),
        _ => Err(message.unexpected()),
    }
}

fn check(proposal: &Proposal, welcome: &Welcome) -> Result<(), WireError> {
    let wrong = |why: &str| Err(WireError::Protocol(format!("its welcome {why}")));
    if !proposal.format.contains(&welcome.format) {
        return wrong("chooses a stream format that was not offered");
    }
    if welcome.references.len() != proposal.references.len() {
        return wrong("speaks of other references than were offered");
    }
    if welcome.block_pages == 0 || welcome.connections == 0 || welcome.window == 0 {
        return wrong("leaves no room for anything");
    }
    if welcome.agent.chars().any(char::is_control) {
        return wrong("has control characters in its name");
    }
    if !proposal.efforts.iter().any(|effort| welcome.efforts.contains(effort)) {
        return wrong("has none of the efforts that were offered");
    }
    Ok(())
}

/// Reads what the receiver has: messages until an empty one.
fn receive_have(channel: &Channel, pages: u64, patience: Duration) -> Result<Have, WireError> {
    let mut have = Have::default();
    loop {
        let message = channel.receive(patience, "waiting for what it has")?;
        if message.kind != Kind::Have {
            return Err(message.unexpected());
        }
        let (marks, rest) = message.body.as_chunks::<4>();
        if !rest.is_empty() || have.marks.len() as u64 + marks.len() as u64 > pages {
            return Err(WireError::Protocol("it has more pages than there are".into()));
        }
        if marks.is_empty() {
            return Ok(have);
        }
        have.marks.extend(marks.iter().map(|mark| u32::from_le_bytes(*mark)));
    }
}

/// Does something on a thread of its own: those of the session are busy, and may wait for what this is to give.
fn on_its_own<T: Send>(work: impl FnOnce() -> Result<T, EncodeError> + Send) -> Result<T, EncodeError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let pool = pool.map_err(|error| EncodeError::Threads { threads: 1, message: error.to_string() })?;
    pool.install(work)
}

impl<'f> Sender<'f> {
    /// A session that was welcomed.
    pub fn new(
        target: Target,
        proposal: Proposal,
        welcome: &Welcome,
        link: Link,
        limits: Limits,
        cancel: Cancel,
    ) -> Self {
        Sender {
            target,
            proposal: Proposal { resume: true, ..proposal },
            limits,
            connections: limits.connections.clamp(1, welcome.connections.max(1)),
            outbox: Outbox::new(welcome.window),
            link,
            cancel,
            end: Mutex::default(),
            ended: Condvar::new(),
            over: AtomicBool::new(false),
            again: Mutex::new(0),
            last_words: Mutex::default(),
        }
    }

    /// Takes the next frame; waits for room.
    ///
    /// # Errors
    ///
    /// [`EncodeError::Cancelled`] when the session is over: [`wait`](Self::wait) says why.
    pub fn push(&self, frame: OutFrame<'f>) -> Result<(), EncodeError> {
        self.link.coded(&frame);
        self.outbox.push(frame).map_err(|_| EncodeError::Cancelled)
    }

    /// How the next block is to be made.
    pub fn choose(&self, next: Next) -> Choice {
        self.link.choose(next, &self.outbox)
    }

    /// Whether pages can be taken in while others wait for the link.
    pub fn gathers(&self, gathers: bool) {
        self.link.gathers(gathers, &self.outbox);
    }

    /// Whether the link is known to have enough to do for a while.
    pub fn has_work(&self) -> bool {
        self.link.has_work(&self.outbox)
    }

    /// The link, for reports.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// What is on its way, for reports.
    pub fn outbox(&self) -> &Outbox<'f> {
        &self.outbox
    }

    /// Frames that the receiver asked for again.
    pub fn asked_again(&self) -> u32 {
        *lock(&self.again)
    }

    /// Ends the session for a reason of this side's.
    pub fn fail(&self, code: Code, message: &str) {
        let words = Refusal::new(code, message);
        lock(&self.last_words).get_or_insert(Message::json(Kind::Fail, &words));
        self.finish(Err(WireError::Failed { code, message: message.to_owned() }));
    }

    /// The first end counts.
    fn finish(&self, end: Result<Complete, WireError>) {
        {
            let mut first = lock(&self.end);
            if !self.over.swap(true, Ordering::SeqCst) {
                *first = Some(end);
            }
        }
        self.outbox.close();
        self.ended.notify_all();
    }

    /// Ends the session because somebody on this side stopped it.
    pub fn stop(&self, reason: &str) {
        let words = Cancelled { reason: reason.to_owned() };
        lock(&self.last_words).get_or_insert(Message::json(Kind::Cancel, &words));
        self.finish(Err(WireError::Stopped(reason.to_owned())));
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Waits for the end; once.
    ///
    /// # Errors
    ///
    /// Why it did not end well.
    pub fn wait(&self) -> Result<Complete, WireError> {
        let mut end = lock(&self.end);
        loop {
            if let Some(end) = end.take() {
                return end;
            }
            end = self.ended.wait(end).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Keeps the session's connections until its end; `control` is the first.
    pub fn run(&self, control: Channel, recode: Recode<'_, 'f>, watch: &dyn Watch) {
        let mut control = Some(control);
        while let Some(channel) = control.take() {
            let broken = self.connected(&channel, recode, watch);
            drop(channel);
            match broken {
                _ if self.is_over() => return,
                Ok(()) => return,
                Err(error) if error.is_broken_link() => {
                    watch.broken(&error);
                    match self.reconnect(error) {
                        Ok(channel) => {
                            watch.resumed();
                            control = Some(channel);
                        }
                        Err(error) => self.finish(Err(error)),
                    }
                }
                Err(error) => self.finish(Err(error)),
            }
        }
    }

    /// One life of the control connection, and of the data connections beside it.
    fn connected(
        &self,
        control: &Channel,
        recode: Recode<'_, 'f>,
        watch: &dyn Watch,
    ) -> Result<(), WireError> {
        let stop = AtomicBool::new(false);
        let sockets = Mutex::default();
        thread::scope(|scope| {
            for index in 0..self.connections {
                let (stop, sockets) = (&stop, &sockets);
                scope.spawn(move || self.send(index, stop, sockets));
            }
            scope.spawn(|| self.tick(control, &stop));
            let heard = self.hear(control, recode, watch);
            {
                let _end = lock(&self.end);
                stop.store(true, Ordering::Relaxed);
            }
            self.ended.notify_all();
            // None is waited for, not even one that is being opened: over a link that is full, that takes a while.
            for socket in lock(&sockets).values() {
                let _ = socket.shutdown(Shutdown::Both);
            }
            self.outbox.wake();
            heard
        })
    }

    /// Says that this end is alive, and stops when somebody wants that.
    fn tick(&self, control: &Channel, stop: &AtomicBool) {
        let mut said = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if self.cancel.is_cancelled() {
                let words = Cancelled { reason: "stopped by the sender".into() };
                lock(&self.last_words).get_or_insert(Message::json(Kind::Cancel, &words));
                self.finish(Err(WireError::Cancelled));
            }
            if self.is_over() {
                if let Some(words) = lock(&self.last_words).take() {
                    let _ = control.send_message(&words);
                    control.end();
                    // Closing with unread bytes would take back what was just said.
                    thread::sleep(TICK);
                }
                control.close();
                return;
            }
            if said.elapsed() >= ALIVE {
                said = Instant::now();
                if control.send_message(&Message::empty(Kind::Alive)).is_err() {
                    control.close();
                    return;
                }
            }
            // Until then, or something ends.
            let end = lock(&self.end);
            if !stop.load(Ordering::Relaxed) && !self.is_over() {
                let _ = self.ended.wait_timeout(end, TICK);
            }
        }
    }

    /// Hears what the receiver says, until the end or until the connection breaks.
    fn hear(&self, control: &Channel, recode: Recode<'_, 'f>, watch: &dyn Watch) -> Result<(), WireError> {
        let (mut arrived, mut since) = ((0, 0), Instant::now());
        loop {
            let message = control.receive(self.limits.silence, "listening to the receiver")?;
            match message.kind {
                Kind::Meter => {
                    let meter = Meter::read(&message.body)?;
                    self.outbox.acknowledge(meter.next);
                    self.link.meter(meter, &self.outbox);
                    // It speaks, but what is sent does not get there, over no connection.
                    let now = (meter.next, meter.received);
                    if now != arrived || meter.waiting > 0 || self.outbox.is_empty() {
                        (arrived, since) = (now, Instant::now());
                    } else if since.elapsed() > self.limits.silence + self.limits.retry {
                        let limit = self.limits.silence + self.limits.retry;
                        let error = WireError::TimedOut { what: "sending: no data arrives", limit };
                        let words = Refusal::new(Code::Timeout, error.to_string());
                        lock(&self.last_words).get_or_insert(Message::json(Kind::Fail, &words));
                        self.finish(Err(error));
                    }
                }
                Kind::Alive => {}
                Kind::Again => {
                    let again: Again = message.parse()?;
                    watch.again(&again);
                    self.send_again(&again, recode)?;
                }
                Kind::Return => watch.returned(&message.body),
                Kind::Complete => {
                    let complete = message.parse()?;
                    let _ = control.send_message(&Message::empty(Kind::Bye));
                    control.end();
                    self.finish(Ok(complete));
                    return Ok(());
                }
                Kind::Cancel => {
                    let words: Cancelled = message.parse()?;
                    let _ = control.send_message(&Message::empty(Kind::Bye));
                    self.finish(Err(WireError::CancelledThere(words.reason)));
                    return Ok(());
                }
                Kind::Fail => {
                    let Refusal { code, message } = message.parse()?;
                    let _ = control.send_message(&Message::empty(Kind::Bye));
                    self.finish(Err(WireError::Failed { code, message }));
                    return Ok(());
                }
                _ => return Err(message.unexpected()),
            }
        }
    }

    fn send_again(&self, again: &Again, recode: Recode<'_, 'f>) -> Result<(), WireError> {
        let count = {
            let mut count = lock(&self.again);
            *count += 1;
            *count
        };
        log::warn!("frame {} is sent again: {}", again.sequence, again.reason);
        if count == DISTRUST {
            log::warn!("a reference has changed, it seems: going on without references");
            self.link.without_references();
        }
        let Some(frame) = self.outbox.frame(again.sequence) else {
            let why = format!("it asks again for frame {}, which is not on its way", again.sequence);
            return Err(WireError::Protocol(why));
        };
        if frame.kind() != FrameType::Block {
            self.outbox.repeat(again.sequence, again.attempt);
            return Ok(());
        }
        match on_its_own(|| recode(&frame)) {
            Ok(frame) => self.outbox.replace(frame, again.attempt),
            Err(error) => self.fail(Code::Internal, &error.to_string()),
        }
        Ok(())
    }

    /// One data connection: sends segments, and connects anew when it breaks. Its socket is among `sockets`, for whoever stops it.
    fn send(&self, index: u32, stop: &AtomicBool, sockets: &Mutex<HashMap<u32, TcpStream>>) {
        let stopped = || stop.load(Ordering::Relaxed) || self.is_over();
        let mut backoff = BACKOFF[0];
        while !stopped() {
            let connected = |socket: &TcpStream| {
                if let Ok(handle) = socket.try_clone() {
                    lock(sockets).insert(index, handle);
                }
                if stopped() {
                    let _ = socket.shutdown(Shutdown::Both);
                }
            };
            match self.dial_data(index, &connected) {
                Ok(channel) => {
                    let mut any = false;
                    while let Some(ticket) = self.outbox.take(index, &stopped) {
                        let sent = channel.send_segment(&ticket.head, &ticket.parts());
                        if let Err(error) = sent {
                            if !stopped() {
                                log::info!("data connection {index}: {error}");
                            }
                            break;
                        }
                        any = true;
                    }
                    // What was written may never have arrived.
                    self.outbox.lost(index);
                    if any {
                        backoff = BACKOFF[0];
                    }
                }
                Err(error) if !stopped() => log::info!("data connection {index}: {error}"),
                Err(_) => return,
            }
            lock(sockets).remove(&index);
            let until = Instant::now() + backoff;
            while Instant::now() < until && !stopped() {
                thread::sleep(TICK.min(backoff));
            }
            backoff = (backoff * 2).min(BACKOFF[1]);
        }
    }

    fn dial_data(&self, index: u32, connected: &dyn Fn(&TcpStream)) -> Result<Channel, WireError> {
        let channel = dial_watched(&self.target, connected)?;
        let hello = Hello::Data { session: self.proposal.session.clone(), index };
        channel.send_message(&Message::json(Kind::Hello, &hello))?;
        welcome(&channel, self.target.limit)?;
        Ok(channel)
    }

    /// Connects the control connection again, within the limit.
    fn reconnect(&self, why: WireError) -> Result<Channel, WireError> {
        let until = Instant::now() + self.limits.retry;
        let mut backoff = BACKOFF[0];
        let mut last = why;
        loop {
            if self.cancel.is_cancelled() || self.is_over() {
                return Err(WireError::Cancelled);
            }
            if Instant::now() >= until {
                return Err(last);
            }
            match dial_session(&self.target, &self.proposal) {
                Ok((channel, welcome, _)) => {
                    let resume = welcome.resume.unwrap_or_default();
                    self.outbox.resume(resume.next, &resume.complete);
                    return Ok(channel);
                }
                Err(error) if error.is_broken_link() => last = error,
                Err(error) => return Err(error),
            }
            let next = (Instant::now() + backoff).min(until);
            while Instant::now() < next && !self.cancel.is_cancelled() && !self.is_over() {
                thread::sleep(TICK.min(next.saturating_duration_since(Instant::now())));
            }
            backoff = (backoff * 2).min(BACKOFF[1]);
        }
    }
}
