//! Images that qemu-img made, against what it converts them to.
//!
//! Where there is no qemu-img the tests say so and pass, unless `MIG_REQUIRE` names it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::reference::IndexBuilder;

/// Whether qemu-img and qemu-io are there.
fn present() -> bool {
    let runs =
        |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|out| out.status.success());
    if runs("qemu-img") && runs("qemu-io") {
        return true;
    }
    let required = std::env::var("MIG_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name == "qemu-img"),
        "MIG_REQUIRE names qemu-img, which is not there"
    );
    println!("skipped: qemu-img or qemu-io is not there");
    false
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a command line of words without spaces.
    fn run(&self, line: &str) {
        let mut words = line.split_whitespace();
        let out = Command::new(words.next().unwrap()).args(words).current_dir(&self.0).output().unwrap();
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Writes a pattern, zeros and a discarded range into an image.
    fn scribble(&self, format: &str, image: &str, seed: u64) {
        for (number, command) in
            ["write -P", "write -P", "write -z", "write -P", "write -P"].iter().enumerate()
        {
            let at = (seed * 7 + number as u64 * 31) * 65_536 % (5 << 20) + number as u64 * 1536;
            let command = match *command {
                "write -z" => format!("write -z {at} 200k"),
                write => format!("{write} {} {at} 70k", seed * 5 + number as u64 + 1),
            };
            let out = Command::new("qemu-io")
                .args(["-f", format, "-c", &command, image])
                .current_dir(&self.0)
                .output()
                .unwrap();
            assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
        }
    }

    /// Checks an image against qemu-img's conversion to raw.
    fn check(&self, image: &str, format: &str) {
        let _ = fs::remove_file(self.path("truth.raw"));
        self.run(&format!("qemu-img convert -f {format} -O raw {image} truth.raw"));
        let truth = fs::read(self.path("truth.raw")).unwrap();
        assert!(truth.len() > 5 << 20);
        assert_file_shows(&self.path(image), &truth);
        // The index depends on what the guest sees, not on how it is stored.
        let index = |path: &str| {
            let image = DiskImage::open(self.path(path)).unwrap();
            let tie = SourceTie::new(Identity::of(&image).unwrap(), image.blocks(), &[]);
            let fingerprints = |pages: &[u8], out: &mut [u128]| {
                for (page, out) in pages.chunks_exact(BLOCK_SIZE).zip(out) {
                    *out = xxhash_rust::xxh3::xxh3_128(page);
                }
            };
            let path = self.path("index");
            IndexBuilder::new().build(&image, tie, &fingerprints).unwrap().save(&path).unwrap();
            fs::read(path).unwrap()
        };
        assert!(index(image) == index("truth.raw"), "{image}: index");
        println!("{image}: {} blocks agree", truth.len() / BLOCK_SIZE);
    }
}

/// Not a multiple of a block, nor of a cluster.
const SIZE: usize = (6 << 20) + 5 * 4096 + 512;

#[test]
fn qcow2_of_all_sorts() {
    if !present() {
        return;
    }
    let folder = Folder::new();
    fs::write(folder.path("disk.raw"), pattern(1, SIZE)).unwrap();
    folder.check("disk.raw", "raw");
    for options in [
        "cluster_size=64k",
        "cluster_size=512",
        "cluster_size=4k,refcount_bits=1",
        "cluster_size=2M",
        "compat=0.10",
        "preallocation=metadata",
        "data_file=outside.bin,data_file_raw=off",
    ] {
        folder.run(&format!("qemu-img convert -f raw -O qcow2 -o {options} disk.raw image.qcow2"));
        folder.check("image.qcow2", "qcow2");
        folder.scribble("qcow2", "image.qcow2", 2);
        folder.check("image.qcow2", "qcow2");
    }
    for options in ["cluster_size=64k", "cluster_size=4k", "cluster_size=2M", "compat=0.10"] {
        folder.run(&format!("qemu-img convert -c -f raw -O qcow2 -o {options} disk.raw packed.qcow2"));
        folder.check("packed.qcow2", "qcow2");
        folder.scribble("qcow2", "packed.qcow2", 3);
        folder.check("packed.qcow2", "qcow2");
    }
    // Internal snapshots share clusters and leave the disk as it is.
    folder.run("qemu-img snapshot -c before packed.qcow2");
    folder.scribble("qcow2", "packed.qcow2", 4);
    folder.check("packed.qcow2", "qcow2");
}

#[test]
fn vmdk_of_all_sorts() {
    if !present() {
        return;
    }
    let folder = Folder::new();
    fs::write(folder.path("disk.raw"), pattern(1, SIZE)).unwrap();
    for subformat in [
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
        "monolithicSparse,zeroed_grain=on",
    ] {
        folder.run(&format!("qemu-img convert -f raw -O vmdk -o subformat={subformat} disk.raw image.vmdk"));
        folder.check("image.vmdk", "vmdk");
        if subformat != "streamOptimized" {
            folder.scribble("vmdk", "image.vmdk", 2);
            folder.check("image.vmdk", "vmdk");
        }
    }
}

#[test]
fn chains_of_images() {
    if !present() {
        return;
    }
    let folder = Folder::new();
    fs::write(folder.path("disk.raw"), pattern(1, SIZE)).unwrap();
    folder.run("qemu-img convert -c -f raw -O qcow2 disk.raw packed.qcow2");
    folder.run("qemu-img convert -f raw -O vmdk disk.raw base.vmdk");
    for (name, base, format) in [
        ("a.qcow2", "disk.raw", "raw"),
        ("b.qcow2", "packed.qcow2", "qcow2"),
        ("c.qcow2", "base.vmdk", "vmdk"),
    ] {
        folder.run(&format!("qemu-img create -f qcow2 -b {base} -F {format} {name} 9M"));
        folder.check(name, "qcow2");
        folder.scribble("qcow2", name, 5);
        folder.check(name, "qcow2");
        // A second layer of other clusters, shorter than the first.
        folder.run(&format!("qemu-img create -f qcow2 -o cluster_size=4k -b {name} -F qcow2 over-{name} 8M"));
        folder.scribble("qcow2", &format!("over-{name}"), 6);
        folder.check(&format!("over-{name}"), "qcow2");
    }
    folder.run("qemu-img create -f vmdk -b base.vmdk -F vmdk child.vmdk");
    folder.scribble("vmdk", "child.vmdk", 7);
    folder.check("child.vmdk", "vmdk");
    // A base that lies elsewhere, named relative to the image.
    fs::create_dir(folder.path("sub")).unwrap();
    folder.run("qemu-img create -f qcow2 -b ../b.qcow2 -F qcow2 sub/d.qcow2");
    folder.scribble("qcow2", "sub/d.qcow2", 8);
    folder.check("sub/d.qcow2", "qcow2");
}
