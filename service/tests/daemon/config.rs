//! What is said about a configuration before anything begins.

use std::process::{Command, Output};

use crate::host::{config, folder, migd};

fn run(mut command: Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.output().expect("migd can be run");
    let text = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    (status.code().unwrap_or(-1), text.into_owned())
}

#[test]
fn a_configuration_is_checked_and_what_is_wrong_is_named_with_its_line() {
    let folder = folder();
    let check = |more: &str| {
        folder.write("m.toml", config(&folder, "a", more).as_bytes());
        run(migd(&folder, "--config m.toml --check-config"))
    };
    let disk = folder.path("disk.raw").display().to_string();
    let (code, text) = check(&format!("[[vm]]\nname = 'x'\npeers = ['b']\ndisks = ['{disk}']\n"));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("fine, with 1 VMs"), "{text}");
    assert!(!folder.path("a.store").exists(), "checking makes nothing");
    for (more, wrong) in [
        ("colour = 1\n", "m.toml: line 14, column 1: unknown field `colour`"),
        ("window_mib = 0\n", "window_mib = 0: it is from 1"),
        ("[[vm]]\nname = 'x'\npeers = ['b']\ndisks = ['/no/such/disk']\n", "/no/such/disk: No such file"),
        ("[gpu]\nmode = 'require'\nadapter = 'no such adapter'\n", "[gpu]: "),
    ] {
        let (code, text) = check(more);
        assert_eq!(code, 2, "{more}: {text}");
        assert!(text.contains(wrong), "{more}: {text}");
    }
    let missing = run(migd(&folder, "--config no.toml"));
    assert_eq!(missing.0, 2, "{}", missing.1);
    assert!(missing.1.contains("no.toml: No such file"), "{}", missing.1);
}

#[test]
fn keys_that_are_not_there_are_an_error_before_anything_listens() {
    let folder = folder();
    let text = config(&folder, "a", "").replace("keys/a", "keys/nobody");
    folder.write("m.toml", text.as_bytes());
    let (code, text) = run(migd(&folder, "--config m.toml"));
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("keys/nobody"), "{text}");
    assert!(!folder.path("a.sock").exists(), "its socket is left behind");
}
