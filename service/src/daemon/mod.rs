//! The daemon: what `migd` keeps while migrations come and go.
//!
//! Threads and blocking sockets as everywhere else; only the control API and the metrics, which are HTTP, are served by an
//! async runtime. [`Daemon`] holds the parts, [`Running`] is one at work:
//!
//! - [`Config`] is its file, [`Store`] what it keeps on disk, [`Vms`] what it knows of VMs and who may send which;
//! - [`Migrations`] is the list of all that goes on and went on, [`Slots`] how many at once;
//! - `incoming` decides about what other hosts send, `outgoing` does what the API asks for;
//! - [`api`] and [`client`] are the two ends of the control socket, [`metrics`] and [`logs`] are for operators.

pub mod api;
mod args;
pub mod client;
mod config;
mod incoming;
pub mod logs;
pub mod metrics;
mod migrations;
mod outgoing;
mod slots;
mod store;
mod vms;

pub use args::Args;
pub use config::{Config, Vm};
pub use incoming::Gate;
pub use migrations::{Direction, Entry, Migration, Migrations, Reason, State};
pub use outgoing::Start;
pub use slots::{Place, Slot, Slots};
pub use store::{Kept, Kind, Store};
pub use vms::{Destination, Vms};

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mig_engine::Cancel;

use crate::events::{Event, ProgressEvent};
use crate::references::{self, named};
use crate::session::{Outcome, Sessions, lock};
use crate::transfer::pause;
use crate::wire::hello::Refusal;
use crate::wire::{Code, Listener, Listening, Security};
use metrics::Metrics;

/// How often the progress of what comes in is looked at.
const PROGRESS: Duration = Duration::from_millis(250);
/// How long migrations that were stopped may take to let go of their files.
const LET_GO: Duration = Duration::from_secs(10);
/// A disk that was written to within this time is not indexed ahead: the index would not fit for long.
const SETTLED: Duration = Duration::from_secs(600);

/// What all parts of a daemon share.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    security: Security,
    store: Store,
    vms: Vms,
    migrations: Migrations,
    slots: Arc<Slots>,
    metrics: Arc<Metrics>,
    draining: AtomicBool,
}

/// A daemon at work.
#[derive(Debug)]
pub struct Running {
    daemon: Arc<Daemon>,
    sessions: Arc<Sessions<Gate>>,
    listening: Mutex<Listening>,
    address: SocketAddr,
    since: Instant,
    stopped: Cancel,
}

impl Daemon {
    /// Starts to take migrations.
    ///
    /// # Errors
    ///
    /// Keys, a store or an address that can't be used; [`Problem::Usage`](crate::problem::Problem::Usage) where a GPU is required and there is none.
    pub fn start(config: Config) -> Result<Arc<Running>> {
        // Each migration opens its own; that there is one is to be known now.
        config.check_gpu()?;
        let security = config.security()?;
        let store = Store::open(&config.store.folder, config.store.limit_gib << 30)?;
        let vms = Vms::new(config.vms.clone(), &config.store.folder)?;
        let metrics = Arc::new(Metrics::default());
        let silence = config.silence();
        let listener = Listener::bind(&config.listen.address, security.clone(), silence)?;
        let daemon = Arc::new(Daemon {
            slots: Slots::new(config.limits.migrations),
            migrations: Migrations::new(metrics.clone()),
            draining: AtomicBool::new(false),
            config,
            security,
            store,
            vms,
            metrics,
        });
        let sessions = Sessions::new(Gate::new(daemon.clone()));
        let serving = sessions.clone();
        let listening = listener.start(move |accepted| serving.serve(accepted))?;
        let address = listening.address();
        let (since, stopped) = (Instant::now(), Cancel::new());
        let running =
            Arc::new(Running { daemon, sessions, listening: Mutex::new(listening), address, since, stopped });
        let watched = running.clone();
        let watcher = thread::Builder::new().name("progress".into());
        watcher.spawn(move || watched.watch()).context("cannot start a thread")?;
        if running.daemon.config.store.refresh_minutes > 0 {
            let refreshed = running.clone();
            let refresher = thread::Builder::new().name("refresh".into());
            refresher.spawn(move || refreshed.refresh()).context("cannot start a thread")?;
        }
        log::info!(address:%; "taking migrations");
        Ok(running)
    }

    /// Whether it is about to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn pool(&self) -> Result<rayon::ThreadPool> {
        let threads = self.config.limits.threads;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.with_context(|| format!("cannot start {threads} threads"))
    }
}

impl Running {
    /// Where migrations come in.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its parts share.
    pub fn daemon(&self) -> &Arc<Daemon> {
        &self.daemon
    }

    /// Passes on how far what comes in has come.
    fn watch(&self) {
        let mut last: Vec<(String, u64)> = Vec::new();
        while !self.stopped.is_cancelled() {
            thread::sleep(PROGRESS);
            let mut now = Vec::new();
            for session in self.sessions.open() {
                let id = session.proposal.session.clone();
                let Some(entry) = self.daemon.migrations.find(&id) else { continue };
                let before = last.iter().find(|(other, _)| *other == id).map_or(0, |(_, bytes)| *bytes);
                let progress = ProgressEvent::received(&session, before, PROGRESS.as_secs_f64());
                now.push((id, progress.wire_bytes));
                entry.tell(&Event::Progress(progress));
            }
            last = now;
        }
    }

    /// Keeps the indexes of the VMs' disks fresh.
    fn refresh(&self) {
        let every = Duration::from_secs(self.daemon.config.store.refresh_minutes * 60);
        loop {
            for disk in self.daemon.vms.disks() {
                if self.stopped.is_cancelled() {
                    return;
                }
                if let Err(error) = self.refresh_disk(&disk)
                    && !self.stopped.is_cancelled()
                {
                    log::warn!(disk:% = disk.display(), error:% = format!("{error:#}"); "cannot index a disk");
                }
            }
            if !pause(every, &self.stopped) {
                return;
            }
        }
    }

    fn refresh_disk(&self, disk: &std::path::Path) -> Result<()> {
        let changed = named(disk).1.metadata()?.modified()?.elapsed().unwrap_or_default();
        if changed < SETTLED {
            return Ok(());
        }
        let mut reference = references::disk(disk)?;
        // One thread: nobody waits for it.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        pool.install(|| self.daemon.store.index(disk, &mut reference, &self.stopped))
    }

    /// Takes no more migrations, lets those that run come to their end within `limit` or until `at_once`, and stops the rest:
    /// sources stay as they were, and what came in is kept for another try.
    pub fn drain(&self, limit: Duration, at_once: &AtomicBool) {
        self.daemon.draining.store(true, Ordering::Relaxed);
        for entry in self.daemon.migrations.active() {
            if entry.migration().state == State::Queued {
                entry.cancel.cancel();
            }
        }
        let active = || self.daemon.migrations.active();
        log::info!(running = active().len(), seconds = limit.as_secs(); "stopping: migrations that run may end");
        let until = Instant::now() + limit;
        while !active().is_empty() && Instant::now() < until && !at_once.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
        }
        for session in self.sessions.open() {
            let message = "the receiving daemon stops; what it has is kept";
            session.finish(Outcome::Failed(Refusal::new(Code::Draining, message)));
        }
        for entry in active() {
            if entry.migration().direction == Direction::Outgoing {
                entry.cancel.cancel();
            }
        }
        self.stopped.cancel();
        let until = Instant::now() + LET_GO;
        while !(active().is_empty() && self.sessions.open().is_empty()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        lock(&self.listening).stop();
    }
}
