//! Section 5: a block, from its frame to its pages. What its residual pages are is in [`super::residual`].

use super::bytes::{Cursor, hash128};
use super::columns::{self, Run, What};
use super::frame::Frame;
use super::header::Header;
use super::matches::{self, LongMatch};
use super::pageset::PageSet;
use super::piece::Piece;
use super::places::{self, Place};
use super::residual;
use super::{PAGE, Page, WORDS};

const MAX_GROUPS: u64 = 1 << 16;

/// A block, looked at from outside.
#[derive(Clone, Debug)]
pub struct BlockView {
    /// Which frame of the stream it is, from 0.
    pub sequence: u64,
    /// Where its frame starts in the stream.
    pub offset: u64,
    /// The live round.
    pub round: u64,
    /// First page and number of pages of each range of the page set, in its order.
    pub ranges: Vec<(u64, u64)>,
    /// Whether the page set is a list.
    pub is_list: bool,
    /// How many pages are in its set.
    pub pages: u64,
    /// How many pages it brings: those of its set without those of kind *later*.
    pub brings: u64,
    /// XXH3-128 of the pages' fingerprints, as stored.
    pub digest: [u8; 16],
    /// Bytes of the columns.
    pub columns_len: u64,
    /// What its pages are.
    pub runs: Vec<Run>,
    /// The class of each residual page.
    pub classes: Vec<u8>,
    /// Whether flag bit 0 is set.
    pub has_matches: bool,
    /// Whether flag bit 1 is set.
    pub has_checks: bool,
    /// The address of each residual page that has one; empty if flag bit 2 is not set.
    pub addresses: Vec<Option<u64>>,
    /// The base of each residual page that has one, as space and word address; empty if flag bit 3 is not set.
    pub bases: Vec<Option<(u64, u64)>>,
    /// Whether words that moved against those are told by how far.
    pub has_moved: bool,
    /// The groups of literals.
    pub groups: Vec<GroupView>,
    /// The long matches of each residual page; empty until the data part is read.
    pub matches: Vec<Vec<LongMatch>>,
}

/// A group of literals, looked at from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// The class of its pages.
    pub class: u8,
    /// How many residual pages.
    pub pages: u64,
    /// 0 raw, 2 zstd of packed words.
    pub codec: u8,
    /// Bytes of literals.
    pub raw_len: u64,
    /// Bytes in the data part.
    pub coded_len: u64,
}

impl BlockView {
    /// The numbers of the pages that it brings, in the order of the set.
    pub fn brought(&self) -> Vec<u64> {
        self.pages_that(|what| what != What::Later)
    }

    /// The numbers of its residual pages, in the order of the set.
    pub fn residual_pages(&self) -> Vec<u64> {
        self.pages_that(|what| what == What::Residual)
    }

    fn pages_that(&self, are: impl Fn(What) -> bool) -> Vec<u64> {
        let numbers: Vec<u64> = self.ranges.iter().flat_map(|&(first, pages)| first..first + pages).collect();
        let runs = self.runs.iter().filter(|run| are(run.what));
        runs.flat_map(|run| numbers[run.ordinal as usize..][..run.pages as usize].to_vec()).collect()
    }

    /// How many pages are of each kind, by the kind's number.
    pub fn pages_by_kind(&self) -> [u64; What::KINDS] {
        let mut pages = [0; What::KINDS];
        for run in &self.runs {
            pages[run.what.kind()] += run.pages;
        }
        pages
    }

    /// How many runs are of each kind, by the kind's number.
    pub fn runs_by_kind(&self) -> [u64; What::KINDS] {
        let mut runs = [0; What::KINDS];
        for run in &self.runs {
            runs[run.what.kind()] += 1;
        }
        runs
    }
}

/// What else blocks need to know: the guest as the blocks before have made it.
pub(super) struct Guest<'a> {
    pub(super) header: &'a Header,
    pub(super) references: &'a [Option<Vec<u8>>],
    /// The image's file so far.
    pub(super) file: &'a [u8],
    /// What each page was in the last block that brought it.
    pub(super) whats: &'a [Option<What>],
}

