//! Damage: every flipped bit, every cut and every frame out of place is noticed, and what came before it is kept.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;

use mig_engine::{DecodeError, DecodeLimits, Effort, Reader, Reference, Unpacker};
use mig_tests::engine::{self, References, pack};
use mig_tests::guests::linux;
use mig_tests::handmade::{cases, reseal};
use mig_tests::reference::{self, BlockView, Decoded, FrameType, PAGE, Rules, What};
use mig_tests::{compare, guests, sample, spread};

/// A stream, what it refers to, and the file that it is of.
struct Case {
    name: String,
    stream: Vec<u8>,
    references: References,
    file: Vec<u8>,
    /// The pages of the file, in the order of their numbers.
    pages: Vec<u8>,
    slow: Decoded,
}

impl Case {
    fn new(name: String, stream: Vec<u8>, references: References, file: Vec<u8>) -> Self {
        let slow = reference::decode(&stream, &references.bytes()).unwrap();
        let segments = slow.header.segments.iter();
        let pages = segments.flat_map(|s| file[s.file_offset as usize..][..s.pages as usize * PAGE].to_vec());
        Case { name, stream, references, pages: pages.collect(), file, slow }
    }

    /// The bytes of some pages, in this order.
    fn pages(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let page = |number: u64| self.pages[number as usize * PAGE..][..PAGE].to_vec();
        numbers.into_iter().flat_map(page).collect()
    }
}

/// A few pages of every kind and some bytes that are no page, at each effort, without and with random access. Stored pages
/// and noise have few places that are worth damaging, and many bytes: there are few of them.
fn small() -> Vec<Case> {
    let all = guests::of_every_kind();
    let ways = Effort::AVAILABLE.into_iter().flat_map(|effort| [(effort, false), (effort, true)]);
    let case = |(effort, random_access)| {
        let guest = match effort {
            Effort::Store => all.some(&[0, 1, 2, 3, 5, 7, 9, 11]),
            _ => all.some(&[0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11]),
        };
        let name = format!("{effort}, random access {random_access}");
        let references = References::of(Some(&guest.disk), Some(&guest.older));
        let file = [&guest.memory[..], b"a tail that is no page"].concat();
        Case::new(name, pack(&file, effort, random_access, &references), references, file)
    };
    ways.map(case).collect()
}

/// Streams of several blocks, by hand.
fn by_hand() -> Vec<Case> {
    let cases = cases::all_cases().into_iter();
    cases
        .map(|case| {
            Case::new(case.name.into(), case.stream, References::in_order(&case.references), case.file)
        })
        .collect()
}

/// Packed by the engine, in three blocks: pages of every kind at the borders of blocks, and zeros between.
fn three_blocks() -> Case {
    let (stream, references, file) = guests::three_blocks();
    Case::new("three blocks".into(), stream, references, file)
}

/// A guest whose pages come in its own order: a block that leaves some for later, and a list that brings them.
fn ordered_guest() -> Case {
    let linux = linux::guest(linux::Size { pages: 1024, heap: 6 });
    let references = References::of(Some(&linux.disk), Some(&linux.older));
    let stream = pack(&linux.memory, Effort::Balanced, false, &references);
    let case = Case::new("ordered guest".into(), stream, references, linux.memory);
    assert_eq!(case.slow.blocks.iter().map(|block| block.is_list).collect::<Vec<_>>(), [false, true]);
    case
}

/// Whether all of it decodes, to the right file.
fn accepts(case: &Case, stream: &[u8], references: &[Option<Reference>]) -> bool {
    let (result, store) = engine::unpack(stream, references);
    result.is_ok() && store.is_some_and(|store| store.into_bytes() == case.file)
}

#[test]
fn every_flipped_bit_is_noticed() {
    for case in small() {
        let references = case.references.at_hand();
        // The sibling: without a flip there is nothing to notice.
        assert!(accepts(&case, &case.stream, &references), "{}", case.name);
        let unnoticed = spread::those(
            case.stream.len() * 8,
            || case.stream.clone(),
            |stream, bit| {
                stream[bit / 8] ^= 1 << (bit % 8);
                let taken = engine::unpack(stream, &references).0.is_ok();
                stream[bit / 8] ^= 1 << (bit % 8);
                taken
            },
        );
        assert!(unnoticed.is_empty(), "bits or bytes {unnoticed:?} of {}", case.name);
    }
}

