//! Kernel images kept from one migration to the next: decompressing a kernel takes longer than packing a small guest.
//!
//! A file for each payload, named by its hash: images as they are before they are slid, so that one file serves every guest
//! with that kernel. Everything in it is checked against a hash of its own; what does not hold, or cannot be written, is
//! only a cache that does not help.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::derivation::Layout;
use super::image::{Pages, Unslid, table_len};
use crate::error::DecodeError;
use crate::format::wire::{Input, put_varint};
use crate::page::PAGE_SIZE;

const MAGIC: [u8; 8] = *b"MiGkern1";
/// Magic number, hash, length of the body.
const HEAD_LEN: usize = 32;
/// Bytes of a file at most: an image and its relocations.
const MAX_FILE: u64 = 1 << 30;

/// A folder of kernel images.
#[derive(Clone, Debug)]
pub struct KernelCache {
    folder: PathBuf,
}

impl KernelCache {
    /// A cache in this folder, which is made when the first image is kept.
    pub fn new(folder: PathBuf) -> Self {
        KernelCache { folder }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, payload: u128) -> PathBuf {
        self.folder.join(format!("{payload:032x}.migkern"))
    }

    pub(super) fn load(&self, payload: u128) -> Option<Unslid> {
        let path = self.path(payload);
        let mut file = File::open(&path).ok()?;
        let image = read(&mut file, payload);
        if image.is_none() {
            log::warn!("{}: not a kernel image of this build; making it again", path.display());
        }
        image
    }

    pub(super) fn store(&self, image: &Unslid) {
        let path = self.path(image.payload);
        let kept = fs::create_dir_all(&self.folder).and_then(|()| {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            write(image, &mut file)?;
            file.persist(&path)?;
            Ok(())
        });
        if let Err(error) = kept {
            log::info!("{}: the kernel image is not kept: {error}", path.display());
        }
    }
}

/// The hash of what follows it: a body, whose length comes before it, and the image's pages.
fn hash(body: &[u8], pages: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(body);
    hash.update(pages);
    hash.digest128()
}

fn write(image: &Unslid, out: &mut impl Write) -> io::Result<()> {
    let mut body = Vec::new();
    image.layout.write(&mut body);
    put_varint(&mut body, image.physical);
    let build_id = image.build_id.as_deref().unwrap_or("");
    put_varint(&mut body, build_id.len() as u64);
    body.extend_from_slice(build_id.as_bytes());
    image.pages.slots.iter().for_each(|&slot| put_varint(&mut body, slot.into()));
    image.relocations.iter().for_each(|list| body.extend_from_slice(list));
    out.write_all(&MAGIC)?;
    out.write_all(&hash(&body, &image.pages.bytes).to_le_bytes())?;
    out.write_all(&(body.len() as u64).to_le_bytes())?;
    out.write_all(&body)?;
    out.write_all(&image.pages.bytes)
}

fn read(file: &mut File, payload: u128) -> Option<Unslid> {
    let left = file.metadata().ok()?.len().checked_sub(HEAD_LEN as u64).filter(|&len| len <= MAX_FILE)?;
    let mut head = [0; HEAD_LEN];
    file.read_exact(&mut head).ok()?;
    let (expected, body_len) = head.strip_prefix(&MAGIC)?.split_first_chunk()?;
    let body_len = u64::from_le_bytes(body_len.try_into().ok()?);
    let pages_len = left.checked_sub(body_len)?;
    let (mut body, mut pages) = (vec![0; body_len as usize], vec![0; pages_len as usize]);
    file.read_exact(&mut body).and_then(|()| file.read_exact(&mut pages)).ok()?;
    if hash(&body, &pages) != u128::from_le_bytes(*expected) {
        return None;
    }
    read_body(&body, pages, payload).ok()
}

fn read_body(body: &[u8], bytes: Vec<u8>, payload: u128) -> Result<Unslid, DecodeError> {
    let field = "kernel image";
    let mut input = Input::new(body);
    let layout = Layout::read(&mut input)?;
    let physical = input.varint(field)?;
    let len = input.varint_max(field, 1 << 10)? as usize;
    let build_id = String::from_utf8_lossy(input.take(len, field)?).into_owned();
    let mut slots = Vec::with_capacity(layout.pages as usize);
    for _ in 0..layout.pages {
        slots.push(input.varint_max(field, (bytes.len() / PAGE_SIZE) as u64)? as u32);
    }
    let mut relocations = [const { Vec::new() }; 3];
    for (list, table) in relocations.iter_mut().zip(&layout.tables) {
        *list = input.take(table_len(table), field)?.to_vec();
    }
    input.finish(field)?;
    let build_id = Some(build_id).filter(|text| !text.is_empty());
    Ok(Unslid { layout, payload, physical, build_id, pages: Pages { slots, bytes }, relocations })
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_128;

    use super::super::elf::tests::file;
    use super::*;

    #[test]
    fn what_was_kept_comes_back_and_damage_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(folder.path().join("kernels"));
        let payload = file(&[&[-0x7f00_0000 + 16], &[], &[]]);
        let hash = xxh3_128(&payload);
        assert!(cache.load(hash).is_none());
        let made = Unslid::of_payload(&payload, Some(&cache)).unwrap();
        assert!(made.build_id.is_some());
        assert_eq!(cache.load(hash).as_ref(), Some(&made));
        assert_eq!(Unslid::of_payload(&payload, Some(&cache)).unwrap(), made);
        assert_eq!(Unslid::of_layout(&made.layout, &payload, Some(&cache)).unwrap(), made);
        assert!(cache.load(hash + 1).is_none());
        let path = cache.path(hash);
        let good = fs::read(&path).unwrap();
        for at in [0, 9, 30, 200, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(cache.load(hash).is_none(), "byte {at}");
        }
        // It is made, and kept, again.
        assert_eq!(Unslid::of_payload(&payload, Some(&cache)).unwrap(), made);
        assert_eq!(fs::read(&path).unwrap(), good);
    }
}
