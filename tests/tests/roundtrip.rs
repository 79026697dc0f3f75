//! Packed and unpacked again: every effort with every kind of reference, every edge of a guest, every image format.
//!
//! The truth is the image's own bytes. The slow decoder, which was written from the format's document alone, reads each
//! stream, too, and must see the same pages in it.

use std::fs::File;

use mig_engine::image::WriteAs;
use mig_engine::{
    BlockEncoder, CpuWorker, DecodeError, Effort, History, MemoryImage, PageSet, ReferenceKind, ReferenceNeed,
};
use mig_tests::engine::{self, References, open_image, open_image_without_holes, pack, pack_image, packer};
use mig_tests::handmade::{Builder, Head};
use mig_tests::reference::{self, PAGE, What};
use mig_tests::{compare, guests, images, sample};

/// Each effort, without and with random access.
fn ways() -> impl Iterator<Item = (Effort, bool)> {
    Effort::AVAILABLE.into_iter().flat_map(|effort| [(effort, false), (effort, true)])
}

fn check(name: &str, result: Result<impl Sized, String>) {
    if let Err(difference) = result {
        panic!("{name}: {difference}");
    }
}

#[test]
fn the_sample_with_every_reference() {
    let memory = sample::memory();
    for (disk, older) in [(false, false), (true, false), (false, true), (true, true)] {
        let references = References::of(disk.then(sample::disk), older.then(sample::older));
        for (effort, random_access) in ways() {
            let name = format!("{effort}, random access {random_access}, disk {disk}, older image {older}");
            let image = open_image(memory);
            let (stream, summary) = pack_image(&image, &packer(effort, random_access, &references));
            let slow = compare::whole(&stream, &references, memory);
            let slow = slow.unwrap_or_else(|difference| panic!("{name}: {difference}"));
            let file = engine::unpack_to_file(&stream, &references, WriteAs::Same);
            check(&name, compare::same_bytes("file", &file.expect(&name), memory));
            let mut pages = [0; What::KINDS];
            for block in &slow.blocks {
                pages.iter_mut().zip(block.pages_by_kind()).for_each(|(sum, pages)| *sum += pages);
                assert_eq!(block.has_checks, random_access, "{name}");
                assert!(!(random_access && block.has_matches), "{name}");
            }
            assert_eq!(pages, summary.blocks.pages, "{name}: what the packer says");
            assert_eq!(pages[3] > 0, disk || older, "{name}: pages of references");
            let matched = slow.blocks.iter().any(|block| block.has_matches);
            assert_eq!(matched, effort != Effort::Store && !random_access, "{name}: long matches");
            if random_access {
                check(&name, compare::single_pages(&stream, &references, memory, 13));
            }
        }
    }
}

/// A sibling of all that compares streams: a difference of one bit, wherever it is, is found.
#[test]
fn differences_are_found() {
    let guest = guests::of_every_kind();
    let references = References::of(Some(&guest.disk), Some(&guest.older));
    let stream = pack(&guest.memory, Effort::Fast, true, &references);
    let slow = compare::whole(&stream, &references, &guest.memory).unwrap();
    for at in [0, 7 * PAGE + 5, guest.memory.len() - 1] {
        let mut other = guest.memory.clone();
        other[at] ^= 1;
        let error = compare::whole(&stream, &references, &other).unwrap_err();
        assert!(error.contains(&format!("byte {} of page {}", at % PAGE, at / PAGE)), "{error}");
        assert!(compare::single_pages(&stream, &references, &other, 1).is_err());
    }
    for run in 0..slow.blocks[0].runs.len() {
        let mut other = slow.clone();
        other.blocks[0].runs[run].what = What::Uniform(1234);
        assert!(compare::kinds(&stream, &references.at_hand(), &other).is_err(), "run {run}");
    }
    let mut other = slow.clone();
    other.blocks[0].runs.pop();
    assert!(compare::kinds(&stream, &references.at_hand(), &other).is_err());
    let mut other = slow;
    other.blocks.pop();
    assert!(compare::kinds(&stream, &references.at_hand(), &other).is_err());
    assert!(compare::single_pages(&stream, &references, &guest.memory[PAGE..], 1).is_err());
}

