//! The sender's view of its link: what the meter says, turned into what the controller wants to know.

use std::sync::Mutex;
use std::time::Instant;

use mig_engine::live::{Choice, Next, OutFrame};
use mig_engine::{Effort, Settled};

use super::lock;
use super::outbox::{Outbox, Sent};
use crate::controller::{Controller, Observed, Plan, Waiting};
use crate::load::Load;
use crate::wire::Meter;

/// Fewer bytes than these delivered in an interval, and it goes on for a while.
const FEW: u64 = 48 << 10;
/// Seconds for which a link that has work is busy: until the next pages are coded, if those are coded at once.
const WHILE: f64 = 0.15;

/// What the link does, and the controller that follows it.
#[derive(Debug)]
pub struct Link {
    state: Mutex<State>,
    receiver_cores: f64,
    sender_cores: f64,
}

#[derive(Debug)]
struct State {
    controller: Controller,
    /// At the start of the present interval.
    meter: Meter,
    load: Load,
    since: Instant,
    /// The latest.
    latest: Meter,
    waiting: Waiting,
    /// Fewest bytes that waited here in the present interval.
    least_queued: u64,
}

/// For reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkView {
    /// Bytes a second, once known.
    pub rate: Option<f64>,
    /// Efforts in use.
    pub plan: Plan,
    /// What the receiver said last.
    pub meter: Meter,
}

impl Link {
    /// A link of which nothing is known yet, between hosts with so many processors.
    pub fn new(controller: Controller, sender_cores: u32, receiver_cores: u32) -> Self {
        let state = State {
            controller,
            meter: Meter::default(),
            load: Load::now(),
            since: Instant::now(),
            latest: Meter::default(),
            waiting: Waiting::default(),
            least_queued: u64::MAX,
        };
        let [sender_cores, receiver_cores] =
            [sender_cores, receiver_cores].map(|cores| f64::from(cores.max(1)));
        Link { state: Mutex::new(state), receiver_cores, sender_cores }
    }

    /// Bytes that are not with the receiver yet.
    fn waiting(state: &State, sent: &Sent) -> u64 {
        // What was lost with a connection never arrives, and is sent again.
        (sent.bytes + sent.queued).saturating_sub(state.latest.received).min(sent.held)
    }

    /// Takes note of what the receiver says; now and then makes a new plan.
    pub fn meter(&self, meter: Meter, outbox: &Outbox<'_>) {
        let sent = outbox.sent();
        let mut state = lock(&self.state);
        state.latest = meter;
        let waiting = Self::waiting(&state, &sent);
        state.waits(waiting, sent.queued);
        let first = state.meter == Meter::default();
        let passed = meter.time.saturating_sub(state.meter.time);
        // A receiver that was started anew counts from zero.
        if first || meter.time < state.meter.time || meter.received < state.meter.received {
            state.start_interval(meter);
            return;
        }
        let delivered = meter.received - state.meter.received;
        // Of the receiver's clock.
        let interval = (state.controller.interval() * 1e6) as u64;
        if passed < interval || delivered < FEW && passed < 5 * interval {
            return;
        }
        let seconds = passed as f64 / 1e6;
        let load = Load::now();
        let here = state.since.elapsed().as_secs_f64().max(1e-6);
        let micros = |now: u64, then: u64| now.saturating_sub(then) as f64 / 1e6;
        let idle = |now: u64, then: u64, cores: f64, seconds: f64| {
            (now > 0).then(|| (micros(now, then) / (cores * seconds)).clamp(0.0, 1.0))
        };
        let seen = Observed {
            seconds,
            delivered,
            backlogged: state.waiting.throughout(),
            queued: state.least_queued > 0,
            used: [micros(load.used, state.load.used), micros(meter.cpu, state.meter.cpu)],
            idle: [
                idle(load.idle, state.load.idle, self.sender_cores, here),
                idle(meter.idle, state.meter.idle, self.receiver_cores, seconds),
            ],
        };
        state.controller.observe(&seen);
        log::trace!("{seen:?}: rate {:?}, {:?}", state.controller.rate(), state.controller.plan());
        state.start_interval(meter);
        outbox.set_backlog(state.controller.backlog());
        outbox.set_takes(state.controller.rate().map_or(0.0, |rate| sent.held as f64 / rate));
    }

    /// Takes note of a frame that was coded.
    pub fn coded(&self, frame: &OutFrame<'_>) {
        let Some(stats) = frame.stats() else { return };
        let residual = stats.pages[Settled::Residual.kind()];
        // Pages that come later are counted when they come.
        let delivers = frame.delivers();
        let controller = &mut lock(&self.state).controller;
        if frame.is_kept() {
            controller.kept(delivers);
        } else {
            controller.block(frame.effort(), delivers, residual, frame.len());
        }
    }

    /// How the next block is to be made.
    pub fn choose(&self, next: Next, outbox: &Outbox<'_>) -> Choice {
        let sent = outbox.sent();
        let mut state = lock(&self.state);
        let waiting = Self::waiting(&state, &sent);
        state.waits(waiting, sent.queued);
        state.controller.choose(next, waiting)
    }

    /// Whether pages can be taken in while others wait for the link.
    pub fn gathers(&self, gathers: bool, outbox: &Outbox<'_>) {
        let mut state = lock(&self.state);
        state.controller.gathers(gathers);
        outbox.set_backlog(state.controller.backlog());
    }

    /// Whether what is not with the receiver yet keeps the link busy for a while.
    pub fn has_work(&self, outbox: &Outbox<'_>) -> bool {
        let state = lock(&self.state);
        let waiting = Self::waiting(&state, &outbox.sent());
        state.controller.rate().is_some_and(|rate| waiting as f64 >= rate * WHILE)
    }

    /// References are not to be used any more.
    pub fn without_references(&self) {
        lock(&self.state).controller.without_references();
    }

    /// For reports.
    pub fn view(&self) -> LinkView {
        let state = lock(&self.state);
        LinkView { rate: state.controller.rate(), plan: state.controller.plan(), meter: state.latest }
    }
}

impl State {
    /// Takes note of the bytes that are not with the receiver, and of those of them that are still here.
    fn waits(&mut self, bytes: u64, queued: u64) {
        if self.waiting.turns(bytes) && self.controller.rate().is_none() {
            self.start_interval(self.latest);
        }
        self.waiting.note(bytes);
        self.least_queued = self.least_queued.min(queued);
    }

    fn start_interval(&mut self, meter: Meter) {
        self.meter = meter;
        self.load = Load::now();
        self.since = Instant::now();
        self.waiting.start();
        self.least_queued = u64::MAX;
    }
}

/// The efforts of a plan in a few letters: `fast`, `store/fast`.
impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Plan { low, high } = self;
        let name = Effort::name;
        if low == high { f.write_str(name(*low)) } else { write!(f, "{}/{}", name(*low), name(*high)) }
    }
}
