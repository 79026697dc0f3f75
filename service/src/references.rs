//! References in files: disks, older images, older packed files, and their indexes.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mig_engine::image::WriteAs;
use mig_engine::reference::{
    DiskFormat, DiskImage, FileStamp, Identity, Index, IndexBuilder, IndexError, ReferenceError, Samples,
    SourceTie,
};
use mig_engine::{
    Cancel, DecodeLimits, FileStore, Header, KernelCache, Level, MemoryImage, OnProgress, Reference,
    ReferenceKind, ReferenceNeed, Resolved, UnpackError, Unpacker, fingerprints,
};

use crate::human;
use crate::problem::Problem;

/// Takes apart how a user names a reference: a path, or `raw:PATH`, `qcow2:PATH` or `vmdk:PATH` for a disk image whose format is not
/// to be found by content. A guest that writes to a raw disk can make it look like a qcow2 image that names other files.
pub fn named(reference: &Path) -> (Option<DiskFormat>, &Path) {
    let known = [("raw:", DiskFormat::Raw), ("qcow2:", DiskFormat::Qcow2), ("vmdk:", DiskFormat::Vmdk)];
    let bytes = reference.as_os_str().as_encoded_bytes();
    let said = known.into_iter().find(|(prefix, _)| bytes.starts_with(prefix.as_bytes()));
    match (said, reference.to_str()) {
        (Some((prefix, format)), Some(text)) => (Some(format), Path::new(&text[prefix.len()..])),
        _ => (None, reference),
    }
}

/// Opens a disk image as what the user says it is.
fn open_disk(path: &Path) -> Result<DiskImage, ReferenceError> {
    match named(path) {
        (Some(format), path) => DiskImage::open_as(path, format),
        (None, path) => DiskImage::open(path),
    }
}

/// Opens a disk image as a reference.
///
/// # Errors
///
/// What can't be opened.
pub fn disk(path: &Path) -> Result<Reference> {
    let name = file_name(named(path).1);
    let context = || format!("cannot use {} as a reference", path.display());
    Reference::disk(open_disk(path).with_context(context)?, name).with_context(context)
}

/// What a reference is called in messages.
fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Where a reference's index is kept, and the samples that belong to it.
#[derive(Clone, Debug)]
pub struct IndexFiles {
    /// The index.
    pub index: PathBuf,
    /// Samples, of disks only.
    pub samples: PathBuf,
}

impl IndexFiles {
    /// Beside the reference, where `mig index` writes them.
    pub fn beside(path: &Path) -> Self {
        let (_, path) = named(path);
        IndexFiles { index: Index::default_path(path), samples: Samples::default_path(path) }
    }
}

/// Gives a reference that it is to be sent or packed with its index.
pub type GiveIndex<'i> = &'i dyn Fn(&Path, &mut Reference) -> Result<()>;

/// Opens references to pack with: each gets its index, from beside it or built now. `progress` is of unpacking those that
/// are packed. A raw file is taken for memory if it has as many pages as one of `guest_pages`.
///
/// Runs on the current rayon pool.
///
/// # Errors
///
/// Files that can't be opened, unpacked or indexed; [`mig_engine::EncodeError::Cancelled`].
pub fn for_packing(
    paths: &[PathBuf],
    guest_pages: &[u64],
    cancel: &Cancel,
    progress: Option<OnProgress<'_>>,
) -> Result<Vec<Reference>> {
    let from_beside = |path: &Path, reference: &mut Reference| -> Result<()> {
        if !set_saved(path, reference, &IndexFiles::beside(path)) {
            log::info!("{}: building an index; `mig index` keeps one", path.display());
            build_index(path, reference, cancel)?;
        }
        Ok(())
    };
    for_packing_with(paths, guest_pages, cancel, progress, &from_beside)
}

/// The same, with indexes from somewhere else.
///
/// # Errors
///
/// As for [`for_packing`].
pub fn for_packing_with(
    paths: &[PathBuf],
    guest_pages: &[u64],
    cancel: &Cancel,
    progress: Option<OnProgress<'_>>,
    index: GiveIndex<'_>,
) -> Result<Vec<Reference>> {
    let mut references = Vec::new();
    for path in paths {
        let others: Vec<&PathBuf> = paths.iter().filter(|other| *other != path).collect();
        let mut reference = open(path, guest_pages, &others, cancel, progress)?;
        index(path, &mut reference)?;
        references.push(reference);
    }
    Ok(references)
}

