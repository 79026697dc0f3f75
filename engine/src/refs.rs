//! References as a stream uses them: something both ends have, with a place in the stream's list.
//!
//! A [`Reference`] is a row of blocks ([`BlockSource`]) of a disk image or of an older memory image, with an index
//! if it serves for packing. Which of the two it is only matters for how positions are coded and where a page is
//! looked for first.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use mig_simd::{Level, PageRecord, page_eq, page_scan};

use crate::error::{DecodeError, EncodeError};
use crate::format::{Header, ReferenceKind, ReferenceNeed, limits};
use crate::guest::Guest;
use crate::image::{ImageFormat, MemoryImage, Run};
use crate::kernel::{self, Derived, KernelCache, Place};
use crate::pack::default_threads;
use crate::page::{PAGE_SIZE, PAGE_WORDS, Page};
use crate::progress::Cancel;
use crate::reference::{
    BlockSource, DiskImage, DiskRun, Identity, Index, IndexBuilder, IndexError, ReferenceError, Samples,
    SourceTie,
};

/// What [`Reference::look_up`] gives for a fingerprint that an index does not have.
pub(crate) const NO_BLOCK: u64 = u64::MAX;

/// An open reference. A clone is another handle to the same.
#[derive(Clone)]
pub struct Reference {
    need: ReferenceNeed,
    source: Arc<dyn BlockSource + Send + Sync>,
    index: Option<Arc<Index>>,
    samples: Option<Arc<Samples>>,
    /// Of a kernel image, where the guest has it, if that is known: for packing.
    place: Option<Place>,
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reference")
            .field("need", &self.need)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl BlockSource for MemoryImage {
    fn blocks(&self) -> u64 {
        self.page_count()
    }

    fn run(&self, block: u64, max: u64) -> DiskRun<'_> {
        if block >= self.page_count() || max == 0 {
            return DiskRun::Hole(0);
        }
        match MemoryImage::run(self, block, max) {
            Run::Hole(pages) => DiskRun::Hole(pages),
            Run::Data(bytes) => DiskRun::Mapped(bytes),
        }
    }

    fn read_blocks(&self, block: u64, buf: &mut [u8]) -> Result<(), ReferenceError> {
        let (pages, rest) = buf.as_chunks_mut::<PAGE_SIZE>();
        let end = block.checked_add(pages.len() as u64);
        if !rest.is_empty() || end.is_none_or(|end| end > self.page_count()) {
            let (bytes, blocks) = (buf.len() as u64, self.page_count());
            return Err(ReferenceError::OutOfRange { block, bytes, blocks });
        }
        for (number, page) in (block..).zip(pages) {
            match MemoryImage::page(self, number) {
                Some(bytes) => *page = *bytes,
                None => page.fill(0),
            }
        }
        Ok(())
    }
}

/// Bytes at which file systems and partition tables have their marks: a raw file with one is a disk.
const DISK_MARKS: [(usize, &[u8]); 6] = [
    (510, b"\x55\xaa"),       // MBR
    (512, b"EFI PART"),       // GPT
    (1024 + 56, b"\x53\xef"), // ext2, 3, 4
    (0, b"XFSB"),             // XFS
    (0x1_0040, b"_BHRfS_M"),  // Btrfs
    (3, b"NTFS    "),         // NTFS
];

