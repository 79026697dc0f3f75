//! What other hosts send: who may, where it goes, and what may be used for it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use mig_engine::{Cancel, Level, Reference};

use super::Daemon;
use super::config::Vm;
use super::migrations::{Direction, Entry, Reason};
use super::slots::Slot;
use super::vms::Destination;
use crate::events::{Event, Summary};
use crate::failure::Failure;
use crate::references::{for_unpacking, named};
use crate::session::{Admitted, Host, Incoming, Open, Outcome, lock};
use crate::transfer::{ImageTarget, QemuTarget, Receiving, Target, guest_sizes_of, make_room};
use crate::wire::hello::{Content, Proposal, Refusal};
use crate::wire::{Code, Peer, WireError};

/// How long one is waited for that has ended and is still put away.
const PUT_AWAY: Duration = Duration::from_secs(2);

/// Decides about migrations that come in.
#[derive(Debug)]
pub struct Gate {
    daemon: Arc<Daemon>,
    /// What the open sessions hold.
    held: Mutex<HashMap<String, Held>>,
}

#[derive(Debug)]
struct Held {
    entry: Arc<Entry>,
    vm: Vm,
    /// The destination, if it was prepared for this migration.
    prepared: Option<Destination>,
    slot: Slot,
}

impl Gate {
    pub(super) fn new(daemon: Arc<Daemon>) -> Self {
        Gate { daemon, held: Mutex::default() }
    }

    fn decide(&self, peer: &Peer, proposal: &Proposal, open: Open<'_>) -> Result<Admitted, Refusal> {
        let daemon = &self.daemon;
        if daemon.is_draining() {
            return Err(Refusal::new(Code::Draining, "this daemon is about to stop"));
        }
        if daemon.migrations.find(&proposal.session).is_some() {
            return Err(Refusal::new(Code::Protocol, "a session of that name was here already"));
        }
        // Who may not send a VM does not learn whether there is one.
        let vm = daemon.vms.find(&proposal.vm).filter(|vm| vm.allows(&peer.name)).ok_or_else(|| {
            Refusal::new(Code::Permission, format!("{:?} may not send {} here", peer.name, proposal.vm))
        })?;
        let target = self.target(&vm).ok_or_else(|| {
            let message = format!("no destination was prepared for {}", vm.name);
            Refusal::new(Code::Unexpected, message)
        })?;
        let prepared = daemon.vms.prepared().remove(&vm.name);
        let same_vm = || open().into_iter().filter(|session| session.proposal.vm == vm.name).collect();
        make_room(peer, proposal, &same_vm)?;
        // Before anybody at this end is disturbed, a QEMU that waits, say. One that has just ended may still be put away.
        let until = Instant::now() + PUT_AWAY;
        while daemon.migrations.active().iter().any(|entry| entry.migration().vm == vm.name) {
            if Instant::now() > until {
                let message = format!("{} is on its way here or from here", vm.name);
                return Err(Refusal::new(Code::Busy, message));
            }
            thread::sleep(Duration::from_millis(20));
        }
        let slot = daemon.slots.try_take().ok_or_else(|| {
            let message = format!("{} migrations at once, and as many there are", daemon.slots.limit());
            Refusal::new(Code::Busy, message)
        })?;
        let cancel = Cancel::new();
        let given = self.references(&vm, proposal, &cancel).map_err(|error| {
            log::error!(vm = vm.name.as_str(), error:% = format!("{error:#}"); "a reference can't be used");
            Refusal::new(Code::Reference, "the receiver can't open one of its references")
        })?;
        let admitted = target.admit(proposal, given, &self.receiving(), cancel.clone())?;
        let name = if peer.name.is_empty() { "?" } else { &peer.name };
        let peer = format!("{name} ({}, {})", peer.address, proposal.agent);
        let id = proposal.session.clone();
        let added: Result<_, Refusal> = daemon.migrations.add(
            id.clone(),
            Direction::Incoming,
            &vm.name,
            peer.clone(),
            cancel,
            |active| match active.iter().find(|one| one.vm == vm.name) {
                Some(_) => Err(Refusal::new(Code::Busy, format!("{} is about to leave this host", vm.name))),
                None => Ok(()),
            },
        );
        let entry = added?;
        entry.begin();
        let (used, unused): (Vec<_>, Vec<_>) =
            proposal.references.iter().zip(&admitted.references).partition(|(_, ours)| ours.is_some());
        let names = |list: Vec<(&crate::wire::hello::Offered, _)>| {
            list.into_iter().map(|(offered, _)| offered.name.clone()).collect()
        };
        entry.tell(&Event::Connected {
            peer,
            references: names(used),
            unused: names(unused),
            efforts: proposal.efforts.clone(),
        });
        lock(&self.held).insert(id, Held { entry, vm, prepared, slot });
        Ok(admitted)
    }

