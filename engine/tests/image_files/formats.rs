//! Each format of memory image: its pages are found, and the file comes back bit for bit.

use std::fs;

use mig_engine::image::{FormatChoice, ImageError, ImageFormat, ImageWriter, MemoryImage, Run, WriteAs};

use crate::check::{comes_back, has_holes, rewrite, save};
use crate::samples::{Block, Headers, Load, PAGE, elf, lime, mapped_ram, memory, stream_start};

/// (pages, guest address) of each segment.
fn regions(image: &MemoryImage) -> Vec<(u64, Option<u64>)> {
    image.layout().segments().iter().map(|segment| (segment.pages, segment.gpa)).collect()
}

/// The pages of an image, one after the other.
fn pages(image: &MemoryImage) -> Vec<u8> {
    (0..image.page_count()).flat_map(|page| image.page(page).copied().unwrap_or([0; PAGE])).collect()
}

#[test]
fn raw() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = memory(7, 1);
    let image = comes_back(dir.path(), &bytes, None);
    assert_eq!((image.layout().format(), &regions(&image)[..]), (ImageFormat::Raw, &[(7, Some(0))][..]));
    assert!(rewrite(&image, &bytes, 2, WriteAs::Raw) == bytes);

    let image = comes_back(dir.path(), &[&bytes[..], b"a tail of no whole page"].concat(), None);
    assert_eq!(image.page_count(), 7);
    assert_eq!(image.layout().opaque_ranges(), std::slice::from_ref(&(7 * 4096..7 * 4096 + 23)));
    assert!(rewrite(&image, &[&bytes[..], b"tail"].concat(), 2, WriteAs::Raw) == bytes);
}

#[test]
fn elf_cores_wherever_their_headers_are() {
    let dir = tempfile::tempdir().unwrap();
    // Out of order, as no rule forbids.
    let parts = [memory(4, 1), memory(3, 2), memory(5, 3)];
    let loads = [(0x10_0000, &parts[1]), (0, &parts[0]), (1 << 32, &parts[2])]
        .map(|(at, b)| Load::new(at, b.clone()));
    for headers in [Headers::First, Headers::Qemu72, Headers::LastAndCounted] {
        let bytes = elf(&loads, headers);
        let image = comes_back(dir.path(), &bytes, None);
        assert_eq!(image.layout().format(), ImageFormat::ElfCore);
        assert_eq!(regions(&image), [(4, Some(0)), (3, Some(0x10_0000)), (5, Some(1 << 32))]);
        assert!(image.layout().segments().iter().all(|s| s.file_offset % 4096 != 0));
        assert!(pages(&image) == parts.concat());
        assert_eq!(image.layout().page_at(0x10_1234), Some(5));
    }
}

#[test]
fn elf_loads_that_are_short_cut_or_mentioned_twice() {
    let dir = tempfile::tempdir().unwrap();
    let ram = memory(6, 9);
    // 10 bytes of page 1, then pages 2 to 6, then 20 bytes.
    let mut odd = vec![1; 10];
    odd.extend_from_slice(&ram[..5 * PAGE]);
    odd.extend_from_slice(&[2; 20]);
    let mut loads = vec![Load::new(2 * 4096 - 10, odd)];
    // Memory of which the end is not in the file.
    loads.push(Load { memsz: 1 << 30, ..Load::new(0x10_0000, ram.clone()) });
    // The same bytes again, as a mapping of theirs; and some of the same with new bytes.
    loads.push(Load { shares: Some((1, 0)), ..Load::new(0x10_0000, ram.clone()) });
    loads.push(Load { shares: Some((1, 4096)), ..Load::new(0xdead_0000, ram[PAGE..3 * PAGE].to_vec()) });
    loads.push(Load::new(0x10_0000 + 5 * 4096, memory(2, 4)));
    // Nothing at all in the file.
    loads.push(Load { memsz: 1 << 20, ..Load::new(0x40_0000, Vec::new()) });

    let bytes = elf(&loads, Headers::Qemu72);
    let image = comes_back(dir.path(), &bytes, None);
    let again = 0x10_0000 + 6 * 4096;
    assert_eq!(regions(&image), [(5, Some(2 * 4096)), (6, Some(0x10_0000)), (1, Some(again)), (1, None)]);
    let fresh = memory(2, 4);
    let expected = [&ram[..5 * PAGE], &ram, &fresh[PAGE..], &fresh[..PAGE]].concat();
    assert!(pages(&image) == expected);

    // As raw memory, everything with an address is at its address.
    let raw = rewrite(&image, &bytes, u64::MAX, WriteAs::Raw);
    assert_eq!(raw.len(), 0x10_0000 + 7 * PAGE);
    assert!(raw[2 * PAGE..7 * PAGE] == ram[..5 * PAGE] && raw[0x10_0000..][..6 * PAGE] == ram);
    assert!(raw[..2 * PAGE].iter().chain(&raw[7 * PAGE..0x10_0000]).all(|&byte| byte == 0));
}

