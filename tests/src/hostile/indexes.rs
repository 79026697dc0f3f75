//! Indexes of references that were damaged, or made to look as if they fit.

use xxhash_rust::xxh3::xxh3_128;

use super::{AtHand, BadFile, references};

const HEADER: usize = 4096;

/// The index of the disk that the bad streams refer to, as a file.
fn good() -> Vec<u8> {
    let references = references(AtHand::Whole).unwrap_or_default().open(true);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("index");
    references[0].index().expect("an index was asked for").save(&path).expect("room for a small index");
    std::fs::read(path).expect("what was saved can be read")
}

pub(super) fn all() -> Vec<BadFile> {
    let good = good();
    let bad = |name, bytes, error| BadFile { name, bytes, error };
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    // The same, with the header's checksum made right.
    let sealed = |at: usize, bytes: &[u8]| {
        let mut file = with(at, bytes);
        let sum = xxh3_128(&file[..HEADER - 16]).to_le_bytes();
        file[HEADER - 16..HEADER].copy_from_slice(&sum);
        file
    };
    vec![
        bad("empty", vec![], "the index is damaged: its length is wrong"),
        bad("cut-in-its-header", good[..HEADER - 1].to_vec(), "the index is damaged: its length is wrong"),
        bad(
            "cut-in-its-table",
            good[..good.len() - 64].to_vec(),
            "the index is damaged: its number of buckets or the length of the file is wrong",
        ),
        bad(
            "longer",
            [&good[..], &[0; 64]].concat(),
            "the index is damaged: its number of buckets or the length of the file is wrong",
        ),
        bad("magic", with(0, b"mig"), "the index is damaged: its magic number is wrong"),
        bad(
            "version-flipped",
            with(8, &[3]),
            "index version 3 is not supported (this build reads version 1)",
        ),
        bad("version-2", sealed(8, &[2]), "index version 2 is not supported (this build reads version 1)"),
        bad("header-length", sealed(12, &[1]), "the index is damaged: its length of the header is wrong"),
        bad(
            "header-flipped",
            with(16, &[good[16] ^ 1]),
            "the index is damaged: its checksum of the header is wrong",
        ),
        bad(
            "table-flipped",
            with(HEADER + 3, &[good[HEADER + 3] ^ 1]),
            "the index is damaged: its checksum of the table is wrong",
        ),
        bad("too-many-blocks", sealed(32, &[0xff; 8]), "the index is damaged: its number of blocks is wrong"),
        bad(
            "more-entries-than-blocks",
            sealed(80, &[200]),
            "the index is damaged: its number of entries is wrong",
        ),
        bad(
            "no-buckets",
            sealed(88, &[0; 8]),
            "the index is damaged: its number of buckets or the length of the file is wrong",
        ),
        bad(
            "too-many-buckets",
            sealed(88, &[0xff; 8]),
            "the index is damaged: its number of buckets or the length of the file is wrong",
        ),
        bad(
            "reserved-byte",
            sealed(200, &[1]),
            "the index is damaged: its reserved part of the header is wrong",
        ),
    ]
}
