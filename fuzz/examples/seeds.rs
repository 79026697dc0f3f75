//! Writes the seeds: `cargo +nightly run --example seeds -- SAMPLE.mem.zst`, in `fuzz/`, with the sample of real memory
//! from `tests/data`. Run it again when the format or a target's input changes.

use std::fs;
use std::io::Write;
use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use mig_engine::gpu::Beside;
use mig_engine::live::{Choice, Encoder, InMemory, Introspection, OutFrame, Setup};
use mig_engine::qemu::{self, Coding, FromFile};
use mig_engine::reference::{Identity, IndexBuilder, SourceTie};
use mig_engine::{
    Cancel, CpuWorker, Effort, FormatChoice, Header, Level, MemoryImage, PAGE_SIZE, Packer, Page,
    PageSet, Techniques,
};
use mig_fuzz::guest::{self, Recipe};
use mig_fuzz::store::MemStore;
use mig_fuzz::{file, reads, references, seal, strange};
use mig_tests::engine::coding;
use mig_tests::handmade::{Random, cases};
use mig_tests::qemu::Writer;
use mig_tests::reference::{self, Rules, Run, What};

fn main() {
    let sample = std::env::args().nth(1).expect("the path of sample.mem.zst");
    let sample = zstd::decode_all(fs::File::open(sample).expect("the sample")).expect("zstd");
    for (name, bytes) in containers(&sample) {
        save("decode_sealed", &name, &bytes);
        if name.ends_with("store") {
            continue; // long, and nothing new for the others
        }
        save("decode", &name, &bytes);
        let mut blocks = vec![u8::from(name.starts_with("random")) | 2];
        blocks
            .extend(seal::join(&seal::split(&bytes).into_iter().filter(|f| f.kind == 3).collect::<Vec<_>>()));
        save("decode_blocks", &name, &blocks);
        if name.starts_with("random") {
            save("reader", &name, &bytes);
        }
        if name == "random-balanced" {
            save("reader", "duplicate-of-a-page-whose-check-is-wrong", &with_wrong_check(&bytes));
        }
    }
    sessions();
    strange_streams();
    for case in [cases::ordered(true, true), cases::independent_placed()] {
        let name = case.name.replace(' ', "-");
        save("decode_sealed", &name, &case.stream);
        save("decode", &name, &case.stream);
    }
    save("image", "elf", &prefixed(0, &elf()));
    save("image", "lime", &prefixed(0, &lime()));
    save("image", "mapped-ram", &prefixed(0, &mapped_ram()));
    save("image", "cloud-hypervisor", &prefixed(6, &cloud_hypervisor()));
    save("image", "firecracker", &prefixed(5, &[1; 8192]));
    index();
    save("disk", "vmdk", &vmdk(false));
    save("disk", "vmdk-compressed", &vmdk(true));
    save("disk", "vmdk-text", VMDK_TEXT.as_bytes());
    save("disk", "qcow2", &qcow2(3));
    save("disk", "qcow2-v2", &qcow2(2));
    for (number, page) in [40, 900, 1500].iter().enumerate() {
        save("kernels", &format!("page{number}"), &sample[page * PAGE_SIZE..][..PAGE_SIZE + 1]);
    }
}

fn save(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new("seeds").join(target);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(name), bytes).expect("a seed");
}

fn prefixed(first: u8, bytes: &[u8]) -> Vec<u8> {
    [&[first], bytes].concat()
}

