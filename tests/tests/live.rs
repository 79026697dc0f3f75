//! Sessions: rounds over a guest that changes, blocks of mixed efforts, blocks asked for again, what a destination kept.
//!
//! The slow decoder reads each session, too, and must come to the same memory.

use std::collections::VecDeque;
use std::io::{self, Read, Seek};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

use mig_engine::gpu::Beside;
use mig_engine::image::WriteAs;
use mig_engine::live::{
    self, Applied, Arrival, Arrivals, Batched, Choice, Decoder, Destination, Encoder, FlatFile, Have,
    InMemory, Introspection, LastSent, LateGuest, Next, OutFrame, Rounds, Setup,
};
use mig_engine::{
    Cancel, CpuWorker, DecodeError, DecodeLimits, Effort, FileStore, Frame, FrameRead, FrameReader, Header,
    How, ImageFormat, ImageLayout, OpaqueStore, PageSet, PageStore, Reach, Reference, Techniques,
};
use mig_tests::engine::{self, References, level, open_image};
use mig_tests::guests::linux::{self, Size};
use mig_tests::handmade::Random;
use mig_tests::reference::{self, PAGE, Rules};
use mig_tests::{compare, sample};

const PAGES: u64 = 2048;
const BLOCK: u64 = 512;

fn header(references: &[Reference]) -> Header {
    let needs = references.iter().map(|reference| reference.need().clone()).collect();
    let layout = open_image(sample::memory()).layout().clone();
    assert_eq!(layout.format(), ImageFormat::Raw);
    Header::new(layout, Effort::Balanced, BLOCK, needs)
}

fn setup<'a>(references: &'a [Reference], worker: &'a CpuWorker) -> Setup<'a> {
    let header = header(references);
    let top = Effort::AVAILABLE[Effort::AVAILABLE.len() - 1];
    static NOBODY: LazyLock<Beside> = LazyLock::new(Beside::default);
    let (beside, cancel) = (&*NOBODY, Cancel::new());
    Setup {
        header,
        references,
        introspection: Introspection::Off,
        worker,
        beside,
        level: level(),
        top,
        techniques: Techniques::ALL,
        cancel,
    }
}

/// One effort for all.
fn always(effort: Effort) -> impl Fn(Next) -> Choice + Sync {
    move |_| Choice::always(effort, BLOCK)
}

/// Every effort and block size in turn.
fn mixed() -> impl Fn(Next) -> Choice + Sync {
    let count = AtomicUsize::new(0);
    move |_| {
        let count = count.fetch_add(1, Ordering::Relaxed);
        let effort = Effort::AVAILABLE[count % Effort::AVAILABLE.len()];
        let reach = if count % 7 == 6 { Reach::Guest } else { Reach::All };
        Choice { how: How { effort, reach }, ..Choice::always(effort, 100 + count as u64 * 37 % BLOCK) }
    }
}

/// A destination in memory, with the pieces that came.
struct Memory {
    store: engine::Store,
    pieces: Mutex<Vec<u8>>,
}

impl Memory {
    fn new(layout: &ImageLayout) -> Self {
        Memory { store: engine::Store::new(layout), pieces: Mutex::default() }
    }
}

impl PageStore for Memory {
    fn write(&self, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        self.store.write(first_page, bytes)
    }

    fn write_zero(&self, first_page: u64, pages: u64) -> io::Result<()> {
        self.store.write_zero(first_page, pages)
    }

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> io::Result<()> {
        self.store.read(page, offset, out)
    }
}

impl OpaqueStore for Memory {
    fn write_opaque(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.store.write_opaque(offset, bytes)
    }
}

impl Destination for Memory {
    fn piece(&self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.pieces.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }
}

/// A guest whose pages change, and a session that follows it.
struct Guest {
    memory: Vec<u8>,
    random: Random,
}

impl Guest {
    fn page(&mut self, page: u64) -> &mut [u8] {
        &mut self.memory[page as usize * PAGE..][..PAGE]
    }

