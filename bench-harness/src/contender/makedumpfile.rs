//! `makedumpfile -c -d 1`: what saves memory of a crashed kernel, on a whole guest. Zero pages are left out, each other page goes through zlib.
//!
//! It reads ELF cores only, so it gets one with the image's bytes as its one segment, made beforehand. Its output, rearranged by
//! itself, is read back here: the format of `diskdump_mod.h`, as makedumpfile's `IMPLEMENTATION` file describes it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use flate2::read::ZlibDecoder;
use mig_engine::PAGE_SIZE;
use mig_engine::map::FileMap;

use super::program::Program;
use super::{Contender, Key, Subject, Verified};
use crate::exit::Problem;
use crate::link::Link;
use crate::measure::{Cost, timed_programs};

/// Where the image begins in its ELF core.
const BEGIN: u64 = 4096;

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct Makedumpfile {
    program: Program,
    /// With the core in it; gone with this value.
    folder: tempfile::TempDir,
}

impl Makedumpfile {
    /// Makes the core. Whether the program is installed is not looked at.
    ///
    /// # Errors
    ///
    /// The core can't be written.
    pub(crate) fn new(subject: &Subject) -> Result<Self> {
        let folder = tempfile::tempdir_in(&subject.scratch)?;
        let mut core = File::create(folder.path().join("core"))?;
        core.write_all(&head(subject.bytes().len() as u64))?;
        core.write_all(subject.bytes())?;
        // Or the disk would be busy writing while others are measured.
        core.sync_all()?;
        // Its --num-threads took more than twice as long where it was tried.
        let arguments = ["-F", "-c", "-d", "1"].map(str::to_owned).to_vec();
        Ok(Makedumpfile { program: Program { name: "makedumpfile", arguments, is_chatty: true }, folder })
    }

    fn core(&self) -> PathBuf {
        self.folder.path().join("core")
    }
}

/// ELF headers, an empty state of one processor, and a segment of so many bytes at physical address 0.
fn head(len: u64) -> Vec<u8> {
    const STATE: u32 = 336;
    let mut note = Vec::new();
    for word in [5, STATE, 1] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"CORE\0\0\0\0");
    note.resize(note.len() + STATE as usize, 0);
    let mut head = b"\x7fELF\x02\x01\x01".to_vec();
    head.resize(16, 0);
    head.extend_from_slice(&4u16.to_le_bytes());
    head.extend_from_slice(&62u16.to_le_bytes());
    head.extend_from_slice(&1u32.to_le_bytes());
    for word in [0u64, 64, 0] {
        head.extend_from_slice(&word.to_le_bytes());
    }
    head.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        head.extend_from_slice(&half.to_le_bytes());
    }
    let mut segment = |kind: u32, flags: u32, words: [u64; 6]| {
        head.extend_from_slice(&kind.to_le_bytes());
        head.extend_from_slice(&flags.to_le_bytes());
        words.iter().for_each(|word| head.extend_from_slice(&word.to_le_bytes()));
    };
    let bytes = note.len() as u64;
    segment(4, 0, [64 + 2 * 56, 0, 0, bytes, bytes, 0]);
    segment(1, 7, [BEGIN, 0xffff_8880_0000_0000, 0, len, len, 0]);
    head.extend_from_slice(&note);
    head.resize(BEGIN as usize, 0);
    head
}

impl Contender for Makedumpfile {
    fn key(&self) -> Key {
        Key::Makedumpfile
    }

    fn about(&self) -> String {
        format!("{}, an ELF core of the image made beforehand", self.program.describe())
    }

    fn verify(&mut self, subject: &Subject) -> Result<Verified> {
        let [flat, dump] = ["flat", "dump"].map(|name| self.folder.path().join(name));
        let ((), cost) = timed_programs(|| self.program.run_into(&self.core(), File::create(&flat)?.into()))?;
        let bytes = flat.metadata()?.len();
        let mut rearrange = Command::new("makedumpfile");
        rearrange.arg("-R").arg(&dump).stdin(File::open(&flat)?).stdout(Stdio::null());
        ensure!(rearrange.status()?.success(), "makedumpfile -R failed");
        compare(&self.key().to_string(), FileMap::open(&dump)?.bytes(), subject.bytes())?;
        for path in [flat, dump] {
            std::fs::remove_file(path)?;
        }
        Ok(Verified { bytes, cost })
    }

    fn pack(&mut self, _: &Subject) -> Result<Cost> {
        self.program.run(&self.core())
    }

    fn send(&mut self, _: &Subject, link: &Link) -> Result<Option<Cost>> {
        self.program.send(&self.core(), link).map(Some)
    }
}

/// Where the header says what; a file's header, the one below it and the bitmaps are whole blocks.
const BLOCK_SIZE_AT: usize = 428;
const DESCRIPTOR: usize = 24;
const ZLIB: u32 = 1;

/// Compares a dump's pages with the image's.
fn compare(who: &str, dump: &[u8], image: &[u8]) -> Result<()> {
    let cut = || Problem::Wrong { who: who.to_owned(), what: "its dump is cut short".into() };
    let word = |at: usize| -> Result<u32, Problem> {
        let bytes = dump.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).ok_or_else(cut)
    };
    ensure!(dump.starts_with(b"KDUMP   "), "makedumpfile wrote something else than a compressed dump");
    let [block, below, bitmaps] =
        [word(BLOCK_SIZE_AT)?, word(BLOCK_SIZE_AT + 4)?, word(BLOCK_SIZE_AT + 8)?].map(|word| word as usize);
    ensure!(block == PAGE_SIZE, "makedumpfile's blocks have {block} bytes");
    // The second half of the bitmaps says which pages are in the dump.
    let bitmap = dump.get((1 + below) * block + bitmaps * block / 2..).ok_or_else(cut)?;
    let mut descriptor = (1 + below + bitmaps) * block;
    let mut inflated = Vec::with_capacity(PAGE_SIZE);
    for (number, page) in image.chunks(PAGE_SIZE).enumerate() {
        let is_there = bitmap.get(number / 8).ok_or_else(cut)? >> (number % 8) & 1 != 0;
        let found: &[u8] = if is_there {
            let at = u64::from(word(descriptor)?) | u64::from(word(descriptor + 4)?) << 32;
            let (len, flags) = (word(descriptor + 8)? as usize, word(descriptor + 12)?);
            descriptor += DESCRIPTOR;
            let bytes = dump.get(at as usize..).and_then(|rest| rest.get(..len)).ok_or_else(cut)?;
            if flags & ZLIB != 0 {
                inflated.clear();
                ZlibDecoder::new(bytes).read_to_end(&mut inflated).context("makedumpfile's zlib")?;
                &inflated
            } else {
                bytes
            }
        } else {
            &[0; PAGE_SIZE][..page.len()]
        };
        if found != page {
            let what = format!("page {number} comes back as another");
            return Err(Problem::Wrong { who: who.to_owned(), what }.into());
        }
    }
    Ok(())
}
