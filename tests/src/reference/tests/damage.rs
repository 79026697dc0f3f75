//! Damage that nobody planned: cut anywhere, any byte changed, with and without a checksum that was made right again.

use super::*;
use crate::handmade::reseal;
use crate::reference::{FrameType, Rules, decode, decode_prefix, page};

#[test]
fn every_changed_byte_is_seen() {
    for case in all_cases() {
        // Data parts are long and all alike: every byte of the rest, and one in 61 of these.
        let frames = decode(&case.stream, &case.references).unwrap().frames;
        let data = |at: u64| frames.iter().any(|f| f.end() - u64::from(f.data_len) <= at && at < f.end());
        for at in 0..case.stream.len() {
            if data(at as u64) && at % 61 != 0 {
                continue;
            }
            let mut stream = case.stream.clone();
            stream[at] ^= 1 << (at % 8);
            let (decoded, error) = decode_prefix(&stream, &case.references, Rules::File);
            assert!(error.is_some(), "{}: byte {at}", case.name);
            let sound = frames.iter().take_while(|f| f.end() <= at as u64).count();
            assert_eq!(decoded.frames, frames[..sound], "{}: byte {at}", case.name);
        }
    }
}

#[test]
fn cut_anywhere() {
    let case = rich(true, true);
    let whole = decode(&case.stream, &case.references).unwrap();
    let heads = |at: usize| whole.frames.iter().any(|f| (at as u64).abs_diff(f.offset) < 40);
    for at in (0..case.stream.len()).filter(|&at| heads(at) || at % 97 == 0) {
        let (decoded, error) = decode_prefix(&case.stream[..at], &case.references, Rules::File);
        let border = at > 0 && whole.frames.iter().any(|f| f.offset == at as u64);
        assert_eq!(error.is_none(), border, "cut at {at}");
        assert!(!decoded.complete);
        let blocks = decoded.blocks.len();
        assert_eq!(decoded.pages, 8 * blocks as u64);
        // Pages 0 to 15 lie behind pages 16 to 23.
        let low = 100 + 8 * PAGE + 50;
        let pages = blocks.min(2) * 8 * PAGE;
        if blocks > 0 {
            assert!(decoded.file[low..low + pages] == case.file[low..low + pages]);
        }
    }
}

/// Meta parts whose checksum is right and which say something else: an error, or the same pages. The header and the
/// opaque frames may say that the file looks different, for nothing covers that.
#[test]
fn forged_meta_parts() {
    for case in all_cases() {
        let frames = decode(&case.stream, &case.references).unwrap().frames;
        for frame in frames {
            for at in frame.offset as usize..frame.offset as usize + 32 + frame.meta_len as usize {
                for flip in [1, 0x80, 0xff] {
                    let mut stream = case.stream.clone();
                    stream[at] ^= flip;
                    if (8..12).contains(&(at - frame.offset as usize)) {
                        continue; // the length of the meta part: cut_anywhere has that
                    }
                    reseal(&mut stream, frame.offset as usize);
                    let result = decode(&stream, &case.references);
                    if matches!(frame.kind, FrameType::Block | FrameType::Index | FrameType::End) {
                        assert!(result.is_err() || result.unwrap().file == case.file, "{}: {at}", case.name);
                    }
                    let _ = page(&stream, &case.references, 5);
                }
            }
        }
    }
}

#[test]
fn wrong_references() {
    let case = rich(false, false);
    assert!(decode(&case.stream, &[]).unwrap_err().contains("not given"));
    let mut references = case.references.clone();
    references[0].as_mut().unwrap()[29 * PAGE] ^= 1;
    assert!(decode(&case.stream, &references).unwrap_err().contains("digest"));
    let mut references = case.references.clone();
    references[1].as_mut().unwrap().truncate(7 * PAGE + 5);
    assert!(decode(&case.stream, &references).unwrap_err().contains("block 7"));
    let mut references = case.references;
    references[1].as_mut().unwrap()[19 * PAGE] ^= 1;
    assert!(decode(&case.stream, &references).is_ok(), "block 19 is not used");
}

/// zstd frames with any byte changed, and every checksum right: an error or the same bytes, and never a panic.
#[test]
fn forged_zstd() {
    let raw: Vec<u8> = (0..20_000u32).map(|i| (i / 9 * i % 13) as u8).collect();
    let mut builder = Builder::new(Head { file_len: 20_000, ..Head::raw(0) });
    builder.opaque(0, &raw, true);
    let stream = builder.bytes().to_vec();
    let opaque = decode(&stream, &[]).unwrap().frames[1];
    let data = (opaque.end() - u64::from(opaque.data_len)) as usize;
    for at in data..stream.len() {
        let mut stream = stream.clone();
        stream[at] ^= 1 << (at % 8);
        let checksum = xxhash_rust::xxh3::xxh3_64(&stream[data..]).to_le_bytes();
        stream[data - 8..data].copy_from_slice(&checksum);
        reseal(&mut stream, opaque.offset as usize);
        // A window of another size, for one, changes nothing.
        match decode(&stream, &[]) {
            Ok(decoded) => assert!(decoded.file == raw, "byte {at}"),
            Err(error) => assert!(!error.contains("piece checksum"), "byte {at}: {error}"),
        }
    }
}