/// A file could not be opened as a reference.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// As a disk image.
    #[error(transparent)]
    Disk(#[from] ReferenceError),
    /// As a memory image.
    #[error(transparent)]
    Memory(#[from] crate::image::ImageError),
    /// Its index cannot be built.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A file was to be opened as what is made from another.
    #[error("a kernel image is made from its disk, not opened")]
    Derived,
    /// It has more blocks than a stream can refer to.
    #[error("{blocks} blocks of 4096 bytes are more than the {max} that a stream can refer to", max = limits::PAGE_COUNT)]
    TooLarge {
        /// Its length.
        blocks: u64,
    },
}

impl Reference {
    /// Opens a disk image (raw, qcow2, vmdk, with backing files) or an older memory image in any format.
    ///
    /// A raw file is taken for memory if it has as many pages as the guest to be packed (`guest_pages`) and no
    /// file system's or partition table's mark, else for a disk. Right or wrong, what is packed is the same; but
    /// where most pages are found in their old place, addressing them by page is shorter.
    ///
    /// # Errors
    ///
    /// Whatever keeps the file from being opened as what it is.
    pub fn open(path: &Path, guest_pages: u64) -> Result<Self, OpenError> {
        if let Ok(image) = MemoryImage::open(path, None)
            && (image.layout().format() != ImageFormat::Raw
                || image.page_count() == guest_pages && !is_disk(&image))
        {
            return Self::memory(image, name_of(path));
        }
        Self::disk(DiskImage::open(path)?, name_of(path))
    }

    /// Opens a file as either kind, whatever it looks like.
    ///
    /// # Errors
    ///
    /// Whatever keeps the file from being opened as that.
    pub fn open_as(path: &Path, kind: ReferenceKind) -> Result<Self, OpenError> {
        match kind {
            ReferenceKind::Disk => Self::disk(DiskImage::open(path)?, name_of(path)),
            ReferenceKind::Memory => Self::memory(MemoryImage::open(path, None)?, name_of(path)),
            ReferenceKind::Derived => Err(OpenError::Derived),
        }
    }

    /// A disk image as a reference; `name` is for messages.
    ///
    /// # Errors
    ///
    /// [`OpenError::Disk`] if the blocks that make its identity can't be read.
    pub fn disk(image: DiskImage, name: String) -> Result<Self, OpenError> {
        Self::new(ReferenceKind::Disk, Arc::new(image), name)
    }

    /// An older memory image as a reference; `name` is for messages.
    ///
    /// # Errors
    ///
    /// [`OpenError::TooLarge`].
    pub fn memory(image: MemoryImage, name: String) -> Result<Self, OpenError> {
        Self::new(ReferenceKind::Memory, Arc::new(image), name)
    }

    fn new(
        kind: ReferenceKind,
        source: Arc<dyn BlockSource + Send + Sync>,
        name: String,
    ) -> Result<Self, OpenError> {
        let blocks = source.blocks();
        if blocks > limits::PAGE_COUNT {
            return Err(OpenError::TooLarge { blocks });
        }
        let identity = Identity::of(source.as_ref())?.0.to_le_bytes();
        let name: String = name.chars().take(limits::NAME as usize / 4).collect();
        let need = ReferenceNeed { kind, identity, blocks, name, derivation: None };
        Ok(Reference { need, source, index: None, samples: None, place: None })
    }

    /// The disks among references, to find kernels on.
    pub(crate) fn disks(references: &[Reference]) -> Vec<kernel::Disk> {
        let disks = (0..).zip(references).filter(|(_, reference)| reference.kind() == ReferenceKind::Disk);
        let disks = disks.map(|(number, reference)| kernel::Disk {
            number,
            source: Arc::clone(&reference.source),
            starts: reference.samples().map_or_else(Vec::new, |samples| samples.kernels().to_vec()),
        });
        disks.collect()
    }

    /// The image of a guest's kernel.
    pub(crate) fn kernel(found: kernel::Found) -> Self {
        let need = ReferenceNeed {
            kind: ReferenceKind::Derived,
            identity: found.identity.to_le_bytes(),
            blocks: found.image.blocks(),
            name: found.name,
            derivation: Some(Box::new(found.derivation)),
        };
        let place = Some(found.place);
        Reference { need, source: Arc::new(found.image), index: None, samples: None, place }
    }

    /// A reference that is made, when it is first read, from a disk among those before it; `need` says how. `None` without
    /// the disk.
    pub(crate) fn made(
        need: &ReferenceNeed,
        earlier: &[Option<Reference>],
        cache: Option<&KernelCache>,
    ) -> Option<Self> {
        let parent = usize::from(need.derivation.as_ref()?.parent);
        let disk = earlier.get(parent)?.as_ref()?;
        let source = LazyKernel {
            need: need.clone(),
            disk: Arc::clone(&disk.source),
            cache: cache.cloned(),
            image: OnceLock::new(),
        };
        let (need, source) = (need.clone(), Arc::new(source));
        Some(Reference { need, source, index: None, samples: None, place: None })
    }

    /// Where the guest is likely to have a page: in an older image of it, or in its kernel's.
    pub(crate) fn expected(&self, guest: Option<&Guest>, page: u64) -> Option<u64> {
        let position = match self.need.kind {
            ReferenceKind::Disk => return None,
            ReferenceKind::Memory => page,
            ReferenceKind::Derived => match self.place? {
                Place::Frame(first) => guest?.frame(page)?.checked_sub(first)?,
                Place::Page(first) => page.checked_sub(first)?,
            },
        };
        (position < self.need.blocks).then_some(position)
    }

    /// What a stream's header says of it.
    pub fn need(&self) -> &ReferenceNeed {
        &self.need
    }

    /// Disk or memory.
    pub fn kind(&self) -> ReferenceKind {
        self.need.kind
    }

    /// Its blocks.
    pub fn source(&self) -> &(dyn BlockSource + Send + Sync) {
        self.source.as_ref()
    }

    /// Its index, once [`set_index`](Self::set_index) was called.
    pub fn index(&self) -> Option<&Index> {
        self.index.as_deref()
    }

    /// Gives it the index to pack with.
    pub fn set_index(&mut self, index: Index) {
        self.index = Some(Arc::new(index));
    }

    /// Gives it the samples to pack with.
    pub fn set_samples(&mut self, samples: Samples) {
        self.samples = Some(Arc::new(samples));
    }

    /// Its samples, once [`set_samples`](Self::set_samples) was called.
    pub fn samples(&self) -> Option<&Samples> {
        self.samples.as_deref()
    }

    /// Builds what it lacks of an index and, if it is a disk, samples, tied to nothing: for use now, not to be saved. In the current
    /// rayon pool, or, outside of one, in a pool of its own that ends with the call.
    ///
    /// # Errors
    ///
    /// [`IndexError`], as the builder gives it.
    pub fn build_index(&mut self, level: Level, cancel: &Cancel) -> Result<(), IndexError> {
        let tie = SourceTie::new(Identity(u128::from_le_bytes(self.need.identity)), self.need.blocks, &[]);
        let source = self.source.as_ref();
        let sampled = self.need.kind == ReferenceKind::Disk && self.samples.is_none();
        let build = || -> Result<_, IndexError> {
            let builder = IndexBuilder::new().cancel(cancel.flag());
            let index = match self.index {
                Some(_) => None,
                None => Some(builder.build(source, tie.clone(), &fingerprints(level))?),
            };
            let sample = || Samples::build(source, tie.clone(), level, Some(cancel.flag()));
            Ok((index, sampled.then(sample).transpose()?))
        };
        let pool = match rayon::current_thread_index() {
            Some(_) => None,
            // Without threads to be had, it is built on the caller's.
            None => rayon::ThreadPoolBuilder::new().num_threads(default_threads()).build().ok(),
        };
        let (index, samples) = match pool {
            Some(pool) => pool.install(build)?,
            None => build()?,
        };
        if let Some(index) = index {
            self.set_index(index);
        }
        if let Some(samples) = samples {
            self.set_samples(samples);
        }
        Ok(())
    }

    /// Fills `out` with the block that the index proposes for each fingerprint, [`NO_BLOCK`] where it has none.
    pub(crate) fn look_up(&self, fingerprints: &[u128], out: &mut [u64]) {
        match &self.index {
            Some(index) => index.lookup_batch(fingerprints, out),
            None => out.fill(NO_BLOCK),
        }
    }

    /// A block's bytes: mapped ones where they lie, others through `scratch`.
    pub(crate) fn block<'p>(&'p self, block: u64, scratch: &'p mut Page) -> Result<&'p Page, ReferenceError> {
        match self.source.run(block, 1) {
            DiskRun::Mapped(bytes) if let Some(page) = bytes.first_chunk() => return Ok(page),
            DiskRun::Hole(1..) => scratch.fill(0),
            _ => self.source.read_blocks(block, scratch)?,
        }
        Ok(scratch)
    }

    fn read_error(&self, source: ReferenceError) -> EncodeError {
        EncodeError::Reference { name: self.need.name.clone(), source }
    }

    /// Whether a block exists and holds just this page.
    pub(crate) fn holds(
        &self,
        level: Level,
        block: u64,
        page: &Page,
        scratch: &mut Page,
    ) -> Result<bool, EncodeError> {
        if block >= self.need.blocks {
            return Ok(false);
        }
        let bytes = self.block(block, scratch).map_err(|error| self.read_error(error))?;
        Ok(page_eq(level, page, bytes))
    }

    /// Whether an older memory image had a page, and not as a hole.
    pub(crate) fn has_page(&self, page: u64) -> bool {
        page < self.need.blocks && !matches!(self.source.run(page, 1), DiskRun::Hole(_))
    }

    /// What an older memory image had for a page.
    pub(crate) fn older_page<'p>(
        &'p self,
        page: u64,
        scratch: &'p mut Page,
    ) -> Result<&'p Page, EncodeError> {
        self.block(page, scratch).map_err(|error| self.read_error(error))
    }
}

