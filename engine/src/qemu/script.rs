//! Scripts: what to write, in terms of bytes and of pages that the reader has (`docs/format.md`, section 10).

use std::io::Write;

use super::parse::RamBlock;
use crate::error::DecodeError;
use crate::format::limits;
use crate::format::wire::{Input, put_varint};
use crate::page::{PAGE_SIZE, Page};

const BYTES: u8 = 0;
const BLOCK: u8 = 1;
const RECORDS: u8 = 2;

/// The first record names its block.
const NAMED: u8 = 1;
/// Pages of zeros are written in full, too.
const IN_FULL: u8 = 2;

const ZERO_RECORD: u64 = 0x02;
const PAGE_RECORD: u64 = 0x08;
const CONTINUE: u64 = 0x20;

/// A script that is being written.
#[derive(Debug, Default)]
pub(super) struct Script {
    done: Vec<u8>,
    open: Open,
}

/// The last operation, as long as it can still grow.
#[derive(Debug, Default)]
enum Open {
    #[default]
    Nothing,
    Bytes(Vec<u8>),
    Records {
        block: usize,
        page: u64,
        count: u64,
        flags: u8,
        /// Whether a page was in it that tells records in full from others.
        zeros: bool,
    },
}

impl Script {
    /// Bytes that it takes so far, about.
    pub(super) fn len(&self) -> usize {
        let open = match &self.open {
            Open::Nothing => 0,
            Open::Bytes(bytes) => bytes.len() + 8,
            Open::Records { .. } => 32,
        };
        self.done.len() + open
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes these bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        if let Open::Bytes(open) = &mut self.open {
            open.extend_from_slice(bytes);
        } else {
            self.close();
            self.open = Open::Bytes(bytes.to_vec());
        }
    }

    /// Defines the next block.
    pub(super) fn block(&mut self, block: &RamBlock) {
        self.close();
        self.done.push(BLOCK);
        put_varint(&mut self.done, block.name.len() as u64);
        self.done.extend_from_slice(&block.name);
        put_varint(&mut self.done, block.first_page);
        put_varint(&mut self.done, block.pages);
    }

    /// Writes a record; `is_zero` is of the page, `in_full` of the record. Where it does not matter whether it is `named`, it is
    /// where it must be.
    pub(super) fn record(
        &mut self,
        block: usize,
        page: u64,
        named: Option<bool>,
        is_zero: bool,
        in_full: bool,
    ) {
        let full = if is_zero && in_full { IN_FULL } else { 0 };
        if let Open::Records { block: open, page: first, count, flags, zeros } = &mut self.open {
            // A page that is not zero says nothing about how zeros are written.
            let agrees = !is_zero || !*zeros || *flags & IN_FULL == full;
            if *open == block && named != Some(true) && *first + *count == page && agrees {
                *count += 1;
                if is_zero {
                    *flags |= full;
                    *zeros = true;
                }
                return;
            }
        }
        self.close();
        let flags = full | if named == Some(false) { 0 } else { NAMED };
        self.open = Open::Records { block, page, count: 1, flags, zeros: is_zero };
    }

    fn close(&mut self) {
        match std::mem::take(&mut self.open) {
            Open::Nothing => {}
            Open::Bytes(bytes) => {
                self.done.push(BYTES);
                put_varint(&mut self.done, bytes.len() as u64);
                self.done.extend_from_slice(&bytes);
            }
            Open::Records { block, page, count, flags, .. } => {
                self.done.extend_from_slice(&[RECORDS, flags]);
                for value in [block as u64, page, count] {
                    put_varint(&mut self.done, value);
                }
            }
        }
    }

    /// The script so far; the next one is empty.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.close();
        std::mem::take(&mut self.done)
    }
}

/// Pages that are read, and records that are written, at a time.
const AT_ONCE: u64 = 64;

/// Runs scripts: writes a stream from bytes and from the pages of a memory.
#[derive(Debug)]
pub struct Rebuilder<W> {
    out: W,
    blocks: Vec<RamBlock>,
    page_count: u64,
    written: u64,
    /// Pages, and records of them, that are being written.
    contents: Vec<u8>,
    records: Vec<u8>,
}