#[test]
fn a_page_of_every_kind() {
    let guest = guests::of_every_kind();
    let references = References::of(Some(&guest.disk), Some(&guest.older));
    for (effort, random_access) in ways() {
        let name = format!("{effort}, random access {random_access}");
        let stream = pack(&guest.memory, effort, random_access, &references);
        let slow = compare::whole(&stream, &references, &guest.memory);
        let slow = slow.unwrap_or_else(|difference| panic!("{name}: {difference}"));
        assert_eq!(slow.blocks[0].pages_by_kind(), [2, 2, 1, 3, 4, 0], "{name}");
        let spaces =
            |space| slow.blocks[0].matches.iter().flatten().filter(move |m| m.space == space).count();
        if effort != Effort::Store && !random_access {
            // Page 10 shares words with page 7.
            assert!(spaces(0) > 0, "{name}: {:?}", slow.blocks[0].matches);
        }
        if effort != Effort::Store {
            // Page 6 is like the same page of the older image, which is reference 1: as a whole, or in parts, whichever leaves less.
            let is_like = slow.blocks[0].bases.contains(&Some((2, 6 * 512)));
            let parts = effort != Effort::Fast && !random_access;
            assert!(is_like || parts && spaces(2) > 0, "{name}: {:?}", slow.blocks[0].bases);
        }
    }
}

#[test]
fn edges() {
    for (name, memory) in guests::edges() {
        for (effort, random_access) in ways() {
            let name = format!("{name}, {effort}, random access {random_access}");
            for image in [open_image(&memory), open_image_without_holes(&memory)] {
                let (stream, _) = pack_image(&image, &packer(effort, random_access, &References::none()));
                check(&name, compare::whole(&stream, &References::none(), &memory));
                if random_access {
                    let pages = &memory[..memory.len() - memory.len() % PAGE];
                    check(&name, compare::single_pages(&stream, &References::none(), pages, 17));
                }
            }
        }
    }
}

/// Holes and stored zeros are the same pages, so they are the same stream.
#[test]
fn an_image_of_holes() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(3000 * PAGE as u64).unwrap();
    let holes = MemoryImage::from_file(file, None).unwrap();
    let zeros = vec![0; 3000 * PAGE];
    for (effort, random_access) in ways() {
        let packer = packer(effort, random_access, &References::none());
        let (stream, summary) = pack_image(&holes, &packer);
        assert_eq!(summary.blocks.pages, [3000, 0, 0, 0, 0, 0]);
        check("holes", compare::whole(&stream, &References::none(), &zeros));
        let stored = open_image_without_holes(&zeros);
        assert!(stream == pack_image(&stored, &packer).0, "{effort}: stored zeros give other bytes");
        assert!(stream.len() < 1000, "{effort}: {} bytes for nothing", stream.len());
    }
    // And a hole stays a hole.
    let stream = pack_image(&holes, &packer(Effort::Fast, false, &References::none())).0;
    let unpacker = engine::unpacker(&stream).unwrap();
    let file = tempfile::tempfile().unwrap();
    let layout = unpacker.header().layout.clone();
    let store = mig_engine::FileStore::new(file, &layout, WriteAs::Same, &std::env::temp_dir()).unwrap();
    unpacker.unpack(&[], &store).unwrap();
    let file: File = store.into_file();
    assert_eq!(file.metadata().unwrap().len(), zeros.len() as u64);
    assert_eq!(std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()), 0);
}

/// Several blocks, with duplicates and long matches from one to another.
#[test]
fn many_blocks() {
    let memory = guests::of_many_blocks();
    let references = References::of(Some(sample::disk()), Some(sample::older()));
    for (effort, random_access) in [(Effort::Balanced, false), (Effort::Fast, true)] {
        let stream = pack(&memory, effort, random_access, &references);
        let slow = compare::whole(&stream, &references, &memory).unwrap();
        assert_eq!(slow.blocks.len(), if random_access { 10 } else { 2 });
        let first = |block: usize| slow.blocks[block].ranges[0].0;
        let last = slow.blocks.len() - 1;
        let earlier = |what: What| matches!(what, What::Duplicate { source } if source < first(last));
        assert!(slow.blocks[last].runs.iter().any(|run| earlier(run.what)), "duplicates of other blocks");
        let far =
            slow.blocks[last].matches.iter().flatten().any(|m| m.space == 0 && m.source / 512 < first(last));
        assert_eq!(far, !random_access, "long matches from other blocks");
        if random_access {
            check("many blocks", compare::single_pages(&stream, &references, &memory, 331));
        }
    }
}

