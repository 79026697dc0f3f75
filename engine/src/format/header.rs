//! The header frame: the image that was packed, how, and what it refers to.

use super::limits;
use super::wire::{Input, put_varint};
use crate::columns::Addressing;
use crate::error::DecodeError;
use crate::image::{ImageFormat, ImageLayout, Segment};
use crate::kernel::Derivation;
use crate::options::Effort;

/// What a stream says of itself before the first page.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Header {
    /// The packed image: format, length and where its pages lie.
    pub layout: ImageLayout,
    /// The effort that was asked for. Informative: each group names its own coder.
    pub effort: Effort,
    /// Whether any page can be read without those before it.
    pub random_access: bool,
    /// The most pages that a block of this stream holds.
    pub block_pages: u64,
    /// What the destination must have to unpack, in the order of their numbers.
    pub references: Vec<ReferenceNeed>,
}

/// A reference that a stream needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceNeed {
    /// What it is.
    pub kind: ReferenceKind,
    /// The identity of its contents: a hint to find it by, for every page is verified besides.
    pub identity: [u8; 16],
    /// Its length in 4096-byte blocks.
    pub blocks: u64,
    /// What the packer called it; for messages only.
    pub name: String,
    /// How to make it, if it is [`ReferenceKind::Derived`].
    pub derivation: Option<Box<Derivation>>,
}

/// What a reference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceKind {
    /// A disk image, addressed by block.
    Disk,
    /// An older memory image, addressed by page number.
    Memory,
    /// A kernel image made from a disk, addressed by page number.
    Derived,
}

impl ReferenceKind {
    pub(crate) fn addressing(self) -> Addressing {
        match self {
            ReferenceKind::Disk => Addressing::Blocks,
            ReferenceKind::Memory | ReferenceKind::Derived => Addressing::Pages,
        }
    }

    /// A word for messages.
    pub fn name(self) -> &'static str {
        match self {
            ReferenceKind::Disk => "disk",
            ReferenceKind::Memory => "memory",
            ReferenceKind::Derived => "kernel",
        }
    }
}

impl Header {
    /// A header for a stream of blocks of at most `block_pages` pages (up to 65,536).
    pub fn new(
        layout: ImageLayout,
        effort: Effort,
        block_pages: u64,
        references: Vec<ReferenceNeed>,
    ) -> Self {
        let block_pages = block_pages.clamp(1, limits::BLOCK_PAGES);
        Header { layout, effort, random_access: false, block_pages, references }
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.push(self.layout.format().id());
        out.push(u8::from(self.random_access));
        out.push(self.effort as u8);
        put_varint(&mut out, self.block_pages);
        put_varint(&mut out, self.layout.file_len());
        put_varint(&mut out, self.layout.segments().len() as u64);
        for segment in self.layout.segments() {
            put_varint(&mut out, segment.file_offset);
            put_varint(&mut out, segment.pages);
            put_varint(&mut out, segment.gpa.map_or(0, |gpa| gpa + 1));
        }
        put_varint(&mut out, self.references.len() as u64);
        self.references.iter().for_each(|reference| reference.write(&mut out));
        out
    }

