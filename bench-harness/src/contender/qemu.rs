//! QEMU itself: a stopped guest whose memory is the image, migrated between two real QEMUs.
//!
//! The machine is `none`: no processor, no devices, only memory, of which the source's is the image (a private mapping of the file) and the
//! destination's is empty. So what is measured is QEMU's migration of that memory and nothing else. It is driven over QMP; on a
//! paced link QEMU's connections go through a proxy in this process that holds them to the rate, on a shaped cable each QEMU is in a
//! namespace of its own. multifd of QEMU 7.2 takes its connections in the order in which they come, which is not always that in which they
//! were made; a run that fails is done again, a few times. `qemu, mig` puts `mig send` and `mig receive` between the two.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mig_engine::{Cancel, ImageFormat};
use serde::Serialize;
use serde_json::{Value, json};

use super::sink::compare_files;
use super::{Contender, Key, Subject, Verified};
use crate::exit::Problem;
use crate::link::cable::ADDRESSES;
use crate::link::{Link, Rate};
use crate::measure::Cost;
use crate::provenance::version_of;
use crate::references::References;

/// The emulator of this machine's own architecture.
pub(crate) const PROGRAM: &str =
    if cfg!(target_arch = "aarch64") { "qemu-system-aarch64" } else { "qemu-system-x86_64" };
/// For a program to start listening, and to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// For a whole migration, on the slowest link that is not calculated.
const LONGEST: Duration = Duration::from_secs(900);
/// Runs of which one must succeed.
const TRIES: u32 = 8;
const TICK: Duration = Duration::from_millis(5);
/// QEMU rounds a machine's memory up to this.
const GRANULE: u64 = 8192;

/// How QEMU sends memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct How {
    /// Channels of multifd; without, one connection.
    pub(crate) channels: Option<u16>,
    /// multifd's compression, at QEMU's own level, which is 1.
    pub(crate) compression: Option<&'static str>,
    /// Through `mig send` and `mig receive`.
    pub(crate) mig: bool,
    /// `mig send` is told that the guest is paused.
    pub(crate) paused: bool,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("qemu")?;
        if let Some(channels) = self.channels {
            write!(f, " multifd {channels}")?;
        }
        if let Some(compression) = self.compression {
            write!(f, ", {compression}")?;
        }
        if self.mig {
            f.write_str(", mig")?;
        }
        if self.paused { f.write_str(" --paused") } else { Ok(()) }
    }
}

impl How {
    /// From what follows `qemu` in a name: ``, ` multifd 2`, ` multifd 2, zstd`, `, mig`,
    /// `, mig --paused`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let none = How { channels: None, compression: None, mig: false, paused: false };
        match text {
            "" => return Some(none),
            ", mig" => return Some(How { mig: true, ..none }),
            ", mig --paused" => return Some(How { mig: true, paused: true, ..none }),
            _ => {}
        }
        let mut words = text.strip_prefix(" multifd ")?.split(", ");
        let channels = words.next()?.parse().ok().filter(|channels| (1..=255).contains(channels))?;
        let compression = match words.next() {
            None => None,
            Some("zlib") => Some("zlib"),
            Some("zstd") => Some("zstd"),
            Some(_) => return None,
        };
        words.next().is_none().then_some(How { channels: Some(channels), compression, ..none })
    }
}

/// What QEMU says of a migration, and what both ends' programs used.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Ends {
    /// QEMU's own figure, from the command until the source was done.
    pub(crate) total_seconds: f64,
    /// QEMU's own figure; the guest is stopped anyway.
    pub(crate) downtime_seconds: f64,
    /// Processor seconds at the source and at the destination, until the destination was done.
    pub(crate) sender_cpu_seconds: f64,
    pub(crate) receiver_cpu_seconds: f64,
}

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct Qemu {
    how: How,
    references: References,
    cancel: Cancel,
    ends: Option<Ends>,
}

