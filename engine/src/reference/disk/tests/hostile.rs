//! Images that lie, loop, end early, or are something else. Nothing may panic, hang, or be let through.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use super::by_hand::{Cluster, qcow2, vmdk};
use super::*;

fn write(folder: &tempfile::TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// The message that opening an image gives.
fn refusal(path: &Path) -> String {
    DiskImage::open(path).unwrap_err().to_string()
}

#[test]
fn images_that_need_themselves_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "self.qcow2", qcow2(1 << 20, "self.qcow2", &[]));
    assert!(refusal(&path).contains("more than 64 backing images"));
    let text = "# Disk DescriptorFile\nparentCID=0\nparentFileNameHint=\"self.vmdk\"";
    let path = write(&folder, "self.vmdk", vmdk(text, &[None], false));
    assert!(refusal(&path).contains("more than 64 backing images"));
    let extents = "RW 1 FLAT \"flat.bin\" 0\n".repeat(2000);
    write(&folder, "flat.bin", [0; 512]);
    let path = write(&folder, "many.vmdk", format!("# Disk DescriptorFile\n{extents}"));
    assert!(refusal(&path).contains("more than 1024 files"));
}

#[test]
fn what_is_missing_or_no_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (backing, expected) in [
        ("gone.raw", "gone.raw: No such file"),
        ("/dev/null", "/dev/null: neither a regular file"),
        ("nbd://somewhere/disk", "named by a URL"),
        ("json:{}", "named by a URL or by JSON"),
    ] {
        let path = write(&folder, "top.qcow2", qcow2(1 << 20, backing, &[]));
        assert!(refusal(&path).contains(expected), "{backing}: {}", refusal(&path));
    }
    let path = write(&folder, "d.vmdk", "# Disk DescriptorFile\nRW 8 SESPARSE \"x\"\n");
    assert!(refusal(&path).ends_with("line 2 of the descriptor: this type of extent is not supported"));
    assert!(refusal(folder.path()).contains("neither a regular file"));
}

#[test]
fn features_that_would_change_the_contents_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = qcow2(1 << 20, "", &[Cluster::Zero]);
    let cases: [(usize, &[u8], &str); 9] = [
        (7, &[1], "another version of qcow"),
        (35, &[1], "encrypted"),
        (79, &[1], "dirty"),
        (79, &[2], "corrupt"),
        (79, &[4], "data file without a name"),
        (79, &[8], "another method than deflate"),
        (79, &[16], "extended L2 entries"),
        (79, &[64], "qcow2: Unrecognized incompatible feature"),
        (20, &[0, 0, 0, 40], "number of cluster bits 0x28"),
    ];
    for (at, bytes, expected) in cases {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        let path = write(&folder, "image.qcow2", &image);
        assert!(refusal(&path).contains(expected), "byte {at}: {}", refusal(&path));
    }
    let path = write(&folder, "esx.vmdk", b"COWD and more");
    assert!(refusal(&path).contains("ESX"));
}

#[test]
fn disks_that_are_too_large_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut image = qcow2(1 << 20, "", &[]);
    image[24..32].copy_from_slice(&u64::MAX.to_be_bytes());
    let path = write(&folder, "huge.qcow2", &image);
    assert!(refusal(&path).contains("number of tables"));
    // With 2 MiB clusters, a table of tables that is long enough fits into the limits.
    image[20..24].copy_from_slice(&21u32.to_be_bytes());
    image[36..40].copy_from_slice(&(4u32 << 20).to_be_bytes());
    image[40..48].copy_from_slice(&(2u64 << 20).to_be_bytes());
    image[24..32].copy_from_slice(&(1u64 << 60).to_be_bytes());
    let path = write(&folder, "huge.qcow2", &image);
    assert!(refusal(&path).contains("a disk of 1152921504606846976 bytes"), "{}", refusal(&path));
    let path = write(&folder, "huge.vmdk", "# Disk DescriptorFile\nRW 18446744073709551615 ZERO\n");
    assert!(refusal(&path).contains("number of sectors"));
    let path = write(&folder, "large.vmdk", "# Disk DescriptorFile\nRW 8796093022200 ZERO\n");
    let image = DiskImage::open(&path).unwrap();
    assert_eq!((image.blocks(), image.run(5, u64::MAX)), (MAX_BLOCKS, DiskRun::Hole(MAX_BLOCKS - 5)));
}

