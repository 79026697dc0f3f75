//! A daemon that runs for long: what it looks after by itself, and that it does not grow.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use mig_tests::sample;
use serde_json::{Value, json};

use crate::common::{Folder, assert_same, has_mounts};
use crate::host::{Host, folder, migd};
use crate::link::Link;
use crate::running::{Running, until};

fn vm(folder: &Folder, more: &str) -> String {
    let image = folder.path("there.raw");
    format!("[[vm]]\nname = 'desktop'\npeers = ['a']\nimage = '{}'\nreplace = true\n{more}", image.display())
}

#[test]
fn disks_at_rest_are_indexed_before_anybody_asks() {
    let folder = folder();
    let rest = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(folder.path("disk.raw")).unwrap().set_modified(rest).unwrap();
    folder.write("busy.raw", sample::older());
    let [disk, busy] = ["disk.raw", "busy.raw"].map(|name| folder.path(name).display().to_string());
    let a = Host::start(&folder, "a", &vm(&folder, &format!("disks = ['{disk}', '{busy}']\n")));
    let kept = until("an index and samples", || {
        let kept = a.get("/v1/references")["kept"].as_array()?.clone();
        (kept.len() == 2).then_some(kept)
    });
    // The other one was written to just now, so that an index of it would not fit for long.
    assert!(kept.iter().all(|kept| kept["of"] == disk.as_str()), "{kept:?}");
}

#[test]
fn a_gpu_that_is_required_is_used_and_one_that_is_not_there_keeps_it_from_starting() {
    let folder = folder();
    let Some(adapter) = folder.adapter() else {
        eprintln!("not tested here: there is no adapter");
        return;
    };
    let require = |adapter: &str| format!("[gpu]\nmode = 'require'\nadapter = \"{adapter}\"\n");
    let a = Host::start(&folder, "a", &require(&adapter));
    let b = Host::start(&folder, "b", &vm(&folder, ""));
    let id = a.send("desktop", "mem.raw", b.port);
    a.ends(&id, "complete");
    assert_same(&folder.read("there.raw"), sample::memory(), "what arrived");
    let log = a.running.messages();
    assert!(log.contains("chunks scanned on the GPU"), "{log}");
    folder.write("c.toml", crate::host::config(&folder, "c", &require("no such adapter")).as_bytes());
    let mut without = Running::start(crate::host::migd(&folder, "--config c.toml"), folder.path("c.events"));
    without.ends_with(2);
}