/// One bit of each byte, by both decoders.
#[test]
fn flipped_bits_of_an_ordered_guest_are_noticed() {
    let case = ordered_guest();
    let (references, bytes) = (case.references.at_hand(), case.references.bytes());
    assert!(accepts(&case, &case.stream, &references));
    let unnoticed = spread::those(
        case.stream.len(),
        || case.stream.clone(),
        |stream, byte| {
            stream[byte] ^= 1 << (byte % 8);
            let slowly =
                byte % 8 == 3 && reference::decode(stream, &bytes).is_ok_and(|decoded| decoded.complete);
            let taken = engine::unpack(stream, &references).0.is_ok();
            stream[byte] ^= 1 << (byte % 8);
            taken || slowly
        },
    );
    assert!(unnoticed.is_empty(), "bits or bytes {unnoticed:?}");
}

/// The slow decoder on one bit of each byte: it refuses what the engine refuses.
#[test]
fn flipped_bits_are_noticed_by_the_slow_decoder() {
    for case in small() {
        let references = case.references.bytes();
        let unnoticed = spread::those(
            case.stream.len(),
            || case.stream.clone(),
            |stream, byte| {
                stream[byte] ^= 1 << (byte % 8);
                let taken = reference::decode(stream, &references).is_ok_and(|decoded| decoded.complete);
                stream[byte] ^= 1 << (byte % 8);
                taken
            },
        );
        assert!(unnoticed.is_empty(), "bits or bytes {unnoticed:?} of {}", case.name);
    }
}

/// A reader looks at all frames but the opaque ones.
#[test]
fn every_flipped_bit_is_noticed_by_readers() {
    for case in small().into_iter().filter(|case| case.name.contains("true")) {
        let opaque: Vec<_> =
            case.slow.frames.iter().filter(|frame| frame.kind == FrameType::Opaque).collect();
        let is_read = |byte: u64| !opaque.iter().any(|frame| (frame.offset..frame.end()).contains(&byte));
        assert_eq!(opaque.len(), 1);
        let references = case.references.at_hand();
        let all_pages = |file: &tempfile::NamedTempFile| -> Result<(), DecodeError> {
            let reader = Reader::open(file.path())?;
            (0..reader.page_count()).try_for_each(|number| reader.page(number, &references, &mut [0; PAGE]))
        };
        let bytes: Vec<u64> = (0..case.stream.len() as u64).filter(|&byte| is_read(byte)).collect();
        // A file of its own for each thread, which is changed in place.
        let file = || {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().write_all_at(&case.stream, 0).unwrap();
            all_pages(&file).unwrap();
            file
        };
        let unnoticed = spread::those(bytes.len() * 8, file, |file, bit| {
            let byte = bytes[bit / 8];
            let good = case.stream[byte as usize];
            file.as_file().write_all_at(&[good ^ 1 << (bit % 8)], byte).unwrap();
            let taken = all_pages(file).is_ok();
            file.as_file().write_all_at(&[good], byte).unwrap();
            taken
        });
        assert!(unnoticed.is_empty(), "bits or bytes {unnoticed:?} of {}", case.name);
    }
}

/// Cuts a stream and checks that it is an error which keeps all the blocks before the cut, and no more.
fn cut(case: &Case, len: usize, threads: usize, references: &[Option<Reference>], ends: &[(u64, Vec<u64>)]) {
    let name = format!("{}, {len} bytes, {threads} threads", case.name);
    let whole =
        || ends.iter().filter(|(end, _)| *end <= len as u64).flat_map(|(_, pages)| pages.iter().copied());
    let stream = &case.stream[..len];
    let unpacker = match Unpacker::new(stream, DecodeLimits::default()) {
        Ok(unpacker) => unpacker.threads(threads).level(engine::level()),
        Err(error) => {
            assert!(ends.first().is_none_or(|(end, _)| *end > len as u64), "{name}: {error}");
            return;
        }
    };
    let store = engine::Store::new(&unpacker.header().layout);
    let error = unpacker.unpack(references, &store).expect_err(&name);
    assert_eq!(error.done.pages, whole().count() as u64, "{name}: {error}");
    assert!(matches!(error.source, DecodeError::Truncated { .. }), "{name}: {error}");
    assert!(store.pages(whole()) == case.pages(whole()), "{name}: the pages are others");
}

