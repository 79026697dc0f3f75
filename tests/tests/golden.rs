//! Old bytes, same answers: the files in `golden/` decode, or are refused, as they were when they were written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use mig_engine::DecodeError;
use mig_engine::image::parse_layout;
use mig_engine::reference::Index;
use mig_tests::engine::References;
use mig_tests::hostile::{self, AtHand};
use mig_tests::{compare, engine, golden, reference};

/// A line of README.md: whether it uses the disk and the older image, and the hash of the image.
struct Line {
    uses: [bool; 2],
    hash: String,
}

/// The good files that README.md lists, by name.
fn listed() -> BTreeMap<String, Line> {
    let text = fs::read_to_string(golden::folder().join("README.md")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("| good/"));
    let line = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert!(cells.len() == 5 && !cells[3].is_empty(), "{line}: should say what it shows");
        let uses = ["disk", "older"].map(|name| cells[1].split(", ").any(|used| used == name));
        let name = cells[0].strip_suffix(".mig").unwrap().to_owned();
        (name, Line { uses, hash: cells[2].to_owned() })
    };
    lines.map(line).collect()
}

/// The bytes of a good file.
fn good(name: &str) -> Vec<u8> {
    fs::read(golden::folder().join("good").join(name)).unwrap()
}

fn references(uses: [bool; 2]) -> References {
    golden::references(uses, &["disk", "older"].map(good))
}

