//! VMs: who may send them here, where they go, and what may be used for them. The file says it, and the API for a while.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::config::Vm;
use crate::session::lock;

/// Where a VM that comes in is to go. It stays until a migration has come to its end there, or it is removed; the daemon may be
/// started anew meanwhile. What it does not say is as the configuration has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Destination {
    /// The file that its memory goes to.
    #[schema(value_type = Option<String>)]
    pub image: Option<PathBuf>,
    /// Whether a file that is there is replaced.
    pub replace: bool,
    /// The socket of a QEMU that was started with `-incoming unix:PATH`, as `unix:PATH`.
    pub qemu: Option<String>,
    /// Hosts that may send it, by the names in their certificates; `*` is all that the CA has signed.
    pub peers: Option<Vec<String>>,
    /// Its disk images here.
    #[schema(value_type = Option<Vec<String>>)]
    pub disks: Option<Vec<PathBuf>>,
    /// Whether a copy of its memory is kept for the way back.
    pub snapshot: Option<bool>,
}

impl Destination {
    /// What is wrong with it, if anything is.
    fn check(&self) -> Result<(), String> {
        if self.image.is_some() == self.qemu.is_some() {
            return Err("image or qemu is needed, and not both".into());
        }
        let qemu = self.qemu.as_deref().map(crate::local::unix_path).transpose()?;
        let disks = self.disks.iter().flatten().map(|disk| crate::references::named(disk).1);
        let others = self.image.iter().chain(&qemu).map(PathBuf::as_path);
        let relative = disks.chain(others).find(|path| !path.is_absolute());
        match relative {
            Some(path) => Err(format!("{}: paths are from the root on", path.display())),
            None => Ok(()),
        }
    }

    fn over(&self, name: &str, configured: Option<&Vm>) -> Vm {
        let unknown = Vm::named(name);
        let base = configured.unwrap_or(&unknown);
        Vm {
            name: name.to_owned(),
            peers: self.peers.clone().unwrap_or_else(|| base.peers.clone()),
            disks: self.disks.clone().unwrap_or_else(|| base.disks.clone()),
            image: self.image.clone(),
            replace: self.replace,
            qemu: self.qemu.as_deref().and_then(|qemu| crate::local::unix_path(qemu).ok()),
            snapshot: self.snapshot.unwrap_or(base.snapshot),
        }
    }
}

/// What is known of VMs.
#[derive(Debug)]
pub struct Vms {
    configured: Vec<Vm>,
    prepared: Mutex<BTreeMap<String, Destination>>,
    file: PathBuf,
}

impl Vms {
    /// Those of the configuration, and destinations that were prepared before the daemon was started.
    ///
    /// # Errors
    ///
    /// A file of prepared destinations that can't be read.
    pub fn new(configured: Vec<Vm>, folder: &Path) -> Result<Self> {
        let file = folder.join("destinations.json");
        let context = || format!("cannot use {}", file.display());
        let prepared = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(context)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error).with_context(context),
        };
        Ok(Vms { configured, prepared: Mutex::new(prepared), file })
    }

    /// What is known of one.
    pub fn find(&self, name: &str) -> Option<Vm> {
        let configured = self.configured.iter().find(|vm| vm.name == name);
        match lock(&self.prepared).get(name) {
            Some(destination) => Some(destination.over(name, configured)),
            None => configured.cloned(),
        }
    }

    /// Disk images that may be asked for, each once.
    pub fn disks(&self) -> Vec<PathBuf> {
        let mut disks: Vec<PathBuf> = self.configured.iter().flat_map(|vm| vm.disks.clone()).collect();
        disks.sort();
        disks.dedup();
        disks
    }

    /// Destinations that were prepared.
    pub fn prepared(&self) -> BTreeMap<String, Destination> {
        lock(&self.prepared).clone()
    }

    /// Prepares a destination; what was prepared for that VM before is forgotten.
    ///
    /// # Errors
    ///
    /// In the inner result, what is wrong with it; in the outer one, that it can't be written down.
    pub fn prepare(&self, name: &str, destination: Destination) -> Result<Result<(), String>> {
        if let Err(wrong) = destination.check() {
            return Ok(Err(wrong));
        }
        if destination.over(name, self.configured.iter().find(|vm| vm.name == name)).peers.is_empty() {
            return Ok(Err(format!(
                "nobody may send {name}: the configuration has no peers for it, so name some"
            )));
        }
        let mut prepared = lock(&self.prepared);
        prepared.insert(name.to_owned(), destination);
        self.write(&prepared)?;
        Ok(Ok(()))
    }

    /// Forgets a destination; whether there was one.
    ///
    /// # Errors
    ///
    /// That it can't be written down.
    pub fn forget(&self, name: &str) -> Result<bool> {
        let mut prepared = lock(&self.prepared);
        let was_there = prepared.remove(name).is_some();
        if was_there {
            self.write(&prepared)?;
        }
        Ok(was_there)
    }

    /// Forgets a destination that a migration has come to, unless it is another one by now.
    ///
    /// # Errors
    ///
    /// That it can't be written down.
    pub fn used(&self, name: &str, destination: &Destination) -> Result<()> {
        let mut prepared = lock(&self.prepared);
        if prepared.get(name) == Some(destination) {
            prepared.remove(name);
            self.write(&prepared)?;
        }
        Ok(())
    }

    fn write(&self, prepared: &BTreeMap<String, Destination>) -> Result<()> {
        let write = || -> Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(crate::output::folder_of(&self.file))?;
            serde_json::to_writer_pretty(&mut file, prepared)?;
            file.as_file().sync_all()?;
            file.persist(&self.file)?;
            // The name is only safe once the folder is.
            Ok(std::fs::File::open(crate::output::folder_of(&self.file))?.sync_all()?)
        };
        write().with_context(|| format!("cannot write {}", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_prepared_outlives_the_daemon_and_goes_over_what_is_configured() {
        let folder = tempfile::tempdir().unwrap();
        let configured = Vm { peers: vec!["a".into()], snapshot: true, ..Vm::named("vm") };
        let vms = || Vms::new(vec![configured.clone()], folder.path()).unwrap();
        let destination =
            |text: &str| serde_json::from_str::<Destination>(text).map_err(|error| error.to_string());
        let first = vms();
        first.prepare("vm", destination(r#"{"image": "/a"}"#).unwrap()).unwrap().unwrap();
        let wanted = Vm { image: Some("/a".into()), ..configured.clone() };
        assert_eq!(vms().find("vm"), Some(wanted));
        let other = destination(r#"{"qemu": "unix:/q", "peers": ["b"]}"#).unwrap();
        first.prepare("other", other).unwrap().unwrap();
        assert!(first.find("other").unwrap().allows("b"));
        assert!(vms().forget("vm").unwrap() && !first.forget("nobody").unwrap());
        assert_eq!(vms().find("vm"), Some(configured.clone()));
        for (text, wrong) in [
            (r#"{"image": "/a", "qemu": "unix:/q"}"#, "not both"),
            (r#"{}"#, "is needed"),
            (r#"{"image": "a"}"#, "from the root"),
            (r#"{"qemu": "tcp:1", "peers": []}"#, "unix:PATH"),
            (r#"{"image": "/a", "peers": []}"#, "nobody may send"),
        ] {
            let error = first.prepare("vm", destination(text).unwrap()).unwrap().unwrap_err();
            assert!(error.contains(wrong), "{text}: {error}");
        }
        assert!(destination(r#"{"colour": 1}"#).unwrap_err().contains("unknown field"));
    }
}
