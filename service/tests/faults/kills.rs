//! `kill -9` of either side at random points, and Ctrl-C.

use std::thread::sleep;
use std::time::{Duration, Instant};

use mig_tests::handmade::Random;

use crate::hosts::Hosts;
use crate::link::Link;

/// Bytes a second: a migration takes about a second.
const RATE: u64 = 6 << 20;
const LIMITS: &str = "--timeout 5 --retry 20 --effort fast";
const LIMITS_THERE: &str = "--timeout 5 --retry 20";

/// How often to try: `MIG_KILLS`, or a few times.
fn seeds() -> u64 {
    std::env::var("MIG_KILLS").map_or(4, |count| count.parse().expect("MIG_KILLS is a number"))
}

/// How long one takes that is left alone, and what it sends.
fn undisturbed() -> (Duration, u64) {
    let hosts = Hosts::new();
    let (mut receiver, port) = hosts.receive("");
    let link = Link::to(port);
    link.slow(RATE);
    let start = Instant::now();
    let mut sender = hosts.send(link.port, LIMITS);
    sender.ends_with(0);
    let took = start.elapsed();
    receiver.ends_with(0);
    hosts.arrived();
    (took, sender.wait_for("done")["wire_bytes"].as_u64().expect("a number"))
}

#[test]
fn either_side_is_killed() {
    let (took, _) = undisturbed();
    for seed in 0..seeds() {
        let mut random = Random::new(seed);
        let after = took.mul_f64(random.below(1000) as f64 / 1000.0);
        let kill_the_sender = random.below(2) == 0;
        eprintln!("seed {seed}: the {} after {after:?}", if kill_the_sender { "sender" } else { "receiver" });
        let hosts = Hosts::new();
        let (mut receiver, port) = hosts.receive(LIMITS_THERE);
        let link = Link::to(port);
        link.slow(RATE);
        let mut sender = hosts.send(link.port, LIMITS);
        sleep(after);
        if kill_the_sender {
            sender.kill();
            // It may have been done already.
            if receiver.event("done").is_none() {
                let mut another = hosts.send(link.port, LIMITS);
                // All may have arrived when it was killed: then the receiver ends well without another, which is
                // refused, or finds nobody, wherever it is by then. If the receiver did need one, it fails below.
                let code = another.code();
                assert!([0, 5].contains(&code), "code {code}: {}", another.messages());
            }
            receiver.ends_with(0);
        } else {
            receiver.kill();
            if hosts.left() != ["back.raw"] {
                let (mut another, port) = hosts.receive(LIMITS_THERE);
                link.heal(port);
                // Before there was a session, there is nothing to go on with: it says so, and is started again.
                if sender.code() == 5 && sender.event("connected").is_none() {
                    sender = hosts.send(link.port, LIMITS);
                }
                sender.ends_with(0);
                another.ends_with(0);
            }
        }
        hosts.arrived();
    }
}

/// What arrived before a receiver was killed is not sent again.
#[test]
fn a_receiver_that_is_started_anew_goes_on() {
    let (_, all) = undisturbed();
    let hosts = Hosts::new();
    let (mut receiver, port) = hosts.receive("");
    let link = Link::to(port);
    // So slowly, and so late, that what is on its way is little beside what is verified.
    link.slow(RATE / 2);
    let mut sender = hosts.send(link.port, LIMITS);
    let before = loop {
        let progress = receiver.wait_for("progress");
        if progress["pages"].as_u64().expect("a number") > 6000 {
            break progress["wire_bytes"].as_u64().expect("a number");
        }
        sleep(Duration::from_millis(5));
    };
    receiver.kill();
    let (mut receiver, port) = hosts.receive("");
    link.heal(port);
    sender.ends_with(0);
    receiver.ends_with(0);
    hosts.arrived();
    let done = sender.wait_for("done");
    assert!(done["kept_pages"].as_u64().expect("a number") > 3000, "{done}");
    let after = done["wire_bytes"].as_u64().expect("a number");
    // What was on its way or not verified is sent twice; and marks cost a little.
    assert!(after + before / 2 < all, "{before} before, {after} after, {all} undisturbed");
}

/// Somebody stops it, here or there: the other side ends within a second or so, and the destination is clean.
#[test]
fn interrupted_at_either_end() {
    for at_the_sender in [true, false] {
        let hosts = Hosts::new();
        let (mut receiver, port) = hosts.receive("");
        let link = Link::to(port);
        link.slow(1 << 20);
        let mut sender = hosts.send(link.port, "");
        receiver.wait_for("progress");
        let (one, other) =
            if at_the_sender { (&mut sender, &mut receiver) } else { (&mut receiver, &mut sender) };
        let start = Instant::now();
        one.interrupt();
        one.ends_with(130);
        other.ends_with(6);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(4), "it took {took:?}");
        hosts.intact();
        assert_eq!(hosts.left(), [""; 0]);
    }
}
