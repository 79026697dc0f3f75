//! Packing a memory image into a stream.

use std::io::IoSlice;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::thread::available_parallelism;

use mig_simd::Level;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::ahead::{Announcer, ScanAhead};
use crate::encode::{BlockEncoder, BlockStats, CodedBlock, History, Scanned, digest_bytes};
use crate::error::EncodeError;
use crate::format::block::Piece;
use crate::format::frame::{self, FrameType};
use crate::format::index::{End, IndexEntry, write_index};
use crate::format::wire::put_varint;
use crate::format::{FrameWrite, Header, limits};
use crate::gpu::{Beside, GpuChoice};
use crate::guest::{FreePagesError, Guest, find_notes};
use crate::image::{ImageFormat, ImageLayout, MemoryImage, Segment};
use crate::kernel::{KernelCache, Kernels};
use crate::options::{Effort, Technique, Techniques};
use crate::page::{PAGE_SIZE, PageSet};
use crate::pipeline::{self, Steps};
use crate::progress::{Cancel, OnProgress, Progress};
use crate::refs::Reference;
use crate::residual::compress_list;
use crate::source::PageSource;
use crate::worker::{CpuWorker, ScanWorker};

/// Pages of a block: 32 MiB.
const BLOCK_PAGES: u64 = 1 << 13;
/// Pages of a block that can be read at random: 4 MiB.
const RANDOM_BLOCK_PAGES: u64 = 1 << 10;

/// Packs memory images. What it writes depends on the image, the references, the effort and
/// `random_access`, and on nothing else.
///
/// ```no_run
/// use mig_engine::{Cancel, Effort, Level, MemoryImage, Packer, Reference};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let image = MemoryImage::open("guest.raw".as_ref(), None)?;
/// let mut disk = Reference::open("guest.qcow2".as_ref(), image.page_count())?;
/// disk.build_index(Level::best(), &Cancel::new())?;
/// let out = std::fs::File::create("guest.mig")?;
/// let summary = Packer::new().effort(Effort::Fast).reference(disk).pack(&image, out)?;
/// println!("{} bytes for {} pages", summary.stream_bytes, summary.pages);
/// # Ok(())
/// # }
/// ```
pub struct Packer<'a> {
    references: Vec<Reference>,
    effort: Effort,
    random_access: bool,
    threads: usize,
    level: Level,
    worker: Option<&'a dyn ScanWorker>,
    techniques: Techniques,
    kernels: Option<KernelCache>,
    drops_free: bool,
    gpu: GpuChoice,
    beside: Option<Beside>,
    progress: Option<OnProgress<'a>>,
    cancel: Cancel,
}

impl std::fmt::Debug for Packer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer")
            .field("effort", &self.effort)
            .field("random_access", &self.random_access)
            .field("threads", &self.threads)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

/// What packing came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PackSummary {
    /// Pages packed.
    pub pages: u64,
    /// Bytes of the whole stream.
    pub stream_bytes: u64,
    /// Bytes of the image that belong to no page, as they are in the image.
    pub opaque_bytes: u64,
    /// Bytes of their frames in the stream.
    pub opaque_coded: u64,
    /// All blocks together.
    pub blocks: BlockStats,
}

/// The number of threads to use when nobody says: what the system offers.
pub fn default_threads() -> usize {
    available_parallelism().map_or(1, NonZeroUsize::get)
}