    /// Changes some words of a page.
    fn scribble(&mut self, page: u64) {
        for _ in 0..4 {
            let (at, word) = (self.random.below(512) as usize * 8, self.random.word());
            self.page(page)[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
    }

    fn capture(&self, pages: &PageSet) -> Vec<u8> {
        let ranges = pages.ranges().map(|range| range.start as usize * PAGE..range.end as usize * PAGE);
        ranges.flat_map(|range| self.memory[range].to_vec()).collect()
    }
}

fn set(pages: impl IntoIterator<Item = u64>) -> PageSet {
    let mut pages: Vec<u64> = pages.into_iter().collect();
    pages.sort_unstable();
    pages.dedup();
    PageSet::from_ranges(pages.into_iter().map(|page| page..page + 1)).unwrap()
}

fn write(stream: &mut Vec<u8>, frame: &OutFrame<'_>) {
    frame.parts().for_each(|part| stream.extend_from_slice(part));
}

/// Sends a guest through several rounds; gives the stream, the guest's memory at its end, and the bytes of each round.
fn session(
    references: &[Reference],
    past: &mut dyn LastSent,
    choose: live::Choose<'_>,
) -> (Vec<u8>, Vec<u8>, Vec<Batched>) {
    let worker = CpuWorker { level: level() };
    let mut encoder = Encoder::new(setup(references, &worker)).unwrap();
    let mut guest = Guest { memory: sample::older().to_vec(), random: Random::new(5) };
    let mut stream = Vec::new();
    let mut rounds = Vec::new();
    write(&mut stream, &encoder.header());
    let mut send = |round, guest: &Guest, pages: &PageSet, stream: &mut Vec<u8>| {
        let bytes = guest.capture(pages);
        let mut sink = |frame: OutFrame<'static>| {
            write(stream, &frame);
            Ok(())
        };
        encoder.batch(round, pages, &bytes, past, choose, &mut sink).unwrap()
    };
    // All of it, in batches of different sizes.
    for range in [0..700, 700..701, 701..PAGES] {
        rounds.push(send(0, &guest, &set(range), &mut stream));
    }
    // What a desktop changed in ten minutes.
    let differs = |page: &u64| {
        let page = *page as usize;
        sample::page(sample::memory(), page) != sample::page(sample::older(), page)
    };
    let dirty = set((0..PAGES).filter(differs));
    for page in dirty.ranges().flatten() {
        let new = sample::page(sample::memory(), page as usize).to_vec();
        guest.page(page).copy_from_slice(&new);
    }
    rounds.push(send(1, &guest, &dirty, &mut stream));
    // Words change; pages move, swap, become zero, become others; many are as they were.
    for round in 2..6 {
        let mut dirty: Vec<u64> = (0..200).map(|_| guest.random.below(PAGES)).collect();
        for &page in &dirty[..100] {
            guest.scribble(page);
        }
        for pair in dirty[100..160].to_vec().chunks(2) {
            let (one, other) = (guest.page(pair[0]).to_vec(), guest.page(pair[1]).to_vec());
            guest.page(pair[0]).copy_from_slice(&other);
            guest.page(pair[1]).copy_from_slice(&one);
        }
        for &page in &dirty[160..170] {
            guest.page(page).fill(0);
        }
        for pair in dirty[170..180].to_vec().chunks(2) {
            let one = guest.page(pair[0]).to_vec();
            guest.page(pair[1]).copy_from_slice(&one);
        }
        dirty.push(0);
        guest.scribble(0);
        rounds.push(send(round, &guest, &set(dirty), &mut stream));
    }
    let state = vec![round_bytes(&rounds) as u8; 10_000];
    write(&mut stream, &encoder.piece(&state).unwrap());
    write(&mut stream, &encoder.end());
    (stream, guest.memory, rounds)
}

fn round_bytes(rounds: &[Batched]) -> u64 {
    rounds.iter().map(|round| round.bytes).sum()
}

/// A session's header, and the frames after it.
fn begin(stream: &[u8]) -> (Header, FrameReader<&[u8]>) {
    let mut frames = FrameReader::new(stream, 1 << 28);
    let first = frames.read_frame().unwrap().unwrap();
    (live::read_header(&first, DecodeLimits::default()).unwrap(), frames)
}

/// Reads a session with the engine, and with the slow decoder.
fn check(name: &str, stream: &[u8], truth: &[u8], references: &References) -> Applied {
    let (header, frames) = begin(stream);
    let to = Memory::new(&header.layout);
    let cancel = Cancel::new();
    let applied = Decoder::new(&header, &references.at_hand(), level(), &cancel).apply_file(&to, frames);
    let applied = applied.unwrap_or_else(|error| panic!("{name}: {error}"));
    compare::same_bytes("memory", &to.store.into_bytes(), truth)
        .unwrap_or_else(|why| panic!("{name}: {why}"));
    assert_eq!(applied.distinct, PAGES, "{name}");
    let slow = reference::decode_as(stream, &references.bytes(), Rules::Any);
    let slow = slow.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(slow.complete, "{name}");
    compare::same_bytes("slow", &slow.file, truth).unwrap_or_else(|why| panic!("{name}: {why}"));
    let pieces = to.pieces.into_inner().unwrap();
    assert_eq!((pieces.len(), &pieces), (10_000, &slow.pieces), "{name}");
    applied
}

#[test]
fn rounds_arrive_whatever_is_remembered() {
    let all = References::of(Some(sample::disk()), Some(sample::memory()));
    for references in [References::none(), all] {
        let open = references.open(true);
        for (name, limit) in [("nothing", 0), ("little", 1 << 20), ("all", 1 << 26)] {
            let (stream, truth, rounds) = session(&open, &mut InMemory::new(limit), &mixed());
            check(name, &stream, &truth, &references);
            assert_eq!(rounds.len(), 8);
        }
        let mut flat = FlatFile::new(tempfile::tempfile().unwrap(), PAGES).unwrap();
        let (stream, truth, _) = session(&open, &mut flat, &mixed());
        check("a file", &stream, &truth, &references);
        // What the source remembers is then what the destination has.
        let mut kept = vec![0; truth.len()];
        flat.read_pages(0, &mut kept).unwrap();
        compare::same_bytes("kept", &kept, &truth).unwrap();
        assert!(flat.is_complete());
    }
}

/// Remembering pays: words that changed, not pages, travel in later rounds.
#[test]
fn a_page_that_comes_again_is_coded_against_its_last_version() {
    for effort in Effort::AVAILABLE.into_iter().filter(|effort| *effort > Effort::Store) {
        let (_, _, forgetful) = session(&[], &mut InMemory::new(0), &always(effort));
        let (stream, truth, mindful) = session(&[], &mut InMemory::new(1 << 26), &always(effort));
        check(effort.name(), &stream, &truth, &References::none());
        let (without, with) = (round_bytes(&forgetful[3..]), round_bytes(&mindful[3..]));
        eprintln!("{effort}: later rounds take {with} bytes, {without} without what was sent before");
        assert!(with * 2 < without, "{effort}: {with} bytes, {without} without");
        // Pages that are as they were are not sent at all.
        assert!(mindful[4..].iter().all(|round| round.unchanged > 10), "{mindful:?}");
        assert!(forgetful.iter().all(|round| round.unchanged == 0));
    }
}

/// The sibling of the comparisons above: one wrong bit at the end is seen by both decoders.
#[test]
fn a_wrong_session_is_not_taken() {
    let (stream, truth, _) = session(&[], &mut InMemory::new(1 << 26), &always(Effort::Fast));
    let mut other = truth;
    other[77 * PAGE] ^= 1;
    let caught = std::panic::catch_unwind(|| check("changed", &stream, &other, &References::none()));
    assert!(caught.is_err());
}

/// A guest that never rests: hot pages are held back, and what is sent in all stays small.
#[test]
fn pages_that_keep_changing_are_sent_once() {
    let worker = CpuWorker { level: level() };
    let send_all = |hold: bool| {
        let mut encoder = Encoder::new(setup(&[], &worker)).unwrap();
        let mut guest = Guest { memory: sample::memory().to_vec(), random: Random::new(9) };
        let (mut past, mut stream) = (InMemory::new(1 << 24), Vec::new());
        let mut rounds = Rounds::new(PAGES);
        write(&mut stream, &encoder.header());
        let mut send = |round, guest: &Guest, pages: Option<&PageSet>| {
            let Some(pages) = pages else { return Batched::default() };
            let mut sink = |frame: OutFrame<'static>| {
                write(&mut stream, &frame);
                Ok(())
            };
            let bytes = guest.capture(pages);
            encoder.batch(round, pages, &bytes, &mut past, &always(Effort::Fast), &mut sink).unwrap()
        };
        send(0, &guest, Some(&set(0..PAGES)));
        let (mut sent, mut most_held) = (0, 0);
        for round in 1..=10 {
            let hot: Vec<u64> = (100..200).chain((0..10).map(|_| guest.random.below(PAGES))).collect();
            hot.iter().for_each(|&page| guest.scribble(page));
            let dirty = set(hot);
            let now = rounds.next(Some(&dirty), round == 10).unwrap();
            let now = if hold { now } else { Some(dirty) };
            let batched = send(round, &guest, now.as_ref());
            let report = rounds.report(&batched, 1e6);
            assert_eq!(report.round, round);
            most_held = most_held.max(report.held);
            sent += batched.sent;
        }
        assert_eq!(rounds.held(), 0);
        write(&mut stream, &encoder.piece(&[7; 10_000]).unwrap());
        write(&mut stream, &encoder.end());
        check("a guest that never rests", &stream, &guest.memory, &References::none());
        (sent, most_held)
    };
    let ((held, most), (plain, _)) = (send_all(true), send_all(false));
    assert!((100..120).contains(&most), "{most} pages held back");
    // Of ten rounds, the first two and the last carry the hot pages.
    assert!(held < 450 && plain > 1050, "{held} pages sent, {plain} without holding any back");
}

