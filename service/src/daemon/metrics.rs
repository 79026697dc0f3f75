//! Numbers for Prometheus.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::migrations::{Direction, Migration, State};
use super::store::bytes_of;
use super::{Daemon, Reason};
use crate::wire::Code;

type Labels = Vec<(&'static str, String)>;

/// Seconds that a migration takes.
const SECONDS: [f64; 10] = [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0];

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    ended: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
    wire: Family<Labels, Counter>,
    memory: Family<Labels, Counter>,
    pages: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
    active: Family<Labels, Gauge<u64, AtomicU64>>,
    slots: Gauge<u64, AtomicU64>,
    store: Gauge<u64, AtomicU64>,
    store_limit: Gauge<u64, AtomicU64>,
    draining: Gauge<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("migd");
        let metrics = Metrics {
            ended: Family::default(),
            refused: Family::default(),
            wire: Family::default(),
            memory: Family::default(),
            pages: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            active: Family::default(),
            slots: Gauge::default(),
            store: Gauge::default(),
            store_limit: Gauge::default(),
            draining: Gauge::default(),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register("migrations", "Migrations that ended, by direction and result", metrics.ended.clone());
        r.register("refused", "Migrations that were refused at the start, by code", metrics.refused.clone());
        let help = "Bytes of migrations on the wire, TLS and TCP not counted";
        r.register_with_unit("wire", help, Unit::Bytes, metrics.wire.clone());
        let help = "Guest memory that arrived and was verified";
        r.register_with_unit("memory", help, Unit::Bytes, metrics.memory.clone());
        r.register("pages", "Pages of complete migrations from here, by kind", metrics.pages.clone());
        let help = "How long complete migrations took";
        r.register_with_unit("duration", help, Unit::Seconds, metrics.seconds.clone());
        r.register("active", "Migrations that run or wait, by direction and state", metrics.active.clone());
        r.register("slots", "Migrations that may run at once", metrics.slots.clone());
        r.register_with_unit("store", "What is kept for later", Unit::Bytes, metrics.store.clone());
        let help = "What may be kept for later";
        r.register_with_unit("store_limit", help, Unit::Bytes, metrics.store_limit.clone());
        r.register("draining", "1 while it is about to stop", metrics.draining.clone());
        Metrics { registry, ..metrics }
    }
}

fn label(direction: Direction) -> (&'static str, String) {
    let name = match direction {
        Direction::Incoming => "incoming",
        Direction::Outgoing => "outgoing",
    };
    ("direction", name.to_owned())
}

fn state(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Running => "running",
        State::Complete => "complete",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
    }
}

impl Metrics {
    pub(super) fn moved(&self, direction: Direction, wire_bytes: u64, pages: u64) {
        let labels = vec![label(direction)];
        self.wire.get_or_create(&labels).inc_by(wire_bytes);
        self.memory.get_or_create(&labels).inc_by(pages << 12);
    }

    pub(super) fn ended(&self, migration: &Migration) {
        let direction = label(migration.direction);
        self.ended
            .get_or_create(&vec![direction.clone(), ("result", state(migration.state).to_owned())])
            .inc();
        let Some(summary) = &migration.summary else { return };
        self.seconds.get_or_create(&vec![direction]).observe(summary.seconds);
        // A receiver is not told of kinds.
        if migration.direction == Direction::Outgoing {
            for (kind, pages) in summary.kinds.named() {
                self.pages.get_or_create(&vec![("kind", kind.to_owned())]).inc_by(pages);
            }
        }
    }

    pub(super) fn refused(&self, code: Code) {
        self.refused.get_or_create(&vec![("code", code.name())]).inc();
    }

    /// All of it, as Prometheus reads it.
    ///
    /// # Errors
    ///
    /// A store that can't be looked at.
    pub fn text(&self, daemon: &Daemon) -> Result<String, Reason> {
        let kept = daemon.store.list().map_err(|error| Reason::of(&error))?;
        self.store.set(bytes_of(&kept));
        self.store_limit.set(daemon.store.limit());
        self.slots.set(daemon.slots.limit() as u64);
        self.draining.set(daemon.is_draining().into());
        let active: Vec<Migration> =
            daemon.migrations.active().iter().map(|entry| entry.migration()).collect();
        for direction in [Direction::Incoming, Direction::Outgoing] {
            for wanted in [State::Queued, State::Running] {
                let these = active.iter().filter(|one| (one.direction, one.state) == (direction, wanted));
                let labels = vec![label(direction), ("state", state(wanted).to_owned())];
                self.active.get_or_create(&labels).set(these.count() as u64);
            }
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        Ok(text)
    }
}
