//! A shaped cable: two network namespaces with a veth pair between them, shaped by `tc tbf` at both ends. It needs root and iproute2.
//!
//! A socket belongs to the namespace of the thread that made it, so a connection over the cable has both of its ends in this process.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use super::Rate;

/// Of the two ends.
pub(crate) const ADDRESSES: [&str; 2] = ["10.79.0.1", "10.79.0.2"];
/// What `tc` may send at once: what the cable carries in this time, but two of the kernel's largest packets at least.
const BURST: f64 = 0.002;
const LEAST_BURST: f64 = 128.0 * 1024.0;
/// How long it keeps what it can't send.
const LATENCY: &str = "20ms";
/// Bytes that the far end reads at a time.
const PIECE: usize = 256 << 10;
/// Between two looks at whether everything has arrived.
const TICK: Duration = Duration::from_micros(200);

/// Why there can be no cable here, if there can't.
pub(crate) fn missing() -> Option<String> {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        return Some("shaped cables need root".into());
    }
    ["ip", "tc"]
        .into_iter()
        .find(|program| Command::new(program).arg("-V").output().is_err())
        .map(|program| format!("shaped cables need {program} (iproute2)"))
}

/// Two namespaces and what is between them; gone when dropped.
#[derive(Debug)]
pub(crate) struct Cable {
    names: [String; 2],
}

impl Cable {
    /// A cable that carries so much in each direction.
    ///
    /// # Errors
    ///
    /// The kernel refuses: no root, no namespaces.
    pub(crate) fn new(rate: Rate) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = std::process::id();
        let cable = Cable { names: ["a", "b"].map(|end| format!("mig-bench-{id}-{number}-{end}")) };
        let [a, b] = &cable.names;
        for name in &cable.names {
            ip(&["netns", "add", name])?;
        }
        ip(&["-n", a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b])?;
        let bits = format!("{}bit", rate.bits());
        let burst = format!("{}b", (rate.bytes() * BURST).max(LEAST_BURST) as u64);
        for (name, address) in cable.names.iter().zip(ADDRESSES) {
            ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", name, "link", "set", "eth0", "up"])?;
            let shape = ["-n", name, "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", &bits];
            must("tc", &[&shape[..], &["burst", &burst, "latency", LATENCY]].concat())?;
        }
        Ok(cable)
    }

    /// Does something in the namespace of one end.
    fn inside<T: Send>(&self, end: usize, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
        let name = &self.names[end];
        let path = format!("/run/netns/{name}");
        let there = || -> Result<T> {
            let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
            setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the cable's namespace")?;
            Ok(work()?)
        };
        thread::scope(|scope| {
            scope.spawn(there).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A program at one end.
    pub(crate) fn command(&self, end: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[end], program]);
        command
    }

    /// Bytes that the near end has sent, headers included.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub(crate) fn sent(&self) -> Result<u64> {
        let text = ip(&["-n", &self.names[0], "-j", "-s", "link", "show", "eth0"])?;
        let json: Value = serde_json::from_slice(&text).context("cannot read what ip says")?;
        json[0]["stats64"]["tx"]["bytes"].as_u64().context("ip does not say what was sent")
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(error) = ip(&["netns", "delete", name]) {
                log::warn!("a network namespace is left: {error:#}");
            }
        }
    }
}

fn ip(arguments: &[&str]) -> Result<Vec<u8>> {
    must("ip", arguments)
}

fn must(program: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), why.trim());
    Ok(output.stdout)
}

/// A TCP connection over a cable, and who reads at its far end.
#[derive(Debug)]
pub(super) struct Connection {
    near: Mutex<TcpStream>,
    written: AtomicU64,
    arrived: Arc<AtomicU64>,
    reader: Option<JoinHandle<()>>,
    /// Goes last.
    cable: Cable,
}

impl Connection {
    pub(super) fn over(cable: Cable) -> Result<Self> {
        let listener = cable.inside(1, || TcpListener::bind((ADDRESSES[1], 0)))?;
        let there: SocketAddr = listener.local_addr()?;
        let near = cable.inside(0, || TcpStream::connect_timeout(&there, Duration::from_secs(10)))?;
        let (far, _) = listener.accept()?;
        let arrived = Arc::new(AtomicU64::new(0));
        let counted = arrived.clone();
        let reader = thread::spawn(move || read_all(far, &counted));
        let near = Mutex::new(near);
        Ok(Connection { near, written: AtomicU64::new(0), arrived, reader: Some(reader), cable })
    }

    pub(super) fn cable(&self) -> &Cable {
        &self.cable
    }

    fn near(&self) -> MutexGuard<'_, TcpStream> {
        self.near.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let len = self.near().write_vectored(parts)?;
        self.written.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> u64 {
        // What has arrived is looked at first: it must not be more than what was written.
        let arrived = self.arrived.load(Ordering::Relaxed);
        self.written().saturating_sub(arrived)
    }

    pub(super) fn drain(&self) -> io::Result<()> {
        while self.waiting() > 0 {
            if self.reader.as_ref().is_none_or(JoinHandle::is_finished) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            thread::sleep(TICK);
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.near().shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn read_all(mut far: TcpStream, arrived: &AtomicU64) {
    let mut buffer = vec![0; PIECE];
    loop {
        match far.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => {
                arrived.fetch_add(len as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                log::warn!("the far end of the cable: {error}");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::link::Way;
    use crate::testing::skip;

    /// What `tc` lets through, headers included, within a tenth.
    #[test]
    fn a_cable_carries_what_it_says() {
        if let Some(why) = missing() {
            return skip("cable", &why);
        }
        let way: Way = "100 Mbit, tc".parse().unwrap();
        let link = way.open().unwrap();
        let bytes = vec![7; 6 << 20];
        let start = Instant::now();
        (&mut &link).write_all(&bytes).unwrap();
        link.drain().unwrap();
        let (took, due) = (start.elapsed().as_secs_f64(), way.rate.seconds(bytes.len() as u64));
        assert_eq!((link.written(), link.waiting()), (bytes.len() as u64, 0));
        assert!(took > due * 0.95 && took < due * 1.5, "{took} s, {due} due");
        let sent = link.cable().unwrap().sent().unwrap();
        assert!((bytes.len() as u64..bytes.len() as u64 * 11 / 10).contains(&sent), "{sent}");
    }
}
