//! Looking at a memory image or a stream without packing or unpacking it.

use std::io::Read;

use crate::class::Class;
use crate::columns::{self, Addressing, Settled};
use crate::encode::{BlockEncoder, BlockStats, History};
use crate::error::{DecodeError, EncodeError};
use crate::format::Header;
use crate::format::block::Block;
use crate::format::frame::{FrameRead, FrameReader, FrameType, HEADER_LEN};
use crate::format::limits;
use crate::image::MemoryImage;
use crate::options::Effort;
use crate::page::PageSet;
use crate::progress::{Cancel, OnProgress, Progress};
use crate::refs::Reference;
use crate::worker::{CpuWorker, ScanWorker};
use mig_simd::Level;

/// Pages that are looked at in one go.
const STEP: u64 = 1 << 14;

/// What one page of an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Settled: it need not be coded.
    Settled(Settled),
    /// Residual, with the class of its content.
    Residual(Class),
}

/// Classes every page of an image, in order, as packing would settle it.
///
/// `each` is called with the pages' kinds, some thousand at a time. Runs on the current rayon pool.
///
/// # Errors
///
/// As for packing.
pub fn classify(
    image: &MemoryImage,
    references: &[Reference],
    level: Level,
    cancel: &Cancel,
    progress: Option<OnProgress<'_>>,
    mut each: impl FnMut(&[PageKind]),
) -> Result<BlockStats, EncodeError> {
    let worker: &dyn ScanWorker = &CpuWorker { level };
    let encoder = BlockEncoder::for_classes(image, references, worker, level)?;
    let total_pages = image.page_count();
    let mut history = History::new(total_pages, Effort::Store, false);
    let mut stats = BlockStats::default();
    let mut kinds = Vec::new();
    let mut first = 0;
    while first < total_pages {
        if cancel.is_cancelled() {
            return Err(EncodeError::Cancelled);
        }
        let end = total_pages.min(first + STEP);
        let block = history.settle(&encoder, encoder.scan(PageSet::from_range(first..end))?)?;
        stats.add(&block.stats());
        kinds.clear();
        let mut classes = block.classes();
        for run in block.runs() {
            match run.settled {
                Settled::Residual => {
                    kinds.extend(classes.by_ref().take(run.pages as usize).map(PageKind::Residual));
                }
                settled => kinds.extend((0..run.pages).map(|_| PageKind::Settled(settled))),
            }
        }
        each(&kinds);
        first = end;
        if let Some(progress) = progress {
            progress(Progress { pages: first, total_pages, stream_bytes: 0 });
        }
    }
    Ok(stats)
}

/// What a stream holds, from its frames' heads and meta parts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StreamInfo {
    /// The header.
    pub header: Header,
    /// All blocks together. Bytes that long matches cover, and how meta parts divide between settled and residual
    /// pages, are not known without decoding: the first are 0, all of the second count as settled.
    pub blocks: BlockStats,
    /// Number of blocks.
    pub block_count: u64,
    /// Bytes of opaque frames and of pieces.
    pub opaque_bytes: u64,
    /// Bytes of all frames.
    pub stream_bytes: u64,
    /// Whether the stream has its end.
    pub complete: bool,
    /// How many pages come from each reference.
    pub reference_pages: Vec<u64>,
}

impl StreamInfo {
    /// Reads a whole stream, skipping over data.
    ///
    /// # Errors
    ///
    /// What is wrong with a frame or a block's columns. The data parts are not looked at: that is verifying.
    pub fn read(input: impl Read + Send) -> Result<Self, DecodeError> {
        let mut frames = FrameReader::new(input, limits::DATA);
        let first = frames.read_frame()?.filter(|frame| frame.kind == FrameType::Header);
        let first =
            first.ok_or(DecodeError::Invalid { field: "header", why: "the first frame is another" })?;
        let header = Header::read(&first.meta)?;
        let mut info = StreamInfo {
            blocks: BlockStats::default(),
            block_count: 0,
            opaque_bytes: 0,
            stream_bytes: first.frame_len(),
            complete: false,
            reference_pages: vec![0; header.references.len()],
            header,
        };
        while let Some(frame) = frames.read_frame()? {
            info.stream_bytes += frame.frame_len();
            match frame.kind {
                FrameType::Opaque | FrameType::Piece => info.opaque_bytes += frame.frame_len(),
                FrameType::End => info.complete = true,
                FrameType::Block => info.add_block(&frame.meta, frame.data.len() as u64)?,
                FrameType::Reference => {
                    info.header = info.header.with_late_reference(&frame.meta)?;
                    info.reference_pages.push(0);
                }
                FrameType::Header | FrameType::Index => {}
            }
        }
        Ok(info)
    }

    fn add_block(&mut self, meta: &[u8], data_len: u64) -> Result<(), DecodeError> {
        let page_count = self.header.layout.page_count();
        let block = Block::read(meta, data_len, self.header.block_pages, page_count)?;
        let addressing: Vec<Addressing> =
            self.header.references.iter().map(|need| need.kind.addressing()).collect();
        let (runs, classes) = columns::decode(&block.columns, &block.pages, &addressing)?;
        let stats = &mut self.blocks;
        for run in runs {
            stats.count_run(run);
            if let Settled::Reference { index, .. } = run.settled {
                self.reference_pages[usize::from(index)] += u64::from(run.pages);
            }
        }
        for class in classes {
            stats.class_pages[class as usize] += 1;
        }
        for group in &block.groups {
            stats.class_bytes[group.class as usize] += group.piece.coded_len;
        }
        stats.match_bytes += block.matches.map_or(0, |piece| piece.coded_len);
        stats.settled_bytes +=
            (HEADER_LEN + meta.len()) as u64 + block.checks.map_or(0, |piece| piece.coded_len);
        self.block_count += 1;
        Ok(())
    }
}
