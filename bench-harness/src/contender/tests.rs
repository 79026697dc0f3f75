//! Every adapter on the repository's sample; and adapters' answers that are wrong.

use std::os::unix::fs::FileExt;

use mig_engine::{Cancel, Effort, PAGE_SIZE};

use super::*;
use crate::corpus::{sample_disk, sample_memory};
use crate::exit::Problem;
use crate::provenance::version_of;
use crate::references::References;
use crate::run::Run;
use crate::testing::skip;

struct Fixture {
    folder: tempfile::TempDir,
    memory: Vec<u8>,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let memory = sample_memory().unwrap();
        std::fs::write(folder.path().join("guest.raw"), &memory).unwrap();
        std::fs::write(folder.path().join("guest.disk"), sample_disk().unwrap()).unwrap();
        Fixture { folder, memory }
    }

    fn subject(&self, mapping: Mapping) -> Subject {
        let path = self.folder.path().join("guest.raw");
        Subject::open(&path, mapping, 2, Level::best(), self.folder.path()).unwrap()
    }

    fn references(&self, subject: &Subject) -> References {
        let disk = [self.folder.path().join("guest.disk")];
        let pages = subject.image().page_count();
        References::build(&disk, self.folder.path(), pages, Level::best(), &Run::quiet()).unwrap()
    }
}

/// Whether a program is there; if it is required (`MIG_REQUIRE=gzip,zstd`), its absence is a failure.
fn installed(program: &str) -> bool {
    if version_of(program).is_some() {
        return true;
    }
    skip(program, &format!("there is no {program} program"));
    false
}

/// Verifies, packs both ways of mapping; gives the packed bytes.
fn round_trip(fixture: &Fixture, contender: &mut dyn Contender) -> u64 {
    let verified = contender.verify(&fixture.subject(Mapping::Fresh)).unwrap();
    for mapping in [Mapping::Fresh, Mapping::Kept] {
        let cost = contender.pack(&fixture.subject(mapping)).unwrap();
        assert!(cost.wall > 0.0, "{}", contender.key());
    }
    assert!(verified.cost.wall > 0.0);
    assert!(!contender.about().is_empty());
    verified.bytes
}

fn zstd_library(level: i32) -> Library {
    let key = Key::Zstd { level, threads: 2, program: false };
    Library::new(key, Zstd { level, threads: 2, long: false })
}

#[test]
fn libraries_and_memcpy_round_trip() {
    let fixture = Fixture::new();
    let len = fixture.memory.len() as u64;
    assert_eq!(round_trip(&fixture, &mut Memcpy::new(fixture.memory.len()).unwrap()), len);
    // A destination that is written over again and again.
    assert_eq!(round_trip(&fixture, &mut Memcpy::new(5 * PAGE_SIZE).unwrap()), len);
    let zlib = round_trip(&fixture, &mut Library::new(Key::Zlib, Zlib));
    assert!((len / 10..len * 9 / 10).contains(&zlib), "{zlib}");
    let zstd = [1, 3].map(|level| round_trip(&fixture, &mut zstd_library(level)));
    assert!(zstd[1] < zstd[0] && zstd[0] < len * 9 / 10, "{zstd:?}");
}

#[test]
fn programs_round_trip() {
    let fixture = Fixture::new();
    if installed("gzip") {
        let mut expected = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut expected, &fixture.memory).unwrap();
        let expected = expected.finish().unwrap().len() as u64;
        let bytes = round_trip(&fixture, &mut GzipProgram::new());
        assert!(bytes.abs_diff(expected) < expected / 20, "{bytes}, about {expected} expected");
    }
    if installed("zstd") {
        let program = round_trip(&fixture, &mut ZstdProgram::new(3, 2));
        let library = round_trip(&fixture, &mut zstd_library(3));
        assert!(program.abs_diff(library) < library / 50, "{program} and {library}");
    }
}

