//! Who may send what, and what may be used for it.

use mig_tests::sample;
use serde_json::{Value, json};

use crate::common::{assert_same, ended, make_fifo};
use crate::host::{Host, folder};

/// Two tenants on one host: `a` may send `desktop`, `c` may send `other`.
fn tenants(folder: &crate::common::Folder) -> String {
    let vm = |name: &str, peer: &str, disks: &str| {
        let image = folder.path(&format!("{name}.raw"));
        let image = image.display();
        format!(
            "[[vm]]\nname = '{name}'\npeers = ['{peer}']\nimage = '{image}'\nreplace = true\nsnapshot = true\ndisks = [{disks}]\n"
        )
    };
    let disk = folder.path("disk.raw");
    vm("desktop", "a", &format!("'{}'", disk.display())) + &vm("other", "c", "")
}

#[test]
fn a_peer_learns_nothing_of_vms_that_it_may_not_send() {
    let folder = folder();
    let b = Host::start(&folder, "b", &tenants(&folder));
    let send = |host: &str, vm: &str| {
        let to = format!("--to 127.0.0.1:{} --vm {vm} --keys keys/{host}", b.port);
        folder.run(&format!("send mem.raw {to} --reference disk.raw --reference old.raw"))
    };
    // One that is there and one that is not are refused alike.
    let there = send("c", "desktop").code(5).stderr.replace("desktop", "VM");
    let nowhere = send("c", "nothing").code(5).stderr.replace("nothing", "VM");
    assert!(there.contains("permission") && there.contains("may not send VM here"), "{there}");
    assert_eq!(there, nowhere);
    // a's memory is kept at b; c, which knows all of it and the disk, can't find out by sending it as its own.
    let first = send("a", "desktop").code(0);
    assert!(first.stderr.contains("both have disk.raw"), "{}", first.stderr);
    b.received("complete");
    assert_eq!(b.kept("snapshots"), ["desktop.mem"]);
    let probe = folder.run(&format!(
        "send mem.raw --to 127.0.0.1:{} --vm other --keys keys/c --reference disk.raw --reference desktop.raw",
        b.port
    ));
    let probe = probe.code(0);
    assert!(!probe.stderr.contains("both have"), "{}", probe.stderr);
    assert_same(&folder.read("other.raw"), sample::memory(), "what c sent");
    // Its own snapshot it may use.
    b.received("complete");
    let again = folder.run(&format!(
        "send old.raw --to 127.0.0.1:{} --vm other --keys keys/c --reference other.raw --reference disk.raw",
        b.port
    ));
    let again = again.code(0);
    assert!(again.stderr.contains("both have other.raw"), "{}", again.stderr);
    assert!(again.stderr.contains("not used, as only one has it: disk.raw"), "{}", again.stderr);
    assert!(b.ask("GET", "/v1/migrations", &Value::Null).json().as_array().expect("a list").len() == 3);
    let metrics = crate::http::get(b.metrics, "/metrics").body;
    assert!(metrics.contains("migd_refused_total{code=\"permission\"} 2"), "{metrics}");
}

#[test]
fn a_destination_is_prepared_for_one_migration_and_for_whom_it_says() {
    let folder = folder();
    let b = Host::start(&folder, "b", "");
    let send = |host: &str| {
        let to = format!("--to 127.0.0.1:{} --vm fresh --keys keys/{host}", b.port);
        folder.run(&format!("send mem.raw {to}"))
    };
    send("a").code(5);
    let destination = json!({ "image": folder.path("fresh.raw"), "peers": ["a"] });
    b.ask("PUT", "/v1/destinations/fresh", &destination).is(204);
    assert_eq!(b.get("/v1/destinations")["fresh"]["peers"], json!(["a"]));
    send("c").code(5);
    send("a").code(0);
    assert_same(&folder.read("fresh.raw"), sample::memory(), "what arrived");
    b.received("complete");
    assert_eq!(b.get("/v1/destinations"), json!({}), "it was for one migration");
    send("a").code(5);
    b.ask("DELETE", "/v1/destinations/fresh", &Value::Null).is(404);
}

/// A VM that is known, without a place to go to.
#[test]
fn a_vm_without_a_destination_is_not_expected() {
    let folder = folder();
    let b = Host::start(&folder, "b", "[[vm]]\nname = 'desktop'\npeers = ['a']\n");
    let to = format!("--to 127.0.0.1:{} --vm desktop --keys keys/a", b.port);
    let refused = folder.run(&format!("send mem.raw {to}")).code(5);
    assert!(refused.stderr.contains("no destination was prepared for desktop"), "{}", refused.stderr);
}

/// `slow`'s disk is a pipe that nobody writes to, so opening it takes for ever.
#[test]
fn a_vm_whose_disk_is_slow_to_open_holds_up_no_other() {
    let folder = folder();
    let pipe = folder.path("pipe");
    make_fifo(&pipe);
    let vm = |name: &str, disks: &str| {
        let image = folder.path(&format!("{name}.raw"));
        let image = image.display();
        format!("[[vm]]\nname = '{name}'\npeers = ['a']\nimage = '{image}'\ndisks = [{disks}]\n")
    };
    let b = Host::start(&folder, "b", &(vm("slow", &format!("'{}'", pipe.display())) + &vm("other", "")));
    let send = |vm: &str| format!("send mem.raw --to 127.0.0.1:{} --vm {vm} --keys keys/a", b.port);
    let slow = folder.spawn(&send("slow"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    folder.run(&send("other")).code(0);
    assert_same(&folder.read("other.raw"), sample::memory(), "what came meanwhile");
    // Now it is opened, and is no disk.
    drop(std::fs::File::options().write(true).open(&pipe).expect("somebody waits for it"));
    let slow = ended(slow);
    assert!(slow.stderr.contains("can't open one of its references"), "{}", slow.stderr);
}