/// A destination whose disk was changed behind its back asks for blocks again, and gets them.
struct Asking<'a> {
    frames: Mutex<VecDeque<(u64, Vec<u8>)>>,
    make: &'a (dyn Fn(u64, u32) -> Vec<u8> + Sync),
    asked: Mutex<Vec<(u64, u32)>>,
    good: Mutex<Vec<u64>>,
}

impl Arrivals for Asking<'_> {
    fn next(&self) -> Result<Option<Arrival>, DecodeError> {
        let next = self.frames.lock().unwrap().pop_front();
        Ok(next.map(|(sequence, bytes)| Arrival { sequence, frame: Frame::parse(&bytes, sequence) }))
    }

    fn again(&self, sequence: u64, attempt: u32, why: DecodeError) -> Result<Arrival, DecodeError> {
        self.asked.lock().unwrap().push((sequence, attempt));
        if attempt > 3 {
            return Err(why);
        }
        let bytes = (self.make)(sequence, attempt);
        Ok(Arrival { sequence, frame: Frame::parse(&bytes, sequence) })
    }

    fn verified(&self, sequence: u64, _: u64) {
        self.good.lock().unwrap().push(sequence);
    }
}

#[test]
fn what_does_not_verify_comes_again_without_references() {
    let good = References::of(Some(sample::disk()), Some(sample::older()));
    let mut disk = sample::disk().to_vec();
    for page in disk.chunks_mut(PAGE).step_by(3) {
        page[100] ^= 1;
    }
    let changed = References::of(Some(&disk), Some(sample::older())).at_hand();
    let open = good.open(true);
    let image = open_image(sample::memory());
    let worker = CpuWorker { level: level() };
    let mut encoder = Encoder::new(setup(&open, &worker)).unwrap();
    let mut frames = Vec::new();
    frames.push(encoder.header());
    let mut sink = |frame: OutFrame<'static>| {
        frames.push(frame);
        Ok(())
    };
    let mut own = |frame: OutFrame<'_>| sink(frame.into_owned());
    encoder.image(&image, None, &always(Effort::Balanced), &mut own).unwrap();
    frames.push(encoder.end());
    let bytes = |frame: &OutFrame<'_>| frame.parts().flatten().copied().collect::<Vec<u8>>();
    let sent: VecDeque<(u64, Vec<u8>)> =
        frames[1..].iter().map(|frame| (frame.sequence(), bytes(frame))).collect();
    let blocks = frames.iter().filter(|frame| frame.pages().is_some()).count();
    assert_eq!(blocks as u64, PAGES / BLOCK);

    let header = &encoder.setup().header;
    let apply = |make: &(dyn Fn(u64, u32) -> Vec<u8> + Sync)| {
        let to = Memory::new(&header.layout);
        let (asked, verified) = (Mutex::default(), Mutex::default());
        let asking = Asking { frames: Mutex::new(sent.clone()), make, asked, good: verified };
        let cancel = Cancel::new();
        let applied = Decoder::new(header, &changed, level(), &cancel).apply(&to, &asking);
        (
            applied,
            to.store.into_bytes(),
            asking.asked.into_inner().unwrap(),
            asking.good.into_inner().unwrap(),
        )
    };
    let alone = |sequence: u64| {
        let pages = frames[sequence as usize].pages().unwrap().clone();
        bytes(&live::alone(encoder.setup(), &image, 0, pages, sequence).unwrap())
    };
    let (applied, memory, asked, verified) = apply(&|sequence, _| alone(sequence));
    let applied = applied.unwrap();
    compare::same_bytes("memory", &memory, sample::memory()).unwrap();
    assert!(!asked.is_empty() && asked.iter().all(|(_, attempt)| *attempt == 1), "{asked:?}");
    assert_eq!(applied.again, asked.len() as u64);
    assert_eq!(verified, (1..frames.len() as u64).collect::<Vec<_>>());

    // A link that spoils a frame twice, and one that always does.
    let spoiled = |sequence, attempt| {
        let mut bytes = alone(sequence);
        if attempt < 3 {
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
        }
        bytes
    };
    let (applied, memory, asked, _) = apply(&spoiled);
    applied.unwrap();
    compare::same_bytes("memory", &memory, sample::memory()).unwrap();
    assert!(asked.iter().any(|(_, attempt)| *attempt == 3));
    let (applied, _, _, verified) = apply(&|sequence, _| {
        let mut bytes = alone(sequence);
        bytes[40] ^= 1;
        bytes
    });
    assert!(applied.is_err());
    assert!(verified.len() < frames.len() - 1, "nothing counts behind what failed");
    // Blocks that stand alone do so: each can be read without anything before it, and without references.
    for frame in frames.iter().filter(|frame| frame.pages().is_some()) {
        let pages = frame.pages().unwrap().clone();
        let block = live::alone(encoder.setup(), &image, 0, pages.clone(), 1).unwrap();
        let mut stream = bytes(&frames[0]);
        write(&mut stream, &block);
        let slow = reference::decode_as(&stream, &[], Rules::Any).unwrap();
        let range = pages.first() as usize * PAGE..pages.end() as usize * PAGE;
        compare::same_bytes("block", &slow.file[range.clone()], &sample::memory()[range]).unwrap();
    }
}

