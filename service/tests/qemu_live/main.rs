//! A running guest of real, unmodified QEMUs goes to another host and comes back, through `mig` and then through `migd`, over a
//! slow cable.
//!
//! Needs root, `ip` and `tc`, `setpriv`, qemu-system-x86 and a kernel for the guest (`MIG_GUEST_KERNEL`, or one in `/boot`). Where something
//! is missing the test says so and passes, unless `MIG_REQUIRE` names `qemu-live`.

#[path = "../common/mod.rs"]
mod common;
mod guest;
#[path = "../daemon/http.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod http;
mod machine;
mod net;
#[path = "../common/running.rs"]
mod running;
mod tee;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Folder, assert_same};
use guest::Boot;
use machine::{Machine, wait_for};
use net::{ADDRESSES, Net};
use serde_json::{Value, json};
use tee::Tee;

/// The file `data` in the guest, and on its disk.
fn data() -> Vec<u8> {
    let mut state = 7u64;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 24) as u32
    });
    words.take(2 << 20).flat_map(u32::to_le_bytes).collect()
}

/// What is missing for this test, if anything is.
fn missing() -> Option<&'static str> {
    let has = |program: &str| Command::new(program).arg("-version").output().is_ok();
    if !has("qemu-system-x86_64") {
        return Some("qemu-system-x86_64");
    }
    if !has("setpriv") {
        return Some("setpriv");
    }
    if !Net::possible() {
        return Some("network namespaces, or the right to make them");
    }
    guest::kernel().is_none().then_some("a kernel for the guest (MIG_GUEST_KERNEL)")
}

/// The source QEMU stopped with other memory than its stream has brought.
///
/// QEMU 7.2 does that without hardware acceleration, from one QEMU straight to another as well: with this guest, at 25 MiB/s and
/// after a migration that was cancelled, some 3,700 of its pages arrive as they were a while before. Without a cancelled one it
/// is a few pages now and then. Whatever QEMU sent must arrive all the same, and that is compared in every try.
#[derive(Debug)]
#[allow(dead_code, reason = "for messages")]
struct LostWrites {
    trip: String,
    pages: usize,
}

/// How often to begin anew when QEMU loses writes.
const TRIES: u32 = 4;

/// Two hosts with their keys, and a guest to be started.
struct Hosts {
    folder: Folder,
    net: Net,
    boot: Boot,
}

/// A `mig` that runs on one of the hosts.
struct Mig {
    process: Child,
    events: PathBuf,
}

impl Mig {
    fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.events).expect("events are UTF-8");
        // The last line may not be complete.
        text.split_inclusive('\n')
            .filter_map(|line| serde_json::from_str(line.strip_suffix('\n')?).ok())
            .collect()
    }

    fn event(&self, kind: &str) -> Option<Value> {
        self.events().into_iter().rev().find(|event| event["event"] == kind)
    }

    fn messages(&self) -> String {
        fs::read_to_string(self.events.with_extension("messages")).expect("messages are UTF-8")
    }

    #[track_caller]
    fn ends_with(&mut self, code: i32) {
        let status = wait_for("mig to end", || self.process.try_wait().expect("it can be waited for"));
        assert_eq!(status.code(), Some(code), "{}", self.messages());
    }
}

impl Drop for Mig {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Hosts {
    fn mig(&self, end: usize, name: &str, arguments: &str) -> Mig {
        self.run(end, env!("CARGO_BIN_EXE_mig"), name, arguments)
    }

    fn run(&self, end: usize, program: &str, name: &str, arguments: &str) -> Mig {
        let events = self.folder.path(&format!("{name}.events"));
        let messages = File::create(events.with_extension("messages")).expect("room for messages");
        let mut command = self.net.command(end, program);
        command.args(arguments.split_whitespace()).current_dir(self.folder.path("."));
        command.stdin(Stdio::null()).stdout(File::create(&events).expect("room for events")).stderr(messages);
        Mig { process: command.spawn().expect("mig can be run"), events }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }

