//! Windows executables: the pages of a loaded PE image are found in its file on the guest's disk, wherever a section lies in the file (at a
//! multiple of 512 bytes, seldom of 4096), and wherever the loader put the image, which changes its pointers.
//!
//! A constructed file always; real ones if `MIG_PE` names a folder of them, such as where Debian's libwine has its. `MIG_REQUIRE=pe` fails without.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use ext4_view::Ext4;
use mig_engine::guest::{Guest, GuestClass, find_notes};
use mig_engine::{Effort, Packer, Technique};
use mig_tests::captured::{self, Captured};
use mig_tests::engine::{References, open_image, pack_image, packer};
use mig_tests::executable::Executable;
use mig_tests::handmade::Random;
use mig_tests::reference::PAGE;
use mig_tests::{compare, requires, sample};

/// One of two sections: code, which does not change, and constants with tables of pointers between them.
fn constructed() -> Executable {
    const CODE: usize = 30 * PAGE + 512;
    const DATA: usize = 9 * PAGE + 1000;
    let base = 0x1_8000_0000;
    let mut random = Random::new(5);
    let mut file: Vec<u8> = (0..1024).map(|_| random.word() as u8).collect();
    file.extend(&sample::disk()[300 * PAGE + 8..][..CODE]);
    let place = file.len();
    let (code, data) = (PAGE, (PAGE + CODE).next_multiple_of(PAGE));
    let mut relocations = Vec::new();
    for at in (0..DATA).step_by(8) {
        // A quarter of each KiB is a table.
        let word = if at % 1024 >= 768 {
            relocations.push((data + at, 8));
            base + PAGE as u64 + u64::from(random.word() as u16)
        } else {
            random.word()
        };
        file.extend(word.to_le_bytes());
    }
    Executable {
        name: "constructed".into(),
        size: data + DATA,
        sections: vec![(0, 0, 1024), (code, 1024, CODE), (data, place, DATA)],
        file,
        base,
        relocations,
    }
}

/// Executables that are loaded, and the disk with their files.
struct Windows {
    memory: Vec<u8>,
    disk: Vec<u8>,
    /// Pages that are not zero.
    pages: usize,
    /// Pointers that the loader changed.
    relocations: usize,
}

impl Windows {
    /// Each at an address of its own: a multiple of 64 KiB that is not the one in its file. Pages lie in memory as they come if not `scattered`.
    fn new(executables: &[Executable], scattered: bool) -> Self {
        let mut random = Random::new(11);
        let (mut pages, mut disk) = (Vec::new(), Vec::new());
        for executable in executables {
            let wide = executable.relocations.iter().all(|(_, len)| *len == 8);
            let at = if wide {
                0x7ff8_0000_0000 + (random.word() >> 46 << 16)
            } else {
                0x6000_0000 + (random.word() >> 52 << 16)
            };
            pages.extend(executable.load(at).chunks(PAGE).map(<[u8]>::to_vec));
            disk.extend(&executable.file);
            disk.resize(disk.len().next_multiple_of(PAGE), 0);
        }
        if scattered {
            for last in (1..pages.len()).rev() {
                pages.swap(last, random.below(last as u64 + 1) as usize);
            }
        }
        let relocations = executables.iter().map(|executable| executable.relocations.len()).sum();
        let is_zero = |page: &&Vec<u8>| page.iter().all(|byte| *byte == 0);
        let nonzero = pages.len() - pages.iter().filter(is_zero).count();
        Windows { memory: pages.concat(), disk, pages: nonzero, relocations }
    }

    /// Packs it with the disk as reference.
    fn pack(&self, without: Option<Technique>) -> Vec<u8> {
        let references = References::of(Some(&self.disk), None);
        let packer = packer(Effort::Balanced, false, &references);
        let packer = without.into_iter().fold(packer, Packer::without);
        pack_image(&open_image(&self.memory), &packer).0
    }

