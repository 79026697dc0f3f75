//! Reading headers out of a mapped file: every access is checked and errors name the place.

use std::ops::Range;

use super::{ImageError, ImageFormat};

/// The bytes of an image file while its headers are parsed.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) format: ImageFormat,
    pub(super) bytes: &'a [u8],
    /// The parts that hold data, ascending and apart from each other; the rest is holes.
    pub(super) extents: &'a [Range<u64>],
}

impl<'a> Input<'a> {
    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The `len` bytes from `offset` on, which hold `what`.
    pub(super) fn slice(&self, what: &'static str, offset: u64, len: u64) -> Result<&'a [u8], ImageError> {
        let range = offset.checked_add(len).and_then(|end| {
            // A range that doesn't fit `usize` is past the end of the slice as well.
            Some(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
        });
        range.and_then(|range| self.bytes.get(range)).ok_or(ImageError::Truncated {
            format: self.format,
            what,
            offset,
            need: len,
            file_len: self.len(),
        })
    }

    fn array<const N: usize>(&self, what: &'static str, offset: u64) -> Result<[u8; N], ImageError> {
        let mut array = [0; N];
        array.copy_from_slice(self.slice(what, offset, N as u64)?);
        Ok(array)
    }

    pub(super) fn u8(&self, what: &'static str, offset: u64) -> Result<u8, ImageError> {
        self.array(what, offset).map(u8::from_le_bytes)
    }

    pub(super) fn u16_le(&self, what: &'static str, offset: u64) -> Result<u16, ImageError> {
        self.array(what, offset).map(u16::from_le_bytes)
    }

    pub(super) fn u32_le(&self, what: &'static str, offset: u64) -> Result<u32, ImageError> {
        self.array(what, offset).map(u32::from_le_bytes)
    }

    pub(super) fn u64_le(&self, what: &'static str, offset: u64) -> Result<u64, ImageError> {
        self.array(what, offset).map(u64::from_le_bytes)
    }

    pub(super) fn u16_be(&self, what: &'static str, offset: u64) -> Result<u16, ImageError> {
        self.array(what, offset).map(u16::from_be_bytes)
    }

    pub(super) fn u32_be(&self, what: &'static str, offset: u64) -> Result<u32, ImageError> {
        self.array(what, offset).map(u32::from_be_bytes)
    }

    pub(super) fn u64_be(&self, what: &'static str, offset: u64) -> Result<u64, ImageError> {
        self.array(what, offset).map(u64::from_be_bytes)
    }

    /// The error for a field that has a value it can't have.
    pub(super) fn bad(&self, what: &'static str, offset: u64, value: u64, why: &'static str) -> ImageError {
        ImageError::Field { format: self.format, what, offset, value, why }
    }
}