    /// A destination QEMU, and both of `mig`, ready for a guest from `source` to the other host.
    fn prepare(&self, source: usize, trip: &str, paused: bool) -> (Machine, Mig, Mig) {
        let machine = self.destination(trip);
        let to = 1 - source;
        let both = |end: usize| {
            let host = ["a", "b"][end];
            format!("--keys keys/{host} --snapshot {host}.snapshot -r disk.raw --timeout 5 --retry 10 --json")
        };
        let arguments = format!("receive --qemu unix:{trip}-in --listen {}:7000 {}", ADDRESSES[to], both(to));
        let receive = self.mig(to, &format!("{trip}-receive"), &arguments);
        wait_for("mig receive to listen", || receive.event("listening"));
        let paused = if paused { " --paused" } else { "" };
        (machine, self.send(source, trip, &(both(source) + paused)), receive)
    }

    /// The same with daemons on both hosts: one is told of the destination, the other is asked to send.
    fn prepare_by_daemons(&self, source: usize, trip: &str) -> (Machine, Mig) {
        let machine = self.destination(trip);
        let socket = |end: usize| format!("{}.sock", ["a", "b"][end]);
        let waiting = json!({ "qemu": format!("unix:{}", self.path(&format!("{trip}-in")).display()) });
        let path = self.path(&socket(1 - source));
        http::ask(&path, "PUT", "/v1/destinations/guest", &waiting.to_string()).is(204);
        (machine, self.send(source, trip, &format!("--daemon unix:{} --json", socket(source))))
    }

    /// A QEMU that waits at `TRIP-in`.
    fn destination(&self, trip: &str) -> Machine {
        let waits = self.path(&format!("{trip}-in"));
        Machine::start(&self.path("."), &format!("{trip}-vm"), &self.boot, Some(&waits))
    }

    /// A sender that waits for QEMU at `TRIP-out`.
    fn send(&self, source: usize, trip: &str, how: &str) -> Mig {
        let address = ADDRESSES[1 - source];
        let arguments = format!("send --qemu unix:{trip}-out --vm guest --to {address}:7000 {how}");
        let send = self.mig(source, &format!("{trip}-send"), &arguments);
        let out = self.path(&format!("{trip}-out"));
        wait_for("mig send to wait for QEMU", || out.exists().then_some(()));
        send
    }

    /// A daemon on a host; it ends with this value.
    fn daemon(&self, end: usize) -> Mig {
        let (host, other) = (["a", "b"][end], ["b", "a"][end]);
        let path = |name: &str| self.path(name).display().to_string();
        let config = format!(
            "[listen]\naddress = '{}:7000'\nkeys = '{}'\n[control]\nsocket = '{}'\n[store]\nfolder = '{}'\n\
             [[vm]]\nname = 'guest'\npeers = ['{other}']\ndisks = ['{}']\nsnapshot = true\n",
            ADDRESSES[end],
            path(&format!("keys/{host}")),
            path(&format!("{host}.sock")),
            path(&format!("{host}.store")),
            path("disk.raw"),
        );
        self.folder.write(&format!("{host}.toml"), config.as_bytes());
        let arguments = format!("--config {host}.toml");
        let daemon = self.run(end, env!("CARGO_BIN_EXE_migd"), &format!("{host}-daemon"), &arguments);
        let started = || daemon.messages().contains("taking migrations").then_some(());
        wait_for("a daemon to start", started);
        daemon
    }

