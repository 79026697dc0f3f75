//! Images whose every byte is written here, so that no tool is needed to make them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;

use super::*;
use crate::reference::{IndexBuilder, IndexError, StaleCause};

/// A qcow2 image of version 3 with 4 KiB clusters and these clusters at the front of the disk.
pub(super) fn qcow2(size: u64, backing: &str, clusters: &[Cluster<'_>]) -> Vec<u8> {
    // Cluster 0: header; 1: L1 table; 2: L2 table; 3 and on: data.
    let mut file = vec![0; 3 * BLOCK_SIZE];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    if !backing.is_empty() {
        put(8, &512u64.to_be_bytes());
        put(16, &(backing.len() as u32).to_be_bytes());
        put(512, backing.as_bytes());
    }
    put(20, &12u32.to_be_bytes());
    put(24, &size.to_be_bytes());
    put(36, &(size.div_ceil(512 * 4096) as u32).to_be_bytes());
    put(40, &4096u64.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(4096, &(1 << 63 | 8192u64).to_be_bytes());
    for (number, cluster) in clusters.iter().enumerate() {
        let entry = match cluster {
            Cluster::Nothing => 0,
            Cluster::Zero => 1,
            Cluster::Data(bytes) => {
                let at = file.len() as u64;
                file.extend_from_slice(bytes);
                file.resize(at as usize + BLOCK_SIZE, 0);
                1 << 63 | at
            }
            Cluster::Compressed(bytes) => {
                let at = file.len() as u64;
                let packed = miniz_oxide::deflate::compress_to_vec(bytes, 6);
                file.extend_from_slice(&packed);
                file.resize(file.len().next_multiple_of(BLOCK_SIZE), 0);
                let sectors = (packed.len() as u64 - 1) / 512;
                1 << 62 | sectors << 58 | at
            }
        };
        file[8192 + number * 8..][..8].copy_from_slice(&u64::to_be_bytes(entry));
    }
    file
}

pub(super) enum Cluster<'a> {
    Nothing,
    Zero,
    Data(&'a [u8]),
    Compressed(&'a [u8]),
}

/// A sparse vmdk extent of grains of 4 KiB, with tables of 4 entries: `None` is not allocated.
pub(super) fn vmdk(descriptor: &str, grains: &[Option<&[u8]>], compressed: bool) -> Vec<u8> {
    let tables = grains.len().div_ceil(4);
    // Sector 0: header; 1-2: descriptor; 3: directory; 4 and on: tables, one a sector; then grains.
    let mut file = vec![0; (4 + tables) * 512];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"KDMV");
    put(4, &1u32.to_le_bytes());
    put(8, &(if compressed { 0x3_0005u32 } else { 5 }).to_le_bytes());
    put(12, &(grains.len() as u64 * 8).to_le_bytes());
    put(20, &8u64.to_le_bytes());
    put(28, &1u64.to_le_bytes());
    put(36, &2u64.to_le_bytes());
    put(44, &4u32.to_le_bytes());
    put(56, &3u64.to_le_bytes());
    put(77, &u16::from(compressed).to_le_bytes());
    put(512, descriptor.as_bytes());
    for table in 0..tables {
        put(3 * 512 + table * 4, &(4 + table as u32).to_le_bytes());
    }
    for (number, grain) in grains.iter().enumerate() {
        let Some(bytes) = grain else { continue };
        let sector = (file.len() / 512) as u32;
        if bytes.is_empty() {
            file[(4 + number / 4) * 512 + number % 4 * 4] = 1;
            continue;
        }
        file[(4 + number / 4) * 512 + number % 4 * 4..][..4].copy_from_slice(&sector.to_le_bytes());
        if compressed {
            let packed = miniz_oxide::deflate::compress_to_vec_zlib(bytes, 6);
            file.extend_from_slice(&(number as u64 * 8).to_le_bytes());
            file.extend_from_slice(&(packed.len() as u32).to_le_bytes());
            file.extend_from_slice(&packed);
        } else {
            file.extend_from_slice(bytes);
        }
        file.resize(file.len().next_multiple_of(512), 0);
    }
    file
}

#[test]
fn raw_images_show_their_bytes_and_their_holes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let file = fs::File::create(&path).unwrap();
    let mut expected = vec![0; 3 << 20];
    for (at, len) in [(0, 5000), (1 << 20, 4096), ((2 << 20) + 100, 70_000)] {
        let bytes = pattern(at + 1, len + 50_000)[50_000..].to_vec();
        file.write_all_at(&bytes, at).unwrap();
        expected[at as usize..][..len].copy_from_slice(&bytes);
    }
    // A last block that is not whole does not count.
    expected.extend_from_slice(&[3; 4095]);
    file.write_all_at(&[3; 4095], 3 << 20).unwrap();
    assert_file_shows(&path, &expected);
    let image = DiskImage::open(&path).unwrap();
    let holes: u64 =
        (0..image.blocks()).filter(|&block| matches!(image.run(block, 1), DiskRun::Hole(1))).count() as u64;
    if holes == 0 {
        println!("skipped: the file system of the temporary folder does not tell of holes");
    } else {
        assert!(holes > 600 && matches!(image.run(10, 9999), DiskRun::Hole(200..)), "{holes} holes");
    }
    // Too short for a single block.
    fs::write(&path, b"tiny").unwrap();
    assert_eq!(DiskImage::open(&path).unwrap().blocks(), 0);
    fs::write(&path, b"").unwrap();
    assert_eq!(DiskImage::open(&path).unwrap().blocks(), 0);
}

#[test]
fn qcow2_shows_data_zeros_compressed_clusters_and_what_lies_below() {
    let folder = tempfile::tempdir().unwrap();
    let base = pattern(3, 9 * BLOCK_SIZE + 1024);
    fs::write(folder.path().join("base.raw"), &base).unwrap();
    let (one, two) = (pattern(5, 90_000), pattern(6, 90_000));
    let (one, two) = (&one[50_000..][..BLOCK_SIZE], &two[30_000..][..BLOCK_SIZE]);
    let clusters = [
        Cluster::Data(one),
        Cluster::Data(two),
        Cluster::Nothing,
        Cluster::Nothing,
        Cluster::Zero,
        Cluster::Compressed(two),
        Cluster::Compressed(one),
        Cluster::Nothing,
        Cluster::Nothing,
        Cluster::Nothing,
        Cluster::Nothing,
        Cluster::Data(one),
    ];
    let mut expected = base.clone();
    expected.resize(600 * BLOCK_SIZE, 0);
    for (at, bytes) in [(0, one), (1, two), (4, &[0; BLOCK_SIZE]), (5, two), (6, one), (11, one)] {
        expected[at * BLOCK_SIZE..][..BLOCK_SIZE].copy_from_slice(bytes);
    }
    let path = folder.path().join("top.qcow2");
    fs::write(&path, qcow2(600 * 4096, "base.raw", &clusters)).unwrap();
    assert_file_shows(&path, &expected);
    let image = DiskImage::open(&path).unwrap();
    assert!(matches!(image.run(0, 9), DiskRun::Mapped(bytes) if bytes.len() == 2 * BLOCK_SIZE));
    assert_eq!(image.run(4, 9), DiskRun::Hole(1));
    assert_eq!(image.run(5, 9), DiskRun::Opaque(2));
    // Block 9 is partly in the base, partly beyond its end.
    assert_eq!(image.run(9, 9), DiskRun::Opaque(1));
    assert_eq!(image.files().collect::<Vec<_>>(), [path.clone(), folder.path().join("base.raw")]);

    // The same without the base: its blocks are zeros.
    fs::write(&path, qcow2(600 * 4096, "", &clusters)).unwrap();
    for at in [2, 3, 7, 8, 9] {
        expected[at * BLOCK_SIZE..][..BLOCK_SIZE].fill(0);
    }
    assert_file_shows(&path, &expected);

    // As raw, its own bytes.
    let file = fs::read(&path).unwrap();
    assert_shows(&DiskImage::open_as(&path, DiskFormat::Raw).unwrap(), &file);
}

#[test]
fn vmdk_shows_grains_zeros_and_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = pattern(9, 100_000);
    let (one, two) = (&bytes[40_000..][..BLOCK_SIZE], &bytes[25_000..][..BLOCK_SIZE]);
    let grains: [Option<&[u8]>; 7] = [Some(one), Some(two), None, Some(&[]), Some(one), Some(two), Some(one)];
    let mut expected = [one, two, &[0; BLOCK_SIZE], &[0; BLOCK_SIZE], one, two, one].concat();
    for compressed in [false, true] {
        let path = folder.path().join("base.vmdk");
        fs::write(&path, vmdk("# Disk DescriptorFile\nparentCID=ffffffff\n", &grains, compressed)).unwrap();
        assert_file_shows(&path, &expected);
    }
    let child: [Option<&[u8]>; 9] =
        [None, Some(one), Some(two), None, None, None, Some(&[]), None, Some(one)];
    let text = "# Disk DescriptorFile\nparentCID=12345678\nparentFileNameHint=\"base.vmdk\"\n";
    let path = folder.path().join("child.vmdk");
    fs::write(&path, vmdk(text, &child, false)).unwrap();
    expected.resize(9 * BLOCK_SIZE, 0);
    for (at, bytes) in [(1, one), (2, two), (6, &[0; BLOCK_SIZE]), (8, one)] {
        expected[at * BLOCK_SIZE..][..BLOCK_SIZE].copy_from_slice(bytes);
    }
    assert_file_shows(&path, &expected);

    // A descriptor of several extents, one of which begins in the middle of a block.
    fs::write(folder.path().join("a flat.bin"), &bytes).unwrap();
    let text = "# Disk DescriptorFile\nversion=1\n\n# Extents\nRW 56 SPARSE \"base.vmdk\"\nRW 3 ZERO\n\
                RDONLY 100 FLAT \"a flat.bin\" 2\nRW 200 VMFS \"a flat.bin\"\n";
    let path = folder.path().join("several.vmdk");
    fs::write(&path, text).unwrap();
    let mut expected = [one, two, &[0; BLOCK_SIZE], &[0; BLOCK_SIZE], one, two, one].concat();
    expected.resize(59 * 512, 0);
    expected.extend_from_slice(&bytes[1024..][..51_200]);
    expected.extend_from_slice(&bytes);
    expected.resize(359 * 512, 0);
    assert_file_shows(&path, &expected);
    assert_eq!(DiskImage::open(&path).unwrap().files().len(), 4);
}

