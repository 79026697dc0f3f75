//! Real guests with kernels of several releases: what the engine says of their pages is what they say themselves, and what
//! makedumpfile says.
//!
//! `tests/guests/kernels.sh OUT` boots them and saves their memory; `MIG_GUESTS=OUT` has them tested here. Without it the test says that
//! it did nothing, unless `MIG_REQUIRE` names `guests`.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use mig_engine::MemoryImage;
use mig_engine::guest::{Guest, GuestClass, find_notes};
use mig_tests::captured::{self, Captured, Counts, Left, PARTS};

/// The guests to look at.
fn guests() -> Vec<Captured> {
    let Some(folder) = std::env::var_os("MIG_GUESTS") else {
        let required = std::env::var("MIG_REQUIRE").is_ok_and(|list| list.split(',').any(|w| w == "guests"));
        assert!(!required, "MIG_REQUIRE asks for guests, but MIG_GUESTS does not say where they are");
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
        let Some(program) = program else { continue };
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
        match captured.counts() {
            Ok(theirs) => {
                println!("  makedumpfile {theirs:?}");
                wrong.check(ours == theirs, || format!("{ours:?}, makedumpfile {theirs:?}"));
            }
            Err(why) => {
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
