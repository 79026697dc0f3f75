//! Malice: streams that somebody made to be taken for good, with all checksums right.
//!
//! The decoders may differ in their words, but not in what they refuse, nor in how many pages they vouch for.

use std::collections::HashSet;

use mig_engine::image::WriteAs;
use mig_engine::inspect::StreamInfo;
use mig_engine::live::{self, Decoder};
use mig_engine::qemu::Rebuilt;
use mig_engine::{Cancel, DecodeError, DecodeLimits, ImageFormat, OpaqueStore, PageStore, Unpacker};
use mig_tests::engine::{self, References};
use mig_tests::handmade::{self, Builder, Head, Random, cases, frame_type, reseal};
use mig_tests::hostile::{self, AtHand};
use mig_tests::reference::{self, PAGE, Rules, What};
use mig_tests::{compare, guests};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

#[test]
fn limits_are_the_callers() {
    let (stream, references, file) = guests::three_blocks();
    let mut limits = DecodeLimits::default();
    limits.block_pages = 1023;
    let error = Unpacker::new(stream.as_slice(), limits).unwrap_err();
    assert_eq!(error.to_string(), "block pages: 1024 is more than the 1023 allowed");
    limits.block_pages = 1024;
    let unpacker = Unpacker::new(stream.as_slice(), limits).unwrap();
    let store = engine::Store::new(&unpacker.header().layout);
    unpacker.unpack(&references.at_hand(), &store).unwrap();
    assert!(store.into_bytes() == file);

    // What a head promises is not believed: 250 MiB of data, of which there is nothing.
    let mut builder = Builder::new(Head::raw(4));
    let start = builder.bytes().len();
    builder.frame(3, &[], &[]);
    let mut stream = builder.bytes().to_vec();
    stream[start + 12..start + 16].copy_from_slice(&(250u32 << 20).to_le_bytes());
    reseal(&mut stream, start);
    let mut error = |block_pages| {
        limits.block_pages = block_pages;
        let unpacker = Unpacker::new(stream.as_slice(), limits).unwrap();
        let store = engine::Store::new(&unpacker.header().layout);
        unpacker.unpack(&[], &store).unwrap_err().to_string()
    };
    assert_eq!(error(1 << 15), "frame data: 262144000 bytes needed, 0 left");
    assert_eq!(error(1024), "frame data length: 262144000 is more than the 12582912 allowed");
}

