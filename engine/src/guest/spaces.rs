//! Address spaces: which process a page belongs to, and at what virtual address.
//!
//! A process' top table shares the kernel's half with the kernel's own table, so it is known by its last entry. The user
//! half of each is walked; the first mapping of a page counts. What a process is called is told by its stack, which
//! starts with the path of its program, whatever the kernel's version.

use std::collections::HashMap;

use super::kernel::{Kernel, X86_IMAGE_BASE};
use super::physical::{Physical, word_at};
use super::tables::{Encoding, Mapping, Visits};
use super::{Guest, GuestClass, Space};
use crate::page::{PAGE_SIZE, Page};
use crate::source::PageSource;

/// Address spaces at most.
const MAX_SPACES: usize = 1 << 15;
/// Displacements that may be that of the direct map.
const MAX_DISPLACEMENTS: usize = 1 << 10;
/// Entries of the top table: user half, then kernel half.
const HALF: usize = 256;
/// Longest path that is taken from a stack.
const MAX_NAME: usize = 256;

/// Finds the owners and virtual addresses of all pages of a classed guest.
pub(crate) fn find<S: PageSource + ?Sized>(kernel: &Kernel, memory: Physical<'_, S>, guest: &mut Guest) {
    place_kernel_pages(kernel, memory, guest);
    if matches!(kernel.paging.encoding, Encoding::X86 { .. }) {
        let mut visits = Visits::new(memory.source.page_count());
        for root in user_roots(kernel, memory, guest) {
            place_user_pages(kernel, memory, root, &mut visits, guest);
        }
    }
}

/// Gives every kernel page the address that the kernel knows it by: its own mapping, if it has one (a stack, a module), else the
/// direct map's.
fn place_kernel_pages<S: PageSource + ?Sized>(kernel: &Kernel, memory: Physical<'_, S>, guest: &mut Guest) {
    let half = match kernel.paging.encoding {
        Encoding::X86 { .. } => HALF..2 * HALF,
        Encoding::Arm => 0..2 * HALF,
    };
    let pages = memory.source.page_count();
    // The direct map is what maps most memory at one distance.
    let mut distances: Vec<(u64, u64)> = Vec::new();
    let mut known: HashMap<u64, usize> = HashMap::new(); // a guest can have as many as are kept
    kernel.paging.walk(memory, kernel.root, half.clone(), &mut Visits::new(pages), |mapping, _| {
        let distance = mapping.virtual_page.wrapping_sub(mapping.frame);
        match known.get(&distance) {
            Some(&place) => distances[place].1 += mapping.pages,
            None if distances.len() < MAX_DISPLACEMENTS => {
                known.insert(distance, distances.len());
                distances.push((distance, mapping.pages));
            }
            None => {}
        }
        true
    });
    let Some(&(direct, _)) = distances.iter().max_by_key(|(_, pages)| *pages) else { return };
    for page in 0..pages {
        if let Some(frame) = memory.frames.frame_of(page) {
            guest.virtual_pages[page as usize] = frame.wrapping_add(direct) & VIRTUAL_PAGES;
        }
    }
    for &(page, virtual_page) in &guest.array {
        guest.virtual_pages[page as usize] = virtual_page;
    }
    let image = X86_IMAGE_BASE >> 12;
    kernel.paging.walk(memory, kernel.root, half, &mut Visits::new(pages), |mapping, visits| {
        let distance = mapping.virtual_page.wrapping_sub(mapping.frame);
        let own = distance != direct && (mapping.pages == 1 || mapping.virtual_page >= image);
        if !own || !visits.spend(mapping.pages) {
            return visits.spend(0);
        }
        for (page, virtual_page) in pages_of(memory, mapping) {
            if matches!(guest.classes[page as usize], GuestClass::Kernel | GuestClass::Reserved) {
                guest.virtual_pages[page as usize] = virtual_page;
            }
        }
        true
    });
}

/// Virtual page numbers have this many bits.
const VIRTUAL_PAGES: u64 = (1 << 52) - 1;