#[test]
fn memory_in_a_core_that_no_header_mentions() {
    let dir = tempfile::tempdir().unwrap();
    let (ram, vram) = (memory(5, 1), memory(40, 2));
    // As with paging: the headers map pages 3 and 0 of the first memory, and nothing of the second.
    let mapped = [3, 0].map(|page| Load::new(page as u64 * 4096, ram[page * PAGE..][..PAGE].to_vec()));
    let mut bytes = elf(&mapped, Headers::Qemu72);
    let data = bytes.len() - 2 * PAGE;
    bytes.truncate(data);
    bytes.extend_from_slice(&ram);
    bytes.extend_from_slice(&vram);
    for (p_offset, page) in [(192 + 56 + 8, 3), (192 + 2 * 56 + 8, 0)] {
        bytes[p_offset..p_offset + 8].copy_from_slice(&((data + page * PAGE) as u64).to_le_bytes());
    }
    let image = comes_back(dir.path(), &bytes, None);
    // Pages 1 and 2 between them are too few to be taken for memory; page 4 is where the rest begins.
    assert_eq!(regions(&image), [(1, Some(0)), (1, Some(3 * 4096)), (41, None)]);
    assert!(pages(&image) == [&ram[..PAGE], &ram[3 * PAGE..], &vram].concat());
    assert_eq!(image.layout().opaque_ranges().len(), 2);
}

#[test]
fn lime_ranges() {
    let dir = tempfile::tempdir().unwrap();
    let (low, high) = (memory(3, 1), memory(4, 2));
    let mut cut = low.clone();
    cut.extend_from_slice(&[3; 0xc00]); // as 0x0-0x9fbff of a PC
    let bytes = lime(&[(0x10_0000, high.clone()), (0, cut), (0x9_fc00, vec![5; 0x400])]);
    let image = comes_back(dir.path(), &bytes, None);
    assert_eq!(image.layout().format(), ImageFormat::Lime);
    assert_eq!(regions(&image), [(3, Some(0)), (4, Some(0x10_0000))]);
    assert!(pages(&image) == [low, high].concat());
}

#[test]
fn mapped_ram_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let (ram, vram) = (memory(9, 1), memory(3, 2));
    let blocks = [
        Block { name: "0000:00:02.0/vga.vram", bytes: vram.clone(), stale: vec![] },
        Block { name: "pc.ram", bytes: ram.clone(), stale: vec![] },
    ];
    for align in [4096, 1 << 20] {
        let bytes = mapped_ram("pc-q35-9.2", &blocks, align);
        let image = comes_back(dir.path(), &bytes, None);
        assert_eq!(image.layout().format(), ImageFormat::MappedRam);
        assert_eq!(regions(&image), [(9, Some(0)), (3, None)]);
        assert!(pages(&image) == [&ram[..], &vram].concat());
        assert!(rewrite(&image, &bytes, 4, WriteAs::Raw) == ram);
    }
    // A machine whose memory map we don't know has no addresses, and so can't become raw.
    let image = comes_back(dir.path(), &mapped_ram("microvm", &blocks, 4096), None);
    assert_eq!(regions(&image), [(3, None), (9, None)]);
    let output = ImageWriter::new(tempfile::tempfile().unwrap(), image.layout(), WriteAs::Raw);
    assert!(matches!(output, Err(ImageError::NoAddresses { .. })));
}

#[test]
fn stale_bytes_of_mapped_ram_come_back_but_are_not_memory() {
    let dir = tempfile::tempdir().unwrap();
    let ram = memory(12, 1);
    let blocks = [Block { name: "/objects/mem0", bytes: ram.clone(), stale: vec![2, 11] }];
    let bytes = mapped_ram("pc-i440fx-9.0", &blocks, 4096);
    let image = comes_back(dir.path(), &bytes, None);
    assert_eq!(regions(&image), [(2, Some(0)), (8, Some(3 * 4096))]);
    // The last page is stale, so it is not even part of the raw image.
    assert!(rewrite(&image, &bytes, 4, WriteAs::Raw) == ram[..11 * PAGE]);
}

