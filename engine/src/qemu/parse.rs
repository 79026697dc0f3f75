//! Finding the records of the `ram` section in a migration stream.
//!
//! The stream has no lengths: to know where a section ends is to understand it. So everything is read field by field and passed on
//! as it is; at the first thing that is not as expected the rest of the stream is passed on unread. All integers are
//! big-endian. The format was learned from QEMU's documentation and from streams; facts are in `docs/qemu-stream.md`.

use std::io::{self, Read};

use crate::page::{PAGE_SIZE, Page};

const MAGIC: &[u8; 4] = b"QEVM";
const VERSION: u32 = 3;

const SECTION_START: u8 = 0x01;
const SECTION_PART: u8 = 0x02;
const SECTION_END: u8 = 0x03;
const SECTION_FULL: u8 = 0x04;
const SUBSECTION: u8 = 0x05;
const VMDESCRIPTION: u8 = 0x06;
const CONFIGURATION: u8 = 0x07;
const COMMAND: u8 = 0x08;
const EOF: u8 = 0x00;
const FOOTER: u8 = 0x7e;

/// What follows the id at the start of the RAM section: name, instance 0, version 4.
const RAM_START: &[u8] = b"\x03ram\0\0\0\0\0\0\0\x04";

const ZERO: u64 = 0x002;
const MEM_SIZE: u64 = 0x004;
const PAGE: u64 = 0x008;
const EOS: u64 = 0x010;
const CONTINUE: u64 = 0x020;
const MULTIFD_FLUSH: u64 = 0x200;
const FLAGS: u64 = PAGE_SIZE as u64 - 1;

/// Commands that leave the stream as it was: opening the return path, a ping, the announcement of the switchover.
const HARMLESS: [u16; 3] = [1, 2, 11];

/// Real machines have about ten blocks; one with hundreds of memory devices has hundreds.
const MAX_BLOCKS: usize = 1 << 12;
/// QEMU knows some thirty.
const MAX_CAPABILITIES: u32 = 4096;
/// Pages of a guest.
const MAX_PAGES: u64 = 1 << 40;
/// Bytes of the machine type's name.
const MAX_MACHINE: u32 = 4096;
/// Bytes that are passed on in search of the RAM section, if something unknown comes before it.
const SEARCH: u64 = 1 << 20;
/// Bytes read at a time.
const CHUNK: usize = 1 << 18;

/// One RAM block of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamBlock {
    /// Its name: `pc.ram`, a memory backend's, a ROM's.
    pub name: Vec<u8>,
    /// The number of its first page: pages are numbered through all blocks in the order of the stream.
    pub first_page: u64,
    /// Its pages.
    pub pages: u64,
}

/// One page record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Which block, by its place.
    pub block: usize,
    /// Which page of the block.
    pub page: u64,
    /// Whether the record names its block; otherwise it is that of the record before.
    pub named: bool,
    /// The page; `None` for a record that only says that it is zero.
    pub content: Option<&'a Page>,
}

/// Takes what the parser finds, in order. An error ends parsing.
pub trait Events {
    /// What can go wrong.
    type Error: From<io::Error>;

    /// The machine's type and its blocks. Comes once, before any page and after few bytes; for a stream without a RAM section
    /// the list is empty.
    ///
    /// # Errors
    ///
    /// Whatever ends parsing.
    fn blocks(&mut self, machine: &str, blocks: &[RamBlock]) -> Result<(), Self::Error>;

