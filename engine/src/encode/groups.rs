//! The residual pages of a block, in groups.

use rayon::prelude::*;

use super::{BlockEncoder, Part, SettledBlock};
use crate::class::Class;
use crate::columns::Placements;
use crate::error::EncodeError;
use crate::format::block::{Group, Piece};
use crate::image::Run;
use crate::matches::MatchLists;
use crate::page::PAGE_SIZE;
use crate::residual::push_literals;
use crate::source::PageSource;

impl<'a, S: PageSource + ?Sized> BlockEncoder<'a, S> {
    pub(super) fn code_groups(
        &self,
        block: &SettledBlock,
        matches: &MatchLists,
        bases: &Placements,
        addresses: &Placements,
    ) -> Result<(Vec<Group>, Vec<Part<'a>>), EncodeError> {
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
        let code = |&(class, pages): &(Class, &[usize])| -> Result<(Group, Vec<Part<'a>>), EncodeError> {
            let (piece, parts) = self.code_group(block, matches, (bases, addresses), class, pages)?;
            Ok((Group { class, pages: pages.len() as u32, piece }, parts))
        };
        let coded: Vec<(Group, Vec<Part<'a>>)> = groups.par_iter().map(code).collect::<Result<_, _>>()?;
        let (groups, parts): (Vec<Group>, Vec<Vec<Part<'a>>>) = coded.into_iter().unzip();
        Ok((groups, parts.into_iter().flatten().collect()))
    }

    fn code_group(
        &self,
        block: &SettledBlock,
        matches: &MatchLists,
        (bases, addresses): (&Placements, &Placements),
        class: Class,
        pages: &[usize],
    ) -> Result<(Piece, Vec<Part<'a>>), EncodeError> {
        let kit = self.kit(block.how.effort);
        if class != Class::Incompressible && kit.recipe.compresses() {
            let mut coder = kit.coders.take()?;
            coder.reserve(pages.len());
            let (mut words, mut scratch) = (Box::new([0; PAGE_SIZE]), Box::new([0; PAGE_SIZE]));
            for &index in pages {
                let base = match bases[index] {
                    Some(base) => self.base_words(block, base, &mut words, &mut scratch)?,
                    None => None,
                };
                let address = addresses[index].map(|(_, number)| (number << 12) as u64);
                let page = self.page(block.residual[index].page);
                coder.push(self.level, page, matches.of_page(index), base, address);
            }
            let (piece, coded) = match coder.compress()? {
                Some(coded) => coded,
                None => {
                    let mut literals = Vec::new();
                    for &index in pages {
                        let page = self.page(block.residual[index].page);
                        push_literals(page, matches.of_page(index), &mut literals);
                    }
                    (Piece::raw(literals.len()), literals)
                }
            };
            kit.coders.put(coder);
            return Ok((piece, vec![Part::Owned(coded)]));
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
        Ok((Piece::raw(pages.len() * PAGE_SIZE), parts))
    }
}
