//! What `mig send` does, without a destination: the session of a migration, with its encoder, its outbox and its view of the link.
//!
//! What a receiver's meter would say of the link, the link says itself; a receiver's processors are never what holds it up.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use mig_engine::{Cancel, Effort, EncodeError, default_threads};
use mig_service::controller::Controller;
use mig_service::session::{self, Outbox};
use mig_service::wire::Meter;

use super::Subject;
use super::session::{Read, Session};
use crate::link::Link;
use crate::references::References;

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
                let (cores, machine) = (subject.threads as u32, default_threads() as u32);
                let controller = match self.efforts[..] {
                    [effort] => Controller::fixed(effort, subject.threads + 1),
                    _ => Controller::new(&self.efforts, [cores, cores], false, subject.threads + 1)
                        .of_image(image.page_count(), read == Read::Later),
                };
                let view = session::Link::new(controller, machine, machine);
                let outbox = Outbox::new(WINDOW);
                let choose = |next| view.choose(next, &outbox);
                let (frames, on_their_way) = (AtomicU64::new(u64::MAX), OnTheirWay::default());
                thread::scope(|scope| {
                    let carried = scope.spawn(|| carry(&outbox, link, keep, &frames, &on_their_way));
                    let (over, ended) = mpsc::channel::<()>();
                    let (view, outbox, on_their_way) = (&view, &outbox, &on_their_way);
                    scope.spawn(move || tell(view, link, outbox, on_their_way, &ended));
                    let mut count = 0;
                    let mut sink = |frame| {
                        view.coded(&frame);
                        count += 1;
                        outbox.push(frame).map_err(|_| EncodeError::Cancelled)
                    };
                    let coded = sink(encoder.header())
                        .and_then(|()| encoder.image(image, None, &choose, &mut sink))
                        .and_then(|()| sink(encoder.end()));
                    frames.store(count, Ordering::Relaxed);
                    outbox.wake();
                    let carried = carried.join();
                    drop(over);
                    let carried = carried.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                    // Why the link took no more says more than that the encoder was stopped.
                    carried?;
                    coded?;
                    Ok(link.drain()?)
                })
            })
        })
    }
}

/// Of frames that were written: what had been written then, and the number of the next one.
type OnTheirWay = Mutex<VecDeque<(u64, u64)>>;

/// Says what a receiver would say of the link, as often, until it is over.
fn tell(
    view: &session::Link,
    link: &Link,
    outbox: &Outbox<'_>,
    on_their_way: &OnTheirWay,
    over: &Receiver<()>,
) {
    let begun = Instant::now();
    loop {
        // In this order: what is written in between has not arrived.
        let written = link.written();
        let received = written.saturating_sub(link.waiting());
        let mut arrived = None;
        let mut frames = on_their_way.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((_, next)) = frames.pop_front_if(|(end, _)| *end <= received) {
            arrived = Some(next);
        }
        drop(frames);
        if let Some(next) = arrived {
            outbox.acknowledge(next);
        }
        let time = begun.elapsed().as_micros() as u64 + 1;
        view.meter(Meter { received, time, ..Meter::default() }, outbox);
        if over.recv_timeout(session::meter_interval(begun.elapsed())) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// A connection: takes segments and writes them, until it has written so many frames.
fn carry(
    outbox: &Outbox<'_>,
    link: &Link,
    mut keep: Option<&File>,
    frames: &AtomicU64,
    on_their_way: &OnTheirWay,
) -> io::Result<()> {
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
                let mut frames = on_their_way.lock().unwrap_or_else(PoisonError::into_inner);
                frames.push_back((link.written(), head.sequence + 1));
            }
        }
        Ok(())
    };
    let outcome = write();
    outbox.close();
    outcome
}