/// What an interrupted destination has is not sent again, and is verified all the same.
#[test]
fn what_is_there_is_only_named() {
    let image = open_image(sample::memory());
    // Most of it survived, but for a part and a flipped bit.
    let mut there = sample::memory().to_vec();
    there[1700 * PAGE..].fill(0);
    there[600 * PAGE] ^= 1;
    let marks = |bytes: &[u8]| {
        let mut records = vec![Default::default(); bytes.len() / PAGE];
        mig_simd::page_scan(level(), bytes, &mut records);
        Have { marks: records.iter().map(|record| Have::mark(record.fingerprint128())).collect() }
    };
    let differ = (0..PAGES as usize)
        .filter(|&page| sample::page(&there, page) != sample::page(sample::memory(), page));
    let differ = differ.count() as u64;
    assert!(differ > 100, "{differ}");
    let send = |have: &Have| {
        let worker = CpuWorker { level: level() };
        let mut encoder = Encoder::new(setup(&[], &worker)).unwrap();
        let (mut stream, mut kept, mut kept_bytes, mut sent) = (Vec::new(), 0, 0, 0);
        write(&mut stream, &encoder.header());
        let mut sink = |frame: OutFrame<'_>| {
            let pages = frame.pages().map_or(0, PageSet::len);
            if frame.is_kept() {
                kept += pages;
                kept_bytes += frame.len();
            } else {
                sent += pages;
            }
            write(&mut stream, &frame);
            Ok(())
        };
        encoder.image(&image, Some(have), &mixed(), &mut sink).unwrap();
        write(&mut stream, &encoder.end());
        assert_eq!(kept + sent, PAGES);
        (stream, sent, kept_bytes)
    };
    let apply = |stream: &[u8], there: &[u8]| {
        let (header, frames) = begin(stream);
        let to = Memory::new(&header.layout);
        to.store.write(0, there).unwrap();
        let applied = Decoder::new(&header, &[], level(), &Cancel::new()).apply_file(&to, frames);
        (applied, to.store.into_bytes())
    };
    let (stream, sent, kept_bytes) = send(&marks(&there));
    assert_eq!(sent, differ);
    assert!(kept_bytes < 4000, "{kept_bytes} bytes to name what is there");
    let (applied, memory) = apply(&stream, &there);
    assert_eq!(applied.unwrap().distinct, PAGES);
    compare::same_bytes("memory", &memory, sample::memory()).unwrap();
    // A destination that does not have it after all notices.
    let error = apply(&stream, &vec![0; there.len()]).0.unwrap_err();
    assert!(matches!(error, DecodeError::Digest { .. }), "{error}");
    // And so it does where two pages share a mark.
    let mut wrong = marks(&there);
    wrong.marks[600] = marks(sample::memory()).marks[600];
    let (stream, _, _) = send(&wrong);
    assert!(matches!(apply(&stream, &there).0, Err(DecodeError::Digest { .. })));
    // All of it there, and nothing of it.
    let (stream, sent, _) = send(&marks(sample::memory()));
    assert_eq!(sent, 0);
    apply(&stream, sample::memory()).0.unwrap();
    let (stream, _, _) = send(&Have::default());
    let (applied, memory) = apply(&stream, &vec![0; there.len()]);
    applied.unwrap();
    compare::same_bytes("memory", &memory, sample::memory()).unwrap();
}

