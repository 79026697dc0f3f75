//! The program `mig` from outside: what it writes, what it says, and what it leaves behind.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use common::{Folder, assert_same, ended, make_fifo};
use mig_tests::reference::PAGE;
use mig_tests::{hostile, images, reference, sample};
use quick_xml::events::Event;
use serde_json::Value;

const BOTH: &str = "-r disk.raw -r old.raw";

#[test]
fn packs_and_unpacks() {
    let folder = Folder::with_sample();
    for effort in ["store", "fast", "balanced"] {
        for random_access in ["", "--random-access"] {
            let packed =
                folder.run(&format!("pack mem.raw -o a.mig -f -e {effort} {random_access} {BOTH}")).code(0);
            assert!(packed.stdout.is_empty(), "what was done goes to standard error");
            assert!(packed.stderr.contains("reference"), "{}", packed.stderr);
            folder.run(&format!("unpack a.mig -o back.raw -f {BOTH}")).code(0);
            assert_same(&folder.read("back.raw"), sample::memory(), effort);
            // The references may come in any order.
            let verified = folder.run("verify a.mig -r old.raw -r disk.raw").code(0);
            assert!(verified.text().contains("2,048 pages verified"), "{}", verified.text());
        }
    }
    assert_eq!(folder.names(), ["a.mig", "back.raw", "disk.raw", "mem.raw", "old.raw"]);
    let mode = fs::metadata(folder.path("a.mig")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "guest memory is its owner's");
}

/// What the program packs, the slow decoder reads.
#[test]
fn writes_what_the_document_says() {
    let folder = Folder::with_sample();
    folder.run(&format!("pack mem.raw -o a.mig {BOTH}")).code(0);
    let references = [sample::disk(), sample::older()].map(|bytes| Some(bytes.to_vec()));
    let decoded = reference::decode(&folder.read("a.mig"), &references).unwrap();
    assert!(decoded.complete);
    assert_same(&decoded.file, sample::memory(), "slow decoder");
    assert_eq!(decoded.header.references[0].name, "disk.raw");
    assert_eq!(decoded.header.references[1].name, "old.raw");
}

/// An older `.mig` as a reference, which itself needs another: a chain of snapshots.
#[test]
fn older_packed_files_are_references() {
    let folder = Folder::with_sample();
    let mut newest = sample::memory().to_vec();
    newest[100 * PAGE..200 * PAGE].rotate_left(8);
    folder.write("newest.raw", &newest);
    folder.run("pack old.raw -o old.mig -r disk.raw").code(0);
    for effort in ["store", "fast", "balanced"] {
        for random_access in ["", "--random-access"] {
            let way = format!("-f -e {effort} {random_access}");
            folder.run(&format!("pack mem.raw -o mem.mig {way} -r disk.raw -r old.mig")).code(0);
            folder.run("unpack mem.mig -o back.raw -f -r old.mig -r disk.raw").code(0);
            assert_same(&folder.read("back.raw"), sample::memory(), &way);
            // The same stream, whether the older image is packed or not.
            folder.run(&format!("pack mem.raw -o plain.mig {way} -r disk.raw -r old.raw")).code(0);
            folder.run("unpack mem.mig -o back.raw -f -r old.raw -r disk.raw").code(0);
            assert_same(&folder.read("back.raw"), sample::memory(), &way);
            let sizes = ["mem.mig", "plain.mig"].map(|name| folder.read(name).len());
            assert!(sizes[0].abs_diff(sizes[1]) < 16, "{way}: {sizes:?}");
        }
    }
    folder.run("pack newest.raw -o newest.mig -r disk.raw -r old.mig -r mem.mig").code(0);
    folder.run("unpack newest.mig -o back.raw -f -r disk.raw -r old.mig -r mem.mig").code(0);
    assert_same(&folder.read("back.raw"), &newest, "a chain");
    let small = folder.read("newest.mig").len();
    assert!(small < folder.read("mem.mig").len(), "{small} bytes for a hundred moved pages");
    // The disk that the older file needs is missing.
    folder.run("pack mem.raw -o x.mig -r old.mig").code(4);
    folder.run("unpack newest.mig -o x.raw -r disk.raw -r old.mig").code(4);
    assert!(!folder.names().iter().any(|name| name.starts_with('x') || name.starts_with('.')));
}

