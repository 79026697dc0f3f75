//! What libraries make of an image, and how it is undone.

use std::io::{self, BufReader, Read, Write};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use liblzma::read::XzDecoder;
use liblzma::stream::MtStreamBuilder;
use liblzma::write::XzEncoder;
use mig_engine::PAGE_SIZE;
use rayon::prelude::*;

/// Bytes of a frame of LZ4, so that several threads have one each.
const LZ4_FRAME: usize = 4 << 20;
/// Bytes that are written at a time when nothing is done to them.
const RAW_PIECE: usize = 1 << 20;

/// A way to compress a stream of bytes.
pub(crate) trait Coder {
    /// What exactly is run, in a line.
    fn about(&self) -> String;

    /// Compresses all of `input` into `out`.
    ///
    /// # Errors
    ///
    /// The library's, and those of `out`.
    fn compress(&self, input: &[u8], out: &mut dyn Write) -> Result<()>;

    /// What gives back the input.
    ///
    /// # Errors
    ///
    /// The library's.
    fn decode<'r>(&self, packed: Box<dyn Read + 'r>) -> Result<Box<dyn Read + 'r>>;

    /// Whether one run has to do.
    fn is_slow(&self) -> bool {
        false
    }
}

/// Every byte as it is.
pub(crate) struct Raw;

impl Coder for Raw {
    fn about(&self) -> String {
        "every byte of the image as it is".into()
    }

    fn compress(&self, input: &[u8], out: &mut dyn Write) -> Result<()> {
        Ok(input.chunks(RAW_PIECE).try_for_each(|piece| out.write_all(piece))?)
    }

    fn decode<'r>(&self, packed: Box<dyn Read + 'r>) -> Result<Box<dyn Read + 'r>> {
        Ok(packed)
    }
}

/// zlib-rs at level 6: what gzip's format costs with a modern coder. Its levels are not gzip's: level 6 of zlib-rs writes other,
/// usually more bytes than `gzip -6` does, several times faster. Sizes are compared with the program's, never with these.
pub(crate) struct Zlib;

impl Coder for Zlib {
    fn about(&self) -> String {
        "zlib-rs level 6 in gzip's format, in this process, one thread, one run; not the same bytes as gzip -6".into()
    }

    fn compress(&self, input: &[u8], out: &mut dyn Write) -> Result<()> {
        let mut encoder = GzEncoder::new(out, Compression::new(6));
        encoder.write_all(input)?;
        encoder.finish()?;
        Ok(())
    }

    fn decode<'r>(&self, packed: Box<dyn Read + 'r>) -> Result<Box<dyn Read + 'r>> {
        Ok(Box::new(MultiGzDecoder::new(packed)))
    }

    fn is_slow(&self) -> bool {
        true
    }
}

/// libzstd with several workers.
pub(crate) struct Zstd {
    pub(crate) level: i32,
    pub(crate) threads: usize,
    /// `--long`: matches from up to 128 MiB before.
    pub(crate) long: bool,
}

/// Logarithm of the window that `zstd --long` has.
const LONG: u32 = 27;

impl Zstd {
    fn encoder<W: Write>(&self, out: W, len: Option<u64>) -> io::Result<zstd::Encoder<'static, W>> {
        let mut encoder = zstd::Encoder::new(out, self.level)?;
        encoder.multithread(self.threads as u32)?;
        encoder.set_pledged_src_size(len)?;
        if self.long {
            encoder.long_distance_matching(true)?;
            encoder.window_log(LONG)?;
        }
        Ok(encoder)
    }
}

impl Coder for Zstd {
    fn about(&self) -> String {
        let long = if self.long { ", long matches in 128 MiB" } else { "" };
        let version = zstd::zstd_safe::version_string();
        format!("libzstd {version} in this process, {} workers{long}", self.threads)
    }

    fn compress(&self, input: &[u8], out: &mut dyn Write) -> Result<()> {
        let mut encoder = self.encoder(out, Some(input.len() as u64))?;
        encoder.write_all(input)?;
        encoder.finish()?;
        Ok(())
    }

    fn decode<'r>(&self, packed: Box<dyn Read + 'r>) -> Result<Box<dyn Read + 'r>> {
        let mut decoder = zstd::Decoder::new(packed)?;
        decoder.window_log_max(LONG)?;
        Ok(Box::new(decoder))
    }

    fn is_slow(&self) -> bool {
        self.level > 9
    }
}

/// LZ4, a block of 4 MiB for each thread.
pub(crate) struct Lz4 {
    pub(crate) threads: usize,
}

impl Coder for Lz4 {
    fn about(&self) -> String {
        format!("lz4_flex, blocks of 4 MiB, {} at once", self.threads)
    }

