//! What is compared: one adapter a contender, all of the same shape.
//!
//! An adapter packs a whole image into nothing, as fast as it can, and counts. Before that it has to prove itself:
//! [`Contender::verify`] packs, undoes and compares every byte, which also warms everything up. Peers get what helps
//! them: as many threads as we have, the size of the input, the input in their own address space.

mod auto;
mod coder;
mod gzip_program;
mod library;
mod makedumpfile;
mod memcpy;
mod mig;
mod named;
mod program;
mod qemu;
mod read;
mod rounds;
mod sending;
mod session;
mod sink;
#[cfg(test)]
mod tests;
mod zstd_program;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mig_engine::{Effort, Gpu, Level, MemoryImage, PackSummary};

use crate::cli::Mapping;
use crate::link::Link;
use crate::measure::Cost;

use auto::Auto;
pub(crate) use coder::{Zlib, Zstd};
pub(crate) use gzip_program::GzipProgram;
pub(crate) use library::Library;
pub(crate) use memcpy::Memcpy;
pub(crate) use mig::Mig;
pub(crate) use named::{Chosen, Named, Nature};
pub(crate) use qemu::{Ends, PROGRAM as QEMU};
pub(crate) use rounds::{Capture, Round, captures};
pub(crate) use sink::compare_pages;
pub(crate) use zstd_program::ZstdProgram;

/// Which contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Copying the image: the roof.
    Memcpy,
    /// Reading the image: the other roof.
    Read,
    /// The image as it is.
    Raw,
    /// `gzip -6`, the program.
    GzipProgram,
    /// zlib-rs at level 6, in this process.
    Zlib,
    /// zstd at a level.
    Zstd {
        /// As in `zstd -3`.
        level: i32,
        /// Number of threads.
        threads: usize,
        /// The program or libzstd in this process.
        program: bool,
    },
    /// zstd with matches from up to 128 MiB before, in this process.
    ZstdLong {
        /// As in `zstd -19 --long`.
        level: i32,
    },
    /// Zero pages named, the rest with zstd.
    ZeroPages {
        /// zstd's.
        level: i32,
    },
    /// LZ4.
    Lz4,
    /// xz.
    Xz {
        /// As in `xz -6`.
        level: u32,
    },
    /// The program for crashed kernels' memory.
    Makedumpfile,
    /// Two QEMUs.
    Qemu(qemu::How),
    /// This project, the effort chosen by the link.
    Auto {
        /// Whether it has the references.
        references: bool,
    },
    /// This project.
    Mig {
        /// How hard it tries.
        effort: Effort,
        /// Whether it has the references.
        references: bool,
    },
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Memcpy => f.write_str("memcpy"),
            Key::GzipProgram => f.write_str("gzip -6 (program)"),
            Key::Zlib => f.write_str("zlib-rs -6 (library)"),
            Key::Zstd { level, threads, program: true } => write!(f, "zstd -{level} -T{threads} (program)"),
            Key::Zstd { level, threads, program: false } => write!(f, "zstd -{level} -T{threads} (library)"),
            Key::Read => f.write_str("memory read"),
            Key::Raw => f.write_str("raw"),
            Key::ZstdLong { level } => write!(f, "zstd -{level} --long (library)"),
            Key::ZeroPages { level } => write!(f, "zero pages, zstd -{level} (library)"),
            Key::Lz4 => f.write_str("lz4 (library)"),
            Key::Xz { level } => write!(f, "xz -{level} (library)"),
            Key::Makedumpfile => f.write_str("makedumpfile -c (program)"),
            Key::Qemu(how) => how.fmt(f),
            Key::Auto { references: true } => f.write_str("mig auto"),
            Key::Auto { references: false } => f.write_str("mig auto, no reference"),
            Key::Mig { effort, references: true } => write!(f, "mig {effort}"),
            Key::Mig { effort, references: false } => write!(f, "mig {effort}, no reference"),
        }
    }
}

/// What is packed, the same for all contenders.
#[derive(Debug)]
pub(crate) struct Subject {
    path: PathBuf,
    image: MemoryImage,
    /// Whether each run maps the image again.
    pub(crate) mapping: Mapping,
    /// Threads of each contender that can use several.
    pub(crate) threads: usize,
    /// SIMD level of ours.
    pub(crate) level: Level,
    /// A GPU that scans besides the CPU when ours packs.
    pub(crate) gpu: Option<Gpu>,
    /// A folder for streams and unpacked images.
    pub(crate) scratch: PathBuf,
}

