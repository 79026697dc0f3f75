//! Streams that must decode.

use super::*;
use crate::reference::{FrameType, Rules, decode, decode_as, decode_prefix};

#[test]
fn cases_decode() {
    let mut as_sessions = 0;
    for case in all_cases() {
        let decoded = decode(&case.stream, &case.references).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert!(decoded.file == case.file, "{}", case.name);
        assert!(decoded.complete, "{}", case.name);
        assert_eq!(decoded.pages, decoded.header.page_count, "{}", case.name);
        // Whatever a file stream may hold, a session may, too, but for an index.
        let any = decode_as(&case.stream, &case.references, Rules::Any);
        if decoded.frames.iter().any(|frame| frame.kind == FrameType::Index) {
            assert!(any.unwrap_err().contains("an index in a session"), "{}", case.name);
        } else {
            assert!(any.unwrap().file == case.file, "{}", case.name);
            as_sessions += 1;
        }
    }
    assert!(as_sessions > 0);
}

/// Every byte of a stream of three zero pages, put down from the document without the builder; only the ten bits of the
/// columns go through a loop, one that knows that no probability is used twice here.
#[test]
fn zeros_to_the_byte() {
    use xxhash_rust::xxh3::{xxh3_64, xxh3_128};
    let print = xxh3_128(&ZERO).to_le_bytes();
    let digest = xxh3_128(&[print, print, print].concat()).to_le_bytes();
    // Kind 0: three 0 bits at a half; length 2 (x = 3, m = 1, r = 1): 000001, then 1. All at a half, and none
    // twice with the same probability: range 2^32 - 1 goes down by half ten times, and low goes up by
    // the bound at the two 1 bits.
    let mut range = u64::from(u32::MAX);
    let mut low = 0_u64;
    let mut bytes = vec![0_u8];
    for bit in [0, 0, 0, 0, 0, 0, 0, 0, 1, 1] {
        let bound = (range >> 16) * 32768;
        if bit == 1 {
            low += bound;
            range -= bound;
        } else {
            range = bound;
        }
        if range < 1 << 24 {
            bytes.push((low >> 24) as u8);
            low = low << 8 & 0xffff_ffff;
            range <<= 8;
        }
    }
    bytes.extend((low as u32).to_be_bytes());
    let mut block = vec![0, 1, 0, 3];
    block.extend(digest);
    block.push(bytes.len() as u8);
    block.extend(bytes);
    block.extend([0, 0]);
    let metas = [
        (1, vec![0, 0, 2, 64, 0x80, 0x60, 1, 0, 3, 1, 0]),
        (3, block.clone()),
        (4, vec![1, 43, 0, 3]),
        (5, {
            let mut end = (43 + 32 + block.len() as u64).to_le_bytes().to_vec();
            end.extend(3_u64.to_le_bytes());
            end.extend(1_u64.to_le_bytes());
            end.extend(xxh3_128(&digest).to_le_bytes());
            end
        }),
    ];
    let mut stream = vec![];
    for (sequence, (kind, meta)) in metas.iter().enumerate() {
        let mut head = vec![0x4d, 0x69, 0x47, 0x66, 2, *kind, 0, 0];
        head.extend([meta.len() as u8, 0, 0, 0, 0, 0, 0, 0]);
        head.extend([sequence as u8, 0, 0, 0, 0, 0, 0, 0]);
        let checksum = xxh3_64(&[&head[..], meta].concat());
        stream.extend(head);
        stream.extend(checksum.to_le_bytes());
        stream.extend(meta);
    }
    let decoded = decode(&stream, &[]).unwrap();
    assert_eq!(decoded.file, [0; 3 * PAGE]);
    assert_eq!(decoded.blocks[0].pages_by_kind(), [3, 0, 0, 0, 0, 0]);
    assert_eq!(stream, small_cases()[1].stream, "and the builder writes the same");
}