impl Qemu {
    /// Or why it can't be measured with this image here.
    pub(super) fn new(
        how: How,
        subject: &Subject,
        references: &References,
        cancel: &Cancel,
    ) -> Result<Self, String> {
        let image = subject.image();
        if version_of(PROGRAM).is_none() {
            return Err(format!("there is no {PROGRAM} on this machine"));
        }
        if image.layout().format() != ImageFormat::Raw || !image.file_len().is_multiple_of(GRANULE) {
            return Err("it takes raw images of whole pages only".into());
        }
        if how.mig && mig().is_none() {
            return Err("there is no mig beside mig-bench; cargo build --release makes both".into());
        }
        Ok(Qemu { how, references: references.clone(), cancel: cancel.clone(), ends: None })
    }

    /// Migrates the image, into `to` or into memory that is then gone, over `link` or over loopback as it is. Gives the bytes as
    /// well, where a link counted them.
    fn migrate(&mut self, subject: &Subject, to: Option<&Path>, link: Option<&Link>) -> Result<(Cost, u64)> {
        let mut tries = 1;
        loop {
            let carried = || link.map_or(Ok(0), Link::carried);
            let before = carried()?;
            match self.try_once(subject, to, link) {
                Ok(cost) => return Ok((cost, carried()? - before)),
                Err(error) if tries < TRIES && !self.cancel.is_cancelled() => {
                    log::info!("{}: once more, after: {error:#}", self.how);
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn try_once(&mut self, subject: &Subject, to: Option<&Path>, link: Option<&Link>) -> Result<Cost> {
        let folder = tempfile::Builder::new().prefix("mig-bench-qemu").tempdir()?;
        let stop = AtomicBool::new(false);
        let migrated = thread::scope(|scope| {
            let mut trip = Trip { how: self.how, folder: folder.path(), link, subject, programs: Vec::new() };
            let ended = trip.go(to, &self.references, scope, &stop);
            stop.store(true, Ordering::Relaxed);
            trip.programs.iter_mut().for_each(Program::kill);
            ended
        });
        if self.cancel.is_cancelled() {
            return Err(Problem::Interrupted.into());
        }
        let (cost, ends) = migrated?;
        self.ends = Some(ends);
        Ok(cost)
    }
}

impl Contender for Qemu {
    fn key(&self) -> Key {
        Key::Qemu(self.how)
    }

    fn about(&self) -> String {
        let between = if self.how.mig {
            ", mig send and mig receive with TLS and the references between them"
        } else {
            ""
        };
        format!(
            "two {PROGRAM}s of machine none over loopback TCP{between}; times include the destination, whose processor seconds are apart; \
             bytes by a proxy that counts"
        )
    }

    fn verify(&mut self, subject: &Subject) -> Result<Verified> {
        let file = tempfile::Builder::new().tempfile_in(&subject.scratch)?;
        file.as_file().set_len(subject.image().file_len())?;
        let link = Link::new("1000 Gbit".parse::<Rate>().map_err(anyhow::Error::msg)?);
        let (cost, bytes) = self.migrate(subject, Some(file.path()), Some(&link))?;
        compare_files(&self.key().to_string(), File::open(file.path())?, subject.image())?;
        Ok(Verified { bytes, cost })
    }

    fn pack(&mut self, subject: &Subject) -> Result<Cost> {
        Ok(self.migrate(subject, None, None)?.0)
    }

    fn send(&mut self, subject: &Subject, link: &Link) -> Result<Option<Cost>> {
        let (cost, _) = self.migrate(subject, None, Some(link))?;
        Ok(Some(cost))
    }

    fn ends(&self) -> Option<Ends> {
        self.ends
    }
}

/// The `mig` that was built with this program.
fn mig() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name("mig");
    path.is_file().then_some(path)
}

/// One of the programs; ended with this value, whatever happens.
struct Program {
    child: Child,
    /// 0 for the source, 1 for the destination.
    end: usize,
    is_qemu: bool,
}

impl Program {
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Processor seconds of it, and of those that it has waited for.
    fn cpu_seconds(&self) -> Result<f64> {
        // `ip netns exec` becomes the program, so its number is that of the program.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(") ").context("the kernel does not say what a program used")?;
        let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
        // The kernel counts in hundredths of a second there, on every machine.
        Ok(ticks.sum::<Result<u64, _>>()? as f64 / 100.0)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One migration.
struct Trip<'t> {
    how: How,
    folder: &'t Path,
    link: Option<&'t Link>,
    subject: &'t Subject,
    programs: Vec<Program>,
}

impl<'t> Trip<'t> {
    fn go<'scope>(
        &mut self,
        to: Option<&Path>,
        references: &References,
        scope: &'scope thread::Scope<'scope, '_>,
        stop: &'scope AtomicBool,
    ) -> Result<(Cost, Ends)>
    where
        't: 'scope,
    {
        let image = self.subject.path().canonicalize()?;
        let bytes = self.subject.image().file_len();
        let file = |path: &Path, share: &str| {
            let path = path.display().to_string().replace(',', ",,");
            format!("memory-backend-file,id=ram,size={bytes},mem-path={path},share={share}")
        };
        self.start(0, "source", &file(&image, "off"), &[])?;
        let memory = match to {
            Some(path) => file(path, "on"),
            None => format!("memory-backend-ram,id=ram,size={bytes}"),
        };
        self.start(1, "destination", &memory, &["-incoming", "defer"])?;
        let mut source = Qmp::connect(&self.folder.join("source.qmp"))?;
        let mut destination = Qmp::connect(&self.folder.join("destination.qmp"))?;
        for qmp in [&mut source, &mut destination] {
            self.set_up(qmp)?;
        }
        let uri = if self.how.mig {
            let [out, arriving] = ["out", "in"].map(|name| self.folder.join(name));
            destination
                .command("migrate-incoming", json!({ "uri": format!("unix:{}", arriving.display()) }))?;
            self.start_mig(&out, &arriving, references, scope, stop)?;
            format!("unix:{}", out.display())
        } else {
            let there = self.destination_address()?;
            destination.command("migrate-incoming", json!({ "uri": format!("tcp:{there}") }))?;
            format!("tcp:{}", self.proxied(there, scope, stop)?)
        };
        let cpu = |programs: &[Program], end: usize| -> Result<f64> {
            programs.iter().filter(|program| program.end == end).map(Program::cpu_seconds).sum()
        };
        let before = [cpu(&self.programs, 0)?, cpu(&self.programs, 1)?];
        let start = Instant::now();
        source.command("migrate", json!({ "uri": uri }))?;
        self.wait_for_end(&mut source, &mut destination)?;
        if let Some(link) = self.link {
            link.drain()?;
        }
        let wall = start.elapsed().as_secs_f64();
        let used = [cpu(&self.programs, 0)? - before[0], cpu(&self.programs, 1)? - before[1]];
        // It says that it is done before it has worked out how long that took.
        let until = Instant::now() + Duration::from_secs(1);
        let mut said = source.command("query-migrate", json!({}))?;
        while said["total-time"].as_u64().unwrap_or(0) == 0 && Instant::now() < until {
            thread::sleep(TICK);
            said = source.command("query-migrate", json!({}))?;
        }
        let seconds =
            |name: &str| said[name].as_f64().map(|ms| ms / 1e3).context("QEMU does not say how long it took");
        let ends = Ends {
            total_seconds: seconds("total-time")?,
            downtime_seconds: seconds("downtime")?,
            sender_cpu_seconds: used[0],
            receiver_cpu_seconds: used[1],
        };
        Ok((Cost { wall, cpu: used[0] }, ends))
    }

    /// Hears both QEMUs until both are done, or one is not there any more.
    fn wait_for_end(&mut self, source: &mut Qmp, destination: &mut Qmp) -> Result<()> {
        let until = Instant::now() + LONGEST;
        while source.ended.is_none() || destination.ended.is_none() {
            for program in &mut self.programs {
                // Those between the two end by themselves.
                let ended = program.is_qemu && program.child.try_wait()?.is_some();
                ensure!(!ended, "a QEMU ended in mid-migration");
            }
            for qmp in [&mut *source, &mut *destination] {
                if qmp.ended.is_none() {
                    qmp.read()?;
                }
                ensure!(qmp.ended != Some(false), "QEMU's migration failed");
            }
            ensure!(Instant::now() < until, "QEMU's migration does not end");
        }
        Ok(())
    }

    fn command(&self, end: usize, program: &str) -> Command {
        match self.link.and_then(Link::cable) {
            Some(cable) => cable.command(end, program),
            None => Command::new(program),
        }
    }

    fn start(&mut self, end: usize, name: &str, memory: &str, more: &[&str]) -> Result<()> {
        let mut command = self.command(end, PROGRAM);
        command
            .args([
                "-machine",
                "none,memory-backend=ram",
                "-accel",
                "tcg",
                "-nodefaults",
                "-display",
                "none",
                "-S",
            ])
            .args(["-m", &format!("{}B", self.subject.image().file_len())])
            .args(["-object", memory])
            .args([
                "-qmp",
                &format!("unix:{},server=on,wait=off", self.folder.join(format!("{name}.qmp")).display()),
            ])
            .args(more);
        self.spawn(end, true, command)
    }

    fn spawn(&mut self, end: usize, is_qemu: bool, mut command: Command) -> Result<()> {
        if !is_qemu {
            // It says how far it is.
            command.stderr(Stdio::null());
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot run {}", command.get_program().display()))?;
        self.programs.push(Program { child, end, is_qemu });
        Ok(())
    }

    fn set_up(&self, qmp: &mut Qmp) -> Result<()> {
        let capability = |name: &str, state: bool| json!({ "capability": name, "state": state });
        let capabilities = [capability("events", true), capability("multifd", self.how.channels.is_some())];
        qmp.command("migrate-set-capabilities", json!({ "capabilities": capabilities }))?;
        let mut parameters = json!({ "max-bandwidth": 1u64 << 40 });
        if let Some(channels) = self.how.channels {
            parameters["multifd-channels"] = channels.into();
            parameters["multifd-compression"] = self.how.compression.unwrap_or("none").into();
        }
        qmp.command("migrate-set-parameters", parameters)?;
        Ok(())
    }

    /// A port where the destination may listen.
    fn destination_address(&self) -> Result<SocketAddr> {
        if self.link.and_then(Link::cable).is_some() {
            // Its namespace is its own.
            return Ok(format!("{}:4444", ADDRESSES[1]).parse()?);
        }
        Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
    }

    /// Where to connect to instead of `there`: a paced link's proxy.
    fn proxied<'scope>(
        &self,
        there: SocketAddr,
        scope: &'scope thread::Scope<'scope, '_>,
        stop: &'scope AtomicBool,
    ) -> Result<SocketAddr>
    where
        't: 'scope,
    {
        let Some(link) = self.link.filter(|link| link.cable().is_none()) else { return Ok(there) };
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let here = listener.local_addr()?;
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((near, _)) => {
                        // Here and not beside the others: QEMU takes the first for the main one.
                        let far = patiently(|| TcpStream::connect(there), || stop.load(Ordering::Relaxed));
                        scope.spawn(move || {
                            if let Err(error) = far.and_then(|far| carry(near, far, link)) {
                                log::info!("a connection through the paced link: {error}");
                            }
                        });
                    }
                    Err(_) => thread::sleep(TICK),
                }
            }
        });
        Ok(here)
    }

    /// `mig receive` and `mig send` between the two.
    fn start_mig<'scope>(
        &mut self,
        out: &Path,
        arriving: &Path,
        references: &References,
        scope: &'scope thread::Scope<'scope, '_>,
        stop: &'scope AtomicBool,
    ) -> Result<()>
    where
        't: 'scope,
    {
        let mig = mig().context("there is no mig beside mig-bench")?;
        let program = mig.to_str().context("mig's path is no text")?;
        let there = self.destination_address()?;
        let keys = self.folder.join("keys");
        let mut make = Command::new(&mig);
        make.arg("keys").arg(&keys).args(["near=127.0.0.1", &format!("far={}", there.ip())]);
        ensure!(make.stdin(Stdio::null()).stdout(Stdio::null()).status()?.success(), "mig keys failed");
        let both = |command: &mut Command, end: &str| {
            command.arg("--keys").arg(keys.join(end));
            for path in &references.paths {
                command.arg("--reference").arg(path);
            }
        };
        let mut receive = self.command(1, program);
        receive.args([
            "receive",
            "--qemu",
            &format!("unix:{}", arriving.display()),
            "--listen",
            &there.to_string(),
        ]);
        both(&mut receive, "far");
        self.spawn(1, false, receive)?;
        let here = self.proxied(there, scope, stop)?;
        let mut send = self.command(0, program);
        send.args([
            "send",
            "--qemu",
            &format!("unix:{}", out.display()),
            "--vm",
            "guest",
            "--to",
            &here.to_string(),
        ]);
        send.args(["--wait", "10"]);
        if self.how.paused {
            send.arg("--paused");
        }
        both(&mut send, "near");
        self.spawn(0, false, send)?;
        let until = Instant::now() + PATIENCE;
        while !out.exists() {
            for program in &mut self.programs {
                ensure!(program.child.try_wait()?.is_none(), "mig ended before QEMU could connect");
            }
            ensure!(Instant::now() < until, "mig does not listen");
            thread::sleep(TICK);
        }
        Ok(())
    }
}

