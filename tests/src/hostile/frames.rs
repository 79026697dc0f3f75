//! Frames: heads, lengths, order.

use super::*;
use crate::handmade::{frame_type, reseal};

/// A good stream of two blocks, and where its frames start.
fn good() -> (Vec<u8>, Vec<usize>) {
    let mut builder = Builder::new(Head { file_len: 6 * 4096 + 4, ..head(6) });
    builder.opaque(6 * 4096, b"tail", false);
    builder.block(&mixed());
    builder.block(&zeros(4, 2));
    let stream = builder.finish();
    let mut starts = vec![0];
    loop {
        let at = starts[starts.len() - 1];
        let field =
            |at: usize| u32::from_le_bytes([stream[at], stream[at + 1], stream[at + 2], stream[at + 3]]);
        let next = at + 32 + (field(at + 8) + field(at + 12)) as usize;
        if next == stream.len() {
            return (stream, starts);
        }
        starts.push(next);
    }
}

pub(super) fn all() -> Vec<Hostile> {
    let (stream, starts) = good();
    // The head of a frame with one byte changed, its checksum right.
    let head = |frame: usize, at: usize, value: u8| {
        let mut stream = stream.clone();
        stream[starts[frame] + at] = value;
        if at != 10 && at != 11 {
            reseal(&mut stream, starts[frame]);
        }
        stream
    };
    let flipped = |at: usize| {
        let mut stream = stream.clone();
        stream[at] ^= 0x10;
        stream
    };
    let cut = |len: usize| stream[..len].to_vec();
    let frames: Vec<&[u8]> = {
        let ends = starts[1..].iter().copied().chain([stream.len()]);
        starts.iter().zip(ends).map(|(&start, end)| &stream[start..end]).collect()
    };
    let order = |numbers: &[usize]| numbers.iter().flat_map(|&number| frames[number].to_vec()).collect();
    let with = |frame: u8, meta: &[u8], data: &[u8]| {
        let mut builder = Builder::new(super::head(1));
        builder.frame(frame, meta, data);
        builder.bytes().to_vec()
    };
    let mut headless = Builder::new(super::head(1));
    headless.block(&zeros(0, 1));
    let mut headless = headless.finish();
    headless.drain(..frames_header_len(&headless));
    headless[16] = 0;
    reseal(&mut headless, 0);
    let mut second_header = stream[..starts[1]].to_vec();
    second_header.extend(&stream[..starts[1]]);
    second_header[starts[1] + 16] = 1;
    reseal(&mut second_header, starts[1]);
    let mut header_with_data = stream[..starts[1]].to_vec();
    header_with_data[12] = 1;
    reseal(&mut header_with_data, 0);
    header_with_data.push(0);
    let mut long = stream.clone();
    long.push(0);
    vec![
        bad("empty", vec![], "header: 1 bytes needed, 0 left"),
        bad(
            "text",
            b"This is a text, and not a stream of any kind.".to_vec(),
            "frame magic: this is not a MiG stream",
        ),
        bad("short-text", b"No stream.".to_vec(), "frame magic: this is not a MiG stream"),
        bad("version-1", head(0, 4, 1), "format version 1 is not supported (this build reads version 2)"),
        bad("version-3", head(0, 4, 3), "format version 3 is not supported (this build reads version 2)"),
        bad("frame-type-0", head(0, 5, 0), "frame type: unknown"),
        bad("frame-type-8", head(2, 5, 8), "frame type: unknown"),
        bad("late-reference-in-a-file", with(7, b"", b""), "stream: a late reference, in a file of memory"),
        bad("piece-in-a-file", head(2, 5, 6), "stream: a piece, in a file of memory"),
        bad("reserved-byte", head(0, 6, 1), "frame header: reserved bytes are not zero"),
        bad("meta-too-long", head(1, 11, 2), "frame meta length: 33554445 is more than the 16777216 allowed"),
        bad(
            "data-too-long",
            head(1, 15, 0x20),
            "frame data length: 536870916 is more than the 335544320 allowed",
        ),
        bad(
            "head-damaged",
            flipped(starts[2] + 25),
            "frame: checksum mismatch, the bytes were damaged after they were written",
        ),
        bad(
            "meta-damaged",
            flipped(starts[2] + 40),
            "frame: checksum mismatch, the bytes were damaged after they were written",
        ),
        bad(
            "literals-damaged",
            flipped(starts[3] - 1),
            "group: checksum mismatch, the bytes were damaged after they were written",
        ),
        bad("cut-in-head", cut(starts[2] + 31), "frame header: 32 bytes needed, 31 left"),
        bad("cut-in-meta", cut(starts[2] + 50), "frame meta: 49 bytes needed, 18 left"),
        bad("cut-in-data", cut(starts[3] - 1), "frame data: 316 bytes needed, 315 left"),
        bad("cut-after-a-block", cut(starts[3]), "stream (it has no end): 24576 bytes needed, 16384 left"),
        bad(
            "cut-before-the-end",
            cut(*starts.last().unwrap_or(&0)),
            "stream (it has no end): 24576 bytes needed, 24576 left",
        ),
        bad("bytes-after-the-end", long, "frame magic: this is not a MiG stream"),
        bad("frame-dropped", order(&[0, 1, 3, 4, 5]), "frame sequence: a frame is missing or repeated"),
        bad(
            "frame-repeated",
            order(&[0, 1, 2, 2, 3, 4, 5]),
            "frame sequence: a frame is missing or repeated",
        ),
        bad("frames-swapped", order(&[0, 1, 3, 2, 4, 5]), "frame sequence: a frame is missing or repeated"),
        bad("first-frame-is-a-block", headless, "header: the first frame is another"),
        bad("second-header", second_header, "stream: a second header"),
        bad("header-with-data", header_with_data, "frame data length: data where none belongs"),
        bad(
            "index-with-data",
            with(frame_type::INDEX, &[0], &[0]),
            "frame data length: data where none belongs",
        ),
        bad(
            "end-with-data",
            with(frame_type::END, &[0; 40], &[0]),
            "frame data length: data where none belongs",
        ),
    ]
}

fn frames_header_len(stream: &[u8]) -> usize {
    32 + usize::from(stream[8]) + usize::from(stream[9]) * 256
}
