//! Guests that lie: structures that lead in circles, counts without end, wrong signatures, every field at its extremes, and
//! random bytes in all of them. Reading takes bounded time, and what is packed comes back, whatever the guest says.
//!
//! All of it is the hand-made guest of [`mig_tests::guests::linux`], changed.

use std::time::{Duration, Instant};

use mig_engine::guest::{Guest, find_notes};
use mig_engine::{Effort, Technique};
use mig_tests::engine::{self, References, open_image, pack_image, packer};
use mig_tests::guests::linux::{self, Linux, MEMBERS, Memory, Note, Size};
use mig_tests::reference::{self, PAGE};
use proptest::prelude::*;

/// Far more than reading any of the guests here takes, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

fn read(name: &str, memory: &[u8]) -> Option<Guest> {
    let start = Instant::now();
    let guest = Guest::read(memory, None, &find_notes(memory));
    let taken = start.elapsed();
    assert!(taken < PATIENCE, "{name}: reading took {taken:?}");
    guest
}

/// Reads and packs a guest; gives whether it could be read, and the stream's length.
fn survives(name: &str, memory: &[u8]) -> (bool, usize) {
    let guest = read(name, memory);
    let stream = pack_image(&open_image(memory), &packer(Effort::Fast, false, &References::none())).0;
    let most = memory.len() + memory.len() / 1000 + 4096;
    assert!(stream.len() <= most, "{name}: {} bytes for {}", stream.len(), memory.len());
    let (result, store) = engine::unpack(&stream, &[]);
    result.unwrap_or_else(|error| panic!("{name}: {error}"));
    let same = store.is_some_and(|store| store.into_bytes() == memory);
    assert!(same, "{name}: other bytes came back");
    (guest.is_some(), stream.len())
}

/// The same for a guest that can be read.
fn is_read(name: &str, memory: &[u8]) {
    assert!(survives(name, memory).0, "{name}: it can't be read, so nothing was tried");
}

fn small() -> Linux {
    linux::guest(Size::SMALL)
}

/// The guest's memory with another note.
fn with_note(linux: &Linux, note: &Note) -> Vec<u8> {
    let mut memory = Memory::of(&linux.memory);
    *memory.page_mut(linux.parts.note) = note.page();
    memory.into_bytes()
}

/// The sibling: the guest as it is can be read, and lies show in what is read.
#[test]
fn the_guest_as_it_is() {
    let linux = small();
    is_read("as it is", &linux.memory);
    let truth = read("as it is", &linux.memory).unwrap();
    let mut memory = Memory::of(&linux.memory);
    let frame = linux.processes[0].mappings[20].1;
    memory.set_bytes(linux.parts.member(frame, 24), &[0; 8]);
    let lie = read("a page without a mapping", &memory.into_bytes()).unwrap();
    let differing = (0..1024).filter(|&page| truth.class(page) != lie.class(page));
    assert!(differing.eq([frame]));
}

#[test]
fn every_line_of_the_note_at_its_extremes() {
    let linux = small();
    let long = "7".repeat(257);
    let values = [
        "",
        "0",
        "1",
        "-1",
        "7",
        "8",
        "31",
        "63",
        "64",
        "65",
        "255",
        "257",
        "4096",
        "1000000",
        "4294967295",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775808",
        "9223372036854775807",
        "0xffffffffffffffff",
        "ffffffffffffffff",
        "ffffea0000000000",
        "ffff888000000000",
        "7fffffffffff",
        "ffffffff84000800",
        "nonsense",
        &long,
    ];
    let mut read_all_the_same = 0;
    for (key, truth) in &linux.parts.text.lines {
        for value in values {
            let note = linux.parts.text.with(|line| (line == key).then(|| value.to_owned()));
            let (name, memory) = (format!("{key}={value}"), with_note(&linux, &note));
            if read(&name, &memory).is_some() && value != truth {
                survives(&name, &memory);
                read_all_the_same += 1;
            }
        }
        read(&format!("without {key}"), &with_note(&linux, &linux.parts.text.without(key)));
    }
    assert!(read_all_the_same > 200, "{read_all_the_same} notes");
    // Lines that this kernel's note does not have.
    for key in [
        "SYMBOL(vmemmap)",
        "NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)",
        "NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)",
        "NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)",
        "OFFSET(page.compound_info)",
    ] {
        for value in values {
            let memory = with_note(&linux, &linux.parts.text.and(key, value));
            if read(&format!("{key}={value}"), &memory).is_some() {
                survives(&format!("{key}={value}"), &memory);
            }
        }
    }
    // A note of another architecture, whose tables are not there.
    let arm = linux.parts.text.without("NUMBER(phys_base)").and("SYMBOL(swapper_pg_dir)", "ffff800082000000");
    for offset in ["0", "-1", "18446603338368548864", "0x8000000000000000"] {
        for (key, bits) in
            [("TCR_EL1_T1SZ", "16"), ("TCR_EL1_T1SZ", "65"), ("VA_BITS", "39"), ("VA_BITS", "-48")]
        {
            let note = arm.and("NUMBER(kimage_voffset)", offset).and(&format!("NUMBER({key})"), bits);
            read(&format!("{offset}, {bits}"), &with_note(&linux, &note));
        }
    }
}

