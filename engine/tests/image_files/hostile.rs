//! Memory images that are damaged, cut short, or something else: an error that says so, and no panic.

use mig_engine::image::{FormatChoice, ImageError, ImageFormat, ImageLayout, MemoryImage, parse_layout};
use proptest::prelude::*;

use crate::samples::{Block, Headers, Load, PAGE, elf, lime, mapped_ram, memory, stream_start};

/// Small files of each format.
fn samples() -> Vec<(ImageFormat, Vec<u8>)> {
    let loads = [
        Load::new(0, memory(2, 1)),
        Load { shares: Some((0, 0)), ..Load::new(1 << 20, memory(2, 1)) },
        Load::new(4096, memory(1, 2)),
    ];
    let blocks = [
        Block { name: "pc.ram", bytes: memory(3, 1), stale: vec![2] },
        Block { name: "pc.bios", bytes: memory(1, 2), stale: vec![] },
    ];
    vec![
        (ImageFormat::Raw, memory(2, 1)),
        (ImageFormat::ElfCore, elf(&loads, Headers::First)),
        (ImageFormat::ElfCore, elf(&loads, Headers::Qemu72)),
        (ImageFormat::ElfCore, elf(&loads, Headers::LastAndCounted)),
        (ImageFormat::Lime, lime(&[(0, memory(1, 1)), (1 << 20, memory(2, 1)), (0, memory(1, 3))])),
        (ImageFormat::MappedRam, mapped_ram("pc-q35-9.0", &blocks, 64)),
    ]
}

/// Whatever a parser returns: pages and opaque bytes are the whole file, each byte once.
fn is_whole(layout: &ImageLayout, bytes: &[u8]) {
    assert_eq!(layout.file_len(), bytes.len() as u64);
    let mut ranges: Vec<_> = layout.segments().iter().map(|segment| segment.file_range()).collect();
    ranges.extend_from_slice(layout.opaque_ranges());
    ranges.sort_by_key(|range| range.start);
    let mut at = 0;
    for range in ranges {
        assert_eq!(range.start, at);
        assert!(range.end > at);
        at = range.end;
    }
    assert_eq!(at, layout.file_len());
    assert!(layout.page_count() * 4096 <= layout.file_len());
    // What a container stores of it makes the same layout again.
    let again = ImageLayout::new(layout.format(), layout.file_len(), layout.segments().to_vec());
    assert_eq!(again.unwrap(), *layout);
}