/// Carries one connection's bytes, those of the source over the link.
fn carry(near: TcpStream, far: TcpStream, mut link: &Link) -> std::io::Result<()> {
    near.set_nonblocking(false)?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
    }
    thread::scope(|scope| {
        let (back_from, back_to) = (far.try_clone()?, near.try_clone()?);
        scope.spawn(move || {
            let _ = pass(back_from, back_to, |_| Ok(()));
        });
        pass(near, far, |bytes| link.write_all(bytes))
    })
}

/// Tries again until somebody listens.
fn patiently<T>(connect: impl Fn() -> std::io::Result<T>, is_over: impl Fn() -> bool) -> std::io::Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match connect() {
            Err(_) if Instant::now() < until && !is_over() => thread::sleep(TICK),
            connected => return connected,
        }
    }
}

fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    mut held: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let len = from.read(&mut buffer)?;
        if len == 0 {
            return to.shutdown(Shutdown::Write);
        }
        held(&buffer[..len])?;
        to.write_all(&buffer[..len])?;
    }
}

/// QEMU's control socket.
struct Qmp {
    reader: BufReader<UnixStream>,
    /// What came of the next message.
    line: Vec<u8>,
    /// How the migration ended, once QEMU said so.
    ended: Option<bool>,
}

impl Qmp {
    fn connect(path: &Path) -> Result<Self> {
        let stream = patiently(|| UnixStream::connect(path), || false).context("QEMU does not start")?;
        stream.set_read_timeout(Some(TICK))?;
        let mut qmp = Qmp { reader: BufReader::new(stream), line: Vec::new(), ended: None };
        // Its greeting.
        qmp.next()?;
        qmp.command("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// One message, if one comes soon; notes what it says of the migration's end.
    fn read(&mut self) -> Result<Option<Value>> {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        match self.reader.read_until(b'\n', &mut self.line) {
            Err(error) if matches!(error.kind(), TimedOut | WouldBlock) => return Ok(None),
            Err(error) => return Err(error.into()),
            Ok(0) => bail!("QEMU ended"),
            Ok(_) => {}
        }
        let message: Value = serde_json::from_slice(&self.line).context("QEMU says what is no JSON")?;
        self.line.clear();
        if message["event"] == "MIGRATION" {
            match message["data"]["status"].as_str() {
                Some("completed") => self.ended = Some(true),
                Some("failed" | "cancelled") => self.ended = Some(false),
                _ => {}
            }
        }
        Ok(Some(message))
    }

    fn next(&mut self) -> Result<Value> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(message) = self.read()? {
                return Ok(message);
            }
            ensure!(Instant::now() < until, "QEMU does not answer");
        }
    }

    fn command(&mut self, name: &str, arguments: Value) -> Result<Value> {
        let command = json!({ "execute": name, "arguments": arguments });
        self.reader.get_mut().write_all(format!("{command}\n").as_bytes())?;
        loop {
            let mut message = self.next()?;
            if let Some(error) = message.get("error") {
                bail!("QEMU refuses {name}: {}", error["desc"].as_str().unwrap_or("no reason"));
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }
}
