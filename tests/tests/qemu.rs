//! QEMU streams: whatever they hold, they come back byte for byte; live, a destination ends up with the same memory.
//!
//! The slow decoder rebuilds each stream, too.

use std::cell::RefCell;
use std::io;

use mig_engine::live::{Choice, Decoder, LateGuest};
use mig_engine::qemu::{
    Coder, Consumer, FromFile, Holding, Input, Out, Parser, Rebuilt, RoundEnd, StreamError, Transcoder,
    flatten, is_stream, machine_of, pack, unpack,
};
use mig_engine::{Cancel, DecodeLimits, Effort, FrameReader, MemoryImage, Reference, Unpacker, live};
use mig_tests::engine::{References, coding, level};
use mig_tests::handmade::Random;
use mig_tests::qemu::{Guest, MACHINE, Writer, load};
use mig_tests::reference::{self, PAGE, Rules};
use mig_tests::{compare, sample};

fn dir() -> std::path::PathBuf {
    std::env::temp_dir()
}

/// Packs a stream as it comes, or with its first round gathered.
fn packed(
    stream: &[u8],
    references: &[Reference],
    effort: Effort,
    gather: bool,
) -> (Vec<u8>, mig_engine::qemu::Packed) {
    let guest = LateGuest::new(None);
    let coding = coding(references, effort, gather.then_some(&guest));
    let mut out = Vec::new();
    let packed = pack(FromFile(stream), coding, &dir(), &mut out, None).unwrap();
    assert_eq!(packed.stream_bytes, out.len() as u64);
    (out, packed)
}

fn unpacked(stream: &[u8], references: &[Option<Reference>]) -> Vec<u8> {
    let (header, frames) = Unpacker::new(stream, DecodeLimits::default()).unwrap().into_parts();
    let mut out = Vec::new();
    unpack(&header, references, level(), frames, &dir(), &mut out, &Cancel::new()).unwrap();
    out
}

/// Packs a stream and unpacks it with both decoders; gives what packing says of it.
fn round_trip(name: &str, stream: &[u8]) -> mig_engine::qemu::Packed {
    let [packed, gathered] = [false, true].map(|gather| {
        let (bytes, packed) = packed(stream, &[], Effort::Fast, gather);
        compare::same_bytes("engine", &unpacked(&bytes, &[]), stream)
            .unwrap_or_else(|why| panic!("{name}: {why}"));
        let slow =
            reference::decode_as(&bytes, &[], Rules::Any).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(slow.complete, "{name}");
        compare::same_bytes("slow", &slow.qemu, stream).unwrap_or_else(|why| panic!("{name}: {why}"));
        packed
    });
    assert_eq!((packed.records, &packed.opaque), (gathered.records, &gathered.opaque), "{name}");
    packed
}

#[test]
fn a_migration_comes_back_byte_for_byte() {
    let mut guest = Guest::new(7);
    let stream = guest.migrate(6);
    assert!(is_stream(&stream[..4096]));
    let (machine, blocks) = machine_of(&stream[..4096]);
    assert_eq!(machine, "pc-i440fx-7.2");
    let list: Vec<(&[u8], u64)> = blocks.iter().map(|block| (&block.name[..], block.pages)).collect();
    assert_eq!(list, MACHINE.map(|(name, pages)| (name.as_bytes(), pages)));
    let references = References::of(Some(sample::disk()), Some(sample::memory()));
    let open = references.open(true);
    let mut sizes = Vec::new();
    for effort in Effort::AVAILABLE {
        for given in [&[][..], &open] {
            for gather in [false, true] {
                let (bytes, packed) = packed(&stream, given, effort, gather);
                assert_eq!(packed.opaque, None);
                let at_hand = if given.is_empty() { Vec::new() } else { references.at_hand() };
                compare::same_bytes(effort.name(), &unpacked(&bytes, &at_hand), &stream).unwrap();
                let slow_given = if given.is_empty() { Vec::new() } else { references.bytes() };
                let slow = reference::decode_as(&bytes, &slow_given, Rules::Any).unwrap();
                compare::same_bytes("slow", &slow.qemu, &stream).unwrap();
                compare::same_bytes("memory", &slow.file, &guest.memory).unwrap();
                sizes.push(bytes.len());
            }
        }
    }
    eprintln!("{} bytes to {sizes:?}", stream.len());
    assert!(sizes.iter().all(|&size| size < stream.len()));
    // As an image, it is the memory at its end.
    let (file, layout) = flatten(&stream[..], &dir()).unwrap();
    assert_eq!(layout.segments()[0].gpa, Some(0));
    let image = MemoryImage::from_file(file, None).unwrap();
    compare::same_bytes("memory", image.map().bytes(), &guest.memory).unwrap();
    let spooled = MemoryImage::spool(&stream[..], &dir(), None).unwrap();
    assert_eq!(spooled.layout(), &layout);
}

