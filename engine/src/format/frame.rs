//! Frames: the envelope of everything in a stream.
//!
//! A frame is a fixed header, a *meta* part that the header's checksum covers, and a *data* part whose pieces
//! are each covered by a checksum in meta or by a block's digest. So damage is found before anything is
//! decoded, and raw pages are not read once more just to be summed.

use std::io::{self, IoSlice, Read, Write};

use xxhash_rust::xxh3::Xxh3;

use super::data::Data;
use super::limits;
use super::wire::Input;
use crate::error::DecodeError;

/// Bytes of a frame's header.
pub(crate) const HEADER_LEN: usize = 32;
const MAGIC: [u8; 4] = *b"MiGf";

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameType {
    /// What the stream is: always the first frame.
    Header = 1,
    /// Bytes of the image's file that belong to no page.
    Opaque = 2,
    /// Pages.
    Block = 3,
    /// Where the blocks lie.
    Index = 4,
    /// The sum of it: always the last frame.
    End = 5,
    /// Bytes that are not memory, in order with the blocks: what to write to a VMM, or a VM's device state.
    Piece = 6,
    /// One more reference, for the blocks behind it: where a session finds out late what its guest's kernel is.
    Reference = 7,
}

/// Takes the frames of a stream, in order: a file, or a transport with connections of its own.
///
/// Any [`Write`] is one.
pub trait FrameWrite: Send {
    /// Takes one whole frame, whose bytes are all of `parts`, one after the other.
    ///
    /// # Errors
    ///
    /// Whatever keeps the frame from being written; the stream ends with it.
    fn write_frame(&mut self, kind: FrameType, parts: &mut [IoSlice<'_>]) -> io::Result<()>;

    /// Says that this was the last frame.
    ///
    /// # Errors
    ///
    /// Whatever keeps the frames so far from being written.
    fn finish(&mut self) -> io::Result<()>;
}

impl<W: Write + Send> FrameWrite for W {
    fn write_frame(&mut self, _: FrameType, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match self.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut parts, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
}

/// Gives the frames of a stream, in order: a file, or a transport with connections of its own.
///
/// [`FrameReader`] makes one of any [`Read`].
pub trait FrameRead: Send {
    /// The next frame, or `None` where the stream stops between two frames.
    ///
    /// # Errors
    ///
    /// A frame that is damaged, too large, or not the next one; a source that can't be read.
    fn read_frame(&mut self) -> Result<Option<Frame>, DecodeError>;
}

/// A frame's header, checked but for the checksum, which needs the meta part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameType,
    pub(crate) meta_len: u32,
    pub(crate) data_len: u32,
    pub(crate) sequence: u64,
    checksum: u64,
    head: [u8; 24],
}

/// A frame's meta part with its header in front; `data_len` bytes of data are to follow.
pub(crate) fn encode(kind: FrameType, sequence: u64, meta: &[u8], data_len: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + meta.len());
    out.extend_from_slice(&MAGIC);
    out.push(super::VERSION);
    out.push(kind as u8);
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&(meta.len() as u32).to_le_bytes());
    out.extend_from_slice(&data_len.to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    let checksum = checksum(&out, meta);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(meta);
    out
}

fn checksum(head: &[u8], meta: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(head);
    hash.update(meta);
    hash.digest()
}

impl FrameHeader {
    /// Reads a header from exactly [`HEADER_LEN`] bytes.
    pub(crate) fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, DecodeError> {
        let mut input = Input::new(bytes);
        if input.array("frame magic")? != MAGIC {
            return Err(DecodeError::Invalid { field: "frame magic", why: "this is not a MiG stream" });
        }
        let version = input.u8("frame version")?;
        if version != super::VERSION {
            return Err(DecodeError::Version { found: version, supported: super::VERSION });
        }
        let kind = match input.u8("frame type")? {
            1 => FrameType::Header,
            2 => FrameType::Opaque,
            3 => FrameType::Block,
            4 => FrameType::Index,
            5 => FrameType::End,
            6 => FrameType::Piece,
            7 => FrameType::Reference,
            _ => return Err(DecodeError::Invalid { field: "frame type", why: "unknown" }),
        };
        if input.u16("frame header")? != 0 {
            return Err(DecodeError::Invalid { field: "frame header", why: "reserved bytes are not zero" });
        }
        let meta_len = input.u32("frame meta length")?;
        let data_len = input.u32("frame data length")?;
        for (field, value, max) in
            [("frame meta length", meta_len, limits::META), ("frame data length", data_len, limits::DATA)]
        {
            if u64::from(value) > max {
                return Err(DecodeError::TooLarge { field, value: value.into(), max });
            }
        }
        if data_len > 0 && !matches!(kind, FrameType::Opaque | FrameType::Block | FrameType::Piece) {
            return Err(DecodeError::Invalid { field: "frame data length", why: "data where none belongs" });
        }
        let mut head = [0; 24];
        head.copy_from_slice(&bytes[..24]);
        Ok(FrameHeader {
            kind,
            meta_len,
            data_len,
            sequence: input.u64("frame sequence")?,
            checksum: input.u64("frame checksum")?,
            head,
        })
    }

