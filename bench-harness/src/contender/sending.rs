//! What `mig send` does, without a destination: the session of a migration, with its encoder, its controller and its outbox, over a link.
//!
//! What a receiver's meter would say of the link, the link says itself; a receiver's processors are never what holds it up.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use mig_engine::live::{Choice, OutFrame};
use mig_engine::{Cancel, Effort, EncodeError, Settled, default_threads};
use mig_service::controller::{Controller, Observed};
use mig_service::load::Load;
use mig_service::session::Outbox;

use super::Subject;
use super::session::{Read, Session};
use crate::link::Link;
use crate::references::References;

/// How often the controller is told what the link did, in seconds: as long as nothing is known of the link, and then.
const INTERVALS: [f64; 2] = [0.01, 0.1];
/// Fewer bytes than these on their way, and the link may have run dry.
const DRY: u64 = 48 << 10;
/// Bytes of frames that a receiver holds.
const WINDOW: u64 = 64 << 20;

/// See the top of the file.
#[derive(Debug)]
pub(super) struct Sending {
    session: Session,
    efforts: Vec<Effort>,
}

impl Sending {
    /// Opens what it sends with; none of this is timed. Of several efforts, each block has the one that the link asks for.
    ///
    /// # Errors
    ///
    /// References can't be opened.
    pub(super) fn new(
        subject: &Subject,
        efforts: &[Effort],
        references: &References,
        cancel: &Cancel,
    ) -> Result<Self> {
        Ok(Sending { session: Session::new(subject, references, cancel)?, efforts: efforts.to_vec() })
    }

    /// Whether there are references.
    pub(super) fn has_references(&self) -> bool {
        self.session.has_references()
    }

    /// The session, for undoing what it left.
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// One session over a link, into `keep` as well if there is one.
    ///
    /// # Errors
    ///
    /// What keeps the image from being coded, or the link from taking it.
    pub(super) fn send(&self, subject: &Subject, link: &Link, keep: Option<&File>) -> Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(subject.threads).build()?;
        let image = subject.for_run()?;
        let image = image.image();
        let top = self.efforts.last().copied().unwrap_or(Effort::Store);
        let read = match self.efforts[..] {
            [Effort::Store] => Read::Never,
            [_] => Read::First,
            _ => Read::Later,
        };
        pool.install(|| {
            self.session.run(subject, image, top, read, |encoder| {
                let driver = Driver::new(&self.efforts, subject.threads, image.page_count(), link);
                let outbox = Outbox::new(WINDOW);
                let frames = AtomicU64::new(u64::MAX);
                thread::scope(|scope| {
                    let carried = scope.spawn(|| carry(&outbox, link, keep, &frames));
                    let mut count = 0;
                    let mut sink = |frame| {
                        driver.coded(&frame);
                        count += 1;
                        outbox.push(frame).map_err(|_| EncodeError::Cancelled)
                    };
                    let coded = sink(encoder.header())
                        .and_then(|()| encoder.image(image, None, &|| driver.choose(&outbox), &mut sink))
                        .and_then(|()| sink(encoder.end()));
                    frames.store(count, Ordering::Relaxed);
                    outbox.wake();
                    let carried = carried.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                    // Why the link took no more says more than that the encoder was stopped.
                    carried?;
                    coded?;
                    Ok(link.drain()?)
                })
            })
        })
    }
}

/// A connection: takes segments and writes them, until it has written so many frames.
fn carry(outbox: &Outbox<'_>, link: &Link, mut keep: Option<&File>, frames: &AtomicU64) -> io::Result<()> {
    let mut out: &Link = link;
    let written = Cell::new(0);
    let ended = || written.get() >= frames.load(Ordering::Relaxed);
    let mut write = || {
        while let Some(ticket) = outbox.take(0, &ended) {
            for part in ticket.parts() {
                if let Some(file) = &mut keep {
                    file.write_all(part)?;
                }
                out.write_all(part)?;
            }
            let head = &ticket.head;
            if u64::from(head.offset) + head.len() as u64 == u64::from(head.frame_len) {
                written.set(head.sequence + 1);
                outbox.acknowledge(head.sequence + 1);
            }
        }
        Ok(())
    };
    let outcome = write();
    outbox.close();
    outcome
}

/// Tells the controller what happens.
struct Driver<'l> {
    link: &'l Link,
    threads: f64,
    cores: f64,
    state: Mutex<State>,
}

struct State {
    controller: Controller,
    since: Instant,
    load: Load,
    /// Bytes that had arrived when the interval began.
    delivered: u64,
    least_waiting: u64,
}

impl State {
    fn start_interval(&mut self, delivered: u64) {
        (self.since, self.load, self.delivered) = (Instant::now(), Load::now(), delivered);
        self.least_waiting = u64::MAX;
    }
}

impl<'l> Driver<'l> {
    fn new(efforts: &[Effort], threads: usize, pages: u64, link: &'l Link) -> Self {
        let (cores, in_flight) = (threads as u32, threads + 1);
        let controller = match *efforts {
            [effort] => Controller::fixed(effort, in_flight),
            _ => Controller::new(efforts, [cores, cores], false, in_flight).of_image(pages),
        };
        let state = State {
            controller,
            since: Instant::now(),
            load: Load::now(),
            delivered: 0,
            least_waiting: u64::MAX,
        };
        let (threads, machine) = (threads as f64, default_threads() as f64);
        Driver { link, threads, cores: machine, state: Mutex::new(state) }
    }

    fn coded(&self, frame: &OutFrame<'_>) {
        let Some(stats) = frame.stats() else { return };
        let residual = stats.pages[Settled::Residual.kind()];
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.controller.block(frame.effort(), frame.delivers(), residual, frame.len());
    }

    fn choose(&self, outbox: &Outbox<'_>) -> Choice {
        let (on_link, written) = (self.link.waiting(), self.link.written());
        let waiting = on_link + outbox.sent().queued;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let delivered = written.saturating_sub(on_link);
        // What a link carries is measured from when something waits for it, and as long as that is so.
        let turned = state.least_waiting != u64::MAX && (waiting > DRY) != (state.least_waiting > DRY);
        if turned && state.controller.rate().is_none() {
            state.start_interval(delivered);
        }
        state.least_waiting = state.least_waiting.min(waiting);
        let seconds = state.since.elapsed().as_secs_f64();
        if seconds > INTERVALS[usize::from(state.controller.rate().is_some())] {
            let load = Load::now();
            let micros = |now: u64, then: u64| now.saturating_sub(then) as f64 / 1e6;
            let used = micros(load.used, state.load.used);
            // Of the machine that nobody used, and of our own threads: whichever is less.
            let idle = (micros(load.idle, state.load.idle) / (self.cores * seconds))
                .min(1.0 - used / (self.threads * seconds));
            state.controller.observe(&Observed {
                seconds,
                delivered: delivered.saturating_sub(state.delivered),
                backlogged: state.least_waiting > DRY,
                used: [used, 0.0],
                idle: [Some(idle.clamp(0.0, 1.0)), None],
            });
            outbox.set_backlog(state.controller.backlog());
            state.start_interval(delivered);
        }
        state.controller.choose(waiting)
    }
}
