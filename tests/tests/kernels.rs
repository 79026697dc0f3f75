//! Real guests with kernels of several releases: what the engine says of their pages is what they say themselves, and what
//! makedumpfile says.
//!
//! `tests/guests/kernels.sh OUT` boots them and saves their memory; `MIG_GUESTS=OUT` has them tested here. Without it the test says that
//! it did nothing, unless `MIG_REQUIRE` names `guests`.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mig_engine::gpu::Beside;
use mig_engine::guest::{Guest, GuestClass, find_notes};
use mig_engine::image::WriteAs;
use mig_engine::inspect::StreamInfo;
use mig_engine::live::{Choice, Decoder, Encoder, Introspection, LateGuest, OutFrame, Setup};
use mig_engine::map::FileMap;
use mig_engine::qemu::{self, Coding, FromFile, Gather, Input};
use mig_engine::reference::DiskImage;
use mig_engine::{
    Cancel, CpuWorker, Effort, FileStore, FrameType, Header, KernelCache, MemoryImage, Packer, Reference,
    Resolved, Technique, Techniques,
};
use mig_tests::captured::{self, Captured, Counts, Left, PARTS};
use mig_tests::compare;
use mig_tests::engine::{coding, level, pack_image, unpack_with, unpacker};
use mig_tests::requires;

/// The guests to look at.
fn guests() -> Vec<Captured> {
    let Some(folder) = std::env::var_os("MIG_GUESTS") else {
        assert!(
            !requires("guests"),
            "MIG_REQUIRE asks for guests, but MIG_GUESTS does not say where they are"
        );
        eprintln!(
            "SKIPPED: no guests; tests/guests/kernels.sh makes some, and MIG_GUESTS says where they are"
        );
        return Vec::new();
    };
    let guests = captured::all(&PathBuf::from(folder));
    assert!(!guests.is_empty(), "MIG_GUESTS names a folder without guests");
    guests
}

fn read(name: &str, image: &MemoryImage) -> Guest {
    let guest = Guest::read(image, Some(image.layout()), &find_notes(image));
    guest.unwrap_or_else(|| panic!("{name}: the guest is not understood"))
}

/// All that is wrong with one guest, so that one run tells everything.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn check(&mut self, good: bool, what: impl FnOnce() -> String) {
        if !good {
            self.0.push(what());
        }
    }
}

/// How many pages there are of each class.
fn tally(guest: &Guest) -> HashMap<GuestClass, u64> {
    let mut tally = HashMap::new();
    for &class in guest.classes() {
        *tally.entry(class).or_default() += 1;
    }
    tally
}

