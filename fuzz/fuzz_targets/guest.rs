//! A hand-made Linux guest whose structures say anything: looking for its kernel and reading it end without a panic, and
//! its pages come back, in whatever order they were packed.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mig_engine::guest::{Guest, find_notes};
use mig_engine::{Effort, FormatChoice, MemoryImage, PAGE_SIZE, Packer, Reference, Unpacker};
use mig_fuzz::file;
use mig_fuzz::store::MemStore;
use mig_tests::guests::linux::{self, Linux, Size};

#[derive(Debug, arbitrary::Arbitrary)]
struct Case {
    balanced: bool,
    /// Whether the same guest, as it was earlier and in good order, is at hand.
    older: bool,
    changes: Vec<Change>,
}

#[derive(Debug, arbitrary::Arbitrary)]
struct Change {
    /// Which page of the guest's structures.
    structure: u8,
    offset: u16,
    value: Value,
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Value {
    Byte(u8),
    Word(u64),
    /// An entry of a page table: a frame and attributes.
    Entry {
        frame: u16,
        attributes: u8,
    },
    /// An address in the kernel's direct map, or in its memory map.
    Pointer {
        map: bool,
        frame: u16,
        low: u8,
    },
    /// The whole page becomes another of the structures.
    Page(u8),
    /// Digits, as the note has them.
    Text([u8; 4]),
}

/// The guest, and the frames of its structures: note, names, sections, tables, the array, ends of stacks.
fn guest() -> &'static (Linux, Vec<u64>) {
    static GUEST: OnceLock<(Linux, Vec<u64>)> = OnceLock::new();
    GUEST.get_or_init(|| {
        let linux = linux::guest(Size { pages: 1024, heap: 3 });
        let parts = &linux.parts;
        let mut frames = vec![parts.note, parts.note, parts.names >> 12];
        frames.extend(parts.sections.map(|address| address >> 12));
        frames.extend(&parts.tables);
        frames.extend(parts.array..parts.array + 16);
        frames
            .extend(linux.processes.iter().filter_map(|process| process.mappings.last()).map(|last| last.1));
        (linux, frames)
    })
}

fn changed(case: &Case) -> Vec<u8> {
    let (linux, frames) = guest();
    let mut memory = linux.memory.clone();
    let frame = |number: u8| frames[usize::from(number) % frames.len()] as usize * PAGE_SIZE;
    for change in case.changes.iter().take(200) {
        let page = frame(change.structure);
        let at = page + usize::from(change.offset) % PAGE_SIZE;
        let aligned = at & !7;
        let word = |value: u64| value.to_le_bytes();
        match change.value {
            Value::Byte(byte) => memory[at] = byte,
            Value::Word(value) => memory[aligned..aligned + 8].copy_from_slice(&word(value)),
            Value::Entry { frame, attributes } => {
                let entry = u64::from(frame % 1040) << 12 | u64::from(attributes);
                memory[aligned..aligned + 8].copy_from_slice(&word(entry));
            }
            Value::Pointer { map, frame, low } => {
                let (base, step) = if map { (0xffff_ea00 << 32, 64) } else { (0xffff_8880 << 32, 4096) };
                let pointer = base + u64::from(frame % 1040) * step + u64::from(low);
                memory[aligned..aligned + 8].copy_from_slice(&word(pointer));
            }
            Value::Page(other) => memory.copy_within(frame(other)..frame(other) + PAGE_SIZE, page),
            Value::Text(digits) => {
                let end = (at + 4).min(page + PAGE_SIZE);
                let digits = digits.map(|digit| b"0123456789abcdefx-=()\n"[usize::from(digit) % 22]);
                memory[at..end].copy_from_slice(&digits[..end - at]);
            }
        }
    }
    memory
}

fuzz_target!(|case: Case| {
    let memory = changed(&case);
    let notes = find_notes(&memory[..]);
    let read = Guest::read(&memory[..], None, &notes);
    if let Some(guest) = &read {
        assert_eq!(guest.classes().len(), 1024);
        assert!((0..1024).all(|page| guest.owner(page).is_none_or(|owner| owner < guest.spaces().len())));
    } else if case.changes.len() % 16 != 0 {
        return; // packed as any other memory is: `roundtrip` has that
    }
    let image = MemoryImage::from_file(file::with_bytes(&memory), Some(FormatChoice::Raw)).expect("raw");
    let effort = if case.balanced { Effort::Balanced } else { Effort::Fast };
    let mut packer = Packer::new().effort(effort).threads(1);
    if case.older {
        let older = MemoryImage::from_file(file::with_bytes(&guest().0.older), None).expect("raw");
        packer = packer.reference(Reference::memory(older, "older".to_owned()).expect("a reference"));
    }
    let mut stream = Vec::new();
    packer.pack(&image, &mut stream).expect("packing into memory");
    assert!(stream.len() <= memory.len() + memory.len() / 1000 + 4096, "{} bytes", stream.len());

    let at_hand: Vec<_> = packer.references().iter().cloned().map(Some).collect();
    let store = MemStore::default();
    let unpacker = Unpacker::new(stream.as_slice(), Default::default()).expect("a header").threads(1);
    let layout = unpacker.header().layout.clone();
    let done = unpacker.unpack(&at_hand, &store).expect("our own stream");
    assert_eq!(done.pages, 1024);
    assert!(store.file(&layout) == memory, "other bytes came back");
});
