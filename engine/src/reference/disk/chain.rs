//! An image and its backing images, top first, as one disk of bytes.
//!
//! Each layer says of an offset: zero, look below, at this place of a host file, or coded. The chain goes down until
//! there is an answer. A backing image that is shorter than the one above it goes on with zeros, and so does a
//! host file that ends early, as in QEMU.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::DiskFormat;
use super::cache::CodedCache;
use super::host::HostFile;
use super::qcow2::Qcow2Layer;
use super::raw::RawLayer;
use super::vmdk::VmdkLayer;
use crate::reference::ReferenceError;
use crate::reference::index::FileStamp;

/// The most images in a chain. One that is its own backing image has endlessly many.
const MAX_LAYERS: usize = 64;
/// The most files in a chain: a vmdk image in 2 GiB pieces has many.
const MAX_FILES: usize = 1024;

/// Where some bytes of the disk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere; they read as zero.
    Zero,
    /// In host file number `file`, from `at` on.
    Data { file: u32, at: u64 },
    /// In a form that only the layer can read.
    Coded,
}

/// What one layer says about some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The layer has them, or knows that they are zero.
    Here(Place),
    /// The layer below has them.
    Below,
}

/// The files of a chain, in the order in which they were opened.
#[derive(Debug, Default)]
pub(super) struct Files(Vec<HostFile>);

impl Files {
    /// Opens one file more, and gives its number.
    pub(super) fn add(&mut self, path: &Path) -> Result<u32, ReferenceError> {
        if self.0.len() == MAX_FILES {
            let path = self.0[0].path.clone();
            return Err(ReferenceError::TooMany { path, what: "files", max: MAX_FILES });
        }
        self.0.push(HostFile::open(path)?);
        Ok(self.0.len() as u32 - 1)
    }

    /// The file with a number that `add` gave.
    pub(super) fn get(&self, number: u32) -> &HostFile {
        &self.0[number as usize]
    }
}

/// The image that another one is based on, as that one names it.
#[derive(Debug)]
pub(super) struct Backing {
    pub(super) path: PathBuf,
    /// None where the image does not say.
    pub(super) format: Option<DiskFormat>,
}

#[derive(Debug)]
enum Layer {
    Raw(RawLayer),
    Qcow2(Qcow2Layer),
    Vmdk(VmdkLayer),
}

impl Layer {
    fn open(
        file: u32,
        format: DiskFormat,
        files: &mut Files,
    ) -> Result<(Self, Option<Backing>), ReferenceError> {
        Ok(match format {
            DiskFormat::Raw => (Self::Raw(RawLayer::open(file, files.get(file))), None),
            DiskFormat::Qcow2 => {
                let (layer, backing) = Qcow2Layer::open(file, files)?;
                (Self::Qcow2(layer), backing)
            }
            DiskFormat::Vmdk => {
                let (layer, backing) = VmdkLayer::open(file, files)?;
                (Self::Vmdk(layer), backing)
            }
        })
    }

    fn size(&self) -> u64 {
        match self {
            Self::Raw(layer) => layer.size(),
            Self::Qcow2(layer) => layer.size(),
            Self::Vmdk(layer) => layer.size(),
        }
    }

    /// What `offset`, which is below the size, is, and for how many bytes: at least 1, at most `max`.
    fn piece(&self, offset: u64, max: u64, files: &Files) -> Result<(Piece, u64), ReferenceError> {
        match self {
            Self::Raw(layer) => Ok(layer.piece(offset, max)),
            Self::Qcow2(layer) => layer.piece(offset, max, files),
            Self::Vmdk(layer) => layer.piece(offset, max, files),
        }
    }

    /// The range of bytes around `offset` that are decoded together, at most 2 MiB.
    fn unit(&self, offset: u64) -> Range<u64> {
        match self {
            Self::Raw(_) => offset..offset,
            Self::Qcow2(layer) => layer.unit(offset),
            Self::Vmdk(layer) => layer.unit(offset),
        }
    }

    /// Decodes the unit that begins at `offset`.
    fn decode(&self, offset: u64, buf: &mut [u8], files: &Files) -> Result<(), ReferenceError> {
        match self {
            // A raw image has nothing coded.
            Self::Raw(_) => Ok(()),
            Self::Qcow2(layer) => layer.decode(offset, buf, files),
            Self::Vmdk(layer) => layer.decode(offset, buf, files),
        }
    }
}

/// All layers of an image, and their files.
#[derive(Debug)]
pub(super) struct Chain {
    files: Files,
    /// At least one.
    layers: Vec<Layer>,
    cache: CodedCache,
}

