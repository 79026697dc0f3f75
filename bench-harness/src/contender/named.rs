//! Contenders as suites name them: `zstd -3`, `mig balanced, no guest`.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use mig_engine::gpu::Beside;
use mig_engine::{Effort, Gpu, ImageFormat, Level, Packer, Technique};
use serde::Deserialize;

use super::coder::{Lz4, Raw, Xz, ZeroPages, Zlib, Zstd};
use super::library::Library;
use super::makedumpfile::Makedumpfile;
use super::qemu::{How, Qemu};
use super::read::MemoryRead;
use super::{Auto, Contender, GzipProgram, Key, Memcpy, Mig, Subject, ZstdProgram};
use crate::provenance::version_of;
use crate::references::References;
use crate::run::Run;

/// A contender, not yet on any image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Named {
    name: String,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Memcpy,
    Read,
    Raw,
    Gzip,
    Zlib,
    ZstdProgram(i32),
    Zstd { level: i32, long: bool },
    ZeroPages(i32),
    Lz4,
    Xz(u32),
    Makedumpfile,
    Qemu(How),
    Mig(Ours),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ours {
    /// As the link asks for, if there is none.
    effort: Option<Effort>,
    no_reference: bool,
    without: Vec<Technique>,
    worker: Option<Worker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worker {
    Level(&'static str),
    Gpu,
}

/// What a contender is, beside being measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// Something that memory can do, and no way to move a guest.
    Roof,
    /// Every byte as it is.
    Raw,
    /// What a user might pick instead.
    Peer,
    /// This project at a fixed effort, with all that it has.
    Fixed(Effort),
    /// This project as it chooses itself.
    Auto,
    /// This project without something.
    Less,
}

/// A contender that can be measured here, or why not.
pub(crate) enum Chosen {
    Here(Box<dyn Contender>),
    NotHere(String),
}

/// The beginning of every name is one of these.
const NAMES: &str = "memcpy, memory read, raw, gzip -6, zlib-rs -6, zstd -N, zstd -N --long, zstd program -N, zero pages, zstd -N, \
                     lz4, xz -N, makedumpfile -c, qemu, qemu multifd N, the latter with \", zlib\" or \", zstd\", \"qemu, mig\", \"qemu, mig --paused\", \
                     mig store|fast|balanced|dense|max|auto, each mig with \", no reference\", \", no guest\" (or another technique), \
                     \", scalar|avx2|avx512|neon|gpu\" after it";

/// A name that is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no contender {0:?}; names are: {NAMES}")]
pub(crate) struct UnknownContender(String);

impl TryFrom<String> for Named {
    type Error = UnknownContender;

    fn try_from(name: String) -> Result<Self, UnknownContender> {
        let what = what(&name).ok_or_else(|| UnknownContender(name.clone()))?;
        Ok(Named { name, what })
    }
}

impl FromStr for Named {
    type Err = UnknownContender;

    fn from_str(name: &str) -> Result<Self, UnknownContender> {
        name.to_owned().try_into()
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

fn what(name: &str) -> Option<What> {
    let level = |text: &str| text.strip_prefix('-')?.parse::<u32>().ok();
    let zstd = |text: &str| level(text).filter(|level| (1..=22).contains(level)).map(|level| level as i32);
    Some(match name {
        "memcpy" => What::Memcpy,
        "memory read" => What::Read,
        "raw" => What::Raw,
        "gzip -6" => What::Gzip,
        "zlib-rs -6" => What::Zlib,
        "lz4" => What::Lz4,
        "makedumpfile -c" => What::Makedumpfile,
        _ => {
            if let Some(rest) = name.strip_prefix("zero pages, zstd ") {
                What::ZeroPages(zstd(rest)?)
            } else if let Some(rest) = name.strip_prefix("zstd program ") {
                What::ZstdProgram(zstd(rest)?)
            } else if let Some(rest) = name.strip_prefix("zstd ") {
                let long = rest.strip_suffix(" --long");
                What::Zstd { level: zstd(long.unwrap_or(rest))?, long: long.is_some() }
            } else if let Some(rest) = name.strip_prefix("xz ") {
                What::Xz(level(rest).filter(|level| *level <= 9)?)
            } else if let Some(rest) = name.strip_prefix("qemu") {
                What::Qemu(How::parse(rest)?)
            } else {
                What::Mig(ours(name.strip_prefix("mig ")?)?)
            }
        }
    })
}

fn ours(text: &str) -> Option<Ours> {
    let mut words = text.split(", ");
    let effort = match words.next()? {
        "auto" => None,
        effort => Some(effort.parse().ok()?),
    };
    let mut ours = Ours { effort, ..Ours::default() };
    for word in words {
        match word {
            "no reference" => ours.no_reference = true,
            "gpu" => ours.worker = Some(Worker::Gpu),
            word => match word.strip_prefix("no ") {
                Some(technique) => ours.without.push(technique.parse().ok()?),
                None => {
                    let known = Level::NAMES.into_iter().find(|name| *name == word)?;
                    ours.worker = Some(Worker::Level(known));
                }
            },
        }
    }
    // The session of `mig send` has no such switches.
    let switched = !ours.without.is_empty() || ours.worker.is_some();
    (ours.effort.is_some() || !switched).then_some(ours)
}

impl Named {
    /// What it is, beside being measured.
    pub(crate) fn nature(&self) -> Nature {
        match &self.what {
            What::Memcpy | What::Read => Nature::Roof,
            What::Raw => Nature::Raw,
            What::Mig(Ours { effort, no_reference: false, without, worker: None }) if without.is_empty() => {
                effort.map_or(Nature::Auto, Nature::Fixed)
            }
            What::Qemu(How { mig: true, .. }) | What::Mig(_) => Nature::Less,
            _ => Nature::Peer,
        }
    }

    /// Whether what it sends depends on the link.
    pub(crate) fn follows_the_link(&self) -> bool {
        self.nature() == Nature::Auto || matches!(self.what, What::Qemu(How { mig: true, .. }))
    }

    /// Whether it is nothing without a destination.
    pub(crate) fn has_two_ends(&self) -> bool {
        matches!(self.what, What::Qemu(_))
    }

    /// Makes it ready for an image.
    ///
    /// # Errors
    ///
    /// There is no memory for it, or references can't be opened.
    pub(crate) fn choose(
        &self,
        subject: &Subject,
        references: &References,
        gpu: Option<&Gpu>,
        run: &Run,
    ) -> Result<Chosen> {
        let threads = subject.threads;
        let library = |key, coder: Box<dyn super::coder::Coder>| Library::boxed(key, coder);
        let zstd = |level, long| Zstd { level, threads, long };
        let contender: Box<dyn Contender> = match &self.what {
            What::Memcpy => Box::new(Memcpy::new(subject.bytes().len())?),
            What::Read => Box::new(MemoryRead),
            What::Raw => Box::new(library(Key::Raw, Box::new(Raw))),
            What::Gzip | What::ZstdProgram(_) | What::Makedumpfile
                if version_of(self.program()).is_none() =>
            {
                return Ok(Chosen::NotHere(format!(
                    "there is no {} program on this machine",
                    self.program()
                )));
            }
            What::Makedumpfile if subject.image().layout().format() != ImageFormat::Raw => {
                return Ok(Chosen::NotHere("it is given raw images only".into()));
            }
            What::Makedumpfile => Box::new(Makedumpfile::new(subject)?),
            What::Gzip => Box::new(GzipProgram::new()),
            What::ZstdProgram(level) => Box::new(ZstdProgram::new(*level, threads)),
            What::Zlib => Box::new(library(Key::Zlib, Box::new(Zlib))),
            What::Zstd { level, long: false } => {
                let key = Key::Zstd { level: *level, threads, program: false };
                Box::new(library(key, Box::new(zstd(*level, false))))
            }
            What::Zstd { level, long: true } => {
                Box::new(library(Key::ZstdLong { level: *level }, Box::new(zstd(*level, true))))
            }
            What::ZeroPages(level) => {
                let coder = ZeroPages(zstd(*level, false));
                Box::new(library(Key::ZeroPages { level: *level }, Box::new(coder)))
            }
            What::Lz4 => Box::new(library(Key::Lz4, Box::new(Lz4 { threads }))),
            What::Xz(level) => {
                Box::new(library(Key::Xz { level: *level }, Box::new(Xz { level: *level, threads })))
            }
            What::Qemu(how) => match Qemu::new(*how, subject, references, &run.cancel) {
                Ok(qemu) => Box::new(qemu),
                Err(why) => return Ok(Chosen::NotHere(why)),
            },
            What::Mig(ours) => return ours.choose(subject, references, gpu, run),
        };
        Ok(Chosen::Here(contender))
    }

    fn program(&self) -> &'static str {
        match self.what {
            What::Gzip => "gzip",
            What::Makedumpfile => "makedumpfile",
            _ => "zstd",
        }
    }
}

impl Ours {
    fn choose(
        &self,
        subject: &Subject,
        references: &References,
        gpu: Option<&Gpu>,
        run: &Run,
    ) -> Result<Chosen> {
        let none = References::default();
        let references = if self.no_reference { &none } else { references };
        let Some(effort) = self.effort else {
            return Ok(Chosen::Here(Box::new(Auto::new(subject, references, &run.cancel)?)));
        };
        let mut packer = Packer::new().effort(effort).level(subject.level);
        packer = match self.worker {
            Some(Worker::Level(name)) => match Level::named(name) {
                Ok(level) => packer.level(level),
                Err(error) => return Ok(Chosen::NotHere(error.to_string())),
            },
            Some(Worker::Gpu) => match gpu {
                Some(gpu) => packer.beside(&Beside::open(gpu)),
                None => return Ok(Chosen::NotHere("no GPU is used (see --gpu and --gpu-adapter)".into())),
            },
            None => packer,
        };
        for &technique in &self.without {
            packer = packer.without(technique);
        }
        let contender = if self.without.is_empty() && self.worker.is_none() {
            Mig::new(subject, effort, references, &run.cancel)?
        } else {
            Mig::with(subject, packer, effort, references, &run.cancel)?
        };
        Ok(Chosen::Here(Box::new(contender)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_kept() {
        let cases = [
            ("memcpy", Nature::Roof),
            ("raw", Nature::Raw),
            ("gzip -6", Nature::Peer),
            ("zstd -19 --long", Nature::Peer),
            ("zstd program -3", Nature::Peer),
            ("zero pages, zstd -1", Nature::Peer),
            ("xz -6", Nature::Peer),
            ("makedumpfile -c", Nature::Peer),
            ("qemu", Nature::Peer),
            ("qemu multifd 2", Nature::Peer),
            ("qemu multifd 4, zstd", Nature::Peer),
            ("qemu, mig", Nature::Less),
            ("qemu, mig --paused", Nature::Less),
            ("mig auto", Nature::Auto),
            ("mig auto, no reference", Nature::Less),
            ("mig balanced", Nature::Fixed(Effort::Balanced)),
            ("mig balanced, no guest", Nature::Less),
            ("mig balanced, no long-matches, no bases", Nature::Less),
            ("mig store, scalar", Nature::Less),
            ("mig fast, no reference, gpu", Nature::Less),
        ];
        for (name, nature) in cases {
            let named: Named = name.parse().unwrap();
            assert_eq!((named.to_string().as_str(), named.nature()), (name, nature));
        }
        let bad = ["", "zip", "zstd", "zstd -0", "zstd -99", "xz -12", "mig", "mig quick", "mig auto, gpu"];
        for bad in bad.into_iter().chain([
            "mig fast, sse9",
            "mig fast, no idea",
            "zstd -3 --short",
            "qemu multifd",
            "qemu multifd 2, gzip",
            "qemu, zstd",
            "qemus",
        ]) {
            let error = bad.parse::<Named>().unwrap_err().to_string();
            assert!(error.contains("names are: memcpy"), "{error}");
        }
    }
}
