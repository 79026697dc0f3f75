//! Section 5.2: pieces of the data part.
//!
//! zstd is ruzstd here, so that no code is shared with an engine on libzstd. What RFC 8878 leaves to its reader and
//! the document demands is checked around it.

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::bytes::{Cursor, hash64};
use super::words;

/// Reading: the largest window that a frame may name, as a power of two (and up to seven eighths more). It is libzstd's own
/// limit on machines of 64 bits.
const MAX_WINDOW_LOG: u8 = 31;

/// How a piece is stored and where.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) codec: u8,
    pub(super) raw_len: u64,
    pub(super) coded_len: u64,
    checksum: Option<u64>,
    /// Where its coded bytes start in the data part.
    at: u64,
}

impl Piece {
    /// Reads a piece that may have these codecs and whose coded bytes start at `at` in the data part.
    pub(super) fn parse(cursor: &mut Cursor<'_>, at: u64, codecs: &[u8]) -> Result<Self, String> {
        let codec = cursor.u8("codec")?;
        if !codecs.contains(&codec) {
            return Err(format!("codec: {codec} is not one of {codecs:?}"));
        }
        let raw_len = cursor.varint("raw_len")?;
        let (coded_len, checksum) = match codec {
            0 => (raw_len, None),
            _ => (cursor.varint("coded_len")?, Some(cursor.u64("piece checksum")?)),
        };
        Ok(Self { codec, raw_len, coded_len, checksum, at })
    }

    /// Where the next piece's coded bytes start in a data part of `data_len` bytes.
    pub(super) fn end(&self, data_len: u32) -> Result<u64, String> {
        match self.at.checked_add(self.coded_len) {
            Some(end) if end <= u64::from(data_len) => Ok(end),
            _ => Err(format!("coded_len: {} bytes from {} leave the data part", self.coded_len, self.at)),
        }
    }

    /// The decoded bytes. The caller has checked `raw_len` against what it may be, and `end` against the data part.
    pub(super) fn decode(&self, data: &[u8]) -> Result<Vec<u8>, String> {
        let coded = &data[self.at as usize..(self.at + self.coded_len) as usize];
        match self.checksum {
            None => Ok(coded.to_vec()),
            Some(checksum) if hash64(coded) != checksum => {
                Err("piece checksum: the coded bytes are damaged".into())
            }
            Some(_) if self.codec == 3 => words::decode(coded, self.raw_len),
            Some(_) => unpack(coded, self.raw_len),
        }
    }
}

/// Decodes one zstd frame that is all of `coded` and holds `raw_len` bytes.
fn unpack(coded: &[u8], raw_len: u64) -> Result<Vec<u8>, String> {
    // The frame's descriptor follows its magic. RFC 8878, 3.1.1.1.1.4: the reserved bit must be 0.
    if coded.get(4).is_some_and(|descriptor| descriptor & 0x08 != 0) {
        return Err("zstd: the reserved bit is set".into());
    }
    let fitted = with_fitting_window(coded, raw_len)?;
    let mut source = &fitted[..];
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(u64::MAX);
    // Skippable frames and dictionaries are errors of `init`.
    decoder.init(&mut source).map_err(|e| format!("zstd: {e}"))?;
    let descriptor = coded[4];
    let says_size = descriptor >> 6 != 0 || descriptor & 0x20 != 0;
    if says_size && decoder.content_size() != raw_len {
        return Err(format!("zstd: the frame says {} bytes, raw_len is {raw_len}", decoder.content_size()));
    }
    let mut out = Vec::new();
    while !decoder.is_finished() {
        let step = BlockDecodingStrategy::UptoBlocks(1);
        decoder.decode_blocks(&mut source, step).map_err(|e| format!("zstd: {e}"))?;
        out.extend(decoder.collect().unwrap_or_default());
        if out.len() as u64 > raw_len {
            return Err(format!("zstd: more than raw_len {raw_len} bytes"));
        }
    }
    if out.len() as u64 != raw_len {
        return Err(format!("zstd: {} bytes, raw_len is {raw_len}", out.len()));
    }
    if decoder.get_checksum_from_data().is_some_and(|said| Some(said) != decoder.get_calculated_checksum()) {
        return Err("zstd: the frame's own checksum does not hold".into());
    }
    if !source.is_empty() {
        return Err(format!("zstd: {} bytes after the frame", source.len()));
    }
    Ok(out)
}

