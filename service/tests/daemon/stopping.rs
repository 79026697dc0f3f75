//! Daemons that stop: asked to, in time and not, and killed.

use mig_tests::sample;
use serde_json::Value;

use crate::common::{Folder, assert_same};
use crate::host::{Host, folder};
use crate::link::Link;
use crate::running::{Running, until};

fn vm(folder: &Folder) -> String {
    let image = folder.path("there.raw");
    format!("drain_seconds = 30\n[[vm]]\nname = 'desktop'\npeers = ['a']\nimage = '{}'\n", image.display())
}

/// A sender that goes on for a while when the link breaks.
fn sender(folder: &Folder, port: u16) -> Running {
    let arguments = format!(
        "send mem.raw --json --vm desktop --keys keys/a --retry 40 --effort store --to 127.0.0.1:{port}"
    );
    Running::start(folder.command(&arguments), folder.path("sender.events"))
}

/// A sender through a link with so many bytes a second, when a part of its memory has arrived.
fn under_way_at(rate: u64, host: &Host<'_>) -> (Link, Running) {
    let link = Link::to(host.port);
    link.slow(rate);
    let sender = sender(host.folder, link.port);
    under_way(host);
    (link, sender)
}

/// Waits until the sender has sent a part of it, and its receiver verified some.
fn under_way(host: &Host<'_>) {
    until("a migration under way", || {
        let all = host.get("/v1/migrations");
        let pages = all[0]["progress"]["pages"].as_u64()?;
        (pages > 0).then_some(())
    });
}

#[test]
fn what_runs_comes_to_its_end_and_nothing_new_begins() {
    let folder = folder();
    let mut b = Host::start(&folder, "b", &vm(&folder));
    let (link, mut sender) = under_way_at(1 << 20, &b);
    b.terminate();
    until("it drains", || (crate::http::get(b.metrics, "/readyz").status == 503).then_some(()));
    let refused = folder.run(&format!("send old.raw --vm other --keys keys/a --to 127.0.0.1:{}", b.port));
    assert!(refused.code(5).stderr.contains("draining"));
    let start = b.start_of("x", "mem.raw", b.port);
    b.ask("POST", "/v1/migrations", &start).is(503);
    link.slow(1 << 30);
    sender.ends_with(0);
    b.running.ends_with(0);
    assert_same(&folder.read("there.raw"), sample::memory(), "what arrived");
    assert!(!b.socket().exists(), "its socket is left behind");
}

#[test]
fn what_does_not_end_in_time_is_kept_for_another_try() {
    let folder = folder();
    let text = vm(&folder).replace("drain_seconds = 30", "drain_seconds = 1");
    let mut b = Host::start(&folder, "b", &text);
    let (_link, mut first) = under_way_at(500 << 10, &b);
    b.terminate();
    b.running.ends_with(0);
    first.ends_with(5);
    assert!(first.messages().contains("what it has is kept"), "{}", first.messages());
    assert!(
        folder.names().iter().any(|name| name.contains("there.raw") && name.contains("partial")),
        "{:?}",
        folder.names()
    );
    // The next daemon goes on with it.
    let b = Host::start(&folder, "b", &text);
    let mut second = sender(&folder, b.port);
    second.ends_with(0);
    assert_same(&folder.read("there.raw"), sample::memory(), "what arrived");
    let done = second.event("done").expect("it is done");
    assert!(done["kept_pages"].as_u64().expect("a number") > 0, "{done}");
}

#[test]
fn a_sending_daemon_that_stops_leaves_the_source_as_it_was() {
    let folder = folder();
    let mut a = Host::start(&folder, "a", "drain_seconds = 0\nmigrations = 1\n");
    let b = Host::start(&folder, "b", &vm(&folder));
    let link = Link::to(b.port);
    link.slow(200 << 10);
    a.send("desktop", "mem.raw", link.port);
    a.send("second", "old.raw", link.port);
    under_way(&b);
    a.terminate();
    a.running.ends_with(0);
    let log = a.running.messages();
    assert_eq!(log.matches("migration ended: this daemon stops").count(), 2, "{log}");
    let received = b.received("failed");
    assert_eq!(received["reason"]["failure"], "cancelled-there", "{received}");
    assert_same(&folder.read("mem.raw"), sample::memory(), "the source");
    assert!(!folder.path("there.raw").exists());
}

#[test]
fn a_daemon_that_is_killed_goes_on_where_it_was() {
    let folder = folder();
    let text = format!("{}snapshot = true\n", vm(&folder));
    let mut b = Host::start(&folder, "b", &text);
    let (link, mut sender) = under_way_at(1 << 20, &b);
    link.cut();
    b.running.kill();
    // Its socket is still there, and its store as the kill left it.
    let b = Host::start(&folder, "b", &text);
    link.heal(b.port);
    link.slow(1 << 30);
    sender.ends_with(0);
    assert_same(&folder.read("there.raw"), sample::memory(), "what arrived");
    let done = sender.event("done").expect("it is done");
    assert!(done["kept_pages"].as_u64().expect("a number") > 0, "{done}");
    b.received("complete");
    assert_eq!(b.kept("snapshots"), ["desktop.mem"]);
    let references: Value = b.get("/v1/references");
    assert_eq!(references["kept"][0]["of"], "desktop", "{references}");
}
