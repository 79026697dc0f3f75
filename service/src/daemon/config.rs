//! The daemon's one configuration file: TOML, and nothing in it that is not known.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mig_engine::gpu::Beside;
use mig_engine::{GpuChoice, GpuMode};
use serde::Deserialize;

use crate::problem::Problem;
use crate::references::named;
use crate::session::Limits;
use crate::wire::hello::is_vm_name;
use crate::wire::{Identity, Security, WireError};

/// Everything that can be said. What is not said has the value that `Default` gives it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where migrations come in, and who this host is.
    pub listen: Listen,
    /// The control API.
    pub control: Control,
    /// Metrics and health, if they are wanted.
    pub metrics: Option<Metrics>,
    /// The reference store.
    pub store: Store,
    /// What migrations may use.
    #[serde(default)]
    pub limits: Bounds,
    /// Scanning on a GPU.
    #[serde(default)]
    pub gpu: Gpu,
    /// Messages.
    #[serde(default)]
    pub log: Log,
    /// VMs: who may send them here, and what is kept of them.
    #[serde(default, rename = "vm")]
    pub vms: Vec<Vm>,
}

/// Where migrations come in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// `HOST:PORT`; port 0 is any that is free.
    pub address: String,
    /// Folder with `ca.pem`, `cert.pem` and `key.pem`, as `mig keys` makes it.
    pub keys: Option<PathBuf>,
    /// Without TLS: for tests, on loopback only.
    #[serde(default)]
    pub insecure: bool,
}

/// The control API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Its unix socket, for this user only.
    pub socket: PathBuf,
}

/// Metrics and health.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// `HOST:PORT` for `/metrics`, `/healthz` and `/readyz`, without TLS.
    pub address: std::net::SocketAddr,
}

/// The reference store.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Its folder; it is the daemon's alone.
    pub folder: PathBuf,
    /// The most that it may hold, in GiB.
    #[serde(default = "gib_64")]
    pub limit_gib: u64,
    /// How often indexes of disks are looked after, in minutes; 0: only when they are used.
    #[serde(default = "minutes_60")]
    pub refresh_minutes: u64,
}

fn gib_64() -> u64 {
    64
}

fn minutes_60() -> u64 {
    60
}

/// Messages, on standard error. `RUST_LOG` says which.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `json` or `text`.
    pub format: super::logs::Format,
}

/// What migrations may use.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Migrations at once, in both directions together.
    pub migrations: usize,
    /// Migrations from here that may wait for their turn.
    pub queue: usize,
    /// Threads of each.
    pub threads: usize,
    /// Data connections of each.
    pub connections: u32,
    /// MiB of data that each may hold before it is verified.
    pub window_mib: u64,
    /// GiB of the largest guest to take.
    pub max_guest_gib: u64,
    /// Seconds of silence after which a link counts as broken.
    pub timeout_seconds: u64,
    /// Seconds to try to connect again, or to wait for the other host to do so.
    pub retry_seconds: u64,
    /// Seconds that a migration from here goes on trying a destination that is busy.
    pub busy_seconds: u64,
    /// Seconds that migrations may go on after SIGTERM.
    pub drain_seconds: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        let threads = mig_engine::default_threads();
        Bounds {
            migrations: 2,
            queue: 64,
            threads,
            connections: (threads as u32).clamp(1, 16),
            window_mib: 64,
            max_guest_gib: 1024,
            timeout_seconds: 15,
            retry_seconds: 60,
            busy_seconds: 3600,
            drain_seconds: 300,
        }
    }
}

/// Scanning on a GPU.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpu {
    /// `auto`, `off` or `require`.
    pub mode: Option<Mode>,
    /// Only adapters with this in their name.
    pub adapter: Option<String>,
}

/// How a GPU's mode is read.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Mode(GpuMode);

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse().map(Mode).map_err(|error| format!("{error}"))
    }
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// Its name, as senders say it.
    pub name: String,
    /// Hosts, by the names in their certificates, that may send it here, and use what is kept of it here; `*`: all that the CA
    /// has signed.
    pub peers: Vec<String>,
    /// Its disk images; `raw:PATH` for raw ones that a guest writes to.
    #[serde(default)]
    pub disks: Vec<PathBuf>,
    /// The file that its memory goes to when it comes in.
    pub image: Option<PathBuf>,
    /// Whether a file that is there is replaced.
    #[serde(default)]
    pub replace: bool,
    /// The socket of a QEMU that waits for it, as `unix:PATH`.
    #[serde(default, deserialize_with = "unix")]
    pub qemu: Option<PathBuf>,
    /// Whether a copy of its memory is kept for the way back.
    #[serde(default)]
    pub snapshot: bool,
}

