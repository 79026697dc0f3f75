//! Migrations from here, which the API asks for: one after the other, a few at once.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use mig_engine::gpu::Beside;
use mig_engine::qemu::Holding;
use mig_engine::{
    Cancel, CpuWorker, EncodeError, FormatChoice, Level, MemoryImage, Reference, ReferenceKind,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Daemon;
use super::config::Vm;
use super::incoming::is_there;
use super::migrations::{Direction, Entry, Migration, Reason, State};
use super::slots::{Place, Slot};
use crate::events::{Event, Summary};
use crate::failure::Failure;
use crate::local::{Bound, unix_path};
use crate::problem::guarded;
use crate::references::{build_index, for_packing_with, named};
use crate::session::lock;
use crate::transfer::{
    EffortChoice, QemuSource, Sending, WhileBusy, guest_sizes, pause, send_image, send_qemu, wait_for_qemu,
};
use crate::wire::hello::{is_vm_name, new_session};
use crate::wire::{Target, WireError};

/// How long a busy destination is left alone, at least and at most: by chance, so that two hosts that send to each other do not
/// meet again.
const LEFT_ALONE: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(1800)];

/// A migration from here.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Start {
    /// The VM's name. What the configuration has for it is used: its disks, its snapshot.
    pub vm: String,
    /// Where to, `HOST:PORT`.
    pub to: String,
    /// Name that the other host's certificate must have, if it is not HOST.
    pub peer: Option<String>,
    /// A memory image file.
    #[schema(value_type = Option<String>)]
    pub image: Option<PathBuf>,
    /// Format of the image, if it is not what it looks like.
    pub format: Option<String>,
    /// Instead of an image, a running guest: a socket is made here, `unix:PATH`, for QEMU's `migrate unix:PATH`.
    pub qemu: Option<String>,
    /// References besides the VM's: disk images, older memory images, older .mig files.
    #[schema(value_type = Vec<String>)]
    pub references: Vec<PathBuf>,
    /// `auto` (unless said), `store`, `fast`, `balanced`, `dense` or `max`.
    pub effort: Option<String>,
    /// MiB of a running guest's pages that may be held back because they keep changing; 16 unless said.
    pub hold_mib: Option<u64>,
    /// The guest that QEMU sends is paused: its memory is taken in as fast as QEMU gives it, and what can wait is sent as an image is, which is
    /// smaller. A guest that runs would be stopped for as long as that takes.
    pub paused: bool,
}

/// Why a migration is not begun.
#[derive(Debug)]
pub enum Refused {
    /// What was asked for can't be done.
    Wrong(String),
    /// That VM is on its way already.
    Active(String),
    /// Too many wait.
    Full(String),
    /// The daemon is about to stop.
    Draining,
}

/// What is to be sent.
#[derive(Debug)]
enum Source {
    Image(PathBuf, Option<FormatChoice>),
    Qemu(Bound),
}

/// A migration that was asked for, looked through.
#[derive(Debug)]
struct Wanted {
    vm: Vm,
    source: Source,
    target: Target,
    references: Vec<PathBuf>,
    effort: EffortChoice,
    holding: Holding,
    paused: bool,
}