#[test]
fn standard_input_and_output() {
    let folder = Folder::with_sample();
    let packed = folder.run_with_input("pack - -o - -r disk.raw", sample::memory()).code(0);
    let unpacked = folder.run_with_input("unpack - -o - -r disk.raw", &packed.stdout).code(0);
    assert_same(&unpacked.stdout, sample::memory(), "through pipes");
    folder.run_with_input("pack - -o a.mig -r disk.raw", sample::memory()).code(0);
    assert_same(&folder.read("a.mig"), &packed.stdout, "the same stream");
    folder.run_with_input("verify - -r disk.raw", &packed.stdout).code(0);
    let pages = folder.run_with_input("unpack - -o - -r disk.raw --pages 5..9", &packed.stdout).code(0);
    assert_same(&pages.stdout, &sample::memory()[5 * PAGE..9 * PAGE], "pages");
    let damaged = &packed.stdout[..packed.stdout.len() / 2];
    let ran = folder.run_with_input("unpack - -o - -r disk.raw", damaged).code(3);
    assert!(ran.stdout.is_empty(), "half an image is none");
    folder.run_with_input("pack - -o - --json", sample::memory()).code(2);
}

#[test]
fn a_gpu_changes_nothing_but_who_scans() {
    let folder = Folder::with_sample();
    folder.run(&format!("pack mem.raw -o cpu.mig --gpu off {BOTH}")).code(0);
    folder.run(&format!("pack mem.raw -o auto.mig {BOTH}")).code(0);
    assert_same(&folder.read("auto.mig"), &folder.read("cpu.mig"), "auto");
    let Some(name) = folder.adapter() else { return };
    let word = name.split_whitespace().next().unwrap().to_lowercase();
    folder.run(&format!("pack mem.raw -o gpu.mig --gpu require --gpu-adapter {word} {BOTH}")).code(0);
    assert_same(&folder.read("gpu.mig"), &folder.read("cpu.mig"), &name);
}

/// What was seen, why it was refused, and nothing written.
#[test]
fn a_required_gpu_that_is_not_there() {
    let folder = Folder::with_sample();
    let name = folder.adapter();
    let before = folder.names();
    let ran = folder.run("pack mem.raw -o x.mig --gpu require --gpu-adapter no-such-adapter").code(2);
    assert!(ran.stdout.is_empty());
    assert!(ran.stderr.contains("--gpu require: no GPU"), "{}", ran.stderr);
    if let Some(name) = name {
        assert!(ran.stderr.contains(&name) && ran.stderr.contains("no-such-adapter"), "{}", ran.stderr);
    }
    let piped =
        folder.run_with_input("pack - -o - --gpu require --gpu-adapter no-such-adapter", sample::memory());
    assert!(piped.code(2).stdout.is_empty(), "not a byte");
    assert_eq!(folder.names(), before);
}

#[test]
fn devices_are_listed_and_measured() {
    let folder = Folder::empty();
    let ran = folder.run("devices --seconds 0.2").code(0);
    assert!(ran.text().contains("scalar, 1 thread") && ran.text().contains("GB/s"), "{}", ran.text());
    let Some(name) = folder.adapter() else { return };
    assert!(ran.text().contains(&name) && ran.text().contains("imported"), "{}", ran.text());
    let report = folder.run("devices --seconds 0.2 --json").code(0).stdout;
    let report: Value = serde_json::from_slice(&report).unwrap();
    let workers: Vec<&Value> = report["scan"].as_array().unwrap().iter().collect();
    let copied = workers
        .iter()
        .find(|rate| rate["worker"].as_str().unwrap().contains(&format!("{name}, pages copied")));
    assert!(copied.unwrap()["gb_per_second"].as_f64().unwrap() > 0.0, "{report:#}");
    assert!(report["adapters"][0]["max_binding"].as_u64().unwrap() > 0);
    folder.run("devices --seconds -1").code(2);
}