impl Default for Packer<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Packer<'a> {
    /// A packer at effort `balanced`, on all cores, without references.
    pub fn new() -> Self {
        Packer {
            references: Vec::new(),
            effort: Effort::Balanced,
            random_access: false,
            threads: default_threads(),
            level: Level::best(),
            worker: None,
            techniques: Techniques::ALL,
            kernels: None,
            drops_free: false,
            gpu: GpuChoice::default(),
            beside: None,
            progress: None,
            cancel: Cancel::new(),
        }
    }

    /// Sets the effort.
    pub fn effort(mut self, effort: Effort) -> Self {
        self.effort = effort;
        self
    }

    /// Adds a reference; it should have its index. Those added first are preferred.
    pub fn reference(mut self, reference: Reference) -> Self {
        self.references.push(reference);
        self
    }

    /// Small groups that refer to nothing else, and a check for each page, so that any page can be read from
    /// the file in under a millisecond. Costs a tenth, and with an older image much of its use: only whole pages of it.
    pub fn random_access(mut self, random_access: bool) -> Self {
        self.random_access = random_access;
        self
    }

    /// Sets the number of threads, at least 1.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Sets the SIMD level of everything that runs on the CPU.
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Whether a GPU shall scan besides the CPU, and which; none unless said. It works in a thread of its own, in which it is
    /// also opened while packing has begun, unless it is required. The stream is the same with it and without.
    pub fn gpu(mut self, choice: GpuChoice) -> Self {
        self.gpu = choice;
        self
    }

    /// The same with a GPU that is open already, which saves the tenths of a second that opening one takes.
    pub fn beside(mut self, beside: &Beside) -> Self {
        self.beside = Some(beside.clone());
        self
    }

    /// Has pages scanned by this worker instead of the CPU.
    pub fn worker(mut self, worker: &'a dyn ScanWorker) -> Self {
        self.worker = Some(worker);
        self
    }

    /// Leaves out one technique, to see what it is worth.
    pub fn without(mut self, technique: Technique) -> Self {
        self.techniques = self.techniques.without(technique);
        self
    }

    /// Sends pages that the guest has free as zero, whatever they hold. What is unpacked then differs from the image in those pages,
    /// and the guest does not notice, unless it checks freed memory: then packing fails, and also where the guest cannot
    /// be read. Off by default.
    pub fn free_pages_as_zero(mut self, zero: bool) -> Self {
        self.drops_free = zero;
        self
    }

    /// Keeps kernel images in a cache, and takes them from there: making one takes about a second.
    pub fn kernel_cache(mut self, cache: KernelCache) -> Self {
        self.kernels = Some(cache);
        self
    }

    /// Is told after each block.
    pub fn on_progress(mut self, progress: OnProgress<'a>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Stops with [`EncodeError::Cancelled`] once this token says so.
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// The references added so far.
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// Packs an image into `out`, any `Write` or a transport; it is flushed, but not synced.
    ///
    /// # Errors
    ///
    /// Whatever [`EncodeError`] says; `out` then holds a beginning, which unpacks as far as it goes.
    pub fn pack(&self, image: &MemoryImage, out: impl FrameWrite) -> Result<PackSummary, EncodeError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build();
        let pool =
            pool.map_err(|error| EncodeError::Threads { threads: self.threads, message: error.to_string() })?;
        pool.install(|| self.pack_here(image, out))
    }

    /// As [`pack`](Self::pack), in the current rayon pool, whatever [`threads`](Self::threads) says.
    ///
    /// # Errors
    ///
    /// As for [`pack`](Self::pack).
    pub fn pack_here(&self, image: &MemoryImage, out: impl FrameWrite) -> Result<PackSummary, EncodeError> {
        self.pack_any(image, image.layout(), &|range| image.opaque(range), out)
    }

    /// As [`pack_here`](Self::pack_here), of pages in memory, say a guest's that were captured: packed as a raw image of them.
    ///
    /// # Errors
    ///
    /// As for [`pack`](Self::pack).
    pub fn pack_source<S: PageSource + ?Sized>(
        &self,
        source: &S,
        out: impl FrameWrite,
    ) -> Result<PackSummary, EncodeError> {
        let pages = source.page_count();
        let segment = Segment { file_offset: 0, pages, first_page: 0, gpa: Some(0) };
        let len = pages.saturating_mul(PAGE_SIZE as u64);
        let layout = ImageLayout::new(ImageFormat::Raw, len, Vec::from_iter((pages > 0).then_some(segment)))?;
        self.pack_any(source, &layout, &|_| None, out)
    }

    fn pack_any<'b, 's: 'b, S: PageSource + ?Sized>(
        &self,
        source: &'s S,
        layout: &'b ImageLayout,
        opaque: &'b Opaque<'b, 's>,
        out: impl FrameWrite,
    ) -> Result<PackSummary, EncodeError> {
        // Before a byte is written: one may be required that is not there.
        let mut beside = self.beside.clone().map_or_else(|| Beside::new(&self.gpu), Ok)?;
        if self.effort == Effort::Store {
            beside = beside.unless_auto();
        }
        let (guest, kernel) = self.read_guest(source, layout)?;
        let references: Vec<Reference> = self.references.iter().cloned().chain(kernel).collect();
        let job = Job { source, layout, opaque, references: &references, guest: guest.as_ref() };
        beside.scan(source, &references, |ahead| self.pack_with(&job, out, ahead))
    }

    fn pack_with<S: PageSource + ?Sized>(
        &self,
        job: &Job<'_, '_, S>,
        out: impl FrameWrite,
        ahead: Option<&ScanAhead>,
    ) -> Result<PackSummary, EncodeError> {
        let block_pages = if self.random_access { RANDOM_BLOCK_PAGES } else { BLOCK_PAGES };
        let cpu = CpuWorker { level: self.level };
        let worker = self.worker.unwrap_or(&cpu);
        let header = Header {
            layout: job.layout.clone(),
            effort: self.effort,
            random_access: self.random_access,
            block_pages,
            references: job.references.iter().map(|reference| reference.need().clone()).collect(),
        };
        let (source, references) = (job.source, job.references);
        let encoder =
            BlockEncoder::new(source, references, worker, self.level, self.effort, self.random_access)?;
        let mut encoder = encoder.with_techniques(self.techniques);
        if let Some(guest) = job.guest {
            encoder = encoder.with_guest(guest);
        }
        if self.drops_free {
            encoder = encoder.dropping_free_pages();
        }
        let mut stream = StreamWriter::new(out, &header)?;
        self.write_opaque(job.layout, job.opaque, &mut stream)?;
        let pages = source.page_count();
        let mut history = History::new(pages, self.effort, self.random_access).with_room_for(references);
        history.learn(&encoder, &self.cancel)?;
        let all = (pages > 0).then(|| PageSet::from_range(0..pages));
        let mut announcer = all.as_ref().map(|all| Announcer::new(ahead, all));
        let mut next = 0;
        let sets = || {
            let first = next;
            if let Some(announcer) = &mut announcer {
                announcer.next_is(first);
            }
            next = pages.min(first + block_pages);
            (first < next).then(|| PageSet::from_range(first..next))
        };
        self.run(&encoder, &mut history, &mut stream, pages, sets, |set| encoder.scan_ahead(set, ahead))?;
        let mut leftovers = history.leftovers(&encoder);
        self.run(
            &encoder,
            &mut history,
            &mut stream,
            pages,
            || leftovers.take(block_pages),
            |left| encoder.sample(left),
        )?;
        stream.finish()
    }

    /// Reads the guest whose memory this is, if it is a Linux guest that says what it is, and finds its kernel's image.
    fn read_guest<S: PageSource + ?Sized>(
        &self,
        source: &S,
        layout: &ImageLayout,
    ) -> Result<(Option<Guest>, Option<Reference>), EncodeError> {
        // Storing has no use for a guest but to know its free pages.
        let used = self.effort != Effort::Store && self.techniques.has(Technique::Guest);
        if !used && !self.drops_free {
            return Ok((None, None));
        }
        let kernels = used && self.techniques.has(Technique::Kernel);
        let references = if kernels { &self.references[..] } else { &[] };
        let (guest, kernel) = read_guest(source, layout, references, self.kernels.as_ref(), &self.cancel)?;
        if self.drops_free {
            guest.as_ref().ok_or(FreePagesError::Unknown)?.may_drop_free_pages(source)?;
        }
        Ok((guest, kernel))
    }

    /// Takes sets of pages through the encoder's three steps and writes their blocks.
    fn run<S: PageSource + ?Sized, T: Send>(
        &self,
        encoder: &BlockEncoder<'_, S>,
        history: &mut History,
        stream: &mut StreamWriter<impl FrameWrite>,
        total_pages: u64,
        mut next: impl FnMut() -> Option<T> + Send,
        scan: impl Fn(T) -> Result<Scanned, EncodeError> + Sync,
    ) -> Result<(), EncodeError> {
        let steps = Steps {
            source: || if self.cancel.is_cancelled() { Err(EncodeError::Cancelled) } else { Ok(next()) },
            spread: scan,
            ordered: |scanned| history.settle(encoder, scanned),
            again: |settled| encoder.code(&settled),
            sink: |block: CodedBlock<'_>| {
                stream.write_block(&block)?;
                if let Some(progress) = self.progress {
                    let (pages, stream_bytes) = (stream.pages, stream.offset);
                    progress(Progress { pages, total_pages, stream_bytes });
                }
                Ok(())
            },
        };
        pipeline::run(rayon::current_num_threads() + 1, steps)
    }

    fn write_opaque(
        &self,
        layout: &ImageLayout,
        opaque: &Opaque<'_, '_>,
        stream: &mut StreamWriter<impl FrameWrite>,
    ) -> Result<(), EncodeError> {
        for (at, bytes) in opaque_parts(layout, opaque) {
            if self.cancel.is_cancelled() {
                return Err(EncodeError::Cancelled);
            }
            stream.write_opaque(at, bytes)?;
        }
        Ok(())
    }
}

