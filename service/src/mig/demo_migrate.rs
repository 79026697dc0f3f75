//! The second half of `mig demo`: the sample migrates from this process to another one, over TLS on loopback.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mig_engine::gpu::Beside;
use mig_engine::{CpuWorker, Level, MemoryImage};
use mig_service::events::Summary;
use mig_service::keys;
use mig_service::references::for_packing;
use mig_service::session::Limits;
use mig_service::transfer::{EffortChoice, Sending, send_image};
use mig_service::wire::{Identity, Security, Target};
use serde_json::Value;

use crate::run::Run;

/// How long either process may hear nothing of the other.
const LIMIT: Duration = Duration::from_secs(10);

/// Two hosts, as far as one machine can be two: keys of their own, and nothing in common but a link.
pub(crate) struct Hosts<'d> {
    folder: &'d Path,
    threads: usize,
}

/// A receiver, which does not outlive the demo.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        // It has ended by itself, unless something went wrong.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl<'d> Hosts<'d> {
    pub(crate) fn new(folder: &'d Path, threads: usize) -> Result<Self> {
        let host = |name: &str| keys::Host { name: name.into(), also: vec!["127.0.0.1".into()] };
        keys::make(&folder.join("keys"), &[host("here"), host("there")], 1)?;
        Ok(Hosts { folder, threads })
    }

    fn keys(&self, host: &str) -> PathBuf {
        self.folder.join("keys").join(host)
    }

    /// Starts `mig receive`; gives where it listens.
    fn receive(&self, output: &Path, references: &[&Path]) -> Result<(Receiver, String)> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.args(["receive", "--json", "--listen", "127.0.0.1:0", "--keys"]).arg(self.keys("there"));
        command.arg("--threads").arg(self.threads.to_string()).arg("--output").arg(output);
        for reference in references {
            command.arg("--reference").arg(reference);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut receiver = Receiver(command.spawn().context("cannot start a receiver")?);
        let mut lines = BufReader::new(receiver.0.stdout.take().context("the receiver has no output")?);
        let mut line = String::new();
        lines.read_line(&mut line).context("cannot read what the receiver says")?;
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        let Some(address) = said["address"].as_str() else {
            anyhow::bail!("the receiver does not listen: {}", messages(&mut receiver));
        };
        let address = address.to_owned();
        // It is not to wait for somebody who reads what it says.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok((receiver, address))
    }

    /// Migrates an image, whose content is `plain`, and compares what arrived.
    pub(crate) fn migrate(
        &self,
        memory: &Path,
        references: &[&Path],
        run: &Run,
        plain: &[u8],
    ) -> Result<Summary> {
        let arrived = self.folder.join("arrived.raw");
        let (mut receiver, address) = self.receive(&arrived, references)?;
        let level = Level::best();
        let worker = CpuWorker { level };
        let sending = Sending {
            target: Target {
                address,
                peer: None,
                security: Security::Tls(Identity::from_folder(&self.keys("here"))?),
                limit: LIMIT,
            },
            vm: "demo".into(),
            effort: EffortChoice::Auto,
            threads: self.threads,
            limits: Limits { connections: self.threads.clamp(1, 16) as u32, retry: LIMIT, silence: LIMIT },
            kernels: None,
            worker: &worker,
            beside: &Beside::default(),
            level,
            cancel: run.cancel.clone(),
            busy: None,
        };
        let image = MemoryImage::open(memory, None)?;
        let paths: Vec<PathBuf> = references.iter().map(|path| path.to_path_buf()).collect();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build()?;
        let sent = pool.install(|| {
            let references = for_packing(&paths, &[image.page_count()], &run.cancel, None)?;
            send_image(&image, references, &sending, &|_| {})
        })?;
        let ended = receiver.0.wait().context("cannot wait for the receiver")?;
        ensure!(ended.success(), "the receiver failed: {}", messages(&mut receiver));
        ensure!(fs::read(&arrived)? == plain, "what arrived is not what was sent");
        fs::remove_file(&arrived)?;
        Ok(sent)
    }
}

fn messages(receiver: &mut Receiver) -> String {
    let mut text = String::new();
    if let Some(mut messages) = receiver.0.stderr.take() {
        // What it did not say is not the worst of it.
        let _ = messages.read_to_string(&mut text);
    }
    text
}
