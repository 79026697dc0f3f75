//! A small guest: a Debian kernel, and one program of our own (`init.rs`) that never stops writing.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What QEMU boots.
pub(crate) struct Boot {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
}

/// The kernel that `MIG_GUEST_KERNEL` names, or one of this machine's own.
pub(crate) fn kernel() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MIG_GUEST_KERNEL") {
        return Some(path.into());
    }
    let boot = fs::read_dir("/boot").ok()?;
    let paths = boot.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
        .max()
}

impl Boot {
    /// Builds the guest in `folder`. The file `data` in it holds `data`, as a file on its disk would.
    pub(crate) fn build(folder: &Path, kernel: PathBuf, data: &[u8]) -> Self {
        let init = folder.join("init");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/qemu_live/init.rs");
        let built = Command::new("rustc")
            .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols"])
            .args(["--crate-name", "init", "-o"])
            .args([&init, &source])
            .status()
            .expect("rustc can be run");
        assert!(built.success(), "the guest's program can't be built");
        let mut archive = Archive::default();
        archive.add("dev", 0o040_755, None, &[]);
        archive.add("dev/console", 0o020_600, Some((5, 1)), &[]);
        archive.add("init", 0o100_755, None, &fs::read(&init).expect("it was built"));
        archive.add("data", 0o100_644, None, data);
        archive.add("TRAILER!!!", 0, None, &[]);
        let initrd = folder.join("initrd");
        fs::write(&initrd, archive.bytes).expect("room for the guest");
        Boot { kernel, initrd }
    }
}

/// A cpio archive as the kernel unpacks it ("newc").
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: Option<(u32, u32)>, content: &[u8]) {
        self.files += 1;
        let (major, minor) = device.unwrap_or_default();
        let [size, name_size] = [content.len(), name.len() + 1].map(|size| size as u32);
        let fields = [self.files, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            write!(self.bytes, "{field:08X}").expect("a vector takes it");
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