/// A reader that goes away before the end is no reason for alarm.
#[test]
fn a_closed_pipe() {
    let folder = Folder::with_sample();
    folder.run("pack mem.raw -o a.mig").code(0);
    let mut child = folder.spawn("unpack a.mig -o -");
    let mut first = [0; 100];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(child.stdout.take());
    let ran = ended(child).code(0);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
}

#[test]
fn single_pages() {
    let folder = Folder::with_sample();
    for random_access in ["", "--random-access"] {
        folder.run(&format!("pack mem.raw -o a.mig -f {random_access} -r disk.raw")).code(0);
        for (first, end) in [(0, 1), (1020, 1030), (2040, 2048), (0, 2048)] {
            folder.run(&format!("unpack a.mig -o p -f --pages {first}..{end} -r disk.raw")).code(0);
            assert_same(&folder.read("p"), &sample::memory()[first * PAGE..end * PAGE], random_access);
        }
        fs::remove_file(folder.path("p")).unwrap();
        let ran = folder.run("unpack a.mig -o p --pages 2040..2049 -r disk.raw").code(2);
        assert!(ran.stderr.contains("there are 2048 pages"), "{}", ran.stderr);
        folder.run("unpack a.mig -o p --pages 2048..2049 -r disk.raw").code(2);
        for wrong in ["5..5", "6..5", "x..5", "5", "-1..5", "5..99999999999999999999"] {
            folder.run(&format!("unpack a.mig -o p -r disk.raw --pages {wrong}")).code(2);
        }
        folder.run("unpack a.mig -o p -r disk.raw --pages 0..1 --as raw").code(2);
        assert_eq!(folder.names(), ["a.mig", "disk.raw", "mem.raw", "old.raw"]);
    }
}

#[test]
fn every_image_format_and_as_raw() {
    let folder = Folder::empty();
    for image in images::all(sample::memory()) {
        folder.write("image", &image.bytes);
        folder.run("pack image -o a.mig -f").code(0);
        folder.run("unpack a.mig -o back -f").code(0);
        assert_same(&folder.read("back"), &image.bytes, image.name);
        let raw = folder.run("unpack a.mig -o raw -f --as raw");
        match image.physical {
            Some(physical) => {
                raw.code(0);
                assert_same(&folder.read("raw"), &physical, image.name);
                fs::remove_file(folder.path("raw")).unwrap();
            }
            None => {
                let error = raw.stderr;
                assert!(error.contains("addresses"), "{error}");
                assert!(!folder.path("raw").exists());
            }
        }
    }
    // And what the user says goes before what the bytes look like.
    let lime = images::lime(&[(0x1000, sample::memory()[..4 * PAGE].to_vec())]);
    folder.write("image", &lime);
    let pages = |arguments: &str| {
        let report: Value = serde_json::from_str(folder.run(arguments).code(0).text()).unwrap();
        (report["format"].as_str().unwrap().to_owned(), report["pages"].as_u64().unwrap())
    };
    assert_eq!(pages("inspect image --json"), ("lime".to_owned(), 4));
    assert_eq!(pages("inspect image --json --format raw"), ("raw".to_owned(), 4));
    folder.run("pack image -o x.mig --format elf").code(3);
    folder.run("pack image -o x.mig --format vmss").code(2);
    assert!(!folder.path("x.mig").exists());
}