/// Streams that are odd in some way, each with what is said of it.
fn odd() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let mut list = Vec::new();
    let page = |seed| Random::new(seed).page().to_vec();
    let mut add = |name, writer: &Writer, why| list.push((name, writer.bytes.clone(), why));
    let start = || Writer::new(&[]);
    add("nothing but the start", &start(), Some("it ends in the middle"));
    let mut writer = start();
    writer.begin(false).page(0, 3, &page(1)).page(0, 4, &page(2)).page(0, 3, &page(3)).end();
    writer.begin(true).page(0, 3, &page(1)).end().devices(b"x");
    add("a page again in one section", &writer, None);
    let mut writer = start();
    writer.begin(true).record(0, 5, &[0; PAGE], true, false).page(0, 6, &[0; PAGE]).page(0, 7, &page(4));
    writer.record(0, 8, &[0; PAGE], false, false).end().devices(b"x");
    add("zeros in full", &writer, None);
    let mut writer = start();
    writer.begin(true).page(0, 1, &page(5)).record(0, 2, &page(6), true, false).page(1, 0, &page(7));
    writer.page(0, 511, &page(8)).end().devices(&[7; 3_000_000]);
    add("names where none is needed, and much device state", &writer, None);
    let mut writer = start();
    writer.begin(false).record(0, 9, &page(9), false, false).end().devices(b"x");
    add("no name at all", &writer, Some("a page of a block that is not known"));
    let mut writer = start();
    writer.begin(false).page(2, 4, &page(9)).end();
    add("a page beyond its block", &writer, Some("a page beyond its block"));
    let mut writer = start();
    writer.begin(false).page(0, 4, &page(9)).raw(&(0x40u64 | 7 << 12).to_be_bytes()).raw(b"\x06pc.ram\x01");
    add("xbzrle", &writer, Some("a RAM record with flags 0x40"));
    let mut writer = start();
    writer.raw(&[2, 0, 0, 0, 9, 1, 2, 3]);
    add("another section that goes on", &writer, Some("another section than ram goes on in parts"));
    let mut writer = start();
    writer.raw(&[8, 0, 3, 0, 2, 1, 1]).begin(false).page(0, 4, &page(9)).end();
    add("postcopy", &writer, Some("command 3"));
    let mut writer = start();
    writer.raw(&[8, 0, 2, 0, 4, 1, 2, 3, 4]).begin(true).page(0, 4, &page(9)).end().devices(b"x");
    add("a ping", &writer, None);
    for name in ["multifd", "xbzrle", "postcopy-ram"] {
        let mut writer = Writer::new(&["events", name]);
        writer.begin(true).page(0, 4, &page(9)).end().devices(b"x");
        add("a capability", &writer, Some("the capability"));
    }
    let cut = start().bytes.len() - 30;
    let mut other = start();
    other.bytes.truncate(cut);
    add("cut in the list of blocks", &other, Some("it ends in the middle"));
    let mut writer = Writer::default();
    writer.raw(b"QEVM\0\0\0\x02");
    add("version 2", &writer, Some("version 2"));
    let mut writer = Writer::default();
    writer.raw(b"no stream at all").raw(&page(3));
    add("something else", &writer, Some("magic"));
    add("nothing", &Writer::default(), Some("it ends in the middle"));
    // Another section stands before RAM: it is passed over.
    let plain = start().bytes;
    let at = plain.windows(4).position(|bytes| bytes == b"\x03ram").unwrap() - 5;
    let mut writer = Writer::default();
    writer
        .raw(&plain[..at])
        .raw(b"\x01\0\0\0\x01\x05slirp\0\0\0\0\0\0\0\x01")
        .raw(&[1; 50])
        .raw(&plain[at..]);
    writer.begin(true).page(0, 4, &page(9)).end().devices(b"x");
    add("a section before RAM", &writer, None);
    list
}

