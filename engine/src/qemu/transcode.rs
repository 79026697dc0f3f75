//! From records to batches of pages and scripts.
//!
//! Records gather until there are enough of them, the stream pauses, or a page comes that is in the batch already; then the batch's
//! pages are sent, and after them the script that writes those records.
//!
//! A recorded stream must come back byte for byte, so each of its records is in a script. Live, the destination only must end up with the
//! same memory, and there is something to save: a page that is as it was sent last needs no record, and one that keeps changing is
//! *held* until it rests for a round or the guest is stopped ([`Holding`]), for all that is sent of it before is wasted.

use std::collections::{BTreeMap, HashMap};
use std::io;

use super::batch::Batch;
use super::parse::{Events, RamBlock, Record};
use super::script::Script;
use crate::live::Bits;
use crate::page::{PAGE_SIZE, Page, PageSet};

const ZERO: Page = [0; PAGE_SIZE];
/// Pages of a batch.
const BATCH_PAGES: usize = 4096;
/// Bytes of a script after which it is sent, whether there are pages or not.
const SCRIPT: usize = 1 << 20;
/// A page that has come so many times is held back.
const HOT: u8 = 3;

/// Takes what becomes of a stream.
pub trait Consumer {
    /// What can go wrong.
    type Error: From<std::io::Error>;

    /// The blocks of RAM are known; comes before everything else.
    ///
    /// # Errors
    ///
    /// Whatever ends the work.
    fn start(&mut self, machine: &str, blocks: &[RamBlock]) -> Result<(), Self::Error>;

    /// New versions of pages, in the order of the set.
    ///
    /// # Errors
    ///
    /// Whatever ends the work.
    fn pages(&mut self, round: u64, pages: PageSet, bytes: Vec<u8>) -> Result<(), Self::Error>;

    /// Room for the bytes of the next pages: empty, and better not new, since the system clears new memory.
    fn room(&mut self) -> Vec<u8> {
        Vec::new()
    }

    /// A script, to be run when all pages so far are in place.
    ///
    /// # Errors
    ///
    /// Whatever ends the work.
    fn script(&mut self, script: Vec<u8>) -> Result<(), Self::Error>;

    /// Whether a page is as it was sent last.
    fn is_unchanged(&mut self, _page: u64, _content: &Page) -> bool {
        false
    }

    /// A round ended: all pages that were dirty have come once more.
    ///
    /// # Errors
    ///
    /// Whatever ends the work.
    fn round(&mut self, _round: RoundEnd) -> Result<(), Self::Error> {
        Ok(())
    }

    /// From here on the stream is carried as it is.
    fn opaque(&mut self, _why: &str) {}
}

/// What a round came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoundEnd {
    /// Its number, from 0.
    pub round: u64,
    /// Records of pages.
    pub records: u64,
    /// Pages that were passed on.
    pub sent: u64,
    /// Pages that were as before.
    pub unchanged: u64,
    /// Pages that are held back.
    pub held: u64,
}

/// How pages that keep changing are dealt with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Pages that may be held back at a time: what they take in memory, and to be sent while the guest is stopped.
    pub pages: usize,
}

/// Turns a stream's events into what a [`Consumer`] takes.
#[derive(Debug)]
pub struct Transcoder<C> {
    to: C,
    /// None for recorded streams, of which every record counts.
    holding: Option<Holding>,
    blocks: Vec<RamBlock>,
    script: Script,
    batch: Batch,
    round: RoundEnd,
    last_page: Option<u64>,
    /// Pages that have come, and how often those that came again; live only.
    seen: Bits,
    times: HashMap<u64, u8>,
    /// Whether a record was held back or left out, so that the destination's stream is no longer the source's; live only.
    differs: bool,
    held: BTreeMap<u64, Held>,
    started: bool,
}

/// The latest version of a page that was not passed on.
#[derive(Debug)]
struct Held {
    content: Option<Box<Page>>,
    round: u64,
}

impl<C: Consumer> Transcoder<C> {
    /// For a recorded stream.
    pub fn exact(to: C) -> Self {
        Self::new(to, None)
    }

    /// For a stream whose destination is a running QEMU.
    pub fn live(to: C, holding: Holding) -> Self {
        Self::new(to, Some(holding))
    }

    fn new(to: C, holding: Option<Holding>) -> Self {
        Transcoder {
            to,
            holding,
            blocks: Vec::new(),
            script: Script::default(),
            batch: Batch::default(),
            round: RoundEnd::default(),
            last_page: None,
            seen: Bits::default(),
            times: HashMap::new(),
            differs: false,
            held: BTreeMap::new(),
            started: false,
        }
    }

