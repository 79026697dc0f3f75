//! Two hosts with a slow cable between them: network namespaces, a veth pair, `tc tbf`.

use std::path::Path;
use std::process::{Command, Output};

/// The two ends' addresses.
pub(crate) const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

/// Two network namespaces. They are removed with this value.
pub(crate) struct Net {
    names: [String; 2],
}

fn run(command: &str) -> std::io::Result<Output> {
    let mut words = command.split_whitespace();
    Command::new(words.next().unwrap_or_default()).args(words).output()
}

fn must(command: &str) {
    let output = run(command).unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A program that is killed if this one is.
pub(crate) fn bound(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

/// Removes what tests left behind that were killed.
fn remove_old() {
    let Ok(list) = run("ip netns list") else { return };
    for line in String::from_utf8_lossy(&list.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let of = name.strip_prefix("mig-").and_then(|rest| rest.split_once('-'));
        let Some((id, "a" | "b" | "try")) = of else { continue };
        if id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists() {
            // Whoever ran at the same time has done so.
            let _ = run(&format!("ip netns delete {name}"));
        }
    }
}

impl Net {
    /// Whether this machine and this user can have them.
    pub(crate) fn possible() -> bool {
        let name = format!("mig-{}-try", std::process::id());
        let done = |command: String| run(&command).is_ok_and(|output| output.status.success());
        done(format!("ip netns add {name}")) && done(format!("ip netns delete {name}"))
    }

    /// Two hosts; what each sends goes at most at this rate.
    pub(crate) fn new(rate: &str) -> Self {
        remove_old();
        let id = std::process::id();
        let net = Net { names: ["a", "b"].map(|end| format!("mig-{id}-{end}")) };
        let [a, b] = &net.names;
        must(&format!("ip netns add {a}"));
        must(&format!("ip netns add {b}"));
        must(&format!("ip -n {a} link add eth0 type veth peer name eth0 netns {b}"));
        for (name, address) in net.names.iter().zip(ADDRESSES) {
            must(&format!("ip -n {name} address add {address}/24 dev eth0"));
            must(&format!("ip -n {name} link set lo up"));
            must(&format!("ip -n {name} link set eth0 up"));
            must(&format!("tc -n {name} qdisc add dev eth0 root tbf rate {rate} burst 128kb latency 50ms"));
        }
        net
    }

    /// A program that runs on one of them.
    pub(crate) fn command(&self, end: usize, program: &str) -> Command {
        let mut command = bound("ip");
        command.args(["netns", "exec", &self.names[end], program]);
        command
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.names {
            // What is left is seen by whoever lists them; a failed test says more.
            let _ = run(&format!("ip netns delete {name}"));
        }
    }
}