    fn compress(&self, input: &[u8], out: &mut dyn Write) -> Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build()?;
        // No more at once than a socket would hold back.
        for batch in input.chunks(LZ4_FRAME * self.threads * 2) {
            let frames: Vec<Vec<u8>> = pool.install(|| {
                batch.par_chunks(LZ4_FRAME).map(lz4_flex::block::compress_prepend_size).collect()
            });
            for frame in frames {
                out.write_all(&u32::try_from(frame.len())?.to_le_bytes())?;
                out.write_all(&frame)?;
            }
        }
        Ok(())
    }

    fn decode<'r>(&self, packed: Box<dyn Read + 'r>) -> Result<Box<dyn Read + 'r>> {
        Ok(Box::new(Pieces { packed, next: next_lz4, piece: Vec::new(), at: 0 }))
    }
}

fn next_lz4(packed: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    match packed.read_exact(&mut len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Vec::new()),
        read => read?,
    }
    let mut frame = vec![0; u32::from_le_bytes(len) as usize];
    packed.read_exact(&mut frame)?;
    lz4_flex::block::decompress_size_prepended(&frame).map_err(io::Error::other)
}

/// liblzma, as `xz -T` uses it.
pub(crate) struct Xz {
    pub(crate) level: u32,
    pub(crate) threads: usize,
}

impl Coder for Xz {
    fn about(&self) -> String {
        format!("liblzma level {} in this process, {} threads, one run", self.level, self.threads)
    }

    fn compress(&self, input: &[u8], out: &mut dyn Write) -> Result<()> {
        let stream = MtStreamBuilder::new().preset(self.level).threads(self.threads as u32).encoder();
        let mut encoder = XzEncoder::new_stream(out, stream.context("liblzma does not start")?);
        encoder.write_all(input)?;
        encoder.finish()?;
        Ok(())
    }

    fn decode<'r>(&self, packed: Box<dyn Read + 'r>) -> Result<Box<dyn Read + 'r>> {
        Ok(Box::new(XzDecoder::new_multi_decoder(packed)))
    }

    fn is_slow(&self) -> bool {
        true
    }
}

/// Zero pages are only named, and zstd codes the rest: what users of multifd with zstd and of Cloud Hypervisor have.
///
/// A bit a page says which are zero: less than what those two spend.
pub(crate) struct ZeroPages(pub(crate) Zstd);

/// Pages of a piece.
const PIECE_PAGES: usize = 1 << 14;

impl Coder for ZeroPages {
    fn about(&self) -> String {
        format!("zero pages named with a bit each, the others with {}", self.0.about())
    }

    fn compress(&self, input: &[u8], out: &mut dyn Write) -> Result<()> {
        let mut encoder = self.0.encoder(out, None)?;
        for piece in input.chunks(PIECE_PAGES * PAGE_SIZE) {
            let mut zero = vec![0u8; piece.len().div_ceil(PAGE_SIZE).div_ceil(8)];
            for (number, page) in piece.chunks(PAGE_SIZE).enumerate() {
                zero[number / 8] |= u8::from(is_zero(page)) << (number % 8);
            }
            encoder.write_all(&u32::try_from(piece.len())?.to_le_bytes())?;
            encoder.write_all(&zero)?;
            for (number, page) in piece.chunks(PAGE_SIZE).enumerate() {
                if zero[number / 8] >> (number % 8) & 1 == 0 {
                    encoder.write_all(page)?;
                }
            }
        }
        encoder.finish()?;
        Ok(())
    }

    fn decode<'r>(&self, packed: Box<dyn Read + 'r>) -> Result<Box<dyn Read + 'r>> {
        let packed = BufReader::new(self.0.decode(packed)?);
        Ok(Box::new(Pieces { packed: Box::new(packed), next: next_pages, piece: Vec::new(), at: 0 }))
    }
}

fn is_zero(page: &[u8]) -> bool {
    let (words, rest) = page.as_chunks::<64>();
    words.iter().all(|words| words == &[0; 64]) && rest.iter().all(|&byte| byte == 0)
}

fn next_pages(packed: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    match packed.read_exact(&mut len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Vec::new()),
        read => read?,
    }
    let mut piece = vec![0; u32::from_le_bytes(len) as usize];
    let mut zero = vec![0; piece.len().div_ceil(PAGE_SIZE).div_ceil(8)];
    packed.read_exact(&mut zero)?;
    for (number, page) in piece.chunks_mut(PAGE_SIZE).enumerate() {
        if zero[number / 8] >> (number % 8) & 1 == 0 {
            packed.read_exact(page)?;
        }
    }
    Ok(piece)
}

/// Reads what comes in pieces; an empty one is the end.
struct Pieces<'r> {
    packed: Box<dyn Read + 'r>,
    next: fn(&mut dyn Read) -> io::Result<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            self.piece = (self.next)(&mut self.packed)?;
            self.at = 0;
        }
        let len = out.len().min(self.piece.len() - self.at);
        out[..len].copy_from_slice(&self.piece[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}
