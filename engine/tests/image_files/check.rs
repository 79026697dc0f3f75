//! What every image must pass: its pages are those of the file, and the file can be written again.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;

use mig_engine::image::{FormatChoice, ImageWriter, MemoryImage, Run, WriteAs};

use crate::samples::{PAGE, memory};

/// Writes a file, leaving holes for its blocks of 4096 zeros.
pub(crate) fn save(path: &Path, bytes: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (at, block) in bytes.chunks(PAGE).enumerate() {
        if block.iter().any(|&byte| byte != 0) {
            file.write_all_at(block, (at * PAGE) as u64).unwrap();
        }
    }
}

/// Whether the file system of `dir` keeps holes and tells where they are.
pub(crate) fn has_holes(dir: &Path) -> bool {
    let path = dir.join("holes");
    save(&path, &memory(3, 1));
    let sparse = File::open(&path).unwrap();
    mig_engine::map::data_extents(&sparse, 0..3 * PAGE as u64) == std::slice::from_ref(&(0..2 * PAGE as u64))
}

/// Goes through all runs of at most `max` pages, checking each against the file's bytes, and writes a new
/// file from them and the opaque bytes. Returns the content of that file.
pub(crate) fn rewrite(image: &MemoryImage, original: &[u8], max: u64, target: WriteAs) -> Vec<u8> {
    let layout = image.layout();
    let file = tempfile::tempfile().unwrap();
    // Rubbish that must not show through.
    file.write_all_at(&[0xaa; 3 * PAGE], 0).unwrap();
    let writer = ImageWriter::new(file, layout, target).unwrap();
    let mut page = 0;
    while page < image.page_count() {
        let run = image.run(page, max);
        assert!((1..=max).contains(&run.pages()));
        for at in page..page + run.pages() {
            let offset = layout.file_offset_of(at).unwrap() as usize;
            let expected = &original[offset..offset + PAGE];
            match (run, image.page(at)) {
                (Run::Data(bytes), Some(same)) => {
                    let inside = (at - page) as usize * PAGE;
                    assert!(&bytes[inside..inside + PAGE] == expected && same == expected, "page {at}");
                }
                (Run::Hole(_), None) => assert!(expected.iter().all(|&byte| byte == 0), "page {at}"),
                (run, single) => panic!("page {at}: {run:?} but alone {single:?}"),
            }
        }
        if let Run::Data(bytes) = run {
            writer.write_pages(page, bytes).unwrap();
        }
        page += run.pages();
    }
    assert_eq!(image.run(page, max), Run::Hole(0));
    assert_eq!(image.page(page), None);
    for range in layout.opaque_ranges() {
        // In pieces, as a container would keep it.
        let bytes = image.opaque(range.clone()).unwrap();
        for (index, piece) in bytes.chunks(1000).enumerate() {
            writer.write_opaque(range.start + index as u64 * 1000, piece).unwrap();
        }
    }
    let mut written = Vec::new();
    assert_eq!(writer.file_len(), writer.file().metadata().unwrap().len());
    let mut file = writer.into_file();
    file.rewind().unwrap();
    file.read_to_end(&mut written).unwrap();
    written
}

/// Checks that an image comes back bit for bit, however it is read, and returns it.
pub(crate) fn comes_back(dir: &Path, bytes: &[u8], choice: Option<FormatChoice>) -> MemoryImage {
    let path = dir.join("image");
    save(&path, bytes);
    let image = MemoryImage::open(&path, choice).unwrap();
    assert_eq!(image.path(), Some(&*path));
    assert_eq!(image.file_len(), bytes.len() as u64);
    for max in [1, 2, u64::MAX] {
        assert!(rewrite(&image, bytes, max, WriteAs::Same) == bytes, "runs of up to {max} pages");
    }
    let spooled = MemoryImage::spool(bytes, dir, choice).unwrap();
    assert_eq!((spooled.layout(), spooled.path()), (image.layout(), None));
    assert!(rewrite(&spooled, bytes, 5, WriteAs::Same) == bytes, "spooled");
    image
}