    /// Brings the guest of `machine` from host `source` to the other.
    fn migrate(
        &self,
        machine: &mut Machine,
        source: usize,
        trip: &str,
        by: By,
    ) -> Result<(Machine, Mig), LostWrites> {
        let (mut there, mut send, receive) = match by {
            By::Programs { paused, .. } => {
                let (there, send, receive) = self.prepare(source, trip, paused);
                if paused {
                    machine.ask("stop", json!({}));
                }
                (there, send, Some(receive))
            }
            By::Daemons => {
                let (there, send) = self.prepare_by_daemons(source, trip);
                (there, send, None)
            }
        };
        let [qemu, out, stream] = ["qemu", "out", "stream"].map(|end| self.path(&format!("{trip}-{end}")));
        let tee = Tee::start(&qemu, &out, stream);
        machine.migrate(&qemu, matches!(by, By::Programs { return_path: true, .. }));
        machine.wait_for_migration("completed");
        send.ends_with(0);
        if let Some(mut receive) = receive {
            receive.ends_with(0);
        }
        assert_eq!(machine.state(), "postmigrate");
        wait_for("the guest to be there", || (there.state() != "inmigrate").then_some(()));
        let [old, new] = [machine.memory(), there.memory()];
        let kept = self.folder.read(&by.kept(["a", "b"][1 - source]));
        assert_same(&new, &kept[..new.len()], "the guest's memory, as the destination kept it");
        // What QEMU sent is what must be there; whether QEMU sent all that its guest wrote is another matter.
        assert_same(&new, &tee.memory(new.len()), "the guest's memory, as QEMU's stream has it");
        let same = |page: &usize| old[page * 4096..][..4096] == new[page * 4096..][..4096];
        let lost = (0..old.len() / 4096).filter(|page| !same(page)).count();
        if lost > 0 {
            return Err(LostWrites { trip: trip.to_owned(), pages: lost });
        }
        there.ask("cont", json!({}));
        Ok((there, send))
    }
}

/// Who carries a guest.
#[derive(Clone, Copy)]
enum By {
    /// `mig send` and `mig receive`.
    Programs { return_path: bool, paused: bool },
    /// Two `migd`s.
    Daemons,
}

impl By {
    /// Where a host keeps the guest's memory.
    fn kept(self, host: &str) -> String {
        match self {
            By::Programs { .. } => format!("{host}.snapshot"),
            By::Daemons => format!("{host}.store/snapshots/guest.mem"),
        }
    }
}

/// How often the guest has said that its memory is right; fails if it said anything else, or left a number out.
#[track_caller]
fn ticks(printed: &str) -> u64 {
    let mut last = 0;
    // The last line may not be complete.
    for line in printed.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["tick", number, "sum", _, verdict] = words.as_slice() else { continue };
        assert_eq!(*verdict, "right", "{printed}");
        assert_eq!(number.parse(), Ok(last + 1), "{printed}");
        last += 1;
    }
    last
}

#[track_caller]
fn wait_for_ticks(before: &str, machine: &Machine, more: u64) {
    let seen = ticks(&(before.to_owned() + &machine.printed()));
    wait_for("the guest to go on", || {
        (ticks(&(before.to_owned() + &machine.printed())) >= seen + more).then_some(())
    });
}

#[test]
fn a_running_guest_goes_to_another_host_and_comes_back() {
    if let Some(missing) = missing() {
        assert!(!common::requires("qemu-live"), "MIG_REQUIRE names qemu-live: no {missing}");
        eprintln!("not tested here: no {missing}");
        return;
    }
    for number in 1..=TRIES {
        match there_and_back() {
            Ok(()) => return,
            Err(lost) => eprintln!("try {number}: {lost:?}"),
        }
    }
    // All that `mig` answers for was compared; that the guest's sums go on being right is for another QEMU to show.
    eprintln!(
        "NOT TESTED: this QEMU lost writes of its guest in each of {TRIES} tries, so sums were not looked at on all trips"
    );
}