/// Where each block's frame ends, and the pages that it brings.
fn block_ends(case: &Case) -> Vec<(u64, Vec<u64>)> {
    let end = |sequence: u64| case.slow.frames[sequence as usize].end();
    case.slow.blocks.iter().map(|block| (end(block.sequence), block.brought())).collect()
}

#[test]
fn every_cut_is_an_error_and_keeps_what_was_whole() {
    for case in small().into_iter().chain(by_hand()).chain([ordered_guest()]) {
        let (references, ends) = (case.references.at_hand(), block_ends(&case));
        // Of the longest and the largest, only every so many within a page's literals.
        let len = case.stream.len();
        let step = if len < 8000 && case.pages.len() < 100 * PAGE { 1 } else { 61 };
        let near = |at: usize| case.slow.frames.iter().any(|frame| at.abs_diff(frame.offset as usize) < 120);
        spread::those(
            len,
            || (),
            |(), at| {
                if at % step == 0 || near(at) {
                    cut(&case, at, 1, &references, &ends);
                }
                if at % 97 == 0 {
                    cut(&case, at, 3, &references, &ends);
                }
                false
            },
        );
    }
    let case = three_blocks();
    let (references, ends) = (case.references.at_hand(), block_ends(&case));
    assert_eq!(ends.iter().map(|(_, pages)| pages.len()).collect::<Vec<_>>(), [1024, 1024, 152]);
    let near =
        ends.iter().flat_map(|(end, _)| end - 40..end + 40).filter(|len| *len < case.stream.len() as u64);
    for len in near.chain((0..case.stream.len() as u64).step_by(101)) {
        cut(&case, len as usize, 1 + len as usize % 3, &references, &ends);
    }
}

/// The sibling: a store that loses a page is told from one that keeps it.
#[test]
#[should_panic = "the pages are others"]
fn a_lost_page_would_be_found() {
    let mut case = small().swap_remove(2);
    let (references, ends) = (case.references.at_hand(), block_ends(&case));
    case.pages[7 * PAGE] ^= 1;
    cut(&case, ends[0].0 as usize, 1, &references, &ends);
}

/// The frames of a stream.
fn frames(case: &Case) -> Vec<Vec<u8>> {
    let slow = reference::decode(&case.stream, &case.references.bytes()).unwrap();
    slow.frames
        .iter()
        .map(|frame| case.stream[frame.offset as usize..frame.end() as usize].to_vec())
        .collect()
}

/// Puts frames together, with the numbers that they have or with those that belong there.
fn joined(frames: &[Vec<u8>], renumber: bool) -> Vec<u8> {
    let mut stream = Vec::new();
    for (number, frame) in frames.iter().enumerate() {
        let start = stream.len();
        stream.extend(frame);
        if renumber {
            stream[start + 16..start + 24].copy_from_slice(&(number as u64).to_le_bytes());
            reseal(&mut stream, start);
        }
    }
    stream
}

#[test]
fn frames_dropped_repeated_or_swapped_are_noticed() {
    for case in small().into_iter().chain(by_hand()).chain([three_blocks(), ordered_guest()]) {
        let (references, bytes) = (case.references.at_hand(), case.references.bytes());
        let frames = frames(&case);
        let check = |what: &str, changed: &[Vec<u8>]| {
            for renumber in [false, true] {
                let name = format!("{}: {what}, renumbered {renumber}", case.name);
                let stream = joined(changed, renumber);
                let (result, store) = engine::unpack(&stream, &references);
                let pages = result.expect_err(&name).done.pages;
                let (slow, error) = reference::decode_prefix(&stream, &bytes, Rules::File);
                assert!(error.is_some() || !slow.complete, "{name}");
                assert_eq!(slow.pages, pages, "{name}: {error:?}");
                let brought = || slow.blocks.iter().flat_map(BlockView::brought);
                assert_eq!(brought().count() as u64, pages, "{name}");
                let kept = store.map(|store| store.pages(brought())).unwrap_or_default();
                assert!(kept == case.pages(brought()), "{name}");
            }
        };
        // The sibling: the frames as they are make the stream.
        assert!(
            joined(&frames, true) == case.stream && joined(&frames, false) == case.stream,
            "{}",
            case.name
        );
        for place in 0..frames.len() {
            let mut changed = frames.clone();
            changed.remove(place);
            check(&format!("frame {place} dropped"), &changed);
            let mut changed = frames.clone();
            changed.insert(place, frames[place].clone());
            check(&format!("frame {place} repeated"), &changed);
            let kinds = case.slow.frames.get(place..place + 2);
            // Opaque frames may come in any order.
            if kinds.is_some_and(|pair| pair.iter().any(|frame| frame.kind != FrameType::Opaque)) {
                let mut changed = frames.clone();
                changed.swap(place, place + 1);
                check(&format!("frame {place} swapped with the next"), &changed);
            }
        }
    }
}