/// The pages of a mapping, with the virtual page number of each.
fn pages_of<S: PageSource + ?Sized>(
    memory: Physical<'_, S>,
    mapping: Mapping,
) -> impl Iterator<Item = (u64, u64)> {
    let page = move |offset: u64| {
        let page = memory.frames.page_of(mapping.frame + offset)?;
        Some((page, (mapping.virtual_page + offset) & VIRTUAL_PAGES))
    };
    (0..mapping.pages).filter_map(page)
}

/// Physical addresses of the top tables of all processes, ascending.
fn user_roots<S: PageSource + ?Sized>(kernel: &Kernel, memory: Physical<'_, S>, guest: &Guest) -> Vec<u64> {
    let last = |page: &Page| {
        let entry = word_at(page, PAGE_SIZE - 8);
        // Attributes differ between copies; the address does not.
        (entry & 1 != 0).then_some(entry & 0x000f_ffff_ffff_f000)
    };
    let Some(shared) = memory.frame(kernel.root >> 12).and_then(last) else { return Vec::new() };
    let mut roots = Vec::new();
    for piece in memory.frames.pieces() {
        for (frame, page) in (piece.frame..piece.frame + piece.pages).zip(piece.page..) {
            // Tops of page tables are marked as such from some version on.
            let table = matches!(guest.classes[page as usize], GuestClass::PageTable | GuestClass::Kernel);
            if !table || frame == kernel.root >> 12 || roots.len() >= MAX_SPACES {
                continue;
            }
            let Some(bytes) = memory.source.page(page) else { continue };
            let user = (0..HALF).any(|index| word_at(bytes, index * 8) & 1 != 0);
            if user && last(bytes) == Some(shared) {
                roots.push(frame << 12);
            }
        }
    }
    roots
}

fn place_user_pages<S: PageSource + ?Sized>(
    kernel: &Kernel,
    memory: Physical<'_, S>,
    root: u64,
    visits: &mut Visits,
    guest: &mut Guest,
) {
    let owner = guest.spaces.len() as u16 + 1;
    let mut space = Space { root, pages: 0, name: None };
    let mut stack = None;
    kernel.paging.walk(memory, root, 0..HALF, visits, |mapping, visits| {
        if !visits.spend(mapping.pages) {
            return false;
        }
        for (page, virtual_page) in pages_of(memory, mapping) {
            let class = guest.classes[page as usize];
            if class == GuestClass::Anonymous {
                stack = Some(page);
            }
            let user = matches!(
                class,
                GuestClass::Anonymous | GuestClass::Shmem | GuestClass::File | GuestClass::HugeTlb
            );
            if user && guest.owners[page as usize] == 0 {
                guest.owners[page as usize] = owner;
                guest.virtual_pages[page as usize] = virtual_page;
                space.pages += 1;
            }
        }
        true
    });
    space.name = stack.and_then(|page| memory.source.page(page)).and_then(program_name);
    guest.spaces.push(space);
}

/// The path that a stack's first page starts with, which is at its end: a string, its zero byte, and a zero word.
fn program_name(stack: &Page) -> Option<String> {
    let end = PAGE_SIZE - 8;
    let (text, zeros) = stack.split_at(end - 1);
    if zeros.iter().any(|&byte| byte != 0) {
        return None;
    }
    let start = text.iter().rposition(|&byte| byte == 0)? + 1;
    let name = &text[start..];
    let printable = name.iter().all(|byte| (b' '..=b'~').contains(byte));
    let fits = printable && (1..=MAX_NAME).contains(&name.len());
    fits.then(|| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_names_its_program() {
        let mut page = [0; PAGE_SIZE];
        assert_eq!(program_name(&page), None);
        let name = b"/usr/bin/Xorg";
        let end = PAGE_SIZE - 9;
        page[end - name.len()..end].copy_from_slice(name);
        assert_eq!(program_name(&page).as_deref(), Some("/usr/bin/Xorg"));
        page[end - 3] = 7;
        assert_eq!(program_name(&page), None);
        page[end - 3] = b'x';
        page[PAGE_SIZE - 1] = 1;
        assert_eq!(program_name(&page), None);
        assert_eq!(program_name(&[b'a'; PAGE_SIZE]), None);
    }
}
