//! The engine as a caller would use it, on bytes: what the tests pack and unpack with.
//!
//! Everything runs at the SIMD level that `MIG_SIMD` names. [`Store`] is a place for pages in memory; tests of the real
//! one, a file, use [`unpack_to_file`].

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use mig_engine::gpu::Beside;
use mig_engine::image::WriteAs;
use mig_engine::live::LateGuest;
use mig_engine::qemu::{Coding, Gather};
use mig_engine::reference::DiskImage;
use mig_engine::{
    Cancel, CpuWorker, DecodeError, DecodeLimits, Effort, FileStore, ImageLayout, Level, MemoryImage,
    OpaqueStore, PackSummary, Packer, PageStore, Reference, Techniques, UnpackError, UnpackSummary, Unpacker,
};

use crate::reference::PAGE;

/// The level that this run tests.
///
/// # Panics
///
/// If `MIG_SIMD` names one that this CPU does not have.
pub fn level() -> Level {
    Level::from_env().unwrap_or_else(|error| panic!("{error}"))
}

/// How QEMU streams are coded: as they come, or gathered if there is a guest to be read.
pub fn coding<'a>(references: &'a [Reference], top: Effort, guest: Option<&'a LateGuest>) -> Coding<'a> {
    static WORKER: LazyLock<CpuWorker> = LazyLock::new(|| CpuWorker { level: level() });
    static BESIDE: LazyLock<Beside> = LazyLock::new(Beside::default);
    let (techniques, cancel) = (Techniques::ALL, Cancel::new());
    let (worker, beside, level) = (&*WORKER, &*BESIDE, level());
    let gather = guest.map(|_| Gather::ALL);
    Coding { references, worker, beside, level, top, techniques, block_pages: 512, guest, gather, cancel }
}

/// What packing and unpacking can refer to, in the order of the stream's list.
#[derive(Clone, Debug, Default)]
pub struct References {
    /// Each with its kind and bytes.
    pub list: Vec<Given>,
}

/// One reference's bytes.
#[derive(Clone, Debug)]
pub enum Given {
    /// Blocks of a disk.
    Disk(Vec<u8>),
    /// Pages of an older memory image.
    Memory(Vec<u8>),
}

impl References {
    /// No references.
    pub fn none() -> Self {
        Self::default()
    }

    /// A disk, then an older memory image, as far as they are given.
    pub fn of(disk: Option<&[u8]>, older: Option<&[u8]>) -> Self {
        let disk = disk.map(|bytes| Given::Disk(bytes.to_vec()));
        Self { list: disk.into_iter().chain(older.map(|bytes| Given::Memory(bytes.to_vec()))).collect() }
    }

    /// A disk and an older memory image from their bytes, as [`crate::handmade::cases`] has them.
    pub fn in_order(bytes: &[Option<Vec<u8>>]) -> Self {
        let bytes = |place: usize| bytes.get(place).and_then(Option::as_deref);
        Self::of(bytes(0), bytes(1))
    }

    /// For the engine; with indexes if they are to pack with.
    ///
    /// # Panics
    ///
    /// If they can't be opened or indexed.
    pub fn open(&self, indexed: bool) -> Vec<Reference> {
        let open = |given: &Given| {
            let mut reference = match given {
                Given::Disk(bytes) => {
                    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
                    file.write_all(bytes).expect("room for a small disk");
                    let disk = DiskImage::open(file.path()).expect("a raw disk");
                    Reference::disk(disk, "the disk".into()).expect("a reference")
                }
                Given::Memory(bytes) => {
                    Reference::memory(open_image(bytes), "the older image".into()).expect("a reference")
                }
            };
            if indexed {
                reference.build_index(level(), &Cancel::new()).expect("an index");
            }
            reference
        };
        self.list.iter().map(open).collect()
    }

    /// For unpacking with the engine.
    ///
    /// # Panics
    ///
    /// As for [`References::open`].
    pub fn at_hand(&self) -> Vec<Option<Reference>> {
        self.open(false).into_iter().map(Some).collect()
    }

    /// For the slow decoder.
    pub fn bytes(&self) -> Vec<Option<Vec<u8>>> {
        let bytes = |given: &Given| match given {
            Given::Disk(bytes) | Given::Memory(bytes) => Some(bytes.clone()),
        };
        self.list.iter().map(bytes).collect()
    }
}

/// A memory image from the bytes of its file; runs of zeros become holes.
///
/// # Panics
///
/// If the bytes are no image.
pub fn open_image(bytes: &[u8]) -> MemoryImage {
    MemoryImage::spool(bytes, &std::env::temp_dir(), None).unwrap_or_else(|error| panic!("{error}"))
}

/// The same, with every byte stored: no page is known to be zero without reading it.
///
/// # Panics
///
/// As for [`open_image`].
pub fn open_image_without_holes(bytes: &[u8]) -> MemoryImage {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("room for a small image");
    MemoryImage::from_file(file, None).unwrap_or_else(|error| panic!("{error}"))
}

