//! Malice: streams that somebody made to be taken for good, with all checksums right.
//!
//! The decoders may differ in their words, but not in what they refuse, nor in how many pages they vouch for.

use std::collections::HashSet;

use mig_engine::image::WriteAs;
use mig_engine::inspect::StreamInfo;
use mig_engine::{DecodeLimits, Unpacker};
use mig_tests::engine::{self, References};
use mig_tests::handmade::{self, Builder, Head, cases, frame_type, reseal};
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
    for case in hostile::all() {
        assert!(names.insert(case.name), "{}: another one has this name", case.name);
        let references = hostile::references(case.at_hand).unwrap_or_default();
        let (slow, error) = reference::decode_prefix(&case.stream, &references.bytes(), Rules::File);
        assert!(error.is_some() || !slow.complete, "{}: the slow decoder takes it", case.name);
        let at_hand = references.at_hand();
        let error = engine::unpack(&case.stream, &at_hand).0.expect_err(case.name);
        assert_eq!(error.to_string(), case.error, "{}", case.name);
        assert_eq!(error.done.pages, slow.pages, "{}: pages that are good", case.name);
        let _ = StreamInfo::read(case.stream.as_slice());
        // A reader may see none of it, but does not deliver other pages, nor panic.
        if let Ok(reader) = compare::open_reader(&case.stream) {
            for number in 0..reader.page_count() + 1 {
                let _ = reader.page(number, &at_hand, &mut [0; PAGE]);
            }
        }
    }
    assert!(names.len() > 150);
}

/// The sibling: streams that are as odd, and good.
#[test]
fn streams_by_hand_are_taken_by_both_decoders() {
    for case in cases::all_cases() {
        let references = References::in_order(&case.references);
        let result = compare::whole(&case.stream, &references, &case.file);
        assert!(result.is_ok(), "{}: {}", case.name, result.unwrap_err());
        if case.name == "independent" {
            compare::single_pages(&case.stream, &references, &case.file, 1).unwrap();
        }
    }
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