#[test]
fn a_changed_disk_spoils_only_what_comes_from_it() {
    let references = References::of(Some(sample::disk()), None);
    let memory = sample::memory();
    let stream = pack(memory, Effort::Fast, true, &references);
    let slow = reference::decode(&stream, &references.bytes()).unwrap();
    assert_eq!(slow.blocks.len(), 2);
    let used = |block: usize| -> HashSet<u64> {
        let runs = slow.blocks[block].runs.iter();
        runs.filter_map(|run| match run.what {
            What::Reference { position, .. } => Some(position..position + run.pages),
            _ => None,
        })
        .flatten()
        .collect()
    };
    let only_later = *used(1).difference(&used(0)).min().unwrap();
    let unused =
        (0..sample::disk().len() as u64 / 4096).find(|b| !used(0).contains(b) && !used(1).contains(b));
    for (changed, spoiled) in
        [(only_later, Some(1024)), (*used(0).iter().min().unwrap(), Some(0)), (unused.unwrap(), None)]
    {
        let mut disk = sample::disk().to_vec();
        disk[changed as usize * PAGE + 4095] ^= 0x80;
        let wrong = References::of(Some(&disk), None);
        for threads in [1, 3] {
            let unpacker = engine::unpacker(&stream).unwrap().threads(threads);
            let store = engine::Store::new(&unpacker.header().layout);
            match (unpacker.unpack(&wrong.at_hand(), &store), spoiled) {
                (Ok(_), None) => assert!(store.into_bytes() == memory),
                (Err(error), Some(good)) => {
                    assert!(
                        matches!(error.source, DecodeError::Digest { first_page, pages: 1024 } if first_page == good),
                        "{error}"
                    );
                    assert_eq!(error.done.pages, good);
                    assert!(store.pages(0..good) == memory[..good as usize * PAGE]);
                }
                (result, _) => panic!("block {changed}: {result:?}"),
            }
        }
        // A reader refuses just the pages that come from that block.
        let reader = compare::open_reader(&stream).unwrap();
        let at_hand = wrong.at_hand();
        let mut page = [0; PAGE];
        let refused = (0..2048).filter(|&number| reader.page(number, &at_hand, &mut page).is_err()).count();
        assert_eq!(refused > 0, spoiled.is_some());
        assert!(refused < 20, "{refused} pages");
    }
}

#[test]
fn a_missing_reference_is_named() {
    let guest = guests::of_every_kind();
    let references = References::of(Some(&guest.disk), Some(&guest.older));
    for (effort, random_access) in [(Effort::Fast, false), (Effort::Fast, true)] {
        let stream = pack(&guest.memory, effort, random_access, &references);
        for missing in 0..2 {
            let mut at_hand = references.at_hand();
            at_hand[missing] = None;
            let error = engine::unpack(&stream, &at_hand).0.unwrap_err();
            let name = ["the disk", "the older image"][missing];
            assert_eq!(error.to_string(), format!("reference {missing} ({name}) is needed, but not at hand"));
            // Fewer references than the stream has are as many missing ones.
            if missing == 1 {
                at_hand.truncate(1);
                let error = engine::unpack(&stream, &at_hand).0.unwrap_err();
                assert!(matches!(error.source, DecodeError::MissingReference { index: 1, .. }), "{error}");
            }
        }
        if random_access {
            let reader = compare::open_reader(&stream).unwrap();
            let needed: Vec<u64> =
                (0..12).filter(|&number| reader.page(number, &[], &mut [0; PAGE]).is_err()).collect();
            assert_eq!(needed, [1, 2, 5, 6], "page 6 is like one of the older image");
        }
    }
}
