//! Links that break, stall, are slow, and damage what they carry.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mig_tests::sample;

use crate::hosts::Hosts;
use crate::link::Link;
use crate::running::{Running, until};

fn pages(running: &mut Running) -> u64 {
    running.wait_for("progress")["pages"].as_u64().expect("a number")
}

#[test]
fn nothing_breaks() {
    let hosts = Hosts::new();
    let (mut receiver, port) = hosts.receive("");
    let mut sender = hosts.send(port, "");
    sender.ends_with(0);
    receiver.ends_with(0);
    hosts.arrived();
    let done = sender.wait_for("done");
    assert_eq!((&done["pages"], &done["verified"]), (&10240.into(), &10240.into()));
    assert_eq!(receiver.wait_for("done")["pages"], 10240);
}

/// What is sent can be scanned on a GPU, and the wire carries the same.
#[test]
fn a_gpu_scans_what_is_sent() {
    let hosts = Hosts::new();
    let mut nobody = hosts.send(1, "--gpu require --gpu-adapter no-such-adapter");
    nobody.ends_with(2);
    assert!(nobody.messages().contains("--gpu require: no GPU"), "{}", nobody.messages());
    let Some(name) = hosts.folder.adapter() else { return };
    let word = name.split_whitespace().next().expect("a word").to_lowercase();
    let (mut receiver, port) = hosts.receive("");
    let mut sender = hosts.send(port, &format!("--effort fast --gpu require --gpu-adapter {word}"));
    sender.ends_with(0);
    receiver.ends_with(0);
    hosts.arrived();
    assert!(sender.messages().contains("of 10 chunks scanned on the GPU"), "{}", sender.messages());
}

/// Cut in the middle three times, and there again a little later.
#[test]
fn cut_and_healed() {
    let hosts = Hosts::new();
    let (mut receiver, port) = hosts.receive("--timeout 5 --retry 20");
    let link = Link::to(port);
    link.slow(4 << 20);
    let mut sender = hosts.send(link.port, "--timeout 5 --retry 20 --effort fast");
    let count =
        |sender: &Running, kind: &str| sender.events().iter().filter(|event| event["event"] == kind).count();
    for cut in 1..=3u64 {
        while pages(&mut receiver) < cut * 2000 {
            sleep(Duration::from_millis(5));
        }
        link.cut();
        sleep(Duration::from_millis(100 * cut));
        link.heal(port);
        until("the link to be there again", || (count(&sender, "resumed") as u64 == cut).then_some(()));
    }
    sender.ends_with(0);
    receiver.ends_with(0);
    hosts.arrived();
    let count = |kind: &str| count(&sender, kind);
    assert_eq!((count("broken"), count("resumed")), (3, 3), "{}", sender.messages());
    let done = sender.wait_for("done");
    // Only what was on its way was sent twice.
    let [wire, frames] = ["wire_bytes", "frame_bytes"].map(|field| done[field].as_u64().expect("a number"));
    assert!(wire < frames * 2, "{done}");
    assert_eq!(done["kept_pages"], 0, "it was one session");
}

/// Cut for good: both sides end within their limits, and a later try goes on with what arrived.
#[test]
fn cut_for_good() {
    let hosts = Hosts::new();
    let limits = "--timeout 2 --retry 1";
    let (mut receiver, port) = hosts.receive(limits);
    let link = Link::to(port);
    link.slow(3 << 20);
    let mut sender = hosts.send(link.port, &format!("{limits} --effort fast"));
    while pages(&mut receiver) < 4000 {
        sleep(Duration::from_millis(5));
    }
    link.cut();
    let start = Instant::now();
    sender.ends_with(5);
    receiver.ends_with(5);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    assert!(receiver.messages().contains("did not come back"), "{}", receiver.messages());
    assert_eq!(hosts.left(), [".back.raw.mig-partial", ".back.raw.mig-partial.head"]);
    let (mut receiver, port) = hosts.receive("");
    let mut sender = hosts.send(port, "");
    sender.ends_with(0);
    receiver.ends_with(0);
    hosts.arrived();
    let kept = sender.wait_for("done")["kept_pages"].as_u64().expect("a number");
    assert!(kept > 3000, "{kept} pages were there already");
}

/// Nothing gets through any more, and no connection breaks: neither side waits for ever.
#[test]
fn held() {
    // All connections, and those for data.
    for from in [0, 1] {
        let hosts = Hosts::new();
        let limits = "--timeout 1 --retry 1";
        let (mut receiver, port) = hosts.receive(limits);
        let link = Link::to(port);
        link.slow(2 << 20);
        let mut sender = hosts.send(link.port, limits);
        while pages(&mut receiver) == 0 {
            sleep(Duration::from_millis(5));
        }
        link.hold(from);
        let start = Instant::now();
        sender.ends_with(5);
        receiver.ends_with(5);
        let took = start.elapsed();
        // A new connection has ten seconds for TLS.
        assert!(took < Duration::from_secs(15), "held from connection {from}: it took {took:?}");
        hosts.intact();
        assert_eq!(hosts.left(), [".back.raw.mig-partial", ".back.raw.mig-partial.head"]);
    }
}

/// A connection that hardly moves, and others that come before it: it holds up what it has, and that is sent again.
#[test]
fn one_slow_connection() {
    let hosts = Hosts::new();
    let (mut receiver, port) = hosts.receive("--timeout 5 --connections 4");
    let link = Link::to(port);
    // The control connection is the first.
    link.slow_one(2, 20_000);
    let start = Instant::now();
    let mut sender = hosts.send(link.port, "--timeout 5 --connections 4 --effort fast");
    sender.ends_with(0);
    receiver.ends_with(0);
    let took = start.elapsed();
    hosts.arrived();
    // A quarter of it over that connection would take minutes.
    assert!(took < Duration::from_secs(20), "it took {took:?}");
}

/// A bit that changes on the way, without TLS that would see it: the frame is asked for again.
#[test]
fn a_flipped_bit() {
    let hosts = Hosts::new();
    let (mut receiver, port) = hosts.receive("--insecure");
    let link = Link::to(port);
    link.flip(1, 100_000);
    let mut sender = hosts.send(link.port, "--insecure --connections 1 --effort fast");
    sender.ends_with(0);
    receiver.ends_with(0);
    hosts.arrived();
    assert_eq!(sender.wait_for("done")["again"], 1);
    assert!(sender.event("again").is_some());
}

/// The receiver's disk image changes after both have said that they have it: what does not verify comes without it.
#[test]
fn a_reference_that_changes() {
    let hosts = Hosts::new();
    hosts.folder.write("here.disk", sample::disk());
    hosts.folder.write("there.disk", sample::disk());
    let (mut receiver, port) = hosts.receive("-r there.disk");
    let link = Link::to(port);
    link.hold(1);
    let mut sender = hosts.send(link.port, "-r here.disk");
    assert_eq!(sender.wait_for("connected")["references"], serde_json::json!(["here.disk"]));
    let disk = File::options().write(true).open(hosts.path("there.disk")).expect("it is there");
    for at in (0..sample::disk().len() as u64).step_by(4096) {
        disk.write_all_at(b"changed", at + 100).expect("it can be written");
    }
    link.release();
    sender.ends_with(0);
    receiver.ends_with(0);
    hosts.arrived();
    assert!(sender.wait_for("done")["again"].as_u64() > Some(0), "it was not noticed");
}