#[test]
fn notes_of_all_shapes() {
    let linux = small();
    let mut memory = Memory::of(&linux.memory);
    // A text that goes on in the next page, which is free, and one that says so and does not.
    let mut long = linux.parts.text.clone();
    (0..120).for_each(|number| long.lines.insert(0, (format!("COMMENT{number}"), "y".repeat(40))));
    long.lines.swap(0, 120);
    let bytes = long.bytes();
    assert!(bytes.len() > PAGE && bytes.len() < 3 * PAGE);
    let room = (512..1020)
        .find(|&frame| (frame..frame + 3).all(|frame| linux.classes[frame as usize].name() == "free"));
    let room = room.unwrap();
    *memory.page_mut(linux.parts.note) = [0; PAGE];
    memory.set_bytes(room * PAGE as u64, &bytes);
    is_read("a long note", &memory.clone().into_bytes());
    for len in [0, 9, 10, 4095, 65_536, 65_537, u32::MAX] {
        memory.set_bytes(room * PAGE as u64 + 4, &len.to_le_bytes());
        survives("a length that is not that", &memory.clone().into_bytes());
    }
    // Every page of memory is a note, of as many lines as there is room for; and one that goes on past the end of memory.
    let lines: String = (0..900).map(|number| format!("{number:x}=\n")).collect();
    let text = format!("OSRELEASE=6.1.0\n{lines}").into_bytes();
    let page: Vec<u8> = text.into_iter().chain(std::iter::repeat(b'\n')).take(PAGE).collect();
    assert!(read("notes only", &page.repeat(20_000)).is_none());
    let mut last = linux.memory.clone();
    last[1023 * PAGE..].copy_from_slice(&long.page());
    survives("a note at the end", &last);
    // So many before the kernel's own that it is not looked for.
    let mut memory = Memory::new(1024 + 512);
    let note = linux.parts.text.page();
    (0..512).for_each(|frame| *memory.page_mut(1024 + frame) = note);
    memory.set_bytes(0, &linux.memory);
    is_read("notes after the kernel's", &memory.into_bytes());
}

/// Words that are much or nothing, lead to themselves, or beyond what there is.
fn words(own: u64) -> Vec<u64> {
    let direct = 0xffff_8880_0000_0000;
    let map = 0xffff_ea00_0000_0000;
    vec![
        0,
        1,
        2,
        3,
        0xff,
        u64::MAX,
        1 << 63,
        u64::MAX >> 1,
        u64::from(u32::MAX),
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ff7f,
        0xffff_fdff,
        0xf000_0000,
        own,
        own | 1,
        own | 0x67,
        own | 0xe7,
        direct + own,
        (direct + own) | 1,
        map,
        map | 1,
        map + 64,
        map + 65,
        map + (1023 * 64 + 1),
        map - 63,
        0x0000_8000_0000_0000,
        0x000f_ffff_ffff_f067,
    ]
}

#[test]
fn every_member_of_struct_page_at_its_extremes() {
    let linux = small();
    let mut still_read = 0;
    for (member, offset, len) in MEMBERS {
        for word in words(0x20_0000) {
            for step in [1, 150] {
                let mut memory = Memory::of(&linux.memory);
                for frame in (0..1024).step_by(step) {
                    memory.set_bytes(linux.parts.member(frame, offset), &word.to_le_bytes()[..len as usize]);
                }
                let name = format!("{member} of every {step}: {word:#x}");
                still_read += usize::from(survives(&name, &memory.into_bytes()).0);
            }
        }
    }
    assert!(still_read > 200, "{still_read} guests");
    // Heads that are tails: each page's the one before, itself, and the one after.
    for away in [-64_i64, 0, 64, 64 * 5000] {
        let mut memory = Memory::of(&linux.memory);
        for frame in 0..1024 {
            let own = 0xffff_ea00_0000_0000 + frame * 64;
            memory.set_word(linux.parts.member(frame, 8), own.wrapping_add_signed(away) + 1);
        }
        survives(&format!("heads {away} bytes away"), &memory.into_bytes());
    }
    // Free blocks of every order, everywhere.
    for order in [0, 1, 9, 10, 11, 14, 15, 63, 64, u64::MAX] {
        let mut memory = Memory::of(&linux.memory);
        for frame in (0..1024).step_by(128) {
            memory.set_word(linux.parts.member(frame, 40), order);
            memory.set_bytes(linux.parts.member(frame, 48), &(!0x80_u32).to_le_bytes());
        }
        survives(&format!("blocks of order {order}"), &memory.into_bytes());
    }
}