#[test]
fn good_files_give_the_images_that_they_were_made_from() {
    let listed = listed();
    let names = golden::names(&golden::folder().join("good"), ".mig");
    assert!(names.iter().eq(listed.keys()), "{names:?} are there, README.md lists others");
    // What else there must be some of: lists, pages left for later, addresses, bases, long matches.
    let mut seen = [0; 5];
    for (name, line) in listed {
        let (stream, references) = (good(&format!("{name}.mig")), references(line.uses));
        let slow = reference::decode(&stream, &references.bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(golden::hash(&slow.file), line.hash, "{name}: slow decoder");
        for block in &slow.blocks {
            let placed = [block.addresses.iter().flatten().count(), block.bases.iter().flatten().count()];
            let later = (block.pages - block.brings) as usize;
            let found =
                [usize::from(block.is_list), later, placed[0], placed[1], block.matches.concat().len()];
            seen.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
        }
        let result = compare::whole(&stream, &references, &slow.file);
        assert!(result.is_ok(), "{name}: {}", result.unwrap_err());
        if slow.header.independent {
            let segments = slow.header.segments.iter();
            let bytes = |s: &reference::Segment| {
                slow.file[s.file_offset as usize..][..s.pages as usize * 4096].to_vec()
            };
            let pages: Vec<u8> = segments.flat_map(bytes).collect();
            compare::single_pages(&stream, &references, &pages, 19).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
    assert!(seen.iter().all(|&count| count > 0), "{seen:?}");
}

/// The sibling: another image has another hash, and another reference gives no image at all.
#[test]
fn a_good_file_is_held_to_its_hash() {
    let line = &listed()["balanced"];
    let (stream, bytes) = (good("balanced.mig"), references(line.uses).bytes());
    let mut file = reference::decode(&stream, &bytes).unwrap().file;
    file[5000] ^= 1;
    assert_ne!(golden::hash(&file), line.hash);
    let error = engine::unpack(&stream, &references([true, false]).at_hand()).0.unwrap_err();
    assert!(matches!(error.source, DecodeError::MissingReference { .. }));
}

/// What is packed today need not be the same bytes, but must be readable, by both decoders.
#[test]
fn the_same_images_are_packed_today() {
    let (recipes, bytes) = golden::recipes();
    let listed = listed();
    for recipe in recipes {
        assert!(listed.contains_key(recipe.name), "{}: run make-golden", recipe.name);
        let stream = golden::pack(&recipe, &bytes);
        let result = compare::whole(&stream, &golden::references(recipe.uses, &bytes), &recipe.image);
        assert!(result.is_ok(), "{}: {}", recipe.name, result.unwrap_err());
    }
}

#[test]
fn bad_streams_are_refused_in_the_same_words() {
    let folder = golden::folder().join("bad");
    let errors: BTreeMap<String, String> = golden::errors(&folder).into_iter().collect();
    let names = golden::names(&folder, ".mig");
    assert!(names.iter().eq(errors.keys()), "{names:?} are there, errors.txt lists others");
    assert!(names.len() >= 25);
    let mut variants = BTreeSet::new();
    for (name, words) in errors {
        let stream = fs::read(folder.join(format!("{name}.mig"))).unwrap();
        let references = hostile::references(golden::at_hand(&name)).unwrap_or_default();
        let error = engine::unpack(&stream, &references.at_hand()).0.expect_err(&name);
        assert_eq!(error.to_string(), words, "{name}");
        let slow = reference::decode(&stream, &references.bytes());
        assert!(slow.is_err() || slow.is_ok_and(|decoded| !decoded.complete), "{name}: slow decoder");
        variants.insert(variant(&error.source));
    }
    let expected = [
        "Checksum",
        "Digest",
        "Invalid",
        "Layout",
        "MissingReference",
        "Reference",
        "TooLarge",
        "Truncated",
        "Version",
        "Zstd",
    ];
    assert!(variants.iter().eq(&expected), "{variants:?} should be all that bytes can cause");
}

fn variant(error: &DecodeError) -> &'static str {
    match error {
        DecodeError::Truncated { .. } => "Truncated",
        DecodeError::Invalid { .. } => "Invalid",
        DecodeError::TooLarge { .. } => "TooLarge",
        DecodeError::Version { .. } => "Version",
        DecodeError::Checksum { .. } => "Checksum",
        DecodeError::Digest { .. } => "Digest",
        DecodeError::MissingReference { .. } => "MissingReference",
        DecodeError::Zstd { .. } => "Zstd",
        DecodeError::Reference { .. } => "Reference",
        DecodeError::Layout(_) => "Layout",
        DecodeError::Io { .. } => "Io",
        _ => "another",
    }
}

#[test]
fn bad_images_are_refused_in_the_same_words() {
    let folder = golden::folder().join("bad-images");
    let errors: BTreeMap<String, String> = golden::errors(&folder).into_iter().collect();
    assert!(golden::names(&folder, ".img").iter().eq(errors.keys()), "errors.txt lists other files");
    for (name, words) in errors {
        let bytes = fs::read(folder.join(format!("{name}.img"))).unwrap();
        assert_eq!(parse_layout(&bytes, None, None).expect_err(&name).to_string(), words, "{name}");
        // Opened as a file, it is the same.
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &bytes).unwrap();
        let error = mig_engine::MemoryImage::open(file.path(), None).expect_err(&name);
        assert_eq!(error.to_string(), words, "{name}");
    }
}

#[test]
fn bad_indexes_are_refused_in_the_same_words() {
    let folder = golden::folder().join("bad-indexes");
    let errors: BTreeMap<String, String> = golden::errors(&folder).into_iter().collect();
    assert!(golden::names(&folder, ".migidx").iter().eq(errors.keys()), "errors.txt lists other files");
    for (name, words) in errors {
        let path = folder.join(format!("{name}.migidx"));
        let error = Index::load(&path).expect_err(&name).to_string();
        assert_eq!(error, format!("{}: {words}", path.display()), "{name}");
    }
}

/// The sibling: what all these files were made from is good.
#[test]
fn what_the_bad_files_were_made_from_is_good() {
    let references = hostile::references(AtHand::Whole).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    references.open(true)[0].index().unwrap().save(&path).unwrap();
    assert_eq!(Index::load(&path).unwrap().blocks(), hostile::BLOCKS);
    for image in mig_tests::images::all(mig_tests::sample::memory()) {
        assert!(parse_layout(&image.bytes, None, None).is_ok(), "{}", image.name);
    }
}

/// And the lists are those of today's table, so nothing in it is left out.
#[test]
fn the_bad_files_are_all_there() {
    let folder = golden::folder();
    let lists = [("bad-images", hostile::images()), ("bad-indexes", hostile::indexes())];
    for (name, list) in lists {
        let errors: BTreeMap<String, String> = golden::errors(&folder.join(name)).into_iter().collect();
        assert_eq!(errors.len(), list.len(), "{name}");
        for bad in list {
            assert_eq!(errors.get(bad.name).map(String::as_str), Some(bad.error), "{name}/{}", bad.name);
        }
    }
    let errors: BTreeMap<String, String> = golden::errors(&folder.join("bad")).into_iter().collect();
    let short: Vec<_> =
        hostile::all().into_iter().filter(|bad| bad.stream.len() <= golden::MAX_BAD).collect();
    assert_eq!(errors.len(), short.len());
    for bad in short {
        let name = golden::bad_name(&bad);
        assert_eq!(errors.get(&name).map(String::as_str), Some(bad.error), "bad/{name}");
    }
}