#[test]
fn an_index_is_stale_once_a_file_of_the_image_was_touched() {
    let folder = tempfile::tempdir().unwrap();
    let (base, top) = (folder.path().join("base.raw"), folder.path().join("top.qcow2"));
    let bytes = pattern(3, 20 * BLOCK_SIZE);
    fs::write(&base, &bytes).unwrap();
    fs::write(&top, qcow2(20 * 4096, "base.raw", &[Cluster::Data(&bytes[45_000..][..BLOCK_SIZE])])).unwrap();
    let open = || DiskImage::open(&top).unwrap();
    let stale = |path: &Path| match crate::reference::Index::open(path, &open().tie().unwrap()) {
        Err(IndexError::Stale { changed, .. }) => Some(changed),
        other => {
            other.unwrap();
            None
        }
    };
    let build = || {
        let image = open();
        let tie = image.tie().unwrap();
        let fingerprints = |pages: &[u8], out: &mut [u128]| {
            for (page, out) in pages.chunks_exact(BLOCK_SIZE).zip(out) {
                *out = xxhash_rust::xxh3::xxh3_128(page);
            }
        };
        let index = IndexBuilder::new().build(&image, tie, &fingerprints).unwrap();
        let path = crate::reference::Index::default_path(&top);
        index.save(&path).unwrap();
        path
    };
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    let touch =
        |path: &Path| fs::File::options().append(true).open(path).unwrap().set_modified(later).unwrap();

    let path = build();
    assert_eq!(stale(&path), None);
    touch(&base);
    assert_eq!(stale(&path), Some(StaleCause::OtherFiles));
    let path = build();
    touch(&top);
    assert_eq!(stale(&path), Some(StaleCause::Modified));
    let path = build();
    assert_eq!(stale(&path), None);
    fs::File::options().append(true).open(&top).unwrap().write_all(&[0; 4096]).unwrap();
    assert_eq!(stale(&path), Some(StaleCause::Length));
    // Changed under a kept time and length.
    let path = build();
    let times = fs::metadata(&base).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(&base).unwrap();
    file.write_all_at(b"changed", 5 * 4096).unwrap();
    file.set_modified(times).unwrap();
    assert_eq!(stale(&path), Some(StaleCause::Identity));
}