/// A page of one of a stream's references.
pub(crate) fn reference_page<'p>(
    header: &Header,
    references: &'p [Option<Reference>],
    index: usize,
    position: u64,
    scratch: &'p mut Page,
) -> Result<&'p Page, DecodeError> {
    let Some(reference) = references.get(index).and_then(Option::as_ref) else {
        let name = header.references.get(index).map(|need| need.name.clone()).unwrap_or_default();
        return Err(DecodeError::MissingReference { index, name });
    };
    reference.block(position, scratch).map_err(|source| DecodeError::Reference { index, source })
}

/// Fills `page` with the 512 words from word `address` of one of a stream's references on.
pub(crate) fn reference_words(
    header: &Header,
    references: &[Option<Reference>],
    index: usize,
    address: u64,
    page: &mut Page,
) -> Result<(), DecodeError> {
    let mut scratch = [0; PAGE_SIZE];
    for (block, at, part) in page_parts(address, page) {
        let bytes = reference_page(header, references, index, block, &mut scratch)?;
        part.copy_from_slice(&bytes[at..at + part.len()]);
    }
    Ok(())
}

/// The one or two pages that hold the 512 words from `address` on: number, first byte, and where they go.
pub(crate) fn page_parts(address: u64, page: &mut Page) -> impl Iterator<Item = (u64, usize, &mut [u8])> {
    let at = (address % PAGE_WORDS as u64) as usize * 8;
    let first = address / PAGE_WORDS as u64;
    let (head, tail) = page.split_at_mut(PAGE_SIZE - at);
    [(first, at, head), (first + 1, 0, tail)].into_iter().filter(|(_, _, part)| !part.is_empty())
}

