//! Section 1: integers, varints and hashes; and the cursor that the meta parts are read with.
//!
//! Each read names its field, so that an error can.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// XXH3-64, seed 0.
pub(super) fn hash64(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// XXH3-128, seed 0, as it is stored: the low half first, each half little-endian.
pub(super) fn hash128(bytes: &[u8]) -> [u8; 16] {
    let value = xxh3_128(bytes);
    let low = value as u64;
    let high = (value >> 64) as u64;
    let mut stored = [0; 16];
    stored[..8].copy_from_slice(&low.to_le_bytes());
    stored[8..].copy_from_slice(&high.to_le_bytes());
    stored
}

/// Bytes that are read from front to back.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left() == 0
    }

    pub(super) fn take(&mut self, len: u64, field: &str) -> Result<&'a [u8], String> {
        if len > self.left() {
            return Err(format!("{field}: wants {len} bytes, {} are left", self.left()));
        }
        let taken = &self.bytes[self.at..self.at + len as usize];
        self.at += len as usize;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], String> {
        let taken = self.take(N as u64, field)?;
        let mut array = [0; N];
        array.copy_from_slice(taken);
        Ok(array)
    }

    pub(super) fn u8(&mut self, field: &str) -> Result<u8, String> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(super) fn u16(&mut self, field: &str) -> Result<u16, String> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u32(&mut self, field: &str) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &str) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// Reading: an encoding longer than it need be (`80 00`) is allowed, for only its length and value are limited.
    pub(super) fn varint(&mut self, field: &str) -> Result<u64, String> {
        let mut value = 0;
        for place in 0..10 {
            let byte = self.u8(field)?;
            let bits = u64::from(byte & 0x7f);
            if place == 9 && bits > 1 {
                return Err(format!("{field}: the varint does not fit 64 bits"));
            }
            value |= bits << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(format!("{field}: the varint is longer than ten bytes"))
    }

    /// A varint that must not be above `most`.
    pub(super) fn varint_to(&mut self, most: u64, field: &str) -> Result<u64, String> {
        let value = self.varint(field)?;
        if value > most {
            return Err(format!("{field}: {value} is above {most}"));
        }
        Ok(value)
    }

    pub(super) fn zigzag(&mut self, field: &str) -> Result<i64, String> {
        let stored = self.varint(field)?;
        let half = (stored >> 1) as i64;
        Ok(if stored & 1 == 0 { half } else { -half - 1 })
    }

    pub(super) fn finish(&self, what: &str) -> Result<(), String> {
        if self.left() != 0 {
            return Err(format!("{what}: {} bytes too many", self.left()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(bytes: &[u8]) -> Result<u64, String> {
        let mut cursor = Cursor::new(bytes);
        let value = cursor.varint("v")?;
        cursor.finish("v")?;
        Ok(value)
    }

    #[test]
    fn varints() {
        assert_eq!(varint(&[0]), Ok(0));
        assert_eq!(varint(&[0x7f]), Ok(127));
        assert_eq!(varint(&[0x80, 1]), Ok(128));
        assert_eq!(varint(&[0xe5, 0x8e, 0x26]), Ok(624_485));
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), Ok(u64::MAX));
        assert_eq!(varint(&[0x80, 0x80, 0]), Ok(0), "longer than need be");
        for bad in [
            &[][..],
            &[0x80],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0],
            &[0, 0],
        ] {
            assert!(varint(bad).is_err(), "{bad:x?}");
        }
    }

    #[test]
    fn zigzags() {
        let max = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        let mut below = max;
        below[0] = 0xfe;
        for (bytes, value) in
            [(&[0][..], 0), (&[1], -1), (&[2], 1), (&[3], -2), (&max, i64::MIN), (&below, i64::MAX)]
        {
            assert_eq!(Cursor::new(bytes).zigzag("z"), Ok(value));
        }
    }

    /// The hashes of nothing, as the xxHash library's own tests have them.
    #[test]
    fn hashes() {
        assert_eq!(hash64(b""), 0x2d06_8005_38d3_94c2);
        let mut stored = 0x6001_c324_468d_497f_u64.to_le_bytes().to_vec();
        stored.extend(0x99aa_06d3_0147_98d8_u64.to_le_bytes());
        assert_eq!(hash128(b"")[..], stored);
    }
}
