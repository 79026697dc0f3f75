//! QEMU migration streams: made by hand, and loaded by a slow reader, so that tests know what a destination would see.
//!
//! Both were written from the stream's description alone, and share no code with the engine.

use crate::handmade::Random;
use crate::reference::PAGE;
use crate::sample;

/// RAM of a small machine: names and pages. The first one is main memory.
pub const MACHINE: [(&str, u64); 3] = [("pc.ram", 512), ("vga.vram", 16), ("/rom@etc/acpi/tables", 4)];

/// The section's id of RAM.
const RAM: u32 = 2;

const ZERO: u64 = 0x02;
const MEM_SIZE: u64 = 0x04;
const FULL: u64 = 0x08;
const EOS: u64 = 0x10;
const CONTINUE: u64 = 0x20;

/// Writes a stream, record by record.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    /// What was written so far.
    pub bytes: Vec<u8>,
    last: Option<usize>,
}

impl Writer {
    /// A stream with its configuration and the start of its RAM section.
    pub fn new(capabilities: &[&str]) -> Self {
        let mut writer = Writer::default();
        writer.u32(0x5145_564d).u32(3);
        writer.bytes.push(0x07);
        writer.u32(13).raw(b"pc-i440fx-7.2");
        if !capabilities.is_empty() {
            writer.bytes.push(0x05);
            writer.text("configuration/capabilities").u32(1).u32(capabilities.len() as u32);
            for capability in capabilities {
                writer.text(capability);
            }
        }
        writer.bytes.push(0x01);
        writer.u32(RAM).text("ram").u32(0).u32(4);
        let total: u64 = MACHINE.iter().map(|(_, pages)| pages * PAGE as u64).sum();
        writer.u64(total | MEM_SIZE);
        for (name, pages) in MACHINE {
            writer.text(name).u64(pages * PAGE as u64);
        }
        writer.u64(EOS).footer();
        writer
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes.push(text.len() as u8);
        self.raw(text.as_bytes())
    }

    /// Any bytes.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn footer(&mut self) -> &mut Self {
        self.bytes.push(0x7e);
        self.u32(RAM)
    }

    /// Begins a part of the RAM section, or its end.
    pub fn begin(&mut self, last: bool) -> &mut Self {
        self.bytes.push(if last { 0x03 } else { 0x02 });
        self.u32(RAM)
    }

    /// Ends it.
    pub fn end(&mut self) -> &mut Self {
        self.u64(EOS).footer()
    }

    /// A page, as QEMU writes it: a short record for zeros, and its block's name where it is another one than before.
    pub fn page(&mut self, block: usize, page: u64, content: &[u8]) -> &mut Self {
        let named = self.last != Some(block);
        self.record(block, page, content, named, content.iter().all(|&byte| byte == 0))
    }

    /// A page with the record as one likes.
    pub fn record(&mut self, block: usize, page: u64, content: &[u8], named: bool, short: bool) -> &mut Self {
        let kind = if short { ZERO } else { FULL };
        self.u64((page * PAGE as u64) | kind | if named { 0 } else { CONTINUE });
        if named {
            self.text(MACHINE[block].0);
        }
        self.last = Some(block);
        if short { self.raw(&[0]) } else { self.raw(content) }
    }

    /// Device state, and the end of the stream.
    pub fn devices(&mut self, state: &[u8]) -> &mut Self {
        self.bytes.push(0x04);
        self.u32(5).text("timer").u32(0).u32(2).raw(state);
        self.bytes.push(0x7e);
        self.u32(5);
        self.bytes.push(0x00);
        self.bytes.push(0x06);
        let json = br#"{"configuration":{}}"#;
        self.u32(json.len() as u32).raw(json)
    }
}

/// A running guest that is being migrated by QEMU.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its memory, block after block.
    pub memory: Vec<u8>,
    dirty: Vec<bool>,
    random: Random,
}

impl Guest {
    /// With real pages in it.
    pub fn new(seed: u64) -> Self {
        let pages: u64 = MACHINE.iter().map(|(_, pages)| pages).sum();
        let mut memory = sample::older()[..pages as usize * PAGE].to_vec();
        memory[20 * PAGE..60 * PAGE].fill(0);
        Guest { memory, dirty: vec![true; pages as usize], random: Random::new(seed) }
    }

    /// Changes some pages: a few all the time, others now and then; some are dirty and as they were.
    pub fn run(&mut self) {
        for page in 100..130 {
            self.scribble(page);
        }
        for _ in 0..20 {
            let page = self.random.below(self.dirty.len() as u64) as usize;
            match self.random.below(5) {
                0 => self.memory[page * PAGE..(page + 1) * PAGE].fill(0),
                1 => {
                    let from = self.random.below(self.dirty.len() as u64) as usize;
                    self.memory.copy_within(from * PAGE..(from + 1) * PAGE, page * PAGE);
                }
                2 => {}
                _ => self.scribble(page),
            }
            self.dirty[page] = true;
        }
    }