    /// Checks the checksum and the place in the stream.
    pub(crate) fn verify(&self, meta: &[u8], sequence: u64) -> Result<(), DecodeError> {
        if checksum(&self.head, meta) != self.checksum {
            return Err(DecodeError::Checksum { field: "frame" });
        }
        if self.sequence != sequence {
            return Err(DecodeError::Invalid {
                field: "frame sequence",
                why: "a frame is missing or repeated",
            });
        }
        Ok(())
    }

    /// Refuses more data than is to be taken.
    fn check_data(&self, max: u64) -> Result<(), DecodeError> {
        let value = u64::from(self.data_len);
        if value > max {
            return Err(DecodeError::TooLarge { field: "frame data length", value, max });
        }
        Ok(())
    }

    /// Bytes of the whole frame.
    pub(crate) fn frame_len(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.meta_len) + u64::from(self.data_len)
    }
}

/// A frame in memory. Its head and meta part are verified, its data is not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub(crate) kind: FrameType,
    pub(crate) meta: Vec<u8>,
    pub(crate) data: Data,
}

impl Frame {
    /// Reads the frame that `bytes` are, the `sequence`th of its stream.
    ///
    /// # Errors
    ///
    /// Bytes that are no frame, not just one, damaged, or another frame than the `sequence`th.
    pub fn parse(bytes: &[u8], sequence: u64) -> Result<Self, DecodeError> {
        let mut reader = FrameReader { input: bytes, sequence, max_data: limits::DATA };
        let frame = reader.next()?;
        let frame = frame.ok_or(DecodeError::Truncated { field: "frame", needed: 1, left: 0 })?;
        if !reader.input.is_empty() {
            return Err(DecodeError::Invalid { field: "frame", why: "bytes left over at the end" });
        }
        Ok(frame)
    }

    /// The frame that these parts are together, the `sequence`th of its stream. Its data stays in them.
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse), and more than `max_data` bytes of data.
    pub fn of_parts(parts: Vec<Vec<u8>>, sequence: u64, max_data: u64) -> Result<Self, DecodeError> {
        let whole = Data::of_parts(parts);
        let len = whole.len();
        let head = whole.get(0..len.min(HEADER_LEN));
        let head = head.first_chunk().ok_or_else(|| cut_header(&head))?;
        let header = FrameHeader::parse(head)?;
        header.check_data(max_data)?;
        let (data_at, needed) = (HEADER_LEN + header.meta_len as usize, header.frame_len());
        if (len as u64) < needed {
            return Err(DecodeError::Truncated { field: "frame", needed, left: len as u64 });
        }
        if len as u64 > needed {
            return Err(DecodeError::Invalid { field: "frame", why: "bytes left over at the end" });
        }
        let meta = whole.get(HEADER_LEN..data_at).into_owned();
        header.verify(&meta, sequence)?;
        Ok(Frame { kind: header.kind, meta, data: whole.split_off(data_at) })
    }

    /// What it holds.
    pub fn kind(&self) -> FrameType {
        self.kind
    }

    /// Bytes of the whole frame, as it is sent.
    pub fn frame_len(&self) -> u64 {
        (HEADER_LEN + self.meta.len() + self.data.len()) as u64
    }
}

/// Takes frames off a byte stream, one after the other.
#[derive(Debug)]
pub struct FrameReader<R> {
    input: R,
    sequence: u64,
    max_data: u64,
}

impl<R: Read> FrameReader<R> {
    /// `max_data` bounds what one frame may make us allocate; the format's own limit holds besides.
    pub fn new(input: R, max_data: u64) -> Self {
        FrameReader { input, sequence: 0, max_data }
    }

