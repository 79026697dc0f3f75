//! Two hosts on loopback: `a` sends `mem.raw`, `b` receives it as `back.raw`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use mig_tests::guests;
use mig_tests::handmade::Random;
use mig_tests::reference::PAGE;

use crate::common::{Folder, assert_same};
use crate::running::Running;

pub(crate) struct Hosts {
    pub(crate) folder: Folder,
    image: Vec<u8>,
    started: AtomicU32,
}

impl Hosts {
    /// With a guest of 40 MiB, and keys. An eighth of it is noise, so that it is about 8 MB on the wire, evenly.
    pub(crate) fn new() -> Self {
        let (folder, mut image) = (Folder::empty(), guests::of_many_blocks());
        let mut random = Random::new(1);
        for page in image.chunks_mut(PAGE).skip(3).step_by(8) {
            page.copy_from_slice(&random.page());
        }
        folder.write("mem.raw", &image);
        folder.run("keys keys a=127.0.0.1 b=127.0.0.1").code(0);
        Hosts { folder, image, started: AtomicU32::new(0) }
    }

    fn start(&self, what: &str, arguments: &str) -> Running {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let mut command = self.folder.command(&format!("{what} --json {arguments}"));
        command.env("RUST_LOG", "info");
        Running::start(command, self.folder.path(&format!("{number}-{what}.events")))
    }

    /// A receiver, and its port.
    pub(crate) fn receive(&self, arguments: &str) -> (Running, u16) {
        let own = arguments.contains("--insecure") || arguments.contains("--keys");
        let keys = if own { "" } else { "--keys keys/b" };
        let output = if arguments.contains("-o ") { "" } else { "-o back.raw" };
        let mut running = self.start("receive", &format!("--listen 127.0.0.1:0 {keys} {output} {arguments}"));
        let listening = running.wait_for("listening");
        let address = listening["address"].as_str().expect("an address");
        let port = address.rsplit_once(':').expect("a port").1.parse().expect("a number");
        (running, port)
    }

    pub(crate) fn send(&self, port: u16, arguments: &str) -> Running {
        let keys = if arguments.contains("--insecure") || arguments.contains("--keys") {
            ""
        } else {
            "--keys keys/a"
        };
        self.start("send", &format!("mem.raw --to 127.0.0.1:{port} {keys} {arguments}"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }

    /// What is there of the destination: its own name, and that of what is not complete.
    pub(crate) fn left(&self) -> Vec<String> {
        let of_it = |name: &String| name.contains("back.raw") || name.starts_with(".mig");
        self.folder.names().into_iter().filter(of_it).collect()
    }

    /// Fails unless everything is as it should be in the end: the image at both ends, and nothing else.
    #[track_caller]
    pub(crate) fn arrived(&self) {
        assert_same(&self.folder.read("back.raw"), &self.image, "what arrived");
        self.intact();
        assert_eq!(self.left(), ["back.raw"]);
    }

    /// Fails unless the source is as it was.
    #[track_caller]
    pub(crate) fn intact(&self) {
        assert_same(&self.folder.read("mem.raw"), &self.image, "the source");
    }
}
