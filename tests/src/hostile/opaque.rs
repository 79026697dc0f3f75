//! Opaque frames: bytes between the pages, and pieces, which blocks have, too.

use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::handmade::frame_type::OPAQUE;

/// A guest with ten bytes before its page and ten after it.
fn around() -> Head {
    Head { file_len: 4096 + 20, segments: vec![(10, 1, 1)], ..head(1) }
}

/// Puts one opaque frame into such a guest's stream: `piece` is the piece's fields, `hashed` what its checksum is of.
fn frame(offset: u64, hashed: &[u8], piece: &[u8], data: &[u8]) -> Vec<u8> {
    let mut meta = number(offset);
    meta.extend(xxh3_64(hashed).to_le_bytes());
    meta.extend(piece);
    let mut builder = Builder::new(around());
    builder.frame(OPAQUE, &meta, data);
    builder.block(&zeros(0, 1));
    builder.finish()
}

/// The fields of a zstd piece.
fn zstd_piece(raw_len: u64, coded: &[u8]) -> Vec<u8> {
    let mut piece = vec![1];
    piece.extend(number(raw_len));
    piece.extend(number(coded.len() as u64));
    piece.extend(xxh3_64(coded).to_le_bytes());
    piece
}

pub(super) fn all() -> Vec<Hostile> {
    let raw = |len: u64| [vec![0], number(len)].concat();
    let plain = |offset, bytes: &[u8]| frame(offset, bytes, &raw(bytes.len() as u64), bytes);
    let zstd = |raw_len, coded: &[u8]| frame(0, b"abababab", &zstd_piece(raw_len, coded), coded);
    let good = handmade::zstd(b"abababab");
    let twice = [handmade::zstd(b"abab"), handmade::zstd(b"abab")].concat();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7][..], &good].concat();
    // Magic, descriptor, fields; one raw block of eight bytes.
    let block = |fields: &[u8]| [&[0x28, 0xb5, 0x2f, 0xfd][..], fields, &[0x41, 0, 0], b"abababab"].concat();
    let mut damaged = zstd_piece(8, &good);
    damaged[4] ^= 1;
    let long = vec![7; (1 << 22) + 1];
    let too_long = {
        // Refused before the data: there is none.
        let mut meta = number(0);
        meta.extend(xxh3_64(&long).to_le_bytes());
        meta.extend(raw(long.len() as u64));
        let mut builder = Builder::new(around());
        builder.frame(OPAQUE, &meta, &[]);
        builder.finish()
    };
    vec![
        bad(
            "opaque-damaged",
            frame(0, b"abc", &raw(3), b"abd"),
            "opaque bytes: checksum mismatch, the bytes were damaged after they were written",
        ),
        bad("opaque-over-a-page", plain(9, b"ab"), "opaque bytes: they are not between the pages"),
        bad("opaque-in-a-page", plain(500, b"ab"), "opaque bytes: they are not between the pages"),
        bad("opaque-across-a-page", plain(0, &[7; 4116]), "opaque bytes: they are not between the pages"),
        bad("opaque-beyond-the-file", plain(4115, b"ab"), "opaque bytes: they are not between the pages"),
        bad(
            "opaque-offset-overflows",
            plain(u64::MAX, b"ab"),
            "opaque bytes: they are not between the pages",
        ),
        bad("opaque-nothing-in-a-page", plain(500, b""), "opaque bytes: they are not between the pages"),
        bad("opaque-too-long", too_long, "decoded length: 4194305 is more than the 4194304 allowed"),
        bad("opaque-codec-4", frame(0, b"abc", &[4, 3], b"abc"), "codec: unknown"),
        bad(
            "opaque-codec-3",
            {
                let mut piece = zstd_piece(8, &good);
                piece[0] = 3;
                frame(0, b"abababab", &piece, &good)
            },
            "codec: only groups can have it",
        ),
        bad(
            "opaque-codec-2",
            {
                let mut piece = zstd_piece(8, &good);
                piece[0] = 2;
                frame(0, b"abababab", &piece, &good)
            },
            "codec: only groups can have it",
        ),
        bad(
            "opaque-data-too-long",
            frame(0, b"abc", &raw(3), b"abcd"),
            "opaque bytes: its length is not that of its data",
        ),
        bad(
            "opaque-data-too-short",
            frame(0, b"abc", &raw(3), b"ab"),
            "opaque bytes: its length is not that of its data",
        ),
        bad(
            "opaque-with-more",
            frame(0, b"abc", &[0, 3, 0], b"abc"),
            "opaque bytes: bytes left over at the end",
        ),
        bad(
            "zstd-damaged",
            frame(0, b"abababab", &damaged, &good),
            "opaque bytes: checksum mismatch, the bytes were damaged after they were written",
        ),
        bad("zstd-is-text", zstd(8, b"this is no zstd frame"), "opaque bytes: not just one zstd frame"),
        bad("zstd-says-less", zstd(7, &good), "opaque bytes: zstd: Destination buffer is too small"),
        bad("zstd-says-more", zstd(9, &good), "opaque bytes: it decodes to another length"),
        bad("zstd-cut", zstd(8, &good[..good.len() - 1]), "opaque bytes: not just one zstd frame"),
        bad("zstd-twice", zstd(8, &twice), "opaque bytes: not just one zstd frame"),
        bad("zstd-skippable", zstd(8, &skippable), "opaque bytes: not just one zstd frame"),
        bad("zstd-with-more", zstd(8, &[&good[..], &[0]].concat()), "opaque bytes: not just one zstd frame"),
        bad("zstd-dictionary", zstd(8, &block(&[0x21, 7, 8])), "opaque bytes: zstd: Dictionary mismatch"),
        bad("zstd-reserved-bit", zstd(8, &block(&[0x28, 8])), "opaque bytes: not just one zstd frame"),
        bad("zstd-window-of-4-gib", zstd(8, &block(&[0x00, 0xb0])), "opaque bytes: not just one zstd frame"),
        bad(
            "zstd-own-checksum",
            zstd(8, &[&block(&[0x24, 8])[..], &[0; 4]].concat()),
            "opaque bytes: zstd: Restored data doesn't match checksum",
        ),
    ]
}
