//! References that every target has at hand: the same bytes in every run, so that seeds can refer to them.

use std::sync::OnceLock;

use mig_engine::reference::DiskImage;
use mig_engine::{Cancel, Level, MemoryImage, Reference};

use crate::file;
use crate::guest::{self, Recipe};

/// Blocks of the disk, and pages of the older memory image.
pub const BLOCKS: u8 = 48;

/// The disk's bytes.
pub fn disk() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| bytes(100))
}

/// The older memory image's bytes.
pub fn older() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| bytes(200))
}

fn bytes(seed: u8) -> Vec<u8> {
    let recipes: Vec<Recipe> = (0..BLOCKS)
        .map(|block| match block % 6 {
            0 => Recipe::Random(seed ^ block),
            1 => Recipe::Text(seed ^ block),
            2 => Recipe::Pointers { seed: seed ^ block, kernel: block % 4 == 0 },
            3 => Recipe::Words { seed: seed ^ block, values: block },
            4 => Recipe::Zero,
            _ => Recipe::Copy(3),
        })
        .collect();
    guest::pages(&recipes, &[], &[]).concat()
}

/// The disk, then the older image, opened anew and with their indexes.
///
/// # Panics
///
/// If they can't be opened: then nothing can be tested.
pub fn open() -> [Reference; 2] {
    let disk = file::with_bytes(disk());
    let disk = DiskImage::open(file::path_of(&disk)).expect("a raw disk");
    let older = MemoryImage::from_file(file::with_bytes(older()), None).expect("a raw image");
    let disk = Reference::disk(disk, "disk".to_owned()).expect("a reference");
    let older = Reference::memory(older, "older".to_owned()).expect("a reference");
    [disk, older].map(|mut reference| {
        reference.build_index(Level::best(), &Cancel::new()).expect("an index");
        reference
    })
}

/// What a stream's references are taken for, whatever it says they are: disk, older image, one that is not at hand.
pub fn at_hand() -> &'static [Option<Reference>] {
    static REFERENCES: OnceLock<Vec<Option<Reference>>> = OnceLock::new();
    REFERENCES.get_or_init(|| {
        let [disk, older] = open();
        vec![Some(disk), Some(older), None]
    })
}

/// The same as bytes, for the slow decoder.
pub fn at_hand_bytes() -> &'static [Option<Vec<u8>>] {
    static BYTES: OnceLock<Vec<Option<Vec<u8>>>> = OnceLock::new();
    BYTES.get_or_init(|| vec![Some(disk().to_vec()), Some(older().to_vec()), None])
}
