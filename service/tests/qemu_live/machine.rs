//! One QEMU, over QMP, and what its guest prints.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::guest::Boot;
use crate::net::bound;

/// The slowest thing that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long all of it may take, on a machine that has other work, too.
const ALL: Duration = Duration::from_secs(300);

/// A QEMU without hardware acceleration. Ends with this value.
pub(crate) struct Machine {
    process: Child,
    qmp: BufReader<UnixStream>,
    serial: PathBuf,
    name: String,
}

impl Machine {
    /// Starts one that boots, or waits for a migration at `incoming`.
    pub(crate) fn start(folder: &Path, name: &str, boot: &Boot, incoming: Option<&Path>) -> Self {
        let at = |ending: &str| folder.join(format!("{name}.{ending}"));
        let (serial, qmp) = (at("serial"), at("qmp"));
        let mut command = bound("qemu-system-x86_64");
        command.args(["-accel", "tcg", "-machine", "pc", "-cpu", "max", "-smp", "1", "-m", "128"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.arg("-serial").arg(format!("file:{}", serial.display()));
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", qmp.display()));
        command.arg("-kernel").arg(&boot.kernel).arg("-initrd").arg(&boot.initrd);
        command.args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"]);
        if let Some(path) = incoming {
            // Stopped when it has arrived, so that its memory can be compared.
            command.arg("-S");
            command.arg("-incoming").arg(format!("unix:{}", path.display()));
        }
        command.stdin(Stdio::null()).stderr(fs::File::create(at("messages")).expect("room for messages"));
        let mut process = command.spawn().expect("QEMU can be run");
        let socket = wait_for("QEMU's control socket", || {
            let ended = process.try_wait().expect("it can be waited for");
            let messages = || fs::read_to_string(at("messages")).unwrap_or_default();
            assert!(ended.is_none(), "{name}: QEMU does not start: {}", messages());
            UnixStream::connect(&qmp).ok()
        });
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket has a time limit");
        let mut machine = Machine { process, qmp: BufReader::new(socket), serial, name: name.into() };
        machine.line();
        machine.ask("qmp_capabilities", json!({}));
        machine
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.qmp.read_line(&mut line).expect("QEMU answers");
        assert!(!line.is_empty(), "{}: QEMU has ended", self.name);
        serde_json::from_str(&line).expect("QEMU writes JSON")
    }

    /// A command, and what it returns.
    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        self.qmp.get_mut().write_all(text.as_bytes()).expect("QEMU reads commands");
        loop {
            let mut answer = self.line();
            assert!(answer["error"].is_null(), "{}: {command}: {answer}", self.name);
            if let Some(value) = answer.get_mut("return") {
                return value.take();
            }
        }
    }

    /// What the guest printed so far.
    pub(crate) fn printed(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.serial).expect("QEMU writes it")).into_owned()
    }

    /// The state of the machine: `running`, `postmigrate`, `inmigrate`.
    pub(crate) fn state(&mut self) -> String {
        let state = self.ask("query-status", json!({}));
        state["status"].as_str().expect("a state").to_owned()
    }

    /// All of its memory.
    pub(crate) fn memory(&mut self) -> Vec<u8> {
        let path = self.serial.with_extension("memory");
        self.ask("pmemsave", json!({ "val": 0, "size": 128 << 20, "filename": path }));
        let memory = fs::read(&path).expect("QEMU writes it");
        fs::remove_file(&path).expect("it is there");
        memory
    }

    /// Starts to migrate to a socket.
    pub(crate) fn migrate(&mut self, to: &Path, return_path: bool) {
        let capability = json!({ "capability": "return-path", "state": return_path });
        self.ask("migrate-set-capabilities", json!({ "capabilities": [capability] }));
        self.ask("migrate", json!({ "uri": format!("unix:{}", to.display()) }));
    }

    /// Bytes of RAM that it has sent, and the migration's status.
    pub(crate) fn migration(&mut self) -> (u64, String) {
        let state = self.ask("query-migrate", json!({}));
        let status = state["status"].as_str().unwrap_or("none").to_owned();
        (state["ram"]["transferred"].as_u64().unwrap_or(0), status)
    }

    /// Waits until the migration has that status, and fails when it ends with another.
    pub(crate) fn wait_for_migration(&mut self, wanted: &str) {
        let name = self.name.clone();
        wait_for(&format!("{name}: migration {wanted}"), || {
            let (_, status) = self.migration();
            let ended = ["completed", "failed", "cancelled"].contains(&status.as_str());
            assert!(!ended || status == wanted, "{name}: the migration has {status}");
            (status == wanted).then_some(())
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Looks until there is something; fails when it takes too long, or everything together does.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    static START: OnceLock<Instant> = OnceLock::new();
    let until = (Instant::now() + PATIENCE).min(*START.get_or_init(Instant::now) + ALL);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited too long for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
