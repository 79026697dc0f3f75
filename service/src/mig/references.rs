//! References from the command line: disks, older images, older packed files, and their indexes.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mig_engine::image::WriteAs;
use mig_engine::reference::{Index, IndexError};
use mig_engine::{
    Cancel, DecodeLimits, FileStore, Header, Level, MemoryImage, Reference, ReferenceNeed, Resolved,
    UnpackError, Unpacker,
};

use crate::exit::Problem;
use crate::human;
use crate::run::{Bar, Run};

/// Opens references to pack with: each gets its index, from beside it or built now.
///
/// Runs on the current rayon pool.
pub(crate) fn for_packing(paths: &[PathBuf], guest_pages: u64, run: &Run) -> Result<Vec<Reference>> {
    let mut references = Vec::new();
    for path in paths {
        let others: Vec<&PathBuf> = paths.iter().filter(|other| *other != path).collect();
        let mut reference = open(path, guest_pages, &others, run)?;
        let index = saved_index(path, &reference);
        match index {
            Some(index) => reference.set_index(index),
            None => {
                log::info!("{}: building an index; `mig index` keeps one", path.display());
                let built = reference.build_index(Level::best(), &run.cancel);
                built.map_err(interrupted).with_context(|| format!("cannot index {}", path.display()))?;
            }
        }
        references.push(reference);
    }
    Ok(references)
}

/// Cancelling is the same outcome, whoever noticed it.
fn interrupted(error: IndexError) -> anyhow::Error {
    match error {
        IndexError::Cancelled => mig_engine::EncodeError::Cancelled.into(),
        error => error.into(),
    }
}

/// The index beside a file, if there is one that fits.
pub(crate) fn saved_index(path: &Path, reference: &Reference) -> Option<Index> {
    let index_path = Index::default_path(path);
    if !index_path.exists() {
        return None;
    }
    let tie = match crate::index::tie_of(path, reference) {
        Ok(tie) => tie,
        Err(error) => {
            log::warn!("{}: {error:#}", path.display());
            return None;
        }
    };
    match Index::open(&index_path, &tie) {
        Ok(index) => Some(index),
        Err(error) => {
            log::warn!("{error}; building another");
            None
        }
    }
}

fn open(path: &Path, guest_pages: u64, others: &[&PathBuf], run: &Run) -> Result<Reference> {
    let context = || format!("cannot use {} as a reference", path.display());
    if is_packed(path).with_context(context)? {
        let image = unpack_to_scratch(path, others, &run.cancel).with_context(context)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        return Reference::memory(image, name).with_context(context);
    }
    Reference::open(path, guest_pages).with_context(context)
}

/// Whether a file starts as a stream does.
pub(crate) fn is_packed(path: &Path) -> Result<bool> {
    let mut magic = [0; 4];
    let mut file = File::open(path)?;
    Ok(file.metadata()?.is_file() && file.read(&mut magic)? == 4 && magic == *b"MiGf")
}

/// Unpacks an older .mig into an unlinked temporary file, to be read as the image it holds.
fn unpack_to_scratch(path: &Path, others: &[&PathBuf], cancel: &Cancel) -> Result<MemoryImage> {
    let input = BufReader::with_capacity(1 << 20, File::open(path)?);
    let unpacker = Unpacker::new(input, DecodeLimits::default())?;
    let references = resolve(unpacker.header(), others)?;
    let scratch = std::env::temp_dir();
    let file = tempfile::tempfile().context("cannot make a temporary file")?;
    let layout = unpacker.header().layout.clone();
    let store = FileStore::new(file, &layout, WriteAs::Same, &scratch)?;
    let bar = Bar::new("unpacking reference");
    let show = |progress| bar.show(progress);
    unpacker.cancel(cancel.clone()).on_progress(&show).unpack(&references, &store)?;
    bar.done();
    Ok(MemoryImage::from_file(store.into_file(), None)?)
}

/// Finds what a stream needs among files; what is missing is an error that says what was there instead.
pub(crate) fn resolve(header: &Header, paths: &[impl AsRef<Path>]) -> Result<Vec<Option<Reference>>> {
    if header.references.is_empty() {
        return Ok(Vec::new());
    }
    let (packed, plain): (Vec<&Path>, Vec<&Path>) =
        paths.iter().map(AsRef::as_ref).partition(|path| is_packed(path).unwrap_or(false));
    let mut resolved = Resolved::find(header, &plain).map_err(|(at, error)| {
        anyhow::Error::new(error).context(format!("cannot use {} as a reference", plain[at].display()))
    })?;
    for path in packed {
        // A packed file may need the very file that is being resolved, so those that nobody asks for are left alone.
        if resolved.missing(header).next().is_none() {
            break;
        }
        let others: Vec<PathBuf> =
            paths.iter().map(|path| path.as_ref().to_owned()).filter(|other| other != path).collect();
        let others: Vec<&PathBuf> = others.iter().collect();
        match unpack_to_scratch(path, &others, &Cancel::new()) {
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
pub(crate) fn describe(need: &ReferenceNeed) -> String {
    let identity: String = need.identity.iter().rev().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {:?}, {}, identity {identity}", need.kind.name(), need.name, human::bytes(need.blocks << 12))
}

/// Says how far a failed unpacking came.
pub(crate) fn explain(error: UnpackError) -> anyhow::Error {
    let UnpackError { done, source } = error;
    let pages = done.pages;
    let error = anyhow::Error::new(source);
    if pages > 0 { error.context(format!("after {} good pages", human::count(pages))) } else { error }
}