/// Gives a reference its index for this run.
///
/// # Errors
///
/// What can't be read; [`mig_engine::EncodeError::Cancelled`].
pub fn build_index(path: &Path, reference: &mut Reference, cancel: &Cancel) -> Result<()> {
    let built = reference.build_index(Level::best(), cancel);
    built.map_err(interrupted).with_context(|| format!("cannot index {}", path.display()))
}

/// Gives a reference what of its index is saved and fits; whether that was all of it.
fn set_saved(path: &Path, reference: &mut Reference, files: &IndexFiles) -> bool {
    let (index, samples) = saved(path, reference, files);
    set_index(reference, index, samples);
    let lacks_samples = reference.kind() == ReferenceKind::Disk && reference.samples().is_none();
    reference.index().is_some() && !lacks_samples
}

fn set_index(reference: &mut Reference, index: Option<Index>, samples: Option<Samples>) {
    if let Some(index) = index {
        reference.set_index(index);
    }
    if let Some(samples) = samples {
        reference.set_samples(samples);
    }
}

/// Gives a reference the index in these files, or else builds one and writes it there; whether it was built.
///
/// Runs on the current rayon pool.
///
/// # Errors
///
/// A reference that can't be read, files that can't be written; [`mig_engine::EncodeError::Cancelled`].
pub fn give_index(
    path: &Path,
    reference: &mut Reference,
    files: &IndexFiles,
    cancel: &Cancel,
) -> Result<bool> {
    if set_saved(path, reference, files) {
        return Ok(false);
    }
    let (index, samples) = new_index(path, reference, cancel, &|_, _| {})?;
    // That it can't be kept is no reason to go without.
    if let Err(error) = write_index(&index, samples.as_ref(), files) {
        log::warn!("{}: its index is not kept: {error}", path.display());
    }
    set_index(reference, Some(index), samples);
    Ok(true)
}