/// What a process holds: descriptors, threads, resident KiB.
fn held(host: &Host<'_>) -> [u64; 3] {
    let proc = format!("/proc/{}", host.running.process.id());
    let count = |what: &str| fs::read_dir(format!("{proc}/{what}")).expect("it runs").count() as u64;
    let status = fs::read_to_string(format!("{proc}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    let rss = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    [count("fd"), count("task"), rss]
}

/// Waits until it holds no more descriptors and threads than that.
#[track_caller]
fn back_to(host: &Host<'_>, [descriptors, threads, _]: [u64; 3]) -> [u64; 3] {
    let mut last = [0; 3];
    for _ in 0..600 {
        last = held(host);
        if last[0] <= descriptors && last[1] <= threads {
            return last;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let log = host.running.messages();
    panic!("{last:?} descriptors, threads and KiB; it was {descriptors} and {threads}\n{log}");
}

#[test]
fn whatever_happens_nothing_stays_behind_in_a_daemon() {
    let folder = folder();
    let config = format!("retry_seconds = 1\n{}", vm(&folder, "snapshot = true\n"));
    let mut b = Host::start(&folder, "b", &config);
    let send = |port: u16, arguments: &str| {
        let arguments = format!("send mem.raw --vm desktop --keys keys/a --to 127.0.0.1:{port} {arguments}");
        Running::start(folder.command(&format!("{arguments} --json")), folder.path("sender.events"))
    };
    let mut first = send(b.port, "");
    first.ends_with(0);
    b.received("complete");
    // Threads of the runtime that come with the first requests, too.
    std::thread::sleep(Duration::from_secs(1));
    let before = held(&b);
    let slow = |rate| {
        let link = Link::to(b.port);
        link.slow(rate);
        link
    };
    for round in 0..4 {
        send(b.port, "").ends_with(0);
        b.received("complete");
        // Killed, and cancelled, in the middle.
        for kill in [true, false] {
            let link = slow(300 << 10);
            let mut sender = send(link.port, "--effort store");
            until("it runs", || {
                let all = b.get("/v1/migrations");
                let last = all.as_array()?.last()?.clone();
                (last["state"] == "running" && last["progress"]["wire_bytes"].as_u64()? > 0).then_some(())
            });
            if kill {
                sender.kill()
            } else {
                sender.interrupt()
            }
            let _ = sender.code();
            drop(link);
            b.received("failed");
        }
        // Strangers: garbage, silence, and a certificate of another CA.
        for number in 0..20 {
            let mut stranger = TcpStream::connect(("127.0.0.1", b.port)).expect("it listens");
            if number % 2 == 0 {
                // It may have been thrown out already.
                let _ = stranger.write_all(&[number; 4096]);
            }
        }
        let (other, strange) = (format!("other{round}"), format!("--keys other{round}/a"));
        folder.run(&format!("keys {other} a=127.0.0.1")).code(0);
        let refused = format!("send mem.raw --vm desktop --to 127.0.0.1:{} {strange}", b.port);
        folder.run(&refused).code(5);
    }
    let after = back_to(&b, before);
    assert!(after[2] < before[2] + (32 << 10), "it grew from {} to {} KiB", before[2], after[2]);
    let left = folder.names().into_iter().filter(|name| name.starts_with(".mig") || name.contains("partial"));
    // What the killed and the cancelled ones had: at most one try is kept, for the next.
    assert!(left.count() <= 1, "{:?}", folder.names());
    assert_eq!(b.kept("snapshots"), ["desktop.mem"]);
    assert_eq!(b.ask("GET", "/v1/status", &Value::Null).json()["running"], 0);
    b.terminate();
    b.running.ends_with(0);
}

/// A daemon with a file system of 5 MiB at `small` that only it sees, where the machine lets one have that.
fn with_small_disk<'f>(folder: &'f Folder, more: &str) -> (Host<'f>, bool) {
    fs::create_dir(folder.path("small")).expect("room");
    if !has_mounts() {
        return (Host::start(folder, "b", more), false);
    }
    let plain = migd(folder, "--config b.toml");
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", "mount -t tmpfs -o size=5m none small && exec \"$0\" --config b.toml"]);
    command.arg(plain.get_program()).current_dir(folder.path("."));
    (Host::by(folder, "b", more, command), true)
}

/// Every fault that a migration between two daemons can meet: both say why it failed, or it did not, and neither keeps anything of it.
#[test]
fn faults_leave_nothing_behind_at_either_end() {
    let folder = folder();
    folder.write("there.disk", sample::disk());
    let [disk, there, small] =
        ["disk.raw", "there.disk", "small/there.raw"].map(|name| folder.path(name).display().to_string());
    let limits = "timeout_seconds = 2\nretry_seconds = 2\nbusy_seconds = 0\n";
    let sends = "[[vm]]\nname = 'desktop'\npeers = ['b']\n";
    let a = Host::start(&folder, "a", &format!("{limits}{sends}disks = ['{disk}']\n"));
    let takes = format!("{limits}{}disks = ['{there}']\n", vm(&folder, ""));
    let full = format!("[[vm]]\nname = 'large'\npeers = ['a']\nimage = '{small}'\nreplace = true\n");
    let (b, has_small) = with_small_disk(&folder, &(takes + &full));
    let begun = |link: &Link, vm: &str, more: Value| {
        let mut start = a.start_of(vm, "mem.raw", link.port);
        start.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        let started = a.ask("POST", "/v1/migrations", &start).is(201);
        started["id"].as_str().expect("an id").to_owned()
    };
    let runs = |what: &str| {
        until(what, || {
            let all = b.get("/v1/migrations");
            let last = all.as_array()?.last()?.clone();
            (last["state"] == "running" && last["progress"]["wire_bytes"].as_u64()? > 100_000).then_some(())
        });
    };
    let store = || json!({ "effort": "store" });
    let slow = || {
        let link = Link::to(b.port);
        link.slow(1 << 20);
        link
    };
    let mut before = None;
    for _ in 0..2 {
        // Cut, and there again.
        let link = slow();
        let id = begun(&link, "desktop", store());
        runs("a migration to be cut");
        link.cut();
        thread::sleep(Duration::from_millis(200));
        link.slow(100 << 20);
        link.heal(b.port);
        a.ends(&id, "complete");
        b.received("complete");
        assert_same(&folder.read("there.raw"), sample::memory(), "what arrived");
        // Cut for good; and held, which looks like a peer that has stopped reading, or speaking.
        for held in [false, true] {
            let link = slow();
            let id = begun(&link, "desktop", store());
            runs("a migration to be cut for good");
            if held {
                link.hold(0)
            } else {
                link.cut()
            }
            a.ends(&id, "failed");
            b.received("failed");
        }
        // A reference that changes after both have said that they have it.
        folder.write("there.disk", sample::disk());
        let link = Link::to(b.port);
        link.hold(1);
        let id = begun(&link, "desktop", json!({}));
        until("both to have agreed", || (a.migration(&id)["state"] == "running").then_some(()));
        thread::sleep(Duration::from_millis(300));
        let changing = File::options().write(true).open(folder.path("there.disk")).expect("it is there");
        for at in (0..sample::disk().len() as u64).step_by(4096) {
            changing.write_all_at(b"changed", at + 100).expect("it can be written");
        }
        link.release();
        a.ends(&id, "complete");
        b.received("complete");
        assert_same(&folder.read("there.raw"), sample::memory(), "what arrived without the disk");
        // No room at the destination.
        if has_small {
            let link = Link::to(b.port);
            let id = begun(&link, "large", store());
            let ended = a.ends(&id, "failed").to_string();
            assert!(ended.contains("No space left on device"), "{ended}");
            b.received("failed");
        }
        // Destinations that talk nonsense, and one that says nothing.
        for says in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = listener.local_addr().expect("it is bound").port();
            let stranger = thread::spawn(move || {
                let (mut socket, _) = listener.accept().expect("it comes");
                let _ = socket.write_all(says);
                // Until it has had enough.
                let _ = socket.read_to_end(&mut Vec::new());
            });
            let id = a.send("desktop", "mem.raw", port);
            a.ends(&id, "failed");
            stranger.join().expect("it ends");
        }
        // What the first time brings stays: threads of the runtime, an index.
        let Some((first_a, first_b)) = before else {
            thread::sleep(Duration::from_secs(1));
            before = Some((held(&a), held(&b)));
            continue;
        };
        for (host, first) in [(&a, first_a), (&b, first_b)] {
            let now = back_to(host, first);
            assert!(
                now[2] < first[2] + (32 << 10),
                "{}: it grew from {} to {} KiB",
                host.name,
                first[2],
                now[2]
            );
        }
    }
    let left = folder.names().into_iter().filter(|name| name.contains("partial"));
    assert_eq!(left.count(), 0, "what came later has taken up what was left: {:?}", folder.names());
    assert_same(&folder.read("mem.raw"), sample::memory(), "the source");
}
