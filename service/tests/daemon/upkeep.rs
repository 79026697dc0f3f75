//! A daemon that runs for long: what it looks after by itself, and that it does not grow.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use mig_tests::sample;
use serde_json::Value;

use crate::common::{Folder, assert_same};
use crate::host::{Host, folder};
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
