//! What a block's meta part says of each residual page: where its literals are, at what address it was coded, and what
//! it is like. All of it is checked here, before a byte of the data is decoded.

use std::ops::Range;

use crate::class::Class;
use crate::columns::{Run, Settled, decode_placements};
use crate::error::DecodeError;
use crate::format::Header;
use crate::format::block::{Block, Codec};
use crate::matches::MatchLists;
use crate::page::{PAGE_SIZE, PAGE_WORDS, PageSet};

pub(crate) fn invalid(field: &'static str, why: &'static str) -> DecodeError {
    DecodeError::Invalid { field, why }
}

/// A residual page and where its literals are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Residual {
    /// Its place in the block.
    pub(crate) ordinal: u64,
    pub(crate) page: u64,
    pub(crate) group: usize,
    /// Its place in the group.
    pub(crate) nth: usize,
    /// Where the literals start in a group that is stored, and their length in bytes.
    pub(crate) start: usize,
    pub(crate) len: usize,
    /// The virtual address that its self-relative words were coded with.
    pub(crate) address: Option<u64>,
    /// What its words that are not stored equal.
    pub(crate) base: Option<Base>,
}

/// A page of words somewhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// 0 for this guest, `1 + n` for reference `n`.
    pub(crate) space: u8,
    /// Page number times 512, plus the first word's place in the page.
    pub(crate) address: u64,
}

/// Checks that what runs point to can exist.
pub(crate) fn check_runs(header: &Header, pages: &PageSet, runs: &[Run]) -> Result<(), DecodeError> {
    let page_count = header.layout.page_count();
    let (mut ordinal, end_of) = (0, |start: u64, run: &Run| start.saturating_add(run.pages.into()));
    for run in runs {
        if run.settled == Settled::Later && header.random_access {
            return Err(invalid("columns", "pages are left for later, though the header says that none are"));
        }
        match run.settled {
            Settled::Reference { index, position } => {
                let need = &header.references[usize::from(index)]; // `columns::decode` knows how many
                if end_of(position, run) > need.blocks {
                    return Err(invalid("columns", "a run ends beyond its reference"));
                }
            }
            Settled::Duplicate { source } => {
                if end_of(source, run) > page_count {
                    return Err(invalid("columns", "a duplicate's source is beyond the memory"));
                }
                if source == pages.page_at(ordinal) {
                    return Err(invalid("columns", "a page is a duplicate of itself"));
                }
            }
            Settled::Zero | Settled::Uniform(_) | Settled::Residual | Settled::Later => {}
        }
        ordinal += u64::from(run.pages);
    }
    Ok(())
}

/// Checks that a block of a stream for random access can be read alone.
pub(crate) fn check_random_access(block: &Block) -> Result<(), DecodeError> {
    if block.matches.is_some() || block.checks.is_none() {
        return Err(invalid("block", "it can not be read at random, though the header says so"));
    }
    Ok(())
}

/// Ordinals and numbers of the residual pages, in order.
pub(crate) fn residual_pages(set: &PageSet, runs: &[Run]) -> Vec<(u64, u64)> {
    let mut pages = Vec::new();
    let mut ordinal = 0;
    for run in runs {
        let end = ordinal + u64::from(run.pages);
        if run.settled == Settled::Residual {
            pages.extend((ordinal..).zip(set.slice(ordinal..end).flatten()));
        }
        ordinal = end;
    }
    pages
}

/// Whether a block with checks has one for each page of a run.
pub(crate) fn is_checked(run: &Run) -> bool {
    !matches!(run.settled, Settled::Zero | Settled::Uniform(_) | Settled::Later)
}

