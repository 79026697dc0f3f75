//! Firecracker's memory file on x86-64: RAM without its holes, and no header at all.
//!
//! Firecracker leaves addresses for devices between 3 GiB and 4 GiB and between 256 and 512 GiB, and
//! writes the regions of memory one after the other. A guest of up to 3 GiB is the same as raw.
//! Releases before 1.13 began the first hole at 3.25 GiB; for such a guest of more than 3 GiB the
//! addresses given here are wrong above that, which costs understanding, not correctness: the file
//! comes back the same, but don't ask for it as raw.

use super::arrange::Arranger;
use super::{ImageError, ImageFormat, ImageLayout};

const GIB: u64 = 1 << 30;

/// Where memory lies in the guest, lowest first; the last one has no end.
const REGIONS: [(u64, u64); 3] = [(0, 3 * GIB), (4 * GIB, 252 * GIB), (512 * GIB, u64::MAX)];

pub(super) fn parse(file_len: u64) -> Result<ImageLayout, ImageError> {
    let mut arranger = Arranger::new(ImageFormat::Raw);
    let mut at = 0u64;
    for (gpa, size) in REGIONS {
        let end = file_len.min(at.saturating_add(size));
        arranger.add(at..end, Some(gpa))?;
        at = end;
    }
    arranger.finish(file_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_skips_the_device_holes() {
        let regions = |len| -> Vec<_> {
            parse(len).unwrap().segments().iter().map(|s| (s.file_offset, s.pages * 4096, s.gpa)).collect()
        };
        assert_eq!(regions(GIB + 7), [(0, GIB, Some(0))]);
        assert_eq!(regions(3 * GIB), [(0, 3 * GIB, Some(0))]);
        let (low, high) = ((0, 3 * GIB, Some(0)), 3 * GIB);
        assert_eq!(regions(5 * GIB), [low, (high, 2 * GIB, Some(4 * GIB))]);
        let middle = (high, 252 * GIB, Some(4 * GIB));
        assert_eq!(regions(256 * GIB), [low, middle, (255 * GIB, GIB, Some(512 * GIB))]);
        assert!(parse(4095).is_err());
    }
}
