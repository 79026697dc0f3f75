//! All that goes on and went on: what the API shows, and what it streams to those who watch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use mig_engine::Cancel;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use super::metrics::Metrics;
use super::store::now;
use crate::events::{Event, ProgressEvent, Summary};
use crate::failure::Failure;
use crate::session::lock;

/// Migrations that are over and still shown.
const SHOWN: usize = 256;
/// Events of one migration that are kept for those who come to watch later.
const EVENTS: usize = 512;

/// From here or to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Another host sends.
    Incoming,
    /// This one does.
    Outgoing,
}

/// How a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It waits for its turn, or for QEMU.
    Queued,
    /// It has begun.
    Running,
    /// Everything is verified and in place.
    Complete,
    /// It failed; the source is as it was.
    Failed,
    /// Somebody at this end stopped it.
    Cancelled,
}

impl State {
    /// Whether it is over.
    pub fn is_over(self) -> bool {
        !matches!(self, State::Queued | State::Running)
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// For programs.
    pub failure: Failure,
    /// For people.
    pub message: String,
}

impl Reason {
    /// Of an error.
    pub fn of(error: &anyhow::Error) -> Self {
        Reason { failure: Failure::of(error), message: format!("{error:#}") }
    }
}

/// One migration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Migration {
    /// What it is called here.
    pub id: String,
    /// From here or to here.
    pub direction: Direction,
    /// The VM.
    pub vm: String,
    /// The other host.
    pub peer: String,
    /// How it is.
    pub state: State,
    /// When it was asked for, in seconds since 1970.
    pub queued: u64,
    /// When it began, in seconds since 1970.
    pub started: Option<u64>,
    /// When it ended, in seconds since 1970.
    pub ended: Option<u64>,
    /// How far it is.
    pub progress: ProgressEvent,
    /// What it came to.
    pub summary: Option<Summary>,
    /// Why it failed.
    pub reason: Option<Reason>,
}

/// A migration in the list.
#[derive(Debug)]
pub struct Entry {
    /// Stops it.
    pub cancel: Cancel,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Inner {
    shown: Migration,
    /// Everything but progress, with numbers.
    log: VecDeque<(u64, Event)>,
    next: u64,
    progress_at: u64,
}

impl Entry {
    /// How it is now.
    pub fn migration(&self) -> Migration {
        lock(&self.inner).shown.clone()
    }

    /// It has its turn.
    pub(super) fn begin(&self) {
        let mut inner = lock(&self.inner);
        inner.shown.state = State::Running;
        inner.shown.started.get_or_insert_with(now);
        self.note(inner);
    }

    /// It waits once more.
    pub(super) fn wait(&self, reason: &str) {
        let mut inner = lock(&self.inner);
        inner.shown.state = State::Queued;
        self.log(inner, Event::Waiting { reason: reason.to_owned() });
    }

    /// Something happened.
    pub(super) fn tell(&self, event: &Event) {
        let mut inner = lock(&self.inner);
        match event {
            Event::Progress(progress) => {
                let at = inner.next + 1;
                let shown = &mut inner.shown;
                let bytes = progress.wire_bytes.saturating_sub(shown.progress.wire_bytes);
                let pages = progress.pages.saturating_sub(shown.progress.pages);
                self.metrics.moved(shown.direction, bytes, pages);
                shown.progress = progress.clone();
                inner.progress_at = at;
                self.note(inner);
            }
            event => {
                if let Event::Connected { peer, .. } = event {
                    inner.shown.peer.clone_from(peer);
                    // Also after it has waited for a busy destination.
                    inner.shown.state = State::Running;
                }
                self.log(inner, event.clone());
            }
        }
    }

    /// It is over.
    pub(super) fn end(&self, result: Result<Summary, Reason>) {
        let mut inner = lock(&self.inner);
        let shown = &mut inner.shown;
        shown.ended = Some(now());
        let event = match result {
            Ok(summary) => {
                shown.state = State::Complete;
                let bytes = summary.wire_bytes.saturating_sub(shown.progress.wire_bytes);
                let pages = summary.verified.saturating_sub(shown.progress.pages);
                self.metrics.moved(shown.direction, bytes, pages);
                shown.progress.wire_bytes = summary.wire_bytes;
                shown.progress.pages = summary.verified;
                shown.summary = Some(summary.clone());
                Event::Done(Box::new(summary))
            }
            Err(reason) => {
                let cancelled = reason.failure == Failure::Cancelled;
                shown.state = if cancelled { State::Cancelled } else { State::Failed };
                shown.reason = Some(reason.clone());
                Event::Failed { failure: reason.failure, message: reason.message }
            }
        };
        self.metrics.ended(shown);
        let Migration { id, vm, peer, direction, state, .. } = &*shown;
        let (bytes, pages) = (shown.progress.wire_bytes, shown.progress.pages);
        match &shown.reason {
            None => log::info!(id, vm, peer, direction:?, bytes, pages; "migration complete"),
            Some(reason) => {
                log::warn!(id, vm, peer, direction:?, state:?, bytes, pages; "migration ended: {}", reason.message);
            }
        }
        self.log(inner, event);
    }

    fn log(&self, mut inner: std::sync::MutexGuard<'_, Inner>, event: Event) {
        let number = inner.next + 1;
        inner.log.push_back((number, event));
        if inner.log.len() > EVENTS {
            inner.log.pop_front();
        }
        self.note(inner);
    }