/// A block may leave pages for later ones: each is brought once, whoever counts them.
#[test]
fn all_pages_are_brought_once() {
    let linux = linux::guest(Size::SMALL);
    let image = open_image(&linux.memory);
    let (guest, references) = live::read_image(&image, &[], None, &Cancel::new()).unwrap();
    let worker = CpuWorker { level: level() };
    let header = Header::new(image.layout().clone(), Effort::Fast, 512, Vec::new());
    let setup = Setup { header, introspection: guest.as_ref().into(), ..setup(&references, &worker) };
    let mut encoder = Encoder::new(setup).unwrap();
    let (mut brought, mut named) = (0, 0);
    let mut sink = |frame: OutFrame<'_>| {
        brought += frame.delivers();
        named += frame.pages().map_or(0, PageSet::len);
        Ok(())
    };
    encoder.image(&image, None, &always(Effort::Fast), &mut sink).unwrap();
    assert_eq!(brought, image.page_count());
    assert!(named > brought + 100, "{named} pages named, {brought} brought: none was left for later");
}

/// A guest that is read on the way: its pages so far stay as they came, the others come in the order in which it sees them, and a block that
/// has to come again, from before or after that, can still be read.
#[test]
fn a_guest_is_read_late() {
    let linux = linux::guest(Size::SMALL);
    let image = open_image(&linux.memory);
    let worker = CpuWorker { level: level() };
    let header = Header::new(image.layout().clone(), Effort::Fast, 512, Vec::new());
    for asked in [0, 2, 3, u64::MAX] {
        let late = LateGuest::new(None);
        let introspection = Introspection::Later(&late);
        let setup = Setup { header: header.clone(), introspection, ..setup(&[], &worker) };
        let mut encoder = Encoder::new(setup).unwrap();
        let mut stream = Vec::new();
        write(&mut stream, &encoder.header());
        let count = AtomicUsize::new(0);
        let choose = |_| {
            let count = count.fetch_add(1, Ordering::Relaxed) as u64;
            let effort = if count < asked && count.is_multiple_of(2) { Effort::Store } else { Effort::Fast };
            Choice { guest: count >= asked, ..Choice::always(effort, 256) }
        };
        let (mut brought, mut left, mut frames) = (0, 0, Vec::new());
        let mut sink = |frame: OutFrame<'_>| {
            let delivers = frame.delivers();
            brought += delivers;
            left += frame.pages().map_or(0, PageSet::len) - delivers;
            write(&mut stream, &frame);
            frames.push(frame.into_owned());
            Ok(())
        };
        encoder.image(&image, None, &choose, &mut sink).unwrap();
        write(&mut stream, &encoder.end());
        assert_eq!(brought, image.page_count());
        assert_eq!((left > 0, late.is_read()), (asked < 4, asked < 4), "{left} pages left for later");
        compare::same_bytes("the file", &file_of(&stream), &linux.memory).unwrap();
        let slow = reference::decode_as(&stream, &[], Rules::Any).unwrap();
        compare::same_bytes("slow decoder", &slow.file, &linux.memory).unwrap();
        for frame in &frames {
            let pages = frame.pages().unwrap().clone();
            live::alone(encoder.setup(), &image, 0, pages, frame.sequence()).unwrap();
        }
    }
}

