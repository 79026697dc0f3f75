//! Golden files: streams that were packed once, and must be read for ever.
//!
//! `golden/README.md` lists them with the XXH3-128 of the image that each must give; `golden/bad` and its neighbours hold
//! files that must be refused, with the error of each in `errors.txt`. The binary `make-golden` writes what is missing.

use std::fs;
use std::path::{Path, PathBuf};

use mig_engine::Effort;
use xxhash_rust::xxh3::xxh3_128;

use crate::engine::{self, References};
use crate::guests::{self, Guest, linux};
use crate::hostile::{AtHand, Hostile};
use crate::images;
use crate::reference::PAGE;

/// The folder of the golden files.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// How a golden stream is made.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The file's name.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// The image's file.
    pub image: Vec<u8>,
    /// The effort.
    pub effort: Effort,
    /// Whether it is for random access.
    pub random_access: bool,
    /// Which references it may use: the disk, the older image.
    pub uses: [bool; 2],
}

/// All recipes, and the references' bytes: the disk, the older image.
pub fn recipes() -> (Vec<Recipe>, [Vec<u8>; 2]) {
    let Guest { memory, older, disk } = guests::of_every_kind();
    let part = |first: usize, pages: usize| memory[first * PAGE..][..pages * PAGE].to_vec();
    let loads = [(0x9000, part(5, 3)), (0, part(0, 5)), (0x4_0000, part(9, 3))];
    let blocks = [("pc.ram", part(0, 8)), ("vga.vram", part(9, 2))];
    let tail = [&part(5, 3)[..], b"bytes after the last page"].concat();
    let spread = |pages: usize, places: &[usize]| {
        let mut image = vec![0; pages * PAGE];
        for &first in places {
            image[first * PAGE..][..8 * PAGE].copy_from_slice(&part(0, 8));
        }
        image
    };
    let linux = linux::guest(linux::Size { pages: 1024, heap: 2 }).memory;
    let (both, none) = ([true, true], [false, false]);
    let recipe = |name, effort, random_access, uses, image: &[u8], shows| Recipe {
        name,
        shows,
        image: image.to_vec(),
        effort,
        random_access,
        uses,
    };
    let [store, fast, balanced, dense, max] = Effort::AVAILABLE;
    let recipes = vec![
        recipe("store", store, false, both, &memory, "all kinds of pages; literals as they are"),
        recipe("fast", fast, false, both, &memory, "long matches in the guest and in the older image; zstd"),
        recipe(
            "balanced",
            balanced,
            false,
            both,
            &memory,
            "the same with shorter matches; a page like another",
        ),
        recipe("dense", dense, false, both, &memory, "the word coder"),
        recipe("max", max, false, both, &memory, "the same with its optimal parse"),
        recipe("store-random-access", store, true, both, &memory, "checks beside stored literals"),
        recipe("fast-random-access", fast, true, both, &memory, "checks, and groups that stand alone"),
        recipe("balanced-random-access", balanced, true, both, &memory, "the same at another effort"),
        recipe(
            "dense-random-access",
            dense,
            true,
            both,
            &memory,
            "the word coder in groups that stand alone",
        ),
        recipe("no-references", balanced, false, none, &memory, "all that is not a duplicate is residual"),
        recipe("disk-only", fast, false, [true, false], &memory, "one reference, addressed by block"),
        recipe("older-only", fast, false, [false, true], &memory, "one reference, addressed by page"),
        recipe("tail", fast, false, none, &tail, "an opaque frame after the last page"),
        recipe(
            "elf",
            balanced,
            false,
            both,
            &images::elf(&loads, true),
            "an ELF core: segments at odd offsets",
        ),
        recipe("lime", fast, true, both, &images::lime(&loads), "LiME: opaque bytes between segments"),
        recipe(
            "mapped-ram",
            fast,
            false,
            none,
            &images::mapped_ram("pc-q35-9.1", &blocks, Some(7)),
            "mapped-ram: segments without an address, a stale page as opaque bytes",
        ),
        recipe("one-page", balanced, false, none, &part(7, 1), "the smallest guest"),
        recipe("zero", fast, false, none, &vec![0; 3000 * PAGE], "nothing but zero pages"),
        recipe(
            "guest",
            balanced,
            false,
            none,
            &linux,
            "a guest made by hand: pages left for later, a list of them, addresses; no index",
        ),
        recipe("guest-max", max, false, none, &linux, "the same by the word coder: pointers told by others"),
        recipe("guest-random-access", fast, true, none, &linux, "its addresses, in blocks that stand alone"),
        recipe(
            "blocks",
            fast,
            false,
            both,
            &spread(8300, &[0, 8188, 8290]),
            "two blocks that refer to each other",
        ),
        recipe(
            "blocks-random-access",
            fast,
            true,
            both,
            &spread(2100, &[0, 1020, 2090]),
            "three blocks, with duplicates of pages in others",
        ),
    ];
    (recipes, [disk, older])
}

/// The references that are used, from the bytes of both.
pub fn references(uses: [bool; 2], bytes: &[Vec<u8>; 2]) -> References {
    let [disk, older] = bytes;
    References::of(uses[0].then_some(disk), uses[1].then_some(older))
}

/// Packs by a recipe, today.
pub fn pack(recipe: &Recipe, bytes: &[Vec<u8>; 2]) -> Vec<u8> {
    engine::pack(&recipe.image, recipe.effort, recipe.random_access, &references(recipe.uses, bytes))
}

/// Bad streams up to this long are kept; the others are only made for the tests.
pub const MAX_BAD: usize = 1000;

/// What the names of bad streams end in where not all references are at hand.
const AT_HAND: [(AtHand, &str); 3] =
    [(AtHand::Changed, ".changed"), (AtHand::Short, ".short"), (AtHand::Nothing, ".nothing")];

/// The name of a bad stream's file, without its ending.
pub fn bad_name(bad: &Hostile) -> String {
    let word = AT_HAND.iter().find(|(at_hand, _)| *at_hand == bad.at_hand).map_or("", |(_, word)| word);
    format!("{}{word}", bad.name)
}

/// What the name of a bad stream's file says that is at hand.
pub fn at_hand(name: &str) -> AtHand {
    AT_HAND.iter().find(|(_, word)| name.ends_with(word)).map_or(AtHand::Whole, |(at_hand, _)| *at_hand)
}

/// The hash of an image by which README.md knows it.
pub fn hash(image: &[u8]) -> String {
    format!("{:032x}", xxh3_128(image))
}

/// The names of the files in a folder that end in this, sorted; without the ending.
///
/// # Panics
///
/// If the folder can't be read.
pub fn names(folder: &Path, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let names =
        entries.map(|entry| entry.expect("a folder's entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> =
        names.filter_map(|name| name.strip_suffix(ending).map(str::to_owned)).collect();
    names.sort();
    names
}

/// The lines `name: error` of a folder's `errors.txt`.
///
/// # Panics
///
/// If it can't be read, or has another line.
pub fn errors(folder: &Path) -> Vec<(String, String)> {
    let path = folder.join("errors.txt");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let line = |line: &str| {
        let (name, error) = line.split_once(": ").expect("a name and an error");
        (name.to_owned(), error.to_owned())
    };
    text.lines().map(line).collect()
}
