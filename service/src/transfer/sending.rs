//! What sending an image and sending a running guest have in common.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mig_engine::gpu::Beside;
use mig_engine::live::Have;
use mig_engine::{
    Cancel, Effort, KernelCache, Level, PAGE_SIZE, Reference, ScanWorker, Technique, Techniques, VERSION,
};

use crate::controller::Controller;
use crate::events::{Event, OnEvent, ProgressEvent, Tally};
use crate::session::{Limits, Link, Sender, Watch, dial_session, lock};
use crate::wire::hello::{Again, Content, Machine, Offered, Proposal, agent, new_session};
use crate::wire::{Channel, Code, Target, WireError};

/// How often a pause looks whether it is cut short.
const LOOK: Duration = Duration::from_millis(100);
/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(200);

/// What `--effort` can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EffortChoice {
    /// As the link asks for.
    Auto,
    /// One for all.
    Fixed(Effort),
}

impl EffortChoice {
    /// The name that [`FromStr`](std::str::FromStr) takes.
    pub fn name(self) -> &'static str {
        match self {
            EffortChoice::Auto => "auto",
            EffortChoice::Fixed(effort) => effort.name(),
        }
    }
}

impl std::str::FromStr for EffortChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(EffortChoice::Auto),
            name => name
                .parse()
                .map(EffortChoice::Fixed)
                .map_err(|error: mig_engine::UnknownEffort| format!("{error}, or auto")),
        }
    }
}

/// How to send.
#[derive(Debug)]
pub struct Sending<'a> {
    /// Where to.
    pub target: Target,
    /// The VM's name.
    pub vm: String,
    /// How much work to spend.
    pub effort: EffortChoice,
    /// Threads that code.
    pub threads: usize,
    /// What the session may use.
    pub limits: Limits,
    /// Where kernel images are kept that were made from disks.
    pub kernels: Option<KernelCache>,
    /// Who scans pages.
    pub worker: &'a dyn ScanWorker,
    /// Who scans besides.
    pub beside: &'a Beside,
    /// The SIMD level of everything else.
    pub level: Level,
    /// Stops it.
    pub cancel: Cancel,
    /// What to do while the destination is busy, other than give up.
    pub busy: Option<WhileBusy<'a>>,
}

/// Waits for a while when a destination is busy, for the reason that it is called with; false: gives up.
#[derive(Clone, Copy)]
pub struct WhileBusy<'a>(pub &'a (dyn Fn(&str) -> bool + Sync));

/// Does nothing for a while; false if that was cut short because of `cancel`.
pub fn pause(limit: Duration, cancel: &Cancel) -> bool {
    let until = Instant::now() + limit;
    while Instant::now() < until && !cancel.is_cancelled() {
        thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
    }
    !cancel.is_cancelled()
}

impl std::fmt::Debug for WhileBusy<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WhileBusy")
    }
}

/// A session that was opened.
pub(super) struct Session<'f> {
    pub(super) sender: Sender<'f>,
    pub(super) control: Channel,
    pub(super) have: Option<Have>,
    pub(super) block_pages: u64,
    /// The highest effort that blocks can have.
    pub(super) top: Effort,
    /// What makes blocks smaller, and the receiver knows.
    pub(super) techniques: Techniques,
    /// Whether the guest may be read on the way, and its kernel announced then.
    pub(super) late_guest: bool,
}

/// What is to be sent, as the handshake says it.
pub(super) struct What {
    pub(super) kind: Content,
    pub(super) pages: u64,
    pub(super) bytes: u64,
}