    /// Bytes that are passed on as they are.
    ///
    /// # Errors
    ///
    /// Whatever ends parsing.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// A page record.
    ///
    /// # Errors
    ///
    /// Whatever ends parsing.
    fn record(&mut self, record: Record<'_>) -> Result<(), Self::Error>;

    /// The records of a section are over; its last bytes follow. `last` if the guest is stopped and there will be no more.
    ///
    /// # Errors
    ///
    /// Whatever ends parsing.
    fn section_end(&mut self, _last: bool) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Nothing comes at the moment.
    ///
    /// # Errors
    ///
    /// Whatever ends parsing.
    fn idle(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// The rest of the stream is not understood, and passed on as it is; `cut` if that is because it ends there.
    ///
    /// # Errors
    ///
    /// Whatever ends parsing.
    fn opaque(&mut self, _why: &str, _cut: bool) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// Where the stream comes from.
pub trait Input {
    /// Reads some bytes, 0 at the end. If `wait` is not set and nothing comes soon: `None`.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn read(&mut self, to: &mut [u8], wait: bool) -> io::Result<Option<usize>>;
}

/// A stream in a file, which never keeps anybody waiting.
#[derive(Debug)]
pub struct FromFile<R>(pub R);

impl<R: Read> Input for FromFile<R> {
    fn read(&mut self, to: &mut [u8], _: bool) -> io::Result<Option<usize>> {
        loop {
            match self.0.read(to) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map(Some),
            }
        }
    }
}

/// Reads a stream.
#[derive(Debug)]
pub struct Parser<I> {
    input: I,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes from `start` on that were looked at, and are passed on together.
    looked: usize,
    at_end: bool,
}

/// Why parsing stops before the end of the stream.
enum Stop<E> {
    /// Not understood from here on.
    Opaque(String),
    /// The stream ends in the middle.
    Cut,
    /// The rest is device state, of which nobody expects to be understood.
    Devices,
    /// An error of the input or of the events.
    Error(E),
}

impl<E: From<io::Error>> From<io::Error> for Stop<E> {
    fn from(error: io::Error) -> Self {
        Stop::Error(error.into())
    }
}

fn opaque<T, E>(why: impl Into<String>) -> Result<T, Stop<E>> {
    Err(Stop::Opaque(why.into()))
}

/// What is known of the stream so far.
#[derive(Default)]
struct Known {
    machine: String,
    ignore_shared: bool,
    /// The RAM section's id, once it has begun.
    ram: Option<u32>,
    blocks: Vec<RamBlock>,
    /// Whether the section's end was the last of its parts: the guest is stopped, and no page comes any more.
    ended: bool,
    /// The block of the last record. A record that does not name its block goes on with it, across sections.
    current: Option<usize>,
}

impl<I: Input> Parser<I> {
    /// A parser at the start of a stream.
    pub fn new(input: I) -> Self {
        let buffer = vec![0; CHUNK].into_boxed_slice();
        Parser { input, buffer, start: 0, end: 0, looked: 0, at_end: false }
    }

    /// The input again.
    pub fn into_input(self) -> I {
        self.input
    }

    /// Reads the stream to its end.
    ///
    /// # Errors
    ///
    /// What keeps the stream from being read, and the first error of `to`. What the stream holds is never an error.
    pub fn run<T: Events>(&mut self, to: &mut T) -> Result<(), T::Error> {
        let mut known = Known::default();
        let why = match self.sections(&mut known, to) {
            Ok(()) | Err(Stop::Devices) => None,
            Err(Stop::Error(error)) => return Err(error),
            Err(Stop::Opaque(why)) => Some((why, false)),
            Err(Stop::Cut) => Some(("it ends in the middle".to_owned(), true)),
        };
        if known.ram.is_none() {
            to.blocks(&known.machine, &[])?;
        }
        if let Some((why, cut)) = why {
            to.opaque(&why, cut)?;
        }
        self.rest(to)
    }

    fn sections<T: Events>(&mut self, known: &mut Known, to: &mut T) -> Result<(), Stop<T::Error>> {
        if self.take(4, to)? != MAGIC {
            return opaque("it does not begin with the magic QEVM");
        }
        let version = self.u32(to)?;
        if version != VERSION {
            return opaque(format!("version {version} of the stream is not known"));
        }
        self.pass(to)?;
        loop {
            let kind = self.u8(to)?;
            match kind {
                CONFIGURATION => self.configuration(known, to)?,
                COMMAND => self.command(to)?,
                SECTION_START if known.ram.is_none() => self.start_of_ram(known, to)?,
                SECTION_PART | SECTION_END => {
                    let id = self.u32(to)?;
                    if known.ram != Some(id) {
                        return opaque("another section than ram goes on in parts");
                    }
                    let last = kind == SECTION_END;
                    self.records(known, last, to)?;
                    self.footer(id, to)?;
                    known.ended = last;
                }
                SECTION_FULL | EOF | VMDESCRIPTION if known.ended => return Err(Stop::Devices),
                other => return opaque(format!("a section of type {other:#x} is not expected here")),
            }
            self.pass(to)?;
        }
    }

    /// The machine's type, and capabilities that matter.
    fn configuration<T: Events>(&mut self, known: &mut Known, to: &mut T) -> Result<(), Stop<T::Error>> {
        let len = self.u32(to)?;
        if len > MAX_MACHINE {
            return opaque("the machine type's name is too long");
        }
        known.machine = String::from_utf8_lossy(self.take(len as usize, to)?).into_owned();
        while self.peek(to)? == Some(SUBSECTION) {
            self.u8(to)?;
            let len = self.u8(to)?;
            let name = self.take(len.into(), to)?.to_vec();
            let _version = self.u32(to)?;
            match name.as_slice() {
                b"configuration/target-page-bits" => {
                    let bits = self.u32(to)?;
                    if bits != PAGE_SIZE.ilog2() {
                        return opaque(format!("pages of 2^{bits} bytes; only those of 4096 are known"));
                    }
                }
                b"configuration/uuid" => {
                    self.take(16, to)?;
                }
                b"configuration/capabilities" => self.capabilities(known, to)?,
                _ => return opaque("a subsection of the configuration is not known"),
            }
        }
        Ok(())
    }

    fn capabilities<T: Events>(&mut self, known: &mut Known, to: &mut T) -> Result<(), Stop<T::Error>> {
        let count = self.u32(to)?;
        if count > MAX_CAPABILITIES {
            return opaque("more capabilities than QEMU has");
        }
        let mut foreign = None;
        for _ in 0..count {
            let len = self.u8(to)?;
            let name = self.take(len.into(), to)?.to_vec();
            match name.as_slice() {
                b"x-ignore-shared" => known.ignore_shared = true,
                b"multifd" | b"mapped-ram" | b"postcopy-ram" | b"xbzrle" | b"compress" => {
                    foreign = Some(String::from_utf8_lossy(&name).into_owned());
                }
                _ => {}
            }
            self.pass(to)?;
        }
        match foreign {
            Some(name) => opaque(format!("the capability {name} is set")),
            None => Ok(()),
        }
    }

    fn command<T: Events>(&mut self, to: &mut T) -> Result<(), Stop<T::Error>> {
        let command = self.u16(to)?;
        let len = self.u16(to)?;
        self.take(len.into(), to)?;
        if HARMLESS.contains(&command) { Ok(()) } else { opaque(format!("command {command}")) }
    }

    /// The start of the RAM section, or of another one that stands before it.
    fn start_of_ram<T: Events>(&mut self, known: &mut Known, to: &mut T) -> Result<(), Stop<T::Error>> {
        // The type byte has been looked at.
        let mut searched = 0;
        let id = loop {
            let id = self.u32(to)?;
            let here = self.ahead(RAM_START.len(), to)?;
            if here == RAM_START {
                self.take(RAM_START.len(), to)?;
                break id;
            }
            // Pass one byte on, and look whether the section begins at the next one.
            loop {
                self.back(4);
                self.pass(to)?;
                searched += 1;
                if searched > SEARCH {
                    return opaque("no RAM section begins in the first MiB");
                }
                if self.u8(to)? == SECTION_START {
                    break;
                }
                // So that `back` finds four bytes to give back.
                self.take(4, to)?;
            }
        };
        let total = self.u64(to)?;
        if total & FLAGS != MEM_SIZE {
            return opaque("the RAM section does not begin with its blocks");
        }
        let mut left = total & !FLAGS;
        let mut pages = 0;
        while left > 0 {
            if known.blocks.len() == MAX_BLOCKS {
                return opaque("more blocks of RAM than any machine has");
            }
            let len = self.u8(to)?;
            let name = self.take(len.into(), to)?.to_vec();
            let used = self.u64(to)?;
            if known.ignore_shared {
                self.u64(to)?;
            }
            if used == 0 || used % PAGE_SIZE as u64 != 0 || used > left {
                return opaque("a block of RAM that is not whole pages, or longer than the total");
            }
            left -= used;
            let block = RamBlock { name, first_page: pages, pages: used / PAGE_SIZE as u64 };
            pages += block.pages;
            // There may be more of them than the buffer holds.
            self.pass(to)?;
            if pages > MAX_PAGES || known.blocks.iter().any(|other| other.name == block.name) {
                return opaque("more RAM than there can be, or two blocks of one name");
            }
            known.blocks.push(block);
        }
        if known.blocks.is_empty() {
            return opaque("no RAM at all");
        }
        self.pass(to)?;
        known.ram = Some(id);
        to.blocks(&known.machine, &known.blocks).map_err(Stop::Error)?;
        self.records(known, false, to)?;
        self.footer(id, to)
    }

    /// The records of one section.
    fn records<T: Events>(
        &mut self,
        known: &mut Known,
        last: bool,
        to: &mut T,
    ) -> Result<(), Stop<T::Error>> {
        self.pass(to)?;
        loop {
            let word = self.u64(to)?;
            let (address, flags) = (word & !FLAGS, word & FLAGS);
            match flags {
                EOS if address == 0 => {
                    // What comes before these bytes may be more than there was.
                    self.back(8);
                    to.section_end(last).map_err(Stop::Error)?;
                    self.take(8, to)?;
                    return self.pass(to);
                }
                MULTIFD_FLUSH if address == 0 => self.pass(to)?,
                _ if flags & !CONTINUE == ZERO || flags & !CONTINUE == PAGE => {
                    self.page(known, address, flags, to)?;
                }
                _ => return opaque(format!("a RAM record with flags {flags:#x}")),
            }
        }
    }

    fn page<T: Events>(
        &mut self,
        known: &mut Known,
        address: u64,
        flags: u64,
        to: &mut T,
    ) -> Result<(), Stop<T::Error>> {
        let named = flags & CONTINUE == 0;
        if named {
            let len = self.u8(to)?;
            let name = self.take(len.into(), to)?;
            known.current = known.blocks.iter().position(|block| block.name == name);
        }
        let Some(block) = known.current else { return opaque("a page of a block that is not known") };
        let page = address / PAGE_SIZE as u64;
        if page >= known.blocks[block].pages {
            return opaque("a page beyond its block");
        }
        if flags & PAGE != 0 {
            let before = self.looked;
            self.take(PAGE_SIZE, to)?;
            let at = self.start + before;
            let content: Option<&Page> = self.buffer[at..].first_chunk();
            to.record(Record { block, page, named, content }).map_err(Stop::Error)?;
        } else {
            if self.u8(to)? != 0 {
                return opaque("a page filled with something else than zeros");
            }
            to.record(Record { block, page, named, content: None }).map_err(Stop::Error)?;
        }
        // The record says it all.
        self.drop_looked();
        Ok(())
    }

    fn footer<T: Events>(&mut self, id: u32, to: &mut T) -> Result<(), Stop<T::Error>> {
        if self.peek(to)? == Some(FOOTER) {
            self.u8(to)?;
            if self.u32(to)? != id {
                return opaque("a footer of another section");
            }
        }
        self.pass(to)
    }

    /// Passes everything on that there is.
    fn rest<T: Events>(&mut self, to: &mut T) -> Result<(), T::Error> {
        loop {
            self.looked = self.end - self.start;
            self.pass_on(to)?;
            if !self.more(to)? {
                return Ok(());
            }
        }
    }

    /// Reads more bytes behind those that are there; false at the end.
    fn more<T: Events>(&mut self, to: &mut T) -> Result<bool, T::Error> {
        if self.at_end {
            return Ok(false);
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = &mut self.buffer[self.end..];
        if room.is_empty() {
            // Nothing that is looked at together is that long; if it were, it would not be understood.
            return Ok(false);
        }
        let read = match self.input.read(room, false)? {
            Some(read) => read,
            None => {
                to.idle()?;
                self.input.read(room, true)?.unwrap_or(0)
            }
        };
        self.end += read.min(room.len());
        self.at_end = read == 0;
        Ok(read > 0)
    }

    /// The next bytes, without taking them; fewer at the end of the stream.
    fn ahead<T: Events>(&mut self, count: usize, to: &mut T) -> Result<&[u8], Stop<T::Error>> {
        while self.end - self.start < self.looked + count {
            if !self.more(to).map_err(Stop::Error)? {
                break;
            }
        }
        let from = self.start + self.looked;
        Ok(&self.buffer[from..self.end.min(from + count)])
    }

    fn peek<T: Events>(&mut self, to: &mut T) -> Result<Option<u8>, Stop<T::Error>> {
        Ok(self.ahead(1, to)?.first().copied())
    }

    /// The next bytes, which count as looked at.
    fn take<T: Events>(&mut self, count: usize, to: &mut T) -> Result<&[u8], Stop<T::Error>> {
        if self.ahead(count, to)?.len() < count {
            return Err(Stop::Cut);
        }
        let from = self.start + self.looked;
        self.looked += count;
        Ok(&self.buffer[from..from + count])
    }

    fn array<const N: usize, T: Events>(&mut self, to: &mut T) -> Result<[u8; N], Stop<T::Error>> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, to)?);
        Ok(array)
    }

