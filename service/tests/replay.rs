//! Recorded migration streams of QEMU, replayed: this test is the source QEMU for `mig send`, and the destination QEMU for
//! `mig receive`, and what comes out must be what went in, byte for byte.
//!
//! A stream that is made by hand always; those of real guests that `tests/guests/kernels.sh` saved (`MIG_GUESTS`); and any that `MIG_STREAMS`
//! names, separated by colons, each with its guest's disk as a file of the same name with the ending `disk`. `MIG_EFFORT` is the effort, if it is not
//! to be chosen.

#[path = "common/mod.rs"]
mod common;
#[path = "common/running.rs"]
mod running;

use std::fs::File;
use std::io::{Read, Write, copy};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use common::{Folder, ended};
use mig_tests::captured;
use mig_tests::qemu::Guest;
use serde_json::Value;

/// Fails unless two files are the same; gives their length.
#[track_caller]
fn assert_same_files(one: &Path, other: &Path) -> u64 {
    let [mut one, mut other] = [one, other].map(|path| File::open(path).expect("it is there"));
    let length = one.metadata().expect("it is there").len();
    assert_eq!(other.metadata().expect("it is there").len(), length, "length");
    let [mut a, mut b] = [vec![0; 1 << 20], vec![0; 1 << 20]];
    let mut at = 0;
    while at < length {
        let part = (length - at).min(1 << 20) as usize;
        one.read_exact(&mut a[..part]).expect("it can be read");
        other.read_exact(&mut b[..part]).expect("it can be read");
        if a[..part] != b[..part] {
            let place = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or_default();
            panic!("different from byte {} on", at + place as u64);
        }
        at += part as u64;
    }
    length
}

/// Sends a recorded stream through both programs; gives what the sender said in the end.
#[track_caller]
fn replay(stream: &Path, disk: Option<&Path>) -> Value {
    let folder = Folder::empty();
    folder.run("keys keys a=127.0.0.1 b=127.0.0.1").code(0);
    let reference = disk.map_or(String::new(), |disk| format!("-r {}", disk.display()));
    // The destination QEMU.
    let incoming = UnixListener::bind(folder.path("in")).expect("a socket");
    let arrived = folder.path("arrived");
    let target = arrived.clone();
    let destination = thread::spawn(move || {
        let (mut socket, _) = incoming.accept().expect("mig receive connects");
        copy(&mut socket, &mut File::create(target).expect("room for it")).expect("it arrives")
    });
    let command = format!("receive --json --listen 127.0.0.1:0 --keys keys/b --qemu unix:in {reference}");
    let mut receive = running::Running::start(folder.command(&command), folder.path("receive.events"));
    let address = receive.wait_for("listening")["address"].as_str().expect("an address").to_owned();
    let effort = std::env::var("MIG_EFFORT").unwrap_or_else(|_| "auto".into());
    let command = format!(
        "send --json --qemu unix:out --vm guest --to {address} --keys keys/a --hold 0 --effort {effort} {reference}"
    );
    let send = folder.spawn(&command);
    // The source QEMU.
    let mut source = running::until("mig send's socket", || UnixStream::connect(folder.path("out")).ok());
    copy(&mut File::open(stream).expect("it is there"), &mut source).expect("mig send takes it");
    source.flush().and_then(|()| source.shutdown(Shutdown::Write)).expect("it is at its end");
    let sent = ended(send).code(0);
    receive.ends_with(0);
    destination.join().expect("it was written");
    let length = assert_same_files(stream, &arrived);
    let mut done = sent.text().lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let done = done.rfind(|event| event["event"] == "done").expect("it told of the end");
    eprintln!(
        "{}: {length} bytes came out as they went in, {} on the wire, {} pages verified, {:.1} s",
        stream.display(),
        done["wire_bytes"],
        done["verified"],
        done["seconds"].as_f64().expect("a number")
    );
    done
}

#[test]
fn a_stream_that_is_made_by_hand() {
    let folder = Folder::empty();
    let mut guest = Guest::new(3);
    folder.write("stream", &guest.migrate(0));
    let done = replay(&folder.path("stream"), None);
    assert!(done["verified"].as_u64().expect("a number") > 512, "{done}");
}

#[test]
fn recorded_streams_of_real_guests() {
    let mut streams: Vec<(PathBuf, PathBuf)> = Vec::new();
    if let Some(guests) = std::env::var_os("MIG_GUESTS") {
        let guests = captured::all(Path::new(&guests));
        streams.extend(guests.iter().map(|guest| (guest.path("qemu"), guest.path("disk"))));
    }
    for stream in std::env::var("MIG_STREAMS").unwrap_or_default().split(':').filter(|path| !path.is_empty())
    {
        streams.push((stream.into(), Path::new(stream).with_extension("disk")));
    }
    assert!(
        !streams.is_empty() || !common::requires("guests"),
        "MIG_REQUIRE asks for guests; MIG_GUESTS names none"
    );
    if streams.is_empty() {
        eprintln!("not tested here: MIG_GUESTS and MIG_STREAMS name no streams");
    }
    for (stream, disk) in &streams {
        let done = replay(stream, disk.exists().then_some(disk.as_path()));
        assert!(done["verified"].as_u64().expect("a number") > 0, "{done}");
    }
}