impl Sending<'_> {
    /// Opens a session; gives the references that both ends have, and the others.
    pub(super) fn open<'f>(
        &self,
        what: &What,
        references: Vec<Reference>,
        on: OnEvent<'_>,
    ) -> Result<(Session<'f>, Vec<Reference>, Vec<Reference>), WireError> {
        let efforts: Vec<Effort> = match self.effort {
            EffortChoice::Auto => Effort::AVAILABLE.to_vec(),
            EffortChoice::Fixed(effort) => vec![effort],
        };
        let proposal = self.proposal(what, &efforts, &references)?;
        let (control, welcome, have) = loop {
            match dial_session(&self.target, &proposal) {
                Err(WireError::Refused { code: Code::Busy, message })
                    if self.busy.is_some_and(|WhileBusy(again)| again(&message)) => {}
                dialled => break dialled?,
            }
        };
        let known = |effort: &Effort| welcome.efforts.iter().any(|name| name == effort.name());
        let efforts: Vec<Effort> = efforts.into_iter().filter(known).collect();
        let top = efforts.last().copied().unwrap_or(Effort::Store);
        let (here, in_flight) = (Machine::here(), self.threads + 1);
        let late_guest = welcome.late_reference;
        let controller = match self.effort {
            EffortChoice::Fixed(effort) => Controller::fixed(effort, in_flight),
            EffortChoice::Auto => {
                let cores = [self.threads as u32, welcome.host.cores.max(1)];
                let controller = Controller::new(&efforts, cores, here.is_same(&welcome.host), in_flight);
                match what.kind {
                    Content::Image => controller.of_image(what.pages, late_guest),
                    // QEMU brings its guest's pages when it likes.
                    Content::Qemu | Content::Live => controller,
                }
            }
        };
        let (mut agreed, mut others) = (Vec::new(), Vec::new());
        for (place, reference) in references.into_iter().enumerate() {
            let both = welcome.references.get(place).copied().unwrap_or(false);
            if both { agreed.push(reference) } else { others.push(reference) }
        }
        let names = |list: &[Reference]| list.iter().map(|reference| reference.need().name.clone()).collect();
        on(&Event::Connected {
            peer: format!("{} ({}, {})", control.peer().name, control.peer().address, welcome.agent),
            references: names(&agreed),
            unused: names(&others),
            efforts: efforts.iter().map(|effort| effort.name().to_owned()).collect(),
        });
        let link = Link::new(controller, here.cores, welcome.host.cores);
        let target = self.target.clone();
        let sender = Sender::new(target, proposal, &welcome, link, self.limits, self.cancel.clone());
        let block_pages = welcome.block_pages;
        let techniques = match welcome.moved_words {
            true => Techniques::ALL,
            false => Techniques::ALL.without(Technique::Relocated),
        };
        Ok((Session { sender, control, have, block_pages, top, techniques, late_guest }, agreed, others))
    }

    fn proposal(
        &self,
        what: &What,
        efforts: &[Effort],
        references: &[Reference],
    ) -> Result<Proposal, WireError> {
        Ok(Proposal {
            session: new_session()?,
            resume: false,
            vm: self.vm.clone(),
            kind: what.kind,
            format: vec![VERSION],
            page_size: PAGE_SIZE as u64,
            pages: what.pages,
            bytes: what.bytes,
            efforts: efforts.iter().map(|effort| effort.name().to_owned()).collect(),
            references: references.iter().map(|reference| Offered::new(reference.need())).collect(),
            host: Machine::here(),
            agent: agent(),
        })
    }
}

/// Passes what happens in a session on as events.
pub(super) struct Watcher<'e> {
    pub(super) on: OnEvent<'e>,
    pub(super) returned: &'e (dyn Fn(&[u8]) + Sync),
}

impl Watch for Watcher<'_> {
    fn broken(&self, error: &WireError) {
        (self.on)(&Event::Broken { message: error.to_string() });
    }

    fn resumed(&self) {
        (self.on)(&Event::Resumed);
    }

    fn again(&self, again: &Again) {
        (self.on)(&Event::Again { sequence: again.sequence, reason: again.reason.clone() });
    }

    fn returned(&self, bytes: &[u8]) {
        (self.returned)(bytes);
    }
}

/// Which pages are in which frames, so that acknowledged frames can be counted in pages.
#[derive(Debug, Default)]
pub(super) struct Account {
    tally: Mutex<Tally>,
    /// Sequence and pages that they bring, of frames that are not acknowledged.
    frames: Mutex<std::collections::VecDeque<(u64, u64)>>,
    verified: std::sync::atomic::AtomicU64,
}

impl Account {
    pub(super) fn add(&self, frame: &mig_engine::live::OutFrame<'_>) {
        lock(&self.tally).add(frame);
        lock(&self.frames).push_back((frame.sequence(), frame.delivers()));
    }

    pub(super) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// Pages in frames below this one.
    fn verified(&self, next: u64) -> u64 {
        let mut frames = lock(&self.frames);
        while let Some(&(sequence, pages)) = frames.front()
            && sequence < next
        {
            frames.pop_front();
            self.verified.fetch_add(pages, Ordering::Relaxed);
        }
        self.verified.load(Ordering::Relaxed)
    }
}

/// Tells progress until `over`; whoever says that wakes the thread.
pub(super) fn tell_progress(
    sender: &Sender<'_>,
    account: &Account,
    total_pages: u64,
    start: Instant,
    on: OnEvent<'_>,
    over: &AtomicBool,
) {
    let mut last = (Instant::now(), 0);
    let mut rate = 0.0;
    let mut next = Instant::now() + PROGRESS;
    while !over.load(Ordering::Relaxed) {
        let left = next.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            thread::park_timeout(left);
            continue;
        }
        next = Instant::now() + PROGRESS;
        let sent = sender.outbox().sent();
        let passed = last.0.elapsed().as_secs_f64().max(1e-6);
        rate = rate * 0.6 + (sent.bytes - last.1) as f64 / passed * 0.4;
        last = (Instant::now(), sent.bytes);
        let (pages, seconds) = (account.verified(sent.next), start.elapsed().as_secs_f64());
        let progress = ProgressEvent {
            pages,
            total_pages,
            wire_bytes: sent.bytes,
            rate,
            effort: sender.link().view().plan.to_string(),
            seconds,
            seconds_left: None,
        };
        on(&Event::Progress(progress.estimated()));
    }
}
