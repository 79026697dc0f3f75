//! Packing and unpacking a large, sparse guest keeps to little memory, whatever the size of the guest.
//!
//! Counted is `RssAnon`: what the program asked for itself. Mapped files, the image and its references, are the system's
//! to give and to take.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::Folder;
use mig_tests::guests;
use mig_tests::handmade::Random;
use mig_tests::reference::PAGE;

const MIB: u64 = 1 << 20;
/// Bytes of the guest, and how many of them are not holes.
const GUEST: u64 = 8192 * MIB;
const DATA: u64 = 512 * MIB;
/// What may be used: a fixed part, and one percent of the guest.
const LIMIT: u64 = 256 * MIB + GUEST / 100;

/// Waits for a child, and gives the most anonymous memory that it was seen with, in bytes.
fn peak(mut child: Child) -> (u64, bool) {
    let path = format!("/proc/{}/status", child.id());
    let (mut most, mut samples) = (0, 0);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(samples > 3, "it ended before it was looked at");
            return (most, status.success());
        }
        // Of a child that has just ended there is nothing to read.
        let status = fs::read_to_string(&path).unwrap_or_default();
        if let Some(now) = status.lines().find_map(|line| line.strip_prefix("RssAnon:")) {
            let kib: u64 = now.trim().trim_end_matches(" kB").parse().unwrap();
            most = most.max(kib * 1024);
            samples += 1;
        }
        sleep(Duration::from_millis(3));
    }
}

/// Real pages, tile after tile with other words changed in each, and noise. Half of the tiles lie together, so that every
/// block in flight is full; between the others are holes.
fn write_guest(file: &File) {
    file.set_len(GUEST).unwrap();
    let tile = guests::of_many_blocks();
    let tiles = DATA / tile.len() as u64;
    let mut random = Random::new(11);
    for number in 0..tiles {
        let mut copy = tile.clone();
        for (place, page) in copy.chunks_mut(PAGE).enumerate() {
            match (place as u64 + number) % 8 {
                0 => {}
                1 => page.copy_from_slice(&random.page()),
                _ => {
                    for _ in 0..16 {
                        let at = random.below(512) as usize * 8;
                        page[at..at + 8].copy_from_slice(&random.word().to_le_bytes());
                    }
                }
            }
        }
        let at = if number < tiles / 2 { number * tile.len() as u64 } else { number * (GUEST / tiles) };
        file.write_all_at(&copy, at).unwrap();
    }
}

fn quiet(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap()
}

#[test]
fn memory_is_bounded() {
    let folder = Folder::empty();
    write_guest(&File::create_new(folder.path("guest.raw")).unwrap());
    for effort in ["fast", "balanced"] {
        let pack = quiet(folder.command(&format!("pack guest.raw -o guest.mig --force -t 2 -e {effort}")));
        let (packing, ok) = peak(pack);
        assert!(ok);
        let unpack = quiet(folder.command("unpack guest.mig -o back.raw --force -t 2"));
        let (unpacking, ok) = peak(unpack);
        assert!(ok);
        eprintln!(
            "{effort}: at most {} MiB anonymous memory to pack, {} MiB to unpack; allowed are {} MiB",
            packing / MIB,
            unpacking / MIB,
            LIMIT / MIB
        );
        assert!(packing < LIMIT, "packing at {effort}: {} MiB", packing / MIB);
        assert!(unpacking < LIMIT, "unpacking at {effort}: {} MiB", unpacking / MIB);
        // And it is the guest that came back, as sparse as it was.
        compare(&folder);
    }
}

/// Compares the two files, data against data.
fn compare(folder: &Folder) {
    let files = ["guest.raw", "back.raw"].map(|name| File::open(folder.path(name)).unwrap());
    let lens = files.each_ref().map(|file| file.metadata().unwrap().len());
    assert_eq!(lens, [GUEST; 2]);
    let extents = files.each_ref().map(|file| mig_engine::map::data_extents(file, 0..GUEST));
    let data = extents.each_ref().map(|extents| extents.iter().map(|e| e.end - e.start).sum::<u64>());
    assert!(data[1] <= data[0], "{data:?} bytes of data");
    let mut bytes = [vec![0; MIB as usize], vec![0; MIB as usize]];
    for extent in &extents[0] {
        for at in extent.clone().step_by(MIB as usize) {
            let len = MIB.min(extent.end - at) as usize;
            for (file, bytes) in files.iter().zip(&mut bytes) {
                file.read_exact_at(&mut bytes[..len], at).unwrap();
            }
            assert!(bytes[0][..len] == bytes[1][..len], "other bytes near {at:#x}");
        }
    }
}

/// The sibling: a process that takes more is seen to.
#[test]
fn too_much_memory_is_seen() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "takes_much_memory"]);
    let (most, ok) = peak(quiet(command));
    assert!(ok);
    assert!(most > LIMIT, "{} MiB", most / MIB);
}

#[test]
#[ignore = "not a test: a process that another test looks at"]
fn takes_much_memory() {
    let bytes = vec![7u8; LIMIT as usize + (16 << 20)];
    sleep(Duration::from_millis(200));
    assert_eq!(std::hint::black_box(bytes)[12345], 7);
}