/// Bytes of an image's file that belong to no page.
pub(crate) type Opaque<'o, 's> = dyn Fn(Range<u64>) -> Option<&'s [u8]> + Sync + 'o;

/// What is packed, and with what.
struct Job<'a, 's, S: ?Sized> {
    source: &'s S,
    layout: &'a ImageLayout,
    opaque: &'a Opaque<'a, 's>,
    references: &'a [Reference],
    guest: Option<&'a Guest>,
}

/// Reads the guest whose memory this is, if it is a Linux guest that says what it is, and makes its kernel's image, if one of
/// the references has that. Runs on the current rayon pool.
pub(crate) fn read_guest<S: PageSource + ?Sized>(
    source: &S,
    layout: &ImageLayout,
    references: &[Reference],
    cache: Option<&KernelCache>,
    cancel: &Cancel,
) -> Result<(Option<Guest>, Option<Reference>), EncodeError> {
    let disks = Reference::disks(references);
    let read = || {
        let notes = find_notes(source);
        if cancel.is_cancelled() {
            return Err(EncodeError::Cancelled);
        }
        Ok(Guest::read(source, Some(layout), &notes))
    };
    let (kernels, guest) = rayon::join(|| Kernels::list(&disks, cache), read);
    let guest = guest?;
    let kernel = guest.as_ref().and_then(|guest| kernels.of_guest(guest));
    Ok((guest, kernel.map(Reference::kernel)))
}

