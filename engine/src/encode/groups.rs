//! The residual pages of a block, in groups.

use rayon::prelude::*;

use super::{BlockEncoder, Part, SettledBlock, Words};
use crate::class::Class;
use crate::columns::Placements;
use crate::error::EncodeError;
use crate::format::block::{Group, Piece};
use crate::image::Run;
use crate::matches::MatchLists;
use crate::options::Technique;
use crate::page::{PAGE_SIZE, PAGE_WORDS};
use crate::residual::{Against, push_literals};
use crate::source::PageSource;

/// A group, and how its pages' words were coded.
type CodedGroup = (Group, Words);

impl<'a, S: PageSource + ?Sized> BlockEncoder<'a, S> {
    pub(super) fn code_groups(
        &self,
        block: &SettledBlock,
        matches: &MatchLists,
        bases: &Placements,
        addresses: &Placements,
    ) -> Result<(Vec<CodedGroup>, Vec<Part<'a>>), EncodeError> {
        let mut members: [Vec<usize>; Class::ALL.len()] = Default::default();
        for (index, residual) in block.residual.iter().enumerate() {
            members[residual.class as usize].push(index);
        }
        let groups: Vec<(Class, &[usize])> = Class::ALL
            .into_iter()
            .flat_map(|class| {
                let group_pages = self.kit(block.how.effort).recipe.group_pages;
                let chunks = members[class as usize].chunks(group_pages as usize);
                chunks.map(move |pages| (class, pages))
            })
            .collect();
        let code = |&(class, pages): &(Class, &[usize])| -> Result<(CodedGroup, Vec<Part<'a>>), EncodeError> {
            let (piece, words, parts) = self.code_group(block, matches, (bases, addresses), class, pages)?;
            Ok(((Group { class, pages: pages.len() as u32, piece }, words), parts))
        };
        let coded: Vec<(CodedGroup, Vec<Part<'a>>)> =
            groups.par_iter().map(code).collect::<Result<_, _>>()?;
        let (groups, parts): (Vec<CodedGroup>, Vec<Vec<Part<'a>>>) = coded.into_iter().unzip();
        Ok((groups, parts.into_iter().flatten().collect()))
    }

    fn code_group(
        &self,
        block: &SettledBlock,
        matches: &MatchLists,
        (bases, addresses): (&Placements, &Placements),
        class: Class,
        pages: &[usize],
    ) -> Result<(Piece, Words, Vec<Part<'a>>), EncodeError> {
        let kit = self.kit(block.how.effort);
        if class != Class::Incompressible && kit.recipe.compresses() {
            let mut coder = kit.coders.take()?;
            coder.reserve(pages.len());
            let mut counts = Words::default();
            let moved = self.techniques.has(Technique::Relocated);
            let (mut words, mut scratch) = (Box::new([0; PAGE_SIZE]), Box::new([0; PAGE_SIZE]));
            for &index in pages {
                let base = match bases[index] {
                    Some(base) => self.base_words(block, base, &mut words, &mut scratch)?,
                    None => None,
                };
                let address = addresses[index].map(|(_, number)| (number << 12) as u64);
                let page = self.page(block.residual[index].page);
                let matches = matches.of_page(index);
                let against = Against::new(base, moved, address);
                let stored = coder.push(self.level, page, matches, against) as u64;
                let matched = matches.iter().map(|found| u64::from(found.words)).sum();
                let rest = PAGE_WORDS as u64 - matched - stored;
                let (base, zero) = if against.is_base() { (rest, 0) } else { (0, rest) };
                counts += Words { matched, base, zero, stored };
            }
            let (piece, coded) = match coder.compress()? {
                Some(coded) => coded,
                None => {
                    let mut literals = Vec::new();
                    for &index in pages {
                        let page = self.page(block.residual[index].page);
                        push_literals(page, matches.of_page(index), &mut literals);
                    }
                    let stored = literals.len() as u64 / 8;
                    counts = Words { matched: counts.matched, stored, ..Words::default() };
                    (Piece::raw(literals.len()), literals)
                }
            };
            kit.coders.put(coder);
            return Ok((piece, counts, vec![Part::Owned(coded)]));
        }
        // Stored pages are sent from where they lie; neighbours go together.
        let mut parts: Vec<Part<'a>> = Vec::new();
        let mut rest = pages;
        while let Some(&first) = rest.first() {
            let number = block.residual[first].page;
            let adjacent = rest.iter().zip(number..).take_while(|&(&i, page)| block.residual[i].page == page);
            let max = adjacent.count() as u64;
            match self.source.run(number, max) {
                Run::Data(bytes) => {
                    parts.push(Part::Source(bytes));
                    rest = &rest[bytes.len() / PAGE_SIZE..];
                }
                Run::Hole(_) => {
                    parts.push(Part::Source(self.page(number)));
                    rest = &rest[1..];
                }
            }
        }
        let words = Words { stored: (pages.len() * PAGE_WORDS) as u64, ..Words::default() };
        Ok((Piece::raw(pages.len() * PAGE_SIZE), words, parts))
    }
}