/// A packer with these references, on two threads.
pub fn packer<'a>(effort: Effort, random_access: bool, references: &References) -> Packer<'a> {
    let packer = Packer::new().effort(effort).random_access(random_access).threads(2).level(level());
    references.open(true).into_iter().fold(packer, Packer::reference)
}

/// Packs the image whose file has these bytes.
///
/// # Panics
///
/// If packing fails.
pub fn pack(image: &[u8], effort: Effort, random_access: bool, references: &References) -> Vec<u8> {
    pack_image(&open_image(image), &packer(effort, random_access, references)).0
}

/// Packs an open image; gives the stream and what the packer says of it.
///
/// # Panics
///
/// If packing fails.
pub fn pack_image(image: &MemoryImage, packer: &Packer<'_>) -> (Vec<u8>, PackSummary) {
    let mut stream = Vec::new();
    let summary = packer.pack(image, &mut stream).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(summary.stream_bytes, stream.len() as u64, "the packer counts what it writes");
    (stream, summary)
}

/// An unpacker on one thread.
///
/// # Errors
///
/// As for [`Unpacker::new`].
pub fn unpacker(stream: &[u8]) -> Result<Unpacker<'_, impl mig_engine::FrameRead + '_>, DecodeError> {
    Ok(Unpacker::new(stream, DecodeLimits::default())?.threads(1).level(level()))
}

/// Unpacks a stream into memory.
///
/// # Errors
///
/// What the engine says; the pages that it vouches for are in the store all the same.
pub fn unpack(
    stream: &[u8],
    references: &[Option<Reference>],
) -> (Result<UnpackSummary, UnpackError>, Option<Store>) {
    match unpacker(stream) {
        Err(source) => (Err(UnpackError { done: UnpackSummary::default(), source }), None),
        Ok(unpacker) => {
            let store = Store::new(&unpacker.header().layout);
            (unpacker.unpack(references, &store), Some(store))
        }
    }
}

/// Unpacks a stream to a temporary file.
///
/// # Errors
///
/// What the engine says.
///
/// # Panics
///
/// If there is no room for temporary files.
pub fn unpack_with(
    stream: &[u8],
    references: &[Option<Reference>],
    target: WriteAs,
) -> Result<File, DecodeError> {
    let unpacker = unpacker(stream)?.threads(2);
    let file = tempfile::tempfile().expect("a temporary file");
    let store = FileStore::new(file, &unpacker.header().layout, target, &std::env::temp_dir())?;
    unpacker.unpack(references, &store).map_err(|error| error.source)?;
    Ok(store.into_file())
}

/// Unpacks a stream to a file, and gives what is in it.
///
/// # Errors
///
/// What the engine says.
///
/// # Panics
///
/// If temporary files can't be written.
pub fn unpack_to_file(
    stream: &[u8],
    references: &References,
    target: WriteAs,
) -> Result<Vec<u8>, DecodeError> {
    let mut file = unpack_with(stream, &references.at_hand(), target)?;
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("a file can be read back");
    Ok(bytes)
}

/// An image's file in memory.
#[derive(Debug)]
pub struct Store {
    layout: ImageLayout,
    file: Mutex<Contents>,
}

#[derive(Debug)]
struct Contents {
    bytes: Vec<u8>,
    /// Pages that were written, and so may not be zero. The others are not touched, which keeps large guests cheap.
    written: Vec<bool>,
}

impl Store {
    /// All of it zero.
    pub fn new(layout: &ImageLayout) -> Self {
        let contents = Contents {
            bytes: vec![0; layout.file_len() as usize],
            written: vec![false; layout.page_count() as usize],
        };
        Self { layout: layout.clone(), file: Mutex::new(contents) }
    }

    /// The file's bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.file.into_inner().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// The bytes of some pages, in this order.
    pub fn pages(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let file = self.lock();
        numbers.into_iter().flat_map(|page| file.bytes[self.offset(page)..][..PAGE].to_vec()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offset(&self, page: u64) -> usize {
        self.layout.file_offset_of(page).expect("the engine asks for pages of the image only") as usize
    }
}

impl PageStore for Store {
    fn write(&self, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.lock();
        for (page, bytes) in (first_page..).zip(bytes.chunks(PAGE)) {
            file.bytes[self.offset(page)..][..PAGE].copy_from_slice(bytes);
            file.written[page as usize] = true;
        }
        Ok(())
    }

    fn write_zero(&self, first_page: u64, pages: u64) -> io::Result<()> {
        let mut file = self.lock();
        for page in first_page..first_page + pages {
            if std::mem::take(&mut file.written[page as usize]) {
                file.bytes[self.offset(page)..][..PAGE].fill(0);
            }
        }
        Ok(())
    }

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> io::Result<()> {
        out.copy_from_slice(&self.lock().bytes[self.offset(page) + offset..][..out.len()]);
        Ok(())
    }
}

impl OpaqueStore for Store {
    fn write_opaque(&self, file_offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = file_offset.saturating_add(bytes.len() as u64);
        let holds = |range: &std::ops::Range<u64>| range.start <= file_offset && end <= range.end;
        if !self.layout.opaque_ranges().iter().any(holds) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "opaque bytes where pages are"));
        }
        self.lock().bytes[file_offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}
