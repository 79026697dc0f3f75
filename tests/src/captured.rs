//! Real guests that `tests/guests/kernels.sh` booted and saved, with what they and makedumpfile said of their pages.
//!
//! What a guest's only program (`tests/guests/init.c`) puts into memory is known: its numbers are here again. Nothing here is
//! read with the engine's own knowledge of Linux.

use std::path::{Path, PathBuf};

use mig_engine::image::Run;
use mig_engine::{MemoryImage, PageSource};

/// First word of a page that the program filled.
const MAGIC: u64 = u64::from_le_bytes(*b"MIG-PAGE");
/// First word of a page in which the program kept the kernel's flags.
const FLAGS_MAGIC: u64 = u64::from_le_bytes(*b"MIG-FLAG");
const WORDS: usize = 512;

/// A guest that was saved.
#[derive(Debug)]
pub struct Captured {
    /// The folder's name: the kernel's release, and what else is special.
    pub name: String,
    folder: PathBuf,
    /// What the guest printed.
    pub console: String,
}

/// A page that the program filled, by what is written in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Where it is in the image.
    pub page: u64,
    /// The process.
    pub who: u64,
    /// The virtual address, or the offset in a file.
    pub address: u64,
    /// What kind of memory it is.
    pub kind: u64,
}

/// What the program writes of a kind of memory: who, which kind, how many pages, the program's path where it is mapped, a name.
pub type Part = (u64, u64, usize, Option<&'static str>, &'static str);

/// Who filled the files on the disk.
pub const DISK: u64 = 5;
/// The kind of memory that was given back.
const FREED: u64 = 11;

/// All that the program keeps.
pub const PARTS: [Part; 13] = [
    (1, 1, 20, Some("/init"), "anonymous memory"),
    (2, 1, 300, Some("/bin/alpha"), "anonymous memory"),
    (2, 2, 64, Some("/bin/alpha"), "anonymous memory of parent and child"),
    (3, 3, 32, Some("/bin/alpha"), "the child's copies"),
    (2, 4, 50, Some("/bin/alpha"), "shared memory"),
    (3, 1, 100, Some("/bin/alpha"), "anonymous memory"),
    (4, 1, 128, Some("/bin/beta"), "anonymous memory, spread out"),
    (4, 9, 1024, Some("/bin/beta"), "transparent huge pages"),
    (4, 10, 1024, Some("/bin/beta"), "huge pages"),
    (1, 5, 200, None, "tmpfs"),
    (1, 6, 200, None, "ramfs"),
    (DISK, 7, 500, None, "a file that was read"),
    (DISK, 8, 100, Some("/bin/beta"), "a file that is mapped"),
];

impl Filled {
    /// Whether the program had given the page back before it was saved.
    pub fn is_freed(&self) -> bool {
        self.kind == FREED
    }
}

/// What makedumpfile counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Free pages, and those that are offline.
    pub free: u64,
    /// User pages, anonymous ones and huge ones.
    pub user: u64,
    /// Page cache, with and without private data.
    pub cache: u64,
}

/// The guests in a folder, by name.
///
/// # Panics
///
/// If it can't be read.
pub fn all(folder: &Path) -> Vec<Captured> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry of the folder").path());
    let guest = |folder: PathBuf| {
        let console = std::fs::read(folder.join("console")).ok()?;
        let name = folder.file_name()?.to_string_lossy().into_owned();
        Some(Captured { name, folder, console: String::from_utf8_lossy(&console).into_owned() })
    };
    let mut guests: Vec<Captured> = paths.filter_map(guest).collect();
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    guests
}

impl Captured {
    /// The path of a file: `raw`, `elf`, `qemu` or `disk`.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// The memory in one of its forms.
    ///
    /// # Panics
    ///
    /// If it can't be read.
    pub fn image(&self, file: &str) -> MemoryImage {
        MemoryImage::open(&self.path(file), None)
            .unwrap_or_else(|error| panic!("{}, {file}: {error}", self.name))
    }

    /// What the guest said: the rest of the line that starts with this word.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn said(&self, word: &str) -> &str {
        let rest = self.console.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
        rest.unwrap_or_else(|| panic!("{}: the guest does not say its {word}", self.name)).trim()
    }

    /// Whether its processor is a 64-bit ARM.
    pub fn is_arm(&self) -> bool {
        self.said("release").ends_with("-arm64")
    }

    /// What makedumpfile counted.
    ///
    /// # Errors
    ///
    /// What it says if it does not know this kernel.
    ///
    /// # Panics
    ///
    /// If it was not asked.
    pub fn counts(&self) -> Result<Counts, String> {
        let text = std::fs::read(self.path("makedumpfile")).expect("what makedumpfile said");
        let text = String::from_utf8_lossy(&text);
        let number = |name: &str| {
            let value = text.lines().find_map(|line| line.trim().strip_prefix(name)?.split_once("0x"));
            value.and_then(|(_, hex)| u64::from_str_radix(hex.trim(), 16).ok())
        };
        let counts = || {
            Some(Counts {
                free: number("Free pages")?
                    + number("Offline pages")?
                    + number("Unaccepted pages").unwrap_or(0),
                user: number("User process data pages")?,
                cache: number("Non-private cache pages")? + number("Private cache pages")?,
            })
        };
        if !text.contains("exit status 0") {
            return Err(text.into_owned());
        }
        let counts = counts().ok_or_else(|| text.clone().into_owned())?;
        match text.lines().find(|line| line.contains("not supported")) {
            // It guesses then.
            Some(line) => Err(format!("{line} It counts {counts:?}")),
            None => Ok(counts),
        }
    }
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

fn word(page: &[u8], index: usize) -> u64 {
    page[index * 8..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// What the program left in memory.
#[derive(Debug, Default)]
pub struct Left {
    /// Pages that it filled, those that it had freed and that still are as they were among them.
    pub filled: Vec<Filled>,
    /// For each frame, what the kernel said of it in `/proc/kpageflags`; 0 where it said nothing.
    pub flags: Vec<u64>,
}

impl Left {
    /// Looks at every page of an image.
    pub fn find(image: &MemoryImage) -> Self {
        let mut left = Left::default();
        let mut page = 0;
        while page < image.page_count() {
            let run = PageSource::run(image, page, 1 << 12);
            if let Run::Data(bytes) = run {
                for (page, bytes) in (page..).zip(bytes.chunks_exact(WORDS * 8)) {
                    left.look(page, bytes);
                }
            }
            page += run.pages();
        }
        left
    }

    fn look(&mut self, page: u64, bytes: &[u8]) {
        let [magic, who, address, kind, sum] = std::array::from_fn(|index| word(bytes, index));
        if magic == FLAGS_MAGIC {
            // Who, the first frame; then how many.
            let (first, count) = (who as usize, (address as usize).min(WORDS - 3));
            self.flags.resize(self.flags.len().max(first + count), 0);
            for (index, flags) in self.flags[first..first + count].iter_mut().enumerate() {
                *flags = word(bytes, 3 + index);
            }
        }
        let seal = mix(mix(mix(who) ^ address) ^ kind);
        let whole = || (5..WORDS).all(|index| word(bytes, index) == mix(seal.wrapping_add(index as u64)));
        if magic == MAGIC && sum == seal && whole() {
            self.filled.push(Filled { page, who, address, kind });
        }
    }
}