#[test]
fn what_is_not_understood_is_carried() {
    for (name, stream, why) in odd() {
        let packed = round_trip(name, &stream);
        match (why, packed.opaque) {
            (None, None) => assert!(packed.records > 0, "{name}"),
            (Some(why), Some(said)) => assert!(said.contains(why), "{name}: {said}"),
            (wanted, said) => panic!("{name}: {said:?}, not {wanted:?}"),
        }
    }
}

/// Any damage: another stream, which must come back as it is.
#[test]
fn damaged_streams_come_back_damaged() {
    let mut guest = Guest::new(3);
    let stream = guest.migrate(2);
    let mut random = Random::new(17);
    for case in 0..150 {
        let mut damaged = stream.clone();
        match case % 3 {
            0 => damaged.truncate(random.below(stream.len() as u64) as usize),
            1 => {
                // Where fields are likelier than pages.
                let at = random.below(600) as usize;
                damaged[at] ^= 1 << random.below(8);
            }
            _ => {
                let at = random.below(stream.len() as u64) as usize;
                damaged[at] = random.word() as u8;
            }
        }
        round_trip(&format!("case {case}"), &damaged);
    }
}

/// Gives a stream in pieces, with pauses between them.
struct Paused<'s> {
    rest: &'s [u8],
    random: Random,
    paused: bool,
}

impl Input for Paused<'_> {
    fn read(&mut self, to: &mut [u8], wait: bool) -> io::Result<Option<usize>> {
        if !wait && !self.paused && self.random.below(3) == 0 {
            self.paused = true;
            return Ok(None);
        }
        self.paused = false;
        let count = (1 + self.random.below(60_000) as usize).min(to.len()).min(self.rest.len());
        let (now, later) = self.rest.split_at(count);
        to[..count].copy_from_slice(now);
        self.rest = later;
        Ok(Some(count))
    }
}

/// Takes a live stream to a destination; gives what that writes to its QEMU, and the rounds.
fn live_stream(stream: &[u8], holding: Holding, gather: bool) -> (Vec<u8>, Vec<RoundEnd>, u64) {
    let guest = LateGuest::new(None);
    let coding = coding(&[], Effort::Fast, gather.then_some(&guest));
    let choose = |_| Choice::always(Effort::Fast, 256);
    let (mut wire, mut rounds) = (Vec::new(), Vec::new());
    let mut take = |out: Out<'_>| {
        match out {
            Out::Frame(frame) => frame.parts().for_each(|part| wire.extend_from_slice(part)),
            Out::Round(round, _) => rounds.push(round),
            Out::Opaque(why) => panic!("{why}"),
            _ => {}
        }
        Ok(())
    };
    let coder = Coder::new(coding, &choose, tempfile::tempfile().unwrap(), &mut take);
    let mut transcoder = Transcoder::live(coder, holding);
    Parser::new(Paused { rest: stream, random: Random::new(4), paused: false }).run(&mut transcoder).unwrap();
    let past = transcoder.finish().unwrap().end().unwrap().unwrap();
    let (header, frames) = Unpacker::new(wire.as_slice(), DecodeLimits::default()).unwrap().into_parts();
    let to = Rebuilt::new(&header, tempfile::tempfile().unwrap(), Vec::new()).unwrap();
    Decoder::new(&header, &[], level(), &Cancel::new()).apply_file(&to, frames).unwrap();
    let (memory, out, written) = to.into_parts();
    assert_eq!(written, out.len() as u64);
    // Both ends keep the same snapshot.
    let read = |flat: &live::FlatFile| {
        let mut bytes = vec![0; flat.page_count() as usize * PAGE];
        flat.read_pages(0, &mut bytes).unwrap();
        bytes
    };
    assert!(past.is_complete() && read(&past) == read(&memory));
    let _ = FrameReader::new(wire.as_slice(), 1 << 28);
    (out, rounds, wire.len() as u64)
}

