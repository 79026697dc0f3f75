//! What the format allows at most. `docs/format.md` lists the same numbers.

/// Pages of guest memory: 4 PiB.
pub(crate) const PAGE_COUNT: u64 = 1 << 40;
/// Pages in one block.
pub(crate) const BLOCK_PAGES: u64 = 1 << 16;
/// Bytes of a frame's meta part.
pub(crate) const META: u64 = 1 << 24;
/// Bytes of a frame's data part. A block of incompressible pages with its lists is just above 256 MiB.
pub(crate) const DATA: u64 = (BLOCK_PAGES << 12) + (1 << 26);
/// References of one stream.
pub(crate) const REFERENCES: u64 = 64;
/// Of them, such as are made from a disk: each may take 256 MiB.
pub(crate) const DERIVED: u64 = 4;
/// Segments of one image.
pub(crate) const SEGMENTS: u64 = crate::image::MAX_SEGMENTS as u64;
/// Bytes of a reference's name.
pub(crate) const NAME: u64 = 4096;
/// File bytes in one opaque frame.
pub(crate) const OPAQUE: u64 = 1 << 22;
/// Groups of one block.
pub(crate) const GROUPS: u64 = 1 << 16;
/// Long matches of one page: each covers at least one word.
pub(crate) const PAGE_MATCHES: u64 = 512;
/// Blocks that an index lists.
pub(crate) const BLOCKS: u64 = 1 << 22;
/// RAM blocks that a QEMU stream's scripts define.
pub(crate) const RAM_BLOCKS: u64 = 1 << 12;