#[test]
fn a_program_that_fails_has_no_figures() {
    let fixture = Fixture::new();
    if installed("zstd") {
        let subject = fixture.subject(Mapping::Fresh);
        std::fs::remove_file(subject.path()).unwrap();
        let mut contender = ZstdProgram::new(1, 2);
        assert!(contender.pack(&subject).is_err());
        assert!(contender.verify(&subject).is_err());
    }
}

#[test]
fn a_program_that_packs_something_else_is_wrong() {
    let fixture = Fixture::new();
    if installed("gzip") {
        let subject = fixture.subject(Mapping::Kept);
        // The file changes behind the back of the mapping's owner: another one has its name.
        let mut other = fixture.memory.clone();
        other[12345] ^= 1;
        std::fs::remove_file(subject.path()).unwrap();
        std::fs::write(subject.path(), &other).unwrap();
        let error = GzipProgram::new().verify(&subject).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Problem::Wrong { .. })), "{error:#}");
        assert!(error.to_string().contains("byte 12345 "), "{error:#}");
    }
}

#[test]
fn mig_round_trips_into_files_and_memory() {
    let fixture = Fixture::new();
    let subject = fixture.subject(Mapping::Fresh);
    let references = fixture.references(&subject);
    let mut sizes = Vec::new();
    for references in [&references, &References::default()] {
        for effort in Effort::AVAILABLE {
            let mut mig = Mig::new(&subject, effort, references, &Cancel::new()).unwrap();
            sizes.push(round_trip(&fixture, &mut mig));
            let name = mig.key().to_string();
            let mut memory = vec![0; fixture.memory.len()];
            assert!(mig.unpack_to_file(&subject).unwrap().is_some());
            assert!(mig.unpack_to_memory(&subject, &mut memory).unwrap().is_some());
            compare_pages(&name, &memory, subject.image()).unwrap();
            assert!(memory == fixture.memory, "{name}");
            assert_eq!(mig.summary().unwrap().stream_bytes, sizes[sizes.len() - 1]);
        }
    }
    // Harder is smaller, and a disk helps.
    let (with, without) = sizes.split_at(Effort::AVAILABLE.len());
    let falls = |sizes: &[u64]| sizes.is_sorted_by(|low, high| low > high);
    assert!(falls(with) && falls(without) && with[0] < without[0], "{sizes:?}");
}

#[test]
fn a_damaged_stream_has_no_figures() {
    let fixture = Fixture::new();
    let subject = fixture.subject(Mapping::Fresh);
    let mut mig = Mig::new(&subject, Effort::Fast, &fixture.references(&subject), &Cancel::new()).unwrap();
    let bytes = mig.verify(&subject).unwrap().bytes;
    mig.damage(|stream| {
        let mut byte = [0];
        stream.read_exact_at(&mut byte, bytes / 2).unwrap();
        stream.write_all_at(&[byte[0] ^ 4], bytes / 2).unwrap();
    });
    let mut memory = vec![0; fixture.memory.len()];
    assert!(mig.unpack_to_file(&subject).is_err());
    assert!(mig.unpack_to_memory(&subject, &mut memory).is_err());
}

#[test]
fn names_are_unique_and_say_what_is_run() {
    let zstd = |level, program| Key::Zstd { level, threads: 2, program };
    let mig = |references| Key::Mig { effort: Effort::Fast, references };
    let keys = [
        Key::Memcpy,
        Key::GzipProgram,
        Key::Zlib,
        zstd(1, true),
        zstd(1, false),
        zstd(3, true),
        mig(true),
        mig(false),
    ];
    let names: std::collections::HashSet<String> = keys.iter().map(Key::to_string).collect();
    assert_eq!(names.len(), keys.len());
    assert!(names.contains("zstd -1 -T2 (program)") && names.contains("mig fast"), "{names:?}");
}

