//! Migrations between daemons, and between a daemon and `mig`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use mig_tests::sample;
use serde_json::{Value, json};

use crate::common::assert_same;
use crate::host::{Host, folder};
use crate::http::{ask, get};
use crate::running::{Running, until};

/// A VM that goes there and back.
fn vm(folder: &crate::common::Folder, image: &str, peer: &str) -> String {
    let path = |name: &str| folder.path(name).display().to_string();
    let (disk, image) = (path("disk.raw"), path(image));
    format!(
        "[[vm]]\nname = 'desktop'\npeers = ['{peer}']\ndisks = ['{disk}']\nimage = '{image}'\nreplace = true\nsnapshot = true\n"
    )
}

fn wire_bytes(migration: &Value) -> u64 {
    migration["summary"]["wire_bytes"].as_u64().expect("it is complete")
}

#[test]
fn there_with_the_disk_and_back_with_the_snapshot() {
    let folder = folder();
    let a = Host::start(&folder, "a", &vm(&folder, "back.raw", "b"));
    let b = Host::start(&folder, "b", &vm(&folder, "there.raw", "a"));
    let there = a.send("desktop", "old.raw", b.port);
    let events = a.watch(&there);
    let connected = events.iter().find(|event| event["event"] == "connected").expect("they met");
    assert_eq!(connected["references"], json!(["disk.raw"]), "{connected}");
    assert_eq!(events.last().expect("an end")["event"], "done", "{events:?}");
    let sent = a.ends(&there, "complete");
    let received = b.received("complete");
    assert_same(&folder.read("there.raw"), sample::older(), "what arrived");
    assert_eq!(sent["summary"]["verified"], received["summary"]["verified"]);
    assert!(received["peer"].as_str().expect("text").starts_with("a ("), "{received}");
    // Both keep it for the way back, and the sender keeps the disk's index.
    for host in [&a, &b] {
        assert_eq!(host.kept("snapshots"), ["desktop.mem"]);
    }
    assert_eq!(a.kept("indexes").len(), 2, "an index and samples: {:?}", a.kept("indexes"));
    // Ten minutes later it goes back.
    let back = b.send("desktop", "mem.raw", a.port);
    let returned = b.ends(&back, "complete");
    a.received("complete");
    assert_same(&folder.read("back.raw"), sample::memory(), "what came back");
    let events = b.watch(&back);
    let connected = events.iter().find(|event| event["event"] == "connected").expect("they met");
    assert_eq!(connected["references"], json!(["disk.raw", "desktop.mem"]), "{connected}");
    assert!(wire_bytes(&returned) < wire_bytes(&sent), "{returned} {sent}");
    // What operators see of it.
    let metrics = get(a.metrics, "/metrics").body;
    for line in [
        "migd_migrations_total{direction=\"outgoing\",result=\"complete\"} 1",
        "migd_migrations_total{direction=\"incoming\",result=\"complete\"} 1",
        &format!("migd_wire_bytes_total{{direction=\"outgoing\"}} {}", wire_bytes(&sent)),
        &format!("migd_memory_bytes_total{{direction=\"outgoing\"}} {}", sample::older().len()),
        "migd_active{direction=\"outgoing\",state=\"running\"} 0",
        "migd_draining 0",
        "# EOF",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line}\n{metrics}");
    }
    assert_eq!(get(a.metrics, "/healthz").status, 200);
    assert_eq!(get(a.metrics, "/readyz").status, 200);
    let references = a.get("/v1/references");
    assert_eq!(references["kept"].as_array().expect("a list").len(), 3, "{references}");
    a.ask("DELETE", "/v1/references/snapshots/desktop.mem", &Value::Null).is(204);
    a.ask("DELETE", "/v1/references/snapshots/desktop.mem", &Value::Null).is(404);
    assert!(a.kept("snapshots").is_empty());
    assert!(a.running.messages().lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[test]
fn mig_send_works_with_and_without_a_daemon_on_the_near_side() {
    let folder = folder();
    let _a = Host::start(&folder, "a", "");
    let b = Host::start(&folder, "b", &vm(&folder, "there.raw", "a"));
    let to = format!("--to 127.0.0.1:{} --vm desktop --reference disk.raw", b.port);
    let plain = folder.run(&format!("send mem.raw {to} --keys keys/a")).code(0);
    assert_same(&folder.read("there.raw"), sample::memory(), "without a daemon");
    fs::remove_file(folder.path("there.raw")).expect("it is there");
    let by_daemon = folder.run(&format!("send mem.raw {to} --daemon unix:a.sock")).code(0);
    assert_same(&folder.read("there.raw"), sample::memory(), "with one");
    for ran in [&plain, &by_daemon] {
        assert!(ran.stderr.contains("both have disk.raw"), "{}", ran.stderr);
        assert!(ran.stderr.contains("verified and in place"), "{}", ran.stderr);
    }
    // What a daemon refuses, and what fails there, has the exit code that it has without.
    let wrong = folder.run(&format!("send no.raw {to} --daemon unix:a.sock")).code(1);
    assert!(wrong.stderr.contains("no.raw: No such file"), "{}", wrong.stderr);
    let nobody = folder.run(&format!("send mem.raw {to} --daemon unix:nobody.sock")).code(1);
    assert!(nobody.stderr.contains("cannot reach a daemon at"), "{}", nobody.stderr);
    let refused = folder.run("send mem.raw --to 127.0.0.1:1 --vm desktop --daemon unix:a.sock").code(5);
    assert!(refused.stderr.contains("cannot reach 127.0.0.1:1"), "{}", refused.stderr);
}

#[test]
fn a_daemon_sends_to_mig_receive_and_is_cancelled_from_either_end() {
    let folder = folder();
    let a = Host::start(&folder, "a", "");
    let receive = |output: &str| {
        let arguments = format!("receive --json --listen 127.0.0.1:0 --keys keys/b -o {output}");
        let mut running =
            Running::start(folder.command(&arguments), folder.path(&format!("{output}.events")));
        let address = running.wait_for("listening")["address"].as_str().expect("an address").to_owned();
        (running, address.rsplit_once(':').expect("a port").1.parse::<u16>().expect("a number"))
    };
    let (mut receiver, port) = receive("one.raw");
    let id = a.send("one", "mem.raw", port);
    a.ends(&id, "complete");
    receiver.ends_with(0);
    assert_same(&folder.read("one.raw"), sample::memory(), "what arrived");
    // Through a slow link, so that there is time to stop it.
    let slow = |port| {
        let link = crate::link::Link::to(port);
        link.slow(100 << 10);
        link
    };
    let (mut receiver, port) = receive("two.raw");
    let link = slow(port);
    let id = a.send("two", "mem.raw", link.port);
    until("it runs", || (a.migration(&id)["progress"]["wire_bytes"].as_u64()? > 0).then_some(()));
    a.ask("DELETE", &format!("/v1/migrations/{id}"), &Value::Null).is(202);
    a.ends(&id, "cancelled");
    receiver.ends_with(6);
    let (mut receiver, port) = receive("three.raw");
    let link = slow(port);
    let id = a.send("three", "mem.raw", link.port);
    until("it runs", || (a.migration(&id)["progress"]["wire_bytes"].as_u64()? > 0).then_some(()));
    receiver.interrupt();
    let failed = a.ends(&id, "failed");
    assert_eq!(failed["reason"]["failure"], "cancelled-there", "{failed}");
    receiver.ends_with(130);
    let left =
        folder.names().into_iter().filter(|name| name.contains("two.raw") || name.contains("three.raw"));
    let left: Vec<String> =
        left.filter(|name| !name.contains("events") && !name.contains("messages")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_same(&folder.read("mem.raw"), sample::memory(), "the source");
}

#[test]
fn so_many_at_once_and_the_rest_in_turn() {
    let folder = folder();
    let a = Host::start(&folder, "a", "migrations = 1\nqueue = 2\n");
    let vms: String = ["one", "two", "three"]
        .map(|name| {
            let image = folder.path(&format!("{name}.raw"));
            format!("[[vm]]\nname = '{name}'\npeers = ['*']\nimage = '{}'\n", image.display())
        })
        .concat();
    let b = Host::start(&folder, "b", &vms);
    let link = crate::link::Link::to(b.port);
    link.slow(1 << 20);
    let ids = ["one", "two", "three"].map(|vm| a.send(vm, "mem.raw", link.port));
    let full = a.ask("POST", "/v1/migrations", &a.start_of("four", "mem.raw", b.port)).is(429);
    assert!(full["message"].as_str().expect("text").contains("run or wait already"), "{full}");
    let twice = a.ask("POST", "/v1/migrations", &a.start_of("two", "mem.raw", b.port)).is(409);
    assert!(twice["message"].as_str().expect("text").contains(&ids[1]), "{twice}");
    let status = a.get("/v1/status");
    assert_eq!((&status["running"], &status["queued"]), (&json!(1), &json!(2)), "{status}");
    link.slow(1 << 30);
    let mut last = 0;
    for (id, vm) in ids.iter().zip(["one", "two", "three"]) {
        let migration = a.ends(id, "complete");
        assert_same(&folder.read(&format!("{vm}.raw")), sample::memory(), vm);
        let started = migration["started"].as_u64().expect("it has begun");
        assert!(started >= last, "{migration}");
        last = started;
    }
    assert!(a.watch(&ids[1]).iter().any(|event| event["event"] == "waiting"), "the second did not wait");
}

/// Each has one place and takes it for what it sends: both would wait for ever if a busy destination were waited for with it.
#[test]
fn two_hosts_that_send_to_each_other_with_one_place_each_do_not_block_each_other() {
    let folder = folder();
    let image = |name: &str| folder.path(name).display().to_string();
    let of = |vm: &str, peer: &str| {
        let image = image(&format!("{vm}.raw"));
        format!("migrations = 1\n[[vm]]\nname = '{vm}'\npeers = ['{peer}']\nimage = '{image}'\n")
    };
    let a = Host::start(&folder, "a", &of("to-a", "b"));
    let b = Host::start(&folder, "b", &of("to-b", "a"));
    let (to_b, to_a) = (a.send("to-b", "mem.raw", b.port), b.send("to-a", "old.raw", a.port));
    a.ends(&to_b, "complete");
    b.ends(&to_a, "complete");
    assert_same(&folder.read("to-b.raw"), sample::memory(), "at b");
    assert_same(&folder.read("to-a.raw"), sample::older(), "at a");
}

#[test]
fn the_control_socket_is_its_users_alone_and_says_what_is_wrong_with_a_request() {
    let folder = folder();
    let a = Host::start(&folder, "a", "");
    let mode = fs::metadata(a.socket()).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for (body, wrong) in [
        ("{", "EOF"),
        (r#"{"colour": 1}"#, "unknown field `colour`"),
        (r#"{"vm": "../x", "to": "h:1", "image": "/x"}"#, "a name is"),
        (r#"{"vm": "x", "to": "h", "image": "/x"}"#, "HOST:PORT"),
        (r#"{"vm": "x", "to": "h:1"}"#, "image or qemu"),
        (r#"{"vm": "x", "to": "h:1", "image": "x"}"#, "from the root"),
        (r#"{"vm": "x", "to": "h:1", "image": "/x", "effort": "most"}"#, "most"),
        (r#"{"vm": "x", "to": "h:1", "image": "/x", "format": "most"}"#, "most"),
    ] {
        let answer = ask(&a.socket(), "POST", "/v1/migrations", body).is(400);
        assert_eq!(answer["failure"], "usage");
        assert!(answer["message"].as_str().expect("text").contains(wrong), "{body}: {answer}");
    }
    a.ask("GET", "/v1/migrations/none", &Value::Null).is(404);
    a.ask("GET", "/v2", &Value::Null).is(404);
    // Two MiB are more than any request needs.
    let too_large = ask(&a.socket(), "POST", "/v1/migrations", &" ".repeat((2 << 20) + 1)).is(413);
    assert_eq!(too_large["failure"], "usage");
    let wrong_method = a.ask("PATCH", "/v1/migrations", &Value::Null).is(405);
    assert_eq!(wrong_method["failure"], "usage");
    a.ask("PUT", "/v1/destinations/x", &json!({ "image": "/x" })).is(400);
    let document = a.get("/v1/openapi.json");
    assert!(document["paths"]["/v1/migrations"]["post"].is_object(), "{document}");
}
