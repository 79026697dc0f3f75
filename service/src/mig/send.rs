//! `mig send`.

use std::path::Path;

use anyhow::{Context, Result};
use mig_engine::qemu::Holding;
use mig_engine::{CpuWorker, Level, MemoryImage};
use mig_service::events::Summary;
use mig_service::problem::Problem;
use mig_service::references::{self, for_packing};
use mig_service::transfer::{QemuSource, Sending, open_snapshot, send_image, send_qemu, wait_for_qemu};
use mig_service::wire::{Target, hello};

use crate::cli::SendArgs;
use crate::migrate::{Show, vm_name};
use crate::qemu::guest_sizes;
use crate::run::{Run, beside, threads};

pub(crate) fn run(args: &SendArgs, run: &Run) -> Result<()> {
    let beside = beside(&args.gpu)?;
    let vm = args.vm.clone().or_else(|| args.file.as_deref().map(vm_name)).unwrap_or_default();
    if !hello::is_vm_name(&vm) {
        let text = format!("--vm {vm:?}: a name is 1 to 128 letters, digits, '.', '_' and '-'");
        return Err(Problem::Usage(text).into());
    }
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
    };
    let show = Show::new("sending", args.json);
    let sent = match (&args.file, &args.qemu) {
        (_, Some(path)) => qemu(path, args, &sending, run, &show),
        (Some(path), None) => image(path, args, &sending, run, &show),
        (None, None) => Err(Problem::Usage("an image or --qemu is needed".into()).into()),
    };
    show.clear();
    sent.map(|_| ()).with_context(|| format!("{} was not migrated", sending.vm))
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
    if !args.json {
        eprintln!("waiting for QEMU: migrate unix:{}", path.display());
    }
    let (socket, start) = wait_for_qemu(path, &run.cancel)?;
    pool.install(|| {
        let mut references = for_packing(&args.references.files, &guest_sizes(&start), &run.cancel, None)?;
        references.extend(snapshot);
        let source = QemuSource {
            socket,
            start,
            snapshot: args.snapshot.clone(),
            scratch: std::env::temp_dir(),
            holding: Holding { pages: (args.hold << 8) as usize },
        };
        send_qemu(source, references, sending, &|event| show.event(event))
    })
}
