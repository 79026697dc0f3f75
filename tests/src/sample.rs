//! The real sample in `data/`: pages cut from a desktop VM (Debian, XFCE, Firefox, LibreOffice in use).
//!
//! `data/cut.py` tells how it was cut. Page contents are as they were; what lies between them is gone.

use std::io::Read;
use std::sync::OnceLock;

use ruzstd::decoding::StreamingDecoder;

use crate::reference::PAGE;

/// The guest's memory: 2048 pages.
pub fn memory() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| unpacked(include_bytes!("../data/sample.mem.zst")))
}

/// The same pages ten minutes earlier.
pub fn older() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| unpacked(include_bytes!("../data/sample.old.mem.zst")))
}

/// The blocks of the guest's disk that those pages equal, and some beside them.
pub fn disk() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| unpacked(include_bytes!("../data/sample.disk.zst")))
}

/// One page of some pages.
///
/// # Panics
///
/// If there are not that many.
pub fn page(pages: &[u8], number: usize) -> &[u8] {
    &pages[number * PAGE..(number + 1) * PAGE]
}

fn unpacked(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut decoder = StreamingDecoder::new(packed).expect("a file of this repository is a zstd frame");
    decoder.read_to_end(&mut bytes).expect("a file of this repository is whole");
    assert!(bytes.len().is_multiple_of(PAGE) && !bytes.is_empty());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_what_tests_count_on() {
        assert_eq!((memory().len(), older().len()), (2048 * PAGE, 2048 * PAGE));
        assert_ne!(memory(), older());
        assert_eq!(page(memory(), 2047).len(), PAGE);
    }
}