/// Parses as what it looks like, and as everything else that it could be called.
fn survives(bytes: &[u8]) {
    for choice in FormatChoice::ALL.into_iter().map(Some).chain([None]) {
        match parse_layout(bytes, choice, Some(br#"{"memory_ranges":[{"gpa":0,"length":4096}]}"#)) {
            Ok(layout) => is_whole(&layout, bytes),
            // The message is made from fields of the file, too.
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

#[test]
fn samples_are_what_they_should_be() {
    for (format, bytes) in samples() {
        let layout = parse_layout(&bytes, None, None).unwrap();
        assert_eq!(layout.format(), format);
        is_whole(&layout, &bytes);
    }
}

#[test]
fn cut_short_at_every_byte() {
    for (format, bytes) in samples() {
        for len in 0..bytes.len() {
            survives(&bytes[..len]);
            let parsed = parse_layout(&bytes[..len], None, None);
            // Where the format can be seen and its end is known, the loss is noticed.
            let noticed = match format {
                ImageFormat::ElfCore => len >= 18,
                // A file cut between two ranges is a whole file.
                ImageFormat::Lime => len >= 4 && ![32 + PAGE, 64 + 3 * PAGE].contains(&len),
                _ => false,
            };
            assert!(!noticed || parsed.is_err(), "{len} of {} bytes of {format}", bytes.len());
        }
        assert!(parse_layout(&bytes[..100], None, None).is_err());
    }
}

#[test]
fn every_bit_of_the_headers_flipped() {
    for (_, mut bytes) in samples() {
        let layout = parse_layout(&bytes, None, None).unwrap();
        for at in layout.opaque_ranges().iter().flat_map(|range| range.clone()) {
            for bit in 0..8 {
                bytes[at as usize] ^= 1 << bit;
                survives(&bytes);
                bytes[at as usize] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn every_header_field_at_its_extremes() {
    for (_, bytes) in samples() {
        let layout = parse_layout(&bytes, None, None).unwrap();
        for range in layout.opaque_ranges() {
            for at in range.start as usize..(range.end as usize).saturating_sub(8) {
                let mut bytes = bytes.clone();
                for value in
                    [0, 1, 4095, 1 << 31, u64::MAX / 4096, i64::MAX as u64, u64::MAX - 4095, u64::MAX]
                {
                    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
                    survives(&bytes);
                    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
                    survives(&bytes);
                }
            }
        }
    }
}

/// The error of a file that has been tampered with.
fn error_of(bytes: &[u8]) -> String {
    parse_layout(bytes, None, None).unwrap_err().to_string()
}

#[test]
fn errors_name_the_place_and_the_way_out() {
    let mut core = elf(&[Load::new(0, memory(2, 1))], Headers::First);
    assert!(error_of(&core[..core.len() - 1]).contains("memory of a program header at offset"), "cut short");
    assert!(error_of(&core[..core.len() - 1]).contains("--format raw"));
    core[54] = 55;
    assert_eq!(error_of(&core), "elf: size of a program header at offset 0x36 is 0x37: it is less than 56");
    let mut ranges = lime(&[(0x1000, memory(1, 1)), (0x5000, memory(1, 1))]);
    ranges[32 + PAGE] ^= 1;
    assert!(error_of(&ranges).contains("magic of a range at offset 0x1020"), "{}", error_of(&ranges));
    ranges[32 + PAGE] ^= 1;
    ranges[32 + PAGE + 4] = 2;
    assert!(error_of(&ranges).contains("version of a range at offset 0x1024"), "{}", error_of(&ranges));
    let mut ranges = lime(&[(0x1000, memory(1, 1))]);
    ranges[17] = 0;
    assert!(error_of(&ranges).contains("last address"), "{}", error_of(&ranges));
}

#[test]
fn blocks_of_mapped_ram_must_go_on() {
    let block = |bytes| Block { name: "pc.ram", bytes, stale: vec![] };
    let mut bytes = mapped_ram("pc-q35-9.0", &[block(memory(2, 1))], 4096);
    let field = bytes.windows(8).position(|w| w == 4096u64.to_be_bytes()).unwrap() + 16;
    assert_eq!(bytes[field..field + 8], 4096u64.to_be_bytes());
    bytes[field..field + 8].copy_from_slice(&8u64.to_be_bytes());
    // Else a block could bring us back to its own header, again and again.
    assert!(error_of(&bytes).contains("lie before their header"), "{}", error_of(&bytes));
}

#[test]
fn other_files_are_called_by_their_name() {
    let names: [(&[u8], &str); 8] = [
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"LibvirtQemudSave", "virsh dump --memory-only --format elf"),
        (b"KDUMP   ", "kdump"),
        (b"makedumpfile\0\0", "makedumpfile"),
        (b"AVML\x02\0\0\0", "avml-convert"),
        (b"QFI\xfb\0\0\0\x03", "reference"),
    ];
    for (magic, words) in names {
        let mut bytes = memory(2, 1);
        bytes[..magic.len()].copy_from_slice(magic);
        assert!(error_of(&bytes).contains(words), "{}", error_of(&bytes));
        assert!(error_of(&bytes).contains("--format raw"));
        // A user who means it gets it.
        assert_eq!(parse_layout(&bytes, Some(FormatChoice::Raw), None).unwrap().page_count(), 2);
    }
    let stream = [stream_start("pc-i440fx-7.2", &[]), memory(1, 1)].concat();
    assert!(error_of(&stream).contains("QEMU migration stream"), "{}", error_of(&stream));
    // As from a machine so old that it has no configuration section.
    assert!(error_of(b"QEVM\0\0\0\x03\x01").contains("QEMU migration stream"));
    assert!(error_of(b"QEVM\0\0\0\x02\x01").contains("version of the stream"));
}

#[test]
fn a_file_is_not_what_the_user_calls_it() {
    for choice in [FormatChoice::Elf, FormatChoice::Lime, FormatChoice::MappedRam] {
        let error = parse_layout(&memory(2, 1), Some(choice), None).unwrap_err();
        assert!(matches!(error, ImageError::WrongFormat { format, .. } if format == choice.format()));
    }
    for small in [0, 1, PAGE - 1] {
        let error = parse_layout(&vec![7; small], None, None).unwrap_err();
        assert!(matches!(error, ImageError::NoPages { .. }), "{error:?}");
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["/dev/null", "/no/such/file"].map(std::path::Path::new).into_iter().chain([dir.path()]) {
        for choice in [None, Some(FormatChoice::Raw), Some(FormatChoice::CloudHypervisor)] {
            let error = MemoryImage::open(path, choice).unwrap_err();
            assert!(matches!(error, ImageError::Read { .. }), "{error:?}");
        }
    }
    let closed = MemoryImage::spool(&b""[..], dir.path(), None).unwrap_err();
    assert!(matches!(closed, ImageError::NoPages { .. }));
}

#[test]
fn more_pieces_than_any_machine_has() {
    // A page each with a byte between them: nothing can be joined.
    let ranges: Vec<_> =
        (0..mig_engine::image::MAX_SEGMENTS as u64 + 1).map(|n| (n << 13, vec![1])).collect();
    let error = parse_layout(&lime(&ranges), None, None).unwrap_err();
    assert!(matches!(error, ImageError::TooManySegments { .. }), "{error:?}");
    let mut core = elf(&[Load::new(0, memory(2, 1))], Headers::LastAndCounted);
    core[64 + 44..64 + 48].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(parse_layout(&core, None, None), Err(ImageError::TooManySegments { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rubbish_behind_a_magic(which in 0..6usize, keep in 0..300usize, tail in prop::collection::vec(any::<u8>(), 0..600)) {
        let (_, mut bytes) = samples().swap_remove(which);
        bytes.truncate(keep);
        bytes.extend_from_slice(&tail);
        survives(&bytes);
    }

    #[test]
    fn some_bytes_changed(which in 0..6usize, changes in prop::collection::vec((0..400usize, any::<u8>()), 1..20)) {
        let (_, mut bytes) = samples().swap_remove(which);
        for (at, value) in changes {
            bytes[at] = value;
        }
        survives(&bytes);
    }
}
