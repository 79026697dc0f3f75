//! `mig send --effort auto`: the session that a migration consists of, its efforts chosen block by block as the link asks for.
//!
//! The same encoder and the same controller as in `mig send`, in this process. What a receiver's meter would say of the link, the link
//! says itself; a receiver's processors are never what holds it up.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use mig_engine::live::{Choice, OutFrame};
use mig_engine::{Cancel, Effort, Settled, default_threads};
use mig_service::controller::{Controller, Observed};
use mig_service::load::Load;

use super::session::Session;
use super::sink::compare_files;
use super::{Contender, Key, Subject, Verified};
use crate::exit::Problem;
use crate::link::{Link, Rate};
use crate::measure::{Cost, timed};
use crate::references::References;

/// How often the controller is told what the link did, in seconds.
const INTERVAL: f64 = 0.1;
/// Fewer bytes than these on their way, and the link may have run dry.
const DRY: u64 = 48 << 10;

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct Auto(Session);

impl Auto {
    /// Opens what it sends with; none of this is timed.
    ///
    /// # Errors
    ///
    /// References can't be opened.
    pub(crate) fn new(subject: &Subject, references: &References, cancel: &Cancel) -> Result<Self> {
        Session::new(subject, references, cancel).map(Auto)
    }

    /// One session over a link, into `keep` as well if there is one.
    fn session(&self, subject: &Subject, link: &Link, mut keep: Option<&File>) -> Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(subject.threads).build()?;
        let top = Effort::AVAILABLE[Effort::AVAILABLE.len() - 1];
        pool.install(|| {
            let image = subject.for_run()?;
            let image = image.image();
            self.0.run(subject, image, top, |encoder| {
                let driver = Driver::new(subject.threads, link);
                let mut out: &Link = link;
                let mut sink = |frame: OutFrame<'_>| {
                    driver.coded(&frame);
                    let written = frame.parts().try_for_each(|part| {
                        if let Some(file) = &mut keep {
                            file.write_all(part)?;
                        }
                        out.write_all(part)
                    });
                    written.map_err(mig_engine::EncodeError::Write)
                };
                sink(encoder.header())?;
                encoder.image(image, None, &|| driver.choose(), &mut sink)?;
                sink(encoder.end())?;
                Ok(link.drain()?)
            })
        })
    }
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

impl<'l> Driver<'l> {
    fn new(threads: usize, link: &'l Link) -> Self {
        let cores = threads as u32;
        let state = State {
            controller: Controller::new(&Effort::AVAILABLE, [cores, cores], false, threads + 1),
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

    fn choose(&self) -> Choice {
        let (waiting, written) = (self.link.waiting(), self.link.written());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        state.least_waiting = state.least_waiting.min(waiting);
        let (seconds, delivered) = (state.since.elapsed().as_secs_f64(), written.saturating_sub(waiting));
        if seconds > INTERVAL {
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
            (state.since, state.load, state.delivered) = (Instant::now(), load, delivered);
            state.least_waiting = u64::MAX;
        }
        state.controller.choose(waiting)
    }
}

impl Contender for Auto {
    fn key(&self) -> Key {
        Key::Auto { references: self.0.has_references() }
    }

    fn about(&self) -> String {
        "the session of mig send, efforts chosen as the link asks for; references opened and indexed beforehand".into()
    }

    /// Over a link of 1 Gbit/s, so that it has something to choose; the bytes depend on that and on the machine.
    fn verify(&mut self, subject: &Subject) -> Result<Verified> {
        let who = self.key().to_string();
        let file = subject.scratch_file()?;
        let link = Link::new("1 Gbit".parse::<Rate>().map_err(anyhow::Error::msg)?);
        let ((), cost) = timed(|| self.session(subject, &link, Some(&file)))?;
        file.sync_all()?;
        let (applied, rebuilt) = self.0.undo(subject, &file)?;
        if applied.pages != subject.image().page_count() {
            let what = format!("{} of {} pages arrived", applied.pages, subject.image().page_count());
            return Err(Problem::Wrong { who, what }.into());
        }
        compare_files(&who, rebuilt, subject.image())?;
        Ok(Verified { bytes: link.written(), cost })
    }

    /// As over a link that is never the limit.
    fn pack(&mut self, subject: &Subject) -> Result<Cost> {
        let link = Link::new("1000 Gbit".parse::<Rate>().map_err(anyhow::Error::msg)?);
        let ((), cost) = timed(|| self.session(subject, &link, None))?;
        Ok(cost)
    }

    fn send(&mut self, subject: &Subject, link: &Link) -> Result<Option<Cost>> {
        let ((), cost) = timed(|| self.session(subject, link, None))?;
        Ok(Some(cost))
    }
}
