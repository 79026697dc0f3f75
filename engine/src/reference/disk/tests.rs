//! Disk images against what is known to be in them: images made by hand here, and images made by qemu-img.

mod by_hand;
mod hostile;
mod qemu_img;

use super::*;

/// Checks that an image shows exactly these bytes, whichever way they are asked for.
fn assert_shows(image: &DiskImage, expected: &[u8]) {
    let blocks = (expected.len() / BLOCK_SIZE) as u64;
    assert_eq!(image.blocks(), blocks);
    // By runs.
    let mut block = 0;
    while block < blocks {
        let run = image.run(block, 1 + block % 100);
        let count = run.blocks();
        assert!((1..=1 + block % 100).contains(&count) && count <= blocks - block, "{count} at {block}");
        let here = &expected[block as usize * BLOCK_SIZE..][..count as usize * BLOCK_SIZE];
        match run {
            DiskRun::Hole(_) => assert!(here.iter().all(|&byte| byte == 0), "hole at {block}"),
            DiskRun::Mapped(bytes) => assert!(bytes == here, "mapped at {block}"),
            DiskRun::Opaque(_) => {
                let mut buf = vec![1; here.len()];
                image.read_blocks(block, &mut buf).unwrap();
                assert!(buf == here, "opaque at {block}");
            }
        }
        block += count;
    }
    // Block by block, in an order that helps no cache; then in large pieces; then all.
    let mut buf = vec![1; BLOCK_SIZE];
    for number in 0..blocks {
        let block = number * 7919 % blocks;
        image.read_blocks(block, &mut buf).unwrap();
        assert!(buf == expected[block as usize * BLOCK_SIZE..][..BLOCK_SIZE], "block {block}");
    }
    for (count, step) in [(37, 61), (300, 777), (blocks, blocks.max(1))] {
        for block in (0..blocks).step_by(step as usize) {
            let count = count.min(blocks - block) as usize;
            let mut buf = vec![1; count * BLOCK_SIZE];
            image.read_blocks(block, &mut buf).unwrap();
            assert!(
                buf == expected[block as usize * BLOCK_SIZE..][..buf.len()],
                "{count} blocks from {block}"
            );
        }
    }
    image.populate(0..u64::MAX).unwrap();
    // And nothing beyond.
    assert_eq!(image.run(blocks, 1), DiskRun::Hole(0));
    assert_eq!(image.run(u64::MAX, u64::MAX), DiskRun::Hole(0));
    assert!(matches!(image.read_blocks(blocks, &mut buf), Err(ReferenceError::OutOfRange { .. })));
    let identity = Identity::of(&expected[..blocks as usize * BLOCK_SIZE]).unwrap();
    assert_eq!(Identity::of(image).unwrap(), identity);
}

/// The same for the image at `path`, also when its list of extents ends early.
fn assert_file_shows(path: &Path, expected: &[u8]) {
    let mut image = DiskImage::open(path).unwrap();
    assert_shows(&image, expected);
    for extents in [image.extents.len() / 2, 0] {
        image.listed = image.extents.get(extents).map_or(image.blocks, |extent| extent.block);
        image.extents.truncate(extents);
        assert_shows(&image, expected);
    }
}

#[test]
fn a_wrong_byte_would_be_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let mut expected = pattern(1, 50 * BLOCK_SIZE);
    std::fs::write(&path, &expected).unwrap();
    let image = DiskImage::open(&path).unwrap();
    assert_shows(&image, &expected);
    for at in [0, 100_000, 50 * BLOCK_SIZE - 1] {
        expected[at] ^= 1;
        let shown =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| assert_shows(&image, &expected)));
        assert!(shown.is_err(), "byte {at}");
        expected[at] ^= 1;
    }
}

/// Bytes that are different everywhere, with stretches of zeros: `len` of them.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let stretch = bytes.len() / 20_000 % 4;
        // A stretch of zeros, one that compresses, and two that do not.
        let word = match stretch {
            0 => 0,
            1 => state >> 60,
            _ => state ^ state >> 29,
        };
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