#[test]
fn the_view_shows_what_is_inside() {
    let case = rich(true, true);
    let decoded = decode(&case.stream, &case.references).unwrap();
    let kinds: Vec<FrameType> = decoded.frames.iter().map(|frame| frame.kind).collect();
    use FrameType::*;
    assert_eq!(kinds, [Header, Opaque, Block, Opaque, Opaque, Block, Block, Index, End]);
    assert_eq!(decoded.frames.last().unwrap().end(), case.stream.len() as u64);
    assert_eq!(decoded.header.references[1].name, "yesterday, größer");
    assert_eq!(decoded.header.segments[0].address, Some(0x10_0000));
    assert_eq!(decoded.header.segments[1].address, None);
    assert_eq!(decoded.header.segments[1].first, 16);
    let blocks = &decoded.blocks;
    assert_eq!(blocks[0].pages_by_kind(), [1, 0, 1, 3, 3, 0]);
    assert_eq!(blocks[0].runs_by_kind(), [1, 0, 1, 2, 1, 0]);
    assert_eq!(blocks[1].pages_by_kind(), [0, 1, 3, 0, 4, 0]);
    assert_eq!(blocks[1].matches.iter().map(Vec::len).collect::<Vec<_>>(), [3, 0, 1, 2]);
    assert_eq!(blocks[1].classes, [1, 2, 1, 1]);
    let groups: Vec<(u8, u64)> = blocks[1].groups.iter().map(|group| (group.class, group.pages)).collect();
    assert_eq!(groups, [(1, 2), (1, 1), (2, 1)]);
    assert!(blocks[2].has_checks && !blocks[2].has_matches);
}

/// A stream that stops after any frame is cut, and good so far.
#[test]
fn cut_after_frames() {
    let case = rich(true, false);
    let whole = decode(&case.stream, &case.references).unwrap();
    for (count, frame) in whole.frames.iter().enumerate().skip(1) {
        let cut = &case.stream[..frame.offset as usize];
        let decoded = decode(cut, &case.references).unwrap();
        assert!(!decoded.complete);
        assert_eq!(decoded.frames, whole.frames[..count]);
    }
}

/// Pages that come again in later rounds, in sets of many ranges.
#[test]
fn rounds() {
    let mut random = Random::new(8);
    let first = random.page();
    let second = random.page();
    let third = random.page();
    let mut builder = Builder::new(Head::raw(6));
    let block = |round, ranges: &[(u64, u64)], runs: &[(u64, What)], truth: &[Page], classes: &[u8]| Block {
        round,
        ranges: ranges.to_vec(),
        runs: runs.to_vec(),
        truth: truth.to_vec(),
        classes: classes.to_vec(),
        ..Block::default()
    };
    let residual = What::Residual;
    builder.block(&block(0, &[(1, 2), (4, 1)], &[(3, residual)], &[first, second, third], &[0, 0, 0]));
    let copies = [(1, What::Duplicate { source: 2 }), (1, What::Duplicate { source: 0 }), (1, residual)];
    builder.block(&block(1, &[(1, 1), (3, 2)], &copies, &[second, ZERO, first], &[2]));
    builder.end(0);
    let decoded = decode_as(builder.bytes(), &[], Rules::Any).unwrap();
    assert!(decoded.complete);
    assert_eq!(decoded.pages, 6);
    assert!(decoded.file == [ZERO, second, second, ZERO, first, ZERO].concat());
    let (prefix, error) = decode_prefix(builder.bytes(), &[], Rules::File);
    assert_eq!(prefix.blocks.len(), 0);
    assert!(error.unwrap().contains("page set"));
}

#[test]
fn identities() {
    use xxhash_rust::xxh3::xxh3_128;
    assert_eq!(identity(&[]), xxh3_128(&[0; 8]).to_le_bytes());
    let page = Random::new(2).page();
    let mut covered = vec![1, 0, 0, 0, 0, 0, 0, 0];
    for _ in 0..66 {
        covered.extend(page); // 64 of the first list, 0 of the second, n - 1 of the third
    }
    assert_eq!(identity(&page), xxh3_128(&covered).to_le_bytes());
}
