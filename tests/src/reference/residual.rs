//! Section 5.5: the groups of a block, and its residual pages from literals, long matches, addresses and bases.

use super::block::{Block, GroupView, Guest};
use super::bytes::Cursor;
use super::columns::What;
use super::matches::{self, LongMatch};
use super::piece::Piece;
use super::{PAGE, Page, WORDS};

/// The highest class.
pub(super) const MAX_CLASS: u8 = 15;

/// A word of a residual page, as its group has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// A long match covers it.
    Covered,
    /// A literal that is not stored.
    Absent,
    /// A literal that is.
    Stored(u64),
}

/// The words of a page.
type Words = Vec<Word>;

/// The fields of a group whose coded bytes start at `at`; its class is not below `least`.
pub(super) fn group(cursor: &mut Cursor<'_>, at: u64, least: u8) -> Result<(GroupView, Piece), String> {
    let class = cursor.u8("class")?;
    if class > MAX_CLASS || class < least {
        return Err(format!("class: {class}, should be {least} to {MAX_CLASS}"));
    }
    let pages = cursor.varint("pages")?;
    if pages == 0 {
        return Err("pages: is 0".into());
    }
    let piece = Piece::parse(cursor, at, &[0, 2, 3])?;
    if piece.raw_len > pages.saturating_mul(4160) {
        return Err(format!("raw_len: {} is above 4160 for each of {pages} pages", piece.raw_len));
    }
    let (raw_len, coded_len) = (piece.raw_len, piece.coded_len);
    Ok((GroupView { class, pages, codec: piece.codec, raw_len, coded_len }, piece))
}

/// The literal that a stored word of a page at `address` stands for; with `a` and `t` as the document has them.
fn exchanged(stored: u64, address: u64, word: u64) -> u64 {
    let a = address.wrapping_add(8 * word).wrapping_sub(4096);
    let t = 0x8001_0000_0000_0000_u64;
    if stored.wrapping_sub(a) < 8192 {
        t.wrapping_add(stored.wrapping_sub(a))
    } else if stored.wrapping_sub(t) < 8192 {
        a.wrapping_add(stored.wrapping_sub(t))
    } else {
        stored
    }
}

/// The literal that a stored word of a page stands for whose base has `b` there, in a block with moved words; `t` as the document has it.
fn moved(stored: u64, b: u64) -> u64 {
    let t = 0x8001_0000_0000_0000_u64;
    let is_pointer = |word: u64| (1 << 32..1 << 47).contains(&word) || word >= 0xffff_8000_0000_0000;
    let is_distance = |word: u64| word != 0 && word.is_multiple_of(4096);
    let (away, told) = (stored.wrapping_sub(b), stored.wrapping_sub(t));
    if !is_pointer(b) {
        stored
    } else if is_pointer(stored) && is_distance(away) {
        t.wrapping_add(away)
    } else if is_distance(told) && is_pointer(b.wrapping_add(told)) {
        b.wrapping_add(told)
    } else {
        stored
    }
}