impl Chain {
    pub(super) fn open(path: &Path, format: Option<DiskFormat>) -> Result<Self, ReferenceError> {
        let mut files = Files::default();
        let mut layers = Vec::new();
        let mut next = Some(Backing { path: path.to_owned(), format });
        while let Some(image) = next {
            if layers.len() == MAX_LAYERS {
                let path = path.to_owned();
                return Err(ReferenceError::TooMany { path, what: "backing images", max: MAX_LAYERS });
            }
            let file = files.add(&image.path)?;
            let format = image.format.unwrap_or_else(|| detect(files.get(file)));
            let (layer, backing) = Layer::open(file, format, &mut files)?;
            layers.push(layer);
            next = backing;
        }
        Ok(Self { files, layers, cache: CodedCache::default() })
    }

    /// Bytes that the guest sees.
    pub(super) fn size(&self) -> u64 {
        self.layers[0].size()
    }

    pub(super) fn path(&self) -> &Path {
        &self.files.get(0).path
    }

    pub(super) fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.0.iter().map(|file| &*file.path)
    }

    pub(super) fn stamps(&self) -> Vec<FileStamp> {
        self.files.0.iter().map(|file| file.stamp).collect()
    }

    /// Where the bytes from `offset` (below the size) on are, and how many of them: at least 1, at most `max`.
    pub(super) fn locate(&self, offset: u64, max: u64) -> Result<(Place, u64), ReferenceError> {
        self.resolve(offset, max).map(|(_, place, len)| (place, len))
    }

    /// The same, with the number of the layer that has them.
    fn resolve(&self, offset: u64, max: u64) -> Result<(usize, Place, u64), ReferenceError> {
        let mut max = max.min(self.size() - offset);
        for (number, layer) in self.layers.iter().enumerate() {
            let Some(left) = layer.size().checked_sub(offset).filter(|left| *left > 0) else {
                return Ok((number, Place::Zero, max));
            };
            max = max.min(left);
            let (piece, len) = layer.piece(offset, max, &self.files)?;
            max = len;
            match piece {
                Piece::Below => {}
                Piece::Here(Place::Data { file, at }) => {
                    return Ok(match self.files.get(file).len().checked_sub(at) {
                        None | Some(0) => (number, Place::Zero, len),
                        Some(there) => (number, Place::Data { file, at }, len.min(there)),
                    });
                }
                Piece::Here(place) => return Ok((number, place, len)),
            }
        }
        Ok((0, Place::Zero, max))
    }

    /// Bytes of a host file, if it has them.
    pub(super) fn data(&self, file: u32, at: u64, len: u64) -> Option<&[u8]> {
        self.files.get(file).bytes(at, len)
    }

    pub(super) fn populate(&self, file: u32, range: Range<u64>) -> Result<(), ReferenceError> {
        let file = self.files.get(file);
        file.map.populate(range).map_err(|source| ReferenceError::Io { path: file.path.clone(), source })
    }

    /// Fills `buf` with the disk's bytes from `offset` on, which must be there.
    pub(super) fn read(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<(), ReferenceError> {
        while !buf.is_empty() {
            let (number, place, len) = self.resolve(offset, buf.len() as u64)?;
            let mut len = len as usize;
            match place {
                Place::Zero => buf[..len].fill(0),
                Place::Data { file, at } => match self.data(file, at, len as u64) {
                    Some(bytes) => buf[..len].copy_from_slice(bytes),
                    None => return Err(self.files.get(file).damaged("data offset", at)),
                },
                Place::Coded => {
                    let layer = &self.layers[number];
                    let unit = layer.unit(offset);
                    let decoded = self.cache.get(number, unit.start, || {
                        let mut bytes = vec![0; (unit.end - unit.start) as usize];
                        layer.decode(unit.start, &mut bytes, &self.files)?;
                        Ok(bytes)
                    })?;
                    len = len.min((unit.end - offset) as usize);
                    buf[..len].copy_from_slice(&decoded[(offset - unit.start) as usize..][..len]);
                }
            }
            offset += len as u64;
            buf = &mut buf[len..];
        }
        Ok(())
    }
}

/// What an image's first bytes say about its format.
fn detect(file: &HostFile) -> DiskFormat {
    let starts = |magic: &[u8]| file.bytes(0, magic.len() as u64) == Some(magic);
    if starts(b"QFI\xfb") {
        return DiskFormat::Qcow2;
    }
    if VmdkLayer::is_one(file) {
        return DiskFormat::Vmdk;
    }
    // Any file will do as a reference, but these do not show the guest's disk, so few pages will be found in them.
    let others: [(&[u8], &str); 5] = [
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (b"<<< ", "VDI"),
        (b"QED\0", "QED"),
        (b"LUKS\xba\xbe", "encrypted"),
    ];
    if let Some((_, name)) = others.into_iter().find(|(magic, _)| starts(magic)) {
        log::warn!("{}: looks like a {name} image, but is read as if it were raw", file.path.display());
    }
    DiskFormat::Raw
}