impl Guest<'_> {
    pub(super) fn page(&self, number: u64) -> Page {
        let start = self.header.offset_of(number);
        let mut page = [0; PAGE];
        page.copy_from_slice(&self.file[start..start + PAGE]);
        page
    }
}

/// A block whose meta part is read and checked.
pub(super) struct Block<'a> {
    pub(super) view: BlockView,
    pub(super) set: PageSet,
    /// What each page is, by ordinal.
    pub(super) whats: Vec<What>,
    /// The ordinals of the residual pages.
    pub(super) residual: Vec<u64>,
    pub(super) data: &'a [u8],
    matches: Option<Piece>,
    checks: Option<Piece>,
    pub(super) groups: Vec<Piece>,
}

impl<'a> Block<'a> {
    pub(super) fn parse(frame: &Frame<'a>, header: &Header) -> Result<Self, String> {
        let mut cursor = Cursor::new(frame.meta);
        let round = cursor.varint("round")?;
        let set = PageSet::parse(&mut cursor, header.block_pages, header.page_count)?;
        let digest = cursor.array("digest")?;
        let columns_len = cursor.varint("columns_len")?;
        let columns = cursor.take(columns_len, "columns")?;
        let (runs, classes) = columns::decode(columns, &set, header).map_err(|e| format!("columns: {e}"))?;
        let mut whats = Vec::new();
        for run in &runs {
            for i in 0..run.pages {
                whats.push(match run.what {
                    What::Duplicate { source } => What::Duplicate { source: source + i },
                    What::Reference { index, position } => What::Reference { index, position: position + i },
                    same => same,
                });
            }
        }
        let residual: Vec<u64> = (0..set.pages).filter(|&o| whats[o as usize] == What::Residual).collect();

        let flags = cursor.u8("block flags")?;
        if flags > 31 {
            return Err(format!("block flags: {flags:#x} has unknown bits"));
        }
        let has_moved = flags & 16 != 0;
        if has_moved && flags & 8 == 0 {
            return Err(format!("block flags: {flags:#x} has moved words without bases"));
        }
        let (has_matches, has_checks) = (flags & 1 != 0, flags & 2 != 0);
        let (has_addresses, has_bases) = (flags & 4 != 0, flags & 8 != 0);
        if header.independent && has_matches {
            return Err("block flags: long matches, in a stream of blocks that can be decoded alone".into());
        }
        // Reading: also where no page needs a check.
        if header.independent && !has_checks {
            return Err("block flags: no checks, in a stream of blocks that can be decoded alone".into());
        }
        if header.independent && whats.contains(&What::Later) {
            return Err(
                "columns: pages left for later, in a stream of blocks that can be decoded alone".into()
            );
        }
        let data_len = frame.view.data_len;
        let mut at = 0;
        let mut matches = None;
        if has_matches {
            let piece = Piece::parse(&mut cursor, at, &[0, 1]).map_err(|e| format!("matches: {e}"))?;
            let most = set.pages * PAGE as u64 + 64;
            if piece.raw_len > most {
                return Err(format!("matches: raw_len: {} is above {most}", piece.raw_len));
            }
            at = piece.end(data_len).map_err(|e| format!("matches: {e}"))?;
            matches = Some(piece);
        }
        let mut checks = None;
        if has_checks {
            let piece = Piece::parse(&mut cursor, at, &[0, 1]).map_err(|e| format!("checks: {e}"))?;
            if piece.codec != 0 {
                return Err(format!("checks: codec: {}, must be raw", piece.codec));
            }
            let checked = whats.iter().filter(|what| is_checked(**what)).count() as u64;
            if piece.raw_len != checked * 8 {
                return Err(format!("checks: raw_len: {} for {checked} pages", piece.raw_len));
            }
            at = piece.end(data_len).map_err(|e| format!("checks: {e}"))?;
            checks = Some(piece);
        }

        let numbers: Vec<u64> = residual.iter().map(|&ordinal| set.page(ordinal)).collect();
        let addresses = match has_addresses {
            true => read_addresses(&mut cursor, &numbers).map_err(|e| format!("addresses: {e}"))?,
            false => Vec::new(),
        };
        let bases = match has_bases {
            true => read_bases(&mut cursor, &numbers, &set, header).map_err(|e| format!("bases: {e}"))?,
            false => Vec::new(),
        };
        if let Some((place, _)) =
            addresses.iter().zip(&bases).enumerate().find(|(_, (a, b))| a.is_some() && b.is_some())
        {
            return Err(format!("bases: page {} has an address, too", numbers[place]));
        }

        let count = cursor.varint_to(MAX_GROUPS, "groups")?;
        let mut views = Vec::new();
        let mut groups = Vec::new();
        let mut least = 0;
        for number in 0..count {
            let (view, piece) =
                residual::group(&mut cursor, at, least).map_err(|e| format!("group {number}: {e}"))?;
            at = piece.end(data_len).map_err(|e| format!("group {number}: {e}"))?;
            least = view.class;
            views.push(view);
            groups.push(piece);
        }
        cursor.finish("block meta part")?;
        if at != u64::from(data_len) {
            return Err(format!("block data part: {data_len} bytes, the pieces have {at}"));
        }
        for class in 0..=residual::MAX_CLASS {
            let pages = classes.iter().filter(|c| **c == class).count() as u64;
            let mut grouped = 0u64;
            for view in views.iter().filter(|view| view.class == class) {
                grouped = grouped.saturating_add(view.pages);
            }
            if pages != grouped {
                return Err(format!("groups: those of class {class} hold {grouped} pages of {pages}"));
            }
        }
        let view = BlockView {
            sequence: frame.view.sequence,
            offset: frame.view.offset,
            round,
            ranges: set.ranges.clone(),
            is_list: set.is_list,
            pages: set.pages,
            brings: whats.iter().filter(|what| **what != What::Later).count() as u64,
            digest,
            columns_len,
            runs,
            classes,
            has_matches,
            has_checks,
            addresses,
            bases,
            has_moved,
            groups: views,
            matches: Vec::new(),
        };
        let block = Self { view, set, whats, residual, data: frame.data, matches, checks, groups };
        block.check_raw_groups()?;
        Ok(block)
    }

