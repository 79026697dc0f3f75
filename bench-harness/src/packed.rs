//! Packed images, which are measured as what they were made of.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mig_engine::image::WriteAs;
use mig_engine::{DecodeLimits, FileStore, ImageFormat, Unpacker};

use crate::exit::Problem;
use crate::references::resolve;
use crate::run::Run;

/// Whether a file is a stream of ours.
///
/// # Errors
///
/// It can't be read.
pub(crate) fn is_packed(path: &Path) -> Result<bool> {
    let mut magic = [0; 4];
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(file.read(&mut magic).unwrap_or(0) == magic.len() && magic == *b"MiGf")
}

/// A packed file would silently be taken for a raw image: of a guest that does not compress, or a disk that is no help.
///
/// # Errors
///
/// [`Problem::Usage`] for a packed file; it can't be read.
pub(crate) fn refuse_packed(path: &Path) -> Result<()> {
    if is_packed(path)? {
        let text = format!("{} is a packed file; unpack it first", path.display());
        return Err(Problem::Usage(text).into());
    }
    Ok(())
}

/// Unpacks an image with what it was packed with, into a new file in `folder`.
///
/// # Errors
///
/// It is no image, or cannot be unpacked; a reference is missing.
pub(crate) fn unpacked(path: &Path, references: &[PathBuf], folder: &Path, run: &Run) -> Result<PathBuf> {
    let context = || format!("cannot unpack {}", path.display());
    let stream = BufReader::new(File::open(path).with_context(context)?);
    let unpacker =
        Unpacker::new(stream, DecodeLimits::default()).with_context(context)?.cancel(run.cancel.clone());
    let header = unpacker.header();
    if header.layout.format() == ImageFormat::Qemu {
        let text = format!("{} holds a migration stream, which is no image", path.display());
        return Err(Problem::Usage(text).into());
    }
    let references = resolve(references, header).with_context(context)?;
    let file = tempfile::Builder::new().suffix(".image").tempfile_in(folder).with_context(context)?;
    let (file, target) = file.keep().with_context(context)?;
    let store = FileStore::new(file, &header.layout, WriteAs::Same, folder).with_context(context)?;
    unpacker.unpack(&references, &store).with_context(context)?;
    Ok(target)
}