/// Builds a reference's index, and samples if it is a disk, and writes both.
///
/// Runs on the current rayon pool.
///
/// # Errors
///
/// As for [`give_index`].
pub fn save_index(
    path: &Path,
    reference: &Reference,
    files: &IndexFiles,
    cancel: &Cancel,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<(Index, Option<Samples>)> {
    let (index, samples) = new_index(path, reference, cancel, progress)?;
    let written = write_index(&index, samples.as_ref(), files);
    written.with_context(|| format!("cannot index {}", path.display()))?;
    Ok((index, samples))
}

fn write_index(index: &Index, samples: Option<&Samples>, files: &IndexFiles) -> Result<(), IndexError> {
    index.save(&files.index)?;
    samples.map_or(Ok(()), |samples| samples.save(&files.samples))
}

fn new_index(
    path: &Path,
    reference: &Reference,
    cancel: &Cancel,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<(Index, Option<Samples>)> {
    // The tie comes first: what changes from here on makes the index stale.
    let tie = tie_of(path, reference)?;
    let built = || -> Result<_, IndexError> {
        let (level, source) = (Level::best(), reference.source());
        let builder = IndexBuilder::new().progress(progress).cancel(cancel.flag());
        let index = builder.build(source, tie.clone(), &fingerprints(level))?;
        // Memory is found like itself by its place; disks need samples for that.
        let is_disk = reference.kind() == ReferenceKind::Disk;
        let samples = is_disk.then(|| Samples::build(source, tie, level, Some(cancel.flag())));
        Ok((index, samples.transpose()?))
    };
    let context = || format!("cannot index {}", path.display());
    built().map_err(interrupted).with_context(context)
}

/// Opens references to unpack with: they need no index.
///
/// # Errors
///
/// As for [`for_packing`].
pub fn for_unpacking(paths: &[PathBuf], guest_pages: &[u64], cancel: &Cancel) -> Result<Vec<Reference>> {
    let open = |path: &PathBuf| {
        let others: Vec<&PathBuf> = paths.iter().filter(|other| *other != path).collect();
        open(path, guest_pages, &others, cancel, None)
    };
    paths.iter().map(open).collect()
}

/// Where this user's kernel images are kept: making one from its disk takes about a second.
pub fn kernel_cache() -> Option<KernelCache> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(KernelCache::new(caches.join("mig").join("kernels")))
}

/// Cancelling is the same outcome, whoever noticed it.
fn interrupted(error: IndexError) -> anyhow::Error {
    match error {
        IndexError::Cancelled => mig_engine::EncodeError::Cancelled.into(),
        error => error.into(),
    }
}

/// The present state of a reference's files, which its index is tied to.
///
/// # Errors
///
/// Files that can't be looked at.
pub fn tie_of(path: &Path, reference: &Reference) -> Result<SourceTie> {
    match reference.kind() {
        ReferenceKind::Disk | ReferenceKind::Derived => Ok(open_disk(path)?.tie()?),
        ReferenceKind::Memory => {
            let stamp = FileStamp::of(&File::open(path)?)?;
            let identity = Identity(u128::from_le_bytes(reference.need().identity));
            Ok(SourceTie::new(identity, reference.need().blocks, &[stamp]))
        }
    }
}

/// The index and the samples in these files, as far as there are some that fit.
pub fn saved(path: &Path, reference: &Reference, files: &IndexFiles) -> (Option<Index>, Option<Samples>) {
    let IndexFiles { index, samples } = files;
    if !index.exists() && !samples.exists() {
        return (None, None);
    }
    match tie_of(path, reference) {
        Ok(tie) => (
            fitting(index, |path| Index::open(path, &tie)),
            fitting(samples, |path| Samples::open(path, &tie)),
        ),
        Err(error) => {
            log::warn!("{}: {error:#}", path.display());
            (None, None)
        }
    }
}

fn fitting<T>(path: &Path, open: impl FnOnce(&Path) -> Result<T, IndexError>) -> Option<T> {
    if !path.exists() {
        return None;
    }
    open(path).map_err(|error| log::warn!("{error}; building another")).ok()
}

fn open(
    path: &Path,
    guest_pages: &[u64],
    others: &[&PathBuf],
    cancel: &Cancel,
    progress: Option<OnProgress<'_>>,
) -> Result<Reference> {
    let context = || format!("cannot use {} as a reference", path.display());
    if named(path).0.is_some() {
        return disk(path);
    }
    if is_packed(path).with_context(context)? {
        let image = unpack_to_scratch(path, others, cancel, progress).with_context(context)?;
        return Reference::memory(image, file_name(path)).with_context(context);
    }
    let mut reference =
        Reference::open(path, guest_pages.first().copied().unwrap_or(0)).with_context(context)?;
    for &pages in guest_pages.iter().skip(1) {
        if reference.kind() == ReferenceKind::Memory {
            break;
        }
        reference = Reference::open(path, pages).with_context(context)?;
    }
    Ok(reference)
}

/// Whether a file starts as a stream does.
///
/// # Errors
///
/// A file that can't be read.
pub fn is_packed(path: &Path) -> Result<bool> {
    let mut magic = [0; 4];
    let mut file = File::open(path)?;
    Ok(file.metadata()?.is_file() && file.read(&mut magic)? == 4 && magic == *b"MiGf")
}

/// Unpacks an older .mig into an unlinked temporary file, to be read as the image it holds.
fn unpack_to_scratch(
    path: &Path,
    others: &[&PathBuf],
    cancel: &Cancel,
    progress: Option<OnProgress<'_>>,
) -> Result<MemoryImage> {
    let input = BufReader::with_capacity(1 << 20, File::open(path)?);
    let unpacker = Unpacker::new(input, DecodeLimits::default())?;
    let references = resolve(unpacker.header(), others)?;
    let scratch = std::env::temp_dir();
    let file = tempfile::tempfile().context("cannot make a temporary file")?;
    let layout = unpacker.header().layout.clone();
    let store = FileStore::new(file, &layout, WriteAs::Same, &scratch)?;
    let ignore = |_| {};
    let progress = progress.unwrap_or(&ignore);
    unpacker.cancel(cancel.clone()).on_progress(progress).unpack(&references, &store)?;
    Ok(MemoryImage::from_file(store.into_file(), None)?)
}

/// Finds what a stream needs among files; what is missing is an error that says what was there instead.
///
/// # Errors
///
/// [`Problem::Reference`] for what is missing; files that can't be opened.
pub fn resolve(header: &Header, paths: &[impl AsRef<Path>]) -> Result<Vec<Option<Reference>>> {
    if header.references.is_empty() {
        return Ok(Vec::new());
    }
    let (said, paths): (Vec<&Path>, Vec<&Path>) =
        paths.iter().map(AsRef::as_ref).partition(|path| named(path).0.is_some());
    let (packed, plain): (Vec<&Path>, Vec<&Path>) =
        paths.iter().partition(|path| is_packed(path).unwrap_or(false));
    let mut resolved = Resolved::find(header, &plain).map_err(|(at, error)| {
        anyhow::Error::new(error).context(format!("cannot use {} as a reference", plain[at].display()))
    })?;
    for path in said {
        resolved.offer(header, disk(path)?);
    }
    for path in packed {
        // A packed file may need the very file that is being resolved, so those that nobody asks for are left alone.
        if resolved.missing(header).next().is_none() {
            break;
        }
        let others: Vec<PathBuf> =
            paths.iter().filter(|other| **other != path).map(|other| other.to_path_buf()).collect();
        let others: Vec<&PathBuf> = others.iter().collect();
        match unpack_to_scratch(path, &others, &Cancel::new(), None) {
            Ok(image) => {
                resolved.offer(header, Reference::memory(image, path.to_string_lossy().into_owned())?);
            }
            Err(error) if matches!(error.downcast_ref(), Some(Problem::Reference(_))) => {
                log::debug!("{}: {error:#}", path.display());
            }
            Err(error) => {
                return Err(error.context(format!("cannot use {} as a reference", path.display())));
            }
        }
    }
    let missing: Vec<&ReferenceNeed> = resolved.missing(header).collect();
    if missing.is_empty() {
        return Ok(resolved.references);
    }
    let list = |needs: &mut dyn Iterator<Item = &ReferenceNeed>| {
        needs.map(|need| format!("\n  {}", describe(need))).collect::<String>()
    };
    let mut text = format!("references are missing (--reference FILE):{}", list(&mut missing.into_iter()));
    if !resolved.unused.is_empty() {
        text += &format!(
            "\nthese were given, but are not what was packed with:{}",
            list(&mut resolved.unused.iter())
        );
    }
    Err(Problem::Reference(text).into())
}

/// One reference in one line.
pub fn describe(need: &ReferenceNeed) -> String {
    let identity: String = need.identity.iter().rev().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {:?}, {}, identity {identity}", need.kind.name(), need.name, human::bytes(need.blocks << 12))
}

/// Says how far a failed unpacking came.
pub fn explain(error: UnpackError) -> anyhow::Error {
    let UnpackError { done, source } = error;
    let pages = done.pages;
    let error = anyhow::Error::new(source);
    if pages > 0 { error.context(format!("after {} good pages", human::count(pages))) } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_what_the_user_says_it_is() {
        assert_eq!(named(Path::new("a:b")), (None, Path::new("a:b")));
        assert_eq!(named(Path::new("raw:a")), (Some(DiskFormat::Raw), Path::new("a")));
        assert_eq!(named(Path::new("qcow2:/a")), (Some(DiskFormat::Qcow2), Path::new("/a")));
        // A raw disk whose guest made it look like an image that names another file.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let mut disk = vec![0; 1 << 20];
        disk[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        std::fs::write(&path, &disk).unwrap();
        let open_one = |name: PathBuf| open(&name, &[], &[], &Cancel::new(), None);
        assert!(open_one(path.clone()).is_err(), "it has no sound header");
        let raw = open_one(format!("raw:{}", path.display()).into()).unwrap();
        assert_eq!((raw.kind(), raw.need().blocks), (ReferenceKind::Disk, 256));
        assert_eq!(raw.need().name, "disk");
    }
}
