//! A destination without room.

use std::process::Command;

use crate::common;
use crate::hosts::Hosts;
use crate::link::Link;
use crate::running::Running;

/// In a mount namespace of its own: a full file system first, which then is made larger.
const SCRIPT: &str = r#"
set -u
mount -t tmpfs -o size=12m none small || exit 90
"$MIG" receive --json --keys keys/b --listen 127.0.0.1:0 -o small/back.raw
[ $? = 5 ] || exit 91
[ "$(ls -A small | sort | tr '\n' ' ')" = ".back.raw.mig-partial .back.raw.mig-partial.head " ] || exit 92
mount -o remount,size=100m small || exit 93
"$MIG" receive --json --keys keys/b --listen 127.0.0.1:0 -o small/back.raw || exit 94
[ "$(ls -A small)" = back.raw ] || exit 95
cp small/back.raw back.raw
"#;

#[test]
fn a_full_disk() {
    if !common::has_mounts() {
        return;
    }
    let hosts = Hosts::new();
    std::fs::create_dir(hosts.path("small")).expect("room");
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", SCRIPT]).current_dir(hosts.path("."));
    command.env("MIG", env!("CARGO_BIN_EXE_mig"));
    let mut receivers = Running::start(command, hosts.path("receivers.events"));
    let port = |receivers: &mut Running, number: usize| {
        receivers.wait_for("listening");
        crate::running::until("the receiver to listen", || {
            let events = receivers.events();
            let address = events.iter().filter(|event| event["event"] == "listening").nth(number)?["address"]
                .as_str()?;
            address.rsplit_once(':')?.1.parse::<u16>().ok()
        })
    };
    let first = port(&mut receivers, 0);
    let link = Link::to(first);
    link.slow(6 << 20);
    let mut sender = hosts.send(link.port, "--effort fast");
    sender.ends_with(5);
    assert!(sender.messages().contains("No space left on device"), "{}", sender.messages());
    hosts.intact();
    let mut sender = hosts.send(port(&mut receivers, 1), "");
    sender.ends_with(0);
    receivers.ends_with(0);
    hosts.arrived();
    let kept = sender.wait_for("done")["kept_pages"].as_u64().expect("a number");
    assert!(kept > 1000, "{kept} pages were there already");
}