#[test]
fn a_mapped_ram_section_is_found_behind_another_section() {
    let dir = tempfile::tempdir().unwrap();
    let ram = memory(2, 1);
    let blocks = [Block { name: "mach-virt.ram", bytes: ram, stale: vec![] }];
    let plain = mapped_ram("virt-9.1", &blocks, 4096);
    let start = stream_start("virt-9.1", &["mapped-ram"]).len();
    assert_eq!(regions(&comes_back(dir.path(), &plain, None)), [(2, Some(1 << 30))]);
    // The section of an early device between the command and RAM; all offsets move with it, so grow
    // the space before the pages by the same amount.
    let early = b"\x04\0\0\0\x01\x05early\0\0\0\0\0\0\0\x01whatever\x7e\0\0\0\x01";
    let mut moved = plain[..start].to_vec();
    moved.extend_from_slice(early);
    moved.extend_from_slice(&plain[start..]);
    let pages_at = 4096;
    moved.drain(pages_at..pages_at + early.len());
    // The offset of the bitmap is absolute.
    let field = moved.windows(8).position(|w| w == 4096u64.to_be_bytes()).unwrap() + 8;
    let bitmap = u64::from_be_bytes(moved[field..field + 8].try_into().unwrap()) + early.len() as u64;
    moved[field..field + 8].copy_from_slice(&bitmap.to_be_bytes());
    assert_eq!(regions(&comes_back(dir.path(), &moved, None)), [(2, Some(1 << 30))]);
}

#[test]
fn firecracker_only_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let image = comes_back(dir.path(), &memory(5, 1), Some(FormatChoice::Firecracker));
    assert_eq!((image.layout().format(), &regions(&image)[..]), (ImageFormat::Raw, &[(5, Some(0))][..]));
}

