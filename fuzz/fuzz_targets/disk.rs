//! qcow2 and vmdk images: opening, walking and reading end without a panic or a hang, and runs are as long as they say.
//!
//! An image that names `900` as its backing file or extent gets a small raw one.
#![no_main]

use std::fs::File;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mig_engine::reference::{BLOCK_SIZE, DiskImage, DiskRun};
use mig_fuzz::{file, references};

/// Blocks that are looked at from each end, whatever size the image claims.
const LOOKED_AT: u64 = 200;

fuzz_target!(|bytes: &[u8]| {
    static BASE: OnceLock<File> = OnceLock::new();
    BASE.get_or_init(|| file::at_number(references::disk(), 900));
    let held = file::with_bytes(bytes);
    let Ok(image) = DiskImage::open(file::path_of(&held)) else { return };
    let _ = image.tie();
    let blocks = image.blocks();
    walk(&image, 0);
    walk(&image, blocks.saturating_sub(LOOKED_AT));
    assert_eq!(image.run(blocks, 1), DiskRun::Hole(0));
});

fn walk(image: &DiskImage, first: u64) {
    let mut buf = vec![0; 8 * BLOCK_SIZE];
    let (mut block, end) = (first, image.blocks().min(first.saturating_add(LOOKED_AT)));
    while block < end {
        let run = image.run(block, end - block);
        assert!((1..=end - block).contains(&run.blocks()), "{run:?}");
        let count = run.blocks().min(8) as usize;
        let buf = &mut buf[..count * BLOCK_SIZE];
        if image.read_blocks(block, buf).is_ok() {
            match run {
                DiskRun::Mapped(bytes) => assert!(bytes.starts_with(buf)),
                DiskRun::Hole(_) => assert!(buf.iter().all(|&byte| byte == 0)),
                DiskRun::Opaque(_) => {}
            }
        }
        let _ = image.populate(block..block + run.blocks());
        block += run.blocks();
    }
}
