//! A Linux kernel found in guest memory: its note, and page tables that agree with it.
//!
//! The note says where the kernel's page tables are; they must lead to a structure that holds the release that the
//! note gives. Only then are note, tables and the guess where memory lies believed, all together.

use super::physical::Physical;
use super::tables::{Encoding, Paging};
use super::vmcoreinfo::VmcoreInfo;
use crate::source::PageSource;

/// Where x86-64 kernels are linked to run: symbols are this far above the image's physical address less `phys_base`.
pub(crate) const X86_IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;
/// Notes that are tried: a kernel has one or two, and what a guest has besides must not cost a look at each.
const MAX_NOTES: usize = 64;
/// `struct new_utsname` is six strings of this many bytes; the third is the release.
const UTS_FIELD: u64 = 65;

/// A kernel and how to reach its memory.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) info: VmcoreInfo,
    pub(crate) paging: Paging,
    /// Physical address of the kernel's own top table.
    pub(crate) root: u64,
}

impl Kernel {
    /// The kernel whose note starts in one of the first of these pages, if memory lies so.
    pub(crate) fn find<S: PageSource + ?Sized>(memory: Physical<'_, S>, notes: &[u64]) -> Option<Self> {
        let frames = notes.iter().take(MAX_NOTES).filter_map(|&page| memory.frames.frame_of(page));
        frames.into_iter().find_map(|frame| Self::at(memory, frame))
    }

    fn at<S: PageSource + ?Sized>(memory: Physical<'_, S>, frame: u64) -> Option<Self> {
        let info = VmcoreInfo::read(memory, frame)?;
        if info.page_size() != Some(4096) {
            return None;
        }
        let (paging, root) = x86(&info).or_else(|| arm(&info))?;
        let kernel = Kernel { info, paging, root };
        kernel.agrees(memory).then_some(kernel)
    }

    /// The word at a kernel address that is a multiple of 8.
    pub(crate) fn word<S: PageSource + ?Sized>(&self, memory: Physical<'_, S>, address: u64) -> Option<u64> {
        memory.word(self.paging.translate(memory, self.root, address)?)
    }

    /// Whether the release is where the page tables say.
    fn agrees<S: PageSource + ?Sized>(&self, memory: Physical<'_, S>) -> bool {
        let Some(names) = self.info.symbol("init_uts_ns") else { return false };
        let release = self.info.release().as_bytes();
        if release.is_empty() || release.len() as u64 >= UTS_FIELD {
            return false;
        }
        // Kernels that do not give the offset have a reference count before the names, or nothing.
        let offsets = match self.info.offset("uts_namespace.name") {
            Some(offset) => vec![offset],
            None => vec![0, 4],
        };
        offsets.into_iter().any(|offset| {
            let start = names.wrapping_add(offset).wrapping_add(2 * UTS_FIELD);
            let expected = release.iter().chain(std::iter::once(&0));
            (start..).zip(expected).all(|(address, &byte)| {
                let physical = self.paging.translate(memory, self.root, address);
                physical.and_then(|address| memory.bytes(address)) == Some([byte])
            })
        })
    }
}

fn x86(info: &VmcoreInfo) -> Option<(Paging, u64)> {
    let base = info.number("phys_base")?;
    let root = info.symbol("init_top_pgt")?.wrapping_sub(X86_IMAGE_BASE).wrapping_add(base as u64);
    let encryption = info.number("sme_mask").unwrap_or(0) as u64;
    let levels = if info.number("pgtable_l5_enabled") == Some(1) { 5 } else { 4 };
    Some((Paging { encoding: Encoding::X86 { encryption }, levels }, root))
}

fn arm(info: &VmcoreInfo) -> Option<(Paging, u64)> {
    let offset = info.number("kimage_voffset")?;
    let root = info.symbol("swapper_pg_dir")?.wrapping_sub(offset as u64);
    let bits = match info.number("TCR_EL1_T1SZ") {
        Some(unused) => 64u64.checked_sub(unused as u64)?,
        None => info.number("VA_BITS")? as u64,
    };
    // With pages of 4 KiB; larger addresses than 48 bits need another encoding.
    let levels = match bits {
        39 => 3,
        48 => 4,
        _ => return None,
    };
    Some((Paging { encoding: Encoding::Arm, levels }, root))
}