fn unix<'de, D: serde::Deserializer<'de>>(text: D) -> Result<Option<PathBuf>, D::Error> {
    let text = Option::<String>::deserialize(text)?;
    text.map(|text| crate::local::unix_path(&text)).transpose().map_err(serde::de::Error::custom)
}

impl Vm {
    /// One of which nothing is known.
    pub(super) fn named(name: &str) -> Self {
        Vm {
            name: name.to_owned(),
            peers: Vec::new(),
            disks: Vec::new(),
            image: None,
            replace: false,
            qemu: None,
            snapshot: false,
        }
    }

    /// Whether this peer may send it, and use what is kept of it.
    pub fn allows(&self, peer: &str) -> bool {
        self.peers.iter().any(|allowed| allowed == "*" || allowed == peer)
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// [`Problem::Usage`] that says in which line what is wrong.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let say = |what: String| Problem::Usage(format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| say(error.to_string()))?;
        Self::parse(&text).map_err(say)
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    ///
    /// What is wrong, with the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Config = toml::from_str(text).map_err(|error| located(text, &error))?;
        config.check()?;
        Ok(config)
    }

    /// What a type can't say.
    fn check(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(what.to_owned());
        match (&self.listen.keys, self.listen.insecure) {
            (None, false) => {
                return wrong(
                    "[listen]: keys = \"FOLDER\" is needed (`mig keys` makes one), or insecure = true on loopback",
                );
            }
            (Some(_), true) => return wrong("[listen]: keys and insecure exclude each other"),
            _ => {}
        }
        let limits = &self.limits;
        let ranges: [(&str, u64, std::ops::RangeInclusive<u64>); 12] = [
            ("limits: migrations", limits.migrations as u64, 1..=1024),
            ("limits: queue", limits.queue as u64, 0..=65536),
            ("limits: threads", limits.threads as u64, 1..=1024),
            ("limits: connections", limits.connections.into(), 1..=64),
            ("limits: window_mib", limits.window_mib, 1..=65536),
            ("limits: max_guest_gib", limits.max_guest_gib, 1..=1 << 20),
            ("limits: timeout_seconds", limits.timeout_seconds, 1..=3600),
            ("limits: retry_seconds", limits.retry_seconds, 1..=86400),
            ("limits: busy_seconds", limits.busy_seconds, 0..=604_800),
            ("limits: drain_seconds", limits.drain_seconds, 0..=86400),
            ("store: limit_gib", self.store.limit_gib, 1..=1 << 20),
            ("store: refresh_minutes", self.store.refresh_minutes, 0..=525_600),
        ];
        for (name, value, range) in ranges {
            if !range.contains(&value) {
                return Err(format!("{name} = {value}: it is from {} to {}", range.start(), range.end()));
            }
        }
        for (at, vm) in self.vms.iter().enumerate() {
            let name = &vm.name;
            if !is_vm_name(name) {
                return Err(format!(
                    "vm {name:?}: a name is 1 to 128 letters, digits, '.', '_' and '-', and does not begin with '.'"
                ));
            }
            if self.vms[..at].iter().any(|other| other.name == *name) {
                return Err(format!("vm {name:?} is there twice"));
            }
            let same = |other: &&Vm| {
                (vm.image.is_some() && vm.image == other.image)
                    || (vm.qemu.is_some() && vm.qemu == other.qemu)
            };
            if let Some(other) = self.vms[..at].iter().find(same) {
                return Err(format!("vm {name:?} and vm {:?} go to the same place", other.name));
            }
            if vm.image.is_some() && vm.qemu.is_some() {
                return Err(format!("vm {name:?}: image and qemu exclude each other"));
            }
            let disks = vm.disks.iter().map(|disk| named(disk).1);
            let others = vm.image.iter().chain(&vm.qemu).map(PathBuf::as_path);
            if let Some(relative) = disks.chain(others).find(|path| !path.is_absolute()) {
                let relative = relative.display();
                return Err(format!("vm {name:?}: {relative}: paths are from the root on"));
            }
        }
        Ok(())
    }

