//! Each fault at each moment: the batch is done on the CPU, there is one warning, and the stream is the same.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::{gpu, sample};
use crate::ahead::Share;
use crate::gpu::fault::{Saboteur, Step};
use crate::gpu::{Beside, Gpu};
use crate::image::MemoryImage;
use crate::options::Effort;
use crate::pack::Packer;

/// Lets a step fail when it comes for the `when`th time, and every time from then on.
struct Spoil {
    step: Step,
    when: usize,
    seen: AtomicUsize,
}

impl Saboteur for Spoil {
    fn spoils(&self, step: Step) -> bool {
        step == self.step && self.seen.fetch_add(1, Ordering::Relaxed) >= self.when
    }
}

/// Warnings of all tests of this process, with the thread that logged them.
fn warnings() -> &'static Mutex<Vec<(String, String)>> {
    static WARNINGS: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
    struct Listener;
    impl log::Log for Listener {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.level() <= log::Level::Warn && metadata.target().starts_with("mig_engine")
        }
        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                let thread = std::thread::current().name().unwrap_or_default().to_owned();
                WARNINGS.lock().unwrap().push((thread, record.args().to_string()));
            }
        }
        fn flush(&self) {}
    }
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        log::set_logger(&Listener).expect("nobody else listens in this process");
        log::set_max_level(log::LevelFilter::Warn);
    });
    &WARNINGS
}

/// Six blocks' worth of chunks, of which a device with small batches makes many batches.
fn image() -> MemoryImage {
    let mut file = tempfile::tempfile().unwrap();
    let sample = sample();
    for turn in 0..5u8 {
        let mut copy = sample.clone();
        copy.chunks_mut(4096).for_each(|page| page[100] ^= turn);
        std::io::Write::write_all(&mut file, &copy).unwrap();
    }
    MemoryImage::from_file(file, None).unwrap()
}

fn pack(image: &MemoryImage, gpu: Option<&Gpu>) -> Vec<u8> {
    let mut stream = Vec::new();
    let beside = gpu.map_or_else(Beside::default, Beside::open).share(Share::Device);
    let packer = Packer::new().effort(Effort::Fast).threads(2).beside(&beside);
    packer.pack(image, &mut stream).unwrap();
    stream
}

/// One test, as the warnings are the process's.
#[test]
fn every_fault_ends_with_the_same_stream_and_one_warning() {
    if gpu().is_none() {
        return;
    }
    let image = image();
    let truth = pack(&image, None);
    let cases = [
        (Step::Submit, "the device is lost"),
        (Step::Allocate, "out of device memory"),
        (Step::Map, "can't be mapped"),
        (Step::Wait, "did not finish"),
    ];
    for (step, words) in cases {
        // Buffers are made before the first batch; all else happens once a batch.
        for when in if step == Step::Allocate { [4, 9, 14] } else { [0, 1, 4] } {
            let saboteur = Arc::new(Spoil { step, when, seen: AtomicUsize::new(0) });
            let gpu =
                gpu().expect("it was there").resized(|sizes| sizes.batch_pages = 1024).sabotaged(saboteur);
            warnings().lock().unwrap().clear();
            let stream = pack(&image, Some(&gpu));
            assert!(stream == truth, "{step:?} {when}");
            assert_eq!(gpu.stats().faults, 1, "{step:?} {when}");
            let pages = gpu.stats().pages;
            assert!(pages < image.page_count(), "{step:?} {when}: the device did {pages} pages");
            assert_eq!(pages > 0, step != Step::Allocate, "{step:?} {when}");
            let all = warnings().lock().unwrap().clone();
            let said: Vec<&String> =
                all.iter().filter(|(thread, _)| thread == "mig-gpu").map(|(_, text)| text).collect();
            assert_eq!(said.len(), 1, "{step:?} {when}: {all:?}");
            assert!(said[0].contains(words), "{step:?} {when}: {said:?}");
            // And again: what is lost stays lost, without another try.
            assert!(pack(&image, Some(&gpu)) == truth, "{step:?} {when}, again");
            assert_eq!((gpu.stats().faults, gpu.stats().pages), (2, pages), "{step:?} {when}, again");
        }
    }
    // The sibling: without a fault the device does all of it, and nobody is warned.
    let gpu = gpu().expect("it was there");
    warnings().lock().unwrap().clear();
    assert!(pack(&image, Some(&gpu)) == truth);
    assert_eq!((gpu.stats().pages, gpu.stats().faults), (image.page_count(), 0));
    assert!(!warnings().lock().unwrap().iter().any(|(thread, _)| thread == "mig-gpu"));
}
