//! Guests that can be read: what their own structures say of each page is found, and used, and whatever they say, the pages
//! come back.

use mig_engine::guest::{Guest, GuestClass, find_notes};
use mig_engine::{Effort, Technique};
use mig_tests::compare;
use mig_tests::engine::{Given, References, open_image, pack, pack_image, packer};
use mig_tests::guests::linux::{self, KERNEL_OFFSET, Linux, Size};
use mig_tests::reference::{Decoded, What};

fn read(memory: &[u8]) -> Option<Guest> {
    Guest::read(memory, None, &find_notes(memory))
}

fn small() -> Linux {
    linux::guest(Size::SMALL)
}

#[test]
fn everything_is_found() {
    let linux = small();
    assert_eq!(find_notes(&linux.memory[..]), [linux.parts.note]);
    let guest = read(&linux.memory).unwrap();
    assert_eq!(guest.release(), "6.1.0-hand-made");
    assert_eq!(guest.build_id(), Some("0123456789abcdef0123456789abcdef01234567"));
    assert_eq!(guest.kernel_offset(), Some(KERNEL_OFFSET));
    let spaces: Vec<(u64, Option<&str>)> =
        guest.spaces().iter().map(|space| (space.root, space.name.as_deref())).collect();
    let truth: Vec<(u64, Option<&str>)> =
        linux.processes.iter().map(|process| (process.root << 12, Some(process.name))).collect();
    assert_eq!(spaces, truth);
    for (page, (&class, &place)) in linux.classes.iter().zip(&linux.places).enumerate() {
        let page = page as u64;
        assert_eq!(guest.class(page), class, "page {page}");
        assert_eq!((guest.owner(page), guest.virtual_page(page)), (place.0, Some(place.1)), "page {page}");
        assert_eq!(guest.frame(page), Some(page));
    }
    assert_eq!(guest.class(1024), GuestClass::Unknown);
}