/// A kernel image that is made when it is first read.
struct LazyKernel {
    need: ReferenceNeed,
    disk: Arc<dyn BlockSource + Send + Sync>,
    cache: Option<KernelCache>,
    image: OnceLock<Result<Derived, String>>,
}

impl LazyKernel {
    fn image(&self) -> Result<&Derived, ReferenceError> {
        let made = self.image.get_or_init(|| {
            let derivation = self.need.derivation.as_ref().ok_or("there is no recipe")?;
            let identity = u128::from_le_bytes(self.need.identity);
            let image = derivation.derive(self.disk.as_ref(), identity, self.cache.as_ref());
            image.map_err(|error| error.to_string())
        });
        made.as_ref().map_err(|why| ReferenceError::Derived { why: why.clone() })
    }
}

impl BlockSource for LazyKernel {
    fn blocks(&self) -> u64 {
        self.need.blocks
    }

    fn run(&self, block: u64, max: u64) -> DiskRun<'_> {
        match self.image() {
            Ok(image) => image.run(block, max),
            // Reading tells what is wrong.
            Err(_) => DiskRun::Opaque(max.min(self.need.blocks.saturating_sub(block))),
        }
    }

    fn read_blocks(&self, block: u64, buf: &mut [u8]) -> Result<(), ReferenceError> {
        self.image()?.read_blocks(block, buf)
    }
}