impl Subject {
    /// Opens an image.
    ///
    /// # Errors
    ///
    /// It can't be read, or is damaged.
    pub(crate) fn open(
        path: &Path,
        mapping: Mapping,
        threads: usize,
        level: Level,
        scratch: &Path,
    ) -> Result<Self> {
        let image = open(path)?;
        let (path, scratch) = (path.to_owned(), scratch.to_owned());
        Ok(Subject { path, image, mapping, threads, level, gpu: None, scratch })
    }

    /// Where the image is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The image, mapped for as long as the subject lives.
    pub(crate) fn image(&self) -> &MemoryImage {
        &self.image
    }

    /// All bytes of the image's file: what every contender is given.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.image.map().bytes()
    }

    /// The image for one run, mapped anew if runs should be.
    fn for_run(&self) -> Result<ForRun<'_>> {
        Ok(match self.mapping {
            Mapping::Fresh => ForRun::Fresh(Box::new(open(&self.path)?)),
            Mapping::Kept => ForRun::Kept(&self.image),
        })
    }

    /// A file without a name in the scratch folder.
    fn scratch_file(&self) -> Result<std::fs::File> {
        let file = tempfile::tempfile_in(&self.scratch);
        file.with_context(|| format!("cannot make a temporary file in {}", self.scratch.display()))
    }
}

fn open(path: &Path) -> Result<MemoryImage> {
    MemoryImage::open(path, None).with_context(|| format!("cannot read {}", path.display()))
}

/// An image that may be unmapped after the run.
enum ForRun<'s> {
    Fresh(Box<MemoryImage>),
    Kept(&'s MemoryImage),
}

impl ForRun<'_> {
    fn image(&self) -> &MemoryImage {
        match self {
            ForRun::Fresh(image) => image,
            ForRun::Kept(image) => image,
        }
    }

    fn bytes(&self) -> &[u8] {
        self.image().map().bytes()
    }
}

/// What proving itself came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verified {
    /// Bytes of the packed image.
    pub(crate) bytes: u64,
    /// What packing took in this run: the only figure for contenders that are measured [`Contender::once`].
    pub(crate) cost: Cost,
}

/// An adapter.
pub(crate) trait Contender {
    /// Which contender it is; its name for people is the key's.
    fn key(&self) -> Key;

    /// What exactly is run, in a line.
    fn about(&self) -> String;

    /// Packs the image, undoes it, and compares every byte.
    ///
    /// # Errors
    ///
    /// [`Problem::Wrong`](crate::exit::Problem::Wrong) if what comes back is not the image; whatever keeps it from
    /// running.
    fn verify(&mut self, subject: &Subject) -> Result<Verified>;

    /// Packs the image into nothing.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from running.
    fn pack(&mut self, subject: &Subject) -> Result<Cost>;

    /// Whether it is so slow that one run, that of verifying, has to do.
    fn once(&self) -> bool {
        false
    }

    /// Unpacks what verifying packed into a file in the scratch folder, which is not synced and then removed. `None`
    /// if that is not measured for this contender.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from running.
    fn unpack_to_file(&mut self, _subject: &Subject) -> Result<Option<Cost>> {
        Ok(None)
    }

    /// Unpacks what verifying packed into `memory`, which is zero and has room for all pages. `None` if that is not
    /// measured for this contender.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from running.
    fn unpack_to_memory(&mut self, _subject: &Subject, _memory: &mut [u8]) -> Result<Option<Cost>> {
        Ok(None)
    }

    /// Packs the image onto a link, and waits until that has carried everything. `None` for what is no way to move a guest.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from running.
    fn send(&mut self, _subject: &Subject, _link: &Link) -> Result<Option<Cost>> {
        Ok(None)
    }

    /// Sends a guest as it runs, round by round, into nothing, and undoes and compares that. `None` for what can't.
    ///
    /// # Errors
    ///
    /// As for [`verify`](Self::verify).
    fn rounds(&mut self, _subject: &Subject, _captures: &[Capture]) -> Result<Option<Vec<Round>>> {
        Ok(None)
    }

    /// What programs at both ends said of the last run, where there are such.
    fn ends(&self) -> Option<Ends> {
        None
    }

    /// What the pages turned out to be, where a contender tells.
    fn summary(&self) -> Option<&PackSummary> {
        None
    }
}
