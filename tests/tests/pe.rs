//! Windows executables: the pages of a loaded PE image are found in its file on the guest's disk, wherever a section lies in the file (at a
//! multiple of 512 bytes, seldom of 4096), and wherever the loader put the image, which changes its pointers.
//!
//! A constructed file always; real ones if `MIG_PE` names a folder of them, such as where Debian's libwine has its. `MIG_REQUIRE=pe` fails without.

use std::path::{Path, PathBuf};

use mig_engine::{Effort, Packer, Technique};
use mig_tests::engine::{References, open_image, pack_image, packer};
use mig_tests::handmade::Random;
use mig_tests::reference::PAGE;
use mig_tests::{compare, requires, sample};
use object::pe::{IMAGE_REL_BASED_DIR64, IMAGE_REL_BASED_HIGHLOW, ImageNtHeaders32, ImageNtHeaders64};
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile};

/// An executable file, as far as its loader needs it.
struct Executable {
    name: String,
    file: Vec<u8>,
    /// Where it would like to be loaded.
    base: u64,
    /// Bytes of the loaded image.
    size: usize,
    /// Address in the image, place in the file, and length of each section, headers first.
    sections: Vec<(usize, usize, usize)>,
    /// Addresses of the pointers that change with the base, and their lengths.
    relocations: Vec<(usize, usize)>,
}

impl Executable {
    /// What a loader makes of it at another address.
    fn load(&self, at: u64) -> Vec<u8> {
        let mut image = vec![0; self.size.next_multiple_of(PAGE)];
        for &(address, place, len) in &self.sections {
            image[address..address + len].copy_from_slice(&self.file[place..place + len]);
        }
        let delta = at.wrapping_sub(self.base);
        for &(address, len) in &self.relocations {
            let mut pointer = [0; 8];
            pointer[..len].copy_from_slice(&image[address..address + len]);
            let moved = u64::from_le_bytes(pointer).wrapping_add(delta).to_le_bytes();
            image[address..address + len].copy_from_slice(&moved[..len]);
        }
        image
    }

    /// Reads a PE file of either width; `None` for what is none.
    fn parse(path: &Path) -> Option<Self> {
        let file = std::fs::read(path).ok()?;
        let name = path.file_name()?.to_string_lossy().into_owned();
        Self::parse_as::<ImageNtHeaders64>(&name, &file)
            .or_else(|| Self::parse_as::<ImageNtHeaders32>(&name, &file))
    }

    fn parse_as<H: ImageNtHeaders>(name: &str, file: &[u8]) -> Option<Self> {
        let parsed: PeFile<'_, H> = PeFile::parse(file).ok()?;
        let optional = parsed.nt_headers().optional_header();
        let size = optional.size_of_image() as usize;
        let mut sections = vec![(0, 0, optional.size_of_headers() as usize)];
        for section in parsed.section_table().iter() {
            let number = |field: object::U32<object::LittleEndian>| field.get(object::LittleEndian) as usize;
            let len = number(section.size_of_raw_data).min(number(section.virtual_size));
            sections.push((number(section.virtual_address), number(section.pointer_to_raw_data), len));
        }
        let fits = |&(address, place, len): &(usize, usize, usize)| {
            address + len <= size && place + len <= file.len()
        };
        let mut relocations = Vec::new();
        let mut blocks =
            parsed.data_directories().relocation_blocks(file, &parsed.section_table()).ok()??;
        while let Some(block) = blocks.next().ok()? {
            for relocation in block {
                let len = match relocation.typ {
                    IMAGE_REL_BASED_DIR64 => 8,
                    IMAGE_REL_BASED_HIGHLOW => 4,
                    _ => continue,
                };
                relocations.push((relocation.virtual_address as usize, len));
            }
        }
        let inside = relocations.iter().all(|(address, len)| address + len <= size);
        let (name, file, base) = (name.to_owned(), file.to_vec(), optional.image_base());
        (inside && sections.iter().all(fits)).then_some(Executable {
            name,
            file,
            base,
            size,
            sections,
            relocations,
        })
    }

    /// One of two sections: code, which does not change, and constants with tables of pointers between them.
    fn constructed() -> Self {
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
    let windows = Windows::new(&[Executable::constructed()], false);
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
        .filter_map(|path| Executable::parse(path))
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