/// Of batches there is no image to read a guest in: they come whole, whatever is asked for.
#[test]
fn batches_do_not_wait_for_a_guest() {
    let worker = CpuWorker { level: level() };
    let late = LateGuest::new(None);
    let introspection = Introspection::Later(&late);
    let mut encoder = Encoder::new(Setup { introspection, ..setup(&[], &worker) }).unwrap();
    let mut stream = Vec::new();
    write(&mut stream, &encoder.header());
    let mut past = InMemory::new(u64::MAX);
    let mut sink = |frame: OutFrame<'_>| {
        write(&mut stream, &frame);
        Ok(())
    };
    let (pages, choose) = (set(0..PAGES), always(Effort::Fast));
    let sent = encoder.batch(0, &pages, sample::memory(), &mut past, &choose, &mut sink).unwrap();
    assert_eq!((sent.sent, late.is_read()), (PAGES, false));
    write(&mut stream, &encoder.end());
    compare::same_bytes("the file", &file_of(&stream), sample::memory()).unwrap();
}

/// A guest that was read when its first round was there tells addresses of pages that come again, until its kernel's note has changed: then it
/// was started anew, and what was read is of another one.
#[test]
fn a_guest_that_was_started_anew_is_not_believed_any_more() {
    let linux = linux::guest(Size::SMALL);
    let image = open_image(&linux.memory);
    let worker = CpuWorker { level: level() };
    let header = Header::new(image.layout().clone(), Effort::Fast, 512, Vec::new());
    let late = LateGuest::new(None);
    let setup = Setup { header, introspection: Introspection::Later(&late), ..setup(&[], &worker) };
    let mut encoder = Encoder::new(setup).unwrap();
    let (mut stream, choose) = (Vec::new(), always(Effort::Fast));
    write(&mut stream, &encoder.header());
    let addresses = |frames: &[OutFrame<'_>]| -> u64 {
        frames.iter().filter_map(OutFrame::stats).map(|stats| stats.address_bytes).sum()
    };
    let mut frames = Vec::new();
    let mut sink = |frame| {
        frames.push(frame);
        Ok(())
    };
    encoder.gathered(&image, &set(0..image.page_count()), &choose, &mut sink).unwrap();
    assert!(late.is_read() && addresses(&frames) > 0);
    frames.iter().for_each(|frame| write(&mut stream, frame));

    // Nothing is kept of what was sent, so no page has a base; the note comes again as it was, then changed, then not at all.
    let mut guest = Guest { memory: linux.memory.clone(), random: Random::new(8) };
    let heaps = linux.places.iter().zip(0..).filter(|((process, _), _)| process.is_some());
    let heaps: Vec<u64> = heaps.map(|(_, page)| page).collect();
    let mut told = Vec::new();
    for round in 1..=3 {
        heaps.iter().for_each(|&page| guest.scribble(page));
        if round == 2 {
            guest.page(linux.parts.note)[2000] ^= 1;
        }
        let note = (round < 3).then_some(linux.parts.note);
        let pages = set(heaps.iter().copied().chain(note));
        let bytes = guest.capture(&pages);
        let mut frames = Vec::new();
        let mut sink = |frame| {
            frames.push(frame);
            Ok(())
        };
        encoder.batch(round, &pages, &bytes, &mut InMemory::new(0), &choose, &mut sink).unwrap();
        told.push(addresses(&frames) > 0);
        frames.iter().for_each(|frame| write(&mut stream, frame));
    }
    assert_eq!(told, [true, false, false]);
    write(&mut stream, &encoder.end());
    compare::same_bytes("the file", &file_of(&stream), &guest.memory).unwrap();
}