    /// Hands over what is left, after the stream's end.
    ///
    /// # Errors
    ///
    /// What the consumer says.
    pub fn finish(mut self) -> Result<C, C::Error> {
        self.flush()?;
        if self.last_page.is_some() {
            self.end_round()?;
        }
        Ok(self.to)
    }

    /// The consumer.
    pub fn consumer(&mut self) -> &mut C {
        &mut self.to
    }

    fn flush(&mut self) -> Result<(), C::Error> {
        if !self.started {
            return Ok(());
        }
        if let Some((pages, bytes)) = self.batch.take()? {
            self.to.pages(self.round.round, pages, bytes)?;
            self.batch.fill_into(self.to.room());
        }
        if !self.script.is_empty() {
            let script = self.script.take();
            self.to.script(script)?;
        }
        Ok(())
    }

    /// Puts a page that is not in the batch into it, and its record into the script.
    fn pass_on(
        &mut self,
        block: usize,
        page: u64,
        named: Option<bool>,
        content: Option<&Page>,
    ) -> Result<(), C::Error> {
        let number = self.blocks[block].first_page + page;
        if self.batch.len() == BATCH_PAGES {
            self.flush()?;
        }
        let is_zero = content.is_none_or(|content| *content == ZERO);
        self.batch.push(number, content.unwrap_or(&ZERO));
        self.round.sent += 1;
        self.script.record(block, page, named, is_zero, content.is_some());
        Ok(())
    }

    /// The block that a page belongs to, and its place there.
    fn place(&self, number: u64) -> Option<(usize, u64)> {
        let after = self.blocks.partition_point(|block| block.first_page + block.pages <= number);
        self.blocks.get(after).map(|block| (after, number - block.first_page))
    }

    fn end_round(&mut self) -> Result<(), C::Error> {
        self.round.held = self.held.len() as u64;
        self.to.round(self.round)?;
        self.round = RoundEnd { round: self.round.round + 1, ..RoundEnd::default() };
        Ok(())
    }

    /// Whether a live page goes no further for now.
    fn holds(&mut self, number: u64, content: Option<&Page>, limit: usize) -> bool {
        if self.to.is_unchanged(number, content.unwrap_or(&ZERO)) {
            // It is what the destination has, so whatever was held of it is out of date.
            self.held.remove(&number);
            self.round.unchanged += 1;
            return true;
        }
        let mut times = 1;
        if !self.seen.insert(number) {
            let again = self.times.entry(number).or_insert(1);
            *again = again.saturating_add(1);
            times = *again;
        }
        if times >= HOT && (self.held.contains_key(&number) || self.held.len() < limit) {
            let content = content.map(|content| Box::new(*content));
            self.held.insert(number, Held { content, round: self.round.round });
            return true;
        }
        self.held.remove(&number);
        false
    }
}

impl<C: Consumer> Events for Transcoder<C> {
    type Error = C::Error;

