//! A socket between QEMU and `mig send` that keeps what QEMU says, so that what arrives can be held against it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use mig_engine::{FormatChoice, MemoryImage, PAGE_SIZE};

/// One connection, from a socket of its own to another one.
pub(crate) struct Tee {
    kept: PathBuf,
    thread: JoinHandle<Vec<u8>>,
}

/// Carries bytes until there are no more; gives all of them.
fn carry(mut from: UnixStream, mut to: UnixStream) -> Vec<u8> {
    let (mut all, mut part) = (Vec::new(), vec![0; 1 << 16]);
    // Whichever end fails: that is for those who talk over it to say.
    while let Ok(len) = from.read(&mut part)
        && len > 0
        && to.write_all(&part[..len]).is_ok()
    {
        all.extend_from_slice(&part[..len]);
    }
    let _ = to.shutdown(Shutdown::Write);
    all
}

impl Tee {
    /// Listens at `at`, and connects to `to` for whoever comes; keeps the stream at `kept`.
    pub(crate) fn start(at: &Path, to: &Path, kept: PathBuf) -> Tee {
        let listener = UnixListener::bind(at).expect("a socket can be made");
        let (at, to) = (at.to_owned(), to.to_owned());
        let thread = thread::spawn(move || {
            let (qemu, _) = listener.accept().expect("QEMU connects");
            std::fs::remove_file(at).expect("the socket is there");
            let mig = UnixStream::connect(to).expect("mig listens");
            let back = [&mig, &qemu].map(|stream| stream.try_clone().expect("a descriptor"));
            let [from, onto] = back;
            let back = thread::spawn(move || carry(from, onto));
            let all = carry(qemu, mig);
            back.join().expect("no panic");
            all
        });
        Tee { kept, thread }
    }

    /// The first `len` bytes of the guest's memory as QEMU's stream has it.
    pub(crate) fn memory(self, len: usize) -> Vec<u8> {
        std::fs::write(&self.kept, self.thread.join().expect("no panic")).expect("room for the stream");
        let image = MemoryImage::open(&self.kept, Some(FormatChoice::Qemu)).expect("a stream of QEMU's");
        let zero = [0; PAGE_SIZE];
        let pages = (0..(len / PAGE_SIZE) as u64).map(|page| *image.page(page).unwrap_or(&zero));
        pages.flatten().collect()
    }
}