#[test]
fn sections_and_names_at_their_extremes() {
    let linux = small();
    for at in linux.parts.sections {
        for word in words(at) {
            let mut memory = Memory::of(&linux.memory);
            memory.set_word(at, word);
            survives(&format!("{word:#x} at {at:#x}"), &memory.into_bytes());
        }
    }
    // Addresses that no processor has: the true ones, with any one of their upper bytes changed.
    let mut still_read = 0;
    for at in linux.parts.sections {
        for (byte, flip) in (40..64).step_by(8).flat_map(|byte| [0x49, 0x80, 0xff].map(|flip| (byte, flip))) {
            let mut memory = Memory::of(&linux.memory);
            let word = memory.word(at) ^ flip << byte;
            memory.set_word(at, word);
            still_read += usize::from(survives(&format!("{word:#x} at {at:#x}"), &memory.into_bytes()).0);
        }
    }
    assert!(still_read > 2, "{still_read} guests");
    // Another release than the note's, by its first letter, by its last, and one letter longer.
    let release = linux.parts.names + 2 * 65;
    for (offset, byte) in [(0, b'7'), (14, b'y'), (15, b'!')] {
        let mut memory = Memory::of(&linux.memory);
        memory.set_bytes(release + offset, &[byte]);
        assert!(!survives("another release", &memory.into_bytes()).0);
    }
    // Another page in the place of the names.
    let mut memory = Memory::of(&linux.memory);
    *memory.page_mut(linux.parts.names >> 12) = [b'x'; PAGE];
    assert!(!survives("no names", &memory.into_bytes()).0);
}

#[test]
fn page_tables_that_lead_in_circles() {
    let linux = small();
    let root = linux.parts.root;
    let mut still_read = 0;
    for &table in &linux.parts.tables {
        let own = table << 12;
        let fills = [own | 0x67, own | 0xe7, root << 12 | 0x67, 1 << 40 | 0x67, u64::MAX, 1, 0, 0x63];
        for (number, fill) in fills.into_iter().enumerate() {
            let mut memory = Memory::of(&linux.memory);
            // Half of them, so that what comes first can still lead somewhere; and all.
            for entry in (0..512).filter(|entry| number % 2 == 0 || entry % 2 == 1) {
                memory.set_word(own + entry * 8, fill);
            }
            let name = format!("table {table} full of {fill:#x}");
            still_read += usize::from(survives(&name, &memory.into_bytes()).0);
        }
    }
    assert!(still_read > 100, "{still_read} guests");
    // A chain through all free frames: each a table of the next one, at every entry, in the user's half and in the kernel's.
    let free: Vec<u64> = (0..1024).filter(|&frame| linux.classes[frame as usize].name() == "free").collect();
    for top in [linux.processes[0].root, root] {
        let mut memory = Memory::of(&linux.memory);
        let half = if top == root { 300 } else { 0 };
        memory.set_word(top * 4096 + half * 8, free[0] << 12 | 0x67);
        for (number, &frame) in free.iter().enumerate() {
            for entry in 0..512 {
                let next = free[(number + entry as usize * 7 + 1) % free.len()];
                memory.set_word(frame * 4096 + entry * 8, next << 12 | 0x67);
            }
        }
        is_read("tables of tables", &memory.into_bytes());
    }
}