impl Daemon {
    /// Takes a migration from here into the queue.
    ///
    /// # Errors
    ///
    /// Why not; nothing was begun then.
    pub fn begin(self: &Arc<Self>, start: Start) -> Result<Arc<Entry>, Refused> {
        if self.is_draining() {
            return Err(Refused::Draining);
        }
        let on_its_way = |active: &[Migration], vm: &str| match active.iter().find(|other| other.vm == vm) {
            Some(other) => Err(Refused::Active(format!("{vm} is on its way already: {}", other.id))),
            None => Ok(()),
        };
        // Before its socket is touched: somebody may wait there.
        let active: Vec<Migration> = self.migrations.active().iter().map(|entry| entry.migration()).collect();
        on_its_way(&active, &start.vm)?;
        let wanted = self.look_through(start)?;
        let id = new_session().map_err(|error| Refused::Wrong(error.to_string()))?;
        let (vm, to) = (wanted.vm.name.clone(), wanted.target.address.clone());
        let most = self.config.limits.queue + self.config.limits.migrations;
        let entry = self.migrations.add(
            id,
            Direction::Outgoing,
            &vm,
            to,
            Cancel::new(),
            |active: &[Migration]| {
                on_its_way(active, &vm)?;
                let waiting = active.iter().filter(|other| other.direction == Direction::Outgoing).count();
                if waiting >= most {
                    return Err(Refused::Full(format!("{waiting} migrations from here run or wait already")));
                }
                Ok(())
            },
        )?;
        // In the order in which they were asked for; who waits for QEMU lines up when it has come.
        let place = matches!(wanted.source, Source::Image(..)).then(|| self.slots.line_up());
        let (daemon, shared) = (self.clone(), entry.clone());
        let work = move || {
            let sent = guarded(|| daemon.send(&shared, wanted, place));
            let result = sent.unwrap_or_else(|bug| Err(anyhow::Error::msg(bug))).map_err(|error| {
                let reason = Reason::of(&error);
                // What stops because somebody stopped it has not failed.
                match reason.failure {
                    Failure::Unconfirmed => reason,
                    _ if shared.cancel.is_cancelled() && daemon.is_draining() => {
                        Reason { failure: Failure::Cancelled, message: "this daemon stops".into() }
                    }
                    _ if shared.cancel.is_cancelled() => {
                        Reason { failure: Failure::Cancelled, message: "cancelled".into() }
                    }
                    _ => reason,
                }
            });
            shared.end(result);
        };
        if let Err(error) = thread::Builder::new().name("outgoing".into()).spawn(work) {
            let message = format!("cannot start a thread: {error}");
            entry.end(Err(Reason { failure: Failure::Failed, message: message.clone() }));
            return Err(Refused::Full(message));
        }
        Ok(entry)
    }

    fn look_through(&self, start: Start) -> Result<Wanted, Refused> {
        let wrong = |what: String| Refused::Wrong(what);
        if !is_vm_name(&start.vm) {
            let text = format!("vm {:?}: a name is 1 to 128 letters, digits, '.', '_' and '-'", start.vm);
            return Err(wrong(text));
        }
        if !start
            .to
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        {
            return Err(wrong(format!("to {:?}: HOST:PORT is wanted", start.to)));
        }
        let references = start.references.iter().map(|reference| named(reference).1);
        let mut paths = start.image.iter().map(PathBuf::as_path).chain(references);
        if let Some(relative) = paths.find(|path| !path.is_absolute()) {
            return Err(wrong(format!("{}: paths are from the root on", relative.display())));
        }
        let effort = start.effort.as_deref().unwrap_or("auto").parse().map_err(wrong)?;
        let source = match (start.image, start.qemu) {
            (Some(path), None) => {
                let format = start.format.map(|format| format.parse()).transpose();
                let format = format.map_err(|error| wrong(format!("format: {error}")))?;
                Source::Image(path, format)
            }
            (None, Some(qemu)) => {
                let path = unix_path(&qemu).map_err(wrong)?;
                if !path.is_absolute() {
                    return Err(wrong(format!("{qemu}: paths are from the root on")));
                }
                Source::Qemu(Bound::new(&path).map_err(|error| wrong(format!("{error:#}")))?)
            }
            _ => return Err(wrong("image or qemu is needed, and not both".into())),
        };
        let vm = self.vms.find(&start.vm).unwrap_or_else(|| Vm::named(&start.vm));
        let mut references: Vec<PathBuf> = vm.disks.iter().filter(|disk| is_there(disk)).cloned().collect();
        for reference in start.references {
            if !references.contains(&reference) {
                references.push(reference);
            }
        }
        Ok(Wanted {
            source,
            references,
            effort,
            target: Target {
                address: start.to,
                peer: start.peer,
                security: self.security.clone(),
                limit: self.config.silence(),
            },
            holding: Holding { pages: (start.hold_mib.unwrap_or(16).min(1 << 16) << 8) as usize },
            paused: start.paused,
            vm,
        })
    }

