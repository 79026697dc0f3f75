//! The note in which a Linux kernel describes itself: VMCOREINFO.
//!
//! The kernel writes it for crash dumps, at the start of a page of its own, early in boot. It has the release, a few symbols'
//! addresses, and the sizes, offsets and numbers that reading `struct page` needs, all as lines of text. Sources: Linux'
//! `kernel/vmcore_info.c` and `Documentation/admin-guide/kdump/vmcoreinfo.rst`.

use std::collections::HashMap;
use std::ops::Range;

use super::physical::Physical;
use crate::page::{PAGE_SIZE, Page};
use crate::source::PageSource;

/// The note's head: name length 11, then any description length, then type 0 and the name.
const NAME_LEN: [u8; 4] = 11u32.to_le_bytes();
const NAME: &[u8] = b"\0\0\0\0VMCOREINFO\0\0";
/// What the text starts with; without a note's head, the page is the kernel's own copy.
const FIRST_KEY: &[u8] = b"OSRELEASE=";
/// Bytes of text at most; kernels give it one page so far.
const MAX_TEXT: usize = 64 << 10;
/// Longest value that is kept: the longest that kernels write have 65 bytes.
const MAX_VALUE: usize = 256;

/// Whether a page starts as the note does: what a pass over all pages looks for.
pub(crate) fn begins_here(page: &Page) -> bool {
    text_start(page).is_some()
}

/// Where the text starts, and how long it is said to be.
fn text_start(page: &Page) -> Option<(usize, usize)> {
    if page.starts_with(FIRST_KEY) {
        return Some((0, PAGE_SIZE));
    }
    let (name_len, rest) = page.split_first_chunk::<4>()?;
    let (text_len, rest) = rest.split_first_chunk::<4>()?;
    let start = 8 + NAME.len();
    let text_len = u32::from_le_bytes(*text_len) as usize;
    let fits = *name_len == NAME_LEN
        && rest.starts_with(NAME)
        && page[start..].starts_with(FIRST_KEY)
        && (FIRST_KEY.len()..=MAX_TEXT).contains(&text_len);
    fits.then_some((start, text_len))
}

/// What a note says.
#[derive(Clone, Debug)]
pub(crate) struct VmcoreInfo {
    /// The frames that the note is in.
    frames: Range<u64>,
    values: HashMap<String, String>,
}

impl VmcoreInfo {
    /// Reads the note that starts in this frame.
    pub(crate) fn read<S: PageSource + ?Sized>(memory: Physical<'_, S>, frame: u64) -> Option<Self> {
        let (start, len) = text_start(memory.frame(frame)?)?;
        let end = start + len;
        let mut text = Vec::new();
        for index in 0..end.div_ceil(PAGE_SIZE) {
            text.extend_from_slice(memory.frame(frame + index as u64)?);
        }
        let frames = frame..frame + (text.len() / PAGE_SIZE) as u64;
        Some(VmcoreInfo { frames, values: Self::parse(&text[start..end])? })
    }