/// The references that a guest's packer may have, by name.
fn references(linux: &Linux) -> [(&'static str, References); 4] {
    let (disk, older) = (Some(&linux.disk[..]), Some(&linux.older[..]));
    [
        ("nothing", References::none()),
        ("its disk", References::of(disk, None)),
        ("an older image", References::of(None, older)),
        ("both", References::of(disk, older)),
    ]
}

/// The pages that come in lists, in the order in which they come.
fn listed(slow: &Decoded) -> Vec<u64> {
    slow.blocks.iter().filter(|block| block.is_list).flat_map(|block| block.brought()).collect()
}

/// How many pages have addresses, and how many have bases in this space.
fn placed(slow: &Decoded, space: u64) -> (usize, usize) {
    let addresses = slow.blocks.iter().flat_map(|block| &block.addresses).flatten().count();
    let bases = slow.blocks.iter().flat_map(|block| &block.bases).flatten();
    (addresses, bases.filter(|base| base.0 == space).count())
}

#[test]
fn pages_come_in_the_order_of_the_guest() {
    let linux = small();
    for (given, references) in references(&linux) {
        for effort in [Effort::Fast, Effort::Balanced] {
            let name = format!("{effort}, {given}");
            let (stream, summary) =
                pack_image(&open_image(&linux.memory), &packer(effort, false, &references));
            let slow = compare::whole(&stream, &references, &linux.memory);
            let slow = slow.unwrap_or_else(|difference| panic!("{name}: {difference}"));
            let has_older = references.list.iter().any(|given| matches!(given, Given::Memory(_)));
            assert_eq!(summary.pages, 1024, "{name}");
            assert!(slow.out_of_order && stream.len() < 300_000, "{name}: {} bytes", stream.len());
            assert_eq!(slow.blocks[0].pages - slow.blocks[0].brings, listed(&slow).len() as u64, "{name}");
            assert!(!slow.blocks[0].runs.iter().any(|run| run.what == What::Residual), "{name}");

            // The anonymous pages of each process come one after the other, as they lie in its memory; but for those
            // that are as they were.
            let order = listed(&slow);
            for process in &linux.processes {
                let anonymous = |frame: u64| linux.classes[frame as usize] == GuestClass::Anonymous;
                let frames =
                    process.mappings.iter().map(|mapping| mapping.1).filter(|&frame| anonymous(frame));
                let own: Vec<u64> = frames.filter(|frame| order.contains(frame)).collect();
                let first = order.iter().position(|&page| page == own[0]).unwrap();
                assert_eq!(order[first..first + own.len()], own, "{name}, {}", process.name);
                assert_eq!(own.len() == 43, !has_older, "{name}, {}", process.name);
                assert!(own.len() > 15, "{name}, {}", process.name);
            }
            // Addresses are those of the guest, and what is like its older self says so.
            let (addresses, bases) = placed(&slow, references.list.len() as u64);
            assert!(addresses > if has_older { 0 } else { 150 }, "{name}: {addresses} addresses");
            assert_eq!(bases > 50, has_older, "{name}: {bases} bases");
            let residual = slow.blocks.iter().flat_map(|block| {
                let numbers = block.residual_pages();
                numbers.into_iter().zip(block.addresses.clone())
            });
            for (page, address) in residual {
                assert!(
                    address.is_none_or(|address| address >> 12 == linux.places[page as usize].1),
                    "{name}"
                );
            }
        }
    }
}

/// In streams for random access, and in those that store pages, pages come in order all the same.
#[test]
fn pages_come_in_order_where_they_must() {
    let linux = small();
    for (given, references) in references(&linux) {
        for (effort, random_access) in
            [(Effort::Store, false), (Effort::Store, true), (Effort::Fast, true), (Effort::Balanced, true)]
        {
            let name = format!("{effort}, random access {random_access}, {given}");
            let stream = pack(&linux.memory, effort, random_access, &references);
            let slow = compare::whole(&stream, &references, &linux.memory);
            let slow = slow.unwrap_or_else(|difference| panic!("{name}: {difference}"));
            assert!(!slow.out_of_order && listed(&slow).is_empty(), "{name}");
            let (addresses, bases) = placed(&slow, references.list.len() as u64);
            let has_older = references.list.iter().any(|given| matches!(given, Given::Memory(_)));
            let compresses = effort != Effort::Store;
            assert_eq!(addresses > 10, compresses, "{name}: {addresses} addresses");
            assert_eq!(bases > 50, compresses && has_older, "{name}: {bases} bases");
            if random_access {
                let alone = compare::single_pages(&stream, &references, &linux.memory, 31);
                alone.unwrap_or_else(|difference| panic!("{name}: {difference}"));
            }
        }
    }
}

/// More than one block of pages that are left over; and pages of a process whose parent's pages came in the block before.
#[test]
fn blocks_of_leftover_pages() {
    let linux = linux::guest(Size::LARGE);
    let references = References::of(Some(&linux.disk), None);
    let stream = pack(&linux.memory, Effort::Fast, false, &references);
    let slow = compare::whole(&stream, &references, &linux.memory).unwrap();
    let lists: Vec<u64> =
        slow.blocks.iter().filter(|block| block.is_list).map(|block| block.brings).collect();
    assert!(lists.len() == 2 && lists[0] == 8192 && lists[1] > 4000, "{lists:?}");
    let (addresses, bases) = placed(&slow, 0);
    assert!(addresses > 5000 && bases > 1000, "{addresses} addresses, {bases} bases in the guest");
    // Duplicates, bases and matches lead to pages that have come, and to pages of the same list.
    let matches = slow.blocks.iter().flat_map(|block| block.matches.iter().flatten());
    assert!(matches.filter(|m| m.space == 0).count() > 100);
}

/// Each technique can be left out; the pages are the same.
#[test]
fn without_techniques() {
    let linux = small();
    let image = open_image(&linux.memory);
    for (given, references) in references(&linux) {
        let pack = |without: Option<Technique>| {
            let packer = packer(Effort::Balanced, false, &references);
            let packer = without.into_iter().fold(packer, |packer, technique| packer.without(technique));
            pack_image(&image, &packer).0
        };
        let all = pack(None).len();
        for technique in Technique::ALL {
            let name = format!("without {technique}, {given}");
            let stream = pack(Some(technique));
            let slow = compare::whole(&stream, &references, &linux.memory);
            let slow = slow.unwrap_or_else(|difference| panic!("{name}: {difference}"));
            let guest = technique == Technique::Guest;
            assert_eq!(listed(&slow).is_empty(), guest || technique == Technique::Order, "{name}");
            let (addresses, bases) = placed(&slow, references.list.len() as u64);
            assert_eq!(addresses == 0, guest || technique == Technique::SelfRelative, "{name}");
            assert!(bases == 0 || technique != Technique::Bases, "{name}");
            // What pointers next to themselves are worth here, whatever it is in real memory.
            if given == "its disk" && technique == Technique::SelfRelative {
                assert!(stream.len() > all, "{name}: {} bytes, {all} with it", stream.len());
            }
        }
    }
}