/// Major and minor version of a release.
fn version(release: &str) -> (u32, u32) {
    let mut parts = release.split(['.', '-', '+']).map_while(|part| part.parse().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn counts(guest: &Guest) -> Counts {
    let tally = tally(guest);
    let count = |class| tally.get(&class).copied().unwrap_or(0);
    Counts {
        free: count(GuestClass::Free),
        user: count(GuestClass::Anonymous) + count(GuestClass::HugeTlb),
        cache: count(GuestClass::File) + count(GuestClass::Shmem),
    }
}

/// Bits of `/proc/kpageflags`, which is an interface that stays.
mod kpf {
    pub(crate) const LRU: u32 = 5;
    pub(crate) const SLAB: u32 = 7;
    pub(crate) const BUDDY: u32 = 10;
    pub(crate) const ANON: u32 = 12;
    pub(crate) const SWAPBACKED: u32 = 14;
    pub(crate) const HUGE: u32 = 17;
    pub(crate) const NOPAGE: u32 = 20;
    pub(crate) const OFFLINE: u32 = 23;
    pub(crate) const PGTABLE: u32 = 26;
    pub(crate) const RESERVED: u32 = 32;
}

/// The class that the kernel's own flags of a page mean; `None` where they do not tell.
fn class_of_flags(flags: u64) -> Option<GuestClass> {
    let has = |bit: u32| flags >> bit & 1 != 0;
    let class = match () {
        () if has(kpf::NOPAGE) => return None,
        () if has(kpf::BUDDY) || has(kpf::OFFLINE) => GuestClass::Free,
        () if has(kpf::SLAB) => GuestClass::Slab,
        () if has(kpf::PGTABLE) => GuestClass::PageTable,
        () if has(kpf::HUGE) => GuestClass::HugeTlb,
        () if has(kpf::ANON) => GuestClass::Anonymous,
        () if has(kpf::LRU) && has(kpf::SWAPBACKED) => GuestClass::Shmem,
        () if has(kpf::LRU) => GuestClass::File,
        () if has(kpf::RESERVED) => GuestClass::Reserved,
        () => GuestClass::Kernel,
    };
    Some(class)
}

/// Every page's class is the one that the kernel's own flags mean, but for a few that changed while the guest wrote them down.
fn check_flags(guest: &Guest, left: &Left, wrong: &mut Wrong) {
    let (mut seen, mut odd) = (0u64, 0u64);
    let mut kinds: BTreeMap<(GuestClass, GuestClass), u64> = BTreeMap::new();
    for (page, &class) in (0u64..).zip(guest.classes()) {
        let flags = guest.frame(page).and_then(|frame| left.flags.get(frame as usize));
        let Some(expected) = flags.and_then(|&flags| class_of_flags(flags)) else { continue };
        seen += 1;
        // The array itself is reserved at first, and may be from the buddy allocator.
        let same = class == expected || class == GuestClass::MemMap;
        if !same {
            odd += 1;
            *kinds.entry((expected, class)).or_default() += 1;
        }
    }
    let list: Vec<String> = kinds
        .iter()
        .map(|((expected, class), count)| format!("{count} {} for {}", class.name(), expected.name()))
        .collect();
    println!("  kernel's own flags: {seen} pages, {odd} others: {}", list.join(", "));
    let known = guest.classes().iter().filter(|&&class| class != GuestClass::Unknown).count() as u64;
    wrong.check(seen > known / 100 * 98, || format!("flags of {seen} pages only, of {known}"));
    wrong.check(odd <= seen / 500, || format!("{odd} of {seen} pages have another class: {list:?}"));
}

/// What the program filled is found: as often as it is there, as the memory that it is, with its process and address.
fn check_filled(captured: &Captured, guest: &Guest, left: &Left, wrong: &mut Wrong) {
    let no_disk = captured.said("disk") == "none";
    let mut live: HashMap<(u64, u64), Vec<u64>> = HashMap::new();
    for filled in &left.filled {
        // A page that was moved or freed may still hold what it held.
        let stale = matches!(guest.class(filled.page), GuestClass::Free | GuestClass::Kernel);
        if !stale {
            wrong
                .check(!filled.is_freed(), || format!("a freed page is {}", guest.class(filled.page).name()));
            live.entry((filled.who, filled.kind)).or_default().push(filled.page);
        }
    }
    let addresses: HashMap<u64, u64> =
        left.filled.iter().map(|filled| (filled.page, filled.address)).collect();
    for (who, kind, count, program, name) in PARTS {
        let pages = live.remove(&(who, kind)).unwrap_or_default();
        let count = if no_disk && who == captured::DISK { 0 } else { count };
        wrong.check(pages.len() == count, || format!("{name}: {} pages instead of {count}", pages.len()));
        let class = match kind {
            4 | 5 => GuestClass::Shmem,
            6..=8 => GuestClass::File,
            10 => GuestClass::HugeTlb,
            _ => GuestClass::Anonymous,
        };
        let odd: Vec<&u64> = pages.iter().filter(|&&page| guest.class(page) != class).collect();
        wrong.check(odd.is_empty(), || {
            format!("{name}: {} pages are {}", odd.len(), guest.class(*odd[0]).name())
        });
        // Processes are found by page tables of x86-64.
        let Some(program) = program.filter(|_| !captured.is_arm()) else { continue };
        let strange = pages.iter().filter(|&&page| {
            let owner = guest.owner(page).and_then(|owner| guest.spaces()[owner].name.as_deref());
            // A mapped file is at an address that the test knows, and has offsets written in it.
            let address = addresses[&page] + if kind == 8 { 0x1800_0000_0000 } else { 0 };
            owner != Some(program) || guest.virtual_page(page) != Some(address / 4096)
        });
        let strange = strange.count();
        wrong.check(strange == 0, || format!("{name}: {strange} pages are not where {program} has them"));
    }
    wrong.check(live.is_empty(), || format!("pages that nobody keeps: {:?}", live.keys()));
}

#[test]
fn kernels_are_read_as_they_read_themselves() {
    let mut failed = Vec::new();
    for captured in guests() {
        let image = captured.image("raw");
        let guest = read(&captured.name, &image);
        let mut wrong = Wrong::default();
        let release = captured.said("release");
        wrong.check(guest.release() == release, || format!("release {}, not {release}", guest.release()));
        let build_id = captured.said("build-id");
        wrong.check(guest.build_id().is_none_or(|found| found == build_id), || "another build id".into());
        let unknown = guest.classes().iter().filter(|&&class| class == GuestClass::Unknown).count();
        wrong.check(unknown == 0, || format!("{unknown} pages without a class"));
        let ours = counts(&guest);
        println!("{}: {} pages, {:?}", captured.name, image.page_count(), tally(&guest));
        println!("  engine      {ours:?}");
        match (!captured.is_arm()).then(|| captured.counts()) {
            None => {
                println!("  makedumpfile WAS NOT ASKED on arm64, only the kernel's own flags are compared")
            }
            Some(Ok(theirs)) => {
                println!("  makedumpfile {theirs:?}");
                wrong.check(ours == theirs, || format!("{ours:?}, makedumpfile {theirs:?}"));
            }
            Some(Err(why)) => {
                println!("  makedumpfile DOES NOT KNOW THIS KERNEL, only its own flags are compared: {why}");
                wrong.check(version(release) > (6, 12), || "makedumpfile does not know it".into());
            }
        }
        let left = Left::find(&image);
        check_flags(&guest, &left, &mut wrong);
        check_filled(&captured, &guest, &left, &mut wrong);
        failed.extend(wrong.0.into_iter().map(|what| format!("{}: {what}", captured.name)));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The same guest in the forms in which hypervisors write it: every frame has the same class, process and address in all.
#[test]
fn all_forms_say_the_same() {
    for captured in guests() {
        let of = |file: &str| {
            let image = captured.image(file);
            let guest = read(&format!("{}, {file}", captured.name), &image);
            let pages = 0..image.page_count();
            // Not all forms have the machine's ROMs, of which the guest says nothing.
            let known = pages.filter(|&page| guest.class(page) != GuestClass::Unknown);
            let page = |page| {
                let space = guest.owner(page).map(|owner| guest.spaces()[owner].root);
                (guest.frame(page), (guest.class(page), space, guest.virtual_page(page)))
            };
            known.map(page).collect::<BTreeMap<_, _>>()
        };
        let raw = of("raw");
        for file in ["elf", "qemu"] {
            assert!(of(file) == raw, "{}: another guest in {file}", captured.name);
        }
    }
}

/// How packing went with one form of a guest.
struct Trip {
    stream: Vec<u8>,
    /// For each reference what it is, and how many pages equal one of its.
    references: Vec<(&'static str, u64)>,
}

fn pack(captured: &Captured, image: &MemoryImage, without: Option<Technique>) -> Trip {
    let disk = DiskImage::open(captured.path("disk")).expect("a raw disk");
    let mut disk = Reference::disk(disk, "the disk".into()).expect("a reference");
    disk.build_index(level(), &Cancel::new()).expect("an index");
    let packer = Packer::new().effort(Effort::Balanced).threads(2).level(level()).reference(disk);
    let packer = without.into_iter().fold(packer, Packer::without);
    let stream = pack_image(image, &packer).0;
    let info = StreamInfo::read(&stream[..]).unwrap_or_else(|error| panic!("{}: {error}", captured.name));
    let kinds = info.header.references.iter().map(|need| need.kind.name());
    Trip { references: kinds.zip(info.reference_pages.iter().copied()).collect(), stream }
}

fn unpack(captured: &Captured, stream: &[u8]) -> FileMap {
    let header = unpacker(stream).expect("a header").header().clone();
    let resolved = Resolved::find(&header, &[captured.path("disk")]);
    let resolved = resolved.unwrap_or_else(|(_, error)| panic!("{}: {error}", captured.name));
    let file = unpack_with(stream, &resolved.references, WriteAs::Same);
    FileMap::from_file(file.unwrap_or_else(|error| panic!("{}: {error}", captured.name))).expect("a file")
}

/// Packed with its disk, which has the files that the guest reads and the kernel that it runs, every guest comes back as it was.
#[test]
fn guests_come_back_with_their_disks_and_kernels() {
    for captured in guests() {
        for file in ["raw", "elf"] {
            let name = format!("{}, {file}", captured.name);
            let image = captured.image(file);
            let packed = pack(&captured, &image, None);
            let found = unpack(&captured, &packed.stream);
            let same = compare::same_bytes("engine", found.bytes(), image.map().bytes());
            same.unwrap_or_else(|difference| panic!("{name}: {difference}"));
            let without = pack(&captured, &image, Some(Technique::Kernel)).stream.len();
            println!(
                "{name}: {} bytes, {without} without its kernel; pages {:?}",
                packed.stream.len(),
                packed.references
            );
            let pages =
                |kind: &str| packed.references.iter().find(|found| found.0 == kind).map(|found| found.1);
            // A kernel for ARM is not compressed: its pages are blocks of the disk.
            if captured.is_arm() {
                assert!(pages("disk").is_some_and(|pages| pages > 2600), "{name}: {:?}", packed.references);
                continue;
            }
            assert!(pages("kernel").is_some_and(|pages| pages > 2000), "{name}: {:?}", packed.references);
            assert!(packed.stream.len() < without - 5_000_000, "{name}: little for its kernel");
            let files = if captured.said("disk") == "none" { 0 } else { 600 };
            assert!(pages("disk") >= Some(files), "{name}: {:?}", packed.references);
        }
    }
}

/// A session that reads the guest on the way announces its kernel then; its blocks, before and behind, give the same memory.
#[test]
fn kernels_come_late_in_a_session() {
    for captured in guests() {
        let image = captured.image("raw");
        let mut disk = Reference::open(&captured.path("disk"), image.page_count()).expect("a disk");
        disk.build_index(level(), &Cancel::new()).expect("an index");
        let references = [disk];
        let late = LateGuest::new(None);
        let worker = CpuWorker { level: level() };
        let needs = references.iter().map(|reference| reference.need().clone()).collect();
        let setup = Setup {
            header: Header::new(image.layout().clone(), Effort::Fast, 1024, needs),
            references: &references,
            introspection: Introspection::Later(&late),
            worker: &worker,
            beside: &Beside::default(),
            level: level(),
            top: Effort::Fast,
            techniques: Techniques::ALL,
            cancel: Cancel::new(),
        };
        let begun = AtomicU64::new(0);
        // The first twelve MiB go without it: no kernel lies lower than sixteen, and any place above may be its own.
        let choose = |_| {
            let guest = begun.fetch_add(1, Ordering::Relaxed) >= 3;
            Choice { guest, ..Choice::always(Effort::Fast, 1024) }
        };
        let mut encoder = Encoder::new(setup).expect("a session");
        let (mut stream, mut announced, mut sequence) = (Vec::new(), None, 0);
        let mut sink = |frame: OutFrame<'_>| {
            if frame.kind() == FrameType::Reference {
                announced = Some(sequence);
            }
            sequence += 1;
            frame.parts().for_each(|part| stream.extend_from_slice(part));
            Ok(())
        };
        sink(encoder.header()).expect("a header");
        encoder.image(&image, None, &choose, &mut sink).expect("an image");
        sink(encoder.end()).expect("an end");
        assert_eq!(announced.is_some(), !captured.is_arm(), "{}", captured.name);
        assert!(announced.is_none_or(|at| at > 3), "{}: frame {announced:?}", captured.name);
        let info = StreamInfo::read(&*stream).expect("a good stream");
        if !captured.is_arm() {
            let kernel = *info.reference_pages.last().expect("a kernel");
            assert!(kernel > 1500, "{}: {kernel} pages of the kernel", captured.name);
        }

        let (header, frames) = unpacker(&stream).expect("a session").into_parts();
        assert_eq!(header.references.len(), 1);
        let resolved = Resolved::find(&header, &[captured.path("disk")]).expect("references");
        let dir = std::env::temp_dir();
        let file = tempfile::tempfile().expect("a file");
        let store = FileStore::new(file, &header.layout, WriteAs::Same, &dir).expect("a store");
        let decoded =
            Decoder::new(&header, &resolved.references, level(), &Cancel::new()).apply_file(&store, frames);
        let decoded = decoded.unwrap_or_else(|error| panic!("{}: {error}", captured.name));
        assert_eq!(decoded.distinct, image.page_count(), "{}", captured.name);
        let found = FileMap::from_file(store.into_file()).expect("a map");
        let same = compare::same_bytes("engine", found.bytes(), image.map().bytes());
        same.unwrap_or_else(|difference| panic!("{}: {difference}", captured.name));
        println!("{}, late: {} bytes, kernel announced in frame {announced:?}", captured.name, stream.len());
    }
}

/// A stream that pauses early: what it has by then is coded, and there is time to lay kernels out before theirs come.
struct Paused<'s> {
    stream: FromFile<&'s [u8]>,
    reads: u32,
}

impl Input for Paused<'_> {
    fn read(&mut self, to: &mut [u8], wait: bool) -> io::Result<Option<usize>> {
        const PAUSES: std::ops::Range<u32> = 8..12;
        let len = to.len().min(1 << 16);
        if PAUSES.contains(&self.reads) && !wait {
            return Ok(None);
        }
        if self.reads == PAUSES.end {
            std::thread::sleep(Duration::from_secs(2));
        }
        self.reads += 1;
        self.stream.read(&mut to[..len], wait)
    }
}

/// As a stream from QEMU it comes back byte for byte, device state and all.
#[test]
fn migration_streams_come_back() {
    for captured in guests() {
        let stream = captured.image("qemu");
        let truth = FileMap::open(&captured.path("qemu")).expect("a migration stream");
        let mut disk = Reference::open(&captured.path("disk"), stream.page_count()).expect("a disk");
        disk.build_index(level(), &Cancel::new()).expect("an index");
        let (references, dir) = ([disk], std::env::temp_dir());
        let kernels = tempfile::tempdir().expect("a folder");
        let cache = KernelCache::new(kernels.path().to_owned());
        let mut sizes = Vec::new();
        for (reads, gather) in [(false, None), (true, Some(Gather::ALL)), (true, None)] {
            let late = LateGuest::new(Some(cache.clone()));
            let coding = Coding { gather, ..coding(&references, Effort::Fast, reads.then_some(&late)) };
            let mut packed = Vec::new();
            let input = Paused { stream: FromFile(truth.bytes()), reads: 0 };
            let done = qemu::pack(input, coding, &dir, &mut packed, None);
            let done = done.unwrap_or_else(|error| panic!("{}: {error}", captured.name));
            assert_eq!(done.opaque, None, "{}", captured.name);
            let (header, frames) = unpacker(&packed).expect("a stream").into_parts();
            let resolved = Resolved::find(&header, &[captured.path("disk")]).expect("references");
            let mut found = Vec::new();
            let to = &mut found;
            qemu::unpack(&header, &resolved.references, level(), frames, &dir, to, &Cancel::new())
                .unwrap_or_else(|error| panic!("{}: {error}", captured.name));
            let same = compare::same_bytes("engine", &found, truth.bytes());
            same.unwrap_or_else(|difference| panic!("{}: {difference}", captured.name));
            sizes.push(packed.len());
        }
        println!("{}, qemu: {} bytes to {sizes:?}", captured.name, truth.bytes().len());
        // As it comes, with what the guest says of itself, and as it comes with the kernel from where it was seen.
        let [alone, gathered, seen] = sizes[..] else { unreachable!() };
        assert!(gathered < alone, "{}: {sizes:?}", captured.name);
        if !captured.is_arm() {
            assert!(seen < alone - 2_000_000, "{}: {sizes:?}", captured.name);
        }
    }
}