    /// Reads the text, up to its first zero byte.
    fn parse(text: &[u8]) -> Option<HashMap<String, String>> {
        let text = text.split(|&byte| byte == 0).next()?;
        let text = std::str::from_utf8(text).ok()?;
        if text.bytes().any(|byte| byte != b'\n' && !(b' '..=b'~').contains(&byte)) {
            return None;
        }
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let short = lines.filter(|(_, value)| value.len() <= MAX_VALUE);
        Some(short.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// The frames that the note is in.
    pub(crate) fn frames(&self) -> Range<u64> {
        self.frames.clone()
    }

    fn value(&self, kind: &str, name: &str) -> Option<&str> {
        self.values.get(&format!("{kind}({name})")).map(String::as_str)
    }

    /// The kernel's release, as `uname -r` prints it.
    pub(crate) fn release(&self) -> &str {
        self.values.get("OSRELEASE").map_or("", String::as_str)
    }

    /// Major and minor version from the release.
    pub(crate) fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.release().split(|c: char| !c.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// The build id in hexadecimal digits, where the kernel gives it.
    pub(crate) fn build_id(&self) -> Option<&str> {
        self.values.get("BUILD-ID").map(String::as_str)
    }

    /// The kernel's page size in bytes.
    pub(crate) fn page_size(&self) -> Option<u64> {
        self.values.get("PAGESIZE")?.parse().ok()
    }

    /// How far the kernel's virtual addresses are from those that it was linked at.
    pub(crate) fn kernel_offset(&self) -> Option<u64> {
        u64::from_str_radix(self.values.get("KERNELOFFSET")?, 16).ok()
    }

    /// A symbol's virtual address.
    pub(crate) fn symbol(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.value("SYMBOL", name)?, 16).ok()
    }

    /// A number: signed decimal, or hexadecimal with 0x.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        let value = self.value("NUMBER", name)?;
        match value.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok().map(|value| value as i64),
            None => value.parse().ok(),
        }
    }

    /// A structure's size in bytes.
    pub(crate) fn size(&self, name: &str) -> Option<u64> {
        self.value("SIZE", name)?.parse().ok()
    }

    /// A member's offset in bytes, such as of `page.flags`.
    pub(crate) fn offset(&self, name: &str) -> Option<u64> {
        self.value("OFFSET", name)?.parse().ok()
    }

    /// An array's length.
    pub(crate) fn length(&self, name: &str) -> Option<u64> {
        self.value("LENGTH", name)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::physical::FrameMap;
    use super::*;

    fn note(text: &[u8], text_len: u32) -> Page {
        let mut page = [0; PAGE_SIZE];
        let head = [&NAME_LEN[..], &text_len.to_le_bytes(), NAME].concat();
        page[..head.len()].copy_from_slice(&head);
        page[head.len()..head.len() + text.len()].copy_from_slice(text);
        page
    }

    const TEXT: &[u8] = b"OSRELEASE=6.1.0-56-amd64\nPAGESIZE=4096\nSYMBOL(init_top_pgt)=ffffffffb4c10000\n\
        NUMBER(phys_base)=-687865856\nNUMBER(VMALLOC_START)=0xffff800080000000\nSIZE(page)=64\nnonsense\n=\n";

    #[test]
    fn a_note_is_read_with_and_without_its_head() {
        let mut bare = [0; PAGE_SIZE];
        bare[..TEXT.len()].copy_from_slice(TEXT);
        for page in [note(TEXT, TEXT.len() as u32), bare] {
            assert!(begins_here(&page));
            let frames = &FrameMap::guesses(1)[0];
            let info = VmcoreInfo::read(Physical { source: &page[..], frames }, 0).unwrap();
            assert_eq!((info.release(), info.version()), ("6.1.0-56-amd64", Some((6, 1))));
            assert_eq!(info.symbol("init_top_pgt"), Some(0xffff_ffff_b4c1_0000));
            assert_eq!(info.number("phys_base"), Some(-687_865_856));
            assert_eq!(info.number("VMALLOC_START"), Some(0xffff_8000_8000_0000_u64 as i64));
            assert_eq!((info.size("page"), info.offset("page.flags")), (Some(64), None));
        }
    }

    #[test]
    fn what_only_looks_like_one_is_not() {
        assert!(!begins_here(&[0; PAGE_SIZE]));
        for len in [0, 9, MAX_TEXT as u32 + 1, u32::MAX] {
            assert!(!begins_here(&note(TEXT, len)), "{len}");
        }
        assert!(!begins_here(&note(b"RELEASE=", 100)));
        // Text that is not text, and a note that goes on past the end of memory.
        let frames = &FrameMap::guesses(1)[0];
        for page in [note(b"OSRELEASE=\x01", 100), note(TEXT, 5000)] {
            assert!(VmcoreInfo::read(Physical { source: &page[..], frames }, 0).is_none());
        }
    }
}