    fn blocks(&mut self, machine: &str, blocks: &[RamBlock]) -> Result<(), C::Error> {
        self.blocks = blocks.to_vec();
        blocks.iter().for_each(|block| self.script.block(block));
        self.started = true;
        self.to.start(machine, blocks)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), C::Error> {
        for part in bytes.chunks(SCRIPT / 2) {
            self.script.bytes(part);
            if self.script.len() > SCRIPT {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), C::Error> {
        let Record { block, page, named, content } = record;
        let number = self.blocks[block].first_page + page;
        // QEMU goes through its memory in order; where it begins anew, so does a round.
        if self.last_page.is_some_and(|last| number <= last) {
            self.flush()?;
            self.end_round()?;
        }
        // A page is in a batch once; and what was sent of it last is known only when that is sent.
        if self.batch.contains(number) {
            self.flush()?;
        }
        self.last_page = Some(number);
        self.round.records += 1;
        match self.holding {
            None => self.pass_on(block, page, Some(named), content),
            Some(holding) => {
                if self.holds(number, content, holding.pages) {
                    self.differs = true;
                    return Ok(());
                }
                // Until a record is left out, the stream is the source's to the byte. From then on, whether one must name its
                // block is another matter than it was.
                let named = (!self.differs).then_some(named);
                self.pass_on(block, page, named, content)
            }
        }
    }

    fn section_end(&mut self, last: bool) -> Result<(), C::Error> {
        let now = self.round.round;
        let rests = |held: &Held| last || held.round + 1 < now;
        let ready: Vec<u64> =
            self.held.iter().filter(|(_, held)| rests(held)).map(|(&number, _)| number).collect();
        for number in ready {
            if let (Some(held), Some((block, page))) = (self.held.remove(&number), self.place(number)) {
                self.pass_on(block, page, None, held.content.as_deref())?;
            }
        }
        Ok(())
    }

    fn idle(&mut self) -> Result<(), C::Error> {
        self.flush()
    }

    fn opaque(&mut self, why: &str, cut: bool) -> Result<(), C::Error> {
        self.to.opaque(why);
        // What comes now may say "the same block as before", and means the source's stream; and nobody tells any more where the
        // pages that are held back belong. A stream that just stops is one that its destination gives up.
        if self.differs && !cut {
            let why = format!("the QEMU stream can't be followed to its end: {why}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why).into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A destination's memory, which is also what was sent last.
    #[derive(Default)]
    struct Memory(HashMap<u64, Page>);

    impl Consumer for Memory {
        type Error = io::Error;

        fn start(&mut self, _: &str, _: &[RamBlock]) -> io::Result<()> {
            Ok(())
        }

        fn pages(&mut self, _: u64, pages: PageSet, bytes: Vec<u8>) -> io::Result<()> {
            self.0.extend(pages.ranges().flatten().zip(bytes.as_chunks().0.iter().copied()));
            Ok(())
        }

        fn script(&mut self, _: Vec<u8>) -> io::Result<()> {
            Ok(())
        }

        fn is_unchanged(&mut self, page: u64, content: &Page) -> bool {
            self.0.get(&page) == Some(content)
        }
    }

    /// A guest with one block, and what has become of it.
    struct Live {
        transcoder: Transcoder<Memory>,
        truth: HashMap<u64, Page>,
    }

    impl Live {
        fn new() -> Self {
            let mut transcoder = Transcoder::live(Memory::default(), Holding { pages: 8 });
            let block = RamBlock { name: b"pc.ram".to_vec(), first_page: 0, pages: 16 };
            transcoder.blocks("pc", &[block]).unwrap();
            Live { transcoder, truth: HashMap::new() }
        }

        fn record(&mut self, page: u64, value: u8) {
            let content = [value; PAGE_SIZE];
            self.truth.insert(page, content);
            let record = Record { block: 0, page, named: false, content: (value != 0).then_some(&content) };
            self.transcoder.record(record).unwrap();
        }

        fn section_end(&mut self, last: bool) {
            self.transcoder.section_end(last).unwrap();
        }

        #[track_caller]
        fn arrives(mut self) {
            self.section_end(true);
            let memory = self.transcoder.finish().unwrap().0;
            assert!(memory == self.truth);
        }
    }

    /// Keeps scripts; pages do not matter to it.
    #[derive(Default)]
    struct Scripts(Vec<u8>);

    impl Consumer for Scripts {
        type Error = io::Error;

        fn start(&mut self, _: &str, _: &[RamBlock]) -> io::Result<()> {
            Ok(())
        }

        fn pages(&mut self, _: u64, _: PageSet, _: Vec<u8>) -> io::Result<()> {
            Ok(())
        }

        fn script(&mut self, script: Vec<u8>) -> io::Result<()> {
            self.0.extend(script);
            Ok(())
        }
    }

    #[test]
    fn a_live_stream_that_sends_no_page_twice_is_the_sources_to_the_byte() {
        let scripts = |mut transcoder: Transcoder<Scripts>| {
            let block = RamBlock { name: b"pc.ram".to_vec(), first_page: 0, pages: 16 };
            transcoder.blocks("pc", &[block]).unwrap();
            // As in a stream: the first record names its block, others do not, also behind pages that are left out or other bytes.
            for (page, named) in [(0, true), (1, false), (4, false), (9, false), (12, true)] {
                transcoder.record(Record { block: 0, page, named, content: Some(&[1; PAGE_SIZE]) }).unwrap();
                if page == 4 {
                    transcoder.section_end(false).unwrap();
                    transcoder.bytes(b"the end of a section").unwrap();
                }
            }
            transcoder.finish().unwrap().0
        };
        let kept = scripts(Transcoder::new(Scripts::default(), None));
        let live = scripts(Transcoder::live(Scripts::default(), Holding { pages: 8 }));
        assert!(!kept.is_empty());
        assert_eq!(live, kept);
    }

    #[test]
    fn a_page_that_was_held_and_is_as_before_again_arrives_as_it_is() {
        let mut live = Live::new();
        // The third version is held back: the destination has the second.
        for version in 1..=3 {
            live.record(5, version);
            live.section_end(false);
        }
        // It rests for a round, and is passed on at the end of a section.
        for version in 1..=2 {
            live.record(1, version);
            live.section_end(false);
        }
        live.record(2, 9);
        // In the same round it becomes what the destination had.
        live.record(5, 2);
        live.arrives();
    }

    #[test]
    fn any_order_of_versions_ends_with_the_last_ones() {
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..2000 {
            let mut live = Live::new();
            for _ in 0..random(60) {
                match random(8) {
                    0 | 1 => live.section_end(false),
                    2 => live.transcoder.idle().unwrap(),
                    _ => live.record(random(4), random(3) as u8),
                }
            }
            live.arrives();
        }
    }
}