fn there_and_back() -> Result<(), LostWrites> {
    let folder = Folder::empty();
    folder.write("disk.raw", &data());
    folder.run(&format!("keys keys a={} b={}", ADDRESSES[0], ADDRESSES[1])).code(0);
    let boot = Boot::build(&folder.path("."), guest::kernel().expect("it was there"), &data());
    let hosts = Hosts { folder, net: Net::new("200mbit"), boot };
    let start = |name: &str| {
        let machine = Machine::start(&hosts.path("."), name, &hosts.boot, None);
        wait_for("the guest to start", || machine.printed().contains("tick 2").then_some(()));
        machine
    };
    // What is cancelled, or breaks, leaves the guest where it is.
    let mut stays = start("stays");
    cancelled(&hosts, &mut stays);
    broken(&hosts, &mut stays);
    drop(stays);
    let mut first = start("first");

    let (mut second, there) =
        hosts.migrate(&mut first, 0, "there", By::Programs { return_path: true, paused: false })?;
    let printed = first.printed();
    wait_for_ticks(&printed, &second, 3);
    let [a, b] = ["a", "b"].map(|host| hosts.folder.read(&format!("{host}.snapshot")));
    assert_same(&a, &b, "what both ends kept");
    let mut connected = there.event("connected").expect("it told of the connection");
    assert_eq!(connected["references"], json!(["disk.raw"]));

    let by = By::Programs { return_path: false, paused: false };
    let (mut third, back) = hosts.migrate(&mut second, 1, "back", by)?;
    let printed = printed + &second.printed();
    wait_for_ticks(&printed, &third, 3);
    connected = back.event("connected").expect("it told of the connection");
    assert_eq!(connected["references"], json!(["disk.raw", "b.snapshot"]));
    assert_less_than_half(&back, &there);

    let daemons = [0, 1].map(|end| hosts.daemon(end));
    let (mut fourth, there) = hosts.migrate(&mut third, 0, "there-by-daemons", By::Daemons)?;
    let printed = printed + &third.printed();
    wait_for_ticks(&printed, &fourth, 3);
    let (mut fifth, back) = hosts.migrate(&mut fourth, 1, "back-by-daemons", By::Daemons)?;
    let printed = printed + &fourth.printed();
    wait_for_ticks(&printed, &fifth, 3);
    connected = back.event("connected").expect("it told of the connection");
    assert_eq!(connected["references"], json!(["disk.raw", "guest.mem"]));
    assert_less_than_half(&back, &there);
    drop(daemons);

    let by = By::Programs { return_path: true, paused: true };
    let (sixth, _) = hosts.migrate(&mut fifth, 0, "paused", by)?;
    let printed = printed + &fifth.printed();
    wait_for_ticks(&printed, &sixth, 3);
    for trip in ["there", "back", "there-by-daemons", "back-by-daemons", "paused"] {
        let socket = format!("{trip}-out");
        assert!(!Path::new(&hosts.path(&socket)).exists(), "{socket} is left behind");
    }
    Ok(())
}

#[track_caller]
fn assert_less_than_half(back: &Mig, there: &Mig) {
    let [there, back] = [there, back].map(|mig| mig.event("done").expect("it told of the end"));
    eprintln!("there: {there}\nback: {back}");
    let wire = |done: &Value| done["wire_bytes"].as_u64().expect("a number");
    let (back, there) = (wire(&back), wire(&there));
    assert!(back * 2 < there, "the way back took {back}, the way there {there}");
}

/// `migrate_cancel` in the middle.
fn cancelled(hosts: &Hosts, machine: &mut Machine) {
    let (there, mut send, mut receive) = hosts.prepare(0, "cancelled", false);
    machine.ask("migrate-set-parameters", json!({ "max-bandwidth": 1 << 20 }));
    machine.migrate(&hosts.path("cancelled-out"), true);
    wait_for("some of the memory to be sent", || (machine.migration().0 > 3 << 20).then_some(()));
    machine.ask("migrate_cancel", json!({}));
    machine.wait_for_migration("cancelled");
    send.ends_with(6);
    receive.ends_with(6);
    runs_on(machine);
    drop(there);
}

/// The receiver is killed in the middle.
fn broken(hosts: &Hosts, machine: &mut Machine) {
    let (there, mut send, mut receive) = hosts.prepare(0, "broken", false);
    machine.migrate(&hosts.path("broken-out"), true);
    wait_for("some of the memory to be sent", || (machine.migration().0 > 3 << 20).then_some(()));
    receive.process.kill().expect("it runs");
    receive.process.wait().expect("it ends");
    machine.wait_for_migration("failed");
    send.ends_with(5);
    machine.ask("migrate-set-parameters", json!({ "max-bandwidth": 1 << 30 }));
    runs_on(machine);
    drop(there);
}

#[track_caller]
fn runs_on(machine: &mut Machine) {
    assert_eq!(machine.state(), "running");
    wait_for_ticks("", machine, 2);
}