/// Each exit code that the help promises, and nothing left behind by any failure.
#[test]
fn exit_codes() {
    let folder = Folder::with_sample();
    folder.run(&format!("pack mem.raw -o a.mig {BOTH}")).code(0);
    let good = folder.read("a.mig");
    folder.write("cut.mig", &good[..good.len() / 2]);
    let mut damaged = good;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    folder.write("damaged.mig", &damaged);
    folder.write("other.mig", &[&b"MiGf\x02"[..], &[0; 100]].concat());
    folder.write("small.raw", &[1; 100]);
    folder.write("mem.gz", &[&b"\x1f\x8b\x08"[..], &[7; 5000]].concat());
    let mut disk = sample::disk().to_vec();
    // Not a block that its identity is made of, but one that pages come from.
    for block in disk.chunks_mut(PAGE).skip(5).step_by(2) {
        block[0] ^= 1;
    }
    disk[..5 * PAGE].copy_from_slice(&sample::disk()[..5 * PAGE]);
    let blocks = disk.len() / PAGE;
    for i in 0..64 {
        let at = i * blocks / 64 * PAGE;
        disk[at..at + PAGE].copy_from_slice(&sample::disk()[at..at + PAGE]);
    }
    let end = disk.len() - 4 * PAGE;
    disk[end..].copy_from_slice(&sample::disk()[end..]);
    folder.write("changed.raw", &disk);
    let names = folder.names();
    for (code, arguments) in [
        (1, "pack missing.raw -o x"),
        (1, "pack . -o x"),
        (1, "pack mem.raw -o missing/x"),
        (1, "pack mem.raw -o x -r missing.raw"),
        (1, "unpack missing.mig -o x"),
        (1, "unpack a.mig -o missing/x -r disk.raw -r old.raw"),
        (1, "unpack a.mig -o x -r missing.raw"),
        (1, "verify missing.mig"),
        (1, "inspect missing.raw"),
        (1, "index missing.raw"),
        (2, ""),
        (2, "pack mem.raw"),
        (2, "pack mem.raw -o x -e turbo"),
        (2, "pack mem.raw -o x -e densest"),
        (2, "pack mem.raw -o x -t 0"),
        (2, "pack mem.raw -o x --gpu require --gpu-adapter no-such-adapter"),
        (2, "pack mem.raw -o x --gpu sometimes"),
        (2, "pack mem.raw -o a.mig"),
        (2, "unpack a.mig -o mem.raw -r disk.raw -r old.raw"),
        (2, "unpack a.mig -o x --as elf"),
        (2, "inspect a.mig --svg x"),
        (2, "frobnicate"),
        (3, "pack small.raw -o x"),
        (3, "pack mem.gz -o x"),
        (3, "unpack mem.raw -o x"),
        (3, "unpack cut.mig -o x -r disk.raw -r old.raw"),
        (3, "unpack damaged.mig -o x -r disk.raw -r old.raw"),
        (3, "unpack other.mig -o x"),
        (3, "verify cut.mig -r disk.raw -r old.raw"),
        (3, "verify mem.raw"),
        (3, "inspect other.mig"),
        (3, "inspect mem.gz"),
        (4, "unpack a.mig -o x"),
        (4, "unpack a.mig -o x -r disk.raw"),
        (4, "unpack a.mig -o x -r old.raw -r mem.raw"),
        (4, "unpack a.mig -o x -r changed.raw -r old.raw"),
        (4, "unpack a.mig -o x --pages 0..9"),
        (4, "verify a.mig"),
    ] {
        let ran = folder.run(arguments);
        assert_eq!(ran.code, code, "mig {arguments}: {}", ran.stderr);
        assert!(
            !ran.stderr.is_empty() && !ran.stderr.contains("panicked"),
            "mig {arguments}: {}",
            ran.stderr
        );
        assert!(ran.stdout.is_empty(), "mig {arguments}: {}", ran.text());
        assert_eq!(folder.names(), names, "mig {arguments}");
    }
    for arguments in ["--help", "--version", "pack --help", "help unpack"] {
        assert!(!folder.run(arguments).code(0).stdout.is_empty());
    }
    let help = folder.run("--help").code(0);
    for line in ["0    done", "3    the input is damaged", "4    a reference", "130  interrupted"] {
        assert!(help.text().contains(line), "{}", help.text());
    }
}