/// The fingerprint function that index builders take.
pub fn fingerprints(level: Level) -> impl Fn(&[u8], &mut [u128]) + Sync {
    move |blocks, out| {
        let mut records = vec![PageRecord::default(); out.len()];
        page_scan(level, blocks, &mut records);
        for (out, record) in out.iter_mut().zip(&records) {
            *out = record.fingerprint128();
        }
    }
}

fn is_disk(image: &MemoryImage) -> bool {
    let bytes = image.map().bytes();
    let has = |&(at, mark): &(usize, &[u8])| bytes.get(at..).is_some_and(|bytes| bytes.starts_with(mark));
    DISK_MARKS.iter().any(has)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// What a stream needs, and which of it is at hand.
#[derive(Debug, Default)]
pub struct Resolved {
    /// In the order of the header, `None` where nothing fits.
    pub references: Vec<Option<Reference>>,
    /// Files that fit nothing, with what they are.
    pub unused: Vec<ReferenceNeed>,
}

impl Resolved {
    /// Finds each of the header's references among files, by identity.
    ///
    /// # Errors
    ///
    /// The first file that can't be opened, with its place in `paths`.
    pub fn find(header: &Header, paths: &[impl AsRef<Path>]) -> Result<Self, (usize, OpenError)> {
        Self::find_with(header, paths, None)
    }

    /// As [`find`](Self::find); kernel images are kept in, and taken from, a cache.
    ///
    /// # Errors
    ///
    /// As for [`find`](Self::find).
    pub fn find_with(
        header: &Header,
        paths: &[impl AsRef<Path>],
        cache: Option<&KernelCache>,
    ) -> Result<Self, (usize, OpenError)> {
        let mut resolved = Resolved::default();
        resolved.references.resize_with(header.references.len(), || None);
        for (at, path) in paths.iter().enumerate() {
            let path = path.as_ref();
            let reference = Reference::open(path, header.layout.page_count()).map_err(|error| (at, error))?;
            resolved.offer(header, reference);
        }
        resolved.derive(header, cache);
        Ok(resolved)
    }

    /// Adds what can be made from the references that are there: kernel images, made when they are first read.
    pub fn derive(&mut self, header: &Header, cache: Option<&KernelCache>) {
        for (index, need) in header.references.iter().enumerate() {
            if let Some(made) = Reference::made(need, &self.references, cache) {
                self.references[index] = Some(made);
            }
        }
    }

    /// Takes a reference to where it fits, else to what is unused.
    pub fn offer(&mut self, header: &Header, reference: Reference) {
        let need = reference.need();
        let fits = |other: &ReferenceNeed| other.identity == need.identity && other.blocks == need.blocks;
        match header.references.iter().position(fits) {
            Some(place) => self.references[place] = Some(reference),
            None => self.unused.push(need.clone()),
        }
    }

    /// The references that are missing.
    pub fn missing<'h>(&self, header: &'h Header) -> impl Iterator<Item = &'h ReferenceNeed> {
        let needs = header.references.iter().zip(&self.references);
        needs
            .filter(|(_, reference)| reference.is_none())
            .map(|(need, _)| need)
            .collect::<Vec<_>>()
            .into_iter()
    }
}