    /// Of the pages of executables: those that equal a block of the disk, those that have a base there, and the others. All pages come back.
    fn found(&self, stream: &[u8]) -> [usize; 3] {
        let references = References::of(Some(&self.disk), None);
        let slow = compare::whole(stream, &references, &self.memory).unwrap();
        let residual: usize = slow.blocks.iter().map(|block| block.residual_pages().len()).sum();
        let bases = slow.blocks.iter().flat_map(|block| &block.bases).flatten();
        let based = bases.filter(|(space, _)| *space == 1).count();
        [self.pages - residual, based, residual - based]
    }
}

#[test]
fn a_constructed_image_is_found_in_its_file() {
    let windows = Windows::new(&[constructed()], false);
    let stream = windows.pack(None);
    let [equal, based, others] = windows.found(&stream);
    // The code's first page comes with the headers, the last of both sections are cut off.
    assert!(equal + based >= 38 && others <= 3, "{equal} equal, {based} with a base, {others} others");
    // Every word of a table is another, and moved by the same distance.
    let [without_bases, without_moved] =
        [Technique::Bases, Technique::Relocated].map(|without| windows.pack(Some(without)).len());
    assert!(windows.relocations > 1000);
    let saved = (without_moved - stream.len()) / windows.relocations;
    eprintln!("{} bytes; without moved words {without_moved}, without bases {without_bases}", stream.len());
    assert!(saved >= 1, "{saved} bytes for each pointer");
    assert!(stream.len() * 3 < without_bases, "{} of {without_bases}", stream.len());
}

#[test]
fn real_executables_are_found_in_their_files() {
    let Some(folder) = std::env::var_os("MIG_PE").map(PathBuf::from) else {
        assert!(!requires("pe"), "MIG_REQUIRE asks for pe, but MIG_PE does not say where");
        eprintln!("SKIPPED: no executables; MIG_PE names a folder of them");
        return;
    };
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    // A few hundred MiB would take the slow decoder long.
    let mut left = 48 << 20_usize;
    let executables: Vec<Executable> = paths
        .iter()
        .filter_map(|path| {
            Executable::parse(&path.file_name()?.to_string_lossy(), &std::fs::read(path).ok()?)
        })
        .filter(|executable| !executable.relocations.is_empty())
        .filter(|executable| {
            let fits = executable.size <= left;
            left -= if fits { executable.size } else { 0 };
            fits
        })
        .collect();
    assert!(
        executables.len() >= 3,
        "{} holds {} executables with relocations",
        folder.display(),
        executables.len()
    );
    for scattered in [false, true] {
        let windows = Windows::new(&executables, scattered);
        let stream = windows.pack(None);
        let [equal, based, others] = windows.found(&stream);
        let pages = windows.pages;
        let [without_bases, without_moved] =
            [Technique::Bases, Technique::Relocated].map(|without| windows.pack(Some(without)).len());
        eprintln!(
            "{} executables from {} on, {pages} pages, scattered {scattered}: {equal} equal a block, {based} have a base, {others} have none; {} bytes, {without_moved} without moved words, {without_bases} without bases; {} pointers",
            executables.len(),
            executables[0].name,
            stream.len(),
            windows.relocations
        );
        // A page that no other goes before needs a sample of its own, of which there are four for each block, in the mean.
        let most = if scattered { pages / 5 } else { pages / 20 };
        assert!(others <= most, "{others} of {pages} pages were not found");
        assert!(stream.len() * 2 < without_bases, "{} of {without_bases}", stream.len());
    }
}

/// Where a guest's disk has Wine's executables.
const WINE: &str = "/wine/usr/lib/x86_64-linux-gnu/wine/x86_64-windows";

/// Wine's executables, by the page that their image begins with, without where it lies.
fn executables_of(disk: &Ext4) -> HashMap<Vec<u8>, Executable> {
    let entries = disk.read_dir(WINE).expect("Wine's folder");
    let executables = entries.filter_map(|entry| {
        let path = entry.expect("an entry of Wine's folder").path();
        let executable = Executable::parse(&path.display().to_string(), &disk.read(&path).ok()?)?;
        Some((beginning(&executable.load(executable.base)[..PAGE])?, executable))
    });
    executables.collect()
}

