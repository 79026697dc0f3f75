//! `migd`: takes and starts migrations, headless.
//!
//! This file reads the configuration, serves HTTP, and says goodbye; everything else is [`mig_service::daemon`].

#![forbid(unsafe_code)]

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use mig_service::daemon::{Args, Config, Daemon, Running, api, logs};
use mig_service::failure::Failure;
use mig_service::local::Bound;
use mig_service::output::print;
use sd_notify::NotifyState;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("migd: {error:#}");
            ExitCode::from(Failure::of(&error).exit_code())
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let Some(path) = args.config.as_ref().filter(|_| !args.openapi) else {
        return print(&api::document());
    };
    let config = Config::read(path)?;
    if args.check_config {
        config.check_files()?;
        return print(&format!("{}: fine, with {} VMs\n", path.display(), config.vms.len()));
    }
    logs::start(config.log.format);
    let runtime = Runtime::new().context("cannot start to serve")?;
    let control = Bound::new(&config.control.socket)?;
    let metrics = config.metrics.as_ref().map(|metrics| metrics.address);
    let metrics = metrics.map(TcpListener::bind).transpose().context("cannot serve metrics")?;
    let drain = Duration::from_secs(config.limits.drain_seconds);
    // Before anything begins, so that none is missed.
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).context("cannot listen to signals");
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?)
    };
    let running = Daemon::start(config)?;
    serve(&runtime, &running, &control, metrics)?;
    tell(&[NotifyState::Ready]);
    runtime.block_on(stopped(&mut terminate, &mut interrupt));
    tell(&[NotifyState::Stopping]);
    let at_once = Arc::new(AtomicBool::new(false));
    let flag = at_once.clone();
    runtime.spawn(async move {
        stopped(&mut terminate, &mut interrupt).await;
        flag.store(true, Ordering::Relaxed);
    });
    running.drain(drain, &at_once);
    // Those who watch hear the end.
    std::thread::sleep(Duration::from_millis(300));
    runtime.shutdown_timeout(Duration::from_secs(2));
    log::info!("stopped");
    Ok(())
}

fn serve(
    runtime: &Runtime,
    running: &Arc<Running>,
    control: &Bound,
    metrics: Option<TcpListener>,
) -> Result<()> {
    let context = "cannot serve the control socket";
    let _inside = runtime.enter();
    let listener = control.listener().try_clone().context(context)?;
    listener.set_nonblocking(true).context(context)?;
    let listener = tokio::net::UnixListener::from_std(listener).context(context)?;
    let router = api::control(running.clone());
    runtime.spawn(async move { axum::serve(listener, router).await });
    if let Some(listener) = metrics {
        let context = "cannot serve metrics";
        listener.set_nonblocking(true).context(context)?;
        log::info!(address:% = listener.local_addr().context(context)?; "serving metrics");
        let listener = tokio::net::TcpListener::from_std(listener).context(context)?;
        let router = api::observed(running.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
    }
    Ok(())
}

async fn stopped(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// For systemd, if it is there.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!(error:%; "systemd can't be told");
    }
}