/// Reads the addresses and bases of a block's residual pages, whose numbers are `pages`.
pub(crate) fn read_placements(
    header: &Header,
    block: &Block,
    pages: &[u64],
    residual: &mut [Residual],
) -> Result<(), DecodeError> {
    if !block.addresses.is_empty() {
        for (residual, place) in residual.iter_mut().zip(decode_placements(&block.addresses, pages, 1, 1)?) {
            residual.address = place.map(|(_, number)| virtual_address(number)).transpose()?;
        }
    }
    if !block.bases.is_empty() {
        let step = PAGE_WORDS as i64;
        // The guest's own pages, the references, the guest's memory before the block.
        let spaces = header.references.len() + 2;
        for (residual, place) in
            residual.iter_mut().zip(decode_placements(&block.bases, pages, spaces, step)?)
        {
            let Some((space, address)) = place else { continue };
            let reference = usize::from(space).checked_sub(1).and_then(|index| header.references.get(index));
            if reference.is_none() && header.random_access {
                return Err(invalid(
                    "bases",
                    "one is a page of the guest, though the header says that none are",
                ));
            }
            let length = reference.map_or(header.layout.page_count(), |need| need.blocks);
            let address = u64::try_from(address).ok();
            let address = address.filter(|address| address.div_ceil(PAGE_WORDS as u64) < length);
            let address = address.ok_or(invalid("bases", "one lies beyond its memory"))?;
            residual.base = Some(Base { space, address });
        }
    }
    for residual in residual {
        let stored = block.groups[residual.group].piece.codec == Codec::Raw;
        if stored && (residual.address.is_some() || residual.base.is_some()) {
            return Err(invalid("groups", "pages that are stored have an address or a base"));
        }
        if residual.address.is_some() && residual.base.is_some() {
            return Err(invalid("bases", "a page has an address, too"));
        }
    }
    Ok(())
}

/// Signed virtual page numbers whose neighbourhood holds the word 0, which must stay what it is.
const NEAR_ZERO: Range<i64> = -2..2;
/// Signed virtual page numbers of the widest addresses that processors have (57 bits).
const ADDRESSABLE: Range<i64> = -(1 << 44)..1 << 44;

/// The signed number of a virtual page, if pages may be told to lie there. A guest can claim anything: what is no
/// address on any processor would be too far for a placement.
pub(crate) fn address_number(virtual_page: u64) -> Option<i64> {
    let signed = (virtual_page << 12) as i64 >> 12;
    (ADDRESSABLE.contains(&signed) && !NEAR_ZERO.contains(&signed)).then_some(signed)
}

/// The virtual address of a page with this signed number.
fn virtual_address(number: i64) -> Result<u64, DecodeError> {
    if NEAR_ZERO.contains(&number) {
        return Err(invalid("addresses", "one is too near to 0"));
    }
    Ok((number << 12) as u64)
}

/// Finds each residual page's literals, and checks that the groups hold just what they need.
pub(crate) fn place(
    block: &Block,
    classes: &[Class],
    matches: &MatchLists,
    numbers: &[(u64, u64)],
) -> Result<Vec<Residual>, DecodeError> {
    // The next group of each class, and how many of its pages and bytes are taken.
    let mut cursors = Class::ALL.map(|class| {
        let first = block.groups.iter().position(|group| group.class == class).unwrap_or(block.groups.len());
        (first, 0u32, 0usize)
    });
    let mut residual = Vec::with_capacity(numbers.len());
    for (index, (&(ordinal, page), &class)) in numbers.iter().zip(classes).enumerate() {
        let (group, taken, start) = &mut cursors[class as usize];
        let found = block.groups.get(*group).filter(|found| found.class == class);
        let found = found.ok_or(invalid("groups", "a class has more pages than its groups"))?;
        let len = PAGE_SIZE - matches.covered(index) * 8;
        let nth = *taken as usize;
        residual.push(Residual {
            ordinal,
            page,
            group: *group,
            nth,
            start: *start,
            len,
            address: None,
            base: None,
        });
        *start += len;
        *taken += 1;
        if *taken == found.pages {
            // Of packed groups, the masks tell.
            if found.piece.codec == Codec::Raw && *start as u64 != found.piece.raw_len {
                return Err(invalid("groups", "a group's length is not that of its pages"));
            }
            (*group, *taken, *start) = (*group + 1, 0, 0);
        }
    }
    let grouped: u64 = block.groups.iter().map(|group| u64::from(group.pages)).sum();
    if grouped != numbers.len() as u64 || cursors.iter().any(|&(_, taken, _)| taken > 0) {
        return Err(invalid("groups", "they have more pages than there are"));
    }
    Ok(residual)
}