/// Writes a stream's frames and keeps count.
struct StreamWriter<W> {
    out: W,
    offset: u64,
    sequence: u64,
    pages: u64,
    /// Where the blocks are, unless one of them holds a list of pages.
    index: Option<Vec<IndexEntry>>,
    blocks: u64,
    digest: Xxh3,
    summary: PackSummary,
}

impl<W: FrameWrite> StreamWriter<W> {
    fn new(out: W, header: &Header) -> Result<Self, EncodeError> {
        let mut stream = StreamWriter {
            out,
            offset: 0,
            sequence: 0,
            pages: 0,
            index: Some(Vec::new()),
            blocks: 0,
            digest: Xxh3::new(),
            summary: PackSummary::default(),
        };
        stream.write_meta(FrameType::Header, &header.write())?;
        Ok(stream)
    }

    fn write_meta(&mut self, kind: FrameType, meta: &[u8]) -> Result<(), EncodeError> {
        let head = frame::encode(kind, self.sequence, meta, 0);
        self.write(kind, &head, std::iter::empty())
    }

    /// Writes a frame from its head and the parts of its data.
    fn write<'p>(
        &mut self,
        kind: FrameType,
        head: &'p [u8],
        data: impl Iterator<Item = &'p [u8]>,
    ) -> Result<(), EncodeError> {
        let parts = std::iter::once(head).chain(data);
        let mut slices: Vec<IoSlice<'p>> = parts.map(IoSlice::new).collect();
        self.offset += slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
        self.sequence += 1;
        self.out.write_frame(kind, &mut slices).map_err(EncodeError::Write)
    }

    fn write_opaque(&mut self, file_offset: u64, bytes: &[u8]) -> Result<(), EncodeError> {
        let (head, coded) = opaque_frame(self.sequence, file_offset, bytes)?;
        self.summary.opaque_bytes += bytes.len() as u64;
        self.summary.opaque_coded += (head.len() + coded.len()) as u64;
        self.write(FrameType::Opaque, &head, std::iter::once(coded.as_slice()))
    }

    fn write_block(&mut self, block: &CodedBlock<'_>) -> Result<(), EncodeError> {
        let pages = block.pages();
        match &mut self.index {
            Some(index)
                if pages.ranges().len() == 1
                    && pages.first() == index.last().map_or(0, |last| last.first_page + last.pages) =>
            {
                index.push(IndexEntry { offset: self.offset, first_page: pages.first(), pages: pages.len() });
            }
            // Only blocks of one range each, in order, are listed, and a list leaves none out.
            index => *index = None,
        }
        self.blocks += 1;
        self.pages += block.delivers();
        self.digest.update(&block.digest());
        self.summary.blocks.add(block.stats());
        self.write(FrameType::Block, &block.head(self.sequence), block.data())
    }

    fn finish(mut self) -> Result<PackSummary, EncodeError> {
        let mut index_offset = 0;
        if let Some(entries) = self.index.take_if(|entries| entries.len() as u64 <= limits::BLOCKS) {
            let index = write_index(&entries);
            if index.len() as u64 <= limits::META {
                index_offset = self.offset;
                self.write_meta(FrameType::Index, &index)?;
            }
        }
        let digest = digest_bytes(self.digest.digest128());
        let end = End { index_offset, pages: self.pages, blocks: self.blocks, digest };
        self.write_meta(FrameType::End, &end.write())?;
        self.out.finish().map_err(EncodeError::Write)?;
        Ok(PackSummary { pages: self.pages, stream_bytes: self.offset, ..self.summary })
    }
}