#[test]
fn cloud_hypervisor_snapshots_by_folder_and_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = memory(6, 1);
    let (memory_file, state) = (dir.path().join("memory-ranges"), dir.path().join("state.json"));
    save(&memory_file, &bytes);
    let ranges = r#"{"data":[{"gpa":4294967296,"length":8192},{"gpa":0,"length":16384}]}"#;
    let inner = format!(r#"{{"memory_ranges":{ranges},"guest_ram_mappings":[]}}"#);
    let manager = |data: &str| {
        format!(r#"{{"snapshots":{{"memory-manager":{{"snapshot_data":{data}}},"other":[1]}}}}"#)
    };
    let expected = [(4, Some(0)), (2, Some(1 << 32))];
    for data in [format!(r#"{{"state":{}}}"#, serde_json::Value::from(&*inner)), inner] {
        fs::write(&state, manager(&data)).unwrap();
        for path in [dir.path(), &memory_file] {
            for choice in [None, Some(FormatChoice::CloudHypervisor)] {
                let image = MemoryImage::open(path, choice).unwrap();
                assert_eq!(regions(&image), expected);
                assert!(pages(&image) == [&bytes[2 * PAGE..], &bytes[..2 * PAGE]].concat());
                assert!(rewrite(&image, &bytes, 3, WriteAs::Same) == bytes);
                assert_eq!(image.path(), Some(&*memory_file));
            }
        }
    }
    // As raw it is what it is.
    let raw = MemoryImage::open(dir.path(), Some(FormatChoice::Raw)).unwrap();
    assert_eq!(regions(&raw), [(6, Some(0))]);
    // The older list will do if it is all there is.
    let mappings = r#"{"guest_ram_mappings":[{"slot":0,"gpa":65536,"size":24576,"file_offset":0}]}"#;
    fs::write(&state, manager(mappings)).unwrap();
    assert_eq!(regions(&MemoryImage::open(dir.path(), None).unwrap()), [(6, Some(65536))]);

    let fails = |why: &str| {
        let error = MemoryImage::open(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains(why), "{error} should speak of {why}");
    };
    fs::write(&state, manager(&mappings.replace("24576", "24577"))).unwrap();
    fails("cut short");
    fs::write(&state, manager("{}")).unwrap();
    fails("lists no memory ranges");
    fs::write(&state, "{").unwrap();
    fails("not valid JSON");
    fs::remove_file(&state).unwrap();
    fails("cannot read");
    assert_eq!(regions(&MemoryImage::open(&memory_file, None).unwrap()), [(6, Some(0))]);
    let error = MemoryImage::open(&memory_file, Some(FormatChoice::CloudHypervisor)).unwrap_err();
    assert!(error.to_string().contains("state.json"), "{error}");
}

#[test]
fn holes_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    if !has_holes(dir.path()) {
        let required = std::env::var("MIG_REQUIRE").is_ok_and(|list| list.split(',').any(|w| w == "holes"));
        assert!(!required, "MIG_REQUIRE asks for holes, but the file system tells none");
        println!("SKIPPED: the file system of {} tells no holes", dir.path().display());
        return;
    }
    let path = dir.path().join("sparse");
    let mut bytes = vec![0; 100 * PAGE];
    bytes[40 * PAGE..50 * PAGE].fill(1);
    save(&path, &bytes);
    let image = MemoryImage::open(&path, None).unwrap();
    assert_eq!(image.run(0, u64::MAX), Run::Hole(40));
    assert_eq!(image.run(3, 5), Run::Hole(5));
    assert_eq!(image.run(40, u64::MAX), Run::Data(&bytes[40 * PAGE..50 * PAGE]));
    assert_eq!(image.run(49, 2), Run::Data(&[1; PAGE]));
    assert_eq!(image.run(50, u64::MAX), Run::Hole(50));
    assert_eq!((image.run(100, 1), image.run(0, 0)), (Run::Hole(0), Run::Hole(0)));
    image.prefetch(0..u64::MAX).unwrap();

    // Pages that lie across blocks of the file: only those wholly in holes are holes.
    let load = Load::new(0, bytes[30 * PAGE..60 * PAGE].to_vec());
    let core = elf(&[load], Headers::First);
    save(&path, &core);
    let image = MemoryImage::open(&path, None).unwrap();
    let kinds: Vec<bool> = (0..30).map(|page| image.page(page).is_some()).collect();
    // The headers put every page 200 bytes or so into its block, and page 0 into a block with data.
    let expected: Vec<bool> = (0..30).map(|page| page == 0 || (9..=20).contains(&page)).collect();
    assert_eq!(kinds, expected);
    for max in [1, 3, u64::MAX] {
        assert!(rewrite(&image, &core, max, WriteAs::Same) == core);
    }
}

#[test]
fn a_writer_takes_only_what_belongs_there() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = elf(&[Load::new(0, memory(3, 1)), Load::new(1 << 20, memory(2, 2))], Headers::First);
    let image = comes_back(dir.path(), &bytes, None);
    let writer = ImageWriter::new(tempfile::tempfile().unwrap(), image.layout(), WriteAs::Same).unwrap();
    writer.write_pages(2, &memory(3, 3)).unwrap();
    for (first, len) in [(4, 2 * PAGE), (5, PAGE), (0, 100), (u64::MAX, PAGE)] {
        assert!(writer.write_pages(first, &vec![1; len]).is_err(), "{len} bytes at page {first}");
    }
    let headers = image.layout().opaque_ranges()[0].clone();
    assert_eq!(headers.start, 0);
    writer.write_opaque(0, &bytes[..headers.end as usize]).unwrap();
    for (at, len) in [(0, headers.end + 1), (headers.end, 1), (bytes.len() as u64, 1), (u64::MAX, 1)] {
        let error = writer.write_opaque(at, &vec![1; len as usize]);
        assert!(error.is_err(), "{len} bytes at {at}");
    }
    // Bytes of a page, although an opaque range follows.
    let ranges = lime(&[(0, memory(1, 1)), (8192, memory(1, 1))]);
    // In a folder of its own: the file of the image above must rest.
    let ranges_dir = tempfile::tempdir().unwrap();
    let ranges = comes_back(ranges_dir.path(), &ranges, None);
    let other = ImageWriter::new(tempfile::tempfile().unwrap(), ranges.layout(), WriteAs::Same).unwrap();
    assert!(other.write_opaque(32 + 10, b"x").is_err());
    other.write_opaque(32 + 4096, b"x").unwrap();
    // A single wrong byte shows: the comparisons above could have failed.
    let mut wrong = bytes.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert!(rewrite(&image, &bytes, 9, WriteAs::Same) != wrong);
}

#[test]
fn pages_without_an_address_are_left_out_of_raw_memory() {
    let dir = tempfile::tempdir().unwrap();
    let loads = [Load::new(0, memory(3, 1)), Load::new(u64::MAX, memory(4, 2))];
    let image = comes_back(dir.path(), &elf(&loads, Headers::First), None);
    assert_eq!(regions(&image), [(3, Some(0)), (4, None)]);
    let raw = ImageWriter::new(tempfile::tempfile().unwrap(), image.layout(), WriteAs::Raw).unwrap();
    assert_eq!((raw.left_out_pages(), raw.page_offset(2), raw.page_offset(3)), (4, Some(8192), None));
    raw.write_pages(0, &memory(7, 1)).unwrap();
    assert_eq!(raw.file().metadata().unwrap().len(), 3 * 4096);
}