impl<W: Write> Rebuilder<W> {
    /// Writes to `out`; the memory has so many pages.
    pub fn new(out: W, page_count: u64) -> Self {
        let (contents, records) = (Vec::new(), Vec::new());
        Rebuilder { out, blocks: Vec::new(), page_count, written: 0, contents, records }
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The output again.
    pub fn into_output(self) -> W {
        self.out
    }

    /// The output.
    pub fn output(&mut self) -> &mut W {
        &mut self.out
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|source| DecodeError::Io { what: "writing the stream", source })
    }

    /// Runs one script; `pages` gives consecutive pages of the memory as they are now, from a number on.
    ///
    /// # Errors
    ///
    /// A script that `docs/format.md` does not allow, pages that can't be read, an output that takes no more.
    pub fn run(
        &mut self,
        script: &[u8],
        pages: &mut dyn FnMut(u64, &mut [u8]) -> std::io::Result<()>,
    ) -> Result<(), DecodeError> {
        let field = "script";
        let invalid = |why| DecodeError::Invalid { field, why };
        let mut input = Input::new(script);
        let mut records = 0u64;
        while !input.is_empty() {
            match input.u8(field)? {
                BYTES => {
                    let len = input.varint_max(field, script.len() as u64)?;
                    let bytes = input.take(len as usize, field)?;
                    self.write(bytes)?;
                }
                BLOCK => {
                    if self.blocks.len() as u64 == limits::RAM_BLOCKS {
                        return Err(invalid("too many blocks of RAM"));
                    }
                    let len = input.varint_max(field, u8::MAX.into())?;
                    let name = input.take(len as usize, field)?.to_vec();
                    let first_page = input.varint_max(field, self.page_count)?;
                    let pages = input.varint_max(field, self.page_count - first_page)?;
                    self.blocks.push(RamBlock { name, first_page, pages });
                }
                RECORDS => {
                    let flags = input.u8(field)?;
                    if flags & !(NAMED | IN_FULL) != 0 {
                        return Err(invalid("unknown flags"));
                    }
                    let number = input.varint(field)?;
                    let block = usize::try_from(number).ok().and_then(|number| self.blocks.get(number));
                    let block = block.ok_or(invalid("a block of RAM that was not defined"))?.clone();
                    let first = input.varint_max(field, block.pages)?;
                    let count = input.varint_max(field, block.pages - first)?;
                    // A short script must not stand for an endless stream.
                    records += count;
                    if count == 0 || records > self.page_count {
                        return Err(invalid("no records, or more than there are pages"));
                    }
                    self.records(&block, first, count, flags, pages)?;
                }
                _ => return Err(invalid("unknown operation")),
            }
        }
        Ok(())
    }

    fn records(
        &mut self,
        block: &RamBlock,
        first: u64,
        count: u64,
        flags: u8,
        pages: &mut dyn FnMut(u64, &mut [u8]) -> std::io::Result<()>,
    ) -> Result<(), DecodeError> {
        const ZERO: Page = [0; PAGE_SIZE];
        let most = count.min(AT_ONCE) as usize;
        let (mut contents, mut records) =
            (std::mem::take(&mut self.contents), std::mem::take(&mut self.records));
        contents.resize(contents.len().max(most * PAGE_SIZE), 0);
        for start in (first..first + count).step_by(AT_ONCE as usize) {
            let now = (first + count - start).min(AT_ONCE) as usize;
            let contents = &mut contents[..now * PAGE_SIZE];
            pages(block.first_page + start, contents)
                .map_err(|source| DecodeError::Io { what: "reading pages for the stream", source })?;
            records.clear();
            for (place, content) in (start..).zip(contents.as_chunks().0) {
                let short = flags & IN_FULL == 0 && *content == ZERO;
                let named = place == first && flags & NAMED != 0;
                let kind = if short { ZERO_RECORD } else { PAGE_RECORD };
                let word = (place * PAGE_SIZE as u64) | kind | if named { 0 } else { CONTINUE };
                records.extend_from_slice(&word.to_be_bytes());
                if named {
                    records.push(block.name.len() as u8);
                    records.extend_from_slice(&block.name);
                }
                if short {
                    records.push(0);
                } else {
                    records.extend_from_slice(content);
                }
            }
            self.write(&records)?;
        }
        (self.contents, self.records) = (contents, records);
        Ok(())
    }

