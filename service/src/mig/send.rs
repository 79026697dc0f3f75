//! `mig send`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mig_engine::qemu::Holding;
use mig_engine::{CpuWorker, Level, MemoryImage};
use mig_service::daemon::Start;
use mig_service::daemon::client::Client;
use mig_service::events::{Event, Summary};
use mig_service::local::Bound;
use mig_service::problem::Problem;
use mig_service::references::{self, for_packing};
use mig_service::transfer::{
    QemuSource, Sending, WhileBusy, guest_sizes, open_snapshot, pause, send_image, send_qemu, wait_for_qemu,
};
use mig_service::wire::{Target, hello};

use crate::cli::SendArgs;
use crate::migrate::{Show, vm_name};
use crate::run::{Run, beside, threads};

/// How long a busy destination is left alone.
const BUSY: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &SendArgs, run: &Run) -> Result<()> {
    let vm = args.vm.clone().or_else(|| args.file.as_deref().map(vm_name)).unwrap_or_default();
    if !hello::is_vm_name(&vm) {
        let text = format!("--vm {vm:?}: a name is 1 to 128 letters, digits, '.', '_' and '-'");
        return Err(Problem::Usage(text).into());
    }
    let show = Show::new("sending", args.json);
    if let Some(socket) = &args.daemon {
        return by_daemon(socket, vm, args, run, &show);
    }
    let beside = beside(&args.gpu)?;
    let until = Instant::now() + Duration::from_secs(args.wait.into());
    let busy = |why: &str| {
        show.event(&Event::Waiting { reason: format!("for the destination: {why}") });
        Instant::now() + BUSY < until && pause(BUSY, &run.cancel)
    };
    let level = Level::best();
    let worker = CpuWorker { level };
    let sending = Sending {
        target: Target {
            address: args.to.clone(),
            peer: args.peer.clone(),
            security: args.link.security()?,
            limit: args.link.silence(),
        },
        vm,
        effort: args.effort,
        threads: threads(&args.work),
        limits: args.link.limits(),
        kernels: references::kernel_cache(),
        worker: &worker,
        beside: &beside,
        level,
        cancel: run.cancel.clone(),
        busy: (args.wait > 0).then_some(WhileBusy(&busy)),
    };
    let sent = match (&args.file, &args.qemu) {
        (_, Some(path)) => qemu(path, args, &sending, run, &show),
        (Some(path), None) => image(path, args, &sending, run, &show),
        (None, None) => Err(Problem::Usage("an image or --qemu is needed".into()).into()),
    };
    show.clear();
    sent.map(|_| ()).with_context(|| format!("{} was not migrated", sending.vm))
}

/// Has a daemon do it, and shows what it says.
fn by_daemon(socket: &Path, vm: String, args: &SendArgs, run: &Run, show: &Show) -> Result<()> {
    let absolute = |path: &PathBuf| std::path::absolute(path).with_context(|| path.display().to_string());
    // What comes before the path stays there: `raw:PATH`.
    let reference = |said: &PathBuf| -> Result<PathBuf> {
        let (_, path) = references::named(said);
        let (text, plain) = (said.to_string_lossy(), path.to_string_lossy());
        match text.strip_suffix(&*plain) {
            Some("") | None => absolute(said),
            Some(prefix) => Ok(format!("{prefix}{}", absolute(&path.to_owned())?.display()).into()),
        }
    };
    let start = Start {
        vm: vm.clone(),
        to: args.to.clone(),
        peer: args.peer.clone(),
        image: args.file.as_ref().map(absolute).transpose()?,
        format: args.format.map(|format| format.name().to_owned()),
        qemu: args.qemu.as_ref().map(absolute).transpose()?.map(|path| format!("unix:{}", path.display())),
        references: args.references.files.iter().map(reference).collect::<Result<_>>()?,
        effort: Some(args.effort.name().to_owned()),
        hold_mib: args.qemu.is_some().then_some(args.hold),
        paused: args.paused,
    };
    let sent = Client::new(socket)?.send(&start, &run.cancel, &|event| show.event(event));
    show.clear();
    sent.map(|_| ()).with_context(|| format!("{vm} was not migrated"))
}

fn image(path: &Path, args: &SendArgs, sending: &Sending<'_>, run: &Run, show: &Show) -> Result<Summary> {
    let image = MemoryImage::open(path, args.format);
    let image = image.with_context(|| format!("cannot read {}", path.display()))?;
    run.pool(&args.work)?.install(|| {
        let references = for_packing(&args.references.files, &[image.page_count()], &run.cancel, None)?;
        send_image(&image, references, sending, &|event| show.event(event))
    })
}

fn qemu(path: &Path, args: &SendArgs, sending: &Sending<'_>, run: &Run, show: &Show) -> Result<Summary> {
    let pool = run.pool(&args.work)?;
    // Before QEMU comes: it should not have to wait for that.
    let snapshot = pool.install(|| match &args.snapshot {
        Some(path) => open_snapshot(path, true, &run.cancel),
        None => Ok(None),
    })?;
    let bound = Bound::new(path)?;
    if !args.json {
        eprintln!("waiting for QEMU: migrate unix:{}", path.display());
    }
    let (socket, start) = wait_for_qemu(bound, &run.cancel)?;
    pool.install(|| {
        let mut references = for_packing(&args.references.files, &guest_sizes(&start), &run.cancel, None)?;
        references.extend(snapshot);
        let source = QemuSource {
            socket,
            start,
            snapshot: args.snapshot.clone(),
            scratch: std::env::temp_dir(),
            holding: Holding { pages: (args.hold << 8) as usize },
            paused: args.paused,
        };
        send_qemu(source, references, sending, &|event| show.event(event))
    })
}