    /// Rebuilds and verifies all pages, in the order of the set; those that it leaves for later are zero here.
    pub(super) fn rebuild(&mut self, guest: &Guest<'_>) -> Result<Vec<Page>, String> {
        self.view.matches = self.read_matches()?;
        let mut pages = vec![[0; PAGE]; self.whats.len()];
        // Residual pages first, from low to high: matches copy from lower ones, duplicates from any.
        self.rebuild_residual(&mut pages, guest)?;
        for ordinal in 0..pages.len() {
            match self.whats[ordinal] {
                What::Zero | What::Residual | What::Later => {}
                What::Uniform(word) => pages[ordinal] = uniform(word),
                What::Duplicate { source } => {
                    pages[ordinal] = self.duplicate(ordinal, source, &pages, guest)?
                }
                What::Reference { index, position } => {
                    pages[ordinal] = guest.header.reference_block(guest.references, index, position)?;
                }
            }
        }
        self.verify(&pages)?;
        Ok(pages)
    }

    fn duplicate(
        &self,
        ordinal: usize,
        source: u64,
        pages: &[Page],
        guest: &Guest<'_>,
    ) -> Result<Page, String> {
        let own = self.set.page(ordinal as u64);
        match self.set.ordinal(source) {
            Some(other) if self.whats[other as usize] == What::Residual => Ok(pages[other as usize]),
            Some(_) => Err(format!("duplicate: page {own}, source {source} in the block is not residual")),
            None if guest.header.independent && guest.whats[source as usize] != Some(What::Residual) => {
                Err(format!("duplicate: page {own}, source {source} is no residual page of an earlier block"))
            }
            None => Ok(guest.page(source)),
        }
    }

    pub(super) fn read_matches(&self) -> Result<Vec<Vec<LongMatch>>, String> {
        let numbers: Vec<u64> = self.residual.iter().map(|&ordinal| self.set.page(ordinal)).collect();
        match &self.matches {
            None => Ok(vec![Vec::new(); numbers.len()]),
            Some(piece) => {
                let bytes = piece.decode(self.data).map_err(|e| format!("matches: {e}"))?;
                matches::parse(&bytes, &numbers)
            }
        }
    }