/// An image's first page without the address that it has of itself.
fn beginning(page: &[u8]) -> Option<Vec<u8>> {
    let headers = u32::from_le_bytes(*page[60..].first_chunk()?) as usize;
    let mut page = (page.starts_with(b"MZ") && headers < PAGE - 256).then(|| page.to_vec())?;
    // `ImageBase` of PE32+.
    page[headers + 48..][..8].fill(0);
    Some(page)
}

/// A guest's pages that Windows executables are in, and that the loader changed: each process has its own.
fn loaded(captured: &Captured) -> Windows {
    let disk = Ext4::load_from_path(captured.path("disk")).expect("a file system");
    let executables = executables_of(&disk);
    assert!(executables.len() > 100, "{} executables", executables.len());
    let image = captured.image("raw");
    let guest =
        Guest::read(&image, Some(image.layout()), &find_notes(&image)).expect("a guest that is understood");
    let bytes = |page: u64| &image.map().bytes()[page as usize * PAGE..][..PAGE];
    // By address, since a page of a file has one owner of many.
    let mut owned: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut begin = Vec::new();
    for page in 0..image.page_count() {
        let (Some(_), Some(address)) = (guest.owner(page), guest.virtual_page(page)) else { continue };
        if guest.class(page) == GuestClass::Anonymous {
            owned.entry(address).or_default().push(page);
        }
        if let Some(executable) = beginning(bytes(page)).and_then(|beginning| executables.get(&beginning)) {
            begin.push((address, executable));
        }
    }
    begin.sort_by_key(|(address, executable)| (*address, executable.name.clone()));
    begin.dedup_by_key(|(address, _)| *address);
    let (mut pages, mut relocations, mut written) = (BTreeSet::new(), 0, 0);
    for &(address, executable) in &begin {
        let [as_linked, as_loaded] = [executable.base, address * PAGE as u64].map(|at| executable.load(at));
        for (number, (linked, loaded)) in (address..).zip(as_linked.chunks(PAGE).zip(as_loaded.chunks(PAGE)))
        {
            for &page in owned.get(&number).into_iter().flatten() {
                if linked != loaded && bytes(page) == loaded {
                    pages.insert(page);
                } else {
                    written += 1;
                }
            }
            relocations += linked.chunks(8).zip(loaded.chunks(8)).filter(|(a, b)| a != b).count();
        }
    }
    eprintln!(
        "{}: {} executables are loaded; {} pages of them are as the loader made them, {written} were written since or not changed",
        captured.name,
        begin.len(),
        pages.len()
    );
    let disk = std::fs::read(captured.path("disk")).expect("a disk");
    let memory = pages.iter().flat_map(|&page| bytes(page)).copied().collect();
    Windows { pages: pages.len(), memory, disk, relocations }
}

#[test]
fn executables_in_a_guest_are_found_in_its_disk() {
    let folder = std::env::var_os("MIG_GUESTS").map(PathBuf::from);
    let guests = folder.map_or(Vec::new(), |folder| captured::all(&folder));
    let guests: Vec<Captured> =
        guests.into_iter().filter(|captured| captured.console.contains("\nwine runs")).collect();
    assert!(
        !guests.is_empty() || !requires("guests"),
        "MIG_REQUIRE asks for guests, but none in MIG_GUESTS runs Wine"
    );
    if guests.is_empty() {
        eprintln!(
            "SKIPPED: no guests with Wine; tests/guests/kernels.sh makes one, and MIG_GUESTS says where it is"
        );
    }
    for captured in guests {
        let windows = loaded(&captured);
        assert!(windows.pages > 200, "{} pages", windows.pages);
        let stream = windows.pack(None);
        let [equal, based, others] = windows.found(&stream);
        let [without_bases, without_moved] =
            [Technique::Bases, Technique::Relocated].map(|without| windows.pack(Some(without)).len());
        eprintln!(
            "{} pages: {equal} equal a block or each other, {based} have a base, {others} have none; {} bytes, {without_moved} without moved words, {without_bases} without bases",
            windows.pages,
            stream.len()
        );
        assert!(others <= windows.pages / 10, "{others} of {} pages were not found", windows.pages);
        assert!(stream.len() * 2 < without_bases, "{} of {without_bases}", stream.len());
    }
}
