//! The reference store: what the daemon keeps so that the next migration is smaller, within a limit.
//!
//! Files lie in two folders, and a catalogue beside them (redb, which survives being killed) says what they are and when they
//! were last used. The files are what counts: one that the catalogue does not know is of no use and goes; an entry without its
//! file goes, too. Nothing here has to be believed: a snapshot is verified page by page as it is used, an index is tied to its
//! disk's state.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use mig_engine::{Cancel, Reference};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::references::{self, IndexFiles};
use crate::session::lock;
use crate::transfer::open_snapshot;

const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("references");
const FOLDERS: [&str; 2] = ["snapshots", "indexes"];
/// For temporary copies of guests' memory, which have no names.
const SCRATCH: &str = "scratch";

/// What a kept file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A VM's memory as it was when it left or came.
    Snapshot,
    /// The index of a disk image, or the samples that belong to it.
    Index,
}

/// One kept file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Kept {
    /// Its name in the store.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Of which VM (snapshots) or which disk image (indexes).
    pub of: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// When it was used last, in seconds since 1970.
    pub used: u64,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    limit: u64,
    catalogue: Database,
    /// Held while files go.
    changing: Mutex<()>,
}

impl Store {
    /// Opens a store, or makes one. What was left half done is cleared away.
    ///
    /// # Errors
    ///
    /// A folder that can't be used, or that another daemon uses.
    pub fn open(folder: &Path, limit: u64) -> Result<Self> {
        let context = || format!("cannot use the reference store {}", folder.display());
        for name in FOLDERS.into_iter().chain([SCRATCH]) {
            fs::create_dir_all(folder.join(name)).with_context(context)?;
        }
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).with_context(context)?;
        let catalogue = Database::create(folder.join("catalogue.redb")).with_context(context)?;
        let write = catalogue.begin_write().with_context(context)?;
        write.open_table(ENTRIES).with_context(context)?;
        write.commit().with_context(context)?;
        let store = Store { folder: folder.to_owned(), limit, catalogue, changing: Mutex::default() };
        store.reconcile().with_context(context)?;
        Ok(store)
    }

    /// Makes the catalogue and the files agree.
    fn reconcile(&self) -> Result<()> {
        let known = self.list()?;
        for kept in &known {
            if !self.folder.join(&kept.name).exists() {
                self.forget(&kept.name)?;
            }
        }
        for folder in FOLDERS {
            for entry in fs::read_dir(self.folder.join(folder))? {
                let entry = entry?;
                let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
                if !known.iter().any(|kept| kept.name == name) {
                    log::info!(file = name.as_str(); "left over in the reference store: removed");
                    fs::remove_file(entry.path())?;
                }
            }
        }
        self.evict()
    }

    /// Everything that is kept, the least recently used first.
    ///
    /// # Errors
    ///
    /// A catalogue that can't be read.
    pub fn list(&self) -> Result<Vec<Kept>> {
        let table = self.catalogue.begin_read()?.open_table(ENTRIES)?;
        let mut list: Vec<Kept> = Vec::new();
        for entry in table.iter()? {
            list.push(serde_json::from_slice(entry?.1.value()).context("the catalogue is damaged")?);
        }
        list.sort_by(|a, b| (a.used, &a.name).cmp(&(b.used, &b.name)));
        Ok(list)
    }

    /// Bytes that may be kept.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// A folder for temporary files without names.
    pub fn scratch(&self) -> PathBuf {
        self.folder.join(SCRATCH)
    }

    /// Where a VM's snapshot is, or is to be.
    pub fn snapshot(&self, vm: &str) -> PathBuf {
        self.folder.join(snapshot_name(vm))
    }

    /// Takes note that a VM's snapshot was made or used, if it is there.
    ///
    /// # Errors
    ///
    /// A catalogue that can't be written.
    pub fn note_snapshot(&self, vm: &str, made: bool) -> Result<()> {
        self.note(&snapshot_name(vm), Kind::Snapshot, vm, made)
    }

    /// Opens a VM's snapshot, if there is one; indexed if it is to send with. It counts as used then.
    ///
    /// # Errors
    ///
    /// One that is there and can't be used.
    pub fn open_snapshot(&self, vm: &str, indexed: bool, cancel: &Cancel) -> Result<Option<Reference>> {
        let snapshot = open_snapshot(&self.snapshot(vm), indexed, cancel)?;
        if snapshot.is_some() {
            warn_of(self.note_snapshot(vm, false));
        }
        Ok(snapshot)
    }

    /// Keeps a copy of an image file as a VM's snapshot. Holes stay holes, and pages of zeros become some.
    ///
    /// # Errors
    ///
    /// Files that can't be read or written.
    pub fn keep_image(&self, vm: &str, image: &Path) -> Result<()> {
        let target = self.snapshot(vm);
        let context = || format!("cannot keep a copy of {}", image.display());
        let folder = self.folder.join(FOLDERS[0]);
        let copy = tempfile::NamedTempFile::with_prefix_in(".mig-", folder).with_context(context)?;
        copy_sparse(&File::open(image).with_context(context)?, copy.as_file()).with_context(context)?;
        copy.persist(&target).with_context(context)?;
        self.note_snapshot(vm, true)
    }

    /// Gives a disk its index: the one that is kept, if it fits, or else a new one, which is kept from then on.
    ///
    /// # Errors
    ///
    /// A disk that can't be indexed; a store that can't be written.
    pub fn index(&self, disk: &Path, reference: &mut Reference, cancel: &Cancel) -> Result<()> {
        let files = self.index_files(disk);
        let fresh = references::give_index(disk, reference, &files, cancel)?;
        for file in [&files.index, &files.samples] {
            if let Some(name) = file.file_name().filter(|_| file.exists()) {
                let name = format!("{}/{}", FOLDERS[1], name.to_string_lossy());
                warn_of(self.note(&name, Kind::Index, &disk.to_string_lossy(), fresh));
            }
        }
        Ok(())
    }

    fn index_files(&self, disk: &Path) -> IndexFiles {
        let hash = xxhash_rust::xxh3::xxh3_128(disk.as_os_str().as_encoded_bytes());
        let file = |ending: &str| self.folder.join(FOLDERS[1]).join(format!("{hash:032x}.{ending}"));
        IndexFiles { index: file("migidx"), samples: file("migsmp") }
    }

    fn note(&self, name: &str, kind: Kind, of: &str, made: bool) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let Ok(metadata) = fs::metadata(self.folder.join(name)) else { return Ok(()) };
        let used = now();
        let write = self.catalogue.begin_write()?;
        {
            let mut table = write.open_table(ENTRIES)?;
            let before: Option<Kept> =
                table.get(name)?.and_then(|value| serde_json::from_slice(value.value()).ok());
            let made = before.filter(|_| !made).map_or(used, |before| before.made);
            let bytes = metadata.blocks() * 512;
            let kept = Kept { name: name.to_owned(), kind, of: of.to_owned(), bytes, made, used };
            table.insert(name, serde_json::to_vec(&kept)?.as_slice())?;
        }
        write.commit()?;
        self.evict()
    }

    /// Removes one file.
    ///
    /// # Errors
    ///
    /// A file that can't be removed. Whether there was one is the result.
    pub fn remove(&self, name: &str) -> Result<bool> {
        let _changing = lock(&self.changing);
        // Only what the catalogue knows: a name is not a path.
        let known = self.list()?.iter().any(|kept| kept.name == name);
        if known {
            self.drop_file(name)?;
        }
        Ok(known)
    }

    fn drop_file(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error)?,
            _ => {}
        }
        self.forget(name)
    }

    fn forget(&self, name: &str) -> Result<()> {
        let write = self.catalogue.begin_write()?;
        write.open_table(ENTRIES)?.remove(name)?;
        Ok(write.commit()?)
    }

    /// Removes what was not used for longest until the rest fits. Who has a file open keeps it.
    fn evict(&self) -> Result<()> {
        let _changing = lock(&self.changing);
        let mut list = self.list()?;
        // What alone is too large goes first, and no other has to for it.
        list.sort_by_key(|kept| kept.bytes <= self.limit);
        let mut bytes = bytes_of(&list);
        for kept in list {
            if bytes <= self.limit {
                break;
            }
            log::info!(file = kept.name.as_str(), of = kept.of.as_str(), bytes = kept.bytes; "removed from the reference store to make room");
            self.drop_file(&kept.name)?;
            bytes -= kept.bytes;
        }
        Ok(())
    }
}