impl Block<'_> {
    /// For each group, which residual pages (as places among these) it holds.
    fn group_pages(&self) -> Vec<Vec<usize>> {
        let mut by_class = vec![Vec::new(); usize::from(MAX_CLASS) + 1];
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

    fn address(&self, place: usize) -> Option<u64> {
        self.view.addresses.get(place).copied().flatten()
    }

    fn base(&self, place: usize) -> Option<(u64, u64)> {
        self.view.bases.get(place).copied().flatten()
    }

    /// The pages of groups of codec 0 have neither addresses nor bases.
    pub(super) fn check_raw_groups(&self) -> Result<(), String> {
        for (number, places) in self.group_pages().iter().enumerate() {
            let placed = |&&place: &&usize| self.address(place).is_some() || self.base(place).is_some();
            if self.groups[number].codec == 0
                && let Some(&place) = places.iter().find(placed)
            {
                let page = self.set.page(self.residual[place]);
                return Err(format!("group {number}: it is raw, and page {page} has an address or a base"));
            }
        }
        Ok(())
    }

    /// Decodes group `number`, whose pages are `places`, to the words of each of these.
    fn group_words(&self, number: usize, places: &[usize]) -> Result<Vec<Words>, String> {
        if self.groups[number].codec != 0 {
            return self.packed_words(number, places);
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
        let mut stored = bytes.chunks_exact(8).map(word_of);
        let words = |&place: &usize| {
            let is_literal = matches::literals(&self.view.matches[place]);
            let word = |literal| match literal {
                true => Word::Stored(stored.next().expect("raw_len is right")),
                false => Word::Covered,
            };
            is_literal.into_iter().map(word).collect()
        };
        Ok(places.iter().map(words).collect())
    }

    /// The same for a group of packed words.
    fn packed_words(&self, number: usize, places: &[usize]) -> Result<Vec<Words>, String> {
        let bytes = self.groups[number].decode(self.data).map_err(|e| format!("group {number}: {e}"))?;
        let Some(masks_at) = bytes.len().checked_sub(64 * places.len()) else {
            return Err(format!("group {number}: raw_len: {} has no room for masks", bytes.len()));
        };
        let (stored, masks) = bytes.split_at(masks_at);
        let mut stored = stored.chunks(8);
        let mut all = Vec::new();
        for (&place, mask) in places.iter().zip(masks.chunks_exact(64)) {
            let is_literal = matches::literals(&self.view.matches[place]);
            let mut words = Words::new();
            for word in 0..WORDS as usize {
                let is_stored = mask[word / 8] >> (word % 8) & 1 == 1;
                words.push(match (is_stored, is_literal[word]) {
                    (false, false) => Word::Covered,
                    (false, true) => Word::Absent,
                    (true, false) => {
                        return Err(format!("group {number}: word {word} is covered, and stored"));
                    }
                    (true, true) => match stored.next() {
                        Some(bytes) if bytes.len() == 8 => Word::Stored(word_of(bytes)),
                        _ => return Err(format!("group {number}: raw_len: there are too few words")),
                    },
                });
            }
            all.push(words);
        }
        match stored.next() {
            Some(_) => Err(format!("group {number}: raw_len: there are more words than bits")),
            None => Ok(all),
        }
    }

    /// Fills in the residual pages among `pages`, which are by ordinal. The long matches are read.
    pub(super) fn rebuild_residual(&self, pages: &mut [Page], guest: &Guest<'_>) -> Result<(), String> {
        let mut all = vec![Words::new(); self.residual.len()];
        for (number, places) in self.group_pages().iter().enumerate() {
            for (&place, words) in places.iter().zip(self.group_words(number, places)?) {
                all[place] = words;
            }
        }
        for (place, &ordinal) in self.residual.iter().enumerate() {
            let page = self.residual_page(place, &all[place], pages, guest)?;
            pages[ordinal as usize] = page;
        }
        Ok(())
    }

    fn residual_page(
        &self,
        place: usize,
        words: &[Word],
        pages: &[Page],
        guest: &Guest<'_>,
    ) -> Result<Page, String> {
        let own = self.residual[place];
        let mut page: Page = [0; PAGE];
        for m in &self.view.matches[place] {
            let source = self.match_source(own, m, pages, guest)?;
            for word in 0..m.words {
                let from = ((m.source + word) % WORDS) as usize * 8;
                let to = (m.start + word) as usize * 8;
                page[to..to + 8].copy_from_slice(&source[from..from + 8]);
            }
        }
        // Reading: all of a base must be there, whether or not its words are wanted.
        let base = match self.base(place) {
            Some(base) => base_words(base, guest)?,
            None => vec![0; WORDS as usize],
        };
        let is_moved = self.view.has_moved && self.base(place).is_some();
        for (number, word) in words.iter().enumerate() {
            let literal = match (word, self.address(place)) {
                (Word::Covered, _) => continue,
                (Word::Absent, _) => base[number],
                (Word::Stored(stored), None) if is_moved => moved(*stored, base[number]),
                (Word::Stored(stored), None) => *stored,
                (Word::Stored(stored), Some(address)) => exchanged(*stored, address, number as u64),
            };
            page[number * 8..][..8].copy_from_slice(&literal.to_le_bytes());
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

    /// One residual page of a block without long matches, not verified; only its group is decoded. Of `guest`, only the
    /// header and the references are used.
    pub(super) fn residual_alone(&mut self, ordinal: u64, guest: &Guest<'_>) -> Result<Page, String> {
        self.view.matches = self.read_matches()?;
        let groups = self.group_pages();
        for (number, places) in groups.iter().enumerate() {
            let Some(within) = places.iter().position(|&place| self.residual[place] == ordinal) else {
                continue;
            };
            let words = self.group_words(number, places)?;
            return self.residual_page(places[within], &words[within], &[], guest);
        }
        Err(format!("ordinal {ordinal} is not residual"))
    }
}

/// The words of a base, by its space and first word. `Block::parse` has checked that they exist.
fn base_words((space, first): (u64, u64), guest: &Guest<'_>) -> Result<Vec<u64>, String> {
    let mut words = Vec::new();
    for page in first / WORDS..(first + WORDS).div_ceil(WORDS) {
        let page = match space.checked_sub(1) {
            None => guest.page(page),
            // Nothing of this block is in the guest yet.
            Some(index) if index == guest.header.references.len() as u64 => guest.page(page),
            Some(index) => guest.header.reference_block(guest.references, index, page)?,
        };
        words.extend(page.chunks_exact(8).map(word_of));
    }
    Ok(words[(first % WORDS) as usize..][..WORDS as usize].to_vec())
}

fn word_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ranges' ends, worked out by hand: word 3 of the page at 0x7f1234567000 is at ...018, and its neighbourhood is from
    /// ...6018 up to ...8018.
    #[test]
    fn exchanges_by_hand() {
        let (address, tag) = (0x7f12_3456_7000, 0x8001_0000_0000_0000);
        for (stored, literal) in [
            (0x7f12_3456_6017, 0x7f12_3456_6017),
            (0x7f12_3456_6018, tag),
            (0x7f12_3456_7018, tag + 0x1000),
            (0x7f12_3456_8017, tag + 0x1fff),
            (0x7f12_3456_8018, 0x7f12_3456_8018),
            (tag - 1, tag - 1),
            (tag, 0x7f12_3456_6018),
            (tag + 0x1fff, 0x7f12_3456_8017),
            (tag + 0x2000, tag + 0x2000),
            (0, 0),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(exchanged(stored, address, 3), literal, "{stored:#x}");
        }
        // The lowest address, and the highest that is not next to 0: the last word's neighbourhood ends at -4104.
        assert_eq!(exchanged(0xf7ff_ffff_ffff_f000, 0xf800_0000_0000_0000, 0), tag);
        let (last, highest) = (4104_u64.wrapping_neg(), (3 * 4096_u64).wrapping_neg());
        assert_eq!(exchanged(last - 1, highest, 511), tag + 0x1fff);
        assert_eq!(exchanged(last, highest, 511), last);
    }
}
