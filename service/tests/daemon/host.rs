//! Hosts with a daemon each, in one folder.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::Folder;
use crate::http::{Answer, ask};
use crate::running::{Running, until};

/// The hosts that have keys.
const HOSTS: &str = "a=127.0.0.1 b=127.0.0.1 c=127.0.0.1";

/// A folder with the sample and with keys.
pub(crate) fn folder() -> Folder {
    let folder = Folder::with_sample();
    folder.run(&format!("keys keys {HOSTS}")).code(0);
    folder
}

/// A daemon that runs.
pub(crate) struct Host<'f> {
    pub(crate) folder: &'f Folder,
    pub(crate) name: &'static str,
    pub(crate) running: Running,
    pub(crate) port: u16,
    pub(crate) metrics: u16,
}

/// `migd` in the folder.
pub(crate) fn migd(folder: &Folder, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_migd"));
    command.args(arguments.split_whitespace()).current_dir(folder.path("."));
    command.env_remove("RUST_LOG");
    command
}

/// A configuration; `more` begins with keys of `[limits]`.
pub(crate) fn config(folder: &Folder, name: &str, more: &str) -> String {
    let path = |file: String| folder.path(&file).display().to_string();
    let retry = if more.contains("retry_seconds") { "" } else { "retry_seconds = 20\n" };
    format!(
        "[listen]\naddress = '127.0.0.1:0'\nkeys = '{}'\n[control]\nsocket = '{}'\n[metrics]\naddress = '127.0.0.1:0'\n\
         [store]\nfolder = '{}'\n[limits]\nthreads = 1\nconnections = 2\n{retry}{more}",
        path(format!("keys/{name}")),
        path(format!("{name}.sock")),
        path(format!("{name}.store")),
    )
}

impl<'f> Host<'f> {
    /// Starts one.
    pub(crate) fn start(folder: &'f Folder, name: &'static str, more: &str) -> Self {
        Self::by(folder, name, more, migd(folder, &format!("--config {name}.toml")))
    }

    /// The same by a command that ends up as `migd --config NAME.toml`.
    pub(crate) fn by(folder: &'f Folder, name: &'static str, more: &str, command: Command) -> Self {
        folder.write(&format!("{name}.toml"), config(folder, name, more).as_bytes());
        let running = Running::start(command, folder.path(&format!("{name}.events")));
        let logged = |running: &Running, message: &str| {
            let text = running.messages();
            // A graphics driver's own words come in between.
            let lines =
                text.split_inclusive('\n').filter(|line| line.starts_with('{') && line.ends_with('\n'));
            let mut lines =
                lines.map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{line}")));
            lines.find(|line| line["message"] == message)
        };
        let port = |what| {
            let line = until(what, || logged(&running, what));
            let address = line["address"].as_str().expect("an address").to_owned();
            address.rsplit_once(':').expect("a port").1.parse().expect("a number")
        };
        let (port, metrics) = (port("taking migrations"), port("serving metrics"));
        Host { folder, name, running, port, metrics }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path(&format!("{}.sock", self.name))
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        ask(&self.socket(), method, path, &body)
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.ask("GET", path, &Value::Null).is(200)
    }

    /// Begins to send a file to a port; gives the migration's id.
    #[track_caller]
    pub(crate) fn send(&self, vm: &str, file: &str, port: u16) -> String {
        let started = self.ask("POST", "/v1/migrations", &self.start_of(vm, file, port)).is(201);
        started["id"].as_str().expect("an id").to_owned()
    }

    pub(crate) fn start_of(&self, vm: &str, file: &str, port: u16) -> Value {
        json!({ "vm": vm, "image": self.folder.path(file), "to": format!("127.0.0.1:{port}") })
    }

    pub(crate) fn migration(&self, id: &str) -> Value {
        self.get(&format!("/v1/migrations/{id}"))
    }

    /// Its events until it is over.
    pub(crate) fn watch(&self, id: &str) -> Vec<Value> {
        let answer = self.ask("GET", &format!("/v1/migrations/{id}/events"), &Value::Null);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.lines()
    }

    /// Waits for its end, which must be in this state.
    #[track_caller]
    pub(crate) fn ends(&self, id: &str, state: &str) -> Value {
        self.watch(id);
        let migration = self.migration(id);
        assert_eq!(migration["state"], state, "{migration}\n{}", self.running.messages());
        migration
    }

    /// The latest migration that came in, when it has ended.
    #[track_caller]
    pub(crate) fn received(&self, state: &str) -> Value {
        let id = until("a migration that comes in", || {
            let all = self.get("/v1/migrations");
            let incoming = all.as_array()?.iter().rev().find(|one| one["direction"] == "incoming")?;
            Some(incoming["id"].as_str()?.to_owned())
        });
        self.ends(&id, state)
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let id = rustix::process::Pid::from_child(&self.running.process);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it runs");
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path(&format!("{}.store", self.name))
    }

    /// Names in a folder of its store.
    pub(crate) fn kept(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.store().join(folder)).expect("a store");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }
}