/// Small streams of every effort, with and without random access and references.
fn containers(sample: &[u8]) -> Vec<(String, Vec<u8>)> {
    let recipes = [
        Recipe::Zero,
        Recipe::Pointers { seed: 1, kernel: true },
        Recipe::Touched { back: 0, seed: 3, words: 5 },
        Recipe::Disk(1),
        Recipe::Disk(2),
        Recipe::Disk(3),
        Recipe::Older(7),
        Recipe::OlderTouched { page: 8, seed: 1, words: 3 },
        Recipe::Uniform(0x1122_3344_5566_7788),
        Recipe::Copy(8),
        Recipe::Words { seed: 5, values: 5 },
        Recipe::Copy(0),
    ];
    let mut pages: Vec<Page> = guest::pages(&recipes, references::disk(), references::older());
    pages.extend(sample.as_chunks::<PAGE_SIZE>().0.iter().skip(700).filter(|page| page[7] != 0).take(1));
    let mut bytes = pages.concat();
    bytes.extend_from_slice(b"bytes that are part of no page");
    let image = MemoryImage::from_file(file::with_bytes(&bytes), Some(FormatChoice::Raw)).expect("raw");
    let mut all = Vec::new();
    for effort in Effort::AVAILABLE {
        for random_access in [false, true] {
            let [disk, older] = references::open();
            let packer =
                Packer::new().effort(effort).random_access(random_access).reference(disk).reference(older);
            let mut stream = Vec::new();
            packer.pack(&image, &mut stream).expect("packing");
            // With more pages a block than the targets allow, all would be refused.
            let stream = with_smaller_blocks(&stream);
            let kind = if random_access { "random" } else { "plain" };
            if effort != Effort::Store || !random_access {
                all.push((format!("{kind}-{effort}"), stream));
            }
        }
    }
    all
}

/// The same stream, but the check of a page that another is a duplicate of is not its own. Once, the slow decoder held a
/// page against the check of the page that it comes from.
fn with_wrong_check(stream: &[u8]) -> Vec<u8> {
    let slow = reference::decode(stream, references::at_hand_bytes()).expect("our own stream");
    let block = &slow.blocks[0];
    let source = block.runs.iter().find_map(|run| match run.what {
        What::Duplicate { source } => Some(source - block.ranges[0].0),
        _ => None,
    });
    let source = source.expect("a duplicate");
    let checked = |run: &&Run| !matches!(run.what, What::Zero | What::Uniform(_)) && run.ordinal <= source;
    let before: u64 = block.runs.iter().filter(checked).map(|run| run.pages.min(source - run.ordinal)).sum();
    let mut stream = stream.to_vec();
    let frame = slow.frames[block.sequence as usize];
    // Left as it is when it is sealed.
    stream[frame.offset as usize + 6] = 1;
    stream[(frame.end() - u64::from(frame.data_len) + before * 8) as usize] ^= 1;
    stream
}

/// The same stream with `block_pages` 128 in its header: the first varint, at byte 3, has two or three bytes.
fn with_smaller_blocks(stream: &[u8]) -> Vec<u8> {
    let mut frames = seal::split(stream);
    let meta = &mut frames[0].meta;
    let len = meta[3..].iter().position(|byte| byte & 0x80 == 0).expect("a varint") + 1;
    meta.splice(3..3 + len, [0x80, 1]);
    seal::seal(&seal::join(&frames))
}