#[test]
fn every_image_format() {
    for image in images::all(sample::memory()) {
        for (effort, random_access) in ways() {
            let name = format!("{}, {effort}, random access {random_access}", image.name);
            let stream = pack(&image.bytes, effort, random_access, &References::none());
            check(&name, compare::whole(&stream, &References::none(), &image.bytes));
            let same = engine::unpack_to_file(&stream, &References::none(), WriteAs::Same);
            check(&name, compare::same_bytes("file", &same.expect(&name), &image.bytes));
            let raw = engine::unpack_to_file(&stream, &References::none(), WriteAs::Raw);
            match (&image.physical, raw) {
                (Some(physical), raw) => {
                    check(&name, compare::same_bytes("as raw", &raw.expect(&name), physical));
                }
                (None, Err(DecodeError::Layout(error))) => {
                    assert!(error.to_string().contains("addresses"), "{name}: {error}");
                }
                (None, raw) => panic!("{name}: as raw, without addresses: {:?}", raw.map(|_| ())),
            }
        }
    }
}

/// Blocks as a transport makes them: sets of many ranges, out of order, and lists; each page once, as a history of one round wants it.
#[test]
fn blocks_of_page_sets() {
    let guest = guests::of_many_blocks();
    let memory = &guest[1000 * PAGE..3000 * PAGE];
    let references = References::of(Some(sample::disk()), Some(sample::older()));
    #[allow(clippy::single_range_in_vec_init, reason = "sets of ranges, one of which has one")]
    let sets: [&[std::ops::Range<u64>]; 5] = [
        &[500..900],
        &[1990..2000, 3..40, 41..200, 0..1],
        &[1..3, 40..41, 200..500, 900..1500],
        &[1600..1700],
        &[1700..1720, 1500..1600, 1800..1990, 1720..1800],
    ];
    let listed = [false, true, false, false, true];
    let sets = sets.map(|ranges| PageSet::from_list(ranges.iter().cloned()).unwrap());
    let opened = references.open(true);
    let needs: Vec<_> = opened.iter().map(|reference| reference.need().clone()).collect();
    let worker = CpuWorker { level: engine::level() };
    for effort in Effort::AVAILABLE {
        let encoder = BlockEncoder::new(memory, &opened, &worker, engine::level(), effort, false).unwrap();
        let mut history = History::new(2000, effort, false);
        let mut head = Head { block_pages: 2000, ..Head::raw(2000) };
        let need = |need: &ReferenceNeed| {
            (u8::from(need.kind == ReferenceKind::Memory), need.identity, need.blocks, need.name.clone())
        };
        head.references = needs.iter().map(need).collect();
        let mut stream = Builder::new(head).bytes().to_vec();
        for (number, set) in sets.iter().enumerate() {
            let settled = history.settle(&encoder, encoder.scan(set.clone()).unwrap()).unwrap();
            let block = encoder.code(&settled).unwrap();
            stream.extend(block.head(number as u64 + 1));
            block.data().for_each(|part| stream.extend(part));
        }
        let slow = compare::rounds(&stream, &references, memory);
        let slow = slow.unwrap_or_else(|difference| panic!("{effort}: {difference}"));
        assert_eq!(slow.pages, 2000);
        assert_eq!(slow.blocks.iter().map(|block| block.is_list).collect::<Vec<_>>(), listed);
        // In a file stream they have no place.
        assert!(engine::unpack(&stream, &references.at_hand()).0.is_err());
        assert!(reference::decode(&stream, &references.bytes()).is_err());
    }
}
