//! Sections 3 and 7: the header frame, and the identities of references.

use super::bytes::{Cursor, hash128};
use super::{MAX_FILE, PAGE, Page};

const MAX_PAGES: u64 = 1 << 40;
const MAX_BLOCK_PAGES: u64 = 1 << 16;
const MAX_SEGMENTS: u64 = 1 << 18;
const MAX_REFERENCES: u64 = 64;
const MAX_NAME: u64 = 4096;

/// What the header frame says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Of the image's file: 0 raw, 1 ELF core, 2 LiME, 3 QEMU mapped-ram, 4 a QEMU migration stream.
    pub format: u8,
    /// Whether every block can be decoded alone (flag bit 0).
    pub independent: bool,
    /// 0 store to 4 max.
    pub effort: u8,
    /// The most pages that a block holds.
    pub block_pages: u64,
    /// Bytes of the image's file.
    pub file_len: u64,
    /// Where the pages lie in the file.
    pub segments: Vec<Segment>,
    /// What pages may be copied from besides the guest itself.
    pub references: Vec<Reference>,
    /// Pages of the guest.
    pub page_count: u64,
}

/// Pages that follow each other in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the first page starts in the file.
    pub file_offset: u64,
    /// How many pages.
    pub pages: u64,
    /// The number of the first page.
    pub first: u64,
    /// Guest-physical address of the first page, if it has one.
    pub address: Option<u64>,
}

/// What the header says of a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// 0 a disk, 1 an older memory image.
    pub kind: u8,
    /// A hint to find the right file.
    pub identity: [u8; 16],
    /// Length in blocks of 4096 bytes.
    pub blocks: u64,
    /// What the packer called it.
    pub name: String,
}

/// Section 10: the memory behind a QEMU stream.
fn check_flat(segments: &[Segment], file_len: u64) -> Result<(), String> {
    let mut next = 0;
    for (number, segment) in segments.iter().enumerate() {
        if segment.file_offset != next {
            return Err(format!(
                "header segment {number}: at {}, in a QEMU stream at {next}",
                segment.file_offset
            ));
        }
        next += segment.pages * PAGE as u64;
    }
    if file_len != next {
        Err(format!("header file_len: {file_len}, in a QEMU stream {next}"))
    } else {
        Ok(())
    }
}

impl Header {
    pub(super) fn parse(meta: &[u8]) -> Result<Self, String> {
        let mut cursor = Cursor::new(meta);
        let format = cursor.u8("header format")?;
        if format > 4 {
            return Err(format!("header format: {format} is not known"));
        }
        let flags = cursor.u8("header flags")?;
        if flags > 1 {
            return Err(format!("header flags: {flags:#x} has unknown bits"));
        }
        let effort = cursor.u8("header effort")?;
        if effort > 4 {
            return Err(format!("header effort: {effort} is not known"));
        }
        let block_pages = cursor.varint_to(MAX_BLOCK_PAGES, "header block_pages")?;
        let file_len = cursor.varint_to(MAX_FILE, "header file_len (this decoder's own limit)")?;

        let count = cursor.varint_to(MAX_SEGMENTS, "header segments")?;
        let mut segments = Vec::new();
        let mut page_count = 0;
        for number in 0..count {
            let segment =
                segment(&mut cursor, page_count).map_err(|e| format!("header segment {number}: {e}"))?;
            page_count += segment.pages;
            if page_count > MAX_PAGES {
                return Err(format!("header segment {number}: page_count {page_count} is above {MAX_PAGES}"));
            }
            segments.push(segment);
        }
        check_places(&segments, file_len)?;
        check_addresses(&segments)?;
        if format == 4 {
            check_flat(&segments, file_len)?;
        }

        let count = cursor.varint_to(MAX_REFERENCES, "header references")?;
        let mut references = Vec::new();
        for number in 0..count {
            references.push(reference(&mut cursor).map_err(|e| format!("header reference {number}: {e}"))?);
        }
        cursor.finish("header")?;
        let independent = flags & 1 != 0;
        Ok(Self { format, independent, effort, block_pages, file_len, segments, references, page_count })
    }

    /// Where page `number` (below `page_count`) starts in the file.
    pub(super) fn offset_of(&self, number: u64) -> usize {
        let place = self.segments.partition_point(|segment| segment.first <= number) - 1;
        let segment = self.segments[place];
        (segment.file_offset + (number - segment.first) * PAGE as u64) as usize
    }