    fn u8<T: Events>(&mut self, to: &mut T) -> Result<u8, Stop<T::Error>> {
        Ok(self.array::<1, T>(to)?[0])
    }

    fn u16<T: Events>(&mut self, to: &mut T) -> Result<u16, Stop<T::Error>> {
        Ok(u16::from_be_bytes(self.array(to)?))
    }

    fn u32<T: Events>(&mut self, to: &mut T) -> Result<u32, Stop<T::Error>> {
        Ok(u32::from_be_bytes(self.array(to)?))
    }

    fn u64<T: Events>(&mut self, to: &mut T) -> Result<u64, Stop<T::Error>> {
        Ok(u64::from_be_bytes(self.array(to)?))
    }

    /// Un-looks at bytes.
    fn back(&mut self, count: usize) {
        self.looked -= count;
    }

    fn drop_looked(&mut self) {
        self.start += self.looked;
        self.looked = 0;
    }

    /// Passes on what was looked at.
    fn pass<T: Events>(&mut self, to: &mut T) -> Result<(), Stop<T::Error>> {
        self.pass_on(to).map_err(Stop::Error)
    }

    fn pass_on<T: Events>(&mut self, to: &mut T) -> Result<(), T::Error> {
        let looked = self.start..self.start + self.looked;
        if !looked.is_empty() {
            to.bytes(&self.buffer[looked])?;
        }
        self.drop_looked();
        Ok(())
    }
}