    /// Looks at the files that it names, as far as that changes nothing.
    ///
    /// # Errors
    ///
    /// [`WireError::Keys`] for keys that can't be used; [`Problem::Usage`] for a GPU that is required and a disk that is
    /// not there.
    pub fn check_files(&self) -> anyhow::Result<()> {
        self.security()?;
        self.check_gpu()?;
        for vm in &self.vms {
            for disk in &vm.disks {
                if let Err(error) = std::fs::metadata(named(disk).1) {
                    let text = format!("vm {:?}: {}: {error}", vm.name, disk.display());
                    return Err(Problem::Usage(text).into());
                }
            }
        }
        Ok(())
    }

    /// Looks for the GPU, if one is required.
    ///
    /// # Errors
    ///
    /// [`Problem::Usage`] if there is none.
    pub fn check_gpu(&self) -> Result<(), Problem> {
        let found = Beside::new(&self.gpu());
        found.map(drop).map_err(|error| Problem::Usage(format!("[gpu]: {error}")))
    }

    /// How connections are protected.
    ///
    /// # Errors
    ///
    /// [`WireError::Keys`] for keys that can't be used.
    pub fn security(&self) -> Result<Security, WireError> {
        match &self.listen.keys {
            Some(folder) => Ok(Security::Tls(Identity::from_folder(folder)?)),
            None => Ok(Security::Insecure),
        }
    }

    /// What a session may use.
    pub fn session(&self) -> Limits {
        Limits {
            connections: self.limits.connections,
            retry: Duration::from_secs(self.limits.retry_seconds),
            silence: self.silence(),
        }
    }

    /// How long a message may make no progress.
    pub fn silence(&self) -> Duration {
        Duration::from_secs(self.limits.timeout_seconds)
    }

    /// What the engine is told of GPUs.
    pub fn gpu(&self) -> GpuChoice {
        let mode = self.gpu.mode.map_or(GpuMode::Auto, |Mode(mode)| mode);
        GpuChoice { mode, adapter: self.gpu.adapter.clone() }
    }
}

/// An error of the parser in one line, with the place.
fn located(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim_end();
    match error.span() {
        Some(span) => {
            let before = &text[..span.start.min(text.len())];
            let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
            format!("line {}, column {column}: {message}", before.matches('\n').count() + 1)
        }
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "
[listen]
address = '127.0.0.1:0'
insecure = true
[control]
socket = '/run/migd/control.sock'
[store]
folder = '/var/lib/migd'
";

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = Config::parse(LEAST).unwrap();
        assert_eq!((config.limits.migrations, config.store.limit_gib), (2, 64));
        assert_eq!(config.gpu().mode, GpuMode::Auto);
        assert!(config.vms.is_empty() && config.metrics.is_none());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (addition, expected) in [
            ("colour = 1", "line 10, column 1: unknown field `colour`"),
            ("[limits]\nmigrations = -1", "line 11, column 14: "),
            ("[limits]\nmigrations = 0", "migrations = 0: it is from 1 to 1024"),
            ("[limits]\nbusy_seconds = 18446744073709551615", "it is from 0 to 604800"),
            ("[limits]\nbusy_seconds = 1000000", "busy_seconds = 1000000: it is from 0 to 604800"),
            ("[gpu]\nmode = 'fast'", "line 11, column 8: "),
            ("[[vm]]\nname = 'a'", "missing field `peers`"),
            ("[[vm]]\nname = 'a'\npeers = []\nqemu = 'tcp:1'", "line 13, column 8: "),
            ("[[vm]]\nname = 'a/b'\npeers = []", "vm \"a/b\": a name is"),
            ("[[vm]]\nname = 'a'\npeers = []\n[[vm]]\nname = 'a'\npeers = []", "there twice"),
            ("[[vm]]\nname = 'a'\npeers = []\nimage = '/x'\nqemu = 'unix:/y'", "exclude each other"),
            ("[[vm]]\nname = 'a'\npeers = []\ndisks = ['x.img']", "x.img: paths are from the root on"),
            ("[unfinished", "line 10"),
        ] {
            let error = Config::parse(&format!("{LEAST}\n{addition}\n")).unwrap_err();
            assert!(error.contains(expected), "{addition:?}: {error}");
        }
        let error = Config::parse(&LEAST.replace("insecure = true", "")).unwrap_err();
        assert!(error.contains("mig keys"), "{error}");
    }

    #[test]
    fn peers_are_those_that_are_named() {
        let vm = |peers: &str| {
            Config::parse(&format!("{LEAST}[[vm]]\nname = 'a'\npeers = [{peers}]")).unwrap().vms.remove(0)
        };
        assert!(!vm("").allows("b"));
        assert!(vm("'b', 'c'").allows("c") && !vm("'b', 'c'").allows("d"));
        assert!(vm("'*'").allows("d"));
    }
}