/// An opaque frame's head and data.
pub(crate) fn opaque_frame(
    sequence: u64,
    file_offset: u64,
    bytes: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), EncodeError> {
    let mut meta = Vec::new();
    put_varint(&mut meta, file_offset);
    plain_frame(FrameType::Opaque, sequence, meta, bytes)
}

/// A frame that holds bytes as they are, whose meta part goes on with their checksum and their piece.
pub(crate) fn plain_frame(
    kind: FrameType,
    sequence: u64,
    mut meta: Vec<u8>,
    bytes: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), EncodeError> {
    let (mut piece, mut coded) = compress_list(bytes)?;
    if coded.len() >= bytes.len() {
        (piece, coded) = (Piece::raw(bytes.len()), bytes.to_vec());
    }
    meta.extend_from_slice(&xxh3_64(bytes).to_le_bytes());
    piece.write(&mut meta);
    Ok((frame::encode(kind, sequence, &meta, coded.len() as u32), coded))
}

/// Gives the parts of an image that no page holds, in pieces that a frame takes; zeros are left out, as what nobody
/// writes reads as zero.
pub(crate) fn opaque_parts<'l, 's: 'l>(
    layout: &'l ImageLayout,
    opaque: &'l Opaque<'_, 's>,
) -> impl Iterator<Item = (u64, &'s [u8])> + 'l {
    let steps = |range: &Range<u64>| {
        let end = range.end;
        range.clone().step_by(limits::OPAQUE as usize).map(move |at| (at, end.min(at + limits::OPAQUE)))
    };
    let bytes = |(at, end)| (at, opaque(at..end).unwrap_or_default());
    let parts = layout.opaque_ranges().iter().flat_map(steps).map(bytes);
    parts.filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0))
}
