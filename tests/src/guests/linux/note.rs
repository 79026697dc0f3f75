//! VMCOREINFO: the note in which the kernel describes itself, as lines of text.

use super::{IMAGE, IMAGE_BASE, IMAGE_FRAME, KERNEL_OFFSET, MEMBERS, NAMES, SECTIONS, STRUCT, TOP_TABLE};
use crate::reference::{PAGE, Page};

/// The release that the kernel says it is.
pub(super) const RELEASE: &str = "6.1.0-hand-made";

/// A note's lines, in order: key and value.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// The lines.
    pub lines: Vec<(String, String)>,
}

impl Note {
    pub(super) fn new() -> Self {
        let mut note = Self::default();
        let mut line = |key: &str, value: String| note.lines.push((key.into(), value));
        line("OSRELEASE", RELEASE.into());
        line("BUILD-ID", "0123456789abcdef0123456789abcdef01234567".into());
        line("PAGESIZE", "4096".into());
        let symbols =
            [("init_uts_ns", NAMES), ("mem_section", SECTIONS), ("init_top_pgt", TOP_TABLE), ("_stext", 0)];
        for (name, offset) in symbols {
            line(&format!("SYMBOL({name})"), format!("{:x}", IMAGE + offset));
        }
        line("OFFSET(uts_namespace.name)", "0".into());
        line("LENGTH(mem_section)", "2048".into());
        line("SIZE(mem_section)", "32".into());
        line("OFFSET(mem_section.section_mem_map)", "0".into());
        line("NUMBER(SECTION_SIZE_BITS)", "27".into());
        line("NUMBER(MAX_PHYSMEM_BITS)", "46".into());
        line("SIZE(page)", STRUCT.to_string());
        for (name, offset, _) in MEMBERS {
            line(&format!("OFFSET(page.{name})"), offset.to_string());
        }
        line("LENGTH(zone.free_area)", super::ORDERS.to_string());
        for (name, bit) in [("PG_lru", 4), ("PG_private", 13), ("PG_swapbacked", 19), ("PG_slab", 9)] {
            line(&format!("NUMBER({name})"), bit.to_string());
        }
        line("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", (super::BUDDY as i32).to_string());
        line("NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)", (!0x100_i32).to_string());
        // From the address of the image in the kernel's half, less where it is linked to start, to where it lies.
        let physical = (IMAGE_FRAME * 4096) as i64 - (IMAGE - IMAGE_BASE) as i64;
        line("NUMBER(phys_base)", physical.to_string());
        line("NUMBER(pgtable_l5_enabled)", "0".into());
        line("NUMBER(sme_mask)", "0".into());
        line("KERNELOFFSET", format!("{KERNEL_OFFSET:x}"));
        note
    }

    /// The same with another value for the keys for which `other` gives one.
    pub fn with(&self, other: impl Fn(&str) -> Option<String>) -> Self {
        let line =
            |(key, value): &(String, String)| (key.clone(), other(key).unwrap_or_else(|| value.clone()));
        Self { lines: self.lines.iter().map(line).collect() }
    }

    /// The same without a line.
    pub fn without(&self, key: &str) -> Self {
        Self { lines: self.lines.iter().filter(|line| line.0 != key).cloned().collect() }
    }

    /// The same with one line more.
    pub fn and(&self, key: &str, value: &str) -> Self {
        let mut note = self.clone();
        note.lines.push((key.into(), value.into()));
        note
    }

    /// The text.
    pub fn text(&self) -> String {
        self.lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
    }

    /// The page that the note starts, with as much of its text as there is room for.
    pub fn page(&self) -> Page {
        let mut page = [0; PAGE];
        let bytes = self.bytes();
        let len = bytes.len().min(PAGE);
        page[..len].copy_from_slice(&bytes[..len]);
        page
    }

    /// The whole note.
    pub fn bytes(&self) -> Vec<u8> {
        let text = self.text();
        let head =
            [&11_u32.to_le_bytes()[..], &(text.len() as u32).to_le_bytes(), &[0; 4], b"VMCOREINFO\0\0"]
                .concat();
        [&head, text.as_bytes()].concat()
    }
}
