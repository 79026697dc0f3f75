//! References of a measured run: their indexes are built first, and what that costs is reported beside the run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use mig_engine::map::{FileMap, data_extents};
use mig_engine::reference::{DiskImage, Index, Samples};
use mig_engine::{Header, KernelCache, Level, Reference, Resolved};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde::Serialize;

use crate::measure::timed;
use crate::packed::refuse_packed;
use crate::run::Run;

/// Files that both ends have, and where their indexes are.
#[derive(Clone, Debug, Default)]
pub(crate) struct References {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) indexes: Vec<PathBuf>,
    /// Where kernel images are kept that were made from disks, as `mig` keeps them: the run that verifies makes them.
    pub(crate) kernels: Option<KernelCache>,
    /// What building the indexes took.
    pub(crate) built: Vec<BuiltIndex>,
}

/// One reference and its index, as reported.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BuiltIndex {
    /// The file's name.
    pub(crate) name: String,
    /// Disk or memory.
    pub(crate) kind: &'static str,
    /// Blocks of 4096 bytes.
    pub(crate) blocks: u64,
    /// Different blocks in the index.
    pub(crate) distinct: u64,
    /// Bytes of its files.
    pub(crate) index_bytes: u64,
    /// Seconds that building it took, once.
    pub(crate) build_seconds: f64,
}

impl References {
    /// Builds an index of each file into `folder`, with the page cache warm.
    ///
    /// # Errors
    ///
    /// A file can't be read, or is a packed one.
    pub(crate) fn build(
        paths: &[PathBuf],
        folder: &Path,
        pages: u64,
        level: Level,
        run: &Run,
    ) -> Result<Self> {
        let kernels = Some(KernelCache::new(folder.join("kernels")));
        let mut references = References { kernels, ..References::default() };
        for (number, path) in paths.iter().enumerate() {
            run.check()?;
            let context = || format!("cannot use {} as a reference", path.display());
            refuse_packed(path)?;
            warm(path).with_context(context)?;
            let mut reference = Reference::open(path, pages).with_context(context)?;
            let (built, cost) = timed(|| Ok(reference.build_index(level, &run.cancel)))?;
            run.check()?;
            built.with_context(context)?;
            let index_path = folder.join(format!("{number}.migidx"));
            let index = reference.index().with_context(context)?;
            index.save(&index_path)?;
            let samples = reference.samples();
            if let Some(samples) = samples {
                samples.save(&samples_of(&index_path))?;
            }
            let need = reference.need();
            references.built.push(BuiltIndex {
                name: need.name.clone(),
                kind: need.kind.name(),
                blocks: need.blocks,
                distinct: index.distinct(),
                index_bytes: index.file_len() + samples.map_or(0, Samples::file_len),
                build_seconds: cost.wall,
            });
            references.paths.push(path.clone());
            references.indexes.push(index_path);
        }
        Ok(references)
    }

    /// Tells a process of this program's about them.
    pub(crate) fn tell(&self, command: &mut Command) {
        for (reference, index) in self.paths.iter().zip(&self.indexes) {
            command.arg("--reference").arg(reference).arg("--index").arg(index);
        }
    }

    /// The files of their indexes, and of the samples that belong to these.
    pub(crate) fn index_files(&self) -> impl Iterator<Item = PathBuf> {
        let samples = self.indexes.iter().map(|index| samples_of(index)).filter(|samples| samples.exists());
        self.indexes.iter().cloned().chain(samples)
    }

    /// Opens them with their indexes, to pack with.
    ///
    /// # Errors
    ///
    /// They or their indexes can't be read.
    pub(crate) fn open(&self, pages: u64) -> Result<Vec<Reference>> {
        open(&self.paths, &self.indexes, pages)
    }

    /// Opens those that a stream needs, to unpack with.
    ///
    /// # Errors
    ///
    /// They can't be read, or one is missing.
    pub(crate) fn resolve(&self, header: &Header) -> Result<Vec<Option<Reference>>> {
        resolve(&self.paths, header)
    }
}

/// Opens files with indexes that were built before, in the same order.
///
/// # Errors
///
/// They or their indexes can't be read.
pub(crate) fn open(paths: &[PathBuf], indexes: &[PathBuf], pages: u64) -> Result<Vec<Reference>> {
    let open = |(path, index): (&PathBuf, &PathBuf)| -> Result<Reference> {
        let mut reference = Reference::open(path, pages)?;
        let samples = samples_of(index);
        let index = Index::load(index)?;
        if samples.exists() {
            reference.set_samples(Samples::open(&samples, index.tie())?);
        }
        reference.set_index(index);
        Ok(reference)
    };
    let pairs = paths.iter().zip(indexes);
    pairs.map(|pair| open(pair).with_context(|| format!("cannot open {}", pair.0.display()))).collect()
}

/// Where the samples are that belong to a disk's index.
fn samples_of(index: &Path) -> PathBuf {
    index.with_extension("migsmp")
}

/// Opens those of the files that a stream needs.
///
/// # Errors
///
/// They can't be read, or one is missing.
pub(crate) fn resolve(paths: &[PathBuf], header: &Header) -> Result<Vec<Option<Reference>>> {
    let resolved = Resolved::find(header, paths).map_err(|(at, error)| {
        anyhow::Error::new(error).context(format!("cannot open {}", paths[at].display()))
    })?;
    let missing = resolved.missing(header).next().map(|need| need.name.clone());
    if let Some(name) = missing {
        anyhow::bail!("reference {name} was there for packing, and is not for unpacking");
    }
    Ok(resolved.references)
}

/// A file, or the files that it is made of: those of a disk image.
fn parts(path: &Path) -> Vec<PathBuf> {
    let disk = DiskImage::open(path).ok();
    let files: Vec<PathBuf> = disk.iter().flat_map(DiskImage::files).map(Path::to_owned).collect();
    if files.is_empty() { vec![path.to_owned()] } else { files }
}

/// Drops a file, and the files that it is made of, from the page cache, as far as nobody maps them.
///
/// # Errors
///
/// A file can't be read, or not written back.
pub(crate) fn evict(path: &Path) -> Result<()> {
    for file in parts(path) {
        let file = File::open(file)?;
        // What was not written yet would stay.
        file.sync_all()?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    }
    Ok(())
}

/// Reads all of a file's data, and of the files that it is made of, so that it is in the page cache as far as there
/// is room. Gives the bytes of data, holes left out.
///
/// # Errors
///
/// A file can't be read.
pub(crate) fn warm(path: &Path) -> Result<u64> {
    let mut total = 0;
    for file in parts(path) {
        let map = FileMap::open(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for extent in data_extents(map.file(), 0..map.len()) {
            total += extent.end - extent.start;
            map.populate(extent)?;
        }
    }
    Ok(total)
}
