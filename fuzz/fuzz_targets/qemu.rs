//! QEMU migration streams, or what somebody takes for one.
//!
//! Recorded, any bytes come back byte for byte, whatever of them was understood. Live, the destination's stream makes the same
//! memory as the source's and the same bytes behind it, or there is an error. In neither case is there a panic, nor memory by
//! the word of the stream.
#![no_main]

use std::collections::{BTreeMap, HashMap};
use std::io;

use libfuzzer_sys::fuzz_target;
use mig_engine::qemu::{
    Consumer, Events, FromFile, Holding, Input, Parser, RamBlock, Rebuilder, Record, Transcoder,
};
use mig_engine::{PAGE_SIZE, Page, PageSet};

/// Runs scripts over the pages that came, at once.
struct There {
    memory: HashMap<u64, Page>,
    rebuilder: Option<Rebuilder<Vec<u8>>>,
}

impl There {
    fn new() -> Self {
        There { memory: HashMap::new(), rebuilder: None }
    }

    fn out(self) -> Vec<u8> {
        self.rebuilder.expect("a start").into_output()
    }
}

impl Consumer for There {
    type Error = io::Error;

    fn start(&mut self, _: &str, blocks: &[RamBlock]) -> io::Result<()> {
        let pages = blocks.iter().map(|block| block.pages).sum();
        assert!(self.rebuilder.replace(Rebuilder::new(Vec::new(), pages)).is_none(), "two starts");
        Ok(())
    }

    fn pages(&mut self, _: u64, pages: PageSet, bytes: Vec<u8>) -> io::Result<()> {
        let (content, rest) = bytes.as_chunks::<PAGE_SIZE>();
        assert!(rest.is_empty() && content.len() as u64 == pages.len());
        self.memory.extend(pages.ranges().flatten().zip(content.iter().copied()));
        Ok(())
    }

    fn script(&mut self, script: Vec<u8>) -> io::Result<()> {
        let memory = &self.memory;
        let rebuilder = self.rebuilder.as_mut().expect("a start");
        let done = rebuilder.run(&script, &mut |first, to| {
            for (number, to) in (first..).zip(to.as_chunks_mut().0) {
                *to = memory.get(&number).copied().unwrap_or([0; PAGE_SIZE]);
            }
            Ok(())
        });
        done.expect("our own script");
        Ok(())
    }

    fn is_unchanged(&mut self, page: u64, content: &Page) -> bool {
        self.memory.get(&page) == Some(content)
    }
}

/// What a destination would make of a stream.
#[derive(Default, PartialEq)]
struct Loaded {
    memory: BTreeMap<(usize, u64), Page>,
    /// Bytes since the last page.
    behind: Vec<u8>,
    blocks: Vec<RamBlock>,
    is_cut: bool,
}

impl Events for Loaded {
    type Error = io::Error;

    fn blocks(&mut self, _: &str, blocks: &[RamBlock]) -> io::Result<()> {
        self.blocks = blocks.to_vec();
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.behind.extend_from_slice(bytes);
        Ok(())
    }

    fn record(&mut self, record: Record<'_>) -> io::Result<()> {
        let content = record.content.copied().unwrap_or([0; PAGE_SIZE]);
        self.memory.insert((record.block, record.page), content);
        self.behind.clear();
        Ok(())
    }

    fn opaque(&mut self, _: &str, cut: bool) -> io::Result<()> {
        self.is_cut = cut;
        Ok(())
    }
}

/// Brings a stream in parts, with a pause before some.
struct Parts<'s> {
    rest: &'s [u8],
    len: usize,
    paused: bool,
}

impl Input for Parts<'_> {
    fn read(&mut self, to: &mut [u8], wait: bool) -> io::Result<Option<usize>> {
        self.paused = !wait && !self.paused && self.rest.len() % 3 == 0;
        if self.paused {
            return Ok(None);
        }
        let (now, later) = self.rest.split_at(self.len.min(self.rest.len()).min(to.len()));
        to[..now.len()].copy_from_slice(now);
        self.rest = later;
        Ok(Some(now.len()))
    }
}

fn loaded(stream: &[u8]) -> Loaded {
    let mut loaded = Loaded::default();
    Parser::new(FromFile(stream)).run(&mut loaded).expect("memory has no errors");
    loaded
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, stream)) = bytes.split_first() else { return };
    let input = || Parts { rest: stream, len: 1 + usize::from(choice) * 40, paused: false };
    let mut exact = Transcoder::exact(There::new());
    Parser::new(input()).run(&mut exact).expect("what a stream holds is no error");
    assert!(exact.finish().expect("no error").out() == stream, "another stream came back");

    let mut live = Transcoder::live(There::new(), Holding { pages: usize::from(choice % 4) });
    if Parser::new(input()).run(&mut live).is_err() {
        return;
    }
    let out = live.finish().expect("no error").out();
    let (wanted, found) = (loaded(stream), loaded(&out));
    // A stream that stops in the middle is given up, and so is its copy.
    assert_eq!(wanted.is_cut, found.is_cut);
    if !wanted.is_cut {
        assert!(wanted.blocks == found.blocks && wanted.memory == found.memory, "another memory");
        // Pages that are held back may come later, and unchanged ones never.
        let (one, other) = (&wanted.behind, &found.behind);
        assert!(one.ends_with(other) || other.ends_with(one), "another end");
    }
});