#[test]
fn hostile_streams_are_refused_by_both_decoders() {
    let mut names = HashSet::new();
    let mut wrong = Vec::new();
    for case in hostile::all() {
        assert!(names.insert((case.name, case.at_hand)), "{}: another one has this name", case.name);
        let references = hostile::references(case.at_hand).unwrap_or_default();
        let (slow, error) = reference::decode_prefix(&case.stream, &references.bytes(), Rules::File);
        if error.is_none() && slow.complete {
            wrong.push(format!("{}: the slow decoder takes it", case.name));
        }
        let words = error.unwrap_or_default();
        if !words.contains(case.slow) {
            wrong.push(format!("{}: the slow decoder says {words:?}", case.name));
        }
        let at_hand = references.at_hand();
        match engine::unpack(&case.stream, &at_hand).0 {
            Ok(_) => wrong.push(format!("{}: the engine takes it", case.name)),
            Err(error) => {
                if error.to_string() != case.error {
                    wrong.push(format!("{}: the engine says \"{error}\"", case.name));
                }
                if error.done.pages != slow.pages {
                    let pages = (error.done.pages, slow.pages);
                    wrong.push(format!(
                        "{}: good pages by the engine and the slow decoder: {pages:?}",
                        case.name
                    ));
                }
            }
        }
        let _ = StreamInfo::read(case.stream.as_slice());
        // A reader may see none of it, but does not deliver other pages, nor panic.
        if let Ok(reader) = compare::open_reader(&case.stream) {
            for number in 0..reader.page_count() + 1 {
                let _ = reader.page(number, &at_hand, &mut [0; PAGE]);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(names.len() > 250, "{} streams", names.len());
}

/// Bad sessions: refused by the destination, and by the slow decoder.
#[test]
fn hostile_sessions_are_refused_by_both_decoders() {
    let mut names = HashSet::new();
    let mut wrong = Vec::new();
    for case in hostile::sessions() {
        assert!(names.insert(case.name), "{}: another one has this name", case.name);
        let references = hostile::references(case.at_hand).unwrap_or_default();
        let (slow, error) = reference::decode_prefix(&case.stream, &references.bytes(), Rules::Any);
        if error.is_none() && slow.complete {
            wrong.push(format!("{}: the slow decoder takes it", case.name));
        }
        let words = error.unwrap_or_default();
        if !words.contains(case.slow) {
            wrong.push(format!("{}: the slow decoder says {words:?}", case.name));
        }
        match apply_session(&case.stream, &references) {
            Ok(_) => wrong.push(format!("{}: the engine takes it", case.name)),
            Err(error) if error.to_string() != case.error => {
                wrong.push(format!("{}: the engine says \"{error}\"", case.name));
            }
            Err(_) => {}
        }
        let _ = StreamInfo::read(case.stream.as_slice());
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(names.len() > 30, "{} sessions", names.len());
}

/// The sibling: scripts that are as odd, and good, and a page that is like its own last version.
#[test]
fn sessions_by_hand_are_taken_by_both_decoders() {
    let mut page = [7; PAGE];
    let mut builder = Builder::new(Head { format: 4, ..Head::raw(3) });
    let script = |builder: &mut Builder, bytes: &[u8]| {
        let mut meta = xxh3_64(bytes).to_le_bytes().to_vec();
        meta.extend([0, bytes.len() as u8]);
        builder.frame(frame_type::PIECE, &meta, bytes);
    };
    let block = |round, page: [u8; PAGE], before: Option<[u8; PAGE]>| handmade::Block {
        round,
        ranges: vec![(2, 1)],
        runs: vec![(1, What::Residual)],
        truth: vec![page],
        classes: vec![5],
        zstd: true,
        bases: before.map(|_| vec![handmade::Places::by_page(1, 1, 0)]),
        base_words: vec![before],
        ..handmade::Block::default()
    };
    // Records of a page that no block has brought yet; an empty script, an empty name.
    script(&mut builder, &[1, 0, 0, 0, 1, 1, b'r', 1, 2, 2, 1, 1, 0, 2]);
    script(&mut builder, &[]);
    builder.block(&block(0, page, None));
    let before = page;
    page[8] = 9;
    builder.block(&block(1, page, Some(before)));
    script(&mut builder, &[2, 2, 1, 0, 2, 0, 2, b'o', b'k']);
    builder.end(0);
    let slow = reference::decode_as(builder.bytes(), &[], Rules::Any).unwrap();
    let zero = |place: u64| [&(place << 12 | 0x22).to_be_bytes()[..], &[0]].concat();
    let first = [&0x02u64.to_be_bytes()[..], b"\x01r\0", &zero(1)].concat();
    let full = [&0x28u64.to_be_bytes()[..], &[0; PAGE], &0x1028u64.to_be_bytes(), &page, b"ok"].concat();
    compare::same_bytes("slow decoder", &slow.qemu, &[first, full].concat()).unwrap();
    let out = apply_session(builder.bytes(), &References::none()).unwrap();
    compare::same_bytes("engine", &out, &slow.qemu).unwrap();
    assert_eq!(slow.blocks[1].bases, [Some((1, 1024))]);
}

/// Applies a session as a destination would; gives the QEMU stream, of one that has one.
fn apply_session(stream: &[u8], references: &References) -> Result<Vec<u8>, DecodeError> {
    let (header, frames) = Unpacker::new(stream, DecodeLimits::default())?.into_parts();
    let (given, level, cancel) = (references.at_hand(), engine::level(), Cancel::new());
    if header.layout.format() == ImageFormat::Qemu {
        let to = Rebuilt::new(&header, tempfile::tempfile().unwrap(), Vec::new())?;
        Decoder::new(&header, &given, level, &cancel).apply_file(&to, frames)?;
        return Ok(to.into_parts().1);
    }
    let to = Memory(engine::Store::new(&header.layout));
    Decoder::new(&header, &given, level, &cancel).apply_file(&to, frames)?;
    Ok(Vec::new())
}

/// A destination that takes any piece.
struct Memory(engine::Store);

impl PageStore for Memory {
    fn write(&self, first_page: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write(first_page, bytes)
    }

    fn write_zero(&self, first_page: u64, pages: u64) -> std::io::Result<()> {
        self.0.write_zero(first_page, pages)
    }

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(page, offset, out)
    }
}

impl OpaqueStore for Memory {
    fn write_opaque(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_opaque(offset, bytes)
    }
}

impl live::Destination for Memory {
    fn piece(&self, _: &[u8]) -> Result<(), DecodeError> {
        Ok(())
    }
}

/// A header of a few bytes may promise as many pages as there can be; that must not take memory.
#[test]
fn a_guest_of_a_petabyte_costs_its_destination_nothing() {
    let mut builder = Builder::new(Head::raw(1 << 40));
    builder.block(&handmade::Block {
        ranges: vec![((1 << 40) - 1, 1)],
        runs: vec![(1, What::Zero)],
        truth: vec![cases::ZERO],
        ..handmade::Block::default()
    });
    builder.end(0);
    struct Nowhere;
    impl PageStore for Nowhere {
        fn write(&self, _: u64, _: &[u8]) -> std::io::Result<()> {
            Ok(())
        }
        fn write_zero(&self, _: u64, _: u64) -> std::io::Result<()> {
            Ok(())
        }
        fn read(&self, _: u64, _: usize, _: &mut [u8]) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl OpaqueStore for Nowhere {
        fn write_opaque(&self, _: u64, _: &[u8]) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl live::Destination for Nowhere {
        fn piece(&self, _: &[u8]) -> Result<(), DecodeError> {
            Ok(())
        }
    }
    let (header, frames) = Unpacker::new(builder.bytes(), DecodeLimits::default()).unwrap().into_parts();
    let applied =
        Decoder::new(&header, &[], engine::level(), &Cancel::new()).apply_file(&Nowhere, frames).unwrap();
    assert_eq!((applied.pages, applied.distinct), (1, 1));
}

/// The sibling: streams that are as odd, and good.
#[test]
fn streams_by_hand_are_taken_by_both_decoders() {
    for case in cases::all_cases() {
        let references = References::in_order(&case.references);
        let result = compare::whole(&case.stream, &references, &case.file);
        assert!(result.is_ok(), "{}: {}", case.name, result.unwrap_err());
        if case.name.starts_with("independent") {
            compare::single_pages(&case.stream, &references, &case.file, 1).unwrap();
        }
    }
}

/// Pages that come again in later rounds, and are left for later in between: until they come, they are what they were.
#[test]
fn pages_left_for_later_in_rounds() {
    let mut random = Random::new(41);
    let pages: Vec<[u8; PAGE]> = (0..6).map(|_| random.page()).collect();
    let mut builder = Builder::new(Head::raw(4));
    let mut block = |round, ranges: &[(u64, u64)], runs: &[(u64, What)], truth: &[[u8; PAGE]], residual| {
        builder.block(&handmade::Block {
            round,
            ranges: ranges.to_vec(),
            list: !ranges.is_sorted(),
            runs: runs.to_vec(),
            truth: truth.to_vec(),
            classes: vec![5; residual],
            zstd: true,
            ..handmade::Block::default()
        });
    };
    let (residual, later) = (What::Residual, What::Later);
    let copy = |source| (1, What::Duplicate { source });
    block(0, &[(0, 4)], &[(2, residual), (2, later)], &[pages[0], pages[1], cases::ZERO, cases::ZERO], 2);
    // Page 1 is what it was, and page 3 zero; page 0 is left as it is, and then comes again.
    block(1, &[(2, 1), (0, 2)], &[copy(3), (2, later)], &[cases::ZERO; 3], 0);
    block(1, &[(3, 1)], &[copy(1)], &[pages[1]], 0);
    block(2, &[(2, 1), (0, 1)], &[copy(1), (1, residual)], &[pages[1], pages[2]], 1);
    builder.end(0);
    let truth = [pages[2], pages[1], pages[1], pages[1]].concat();
    let slow = compare::rounds(builder.bytes(), &References::none(), &truth).unwrap();
    assert_eq!(slow.blocks.iter().map(|block| block.brings).collect::<Vec<_>>(), [2, 1, 1, 2]);
    assert_eq!(slow.blocks[3].brought(), [2, 0]);
    assert!(slow.complete && slow.out_of_order);
    assert!(engine::unpack(builder.bytes(), &[]).0.is_err());
    assert!(compare::rounds(builder.bytes(), &References::none(), &[0; 4 * PAGE]).is_err());
}

/// Opaque frames that give the same bytes: the later one holds, even where it says zero.
#[test]
fn opaque_bytes_given_twice() {
    let mut builder = Builder::new(Head { file_len: 5 * 4096, segments: vec![(0, 1, 1)], ..Head::raw(1) });
    builder.block(&handmade::Block {
        ranges: vec![(0, 1)],
        runs: vec![(1, What::Zero)],
        truth: vec![cases::ZERO],
        ..handmade::Block::default()
    });
    builder.opaque(4096, &[7; 4 * 4096], true);
    builder.opaque(2 * 4096, &[0; 2 * 4096], true);
    let stream = builder.finish();
    let truth = [vec![0; 4096], vec![7; 4096], vec![0; 2 * 4096], vec![7; 4096]].concat();
    compare::whole(&stream, &References::none(), &truth).unwrap();
    let file = engine::unpack_to_file(&stream, &References::none(), WriteAs::Same).unwrap();
    compare::same_bytes("file", &file, &truth).unwrap();
}

/// A zstd frame may name a window far larger than what it holds.
#[test]
fn windows_of_zstd() {
    for window in [0x00, 0x50, 0x97, 0xaf] {
        let head = [0x28, 0xb5, 0x2f, 0xfd, 0x00, window];
        let coded = [&head[..], &[0x41, 0, 0], b"abababab"].concat();
        let mut meta = vec![0];
        meta.extend(xxh3_64(b"abababab").to_le_bytes());
        meta.extend([1, 8, coded.len() as u8]);
        meta.extend(xxh3_64(&coded).to_le_bytes());
        let mut builder = Builder::new(Head { file_len: 8, ..Head::raw(0) });
        builder.frame(frame_type::OPAQUE, &meta, &coded);
        let stream = builder.finish();
        let result = compare::whole(&stream, &References::none(), b"abababab");
        assert!(result.is_ok(), "window {window:#x}: {}", result.unwrap_err());
    }
}

/// What only shows to one who reads a page alone.
#[test]
fn broken_promises_of_random_access() {
    let references = hostile::references(AtHand::Whole).unwrap();
    for case in hostile::found_by_readers() {
        let error = reference::decode(&case.stream, &references.bytes()).expect_err(case.name);
        assert!(error.contains("duplicate"), "{}: {error}", case.name);
        assert!(reference::page(&case.stream, &references.bytes(), 4).is_err(), "{}", case.name);
        let reader = compare::open_reader(&case.stream).unwrap();
        let error = reader.page(4, &references.at_hand(), &mut [0; PAGE]).expect_err(case.name);
        assert_eq!(error.to_string(), case.error, "{}", case.name);
        for other in [0, 1, 2, 3, 5] {
            reader.page(other, &references.at_hand(), &mut [0; PAGE]).unwrap();
        }
        // The engine's unpacker does not keep what each page was, and its pages are the right ones.
        let (result, store) = engine::unpack(&case.stream, &references.at_hand());
        if result.is_ok() {
            let bytes = store.unwrap().into_bytes();
            let digest = |first: usize, pages: usize| {
                let prints = bytes[first * PAGE..(first + pages) * PAGE].chunks(PAGE);
                let prints: Vec<u8> = prints.flat_map(|page| xxh3_128(page).to_le_bytes()).collect();
                xxh3_128(&prints).to_le_bytes()
            };
            let (slow, _) = reference::decode_prefix(&case.stream, &references.bytes(), Rules::File);
            assert_eq!(slow.blocks[0].digest, digest(0, 4), "{}", case.name);
        }
    }
}
