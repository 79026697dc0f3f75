//! Writes down what the program is built from: the compiler, its settings, and the commit.
//!
//! A figure is about the code that was measured, so this belongs to the build and not to the run.

use std::path::Path;
use std::process::Command;

/// Sources whose changes make another program, relative to the package.
const SOURCES: [&str; 9] = [
    "src",
    "suites",
    "Cargo.toml",
    "../engine",
    "../service",
    "../shaders",
    "../simd",
    "../Cargo.toml",
    "../Cargo.lock",
];

fn main() {
    for source in SOURCES.into_iter().chain(["build.rs", "../.git/HEAD", "../.git/index"]) {
        // Cargo would run this each time for a file that is not there, as in a copy without history.
        if Path::new(source).exists() {
            println!("cargo::rerun-if-changed={source}");
        }
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| "unknown".into());
    set("RUSTC", first_line(&rustc, &["--version"]));
    set("COMMIT", commit());
    set("TARGET", Some(variable("TARGET")));
    set("PROFILE", Some(format!("{}, opt-level {}", variable("PROFILE"), variable("OPT_LEVEL"))));
    // Cargo separates the flags with a byte that does not print.
    set("RUSTFLAGS", Some(variable("CARGO_ENCODED_RUSTFLAGS").replace('\x1f', " ")));
}

fn set(name: &str, value: Option<String>) {
    println!("cargo::rustc-env=MIG_BENCH_{name}={}", value.unwrap_or_else(|| "unknown".into()));
}

/// The commit that is checked out, with a word about changes that are in no commit.
fn commit() -> Option<String> {
    let head = first_line("git", &["rev-parse", "HEAD"])?;
    let mut status = vec!["status", "--porcelain", "--"];
    status.extend(SOURCES);
    let changed = first_line("git", &status).is_some_and(|line| !line.is_empty());
    Some(if changed { format!("{head} with changes") } else { head })
}

/// What a program says first; nothing if it can't be run or fails.
fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
    output.status.success().then_some(text)
}