/// Every bad stream that the tests know, given to the program.
#[test]
fn bad_streams_are_told_by_their_exit_code() {
    let folder = Folder::empty();
    let whole = hostile::references(hostile::AtHand::Whole).unwrap().bytes();
    folder.write("disk.raw", whole[0].as_ref().unwrap());
    folder.write("old.raw", whole[1].as_ref().unwrap());
    let all = hostile::all();
    let chosen = all.iter().filter(|bad| bad.at_hand == hostile::AtHand::Whole).step_by(7);
    for bad in chosen {
        folder.write("bad.mig", &bad.stream);
        // The older image has as many pages as the guest only by chance, so it is named a disk: identities find it.
        let ran = folder.run("unpack bad.mig -o x -r disk.raw -r old.raw");
        let expected = if bad.error.contains("do not verify") { 4 } else { 3 };
        assert_eq!(ran.code, expected, "{}: {}", bad.name, ran.stderr);
        assert!(ran.stderr.contains(bad.error), "{}: {}", bad.name, ran.stderr);
        assert_eq!(folder.names(), ["bad.mig", "disk.raw", "old.raw"], "{}", bad.name);
    }
}

#[test]
fn files_are_only_replaced_when_asked() {
    let folder = Folder::with_sample();
    folder.write("a.mig", b"precious");
    folder.write("back.raw", b"precious");
    let ran = folder.run("pack mem.raw -o a.mig").code(2);
    assert!(ran.stderr.contains("--force"), "{}", ran.stderr);
    assert_eq!(folder.read("a.mig"), b"precious");
    // Not by a failure, either.
    folder.run("pack small.raw -o a.mig --force").code(1);
    folder.run("unpack a.mig -o back.raw --force").code(3);
    assert_eq!((folder.read("a.mig"), folder.read("back.raw")), (b"precious".to_vec(), b"precious".to_vec()));
    folder.run("pack mem.raw -o a.mig --force").code(0);
    folder.run("unpack a.mig -o back.raw").code(2);
    assert_eq!(folder.read("back.raw"), b"precious");
    folder.run("unpack a.mig -o back.raw --force").code(0);
    assert_same(&folder.read("back.raw"), sample::memory(), "replaced");
}