    fn scribble(&mut self, page: usize) {
        for _ in 0..3 {
            let at = page * PAGE + self.random.below(512) as usize * 8;
            let word = self.random.word();
            self.memory[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        self.dirty[page] = true;
    }

    /// Writes dirty pages in order; stops after `most`, to go on in another section.
    pub fn write_dirty(&mut self, writer: &mut Writer, last: bool, most: usize) {
        let mut number = 0;
        let mut written = 0;
        writer.begin(last);
        for (block, (_, pages)) in MACHINE.into_iter().enumerate() {
            for page in 0..pages {
                if std::mem::take(&mut self.dirty[number]) {
                    let content = self.memory[number * PAGE..(number + 1) * PAGE].to_vec();
                    writer.page(block, page, &content);
                    written += 1;
                    if written % most == 0 {
                        writer.end().begin(last);
                    }
                }
                number += 1;
            }
        }
        writer.end();
    }

    /// A whole migration over so many rounds, with the guest running in between.
    pub fn migrate(&mut self, rounds: u32) -> Vec<u8> {
        let mut writer = Writer::new(&["events"]);
        for round in 0..rounds {
            if round > 0 {
                self.run();
            }
            // All parts but one are `last` only in the end; a section that is split ends with a part.
            self.write_dirty(&mut writer, false, 50);
        }
        self.run();
        self.write_dirty(&mut writer, true, usize::MAX);
        writer.devices(b"state of a timer, which nobody but QEMU understands");
        writer.bytes
    }
}

/// What a QEMU would have after loading a stream: its memory, and the bytes behind the RAM section.
///
/// # Errors
///
/// Says where the stream is not as QEMU writes it.
pub fn load(stream: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let pages: u64 = MACHINE.iter().map(|(_, pages)| pages).sum();
    let mut memory = vec![0xaa; pages as usize * PAGE];
    let start = Writer::new(&["events"]).bytes;
    let mut rest = stream.strip_prefix(&start[..]).ok_or("another start")?;
    let mut block: Option<usize> = None;
    loop {
        let (&kind, tail) = rest.split_first().ok_or("it ends before its devices")?;
        if kind == 0x04 {
            return Ok((memory, rest.to_vec()));
        }
        rest = tail.strip_prefix(&RAM.to_be_bytes()).ok_or("a section of another id")?;
        if kind != 0x02 && kind != 0x03 {
            return Err(format!("a section of type {kind}"));
        }
        loop {
            let (word, tail) = rest.split_first_chunk::<8>().ok_or("it ends in a record")?;
            let (address, flags) = (u64::from_be_bytes(*word) & !0xfff, u64::from_be_bytes(*word) & 0xfff);
            rest = tail;
            if flags == EOS {
                break;
            }
            if flags & CONTINUE == 0 {
                let (&len, tail) = rest.split_first().ok_or("it ends in a name")?;
                let (name, tail) = tail.split_at_checked(len.into()).ok_or("it ends in a name")?;
                block = MACHINE.iter().position(|(other, _)| other.as_bytes() == name);
                rest = tail;
            }
            let block = block.ok_or("a record of no block")?;
            let before: u64 = MACHINE[..block].iter().map(|(_, pages)| pages).sum();
            let page = address / PAGE as u64;
            if page >= MACHINE[block].1 {
                return Err(format!("page {page} of block {block}"));
            }
            let to = &mut memory[(before + page) as usize * PAGE..][..PAGE];
            match flags & !CONTINUE {
                ZERO => {
                    let (&fill, tail) = rest.split_first().ok_or("it ends in a record")?;
                    to.fill(fill);
                    rest = tail;
                }
                FULL => {
                    let (content, tail) = rest.split_at_checked(PAGE).ok_or("it ends in a page")?;
                    to.copy_from_slice(content);
                    rest = tail;
                }
                other => return Err(format!("a record with flags {other:#x}")),
            }
        }
        rest = rest.strip_prefix(&[0x7e]).ok_or("no footer")?;
        rest = rest.strip_prefix(&RAM.to_be_bytes()).ok_or("the footer of another section")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_loaded() {
        let mut guest = Guest::new(1);
        let stream = guest.migrate(5);
        let (memory, devices) = load(&stream).unwrap();
        assert!(memory == guest.memory);
        assert!(devices.starts_with(&[4, 0, 0, 0, 5]));
        // The sibling: any page that is missing is missed.
        let mut other = guest.memory.clone();
        other[300 * PAGE] ^= 1;
        assert!(memory != other);
        assert!(load(&stream[..stream.len() / 2]).is_err());
    }
}