/// How many bytes those are.
pub(super) fn bytes_of(list: &[Kept]) -> u64 {
    list.iter().map(|kept| kept.bytes).sum()
}

/// What is not noted is only forgotten too early.
fn warn_of(noted: Result<()>) {
    if let Err(error) = noted {
        log::warn!(error:% = format!("{error:#}"); "the catalogue can't be written");
    }
}

fn snapshot_name(vm: &str) -> String {
    format!("{}/{vm}.mem", FOLDERS[0])
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Copies a file; blocks of zeros are left out.
fn copy_sparse(from: &File, to: &File) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let part = &mut buffer[..(len - at).min(1 << 20) as usize];
        from.read_exact_at(part, at)?;
        for (block, bytes) in part.chunks(4096).enumerate() {
            if bytes.iter().any(|byte| *byte != 0) {
                to.write_all_at(bytes, at + (block as u64) * 4096)?;
            }
        }
        at += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(folder: &Path, name: &str, pages: u8) -> PathBuf {
        let path = folder.join(name);
        let bytes: Vec<u8> = (0..pages).flat_map(|page| [page; 4096]).collect();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn names(store: &Store) -> Vec<String> {
        store.list().unwrap().into_iter().map(|kept| kept.name).collect()
    }

    #[test]
    fn snapshots_are_kept_and_the_least_recently_used_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let source = image(folder.path(), "a.raw", 64);
        let store = Store::open(&folder.path().join("store"), 600 << 10).unwrap();
        store.keep_image("a", &source).unwrap();
        assert_eq!(fs::read(store.snapshot("a")).unwrap(), fs::read(&source).unwrap());
        store.keep_image("b", &source).unwrap();
        assert_eq!(names(&store).len(), 2, "{:?}", store.list());
        // Their times have seconds; within one, names decide, so that b is the more recent.
        store.keep_image("c", &source).unwrap();
        assert_eq!(names(&store), ["snapshots/b.mem", "snapshots/c.mem"]);
        assert!(!store.snapshot("a").exists());
        let (used, limit) = (bytes_of(&store.list().unwrap()), store.limit());
        assert!(used <= limit && used > 400 << 10, "{used} of {limit}");
    }

    #[test]
    fn the_files_are_what_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (source, home) = (image(folder.path(), "a.raw", 8), folder.path().join("store"));
        let store = Store::open(&home, 1 << 30).unwrap();
        for vm in ["a", "b"] {
            store.keep_image(vm, &source).unwrap();
        }
        assert!(Store::open(&home, 1 << 30).is_err(), "two daemons use one store");
        drop(store);
        fs::remove_file(home.join("snapshots/a.mem")).unwrap();
        fs::write(home.join("snapshots/.mig-half"), b"a copy that was not finished").unwrap();
        let store = Store::open(&home, 1 << 30).unwrap();
        assert_eq!(names(&store), ["snapshots/b.mem"]);
        assert!(!home.join("snapshots/.mig-half").exists());
        assert!(!store.remove("../a.raw").unwrap() && source.exists());
        assert!(store.remove("snapshots/b.mem").unwrap());
        assert!(names(&store).is_empty() && !home.join("snapshots/b.mem").exists());
    }
}
