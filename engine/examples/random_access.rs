//! Packs an image for random access and reads single pages of it, as a page-fault handler would.
//!
//! `cargo run --release -p mig-engine --example random_access -- guest.raw guest.disk`

use std::error::Error;
use std::time::Instant;

use mig_engine::{Cancel, Effort, Level, MemoryImage, PAGE_SIZE, Packer, Reader, Reference, Resolved};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [memory, disk] = args.as_slice() else { return Err("usage: random_access MEMORY DISK".into()) };
    let image = MemoryImage::open(memory.as_ref(), None)?;
    let mut reference = Reference::open(disk.as_ref(), image.page_count())?;
    reference.build_index(Level::best(), &Cancel::new())?;
    let packed = tempfile::NamedTempFile::new()?;
    let packer = Packer::new().effort(Effort::Fast).random_access(true).reference(reference);
    let summary = packer.pack(&image, packed.as_file())?;
    println!("{} bytes for {} pages", summary.stream_bytes, summary.pages);

    let reader = Reader::open(packed.path())?;
    let resolved = Resolved::find(reader.header(), &[disk]).map_err(|(_, error)| error)?;
    let mut page = [0; PAGE_SIZE];
    let (mut number, mut times) = (1u64, Vec::new());
    for _ in 0..10_000 {
        // Pages far apart, so that what is kept open does not help.
        number = (number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)) % reader.page_count();
        let start = Instant::now();
        reader.page(number, &resolved.references, &mut page)?;
        times.push(start.elapsed());
        if image.page(number).unwrap_or(&[0; PAGE_SIZE]) != &page {
            return Err(format!("page {number} differs").into());
        }
    }
    times.sort();
    let [median, p99, most] = [times.len() / 2, times.len() * 99 / 100, times.len() - 1].map(|at| times[at]);
    println!("a page at random: median {median:?}, 99 % within {p99:?}, longest {most:?}");
    Ok(())
}
