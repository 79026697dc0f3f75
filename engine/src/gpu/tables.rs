//! Tables in device memory that live as long as a stream: the fingerprints seen so far, and the references' indexes.
//!
//! A table that does not fit is left out, with a line in the log, and the CPU does without.

use wgpu::BufferUsages;

use super::device::Inner;
use super::fault::Fault;
use crate::refs::Reference;

/// Bytes that are uploaded at a time.
const UPLOAD: usize = 16 << 20;

/// All tables of a stream.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) dedup: Option<DedupTable>,
    /// For each reference.
    pub(super) indexes: Vec<Option<IndexTable>>,
}

/// Fingerprints seen so far.
#[derive(Debug)]
pub(super) struct DedupTable {
    /// 16 bytes for each page of the guest.
    pub(super) fingerprints: wgpu::Buffer,
    /// 4 bytes a slot, a power of two of them, at least twice as many as pages.
    pub(super) slots: wgpu::Buffer,
}

/// An index as it is in its file.
#[derive(Debug)]
pub(super) struct IndexTable {
    pub(super) entries: wgpu::Buffer,
    pub(super) buckets: u32,
    pub(super) blocks: u64,
}

impl Tables {
    /// # Errors
    ///
    /// The device fails. That it is short of memory only leaves tables out.
    pub(super) fn new(gpu: &Inner, pages: u64, references: &[Reference]) -> Result<Self, Fault> {
        let dedup = left_out(DedupTable::new(gpu, pages), "duplicates")?;
        let table = |reference: &Reference| {
            let what = format!("the index of {}", reference.need().name);
            left_out(IndexTable::new(gpu, reference), &what)
        };
        Ok(Tables { dedup, indexes: references.iter().map(table).collect::<Result<_, _>>()? })
    }
}

/// Why there is no table.
enum Without {
    /// Nobody would miss it.
    Nothing,
    TooLarge {
        bytes: u64,
        most: u64,
    },
    Fault(Fault),
}

impl From<Fault> for Without {
    fn from(fault: Fault) -> Self {
        Without::Fault(fault)
    }
}

fn left_out<T>(table: Result<T, Without>, what: &str) -> Result<Option<T>, Fault> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(Without::Nothing) => Ok(None),
        Err(Without::TooLarge { bytes, most }) => {
            log::info!(
                "{what}: {bytes} bytes of table are more than the GPU's {most}; the CPU looks there itself"
            );
            Ok(None)
        }
        Err(Without::Fault(fault @ Fault::OutOfMemory(_))) => {
            log::info!("{what}: {fault}; the CPU looks there itself");
            Ok(None)
        }
        Err(Without::Fault(fault)) => Err(fault),
    }
}

fn check_size(gpu: &Inner, bytes: Option<u64>) -> Result<u64, Without> {
    let (bytes, most) = (bytes.unwrap_or(u64::MAX), gpu.sizes.binding);
    if bytes > most { Err(Without::TooLarge { bytes, most }) } else { Ok(bytes) }
}

impl DedupTable {
    fn new(gpu: &Inner, pages: u64) -> Result<Self, Without> {
        let slots = pages.max(1).checked_next_power_of_two().map(|slots| slots * 2);
        let slot_bytes = check_size(gpu, slots.and_then(|slots| slots.checked_mul(4)))?;
        let bytes = check_size(gpu, pages.max(1).checked_mul(16))?;
        let storage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
        Ok(DedupTable {
            fingerprints: gpu.buffer("fingerprints", bytes, storage)?,
            slots: gpu.buffer("slots", slot_bytes, storage)?,
        })
    }
}

impl IndexTable {
    fn new(gpu: &Inner, reference: &Reference) -> Result<Self, Without> {
        let Some(index) = reference.index() else { return Err(Without::Nothing) };
        let bytes = index.table_bytes();
        let size = check_size(gpu, Some(bytes.len() as u64))?;
        let Ok(buckets) = u32::try_from(index.buckets()) else {
            return Err(Without::TooLarge { bytes: size, most: u64::from(u32::MAX) * 64 });
        };
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let entries = gpu.buffer("index", size, usage)?;
        for (at, piece) in (0..).step_by(UPLOAD).zip(bytes.chunks(UPLOAD)) {
            // A piece at a time, so that the copies in between don't pile up.
            let submission = gpu.checked(|| {
                gpu.queue.write_buffer(&entries, at, piece);
                gpu.queue.submit([])
            })?;
            gpu.wait(submission)?;
        }
        Ok(IndexTable { entries, buckets, blocks: index.blocks() })
    }
}