    /// Sends it, when it has its turn.
    fn send(&self, entry: &Entry, wanted: Wanted, place: Option<Place>) -> Result<Summary> {
        let Wanted { vm, source, target, references, effort, holding, paused } = wanted;
        // QEMU's connection comes first: it can wait for its turn, and the guest runs meanwhile.
        let source = match source {
            Source::Image(path, format) => Ready::Image(path, format),
            Source::Qemu(bound) => {
                entry.wait(&format!("for QEMU: migrate unix:{}", bound.path().display()));
                let (socket, start) = wait_for_qemu(bound, &entry.cancel)?;
                Ready::Qemu(socket, start)
            }
        };
        let place = place.unwrap_or_else(|| self.slots.line_up());
        let taken = place.wait(&entry.cancel, || entry.wait("for its turn"));
        let slot = Mutex::new(Some(taken.ok_or(WireError::Cancelled)?));
        entry.begin();
        let until = Instant::now() + Duration::from_secs(self.config.limits.busy_seconds);
        let busy = |why: &str| Instant::now() < until && self.give_way(entry, &slot, why);
        let beside = Beside::new(&self.config.gpu())?;
        let level = Level::best();
        let worker = CpuWorker { level };
        let sending = Sending {
            target,
            vm: vm.name.clone(),
            effort,
            threads: self.config.limits.threads,
            limits: self.config.session(),
            // A cache would be shared by guests, and each can write what it is filled from.
            kernels: None,
            worker: &worker,
            beside: &beside,
            level,
            cancel: entry.cancel.clone(),
            busy: Some(WhileBusy(&busy)),
        };
        // The end is told when everything is done that is to be done here, too.
        let on = |event: &Event| match event {
            Event::Done(_) => {}
            event => entry.tell(event),
        };
        let pool = self.pool()?;
        pool.install(|| match source {
            Ready::Image(path, format) => {
                let image = MemoryImage::open(&path, format);
                let image = image.with_context(|| format!("cannot read {}", path.display()))?;
                let references = self.references(entry, &vm, &references, &[image.page_count()])?;
                let summary = send_image(&image, references, &sending, &on)?;
                if vm.snapshot {
                    self.kept(entry, self.store.keep_image(&vm.name, &path));
                }
                Ok(summary)
            }
            Ready::Qemu(socket, start) => {
                let references = self.references(entry, &vm, &references, &guest_sizes(&start))?;
                let source = QemuSource {
                    socket,
                    start,
                    snapshot: vm.snapshot.then(|| self.store.snapshot(&vm.name)),
                    scratch: self.store.scratch(),
                    holding,
                    paused,
                };
                let summary = send_qemu(source, references, &sending, &on)?;
                if vm.snapshot {
                    self.kept(entry, self.store.note_snapshot(&vm.name, true));
                }
                Ok(summary)
            }
        })
    }

    /// That nothing could be kept for the way back is no reason to fail.
    fn kept(&self, entry: &Entry, kept: Result<()>) {
        if let Err(error) = kept {
            entry.tell(&Event::Warning { message: format!("no snapshot is kept: {error:#}") });
        }
    }

    fn references(
        &self,
        entry: &Entry,
        vm: &Vm,
        paths: &[PathBuf],
        guest_pages: &[u64],
    ) -> Result<Vec<Reference>> {
        let cancel = &entry.cancel;
        let index = |path: &std::path::Path, reference: &mut Reference| match reference.kind() {
            ReferenceKind::Disk => self.store.index(path, reference, cancel),
            _ => build_index(path, reference, cancel),
        };
        let mut references = for_packing_with(paths, guest_pages, cancel, None, &index)?;
        if vm.snapshot {
            match self.store.open_snapshot(&vm.name, true, cancel) {
                Ok(snapshot) => references.extend(snapshot),
                Err(error) if matches!(error.downcast_ref(), Some(EncodeError::Cancelled)) => {
                    return Err(error);
                }
                Err(error) => {
                    entry.tell(&Event::Warning { message: format!("no snapshot is used: {error:#}") });
                }
            }
        }
        Ok(references)
    }

    /// The destination is busy. Meanwhile others have this one's turn: the destination may be waiting for just that.
    fn give_way(&self, entry: &Entry, slot: &Mutex<Option<Slot>>, why: &str) -> bool {
        drop(lock(slot).take());
        if entry.migration().state == State::Running {
            entry.wait(&format!("for the destination: {why}"));
        }
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        let spread = (LEFT_ALONE[1] - LEFT_ALONE[0]).as_millis() as u64;
        let chance = Duration::from_millis(u64::from(nanos / 1000) % spread);
        if !pause(LEFT_ALONE[0] + chance, &entry.cancel) {
            return false;
        }
        let taken = self.slots.take(&entry.cancel);
        let has = taken.is_some();
        *lock(slot) = taken;
        has
    }
}

/// What is sent, when it is there.
enum Ready {
    Image(PathBuf, Option<FormatChoice>),
    Qemu(std::os::unix::net::UnixStream, Vec<u8>),
}