/// Streams of several blocks that both decoders accept; long ones without the data parts, which `seal` makes of zeros.
fn strange_streams() {
    let mut left = [2, 4, 3];
    for seed in 0.. {
        let mut random = Random::new(seed);
        let bytes: Vec<u8> = (0..900).map(|_| random.below(256) as u8 >> random.below(6)).collect();
        let Ok(case) = strange::Case::arbitrary_take_rest(Unstructured::new(&bytes)) else { continue };
        let mut frames = seal::split(&strange::stream(&case));
        let len: usize = frames.iter().map(|frame| frame.data.len()).sum();
        if len > 12_000 {
            frames.iter_mut().for_each(|frame| frame.data.clear());
        }
        let blocks: Vec<seal::Frame> = frames.iter().filter(|frame| frame.kind == 3).cloned().collect();
        let bytes = seal::join(&frames);
        if blocks.len() < 3 || bytes.len() < 500 {
            continue;
        }
        if case.session {
            let sealed = seal::seal_session(&bytes);
            let Ok(slow) = reference::decode_as(&sealed, references::at_hand_bytes(), Rules::Any) else {
                continue;
            };
            let mut spaces = slow.blocks.iter().flat_map(|block| block.bases.iter().flatten());
            // Of the memory before the block, in a page that comes again.
            if left[2] > 0 && slow.complete && spaces.any(|base| base.0 == 3) && slow.out_of_order {
                left[2] -= 1;
                save("session", &format!("strange{seed}"), &prefixed(1, &bytes));
            }
            continue;
        }
        let done = reads::unpack(&seal::seal(&bytes), &MemStore::default());
        if !done.is_some_and(|done| done.is_ok()) {
            continue;
        }
        // In streams for random access, the engine takes some that the document does not: `reads::agree` knows.
        let Ok(slow) = reference::decode(&seal::seal(&bytes), references::at_hand_bytes()) else { continue };
        let addresses = slow.blocks.iter().any(|block| block.addresses.iter().any(Option::is_some));
        let bases = slow.blocks.iter().any(|block| block.bases.iter().any(Option::is_some));
        // Something of all that is rare.
        if !((addresses || bases) && (case.random_access || slow.blocks.iter().any(|block| block.is_list))) {
            continue;
        }
        let random_access = usize::from(case.random_access);
        if left[random_access] > 0 {
            left[random_access] -= 1;
            let name = format!("strange{seed}");
            save("decode_sealed", &name, &bytes);
            save("decode_blocks", &name, &[&[case.random_access.into()], &seal::join(&blocks)[..]].concat());
            if case.random_access {
                save("reader", &name, &bytes);
            }
        }
        if left == [0; 3] {
            break;
        }
    }
}

/// A guest that changes over some rounds, with pieces; a QEMU stream, packed and as it is.
fn sessions() {
    let worker = CpuWorker { level: Level::best() };
    let references = references::open();
    let mut recipes: Vec<Recipe> = (0..20u8)
        .map(|page| match page % 4 {
            0 => Recipe::Zero,
            1 => Recipe::Pointers { seed: page, kernel: page % 3 == 0 },
            2 => Recipe::Disk(page),
            _ => Recipe::Words { seed: page, values: 9 },
        })
        .collect();
    let mut pages = guest::pages(&recipes, references::disk(), references::older());
    let image = MemoryImage::from_file(file::with_bytes(&pages.concat()), Some(FormatChoice::Raw));
    let needs = references.iter().map(|reference| reference.need().clone()).collect();
    let header = Header::new(image.expect("raw").layout().clone(), Effort::Balanced, 64, needs);
    let top = Effort::Balanced;
    let (level, cancel) = (Level::best(), Cancel::new());
    let beside = &Beside::default();
    let setup =
        Setup { header, references: &references, introspection: Introspection::Off, worker: &worker, beside, level, top, techniques: Techniques::ALL, cancel };
    let mut encoder = Encoder::new(setup).expect("a session");
    let mut past = InMemory::new(1 << 20);
    let mut stream = vec![1];
    let mut write = |frame: OutFrame<'_>| frame.parts().for_each(|part| stream.extend_from_slice(part));
    write(encoder.header());
    for (round, effort) in (0..).zip([Effort::Balanced, Effort::Fast, Effort::Balanced]) {
        let set = PageSet::from_ranges([0..5, 6..20].into_iter().skip(round as usize % 2)).expect("a set");
        let bytes: Vec<u8> = set.ranges().flatten().flat_map(|page| pages[page as usize]).collect();
        let choose = |_| Choice::always(effort, 8);
        let mut sink = |frame: OutFrame<'static>| {
            write(frame);
            Ok(())
        };
        encoder.batch(round, &set, &bytes, &mut past, &choose, &mut sink).expect("a batch");
        write(encoder.piece(b"what is said between two rounds").expect("a piece"));
        recipes.extend((0..20).map(|_| Recipe::Touched { back: 19, seed: round as u8, words: 4 }));
        pages = guest::pages(&recipes, references::disk(), references::older()).split_off(recipes.len() - 20);
    }
    write(encoder.end());
    save("session", "rounds", &stream);

    let mut writer = Writer::new(&["events"]);
    let real = |page: u8| guest::pages(&[Recipe::Pointers { seed: page, kernel: true }], &[], &[])[0];
    writer.begin(false).page(0, 3, &real(1)).page(0, 4, &[0; PAGE_SIZE]).page(1, 7, &real(2)).end();
    for round in 3..6 {
        writer.begin(false).page(0, 3, &real(round)).page(0, 5, &real(1)).end();
    }
    writer.begin(true).page(0, 3, &real(6)).page(2, 1, &real(2)).end().devices(b"what a device has to say");
    save("qemu", "stream", &prefixed(7, &writer.bytes));
    let coding = Coding { block_pages: 64, ..coding(&references, top, None) };
    let mut packed = vec![1];
    qemu::pack(FromFile(&writer.bytes[..]), coding, &std::env::temp_dir(), &mut packed, None)
        .expect("packing");
    save("session", "qemu", &packed);
    // Without a RAM section, all is bytes.
    save("qemu", "postcopy", &prefixed(1, &Writer::new(&["postcopy-ram"]).bytes));
}

