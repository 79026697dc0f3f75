//! Writes the golden files that are missing, and the lists of them.
//!
//! `cargo run -p mig-tests --bin make-golden`
//!
//! Files that are there are left as they are: they are what an older build wrote, and that is their use. To replace one,
//! remove it first, and say why in the change.

use std::error::Error;
use std::fs;
use std::path::Path;

use mig_tests::{golden, hostile, reference};

const HEAD: &str = "\
# Golden files

Written by `cargo run -p mig-tests --bin make-golden` from the sample in `tests/data`, which leaves files alone that are there. `tests/tests/golden.rs`
holds the engine and the slow decoder to them.

- `good/*.mig`: streams that must always give the image with the XXH3-128 below; `good/disk` and `good/older` are what they refer to, in this order.
- `bad/*.mig`: streams that must be refused; `bad/errors.txt` has the error of each. `tests/src/hostile` makes them, and more that are longer.
- `bad-images/*`, `bad-indexes/*`: the same for memory images and for indexes of references.

| file | references | XXH3-128 of the image | what it shows |
|---|---|---|---|
";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = golden::folder();
    good(&folder)?;
    let streams = hostile::all().into_iter().filter(|bad| bad.stream.len() <= golden::MAX_BAD);
    let streams = streams.map(|bad| (golden::bad_name(&bad), bad.stream, bad.error));
    bad(&folder.join("bad"), ".mig", streams)?;
    let files =
        |list: Vec<hostile::BadFile>| list.into_iter().map(|bad| (bad.name.to_owned(), bad.bytes, bad.error));
    bad(&folder.join("bad-images"), ".img", files(hostile::images()))?;
    bad(&folder.join("bad-indexes"), ".migidx", files(hostile::indexes()))
}

fn good(folder: &Path) -> Result<(), Box<dyn Error>> {
    let good = folder.join("good");
    fs::create_dir_all(&good)?;
    let (recipes, mut references) = golden::recipes();
    for (name, bytes) in ["disk", "older"].into_iter().zip(&mut references) {
        // Once there, they stay, whatever today's guest is.
        *bytes = write_missing(&good.join(name), bytes)?;
    }
    let mut readme = HEAD.to_owned();
    for recipe in recipes {
        let path = good.join(format!("{}.mig", recipe.name));
        let stream = write_missing(&path, &golden::pack(&recipe, &references))?;
        let given = golden::references(recipe.uses, &references).bytes();
        let decoded = reference::decode(&stream, &given)?;
        let uses: Vec<&str> = ["disk", "older"]
            .into_iter()
            .zip(recipe.uses)
            .filter(|(_, used)| *used)
            .map(|(name, _)| name)
            .collect();
        let line = format!(
            "| good/{}.mig | {} | {} | {} |\n",
            recipe.name,
            uses.join(", "),
            golden::hash(&decoded.file),
            recipe.shows
        );
        readme += &line;
    }
    fs::write(folder.join("README.md"), readme)?;
    Ok(())
}

/// Writes bad files and the list of their errors.
fn bad(
    folder: &Path,
    ending: &str,
    files: impl Iterator<Item = (String, Vec<u8>, &'static str)>,
) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let mut errors = String::new();
    for (name, bytes, error) in files {
        write_missing(&folder.join(format!("{name}{ending}")), &bytes)?;
        errors += &format!("{name}: {error}\n");
    }
    fs::write(folder.join("errors.txt"), errors)?;
    Ok(())
}

/// Writes a file unless it is there; gives what is in it.
fn write_missing(path: &Path, bytes: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    if !path.exists() {
        println!("{}", path.display());
        fs::write(path, bytes)?;
    }
    Ok(fs::read(path)?)
}