    fn target(&self, vm: &Vm) -> Option<Target> {
        let Daemon { store, .. } = &*self.daemon;
        match (&vm.image, &vm.qemu) {
            (Some(path), _) => Some(Target::Image(ImageTarget { path: path.clone(), force: vm.replace })),
            (None, Some(path)) => Some(Target::Qemu(QemuTarget {
                path: path.clone(),
                snapshot: vm.snapshot.then(|| store.snapshot(&vm.name)),
                scratch: store.scratch(),
            })),
            (None, None) => None,
        }
    }

    fn receiving(&self) -> Receiving {
        let (config, limits) = (&self.daemon.config, &self.daemon.config.limits);
        Receiving {
            threads: limits.threads,
            limits: config.session(),
            window: limits.window_mib << 20,
            block_pages: 8192,
            max_pages: limits.max_guest_gib << 18,
            // A cache would be shared by guests, and each can write what it is filled from.
            kernels: None,
            level: Level::best(),
        }
    }

    /// Those of this VM, and no other's.
    fn references(&self, vm: &Vm, proposal: &Proposal, cancel: &Cancel) -> Result<Vec<Reference>> {
        let disks: Vec<PathBuf> = vm.disks.iter().filter(|disk| is_there(disk)).cloned().collect();
        let mut given = for_unpacking(&disks, &guest_sizes_of(proposal), cancel)?;
        if vm.snapshot {
            match self.daemon.store.open_snapshot(&vm.name, false, cancel) {
                Ok(snapshot) => given.extend(snapshot),
                Err(error) => {
                    log::warn!(vm = vm.name.as_str(), error:% = format!("{error:#}"); "no snapshot is used");
                }
            }
        }
        Ok(given)
    }

    /// Keeps what came for the way back.
    fn keep(&self, vm: &Vm, kind: Content) {
        if !vm.snapshot {
            return;
        }
        let store = &self.daemon.store;
        let kept = match (&vm.image, kind) {
            (Some(image), Content::Image) => store.keep_image(&vm.name, image),
            _ => store.note_snapshot(&vm.name, true),
        };
        if let Err(error) = kept {
            log::warn!(vm = vm.name.as_str(), error:% = format!("{error:#}"); "no snapshot is kept");
        }
    }
}

/// Whether a disk is at hand; that it is not is no reason to refuse a migration, which then goes without.
pub(super) fn is_there(disk: &Path) -> bool {
    let there = named(disk).1.exists();
    if !there {
        log::warn!(disk:% = disk.display(); "a disk is not there, so it is no reference");
    }
    there
}

impl Host for Gate {
    fn admit(&self, peer: &Peer, proposal: &Proposal, open: Open<'_>) -> Result<Admitted, Refusal> {
        let decided = self.decide(peer, proposal, open);
        if let Err(refusal) = &decided {
            self.daemon.metrics.refused(refusal.code);
        }
        decided
    }

    /// A VM whose disk is slow to open holds up no other.
    fn turn<'p>(&self, proposal: &'p Proposal) -> &'p str {
        &proposal.vm
    }

    fn ended(&self, session: &Incoming, outcome: &Outcome) {
        let Some(Held { entry, vm, prepared, slot }) = lock(&self.held).remove(&session.proposal.session)
        else {
            return;
        };
        let reason = |failure, message: &str| Err(Reason { failure, message: message.to_owned() });
        let result = match outcome {
            Outcome::Complete(complete) => {
                if let Some(prepared) = prepared
                    && let Err(error) = self.daemon.vms.used(&vm.name, &prepared)
                {
                    log::warn!(vm = vm.name.as_str(), error:% = format!("{error:#}"); "its destination is still prepared");
                }
                self.keep(&vm, session.proposal.kind);
                Ok(Summary {
                    pages: complete.pages,
                    verified: complete.pages,
                    wire_bytes: complete.bytes,
                    seconds: session.elapsed().as_secs_f64(),
                    message: complete.message.clone(),
                    ..Summary::default()
                })
            }
            Outcome::Failed(Refusal { code, message }) => {
                let error = WireError::Failed { code: *code, message: message.clone() };
                Err(Reason { failure: Failure::of(&error.into()), message: message.clone() })
            }
            Outcome::Cancelled => reason(Failure::Cancelled, "cancelled"),
            Outcome::CancelledThere(why) => {
                reason(Failure::CancelledThere, &format!("cancelled at the sender's end: {why}"))
            }
        };
        entry.end(result);
        drop(slot);
    }
}