/// As many processes, and as many mappings, as a larger guest has room for.
#[test]
fn more_than_there_can_be() {
    let linux = linux::guest(Size::LARGE);
    let free: Vec<u64> =
        (0..20_480).filter(|&frame| linux.classes[frame as usize].name() == "free").collect();
    let mut tops = Memory::of(&linux.memory);
    let top = *tops.page_mut(linux.processes[0].root);
    for &frame in &free {
        *tops.page_mut(frame) = top;
        tops.set_bytes(linux.parts.member(frame, 48), &(!0x200_u32).to_le_bytes());
    }
    let guest = read("tops only", &tops.into_bytes()).unwrap();
    assert!(guest.spaces().len() > 4000);
    assert_eq!(
        guest.spaces().iter().map(|space| space.pages).sum::<u64>(),
        guest.spaces()[0].pages + 2 * 5003
    );

    // Each mapping at a distance of its own.
    let mut distances = Memory::of(&linux.memory);
    let (upper, middle) = (free[0], free[1]);
    distances.set_word(linux.parts.root * 4096 + 300 * 8, upper << 12 | 0x67);
    distances.set_word(upper * 4096, middle << 12 | 0x67);
    for (number, &table) in (0..).zip(&free[2..514]) {
        distances.set_word(middle * 4096 + number * 8, table << 12 | 0x67);
        for entry in 0..512 {
            let frame = entry * 7919 * (number + 1) % 20_480;
            distances.set_word(table * 4096 + entry * 8, frame << 12 | 0x63);
        }
    }
    assert!(read("distances", &distances.into_bytes()).is_some());

    // The whole user half in pages of 1 GiB, all of the same memory.
    let mut huge = Memory::of(&linux.memory);
    for entry in 0..256 {
        huge.set_word(linux.processes[0].root * 4096 + entry * 8, free[0] << 12 | 0x67);
    }
    for entry in 0..512 {
        huge.set_word(free[0] * 4096 + entry * 8, 0xe7);
    }
    assert!(read("1 GiB each", &huge.into_bytes()).is_some());
}

/// Lies cost little: a stream by a guest that lies about everything is not much larger than one that does not ask it.
#[test]
fn lies_cost_little() {
    let linux = small();
    let mut memory = Memory::of(&linux.memory);
    let anonymous = |frame: u64| linux.classes[frame as usize].name() == "anonymous";
    let frames: Vec<u64> = (0..1024).filter(|&frame| anonymous(frame)).collect();
    // All processes' pages in the first one, in an order that has nothing to do with what they hold.
    for (number, &(page, _)) in linux.processes[0].mappings.iter().enumerate() {
        let mut table = linux.processes[0].root;
        for level in (1..4).rev() {
            table = memory.word(table * 4096 + (page >> (9 * level) & 511) * 8) >> 12 & 0xf_ffff;
        }
        let frame = frames[number * 53 % frames.len()];
        memory.set_word(table * 4096 + (page & 511) * 8, frame << 12 | 0x67);
    }
    for (number, &frame) in frames.iter().enumerate() {
        memory.set_word(linux.parts.member(frame, 24), [0, 1][number % 2]);
    }
    let memory = memory.into_bytes();
    let (readable, with) = survives("lies", &memory);
    assert!(readable);
    let packer = packer(Effort::Fast, false, &References::none()).without(Technique::Guest);
    let without = pack_image(&open_image(&memory), &packer).0.len();
    assert!(with < without + without / 5, "{with} bytes, {without} without asking the guest");
}

/// Where something is changed: in which structure, how far into it, and what is put there.
#[derive(Clone, Copy, Debug)]
struct Change {
    structure: usize,
    offset: u64,
    bytes: u8,
    value: u64,
}

/// Frames of the guest's structures: the note, tables, sections, the array, stacks, the names.
fn structures(linux: &Linux) -> Vec<u64> {
    let parts = &linux.parts;
    let array = parts.array..parts.array + 16;
    let stacks =
        linux.processes.iter().filter_map(|process| process.mappings.last()).map(|mapping| mapping.1);
    let single = [parts.note, parts.names >> 12, parts.sections[1] >> 12, parts.sections[2] >> 12];
    single.into_iter().chain(parts.tables.iter().copied()).chain(array).chain(stacks).collect()
}

fn change() -> impl Strategy<Value = Change> {
    let value = prop_oneof![any::<u64>(), (0..28_usize).prop_map(|number| words(0x30_0000)[number])];
    (any::<usize>(), 0..4096_u64, 1..=8_u8, value).prop_map(|(structure, offset, bytes, value)| Change {
        structure,
        offset,
        bytes,
        value,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn random_bytes_in_its_structures(changes in proptest::collection::vec(change(), 1..60)) {
        let linux = small();
        let frames = structures(&linux);
        let mut memory = Memory::of(&linux.memory);
        for change in &changes {
            let frame = frames[change.structure % frames.len()];
            let len = u64::from(change.bytes).min(4096 - change.offset) as usize;
            memory.set_bytes(frame * 4096 + change.offset, &change.value.to_le_bytes()[..len]);
        }
        let memory = memory.into_bytes();
        survives("random bytes", &memory);
        // The slow decoder sees the same, and does so at random.
        if changes.len() % 8 == 0 {
            let stream = pack_image(&open_image(&memory), &packer(Effort::Balanced, false, &References::none())).0;
            let slow = reference::decode(&stream, &[]).unwrap();
            prop_assert!(slow.complete && slow.file == memory);
        }
    }
}