    /// Hands everything on that the output keeps.
    ///
    /// # Errors
    ///
    /// What the output says.
    pub fn flush(&mut self) -> Result<(), DecodeError> {
        self.out.flush().map_err(|source| DecodeError::Io { what: "writing the stream", source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &[u8], pages: u64) -> Result<Vec<u8>, DecodeError> {
        let mut rebuilder = Rebuilder::new(Vec::new(), pages);
        rebuilder.run(script, &mut |first, pages| {
            (first..)
                .zip(pages.as_chunks_mut::<PAGE_SIZE>().0)
                .for_each(|(number, page)| page.fill(number as u8));
            Ok(())
        })?;
        Ok(rebuilder.into_output())
    }

    #[test]
    fn records_are_written_as_qemu_writes_them() {
        let mut script = Script::default();
        script.block(&RamBlock { name: b"pc.ram".to_vec(), first_page: 0, pages: 3 });
        script.block(&RamBlock { name: b"rom".to_vec(), first_page: 3, pages: 2 });
        script.bytes(b"he");
        script.bytes(b"ad");
        script.record(0, 0, Some(true), true, false);
        script.record(0, 1, Some(false), false, true);
        script.record(0, 2, Some(false), false, true);
        script.record(1, 0, Some(true), false, true);
        script.bytes(b"tail");
        let out = run(&script.take(), 5).unwrap();
        assert!(script.is_empty());
        let page = |byte| [byte; PAGE_SIZE].to_vec();
        let expected = [
            b"head".to_vec(),
            [&0x02u64.to_be_bytes()[..], b"\x06pc.ram\0"].concat(),
            [0x1028u64.to_be_bytes().to_vec(), page(1)].concat(),
            [0x2028u64.to_be_bytes().to_vec(), page(2)].concat(),
            [0x08u64.to_be_bytes().to_vec(), b"\x03rom".to_vec(), page(3)].concat(),
            b"tail".to_vec(),
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn zeros_in_full_are_told_from_zeros() {
        let mut script = Script::default();
        script.block(&RamBlock { name: b"b".to_vec(), first_page: 0, pages: 256 * 3 });
        // Pages 0, 256 and 512 are zero here.
        script.record(0, 0, Some(true), true, true);
        script.record(0, 1, Some(false), false, true);
        script.record(0, 256, Some(false), true, false);
        script.record(0, 257, Some(false), false, true);
        let out = run(&script.take(), 256 * 3).unwrap();
        let word = |word: u64| word.to_be_bytes().to_vec();
        let expected = [
            [word(0x08), b"\x01b".to_vec(), vec![0; PAGE_SIZE]].concat(),
            [word(0x1028), vec![1; PAGE_SIZE]].concat(),
            [word(256 << 12 | 0x22), vec![0]].concat(),
            [word(257 << 12 | 0x28), vec![1; PAGE_SIZE]].concat(),
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn names_where_they_are_needed() {
        let mut script = Script::default();
        script.block(&RamBlock { name: b"b".to_vec(), first_page: 0, pages: 9 });
        for page in [1, 2, 3, 7, 8] {
            script.record(0, page, None, false, true);
        }
        let out = run(&script.take(), 9).unwrap();
        let named = out.windows(10).filter(|bytes| bytes[6..10] == [0x10, 0x08, 1, b'b']).count();
        assert_eq!((named, out.len()), (1, 5 * (8 + PAGE_SIZE) + 2 * 2));
    }

    #[test]
    fn scripts_that_are_none() {
        let block = [BLOCK, 1, b'b', 0, 4];
        for (script, why) in [
            (&[3][..], "unknown operation"),
            (&[BYTES, 9, 1], "9 is more than"),
            (&[BLOCK, 1, b'b', 3, 2], "2 is more than"),
            (&[RECORDS, 0, 0, 0, 1], "not defined"),
            (&[&block[..], &[RECORDS, 4, 0, 0, 1]].concat(), "unknown flags"),
            (&[&block[..], &[RECORDS, 0, 0, 0, 0]].concat(), "no records"),
            (&[&block[..], &[RECORDS, 0, 0, 2, 3]].concat(), "3 is more than"),
            (&[&block[..], &[RECORDS, 0, 0, 0, 4], &[RECORDS, 0, 0, 0, 1]].concat(), "more than there are"),
        ] {
            let error = run(script, 4).unwrap_err().to_string();
            assert!(error.contains(why), "{script:?}: {error}");
        }
    }
}
