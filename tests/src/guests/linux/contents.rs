//! What the pages hold: enough like memory to be coded as memory is.

use super::Memory;
use crate::handmade::Random;
use crate::reference::{PAGE, Page};

/// Blocks of the disk: the code of a program, and of another.
pub(super) fn disk(random: &mut Random) -> Vec<u8> {
    let mut disk = vec![];
    for _ in 0..16 {
        let mut page = [0; PAGE];
        code(&mut page, random);
        disk.extend(page);
    }
    disk
}

/// The kernel's code.
pub(super) fn image(memory: &mut Memory, random: &mut Random, first: u64, frames: u64) {
    (first..first + frames).for_each(|frame| code(memory.page_mut(frame), random));
}

/// Words of which some are much more frequent than others, as instructions are.
fn code(page: &mut Page, random: &mut Random) {
    for word in page.chunks_exact_mut(8) {
        let bits = random.below(9) as u32;
        word.copy_from_slice(&(random.bits(bits) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
}

/// Words of text.
pub(super) fn text(page: &mut Page, random: &mut Random) {
    for word in page.chunks_exact_mut(8) {
        let letters = [b"the ", b"page", b" of ", b"word", b"list", b"and ", b"heap", b"for "];
        for half in word.chunks_exact_mut(4) {
            half.copy_from_slice(letters[random.below(8) as usize]);
        }
    }
}

/// Objects of 64 bytes at a virtual address: a list's two pointers to neighbours, a pointer to elsewhere, a count, a hash, and
/// zeros.
pub(super) fn pointers(page: &mut Page, random: &mut Random, address: u64) {
    for object in 0..64 {
        let own = address + object * 64;
        let near = own - own % 2048 + random.below(32) * 64;
        let far = (address & !0xf_ffff) + random.below(1 << 14) * 64;
        let words = [near, near ^ 64, far, random.below(9), random.word() >> 52, 0, 0, 0];
        for (number, word) in words.into_iter().enumerate() {
            page[object as usize * 64 + number * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// Changes some words.
pub(super) fn touch(page: &mut Page, random: &mut Random, words: u64) {
    for _ in 0..words {
        let at = random.below(512) as usize * 8;
        page[at..at + 8].copy_from_slice(&(random.word() >> 20).to_le_bytes());
    }
}

/// The last page of a stack: arguments, environment, the path of the program, and eight zero bytes.
pub(super) fn end_of_stack(page: &mut Page, name: &str) {
    let text = format!("{name}\0--flag\0HOME=/root\0{name}\0");
    page[PAGE - 8 - text.len()..PAGE - 8].copy_from_slice(text.as_bytes());
    page[PAGE - 8..].fill(0);
}