fn index() {
    let pairs = (0..40u64).map(|block| {
        (u128::from(block.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 60 | u128::from(block) << 104, block)
    });
    let tie = SourceTie::new(Identity(7), 40, &[]);
    let index = IndexBuilder::new().build_from_pairs(pairs, 40, tie).expect("an index");
    let folder = std::env::temp_dir().join(format!("mig-seeds-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("index");
    index.save(&path).expect("an index file");
    let bytes = fs::read(&path).expect("the same");
    fs::remove_dir_all(&folder).expect("a folder that goes");
    save("index", "whole", &prefixed(0, &bytes));
    save("index", "sealed", &[&[3], &bytes[..112], &bytes[4096..]].concat());
}

struct Bytes(Vec<u8>);

impl Bytes {
    fn at(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        if self.0.len() < at + bytes.len() {
            self.0.resize(at + bytes.len(), 0);
        }
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }
}

/// Two segments that overlap in part, one without bytes, and the headers behind it all.
fn elf() -> Vec<u8> {
    let mut file = Bytes(Vec::new());
    let table = 3 * 4096u64 + 100;
    file.at(0, b"\x7fELF\x02\x01\x01").at(16, &4u16.to_le_bytes()).at(32, &table.to_le_bytes());
    file.at(54, &56u16.to_le_bytes()).at(56, &3u16.to_le_bytes());
    for (number, (offset, address, len)) in
        [(100u64, 0u64, 8192u64), (4196, 0x10_0000, 8192), (0, 0, 0)].iter().enumerate()
    {
        let header = table as usize + number * 56;
        file.at(header, &1u32.to_le_bytes()).at(header + 8, &offset.to_le_bytes());
        file.at(header + 24, &address.to_le_bytes())
            .at(header + 32, &len.to_le_bytes())
            .at(header + 55, &[0]);
    }
    file.0
}

fn lime() -> Vec<u8> {
    let mut file = Vec::new();
    for (first, len) in [(0x1000u64, 4096u64), (0x9000, 100), (0x10_0000, 8192)] {
        file.extend_from_slice(b"EMiL\x01\0\0\0");
        for field in [first, first + len - 1, 0] {
            file.extend_from_slice(&field.to_le_bytes());
        }
        file.resize(file.len() + len as usize, 3);
    }
    file
}

fn mapped_ram() -> Vec<u8> {
    let mut file = b"QEVM\0\0\0\x03\x07\0\0\0\x0epc-i440fx-10.0".to_vec();
    file.extend_from_slice(b"\x05\x1aconfiguration/capabilities\0\0\0\x01\0\0\0\x01\x0amapped-ram");
    file.extend_from_slice(b"\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04");
    let (len, pages) = (4 * 4096u64, 4096u64);
    file.extend_from_slice(&(len | 4).to_be_bytes());
    file.extend_from_slice(b"\x06pc.ram");
    file.extend_from_slice(&len.to_be_bytes());
    file.extend_from_slice(&1u32.to_be_bytes());
    for field in [4096, 2048u64, pages] {
        file.extend_from_slice(&field.to_be_bytes());
    }
    let mut file = Bytes(file);
    // Pages 0 and 2 are written; page 3 has stale bytes.
    file.at(2048, &[5]).at(4096, &[1; 4096]).at(3 * 4096, &[2; 8192]);
    file.0
}

fn cloud_hypervisor() -> Vec<u8> {
    let mut file = vec![9; 3 * 4096];
    let inner = r#"{\"memory_ranges\":{\"data\":[{\"gpa\":0,\"length\":8192},{\"gpa\":4294967296,\"length\":4096}]}}"#;
    write!(file, r#"~json~{{"snapshots":{{"memory-manager":{{"state":"{inner}"}}}}}}"#).expect("room");
    file
}

const VMDK_TEXT: &str = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"x\"\n\
    RW 64 FLAT \"900\" 8\nRW 16 ZERO\nRDONLY 32 FLAT \"900\" 0\n";

/// A sparse extent of six grains of 4 KiB: data, nothing, zeros, data that goes on, data elsewhere.
fn vmdk(compressed: bool) -> Vec<u8> {
    let mut file = Bytes(Vec::new());
    let flags: u32 = if compressed { 1 << 16 | 1 << 17 | 5 } else { 5 };
    file.at(0, b"KDMV").at(4, &1u32.to_le_bytes()).at(8, &flags.to_le_bytes());
    file.at(12, &48u64.to_le_bytes()).at(20, &8u64.to_le_bytes()).at(28, &1u64.to_le_bytes());
    file.at(36, &1u64.to_le_bytes()).at(44, &4u32.to_le_bytes()).at(48, &2u64.to_le_bytes());
    file.at(56, &2u64.to_le_bytes()).at(77, &u16::from(compressed).to_le_bytes());
    file.at(512, b"# Disk DescriptorFile\nparentCID=5\nparentFileNameHint=\"900\"\n");
    file.at(1024, &3u32.to_le_bytes()).at(1028, &4u32.to_le_bytes());
    let grains: [u32; 6] = [8, 0, 1, 16, 24, 8];
    for (grain, sector) in grains.iter().enumerate() {
        file.at(1536 + grain / 4 * 512 + grain % 4 * 4, &sector.to_le_bytes());
        if *sector > 1 {
            let at = *sector as usize * 512;
            if compressed {
                // A stored block, in zlib's envelope.
                file.at(at, &(grain as u64 * 8).to_le_bytes()).at(at + 12, &[0x78, 1, 1, 0, 16, 0xff, 0xef]);
                file.at(at + 12 + 7 + 4096, &[0x10, 0, 0, 1]);
                file.at(at + 8, &(7 + 4096 + 4u32).to_le_bytes());
            } else {
                file.at(at, &[grain as u8 + 1; 4096]);
            }
        }
    }
    file.0
}

/// Clusters of 512 bytes: data, zeros, nothing, compressed data; a raw backing file.
fn qcow2(version: u32) -> Vec<u8> {
    let mut file = Bytes(Vec::new());
    let name = b"900";
    file.at(0, b"QFI\xfb").at(4, &version.to_be_bytes()).at(20, &9u32.to_be_bytes());
    file.at(8, &496u64.to_be_bytes()).at(16, &(name.len() as u32).to_be_bytes()).at(496, name);
    file.at(24, &16384u64.to_be_bytes()).at(36, &1u32.to_be_bytes()).at(40, &512u64.to_be_bytes());
    file.at(48, &1024u64.to_be_bytes()).at(56, &1u32.to_be_bytes());
    file.at(96, &4u32.to_be_bytes()).at(100, &104u32.to_be_bytes());
    let used = 1u64 << 63;
    file.at(512, &(2048 | used).to_be_bytes());
    let entries = [4096 | used, 4608 | used, 1, 0, 8192 | used, 1 << 62 | 6144];
    for (number, entry) in entries.iter().enumerate() {
        file.at(2048 + number * 8, &entry.to_be_bytes());
    }
    file.at(4096, &[7; 1024]).at(6144, &[0x4b, 0x4c, 0x1c, 5, 0xa3, 0x60, 0xe8, 1, 0]).at(8192, &[8; 512]);
    file.0
}