    fn next(&mut self) -> Result<Option<Frame>, DecodeError> {
        let mut head = [0; HEADER_LEN];
        let got = read_up_to(&mut self.input, &mut head)?;
        if got == 0 {
            return Ok(None);
        }
        if got < HEADER_LEN {
            return Err(cut_header(&head[..got]));
        }
        let header = FrameHeader::parse(&head)?;
        header.check_data(self.max_data)?;
        let meta = self.part(header.meta_len, "frame meta")?;
        header.verify(&meta, self.sequence)?;
        let data = self.part(header.data_len, "frame data")?.into();
        self.sequence += 1;
        Ok(Some(Frame { kind: header.kind, meta, data }))
    }

    /// Reads a part in steps, so that a header that promises more than there is costs no memory.
    fn part(&mut self, len: u32, field: &'static str) -> Result<Vec<u8>, DecodeError> {
        let len = len as usize;
        let mut part = Vec::new();
        while part.len() < len {
            let (start, step) = (part.len(), (len - part.len()).min(1 << 22));
            part.reserve_exact(if start == 0 { step.min(len) } else { len - start });
            let got = self.input.by_ref().take(step as u64).read_to_end(&mut part);
            let got = got.map_err(|source| DecodeError::Io { what: "reading the stream", source })?;
            if got < step {
                let left = (start + got) as u64;
                return Err(DecodeError::Truncated { field, needed: len as u64, left });
            }
        }
        Ok(part)
    }
}

impl<R: Read + Send> FrameRead for FrameReader<R> {
    fn read_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        self.next()
    }
}

/// What is wrong with a header that is cut.
fn cut_header(head: &[u8]) -> DecodeError {
    // A short start that is not even ours is better named as such.
    let shared = head.len().min(MAGIC.len());
    if head[..shared] != MAGIC[..shared] {
        return DecodeError::Invalid { field: "frame magic", why: "this is not a MiG stream" };
    }
    let (needed, left) = (HEADER_LEN as u64, head.len() as u64);
    DecodeError::Truncated { field: "frame header", needed, left }
}

/// Fills `buffer` as far as the input goes.
fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, DecodeError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(DecodeError::Io { what: "reading the stream", source }),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut bytes = encode(FrameType::Block, 0, b"meta part", 3);
        bytes.extend_from_slice(b"raw");
        let frame = FrameReader::new(bytes.as_slice(), 100).next().unwrap().unwrap();
        assert_eq!(
            (frame.kind, &*frame.meta, &*frame.data.get(0..3)),
            (FrameType::Block, &b"meta part"[..], &b"raw"[..])
        );
        for cut in 0..bytes.len() {
            let parts = vec![bytes[..cut].to_vec(), bytes[cut..].to_vec()];
            assert_eq!(Frame::of_parts(parts, 0, 100).unwrap(), frame, "{cut}");
            assert!(Frame::of_parts(vec![bytes[..cut].to_vec()], 0, 100).is_err(), "{cut}");
        }
        let more = vec![bytes.clone(), vec![0]];
        assert!(matches!(Frame::of_parts(more, 0, 100), Err(DecodeError::Invalid { field: "frame", .. })));
        assert!(matches!(Frame::of_parts(vec![bytes.clone()], 0, 2), Err(DecodeError::TooLarge { .. })));
        for bit in 0..(bytes.len() - 3) * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameReader::new(damaged.as_slice(), 100).next().is_err(), "bit {bit}");
        }
        for len in 1..bytes.len() {
            assert!(FrameReader::new(&bytes[..len], 100).next().is_err(), "{len} bytes");
        }
        assert!(FrameReader::new(&bytes[..0], 100).next().unwrap().is_none());
    }

    #[test]
    fn a_repeated_frame_is_noticed() {
        let one = encode(FrameType::Block, 0, b"", 0);
        let twice = [one.as_slice(), &one].concat();
        let mut reader = FrameReader::new(twice.as_slice(), 100);
        reader.next().unwrap();
        assert!(matches!(reader.next(), Err(DecodeError::Invalid { field: "frame sequence", .. })));
    }

    #[test]
    fn a_promise_beyond_the_limit_is_refused_before_anything_is_read() {
        let bytes = encode(FrameType::Block, 0, b"", 101);
        let error = FrameReader::new(bytes.as_slice(), 100).next().unwrap_err();
        assert!(matches!(error, DecodeError::TooLarge { value: 101, max: 100, .. }));
    }
}
