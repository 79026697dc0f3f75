//! `mig send`.

use anyhow::{Context, Result};
use mig_engine::{CpuWorker, GpuMode, Level, MemoryImage};
use mig_service::problem::Problem;
use mig_service::references;
use mig_service::transfer::{Sending, send_image};
use mig_service::wire::{Target, hello};

use crate::cli::SendArgs;
use crate::migrate::{Show, vm_name};
use crate::run::{Run, threads};

pub(crate) fn run(args: &SendArgs, run: &Run) -> Result<()> {
    if args.gpu.gpu == GpuMode::Require {
        let text = "--gpu require: sending scans on the CPU so far; say --gpu off, or leave it out";
        return Err(Problem::Usage(text.into()).into());
    }
    let vm = args.vm.clone().unwrap_or_else(|| vm_name(&args.file));
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
        level,
        cancel: run.cancel.clone(),
    };
    let image = MemoryImage::open(&args.file, args.format);
    let image = image.with_context(|| format!("cannot read {}", args.file.display()))?;
    let show = Show::new("sending", args.json);
    let on = |event: &_| show.event(event);
    let pool = run.pool(&args.work)?;
    let sent = pool.install(|| {
        let references =
            references::for_packing(&args.references.files, &[image.page_count()], &run.cancel, None)?;
        send_image(&image, references, &sending, &on)
    });
    show.clear();
    sent.map(|_| ()).with_context(|| format!("{} was not migrated", args.file.display()))
}
