//! Section 5: a block, from its frame to its pages.

use super::bytes::{Cursor, hash128};
use super::columns::{self, Run, What};
use super::frame::Frame;
use super::header::Header;
use super::matches::{self, LongMatch};
use super::pageset::PageSet;
use super::piece::Piece;
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
    /// First page and number of pages of each range of the page set.
    pub ranges: Vec<(u64, u64)>,
    /// How many pages it holds.
    pub pages: u64,
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
    /// How many pages are of each kind, by the kind's number.
    pub fn pages_by_kind(&self) -> [u64; 5] {
        let mut pages = [0; 5];
        for run in &self.runs {
            pages[run.what.kind()] += run.pages;
        }
        pages
    }

    /// How many runs are of each kind, by the kind's number.
    pub fn runs_by_kind(&self) -> [u64; 5] {
        let mut runs = [0; 5];
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
    /// What each page was in the last block that held it.
    pub(super) whats: &'a [Option<What>],
}

impl Guest<'_> {
    fn page(&self, number: u64) -> Page {
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
    residual: Vec<u64>,
    data: &'a [u8],
    matches: Option<Piece>,
    checks: Option<Piece>,
    groups: Vec<Piece>,
}

impl<'a> Block<'a> {
    pub(super) fn parse(frame: &Frame<'a>, header: &Header) -> Result<Self, String> {
        let mut cursor = Cursor::new(frame.meta);
        let round = cursor.varint("round")?;
        let set = PageSet::parse(&mut cursor, header.block_pages, header.page_count)?;
        let digest = cursor.array("digest")?;
        let columns_len = cursor.varint("columns_len")?;
        let columns = cursor.take(columns_len, "columns")?;
        let (runs, classes) = columns::decode(columns, &set, header)?;
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
        if flags > 3 {
            return Err(format!("block flags: {flags:#x} has unknown bits"));
        }
        let (has_matches, has_checks) = (flags & 1 != 0, flags & 2 != 0);
        if header.independent && has_matches {
            return Err("block flags: long matches, in a stream of blocks that can be decoded alone".into());
        }
        // Reading: also where no page needs a check.
        if header.independent && !has_checks {
            return Err("block flags: no checks, in a stream of blocks that can be decoded alone".into());
        }
        let data_len = frame.view.data_len;
        let mut at = 0;
        let mut matches = None;
        if has_matches {
            let piece = Piece::parse(&mut cursor, at, [0, 1]).map_err(|e| format!("matches: {e}"))?;
            let most = set.pages * PAGE as u64 + 64;
            if piece.raw_len > most {
                return Err(format!("matches: raw_len: {} is above {most}", piece.raw_len));
            }
            at = piece.end(data_len).map_err(|e| format!("matches: {e}"))?;
            matches = Some(piece);
        }
        let mut checks = None;
        if has_checks {
            let piece = Piece::parse(&mut cursor, at, [0, 1]).map_err(|e| format!("checks: {e}"))?;
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

        let count = cursor.varint_to(MAX_GROUPS, "groups")?;
        let mut views = Vec::new();
        let mut groups = Vec::new();
        let mut least = 0;
        for number in 0..count {
            let (view, piece) = group(&mut cursor, at, least).map_err(|e| format!("group {number}: {e}"))?;
            at = piece.end(data_len).map_err(|e| format!("group {number}: {e}"))?;
            least = view.class;
            views.push(view);
            groups.push(piece);
        }
        cursor.finish("block meta part")?;
        if at != u64::from(data_len) {
            return Err(format!("block data part: {data_len} bytes, the pieces have {at}"));
        }
        for class in 0..6 {
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
            pages: set.pages,
            digest,
            columns_len,
            runs,
            classes,
            has_matches,
            has_checks,
            groups: views,
            matches: Vec::new(),
        };
        Ok(Self { view, set, whats, residual, data: frame.data, matches, checks, groups })
    }

    /// Rebuilds and verifies all pages, in the order of the set.
    pub(super) fn rebuild(&mut self, guest: &Guest<'_>) -> Result<Vec<Page>, String> {
        self.view.matches = self.read_matches()?;
        let mut pages = vec![[0; PAGE]; self.whats.len()];
        // Residual pages first, from low to high: matches copy from lower ones, duplicates from any.
        let literals = self.literals()?;
        for (place, &ordinal) in self.residual.iter().enumerate() {
            let page = self.residual_page(place, &literals[place], &pages, guest)?;
            pages[ordinal as usize] = page;
        }
        for ordinal in 0..pages.len() {
            match self.whats[ordinal] {
                What::Zero | What::Residual => {}
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

    fn read_matches(&self) -> Result<Vec<Vec<LongMatch>>, String> {
        let numbers: Vec<u64> = self.residual.iter().map(|&ordinal| self.set.page(ordinal)).collect();
        match &self.matches {
            None => Ok(vec![Vec::new(); numbers.len()]),
            Some(piece) => {
                let bytes = piece.decode(self.data).map_err(|e| format!("matches: {e}"))?;
                matches::parse(&bytes, &numbers)
            }
        }
    }

    /// For each group, which residual pages (as places among these) it holds.
    fn group_pages(&self) -> Vec<Vec<usize>> {
        let mut by_class = vec![Vec::new(); 6];
        for (place, &class) in self.view.classes.iter().enumerate() {
            by_class[usize::from(class)].push(place);
        }
        let mut groups = Vec::new();
        for view in &self.view.groups {
            // `parse` has checked that the groups of a class hold all its pages.
            let rest = by_class[usize::from(view.class)].split_off(view.pages as usize);
            groups.push(std::mem::replace(&mut by_class[usize::from(view.class)], rest));
        }
        groups
    }

    /// Decodes group `number`, whose pages are `places`, to the literals of each of these.
    fn group_literals(&self, number: usize, places: &[usize]) -> Result<Vec<Vec<u8>>, String> {
        if self.groups[number].codec == 2 {
            return self.packed_literals(number, places);
        }
        let lens: Vec<usize> = places
            .iter()
            .map(|&place| (WORDS - matches::covered(&self.view.matches[place])) as usize * 8)
            .collect();
        let piece = &self.groups[number];
        let total: usize = lens.iter().sum();
        if piece.raw_len != total as u64 {
            return Err(format!("group {number}: raw_len: {}, the pages want {total}", piece.raw_len));
        }
        let bytes = piece.decode(self.data).map_err(|e| format!("group {number}: {e}"))?;
        let mut literals = Vec::new();
        let mut at = 0;
        for len in lens {
            literals.push(bytes[at..at + len].to_vec());
            at += len;
        }
        Ok(literals)
    }

    /// The same for a group of codec 2: the literals that are not stored are 0.
    fn packed_literals(&self, number: usize, places: &[usize]) -> Result<Vec<Vec<u8>>, String> {
        let bytes = self.groups[number].decode(self.data).map_err(|e| format!("group {number}: {e}"))?;
        let Some(masks_at) = bytes.len().checked_sub(64 * places.len()) else {
            return Err(format!("group {number}: raw_len: {} has no room for masks", bytes.len()));
        };
        let (words, masks) = bytes.split_at(masks_at);
        let mut words = words.chunks(8);
        let mut all = Vec::new();
        for (&place, mask) in places.iter().zip(masks.chunks_exact(64)) {
            let is_literal = matches::literals(&self.view.matches[place]);
            let mut literals = Vec::new();
            for word in 0..WORDS as usize {
                let is_stored = mask[word / 8] >> (word % 8) & 1 == 1;
                match (is_stored, is_literal[word]) {
                    (false, false) => {}
                    (false, true) => literals.extend([0; 8]),
                    (true, false) => {
                        return Err(format!("group {number}: word {word} is covered, and stored"));
                    }
                    (true, true) => match words.next() {
                        Some(bytes) if bytes.len() == 8 => literals.extend(bytes),
                        _ => return Err(format!("group {number}: raw_len: there are too few words")),
                    },
                }
            }
            all.push(literals);
        }
        match words.next() {
            Some(_) => Err(format!("group {number}: raw_len: there are more words than bits")),
            None => Ok(all),
        }
    }

    /// The literals of each residual page.
    fn literals(&self) -> Result<Vec<Vec<u8>>, String> {
        let mut all = vec![Vec::new(); self.residual.len()];
        for (number, places) in self.group_pages().iter().enumerate() {
            for (&place, literals) in places.iter().zip(self.group_literals(number, places)?) {
                all[place] = literals;
            }
        }
        Ok(all)
    }

    fn residual_page(
        &self,
        place: usize,
        literals: &[u8],
        pages: &[Page],
        guest: &Guest<'_>,
    ) -> Result<Page, String> {
        let own = self.residual[place];
        let mut page: Page = [0; PAGE];
        let is_literal = matches::literals(&self.view.matches[place]);
        for m in &self.view.matches[place] {
            let source = self.match_source(own, m, pages, guest)?;
            for word in 0..m.words {
                let from = ((m.source + word) % WORDS) as usize * 8;
                let to = (m.start + word) as usize * 8;
                page[to..to + 8].copy_from_slice(&source[from..from + 8]);
            }
        }
        let mut left = literals.chunks_exact(8);
        for (word, bytes) in page.chunks_exact_mut(8).enumerate() {
            if is_literal[word] {
                bytes.copy_from_slice(left.next().expect("group_literals has counted the words"));
            }
        }
        Ok(page)
    }

    /// The page that a match of the page with ordinal `own` copies from.
    fn match_source(
        &self,
        own: u64,
        m: &LongMatch,
        pages: &[Page],
        guest: &Guest<'_>,
    ) -> Result<Page, String> {
        let number = m.source / WORDS;
        if let Some(index) = m.space.checked_sub(1) {
            let Some(reference) = guest.header.references.get(index as usize) else {
                return Err(format!("long matches: space {} of ordinal {own}", m.space));
            };
            if reference.kind == 0 {
                return Err(format!("long matches: reference {index} of ordinal {own} is a disk"));
            }
            if number >= reference.blocks {
                return Err(format!("long matches: block {number} of reference {index}, ordinal {own}"));
            }
            return guest.header.reference_block(guest.references, index, number);
        }
        if number >= guest.header.page_count {
            return Err(format!("long matches: source page {number} of ordinal {own}"));
        }
        match self.set.ordinal(number) {
            None => Ok(guest.page(number)),
            Some(other) if other < own && self.whats[other as usize] == What::Residual => {
                Ok(pages[other as usize])
            }
            Some(other) => Err(format!("long matches: ordinal {own} copies from {other} of its own block")),
        }
    }

    /// Section 5.8.
    fn verify(&self, pages: &[Page]) -> Result<(), String> {
        let mut fingerprints = Vec::new();
        for page in pages {
            fingerprints.extend(hash128(page));
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

    /// One residual page of a block without long matches, not verified; only its group is decoded.
    pub(super) fn residual_alone(&mut self, ordinal: u64) -> Result<Page, String> {
        self.view.matches = self.read_matches()?;
        let groups = self.group_pages();
        for (number, places) in groups.iter().enumerate() {
            let Some(within) = places.iter().position(|&place| self.residual[place] == ordinal) else {
                continue;
            };
            let literals = self.group_literals(number, places)?;
            let mut page = [0; PAGE];
            page.copy_from_slice(&literals[within]);
            return Ok(page);
        }
        Err(format!("ordinal {ordinal} is not residual"))
    }
}

fn group(cursor: &mut Cursor<'_>, at: u64, least: u8) -> Result<(GroupView, Piece), String> {
    let class = cursor.u8("class")?;
    if class > 5 || class < least {
        return Err(format!("class: {class}, should be {least} to 5"));
    }
    let pages = cursor.varint("pages")?;
    if pages == 0 {
        return Err("pages: is 0".into());
    }
    let piece = Piece::parse(cursor, at, [0, 2])?;
    if piece.raw_len > pages.saturating_mul(4160) {
        return Err(format!("raw_len: {} is above 4160 for each of {pages} pages", piece.raw_len));
    }
    let (raw_len, coded_len) = (piece.raw_len, piece.coded_len);
    Ok((GroupView { class, pages, codec: piece.codec, raw_len, coded_len }, piece))
}

/// Whether a page has a check where a block has checks.
fn is_checked(what: What) -> bool {
    !matches!(what, What::Zero | What::Uniform(_))
}

/// A page that is one word again and again.
pub(super) fn uniform(word: u64) -> Page {
    let mut page = [0; PAGE];
    for bytes in page.chunks_exact_mut(8) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    page
}