    /// Section 5.8.
    fn verify(&self, pages: &[Page]) -> Result<(), String> {
        let mut fingerprints = Vec::new();
        for (page, what) in pages.iter().zip(&self.whats) {
            if *what != What::Later {
                fingerprints.extend(hash128(page));
            }
        }
        if hash128(&fingerprints) != self.view.digest {
            return Err("block digest: the pages are not those that were packed".into());
        }
        for (ordinal, check) in self.checks()? {
            if check != hash128(&pages[ordinal as usize])[..8] {
                return Err(format!("checks: that of ordinal {ordinal} does not hold"));
            }
        }
        Ok(())
    }

    /// The check of each page that has one, with its ordinal.
    fn checks(&self) -> Result<Vec<(u64, Vec<u8>)>, String> {
        let Some(piece) = &self.checks else { return Ok(Vec::new()) };
        let bytes = piece.decode(self.data)?;
        let checked = (0..self.set.pages).filter(|&ordinal| is_checked(self.whats[ordinal as usize]));
        Ok(checked.zip(bytes.chunks_exact(8).map(<[u8]>::to_vec)).collect())
    }

    /// Holds one page against its check, if it has one.
    pub(super) fn verify_one(&self, ordinal: u64, page: &Page) -> Result<(), String> {
        match self.checks()?.into_iter().find(|(checked, _)| *checked == ordinal) {
            Some((_, check)) if check != hash128(page)[..8] => {
                Err(format!("checks: that of ordinal {ordinal} does not hold"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a page has a check where a block has checks.
fn is_checked(what: What) -> bool {
    !matches!(what, What::Zero | What::Uniform(_) | What::Later)
}

/// The bytes of a list of addresses or bases.
fn take_places<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], String> {
    let len = cursor.varint("length")?;
    if len == 0 {
        return Err("length: is 0".into());
    }
    cursor.take(len, "bytes")
}

/// Section 6.6: the address of each residual page, whose numbers are `pages`.
fn read_addresses(cursor: &mut Cursor<'_>, pages: &[u64]) -> Result<Vec<Option<u64>>, String> {
    let places = places::decode(take_places(cursor)?, pages, 1, 1)?;
    let address = |(place, &page): (Option<Place>, &u64)| match place {
        None => Ok(None),
        Some(Place { at: -2..=1, .. }) => Err(format!("page {page}: it is next to address 0")),
        Some(Place { at, .. }) => Ok(Some((at as u64).wrapping_mul(PAGE as u64))),
    };
    places.into_iter().zip(pages).map(address).collect()
}

/// Section 6.6: the base of each residual page, whose numbers are `pages`: its space and first word.
fn read_bases(
    cursor: &mut Cursor<'_>,
    pages: &[u64],
    set: &PageSet,
    header: &Header,
) -> Result<Vec<Option<(u64, u64)>>, String> {
    // This guest, the references, and this guest before the block.
    let spaces = 2 + header.references.len() as u64;
    let places = places::decode(take_places(cursor)?, pages, spaces, WORDS as i64)?;
    let base = |(place, &page): (Option<Place>, &u64)| {
        let Some(Place { space, at }) = place else { return Ok(None) };
        let first = u64::try_from(at).map_err(|_| format!("page {page}: word {at}"))?;
        let pages_of_base = first / WORDS..(first + WORDS).div_ceil(WORDS);
        let is_guest = space == 0 || space == spaces - 1;
        let in_all = match is_guest {
            true => header.page_count,
            false => header.references[space as usize - 1].blocks,
        };
        if pages_of_base.end > in_all {
            return Err(format!("page {page}: word {first} of {in_all} pages of space {space}"));
        }
        if is_guest && header.independent {
            return Err(format!("page {page}: of this guest, and blocks can be decoded alone"));
        }
        if space == 0 && pages_of_base.clone().any(|page| set.ordinal(page).is_some()) {
            return Err(format!("page {page}: word {first} is in this block"));
        }
        Ok(Some((space, first)))
    };
    places.into_iter().zip(pages).map(base).collect()
}

/// A page that is one word again and again.
pub(super) fn uniform(word: u64) -> Page {
    let mut page = [0; PAGE];
    for bytes in page.chunks_exact_mut(8) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    page
}
