//! The program `mig` in a folder of its own, and what it leaves there.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use mig_tests::sample;
use tempfile::TempDir;

/// A temporary folder with the sample in it, where `mig` runs.
pub(crate) struct Folder {
    dir: TempDir,
}

/// What a run came to.
pub(crate) struct Ran {
    /// Its exit code; -1 if a signal ended it.
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    fn new(output: Output) -> Self {
        let stderr = String::from_utf8(output.stderr).expect("messages are UTF-8");
        Ran { code: output.status.code().unwrap_or(-1), stdout: output.stdout, stderr }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text is UTF-8")
    }

    /// Fails unless it ended with this code; gives itself.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "standard error: {}", self.stderr);
        self
    }
}

impl Folder {
    /// With `mem.raw`, `old.raw` (the same guest earlier) and `disk.raw`.
    pub(crate) fn with_sample() -> Self {
        let folder = Self::empty();
        folder.write("mem.raw", sample::memory());
        folder.write("old.raw", sample::older());
        folder.write("disk.raw", sample::disk());
        folder
    }

    pub(crate) fn empty() -> Self {
        Folder { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    /// The best GPU adapter's name; `None` if there is none, which `MIG_REQUIRE=gpu` forbids.
    pub(crate) fn adapter(&self) -> Option<String> {
        let listed = self.run("devices --seconds 0 --json").code(0);
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        let name = listed["adapters"][0]["name"].as_str().map(str::to_owned);
        let required = std::env::var("MIG_REQUIRE").unwrap_or_default();
        let required = required.split(',').any(|name| name.trim() == "gpu");
        assert!(name.is_some() || !required, "MIG_REQUIRE asks for a GPU, and there is no adapter");
        name
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("room in the temporary folder");
    }

    #[track_caller]
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The names of all files, sorted, with hidden ones.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).expect("a folder");
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry.expect("an entry").file_name().into_string().expect("UTF-8")
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }

    /// `mig` with arguments that are separated by blanks; it reads nothing from standard input.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mig"));
        command.args(arguments.split_whitespace()).current_dir(self.dir.path());
        command.env_remove("RUST_LOG").env_remove("MIG_SIMD").stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &str) -> Ran {
        Ran::new(self.command(arguments).output().expect("mig can be run"))
    }

    /// The same, with this as standard input.
    pub(crate) fn run_with_input(&self, arguments: &str, input: &[u8]) -> Ran {
        let mut child = self.spawn(arguments);
        let mut stdin = child.stdin.take().expect("a pipe");
        std::thread::scope(|scope| {
            // It may not want all of it.
            scope.spawn(move || drop(stdin.write_all(input)));
            Ran::new(child.wait_with_output().expect("mig can be waited for"))
        })
    }

    /// Starts it with pipes.
    pub(crate) fn spawn(&self, arguments: &str) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("mig can be run")
    }
}

/// What is left when a run that was started has ended.
pub(crate) fn ended(child: Child) -> Ran {
    Ran::new(child.wait_with_output().expect("mig can be waited for"))
}

/// Whether two files are the same, without printing megabytes.
#[track_caller]
pub(crate) fn assert_same(found: &[u8], truth: &[u8], what: &str) {
    assert_eq!(found.len(), truth.len(), "{what}: length");
    assert!(found == truth, "{what}: other bytes");
}

/// Makes a fifo.
pub(crate) fn make_fifo(path: &Path) {
    let status = Command::new("mkfifo").arg(path).status().expect("mkfifo is a standard program");
    assert!(status.success());
}

/// Whether file systems can be mounted here, in namespaces; says so where not.
pub(crate) fn has_mounts() -> bool {
    let tried = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    let can = tried.is_ok_and(|output| output.status.success());
    if !can {
        assert!(!requires("mounts"), "MIG_REQUIRE names mounts: unshare -rm mount does not work");
        eprintln!("not tested here: unshare -rm mount does not work");
    }
    can
}

/// Whether a test must not be left out for want of something: `MIG_REQUIRE` is a list of names.
pub(crate) fn requires(what: &str) -> bool {
    std::env::var("MIG_REQUIRE").unwrap_or_default().split(',').any(|name| name == what)
}
