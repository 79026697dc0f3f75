//! Memory images that contradict themselves, are cut, or are no memory images.
//!
//! Most hold less than a page, which is a fault of its own, but one that is only seen when all else was read.

use super::BadFile;
use crate::images::{elf, lime, mapped_ram};

fn bad(name: &'static str, bytes: Vec<u8>, error: &'static str) -> BadFile {
    BadFile { name, bytes, error }
}

/// A file with some bytes at some place changed.
fn with(file: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

pub(super) fn all() -> Vec<BadFile> {
    let mut all = elf_cores();
    all.extend(lime_files());
    all.extend(mapped_ram_files());
    all.extend(others());
    all
}

fn elf_cores() -> Vec<BadFile> {
    let memory = vec![0x11; 64];
    let core = elf(&[(0x4000, memory.clone())], false);
    // The program header of the memory is the second.
    let load = 64 + 56;
    vec![
        bad(
            "elf-cut-in-its-header",
            core[..60].to_vec(),
            "elf: table of program headers at offset 0x40 needs 112 bytes, but the file has 60 in all; it may have been cut short (copy it again, or use --format raw to pack it as it is)",
        ),
        bad(
            "elf-cut-in-its-memory",
            core[..core.len() - 1].to_vec(),
            "elf: memory of a program header at offset 0xc8 needs 64 bytes, but the file has 263 in all; it may have been cut short (copy it again, or use --format raw to pack it as it is)",
        ),
        bad(
            "elf-program-headers-beyond",
            with(&core, 32, &[0xff; 8]),
            "elf: table of program headers at offset 0xffffffffffffffff needs 112 bytes, but the file has 264 in all; it may have been cut short (copy it again, or use --format raw to pack it as it is)",
        ),
        bad(
            "elf-program-header-size",
            with(&core, 54, &[55]),
            "elf: size of a program header at offset 0x36 is 0x37: it is less than 56",
        ),
        bad(
            "elf-too-many-program-headers",
            with(&core, 56, &[0xfe, 0xff]),
            "elf: table of program headers at offset 0x40 needs 3669904 bytes, but the file has 264 in all; it may have been cut short (copy it again, or use --format raw to pack it as it is)",
        ),
        bad(
            "elf-count-in-no-section",
            with(&with(&core, 56, &[0xff; 2]), 40, &[0xff; 8]),
            "elf: offset of the section headers at offset 0x28 is 0xffffffffffffffff: it is past the end of the file",
        ),
        bad(
            "elf-count-in-section-0",
            {
                let late = elf(&[(0x4000, memory.clone())], true);
                with(&with(&late, 56, &[0xff; 2]), 64 + 44, &[0xff; 4])
            },
            "elf: more than 262144 pieces of memory or headers",
        ),
        bad(
            "elf-memory-beyond",
            with(&core, load + 8, &[0, 0, 0, 0, 1]),
            "elf: memory of a program header at offset 0x100000000 needs 64 bytes, but the file has 264 in all; it may have been cut short (copy it again, or use --format raw to pack it as it is)",
        ),
        bad(
            "elf-memory-length-overflows",
            with(&core, load + 32, &[0xff; 8]),
            "elf: memory of a program header at offset 0xc8 needs 18446744073709551615 bytes, but the file has 264 in all; it may have been cut short (copy it again, or use --format raw to pack it as it is)",
        ),
        bad("elf-without-memory", elf(&[], false), "elf: no whole page of 4096 bytes in a file of 144 bytes"),
        bad(
            "elf-without-a-page",
            elf(&[(0x4800, memory)], false),
            "elf: no whole page of 4096 bytes in a file of 264 bytes",
        ),
    ]
}

fn lime_files() -> Vec<BadFile> {
    let file = lime(&[(0x1000, vec![0x11; 64]), (0x9000, vec![0x22; 64])]);
    let second = 32 + 64;
    vec![
        bad(
            "lime-cut-in-a-header",
            file[..second + 31].to_vec(),
            "lime: header of a range at offset 0x60 needs 32 bytes, but the file has 127 in all; it may have been cut short (copy it again, or use --format raw to pack it as it is)",
        ),
        bad(
            "lime-cut-in-its-memory",
            file[..file.len() - 1].to_vec(),
            "lime: memory of a range at offset 0x80 needs 64 bytes, but the file has 191 in all; it may have been cut short (copy it again, or use --format raw to pack it as it is)",
        ),
        bad(
            "lime-magic",
            with(&file, second, b"emil"),
            "lime: magic of a range at offset 0x60 is 0x6c696d65: it should be 0x4c694d45",
        ),
        bad(
            "lime-version",
            with(&file, second + 4, &[2]),
            "lime: version of a range at offset 0x64 is 0x2: only version 1 is known",
        ),
        bad(
            "lime-range-ends-before-it-starts",
            with(&file, 16, &[0xff, 0]),
            "lime: last address of a range at offset 0x10 is 0xff: it is below the first",
        ),
        bad(
            "lime-range-of-all-addresses",
            with(&with(&file, 8, &[0; 8]), 16, &[0xff; 8]),
            "lime: last address of a range at offset 0x10 is 0xffffffffffffffff: it is below the first",
        ),
        bad(
            "lime-without-a-page",
            lime(&[(0x1800, vec![1; 64])]),
            "lime: no whole page of 4096 bytes in a file of 96 bytes",
        ),
    ]
}

fn mapped_ram_files() -> Vec<BadFile> {
    let file = mapped_ram("pc-q35-9.1", &[("pc.ram", vec![0x11; 4096])], None);
    let find = |what: &[u8]| file.windows(what.len()).position(|bytes| bytes == what).unwrap_or_default();
    let ram = find(b"\x03ram\0");
    let total = ram + 12;
    let block = total + 8;
    // Behind the block's name (1 + 6) and its length (8): version, page size, bitmap, pages.
    let header = block + 7 + 8;
    let capability = find(b"\x0amapped-ram");
    let page_bits = find(b"configuration/target-page-bits");
    vec![
        bad(
            "mapped-ram-stream-version",
            with(&file, 7, &[2]),
            "mapped-ram: version of the stream at offset 0x4 is 0x2: only version 3 is known",
        ),
        bad(
            "mapped-ram-cut-in-the-machine-type",
            file[..16].to_vec(),
            "mapped-ram: machine type at offset 0xd needs 10 bytes, but the file has 16 in all; it may have been cut short (copy it again, or use --format raw to pack it as it is)",
        ),
        bad(
            "mapped-ram-machine-type-too-long",
            with(&file, 9, &[0xff; 4]),
            "mapped-ram: machine type at offset 0xd needs 4294967295 bytes, but the file has 4635 in all; it may have been cut short (copy it again, or use --format raw to pack it as it is)",
        ),
        bad(
            "mapped-ram-unknown-subsection",
            with(&file, page_bits, b"Configuration"),
            "mapped-ram: name of a subsection at offset 0x19 is 0x1e: the subsection is unknown, and streams have no lengths to skip it by",
        ),
        bad(
            "mapped-ram-too-many-capabilities",
            with(&file, capability - 4, &[0xff; 4]),
            "mapped-ram: count of capabilities at offset 0x5f is 0xffffffff: it is more than QEMU has",
        ),
        bad(
            "mapped-ram-without-ram",
            with(&file, ram, b"\x03rom"),
            "mapped-ram: section at offset 0x75 is 0x1: no RAM section begins here or in the next 1 MiB",
        ),
        bad(
            "mapped-ram-of-another-record",
            with(&file, total + 7, &[8]),
            "mapped-ram: first record of the RAM section at offset 0x86 is 0x1008: it does not list the blocks",
        ),
        bad(
            "mapped-ram-block-longer-than-the-total",
            with(&file, block + 7, &[1]),
            "mapped-ram: length of a block at offset 0x95 is 0x100000000001000: it is more than what the total leaves",
        ),
        bad(
            "mapped-ram-block-version",
            with(&file, header + 3, &[2]),
            "mapped-ram: version of a block at offset 0x9d is 0x2: only version 1 is known",
        ),
        bad(
            "mapped-ram-page-size-0",
            with(&file, header + 10, &[0]),
            "mapped-ram: page size of a block at offset 0xa1 is 0x0: it is not a power of two of 4096 or more",
        ),
        bad(
            "mapped-ram-page-size-of-one-and-a-half",
            with(&file, header + 10, &[0x18]),
            "mapped-ram: page size of a block at offset 0xa1 is 0x1800: it is not a power of two of 4096 or more",
        ),
        bad(
            "mapped-ram-bitmap-beyond",
            with(&file, header + 12, &[1]),
            "mapped-ram: bitmap of a block at offset 0x1000000000000b9 needs 8 bytes, but the file has 4635 in all; it may have been cut short (copy it again, or use --format raw to pack it as it is)",
        ),
        bad(
            "mapped-ram-pages-beyond",
            with(&file, header + 20, &[1]),
            "mapped-ram: pages of a block at offset 0x100000000000200 needs 4096 bytes, but the file has 4635 in all; it may have been cut short (copy it again, or use --format raw to pack it as it is)",
        ),
        bad(
            "mapped-ram-pages-before-their-header",
            with(&file, header + 20, &[0; 8]),
            "mapped-ram: pages of a block at offset 0xb1 is 0x0: they lie before their header",
        ),
        bad(
            "mapped-ram-cut-in-its-pages",
            file[..file.len() - 100].to_vec(),
            "mapped-ram: pages of a block at offset 0x200 needs 4096 bytes, but the file has 4535 in all; it may have been cut short (copy it again, or use --format raw to pack it as it is)",
        ),
    ]
}

fn others() -> Vec<BadFile> {
    let page = |magic: &[u8]| with(&[0x11; 32], 0, magic);
    vec![
        bad("empty", vec![], "raw: no whole page of 4096 bytes in a file of 0 bytes"),
        bad("less-than-a-page", vec![0x11; 100], "raw: no whole page of 4096 bytes in a file of 100 bytes"),
        bad(
            "gzip",
            page(b"\x1f\x8b\x08"),
            "this is gzip-compressed, not a plain memory image: decompress it first (or use --format raw to pack its bytes as they are)",
        ),
        bad(
            "zstd",
            page(b"\x28\xb5\x2f\xfd"),
            "this is zstd-compressed, not a plain memory image: decompress it first (or use --format raw to pack its bytes as they are)",
        ),
        bad(
            "libvirt-save",
            page(b"LibvirtQemudSave"),
            "this is a libvirt save file, not a plain memory image: dump the memory as an ELF core, as with `virsh dump --memory-only --format elf` (or use --format raw to pack its bytes as they are)",
        ),
        bad(
            "kdump",
            page(b"KDUMP   "),
            "this is a compressed kdump dump, not a plain memory image: dump the memory as an ELF core, as with `virsh dump --memory-only --format elf` (or use --format raw to pack its bytes as they are)",
        ),
        bad(
            "qcow2",
            page(b"QFI\xfb\0\0\0\x03"),
            "this is a qcow2 disk image, not a plain memory image: give it as a reference (or use --format raw to pack its bytes as they are)",
        ),
        bad(
            "vmdk",
            page(b"KDMV"),
            "this is a VMDK disk image, not a plain memory image: give it as a reference (or use --format raw to pack its bytes as they are)",
        ),
    ]
}