/// A dump is read back page by page, and a page that is another is noticed.
#[test]
fn makedumpfile_dumps_are_read_back() {
    let fixture = Fixture::new();
    if !installed("makedumpfile") {
        return;
    }
    let subject = fixture.subject(Mapping::Kept);
    let named: Named = "makedumpfile -c".parse().unwrap();
    let choose = || match named.choose(&subject, &References::default(), None, &Run::quiet()).unwrap() {
        Chosen::Here(contender) => contender,
        Chosen::NotHere(why) => panic!("{why}"),
    };
    let mut contender = choose();
    let bytes = round_trip(&fixture, contender.as_mut());
    assert!(bytes < fixture.memory.len() as u64 * 9 / 10, "{bytes}");
    let link = Link::new("2 Gbit".parse().unwrap());
    assert!(contender.send(&subject, &link).unwrap().is_some());
    assert!(link.written().abs_diff(bytes) < bytes / 50, "{} sent", link.written());
    let mut other = fixture.memory.clone();
    other[77 * PAGE_SIZE + 5] ^= 1;
    let path = fixture.folder.path().join("other.raw");
    std::fs::write(&path, &other).unwrap();
    let other = Subject::open(&path, Mapping::Kept, 2, Level::best(), fixture.folder.path()).unwrap();
    let error = contender.verify(&other).unwrap_err().to_string();
    assert!(error.contains("page 77"), "{error}");
}

/// Whether two QEMUs can be had here.
fn qemu_is_here(chosen: Chosen) -> Option<Box<dyn Contender>> {
    match chosen {
        Chosen::Here(contender) => Some(contender),
        Chosen::NotHere(why) => {
            skip("qemu", &why);
            None
        }
    }
}

/// Two real QEMUs: their destination's memory is the image, a paced link holds them, and what they say of it is kept.
#[test]
fn qemu_migrates_the_image() {
    let fixture = Fixture::new();
    let subject = fixture.subject(Mapping::Kept);
    let references = fixture.references(&subject);
    let rate: crate::link::Rate = "400 Mbit".parse().unwrap();
    let mut sizes = Vec::new();
    for name in ["qemu", "qemu multifd 2", "qemu multifd 2, zlib", "qemu multifd 2, zstd"] {
        let named: Named = name.parse().unwrap();
        let chosen = named.choose(&subject, &references, None, &Run::quiet()).unwrap();
        let Some(mut contender) = qemu_is_here(chosen) else { return };
        assert_eq!(contender.key().to_string(), name);
        assert!(contender.ends().is_none());
        let verified = contender.verify(&subject).unwrap();
        sizes.push(verified.bytes);
        assert!(contender.pack(&subject).unwrap().wall > 0.0);
        let link = Link::new(rate);
        let cost = contender.send(&subject, &link).unwrap().unwrap();
        assert!(
            cost.wall >= rate.seconds(link.written()) * 0.99,
            "{name}: {cost:?}, {} bytes",
            link.written()
        );
        assert!(contender.ends().unwrap().total_seconds > 0.0, "{name}");
    }
    let [plain, multifd, zlib, zstd] = sizes[..] else { panic!("{sizes:?}") };
    let len = fixture.memory.len() as u64;
    assert!(plain > len / 2 && plain < len * 11 / 10 && multifd > len / 2, "{sizes:?}");
    assert!(zlib < plain * 8 / 10 && zstd < plain * 8 / 10, "{sizes:?}");
}

/// An image that is no multiple of a page's size has no machine.
#[test]
fn qemu_takes_whole_pages_only() {
    let fixture = Fixture::new();
    let path = fixture.folder.path().join("odd.raw");
    std::fs::write(&path, &fixture.memory[..5 * PAGE_SIZE]).unwrap();
    let subject = Subject::open(&path, Mapping::Kept, 2, Level::best(), fixture.folder.path()).unwrap();
    let named: Named = "qemu".parse().unwrap();
    let chosen = named.choose(&subject, &References::default(), None, &Run::quiet()).unwrap();
    assert!(matches!(chosen, Chosen::NotHere(_)));
}

