//! `mig receive`.

use std::time::{Duration, Instant};

use anyhow::Result;
use mig_engine::{Level, PAGE_SIZE};
use mig_service::events::{Event, ProgressEvent};
use mig_service::human;
use mig_service::output::print;
use mig_service::problem::Problem;
use mig_service::references;
use mig_service::session::Outcome;
use mig_service::transfer::{ImageTarget, OneShot, QemuTarget, Receiving, Target};
use mig_service::wire::hello::Refusal;
use mig_service::wire::{Listener, WireError};
use serde_json::json;

use crate::cli::ReceiveArgs;
use crate::migrate::Show;
use crate::run::{Run, threads};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &ReceiveArgs, run: &Run) -> Result<()> {
    let shot = OneShot {
        target: match (&args.qemu, &args.output) {
            (Some(path), _) => Target::Qemu(QemuTarget {
                path: path.clone(),
                snapshot: args.snapshot.clone(),
                scratch: std::env::temp_dir(),
            }),
            (None, Some(path)) => Target::Image(ImageTarget { path: path.clone(), force: args.force }),
            (None, None) => return Err(Problem::Usage("--output or --qemu is needed".into()).into()),
        },
        references: args.references.files.clone(),
        receiving: Receiving {
            threads: threads(&args.work),
            limits: args.link.limits(),
            window: args.window << 20,
            block_pages: 8192,
            max_pages: args.max_size << 18,
            kernels: references::kernel_cache(),
            level: Level::best(),
        },
        from: args.from.clone(),
        cancel: run.cancel.clone(),
    };
    let listener = Listener::bind(&args.listen, args.link.security()?, args.link.silence())?;
    let waiting = shot.start(listener)?;
    let address = waiting.address();
    if args.json {
        print(&format!("{}\n", json!({ "event": "listening", "address": address.to_string() })))?;
    } else {
        eprintln!("waiting for a migration on {address}");
    }
    let show = Show::new("receiving", args.json);
    let mut rate = (Instant::now(), 0);
    let outcome = loop {
        if let Some(outcome) = waiting.outcome(PROGRESS) {
            break outcome;
        }
        if let Some(session) = waiting.session() {
            let passed = rate.0.elapsed().as_secs_f64().max(1e-3);
            let progress = ProgressEvent::received(&session, rate.1, passed);
            rate = (Instant::now(), progress.wire_bytes);
            show.event(&Event::Progress(progress));
        }
    };
    show.clear();
    match outcome {
        Outcome::Complete(complete) => {
            if args.json {
                let bytes = complete.bytes;
                return print(&format!(
                    "{}\n",
                    json!({ "event": "done", "pages": complete.pages, "wire_bytes": bytes })
                ));
            }
            let to = args.output.as_ref().or(args.qemu.as_ref()).map(|path| path.display().to_string());
            eprintln!(
                "{}: {} received and verified, {} on the wire{}{}",
                to.unwrap_or_default(),
                human::bytes(complete.pages * PAGE_SIZE as u64),
                human::bytes(complete.bytes),
                if complete.message.is_empty() { "" } else { "; " },
                complete.message,
            );
            Ok(())
        }
        Outcome::Failed(Refusal { code, message }) => Err(WireError::Failed { code, message }.into()),
        Outcome::Cancelled => Err(WireError::Cancelled.into()),
        Outcome::CancelledThere(reason) => Err(WireError::CancelledThere(reason).into()),
    }
}
