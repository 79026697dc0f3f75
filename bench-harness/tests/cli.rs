//! The program as scripts use it: every command on the repository's sample, its JSON, its exit codes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mig_engine::{Effort, MemoryImage, Packer, Reference};
use serde_json::Value;

const MEMORY: &[u8] = include_bytes!("../../tests/data/sample.mem.zst");
const DISK: &[u8] = include_bytes!("../../tests/data/sample.disk.zst");

struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Fixture { folder: tempfile::tempdir().unwrap() };
        fs::write(fixture.path("guest.raw"), zstd::decode_all(MEMORY).unwrap()).unwrap();
        fs::write(fixture.path("guest.disk"), zstd::decode_all(DISK).unwrap()).unwrap();
        fs::create_dir(fixture.path("scratch")).unwrap();
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mig-bench"));
        command.args(arguments).current_dir(self.folder.path());
        command.output().unwrap()
    }

    /// Runs it with `--json`, expects success, and gives what it wrote and what it printed.
    fn json(&self, arguments: &[&str]) -> (Value, String) {
        let output = self.run(&[arguments, &["--json", "report.json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let json: Value = serde_json::from_slice(&fs::read(self.path("report.json")).unwrap()).unwrap();
        assert_eq!((&json["schema"], &json["command"]), (&"mig-bench/2".into(), &arguments[0].into()));
        assert!(json["provenance"]["kernel"].as_str().is_some_and(|text| !text.is_empty()));
        (json, String::from_utf8(output.stdout).unwrap())
    }

    fn nothing_is_left_in(&self, folder: &Path) {
        let left: Vec<_> = fs::read_dir(folder).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// On any adapter there is: of a software one only the answers count.
#[cfg(feature = "gpu")]
#[test]
fn a_gpu_is_measured_and_what_it_gives_is_compared() {
    let fixture = Fixture::new();
    let small =
        ["gpu", "--mib", "16", "--seconds", "0.01", "--repeats", "1", "--effort", "fast", "--gpu", "require"];
    let refused = fixture.run(&[&small[..], &["--gpu-adapter", "no-such-adapter"]].concat());
    assert_eq!(refused.status.code(), Some(2));
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("no GPU"), "{why}");
    if why.contains("no GPU adapter was found") || why.contains("this build has none") {
        let required = std::env::var("MIG_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|name| name.trim() == "gpu"), "MIG_REQUIRE asks for a GPU: {why}");
        println!("SKIPPED: {why}");
        return;
    }
    let (json, text) = fixture.json(&[&small[..], &["--gpu-adapter", ""]].concat());
    let result = &json["result"];
    assert!(
        result["upload"].as_f64() > Some(0.0) && result["scan_on_device"].as_f64() > Some(0.0),
        "{result:#}"
    );
    assert!(result["scans"].as_array().is_some_and(|scans| !scans.is_empty()), "{result:#}");
    let settled: Vec<&str> =
        result["settles"].as_array().unwrap().iter().map(|settle| settle["who"].as_str().unwrap()).collect();
    assert!(settled[0] == "scalar" && settled.contains(&"GPU, pages copied"), "{settled:?}");
    for pipeline in result["pipelines"].as_array().unwrap() {
        let ways: Vec<&Value> =
            pipeline["timings"].as_array().unwrap().iter().map(|timing| &timing[0]).collect();
        assert_eq!(ways, ["cpu_only", "gpu_only", "both"]);
        assert!(pipeline["stream_bytes"].as_u64() > Some(0));
    }
    assert!(json["synthetic"].is_string() && text.contains("SYNTHETIC"));
    let software = result["kind"] == "software";
    assert_eq!(json["goals"].as_array().unwrap().len(), if software { 3 } else { 4 });
    assert_eq!(text.contains("a SOFTWARE adapter"), software);
    assert!(!software || json["goals"][0]["verdict"] == "unmeasured");
}

#[test]
fn packing_compares_everybody() {
    let fixture = Fixture::new();
    let arguments = [
        "pack",
        "guest.raw",
        "--reference",
        "guest.disk",
        "--repeats",
        "2",
        "-t",
        "2",
        "--scratch",
        "scratch",
    ];
    let (json, text) = fixture.json(&arguments);
    assert!(json["synthetic"].is_null() && !text.contains("SYNTHETIC"), "{text}");
    let contenders = json["result"]["contenders"].as_array().unwrap();
    for name in
        ["memcpy", "zlib-rs -6 (library)", "zstd -1 -T2 (library)", "mig store", "mig fast, no reference"]
    {
        let line = contenders.iter().find(|line| line["name"] == name);
        let line = line.unwrap_or_else(|| panic!("{name} is missing in {json:#}"));
        assert!(line["pack"]["gb_per_second"]["median"].as_f64().unwrap() > 0.0);
        let unpacked = line["unpack_memory"]["wall_seconds"]["samples"].as_array().map(Vec::len);
        assert_eq!(unpacked, (name.starts_with("mig") || name == "memcpy").then_some(2), "{name}");
        assert!(text.contains(name), "{text}");
    }
    let peaks = json["result"]["peaks"].as_array().unwrap();
    assert_eq!(peaks.len(), 10, "five efforts, packing and unpacking");
    for peak in peaks {
        let bytes = |name: &str| peak[name].as_u64().unwrap();
        assert!(bytes("anonymous") > 100 << 10 && bytes("all") >= bytes("anonymous"), "{peak}");
        assert!(bytes("all") < bytes("anonymous") + bytes("files") + (64 << 20), "not inherited: {peak}");
    }
    assert!(json["goals"].as_array().unwrap().len() > 12);
    fixture.nothing_is_left_in(&fixture.path("scratch"));
}

#[test]
fn check_decides_the_exit_code() {
    let fixture = Fixture::new();
    // 8 MiB are not packed at 5 GB/s, threads being started for them alone; and without peers fewer goals count.
    let arguments =
        ["pack", "guest.raw", "-r", "guest.disk", "--repeats", "1", "--no-peers", "--no-peak", "--check"];
    let output = fixture.run(&arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    let met = !text.contains("FAIL") && !text.contains("not measured");
    assert_eq!(output.status.code(), Some(if met { 0 } else { 5 }), "{text}");
    // Without a reference there is no goal, and no goal is no success.
    let output = fixture.run(&["pack", "guest.raw", "--repeats", "1", "--no-peers", "--no-peak", "--check"]);
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn scanning_measures_each_level() {
    let fixture = Fixture::new();
    let (json, text) = fixture.json(&["scan", "--mib", "16", "--seconds", "0.01", "--threads", "2"]);
    let scans = json["result"]["scans"].as_array().unwrap();
    assert!(scans.len() >= 2 && scans.iter().any(|scan| scan["level"] == "scalar" && scan["threads"] == 2));
    assert!(json["synthetic"].is_string() && text.contains("SYNTHETIC"), "{text}");
}

#[test]
fn indexing_counts_and_looks_up() {
    let fixture = Fixture::new();
    let (json, _) =
        fixture.json(&["index", "guest.disk", "--repeats", "1", "--threads", "2", "--scratch", "scratch"]);
    let result = &json["result"];
    assert_eq!(result["builds"].as_array().unwrap().len(), 2);
    assert_eq!(result["lookups"].as_array().unwrap().len(), 4);
    assert!(result["distinct"].as_u64().unwrap() > 100);
    fixture.nothing_is_left_in(&fixture.path("scratch"));
}

#[test]
fn sparse_images_are_synthetic_all_the_way() {
    let fixture = Fixture::new();
    let sparse = ["sparse", "--gib", "2", "--data-mib", "16", "--out", "sparse.raw"];
    let output = fixture.run(&sparse);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("SYNTHETIC"));
    assert_eq!(fixture.run(&sparse).status.code(), Some(2), "an existing file is not replaced");
    let (json, text) = fixture.json(&["peak", "sparse.raw", "-e", "fast", "-t", "2", "--scratch", "scratch"]);
    assert!(json["synthetic"].as_str().unwrap().contains("SYNTHETIC"));
    assert!(text.contains("SYNTHETIC INPUT"), "{text}");
    assert_eq!(json["result"]["peaks"].as_array().unwrap().len(), 2);
    fixture.nothing_is_left_in(&fixture.path("scratch"));
}

#[test]
fn wrong_command_lines_and_missing_files_differ() {
    let fixture = Fixture::new();
    for arguments in [
        &["pack"][..],
        &["pack", "guest.raw", "--effort", "heroic"],
        &["scan", "--mib", "0"],
        &["sparse", "--gib", "1", "--data-mib", "1000", "--out", "x"],
        &["nonsense"],
    ] {
        assert_eq!(fixture.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert!(!fixture.path("x").exists());
    fs::write(fixture.path("packed.mig"), b"MiGf and so on").unwrap();
    for arguments in [&["pack", "packed.mig"][..], &["pack", "guest.raw", "-r", "packed.mig"]] {
        assert_eq!(fixture.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [&["pack", "absent"][..], &["index", "absent"], &["pack", "guest.raw", "-r", "absent"]] {
        let output = fixture.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("absent"), "{arguments:?}");
    }
    let help = String::from_utf8(fixture.run(&["--help"]).stdout).unwrap();
    assert!(help.contains("Exit codes:") && !help.contains("peak-child"), "{help}");
}

/// A packed image, which is unpacked first, by what it was packed with.
#[test]
fn a_packed_image_is_measured_as_what_it_was_made_of() {
    let fixture = Fixture::new();
    let image = MemoryImage::open(&fixture.path("guest.raw"), None).unwrap();
    let disk = Reference::open(&fixture.path("guest.disk"), image.page_count()).unwrap();
    let packed = fs::File::create(fixture.path("guest.mig")).unwrap();
    Packer::new().effort(Effort::Fast).reference(disk).pack(&image, &packed).unwrap();
    let suite = "about = 'a test'\nrepeats = 1\nlinks = []\ncontenders = ['raw', 'mig store']\n";
    fs::write(fixture.path("mine.toml"), suite).unwrap();
    let run = ["run", "mine.toml", "--scratch", "scratch"];
    let of = |image: &str| fixture.json(&[&run[..], &[image, "-r", "guest.disk"]].concat()).0;
    let (plain, unpacked) = (of("guest.raw"), of("guest.mig"));
    let sizes = |json: &Value| -> Vec<u64> {
        let lines = json["result"]["runs"][0]["contenders"].as_array().unwrap().clone();
        lines.iter().map(|line| line["bytes"].as_u64().unwrap()).collect()
    };
    assert_eq!((sizes(&unpacked), sizes(&plain)[0]), (sizes(&plain), 8 << 20));
    fixture.nothing_is_left_in(&fixture.path("scratch"));
    // Without its disk it cannot be had.
    let output = fixture.run(&[&run[..], &["guest.mig"]].concat());
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && why.contains("guest.disk"), "{why}");
    fixture.nothing_is_left_in(&fixture.path("scratch"));
}

/// A suite of one's own, on an image of one's own: every number is there, promises are judged, and a report compares with itself.
#[test]
fn a_suite_is_run_shown_and_compared() {
    let fixture = Fixture::new();
    let suite = r#"
        about = "a test"
        repeats = 2
        whole = true
        links = ["400 Mbit", "4 Gbit", "1 Gbit, tc"]
        contenders = ["memcpy", "memory read", "raw", "zstd -1", "lz4", "zero pages, zstd -1", "mig store", "mig fast",
                      "mig fast, no reference", "mig fast, no guest", "mig fast, scalar", "mig auto", "qemu, mig"]
    "#;
    fs::write(fixture.path("mine.toml"), suite).unwrap();
    let mut later = fs::read(fixture.path("guest.raw")).unwrap();
    later[100 * 4096..101 * 4096].fill(7);
    fs::write(fixture.path("later.raw"), later).unwrap();
    let run = [
        "run",
        "mine.toml",
        "guest.raw",
        "-r",
        "guest.disk",
        "--round",
        "later.raw",
        "--scratch",
        "scratch",
        "--html",
        "report.html",
        "--markdown",
        "table.md",
    ];
    let (json, text) = fixture.json(&run);
    fixture.nothing_is_left_in(&fixture.path("scratch"));
    let run = &json["result"]["runs"][0];
    assert_eq!((&run["corpus"], &run["synthetic"]), (&"guest".into(), &Value::Null));
    let line = |name: &str| {
        let lines = run["contenders"].as_array().unwrap().iter();
        lines.clone().find(|line| line["contender"] == name).unwrap_or_else(|| panic!("{name}: {run}"))
    };
    let bytes = |name: &str| line(name)["bytes"].as_u64().unwrap();
    // Why something could not be measured is said, and with MIG_REQUIRE it must have been.
    let absent = run["absent"].to_string();
    let has_cable = !absent.contains(", tc");
    let required = std::env::var("MIG_REQUIRE").unwrap_or_default();
    for (name, mark) in [("cable", ", tc"), ("qemu", "qemu")] {
        let is_required = required.split(',').any(|required| required == name);
        assert!(!is_required || !absent.contains(mark), "{name} is required: {absent}");
    }
    assert_eq!(bytes("raw"), 8 << 20);
    assert_eq!(bytes("mig fast, scalar"), bytes("mig fast"));
    assert!(bytes("mig fast") < bytes("mig fast, no reference") && bytes("mig fast") < bytes("zstd -1"));
    assert!(bytes("lz4") < bytes("raw") && bytes("zero pages, zstd -1") < bytes("raw"));
    assert!(line("memcpy")["links"].as_array().unwrap().is_empty(), "a roof moves no guest");
    for name in ["raw", "zstd -1", "mig fast", "mig auto"] {
        let links = line(name)["links"].as_array().unwrap();
        assert_eq!(links.len(), 2 + usize::from(has_cable), "{name}");
        for link in links {
            let samples = |of: &str| link[of]["samples"].as_array().unwrap().clone();
            let (seconds, bytes) = (samples("seconds"), samples("bytes"));
            assert_eq!((seconds.len(), bytes.len()), (2, 2));
            // A cable sends its first packets at once.
            let share = if link["link"].as_str().unwrap().ends_with("tc") { 0.9 } else { 0.99 };
            for (seconds, bytes) in seconds.iter().zip(&bytes) {
                let least = bytes.as_f64().unwrap() * 8.0 / link["bits_per_second"].as_f64().unwrap();
                assert!(seconds.as_f64().unwrap() >= least * share, "{name}: faster than {link}");
            }
        }
    }
    assert_eq!(
        json["goals"].as_array().unwrap().len(),
        4 + 2 * usize::from(has_cable),
        "two promises a link"
    );
    for name in ["raw", "zstd -1", "mig fast"] {
        let rounds = line(name)["rounds"].as_array().unwrap();
        assert_eq!((rounds.len(), &rounds[1]["pages"]), (2, &1.into()), "{name}");
        let whole = &line(name)["whole"];
        assert!(
            whole["cold"]["wall"].as_f64() > Some(0.0) && whole["peak_anonymous_bytes"].as_u64() > Some(0)
        );
    }
    assert!(line("memcpy")["whole"].is_null());
    if !absent.contains("qemu") {
        assert!(
            bytes("qemu, mig") < bytes("zstd -1") && line("qemu, mig")["ends"]["total_seconds"].is_number()
        );
    }
    let markdown = fs::read_to_string(fixture.path("table.md")).unwrap();
    assert!(markdown.starts_with("| guest; the destination has guest.disk | bytes |"), "{markdown}");
    assert!(markdown.contains("| `mig fast` | "), "{markdown}");
    for part in ["seconds to move it", "mig auto", "time of mig auto, of raw"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let html = fs::read_to_string(fixture.path("report.html")).unwrap();
    assert_eq!(html.matches("<svg").count(), 4);
    assert!(
        html.contains("mig auto") && !html.contains("http://www.w3.org/1999/xlink"),
        "it needs nothing else"
    );

    fs::rename(fixture.path("report.json"), fixture.path("old.json")).unwrap();
    let same = fixture.run(&["compare", "old.json", "old.json"]);
    assert_eq!(same.status.code(), Some(0), "{}", String::from_utf8_lossy(&same.stderr));
    // The same, but larger and slower.
    let mut worse = json.clone();
    let lines = worse["result"]["runs"][0]["contenders"].as_array_mut().unwrap();
    let fast = lines.iter_mut().find(|line| line["contender"] == "mig fast").unwrap();
    fast["bytes"] = (fast["bytes"].as_u64().unwrap() + 100_000).into();
    fast["pack"]["wall_seconds"]["samples"] = serde_json::json!([100.0, 101.0]);
    fs::write(fixture.path("worse.json"), worse.to_string()).unwrap();
    let compared = fixture.run(&["compare", "old.json", "worse.json"]);
    assert_eq!(compared.status.code(), Some(5));
    let text = String::from_utf8(compared.stdout).unwrap();
    assert_eq!(text.matches("WORSE").count(), 2, "{text}");
    // Another machine's times say nothing.
    worse["provenance"]["cpu"] = "another".into();
    fs::write(fixture.path("worse.json"), worse.to_string()).unwrap();
    let text = String::from_utf8(fixture.run(&["compare", "old.json", "worse.json"]).stdout).unwrap();
    assert_eq!(text.matches("WORSE").count(), 1, "{text}");
    assert_eq!(fixture.run(&["compare", "old.json", "guest.raw"]).status.code(), Some(2));
}

#[test]
fn suites_are_listed_and_wrong_ones_refused() {
    let fixture = Fixture::new();
    let listed = fixture.run(&["list"]);
    let text = String::from_utf8(listed.stdout).unwrap();
    for name in ["quick:", "readme:", "links:", "full:", "cable:", "qemu:", "workers:", "ablation:"] {
        assert!(text.contains(name), "{text}");
    }
    fs::write(fixture.path("bad.toml"), "about = \"x\"\ncontenders = [\"zip\"]\n").unwrap();
    let refused = fixture.run(&["run", "bad.toml"]);
    assert_eq!(refused.status.code(), Some(2));
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("line 2") && why.contains("zip"), "{why}");
    assert_eq!(fixture.run(&["run", "no-such-suite"]).status.code(), Some(2));
}
