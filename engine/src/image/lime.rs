//! LiME: ranges of physical memory, each behind a header of 32 bytes, to the end of the file.
//!
//! | bytes | field, little-endian |
//! |---|---|
//! | 4 | magic 0x4c694d45 (`EMiL`) |
//! | 4 | version 1 |
//! | 8 | first address |
//! | 8 | last address (not one past it) |
//! | 8 | reserved |

use super::arrange::Arranger;
use super::input::Input;
use super::{ImageError, ImageLayout, MAX_SEGMENTS};

pub(super) const MAGIC: &[u8] = b"EMiL";

const HEADER: u64 = 32;

pub(super) fn parse(input: Input<'_>) -> Result<ImageLayout, ImageError> {
    if !input.bytes.starts_with(MAGIC) {
        let why = "it does not begin with the magic EMiL";
        return Err(ImageError::WrongFormat { format: input.format, why });
    }
    let mut arranger = Arranger::new(input.format);
    let mut at = 0;
    let mut ranges = 0;
    while at < input.len() {
        // Each range may be too small for a page, so the segments don't bound their number.
        if ranges == MAX_SEGMENTS {
            return Err(ImageError::TooManySegments { format: input.format });
        }
        ranges += 1;
        input.slice("header of a range", at, HEADER)?;
        let magic = input.u32_le("magic of a range", at)?;
        if magic.to_le_bytes() != MAGIC {
            return Err(input.bad("magic of a range", at, magic.into(), "it should be 0x4c694d45"));
        }
        let version = input.u32_le("version of a range", at + 4)?;
        if version != 1 {
            return Err(input.bad("version of a range", at + 4, version.into(), "only version 1 is known"));
        }
        let first = input.u64_le("first address of a range", at + 8)?;
        let last = input.u64_le("last address of a range", at + 16)?;
        let Some(len) = last.checked_sub(first).and_then(|len| len.checked_add(1)) else {
            return Err(input.bad("last address of a range", at + 16, last, "it is below the first"));
        };
        let start = at + HEADER;
        input.slice("memory of a range", start, len)?;
        arranger.add(start..start + len, Some(first))?;
        at = start + len;
    }
    arranger.finish(input.len())
}