/// An image file, whose zero pages are holes, takes rounds in which pages have become zero, and what is like them.
#[test]
fn an_image_file_takes_pages_that_have_become_zero() {
    let worker = CpuWorker { level: level() };
    let mut encoder = Encoder::new(setup(&[], &worker)).unwrap();
    let mut past = InMemory::new(u64::MAX);
    let mut guest = Guest { memory: sample::memory().to_vec(), random: Random::new(6) };
    let mut stream = Vec::new();
    write(&mut stream, &encoder.header());
    for round in 0..3 {
        let pages = match round {
            0 => set(0..PAGES),
            1 => set(100..400),
            _ => set(200..300),
        };
        for page in pages.ranges().flatten() {
            match round {
                1 => guest.page(page).fill(0),
                // A page that was zero is nearly the one that the file had before.
                2 => {
                    let old = sample::page(sample::memory(), page as usize).to_vec();
                    guest.page(page).copy_from_slice(&old);
                    guest.scribble(page);
                }
                _ => {}
            }
        }
        let bytes = guest.capture(&pages);
        let mut sink = |frame: OutFrame<'static>| {
            write(&mut stream, &frame);
            Ok(())
        };
        encoder.batch(round, &pages, &bytes, &mut past, &always(Effort::Balanced), &mut sink).unwrap();
    }
    write(&mut stream, &encoder.end());
    compare::same_bytes("the file", &file_of(&stream), &guest.memory).unwrap();
}

