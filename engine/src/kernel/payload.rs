//! Decompressing kernel payloads, in the formats that Linux is built with.

use std::io::{self, Cursor, Read};

use lz4_flex::block::decompress_into;

/// Memory that a decompressor may ask for: kernels are compressed with windows of up to 128 MiB.
const MAX_MEMORY: u64 = 160 << 20;
/// Largest window of zstd, as a power of two.
const MAX_WINDOW: u32 = 27;
/// lz4's legacy format: its magic number, and bytes of a block once decompressed, at most.
const LZ4_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const LZ4_BLOCK: usize = 8 << 20;

/// How a payload is compressed. The numbers are the format's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Codec {
    /// Not at all.
    None = 0,
    /// gzip (RFC 1952).
    Gzip = 1,
    /// xz, with its filters.
    Xz = 2,
    /// zstd (RFC 8878).
    Zstd = 3,
    /// lz4, in blocks with their length before them.
    Lz4 = 4,
}

impl Codec {
    pub(crate) fn from_id(id: u8) -> Option<Self> {
        [Codec::None, Codec::Gzip, Codec::Xz, Codec::Zstd, Codec::Lz4]
            .into_iter()
            .find(|codec| *codec as u8 == id)
    }

    /// The codec of a payload, by how it starts; `None` for one that is none of these.
    pub(super) fn detect(payload: &[u8]) -> Option<Self> {
        let starts = |magic: &[u8]| payload.starts_with(magic);
        Some(match () {
            () if starts(b"\x7fELF") => Codec::None,
            () if starts(&[0x1f, 0x8b]) => Codec::Gzip,
            () if starts(b"\xfd7zXZ\0") => Codec::Xz,
            () if starts(&[0x28, 0xb5, 0x2f, 0xfd]) => Codec::Zstd,
            () if starts(&LZ4_MAGIC) => Codec::Lz4,
            () => return None,
        })
    }

    /// A reader of what the payload decompresses to. What lies behind the compressed bytes is not looked at.
    ///
    /// # Errors
    ///
    /// What keeps the decompressor from starting; what is wrong with the payload shows while reading.
    pub(super) fn reader(self, payload: &[u8]) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Codec::None => Box::new(payload),
            Codec::Gzip => Box::new(flate2::read::GzDecoder::new(payload)),
            Codec::Xz => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(MAX_MEMORY, 0).map_err(io::Error::other)?;
                Box::new(liblzma::read::XzDecoder::new_stream(payload, stream))
            }
            Codec::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(payload)?.single_frame();
                decoder.window_log_max(MAX_WINDOW)?;
                Box::new(decoder)
            }
            Codec::Lz4 => Box::new(Lz4::new(payload)?),
        })
    }
}

/// Blocks of lz4, one after the other.
struct Lz4<'p> {
    rest: &'p [u8],
    block: Cursor<Vec<u8>>,
}

impl<'p> Lz4<'p> {
    fn new(payload: &'p [u8]) -> io::Result<Self> {
        let rest = payload.strip_prefix(&LZ4_MAGIC).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Lz4 { rest, block: Cursor::default() })
    }

    /// Decompresses the next block; says whether there is one.
    fn advance(&mut self) -> io::Result<bool> {
        let Some((len, rest)) = self.rest.split_first_chunk() else { return Ok(false) };
        let len = u32::from_le_bytes(*len) as usize;
        // The kernel's build appends the decompressed length, which is no block that would fit.
        let Some((coded, rest)) = rest.split_at_checked(len) else { return Ok(false) };
        let mut block = std::mem::take(&mut self.block).into_inner();
        block.resize(LZ4_BLOCK, 0);
        let len = decompress_into(coded, &mut block);
        block.truncate(len.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?);
        (self.block, self.rest) = (Cursor::new(block), rest);
        Ok(true)
    }
}

impl Read for Lz4<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let len = self.block.read(out)?;
            if len > 0 || out.is_empty() || !self.advance()? {
                return Ok(len);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn bytes() -> Vec<u8> {
        let bytes = (0..3_000_000u32).map(|i| ((i / 7) ^ (i >> 9)) as u8);
        [b"\x7fELF".as_slice(), &bytes.collect::<Vec<u8>>()].concat()
    }

    /// Payloads of `bytes` in every format; each with the length behind it that the kernel's build appends.
    fn payloads(bytes: &[u8]) -> Vec<(Codec, Vec<u8>)> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes).unwrap();
        let mut filters = liblzma::stream::Filters::new();
        filters.x86().lzma2(&liblzma::stream::LzmaOptions::new_preset(1).unwrap());
        let xz =
            liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32).unwrap();
        let mut xz = liblzma::write::XzEncoder::new_stream(Vec::new(), xz);
        xz.write_all(bytes).unwrap();
        let mut lz4 = LZ4_MAGIC.to_vec();
        for block in bytes.chunks(LZ4_BLOCK / 4) {
            let coded = lz4_flex::block::compress(block);
            lz4.extend_from_slice(&(coded.len() as u32).to_le_bytes());
            lz4.extend_from_slice(&coded);
        }
        let mut all = vec![
            (Codec::None, bytes.to_vec()),
            (Codec::Gzip, gzip.finish().unwrap()),
            (Codec::Xz, xz.finish().unwrap()),
            (Codec::Zstd, zstd::bulk::compress(bytes, 1).unwrap()),
            (Codec::Lz4, lz4),
        ];
        for (codec, payload) in &mut all {
            if *codec != Codec::None {
                payload.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            }
        }
        all
    }

    #[test]
    fn every_format_comes_back() {
        let bytes = bytes();
        for (codec, payload) in payloads(&bytes) {
            assert_eq!(Codec::detect(&payload), Some(codec));
            assert_eq!(Codec::from_id(codec as u8), Some(codec));
            let mut back = vec![0; bytes.len()];
            codec.reader(&payload).unwrap().read_exact(&mut back).unwrap();
            assert!(back == bytes, "{codec:?}");
        }
        assert_eq!((Codec::detect(b"MZ"), Codec::from_id(5)), (None, None));
    }

    #[test]
    fn damage_is_an_error_or_other_bytes() {
        let bytes = &bytes()[..20_000];
        for (codec, payload) in payloads(bytes) {
            for at in (0..payload.len()).step_by(payload.len() / 50) {
                let mut damaged = payload.clone();
                damaged[at] ^= 0x41;
                let mut back = Vec::new();
                let read =
                    codec.reader(&damaged).and_then(|reader| reader.take(1 << 20).read_to_end(&mut back));
                assert!(read.is_err() || back.len() <= 1 << 20);
                // What comes last is only needed to end properly, and nobody reads up to there.
                let mut back = vec![0; bytes.len()];
                let cut = codec.reader(&payload[..at]).and_then(|mut reader| reader.read_exact(&mut back));
                assert!(cut.is_err() || back == bytes, "{codec:?} cut at {at}");
            }
        }
    }
}
