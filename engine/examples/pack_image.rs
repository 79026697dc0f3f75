//! Packs a memory image with its disk as the reference, and unpacks it again.
//!
//! `cargo run --release -p mig-engine --example pack_image -- guest.raw guest.disk fast`

use std::error::Error;
use std::io::{BufReader, Write};
use std::path::Path;
use std::time::Instant;

use mig_engine::image::WriteAs;
use mig_engine::{
    Cancel, DecodeLimits, Effort, FileStore, Level, MemoryImage, Packer, Reference, Resolved, Unpacker,
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [memory, disk, effort] = args.as_slice() else {
        return Err("usage: pack_image MEMORY DISK EFFORT".into());
    };
    let image = MemoryImage::open(memory.as_ref(), None)?;

    // A disk is indexed once; `Index::save` and `Index::open` keep that for later runs.
    let start = Instant::now();
    let mut reference = Reference::open(disk.as_ref(), image.page_count())?;
    reference.build_index(Level::best(), &Cancel::new())?;
    println!("index built in {:.3} s", start.elapsed().as_secs_f64());

    let mut stream = tempfile::tempfile()?;
    let packer = Packer::new().effort(effort.parse::<Effort>()?).reference(reference);
    let start = Instant::now();
    let summary = packer.pack(&image, &mut stream)?;
    let rate = image.file_len() as f64 / 1e9 / start.elapsed().as_secs_f64();
    println!("packed {} pages to {} bytes, {rate:.2} GB/s", summary.pages, summary.stream_bytes);
    println!("{:#?}", summary.blocks);

    // The other side: the header says what is needed, `Resolved` finds it.
    std::io::Seek::rewind(&mut stream)?;
    let unpacker = Unpacker::new(BufReader::with_capacity(1 << 20, stream), DecodeLimits::default())?;
    let resolved = Resolved::find(unpacker.header(), &[disk]).map_err(|(_, error)| error)?;
    let store = FileStore::new(tempfile::tempfile()?, image.layout(), WriteAs::Same, Path::new("."))?;
    let start = Instant::now();
    let done = unpacker.unpack(&resolved.references, &store)?;
    let rate = image.file_len() as f64 / 1e9 / start.elapsed().as_secs_f64();
    println!("unpacked and verified {} pages, {rate:.2} GB/s", done.pages);

    let rebuilt = MemoryImage::from_file(store.into_file(), None)?;
    let same = rebuilt.map().bytes() == image.map().bytes();
    std::io::stdout().flush()?;
    if same { Ok(()) } else { Err("the rebuilt image differs".into()) }
}