/// The image file that a session's rounds leave.
fn file_of(stream: &[u8]) -> Vec<u8> {
    let (header, frames) = begin(stream);
    let folder = std::env::temp_dir();
    let file = tempfile::tempfile_in(&folder).unwrap();
    let store = FileStore::new(file, &header.layout, WriteAs::Same, &folder).unwrap().for_rounds();
    Decoder::new(&header, &[], level(), &Cancel::new()).apply_file(&store, frames).unwrap();
    let mut found = Vec::new();
    let mut file = store.into_file();
    file.rewind().unwrap();
    file.read_to_end(&mut found).unwrap();
    found
}

/// A guest that can be read goes on: what comes again does so in order, whatever the guest says, since a block must know what the
/// destination has of every other page.
#[test]
fn rounds_of_a_guest_that_can_be_read() {
    let linux = linux::guest(Size::SMALL);
    let image = open_image(&linux.memory);
    let (guest, references) = live::read_image(&image, &[], None, &Cancel::new()).unwrap();
    assert!(guest.is_some());
    let worker = CpuWorker { level: level() };
    let header = Header::new(image.layout().clone(), Effort::Fast, 64, Vec::new());
    let mut encoder =
        Encoder::new(Setup { header, introspection: guest.as_ref().into(), ..setup(&references, &worker) })
            .unwrap();
    let mut stream = Vec::new();
    write(&mut stream, &encoder.header());
    let mut past = InMemory::new(u64::MAX);
    let choose = |_| Choice::always(Effort::Fast, 64);
    let mut sink = |frame: OutFrame<'_>| {
        write(&mut stream, &frame);
        Ok(())
    };
    encoder.image(&image, None, &choose, &mut sink).unwrap();
    past.sent(0, &linux.memory);
    let mut now = Guest { memory: linux.memory.clone(), random: Random::new(8) };
    for round in 1..4 {
        // Pages move by some, and are written to, so that each is like another that changes, too.
        let moved = 3 * round as usize * PAGE;
        now.memory.rotate_left(moved);
        let pages = image.page_count();
        (0..pages).step_by(3).for_each(|page| now.scribble(page));
        let all = set(0..pages);
        let bytes = now.capture(&all);
        encoder.batch(round, &all, &bytes, &mut past, &choose, &mut |frame| sink(frame)).unwrap();
    }
    write(&mut stream, &encoder.end());
    compare::same_bytes("the file", &file_of(&stream), &now.memory).unwrap();
}