/// A guest that changes: its rounds are undone to its last memory, and a small change costs little.
#[test]
fn a_running_guest_is_sent_in_rounds() {
    let fixture = Fixture::new();
    let subject = fixture.subject(Mapping::Kept);
    let references = fixture.references(&subject);
    let mut memory = fixture.memory.clone();
    let mut later = Vec::new();
    for round in 1..=2usize {
        for page in (round..memory.len() / PAGE_SIZE).step_by(64) {
            memory[page * PAGE_SIZE + 8 * round] ^= 0x5a;
        }
        let path = fixture.folder.path().join(format!("round-{round}.raw"));
        std::fs::write(&path, &memory).unwrap();
        later.push(path);
    }
    let captures = captures(subject.image(), subject.path(), &later).unwrap();
    assert_eq!(captures.iter().map(Capture::pages).collect::<Vec<_>>(), [2048, 32, 32]);
    let mut last = Vec::new();
    for name in ["raw", "zstd -1", "mig balanced", "mig balanced, no reference"] {
        let named: Named = name.parse().unwrap();
        let Chosen::Here(mut contender) = named.choose(&subject, &references, None, &Run::quiet()).unwrap()
        else {
            panic!("{name} is not here");
        };
        let rounds = contender.rounds(&subject, &captures).unwrap().unwrap();
        assert_eq!(rounds.iter().map(|round| round.pages).collect::<Vec<_>>(), [2048, 32, 32]);
        assert!(rounds[0].bytes > rounds[1].bytes, "{name}: {rounds:?}");
        last.push(rounds[2].bytes);
    }
    let [raw, zstd, mig, _] = last[..] else { panic!("{last:?}") };
    assert_eq!(raw, 32 * (PAGE_SIZE as u64 + 8));
    assert!(zstd < raw && mig < zstd / 4, "{last:?}");
    // The same memory again is no round.
    assert!(super::captures(subject.image(), subject.path(), &[subject.path().to_owned()]).is_err());
}

/// What suites add: each round trips, and nothing arrives faster than the link carries.
#[test]
fn what_suites_name_round_trips_and_is_paced() {
    let fixture = Fixture::new();
    let subject = fixture.subject(Mapping::Kept);
    let references = fixture.references(&subject);
    let rate: crate::link::Rate = "2 Gbit".parse().unwrap();
    for (name, most) in [
        ("raw", 1.0),
        ("lz4", 0.9),
        ("xz -1", 0.6),
        ("zstd -3 --long", 0.7),
        ("zero pages, zstd -1", 0.7),
        ("memory read", 1.0),
        ("mig auto", 0.5),
        // Pages go as they are over a link that is faster than any effort.
        ("mig auto, no reference", 1.001),
        ("mig fast, no guest", 0.5),
    ] {
        let named: Named = name.parse().unwrap();
        let Chosen::Here(mut contender) = named.choose(&subject, &references, None, &Run::quiet()).unwrap()
        else {
            panic!("{name} is not here");
        };
        let verified = contender.verify(&subject).unwrap();
        assert!(verified.bytes as f64 <= most * fixture.memory.len() as f64, "{name}: {}", verified.bytes);
        assert!(contender.pack(&subject).unwrap().wall > 0.0);
        let link = Link::new(rate);
        let sent = contender.send(&subject, &link).unwrap();
        assert_eq!(sent.is_some(), named.nature() != Nature::Roof, "{name}");
        if let Some(cost) = sent {
            assert!(
                link.written() > 0 && cost.wall >= rate.seconds(link.written()) * 0.99,
                "{name}: {cost:?}"
            );
        }
    }
    let gpu: Named = "mig fast, gpu".parse().unwrap();
    let Chosen::NotHere(why) = gpu.choose(&subject, &references, None, &Run::quiet()).unwrap() else {
        panic!("there is no GPU");
    };
    assert!(why.contains("--gpu"), "{why}");
}