#[test]
fn damaged_data_is_an_error_where_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = pattern(4, 90_000);
    // What compresses to less than a cluster, so that it lies in the last one.
    let data = &bytes[30_000..][..BLOCK_SIZE];
    let image = qcow2(4 << 12, "", &[Cluster::Data(data), Cluster::Compressed(data)]);
    let packed = image.len() - BLOCK_SIZE;
    let mut broken = image.clone();
    broken[packed..packed + 20].fill(0xff);
    let image = DiskImage::open(write(&folder, "broken.qcow2", broken)).unwrap();
    let mut buf = vec![0; BLOCK_SIZE];
    image.read_blocks(0, &mut buf).unwrap();
    assert!(buf == data);
    assert!(matches!(image.read_blocks(1, &mut buf), Err(ReferenceError::Qcow2 { .. })));
    image.read_blocks(2, &mut buf).unwrap();

    // And what does not, so that it can be cut in the middle.
    let data = &bytes[50_000..][..BLOCK_SIZE];
    let whole = vmdk("# Disk DescriptorFile\n", &[Some(data), Some(data)], true);
    let at = whole.len() - 1024;
    let mut broken = whole.clone();
    broken[at..].fill(0x55);
    let image = DiskImage::open(write(&folder, "broken.vmdk", broken)).unwrap();
    image.read_blocks(0, &mut buf).unwrap();
    assert!(buf == data);
    assert!(image.read_blocks(1, &mut buf).is_err());
    let image = DiskImage::open(write(&folder, "short.vmdk", &whole[..at])).unwrap();
    assert!(matches!(image.read_blocks(1, &mut buf), Err(ReferenceError::Compressed { offset: 4096, .. })));
}

/// Opens and reads an image that may be anything; the result is of no interest, only that there is one.
fn poke(path: &Path) {
    let Ok(image) = DiskImage::open(path) else { return };
    let _ = image.tie();
    let mut buf = vec![0; 20 * BLOCK_SIZE];
    let mut block = 0;
    for _ in 0..50 {
        let run = image.run(block, 1000);
        if block < image.blocks() {
            assert!((1..=1000).contains(&run.blocks()));
        }
        let count = 20.min(image.blocks().saturating_sub(block)) as usize;
        let _ = image.read_blocks(block, &mut buf[..count * BLOCK_SIZE]);
        let _ = image.populate(block..block + 5);
        block += run.blocks();
    }
}

#[test]
fn no_mutation_of_an_image_panics() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = pattern(4, 90_000);
    let data = &bytes[30_000..][..BLOCK_SIZE];
    let text = "# Disk DescriptorFile\nparentCID=5\nparentFileNameHint=\"base.raw\"\n";
    let clusters = [
        Cluster::Data(data),
        Cluster::Compressed(data),
        Cluster::Zero,
        Cluster::Nothing,
        Cluster::Data(data),
    ];
    let flat =
        "# Disk DescriptorFile\nRW 72 SPARSE \"base.raw\"\nRW 3 ZERO\nRDONLY 100 FLAT \"base.raw\" 2\n";
    let images = [
        qcow2(600 << 12, "base.raw", &clusters),
        vmdk(text, &[Some(data), None, Some(&[]), Some(data), Some(data)], false),
        vmdk("", &[Some(data), None, Some(data)], true),
        flat.into(),
    ];
    write(&folder, "base.raw", vmdk("", &[None, Some(data)], false));
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    for round in 0..4000 {
        let mut image = images[round % images.len()].clone();
        for _ in 0..=random(3) {
            // Mostly in the headers and tables, which come first.
            let area = [112, 9000, image.len()][random(3)].min(image.len());
            let at = random(area);
            match random(5) {
                0 => image[at] ^= 1 << random(8),
                1 => image[at] = 0xff,
                2 => image[at] = random(256) as u8,
                3 => image.truncate(at.max(1)),
                _ => {
                    let end = image.len().min(at + 8);
                    image[at..end].fill_with(|| random(256) as u8);
                }
            }
        }
        let path = write(&folder, "mutant", &image);
        if catch_unwind(AssertUnwindSafe(|| poke(&path))).is_err() {
            panic!("round {round} panics");
        }
    }
}