    pub(crate) fn read(meta: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Input::new(meta);
        let format = ImageFormat::from_id(input.u8("image format")?)
            .ok_or(DecodeError::Invalid { field: "image format", why: "unknown" })?;
        let random_access = match input.u8("stream flags")? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Invalid { field: "stream flags", why: "unknown flags" }),
        };
        let effort = Effort::from_id(input.u8("effort")?)
            .ok_or(DecodeError::Invalid { field: "effort", why: "unknown" })?;
        let block_pages = input.varint_max("block pages", limits::BLOCK_PAGES)?;
        let file_len = input.varint_max("file length", i64::MAX as u64)?;
        let count = input.varint_max("segment count", limits::SEGMENTS)?;
        let mut segments = Vec::new();
        let mut first_page = 0u64;
        for _ in 0..count {
            let file_offset = input.varint("segment offset")?;
            let pages = input.varint_max("segment pages", limits::PAGE_COUNT - first_page)?;
            let gpa = input.varint("segment address")?.checked_sub(1);
            segments.push(Segment { file_offset, pages, first_page, gpa });
            first_page += pages;
        }
        let lies_flat = segments.iter().all(|segment| segment.file_offset == segment.first_page << 12);
        if format == ImageFormat::Qemu && (!lies_flat || file_len != first_page << 12) {
            let why = "the pages of a QEMU stream do not lie one after the other";
            return Err(DecodeError::Invalid { field: "segments", why });
        }
        let layout = ImageLayout::new(format, file_len, segments)?;
        let count = input.varint_max("reference count", limits::REFERENCES)?;
        let mut references: Vec<ReferenceNeed> = Vec::new();
        for _ in 0..count {
            references.push(ReferenceNeed::read(&mut input, &references)?);
        }
        input.finish("header")?;
        Ok(Header { layout, effort, random_access, block_pages, references })
    }

    /// The same stream from a reference frame on, whose meta part this is.
    pub(crate) fn with_late_reference(&self, meta: &[u8]) -> Result<Self, DecodeError> {
        let (count, max) = (self.references.len() as u64 + 1, limits::REFERENCES);
        if count > max {
            return Err(DecodeError::TooLarge { field: "reference count", value: count, max });
        }
        let mut input = Input::new(meta);
        let need = ReferenceNeed::read(&mut input, &self.references)?;
        input.finish("late reference")?;
        if need.kind != ReferenceKind::Derived {
            let why = "it is no kernel image, and files must be known from the start";
            return Err(DecodeError::Invalid { field: "late reference", why });
        }
        let mut header = self.clone();
        header.references.push(need);
        Ok(header)
    }
}

impl ReferenceNeed {
    /// The meta part of the frame that brings it late.
    pub(crate) fn to_meta(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(match self.kind {
            ReferenceKind::Disk => 0,
            ReferenceKind::Memory => 1,
            ReferenceKind::Derived => 2,
        });
        out.extend_from_slice(&self.identity);
        put_varint(out, self.blocks);
        put_varint(out, self.name.len() as u64);
        out.extend_from_slice(self.name.as_bytes());
        if let Some(derivation) = &self.derivation {
            derivation.write(out);
        }
    }

    /// Reads one that comes behind `earlier`.
    fn read(input: &mut Input<'_>, earlier: &[ReferenceNeed]) -> Result<Self, DecodeError> {
        let kind = match input.u8("reference kind")? {
            0 => ReferenceKind::Disk,
            1 => ReferenceKind::Memory,
            2 => ReferenceKind::Derived,
            _ => return Err(DecodeError::Invalid { field: "reference kind", why: "unknown" }),
        };
        let identity = input.array("reference identity")?;
        let blocks = input.varint_max("reference length", limits::PAGE_COUNT)?;
        let name_len = input.varint_max("reference name", limits::NAME)?;
        let name = std::str::from_utf8(input.take(name_len as usize, "reference name")?)
            .map_err(|_| DecodeError::Invalid { field: "reference name", why: "not UTF-8" })?
            .to_owned();
        let mut derivation = None;
        if kind == ReferenceKind::Derived {
            let found = Derivation::read(input, blocks)?;
            let parent = earlier.get(usize::from(found.parent));
            if parent.is_none_or(|parent| parent.kind != ReferenceKind::Disk) {
                let why = "what it is made from is no disk that comes before it";
                return Err(DecodeError::Invalid { field: "kernel image", why });
            }
            let derived =
                earlier.iter().filter(|need| need.kind == ReferenceKind::Derived).count() as u64 + 1;
            if derived > limits::DERIVED {
                let (field, value) = ("kernel images", derived);
                return Err(DecodeError::TooLarge { field, value, max: limits::DERIVED });
            }
            derivation = Some(Box::new(found));
        }
        Ok(ReferenceNeed { kind, identity, blocks, name, derivation })
    }
}