#[test]
fn a_live_destination_has_the_same_memory() {
    let mut sizes = Vec::new();
    for (pages, gather) in [(0, false), (8, false), (4096, false), (8, true)] {
        let mut guest = Guest::new(11);
        let stream = guest.migrate(12);
        let (out, rounds, wire) = live_stream(&stream, Holding { pages }, gather);
        let (memory, devices) = load(&out).unwrap();
        compare::same_bytes("memory", &memory, &guest.memory).unwrap();
        assert_eq!(devices, load(&stream).unwrap().1, "device state");
        assert_eq!(rounds.len(), 13);
        assert!(rounds.iter().any(|round| round.unchanged > 0), "{rounds:?}");
        assert!(rounds.iter().all(|round| round.held <= pages as u64), "{rounds:?}");
        sizes.push((wire, rounds.iter().map(|round| round.sent).sum::<u64>()));
    }
    eprintln!(
        "holding 0, 8, 4096 pages, and 8 with the first round gathered: bytes and pages sent {sizes:?}"
    );
    // Thirty pages change in each of a dozen rounds.
    assert!(sizes[2].1 + 250 < sizes[0].1, "{sizes:?}");
    // In bytes that is little here: three words of a page are.
    assert!(sizes[2].0 < sizes[0].0 * 11 / 10, "{sizes:?}");
}

/// A live stream that turns into something else after records were left out: what is held back would be lost, and what
/// comes may mean another block by "the same as before". One that just stops is given up by its destination.
#[test]
fn a_live_stream_that_cannot_be_followed_is_an_error() {
    struct Anything;
    impl Consumer for Anything {
        type Error = io::Error;
        fn start(&mut self, _: &str, _: &[mig_engine::qemu::RamBlock]) -> io::Result<()> {
            Ok(())
        }
        fn pages(&mut self, _: u64, _: mig_engine::PageSet, _: Vec<u8>) -> io::Result<()> {
            Ok(())
        }
        fn script(&mut self, _: Vec<u8>) -> io::Result<()> {
            Ok(())
        }
    }
    let run = |stream: &[u8]| {
        let mut live = Transcoder::live(Anything, Holding { pages: 8 });
        Parser::new(FromFile(stream)).run(&mut live).map_err(|error| error.to_string())
    };
    let mut hot = Writer::new(&[]);
    for round in 0..4 {
        hot.begin(false).page(0, 3, &Random::new(round).page()).end();
    }
    let with = |rest: &dyn Fn(&mut Writer)| {
        let mut writer = hot.clone();
        rest(&mut writer);
        writer.bytes
    };
    let page = Random::new(9).page();
    // The guest is stopped: what was held comes.
    assert_eq!(run(&with(&|writer| _ = writer.begin(true).page(0, 4, &page).end().devices(b"x"))), Ok(()));
    for (rest, why) in [
        (&(|writer: &mut Writer| _ = writer.devices(b"x")) as &dyn Fn(&mut Writer), "a section of type 0x4"),
        (&|writer| _ = writer.raw(&[8, 0, 3, 0, 2, 1, 1]).devices(b"x"), "command 3"),
        (&|writer| _ = writer.begin(false).page(2, 4, &page).end(), "a page beyond its block"),
    ] {
        let error = run(&with(rest)).unwrap_err();
        assert!(error.contains("can't be followed to its end") && error.contains(why), "{error}");
    }
    // Cancelled by its source.
    assert_eq!(run(&with(&|writer| _ = writer.begin(false).raw(&[0, 0]))), Ok(()));
    // Nothing was left out: it is carried as it is.
    let mut writer = Writer::new(&[]);
    writer.begin(false).page(0, 3, &page).end().raw(&[8, 0, 3, 0, 2, 1, 1]).devices(b"x");
    assert_eq!(run(&writer.bytes), Ok(()));
}

/// A consumer that fails ends the work.
#[test]
fn errors_come_through() {
    struct Full(RefCell<u32>);
    impl Consumer for Full {
        type Error = StreamError;
        fn start(&mut self, _: &str, _: &[mig_engine::qemu::RamBlock]) -> Result<(), StreamError> {
            Ok(())
        }
        fn pages(&mut self, _: u64, _: mig_engine::PageSet, _: Vec<u8>) -> Result<(), StreamError> {
            *self.0.borrow_mut() += 1;
            Err(io::Error::from(io::ErrorKind::StorageFull).into())
        }
        fn script(&mut self, _: Vec<u8>) -> Result<(), StreamError> {
            Ok(())
        }
    }
    let stream = Guest::new(1).migrate(3);
    let mut transcoder = Transcoder::exact(Full(RefCell::new(0)));
    let error = Parser::new(FromFile(&stream[..])).run(&mut transcoder).unwrap_err();
    assert!(matches!(error, StreamError::Read(_)), "{error}");
    assert_eq!(*transcoder.consumer().0.borrow(), 1);
}