/// What is no regular file is written to, and stays what it is.
#[test]
fn devices_and_pipes_are_not_replaced() {
    let folder = Folder::with_sample();
    // By a link, so that a mistake costs a link and not the system's device.
    symlink("/dev/null", folder.path("null")).unwrap();
    symlink("/dev/full", folder.path("full")).unwrap();
    make_fifo(&folder.path("pipe"));
    let names = folder.names();
    folder.run("pack mem.raw -o null").code(0);
    folder.run("pack mem.raw -o null --force").code(0);
    let full = folder.run("pack mem.raw -o full").code(1);
    assert!(full.stderr.contains("No space left"), "{}", full.stderr);
    folder.run("pack mem.raw -o a.mig").code(0);
    let unpacked = folder.run("unpack a.mig -o null");
    assert!(unpacked.code == 0 || unpacked.code == 1, "{}", unpacked.stderr);
    fs::remove_file(folder.path("a.mig")).unwrap();
    for name in ["null", "full"] {
        assert!(fs::symlink_metadata(folder.path(name)).unwrap().file_type().is_symlink());
        assert!(fs::metadata(folder.path(name)).unwrap().file_type().is_char_device());
    }
    let reader = {
        let path = folder.path("pipe");
        std::thread::spawn(move || fs::read(path).unwrap())
    };
    folder.run("pack mem.raw -o pipe").code(0);
    let decoded = reference::decode(&reader.join().unwrap(), &[]).unwrap();
    assert_same(&decoded.file, sample::memory(), "through a named pipe");
    assert!(fs::metadata(folder.path("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(folder.names(), names);
}

#[test]
fn reports_as_json() {
    let folder = Folder::with_sample();
    let json = |arguments: &str| -> Value {
        let ran = folder.run(arguments).code(0);
        assert_eq!(ran.stderr, "", "{arguments}");
        serde_json::from_str(ran.text()).unwrap_or_else(|error| panic!("{arguments}: {error}"))
    };
    let packed = json(&format!("pack mem.raw -o a.mig --json {BOTH}"));
    assert_eq!(packed["pages"], 2048);
    assert_eq!(packed["format"], "raw");
    assert_eq!(packed["stream_bytes"].as_u64(), Some(folder.read("a.mig").len() as u64));
    let sum: u64 = packed["blocks"]["pages"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(sum, 2048);

    let stream = json("inspect a.mig --json -r disk.raw");
    assert_eq!((&stream["effort"], &stream["complete"]), (&Value::from("balanced"), &Value::from(true)));
    assert_eq!(stream["stream_bytes"], packed["stream_bytes"]);
    assert_eq!(stream["blocks"]["pages"], packed["blocks"]["pages"]);
    let references = stream["references"].as_array().unwrap();
    let field = |name: &str| references.iter().map(|r| r[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("kind"), ["disk", "memory"]);
    assert_eq!(field("name"), ["disk.raw", "old.raw"]);
    assert_eq!(field("present"), [Value::from(true), Value::from(false)]);
    let pages: u64 = field("pages").iter().filter_map(Value::as_u64).sum();
    assert_eq!(Some(pages), packed["blocks"]["pages"]["reference"].as_u64());

    let image = json("inspect mem.raw --json");
    assert_eq!((&image["pages"], &image["file_bytes"]), (&Value::from(2048), &Value::from(8 << 20)));
    assert_eq!(image["segments"].as_array().unwrap().len(), 1);
    let with_disk = json("inspect mem.raw --json -r disk.raw");
    assert_eq!(image["blocks"]["pages"]["reference"], 0);
    assert!(with_disk["blocks"]["pages"]["reference"].as_u64() > Some(100));

    // A cut stream is shown as far as it goes.
    let whole = folder.read("a.mig");
    folder.write("cut.mig", &whole[..whole.len() - 72]);
    assert_eq!(json("inspect cut.mig --json")["complete"], false);
    let text = folder.run("inspect cut.mig").code(0);
    assert!(text.text().contains("CUT"), "{}", text.text());
}

/// Reads XML to its end; gives how many elements of each name there are.
fn elements(xml: &str) -> Result<std::collections::BTreeMap<String, usize>, String> {
    let mut reader = quick_xml::Reader::from_str(xml);
    let mut counts = std::collections::BTreeMap::new();
    let mut open = 0;
    loop {
        let event = reader.read_event().map_err(|error| error.to_string())?;
        let element = match &event {
            Event::Start(element) => {
                open += 1;
                element
            }
            Event::Empty(element) => element,
            Event::End(_) => {
                open -= 1;
                continue;
            }
            Event::Text(text) => {
                text.decode().map_err(|error| error.to_string())?;
                continue;
            }
            Event::Eof if open == 0 => return Ok(counts),
            Event::Eof => return Err("an element is not closed".into()),
            _ => continue,
        };
        for attribute in element.attributes() {
            attribute.map_err(|error| error.to_string())?;
        }
        *counts.entry(String::from_utf8_lossy(element.name().as_ref()).into_owned()).or_default() += 1;
    }
}

#[test]
fn a_picture_of_memory() {
    let folder = Folder::with_sample();
    let strange = "a <strange> & \"name\".raw";
    fs::rename(folder.path("mem.raw"), folder.path(strange)).unwrap();
    let mut command = folder.command("inspect --svg map.svg -r disk.raw");
    assert!(command.arg(strange).stdout(Stdio::null()).status().unwrap().success());
    let svg = String::from_utf8(folder.read("map.svg")).unwrap();
    let counts = elements(&svg).unwrap_or_else(|error| panic!("{error}: {svg}"));
    assert_eq!(counts["svg"], 1);
    assert_eq!(counts["text"], 2 + 20, "title, key and legend");
    assert!(counts["rect"] > 100, "{counts:?}");
    assert!(svg.contains("a &lt;strange"), "the name is a text, not markup");
    // The sibling: broken pictures are seen.
    for (from, to) in [("</svg>", ""), ("</text>", "</txt>"), ("&lt;", "<"), (" width=\"", " width=")] {
        assert!(elements(&svg.replacen(from, to, 1)).is_err(), "{from} replaced by {to:?}");
    }
}

#[test]
fn indexes_are_kept_and_noticed_when_stale_or_damaged() {
    let folder = Folder::with_sample();
    let truth = {
        folder.run("pack mem.raw -o truth.mig -r disk.raw").code(0);
        folder.read("truth.mig")
    };
    let packs = |warning: &str| {
        let ran = folder.run("pack mem.raw -o a.mig --force --json -r disk.raw").code(0);
        assert_eq!(ran.stderr.is_empty(), warning.is_empty(), "{}", ran.stderr);
        assert!(ran.stderr.contains(warning), "{}", ran.stderr);
        assert_same(&folder.read("a.mig"), &truth, "the stream does not depend on where the index was from");
    };
    let index = |word: &str| {
        let ran = folder.run("index disk.raw").code(0);
        assert!(ran.text().contains(word), "should say {word}: {}{}", ran.text(), ran.stderr);
    };
    index("built in");
    index("fits");
    packs("");
    let good = folder.read("disk.raw.migidx");
    // Damaged anywhere: packing says so and goes on, indexing builds it again.
    for at in [3, 9, 40, 4090, 4096 + 77, good.len() - 1] {
        let mut damaged = good.clone();
        damaged[at] ^= 4;
        folder.write("disk.raw.migidx", &damaged);
        packs("building another");
        assert_same(&folder.read("disk.raw.migidx"), &damaged, "packing leaves the file alone");
    }
    index("built in");
    assert_same(&folder.read("disk.raw.migidx"), &good, "rebuilt");
    for len in [0, 100, 4096, good.len() - 64] {
        folder.write("disk.raw.migidx", &good[..len]);
        packs("damaged");
    }
    folder.run("index disk.raw --force").code(0);
    // The image was written to: first its time changes, then its contents, then its length.
    sleep(Duration::from_millis(20));
    folder.write("disk.raw", sample::disk());
    packs("stale");
    index("built in");
    index("fits");
    let mut disk = sample::disk().to_vec();
    disk.extend([1; PAGE]);
    folder.write("disk.raw", &disk);
    let ran = folder.run("pack mem.raw -o a.mig --force -r disk.raw").code(0);
    assert!(ran.stderr.contains("stale"), "{}", ran.stderr);
    // An older memory image has one, too, and it serves both as a disk's and as a memory's.
    folder.run("index old.raw").code(0);
    let ran = folder.run("pack mem.raw -o b.mig --json -r old.raw").code(0);
    assert_eq!(ran.stderr, "", "the index of a memory image fits");
    assert!(!folder.names().iter().any(|name| name.starts_with('.')), "{:?}", folder.names());
}

/// In a pipe there are no bars, no colours, and nothing that moves the cursor.
#[test]
fn progress_is_quiet_in_a_pipe() {
    let folder = Folder::with_sample();
    for arguments in [
        "pack mem.raw -o a.mig -r disk.raw",
        "unpack a.mig -o back.raw -r disk.raw",
        "verify a.mig -r disk.raw",
        "index disk.raw",
        "inspect mem.raw",
        "inspect a.mig",
    ] {
        let ran = folder.run(arguments).code(0);
        let all = format!("{}{}", ran.text(), ran.stderr);
        assert!(!all.contains(['\r', '\x1b']), "mig {arguments}: {all:?}");
        assert!(all.lines().count() <= 20, "mig {arguments}: {all}");
    }
}

#[test]
fn threads_do_not_show() {
    let folder = Folder::with_sample();
    let packed = |threads: u32| {
        folder.run(&format!("pack mem.raw -o a.mig -f -t {threads} {BOTH}")).code(0);
        folder.read("a.mig")
    };
    let one = packed(1);
    for threads in [2, 5] {
        assert_same(&packed(threads), &one, "other threads");
    }
}

#[test]
fn demo_compares_and_verifies() {
    let folder = Folder::empty();
    let ran = folder.run("demo -t 2").code(0);
    for word in [
        "gzip -6",
        "zstd -3",
        "mig store",
        "mig fast",
        "mig balanced",
        "everything unpacked and compared",
        "mig send, disk and older snapshot",
        "2,048 verified and in place",
    ] {
        assert!(ran.text().contains(word), "{word}: {}", ran.text());
    }
    assert!(folder.names().is_empty());
}

#[test]
fn completions_and_man_pages() {
    let folder = Folder::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = folder.run(&format!("completions {shell}")).code(0);
        assert!(ran.text().contains("random-access"), "{shell}");
    }
    folder.run("completions sh").code(2);
    folder.run("man pages").code(0);
    let pages: Vec<_> =
        fs::read_dir(folder.path("pages")).unwrap().map(|page| page.unwrap().path()).collect();
    for command in ["mig", "mig-pack", "mig-unpack", "mig-verify", "mig-index", "mig-inspect", "mig-demo"] {
        let page = folder.path("pages").join(format!("{command}.1"));
        assert!(pages.contains(&page), "{pages:?}");
        assert!(fs::read_to_string(page).unwrap().starts_with(".ie"), "{command}: a man page");
    }
    folder.write("file", b"in the way");
    folder.run("man file").code(1);
}

fn interrupt(child: &std::process::Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    // Time for the signal to be seen; nothing else goes on meanwhile.
    sleep(Duration::from_millis(300));
}

/// Interrupted while standard input is still coming: the rest of it comes later, so it is certain that packing has not begun.
#[test]
fn interrupted_before_packing() {
    let folder = Folder::with_sample();
    let names = folder.names();
    let mut child = folder.spawn("pack - -o a.mig");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&sample::memory()[..100 * PAGE]).unwrap();
    sleep(Duration::from_millis(300));
    interrupt(&child);
    drop(stdin);
    let ran = ended(child).code(130);
    assert!(ran.stderr.contains("cancelled"), "{}", ran.stderr);
    assert_eq!(folder.names(), names);
}

/// Interrupted in the middle of it: a full pipe holds the packer back until somebody reads.
#[test]
fn interrupted_while_packing() {
    let folder = Folder::empty();
    folder.write("mem.raw", &mig_tests::guests::of_many_blocks());
    make_fifo(&folder.path("pipe"));
    let names = folder.names();
    for output in ["-", "pipe"] {
        let child = folder.spawn(&format!("pack mem.raw -e store --random-access -o {output}"));
        let mut child = child;
        let mut pipe: Box<dyn Read> = match output {
            "-" => Box::new(child.stdout.take().unwrap()),
            _ => Box::new(fs::File::open(folder.path("pipe")).unwrap()),
        };
        let mut first = [0; 1000];
        pipe.read_exact(&mut first).unwrap();
        interrupt(&child);
        let mut rest = Vec::new();
        pipe.read_to_end(&mut rest).unwrap();
        let ran = ended(child).code(130);
        assert!(ran.stderr.contains("cancelled"), "{}", ran.stderr);
        // What was written is a beginning, and unpacks as far as it goes.
        let stream = [&first[..], &rest].concat();
        let decoded = reference::decode(&stream, &[]).unwrap();
        assert!(!decoded.complete && decoded.pages < 10_240, "{} pages", decoded.pages);
        assert_eq!(folder.names(), names);
    }
}

#[test]
fn interrupted_while_unpacking() {
    let folder = Folder::with_sample();
    folder.run("pack mem.raw -o a.mig").code(0);
    let stream = folder.read("a.mig");
    let names = folder.names();
    let mut child = folder.spawn("unpack - -o back.raw");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&stream[..2000]).unwrap();
    sleep(Duration::from_millis(300));
    interrupt(&child);
    stdin.write_all(&stream[2000..]).unwrap();
    drop(stdin);
    let ran = ended(child);
    // All the rest may have been read as one frame, and no frame is left half done.
    assert!(ran.code == 130, "{}: {}", ran.code, ran.stderr);
    assert_eq!(folder.names(), names);
}