    /// Whether `len` bytes from `offset` of the file lie in one range of opaque bytes: one that reaches from a segment
    /// (or the file's start) to the next in the file (or the file's end). Reading: so must no bytes at all.
    pub(super) fn in_one_opaque_range(&self, offset: u64, len: u64) -> bool {
        let Some(end) = offset.checked_add(len) else { return false };
        let mut start = 0;
        for segment in by_offset(&self.segments) {
            if start < segment.file_offset && start <= offset && end <= segment.file_offset {
                return true;
            }
            start = segment.file_offset + segment.pages * PAGE as u64;
        }
        start < self.file_len && start <= offset && end <= self.file_len
    }

    /// Block `block` of reference `index`, both already checked against the header.
    pub(super) fn reference_block(
        &self,
        references: &[Option<Vec<u8>>],
        index: u64,
        block: u64,
    ) -> Result<Page, String> {
        let given = references.get(index as usize).and_then(Option::as_ref);
        let given = given.ok_or_else(|| format!("reference {index}: wanted, but not given"))?;
        let start = block as usize * PAGE;
        let found = given.get(start..start + PAGE);
        let found = found.ok_or_else(|| {
            format!("reference {index}: block {block} is not in the {} bytes that were given", given.len())
        })?;
        let mut page = [0; PAGE];
        page.copy_from_slice(found);
        Ok(page)
    }
}

fn segment(cursor: &mut Cursor<'_>, first: u64) -> Result<Segment, String> {
    let file_offset = cursor.varint("file_offset")?;
    let pages = cursor.varint_to(MAX_PAGES, "pages")?;
    if pages == 0 {
        return Err("pages: is 0".into());
    }
    let address = cursor.varint("address")?.checked_sub(1);
    Ok(Segment { file_offset, pages, first, address })
}

fn by_offset(segments: &[Segment]) -> Vec<Segment> {
    let mut sorted = segments.to_vec();
    sorted.sort_by_key(|segment| segment.file_offset);
    sorted
}

fn check_places(segments: &[Segment], file_len: u64) -> Result<(), String> {
    let mut end = 0;
    for segment in by_offset(segments) {
        let Segment { file_offset, pages, .. } = segment;
        if file_offset < end {
            return Err(format!("header segments: the one at file offset {file_offset} overlaps another"));
        }
        end = file_offset.saturating_add(pages * PAGE as u64);
        if end > file_len {
            return Err(format!("header segments: the one at file offset {file_offset} leaves the file"));
        }
    }
    Ok(())
}

/// Reading: the end of a range of addresses must fit 64 bits.
fn check_addresses(segments: &[Segment]) -> Result<(), String> {
    let mut end = 0_u128;
    let mut all_before_have_one = true;
    for (number, segment) in segments.iter().enumerate() {
        let Some(address) = segment.address else {
            all_before_have_one = false;
            continue;
        };
        if !all_before_have_one {
            return Err(format!("header segment {number}: address: one without comes before"));
        }
        if address % PAGE as u64 != 0 {
            return Err(format!("header segment {number}: address: {address:#x} is no multiple of 4096"));
        }
        if u128::from(address) < end {
            return Err(format!("header segment {number}: address: {address:#x} is below {end:#x}"));
        }
        end = u128::from(address) + u128::from(segment.pages) * PAGE as u128;
        if end > u128::from(u64::MAX) {
            return Err(format!("header segment {number}: address: its end {end:#x} does not fit 64 bits"));
        }
    }
    Ok(())
}

fn reference(cursor: &mut Cursor<'_>) -> Result<Reference, String> {
    let kind = cursor.u8("kind")?;
    if kind > 1 {
        return Err(format!("kind: {kind} is not known"));
    }
    let identity = cursor.array("identity")?;
    let blocks = cursor.varint_to(MAX_PAGES, "blocks")?;
    let name_len = cursor.varint_to(MAX_NAME, "name_len")?;
    let name = cursor.take(name_len, "name")?;
    let name = str::from_utf8(name).map_err(|e| format!("name: {e}"))?.to_owned();
    Ok(Reference { kind, identity, blocks, name })
}

/// The identity (section 7) of a reference's bytes. Reading: bytes after the last whole block do not count.
pub fn identity(bytes: &[u8]) -> [u8; 16] {
    let n = (bytes.len() / PAGE) as i64;
    let mut picked = Vec::new();
    if n > 0 {
        picked.extend((0..64).map(|i| i * n / 64));
        picked.extend([0, 1, 2, 3]);
        picked.extend([n - 4, n - 3, n - 2, n - 1]);
        picked.retain(|&block| (0..n).contains(&block));
    }
    let mut covered = n.to_le_bytes().to_vec();
    for block in picked {
        let start = block as usize * PAGE;
        covered.extend(&bytes[start..start + PAGE]);
    }
    hash128(&covered)
}