/// The same frame, but with the smallest window that holds `raw_len` bytes, whatever window it names: no more is ever
/// needed, and ruzstd would reserve what is named.
fn with_fitting_window(coded: &[u8], raw_len: u64) -> Result<Vec<u8>, String> {
    let mut coded = coded.to_vec();
    // RFC 8878, 3.1.1.1.2: a frame of a single segment has no window descriptor.
    if let [_, _, _, _, descriptor, window, ..] = &mut coded[..]
        && *descriptor & 0x20 == 0
    {
        let log = 10 + (*window >> 3);
        if log > MAX_WINDOW_LOG {
            return Err(format!("zstd: a window of 2^{log} bytes"));
        }
        let fitting = raw_len.max(1024).next_power_of_two().ilog2() as u8;
        *window = (fitting - 10) << 3;
    }
    Ok(coded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handmade;

    #[test]
    fn zstd_frames() {
        let raw: Vec<u8> = (0..300_000u32).map(|i| (i / 7 % 1000 * i % 11) as u8).collect();
        let good = handmade::zstd(&raw);
        assert!(good.len() < raw.len());
        assert_eq!(unpack(&good, raw.len() as u64).as_deref(), Ok(&raw[..]));
        assert!(unpack(&good, raw.len() as u64 - 1).is_err());
        assert!(unpack(&good, raw.len() as u64 + 1).is_err());
        assert!(unpack(&good[..good.len() - 1], raw.len() as u64).is_err());
        let twice = [&good[..], &good[..]].concat();
        assert!(unpack(&twice, 2 * raw.len() as u64).is_err(), "two frames");
        assert!(unpack(&[&good[..], &[0]].concat(), raw.len() as u64).is_err(), "a byte more");
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        assert!(unpack(&[&skippable[..], &good[..]].concat(), raw.len() as u64).is_err(), "skippable frame");
    }

    /// Frames put together from RFC 8878: magic, descriptor, size, one raw block `ab`.
    #[test]
    fn small_zstd_frames() {
        let frame = |descriptor: u8, fields: &[u8]| {
            let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, descriptor];
            frame.extend(fields);
            frame.extend([0x11, 0, 0]); // last block, raw, 2 bytes
            frame.extend(b"ab");
            frame
        };
        let ab = Ok(b"ab".to_vec());
        assert_eq!(unpack(&frame(0x20, &[2]), 2), ab);
        assert_eq!(unpack(&frame(0x00, &[0]), 2), ab, "a window of 1 KiB, no size");
        assert_eq!(unpack(&frame(0x21, &[0, 2]), 2), ab, "dictionary 0 is none");
        assert!(unpack(&frame(0x21, &[7, 2]), 2).is_err(), "a dictionary");
        assert!(unpack(&frame(0x20, &[3]), 2).is_err(), "a wrong size");
        assert!(unpack(&frame(0x28, &[2]), 2).is_err(), "the reserved bit");
        assert_eq!(unpack(&frame(0x00, &[0xaf]), 2), ab, "a window of nearly 4 GiB");
        assert!(unpack(&frame(0x00, &[0xb0]), 2).is_err(), "a window of 4 GiB");
        assert!(unpack(&frame(0x00, &[0xf8]), 2).is_err(), "a window of 2 TiB");
        let mut summed = frame(0x24, &[2]);
        summed.extend([0, 0, 0, 0]);
        assert!(unpack(&summed, 2).is_err(), "a wrong content checksum");
    }
}