    fn note(&self, mut inner: std::sync::MutexGuard<'_, Inner>) {
        inner.next += 1;
        self.changed.send_replace(inner.next);
    }

    /// What happened after `seen` (0: from the start), up to which number that is, and whether more can follow.
    pub fn since(&self, seen: u64) -> (Vec<Event>, u64, bool) {
        let inner = lock(&self.inner);
        let new = inner.log.iter().filter(|(number, _)| *number > seen);
        let mut events: Vec<(u64, Event)> = new.cloned().collect();
        if inner.progress_at > seen {
            events.push((inner.progress_at, Event::Progress(inner.shown.progress.clone())));
        }
        events.sort_by_key(|(number, _)| *number);
        let events = events.into_iter().map(|(_, event)| event).collect();
        (events, inner.next, !inner.shown.state.is_over())
    }

    /// Wakes those who watch.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// The list.
#[derive(Debug)]
pub struct Migrations {
    list: Mutex<VecDeque<Arc<Entry>>>,
    metrics: Arc<Metrics>,
}

impl Migrations {
    /// None yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Migrations { list: Mutex::default(), metrics }
    }

    /// A new one, unless `refuse` finds a reason among those that are there.
    pub(super) fn add<E>(
        &self,
        id: String,
        direction: Direction,
        vm: &str,
        peer: String,
        cancel: Cancel,
        refuse: impl FnOnce(&[Migration]) -> Result<(), E>,
    ) -> Result<Arc<Entry>, E> {
        let mut list = lock(&self.list);
        let active: Vec<Migration> =
            list.iter().map(|entry| entry.migration()).filter(|shown| !shown.state.is_over()).collect();
        refuse(&active)?;
        let shown = Migration {
            id,
            direction,
            vm: vm.to_owned(),
            peer,
            state: State::Queued,
            queued: now(),
            started: None,
            ended: None,
            progress: ProgressEvent::default(),
            summary: None,
            reason: None,
        };
        log::info!(id = shown.id, vm, peer = shown.peer, direction:?; "migration asked for");
        let inner = Inner { shown, log: VecDeque::new(), next: 0, progress_at: 0 };
        let entry = Arc::new(Entry {
            cancel,
            inner: Mutex::new(inner),
            changed: watch::Sender::new(0),
            metrics: self.metrics.clone(),
        });
        list.push_back(entry.clone());
        while list.len() > SHOWN + active.len()
            && let Some(oldest) = list.iter().position(|entry| entry.migration().state.is_over())
        {
            list.remove(oldest);
        }
        Ok(entry)
    }

    /// One by its id.
    pub fn find(&self, id: &str) -> Option<Arc<Entry>> {
        lock(&self.list).iter().find(|entry| lock(&entry.inner).shown.id == id).cloned()
    }

    /// All, in the order in which they were asked for.
    pub fn all(&self) -> Vec<Migration> {
        lock(&self.list).iter().map(|entry| entry.migration()).collect()
    }

    /// Those that are not over.
    pub fn active(&self) -> Vec<Arc<Entry>> {
        let list = lock(&self.list);
        list.iter().filter(|entry| !lock(&entry.inner).shown.state.is_over()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(migrations: &Migrations, id: &str) -> Arc<Entry> {
        let peer = "b:1".to_owned();
        let taken: Result<_, ()> =
            migrations.add(id.into(), Direction::Outgoing, "vm", peer, Cancel::new(), |_| Ok(()));
        taken.unwrap()
    }

    #[test]
    fn who_watches_sees_all_but_old_progress_in_order() {
        let migrations = Migrations::new(Arc::default());
        let entry = one(&migrations, "1");
        let progress = |pages| Event::Progress(ProgressEvent { pages, ..ProgressEvent::default() });
        entry.begin();
        entry.tell(&Event::Resumed);
        entry.tell(&progress(1));
        let (events, seen, more) = entry.since(0);
        assert_eq!(events, [Event::Resumed, progress(1)]);
        assert!(more);
        entry.tell(&progress(2));
        entry.tell(&progress(3));
        entry.tell(&Event::Broken { message: "cut".into() });
        let (events, seen, _) = entry.since(seen);
        assert_eq!(events, [progress(3), Event::Broken { message: "cut".into() }]);
        let reason = Reason { failure: Failure::OtherEnd, message: "gone".into() };
        entry.end(Err(reason.clone()));
        let (events, seen, more) = entry.since(seen);
        assert_eq!(events, [Event::Failed { failure: reason.failure, message: reason.message }]);
        assert!(!more && entry.since(seen).0.is_empty());
        assert_eq!(entry.migration().state, State::Failed);
    }

    #[test]
    fn those_that_are_over_are_forgotten_in_the_end() {
        let migrations = Migrations::new(Arc::default());
        let running = one(&migrations, "running");
        for number in 0..SHOWN + 10 {
            one(&migrations, &number.to_string()).end(Ok(Summary::default()));
        }
        assert!(migrations.all().len() <= SHOWN + 2);
        assert!(migrations.find("running").is_some() && migrations.find("0").is_none());
        assert_eq!(migrations.active().len(), 1);
        drop(running);
    }
}
