//! Where each residual page belongs: its virtual address, or the place of the page that it is like.
//!
//! Both are a place (a virtual page number, a word address of some space) for some pages and none for others, and both
//! come in runs of two kinds: places that go on from page to page in the block's order, as a process' addresses do when
//! its pages are listed by them; and places that keep their distance from the page's number, as in the kernel's direct map or in an
//! older image of the same guest.

use std::collections::HashMap;

use super::range_coder::{Coder, Decoder, Encoder, Number, Tree};
use super::{Positions, invalid};
use crate::error::DecodeError;

/// For each residual page the space of its place and the place, or nothing.
pub(crate) type Placements = Vec<Option<(u8, i64)>>;

/// Kinds of runs: none, or two for each space.
const KIND_BITS: u32 = 8;
/// Places are below this, either way: what a [`Positions`] can tell apart.
pub(crate) const PLACE_LIMIT: i64 = 1 << 47;

/// Pages of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    pages: u64,
    kind: Kind,
    /// Of the first page: its place, or its place minus `step` times its number.
    value: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    None,
    /// Each place is `step` above the one before.
    Onward(u8),
    /// Each place is `step` times the page's number above the value.
    ByPage(u8),
}

impl Kind {
    fn id(self) -> u32 {
        match self {
            Kind::None => 0,
            Kind::Onward(space) => 1 + 2 * u32::from(space),
            Kind::ByPage(space) => 2 + 2 * u32::from(space),
        }
    }

    fn from_id(id: u32, spaces: u32) -> Option<Self> {
        let space = (id.saturating_sub(1) / 2) as u8;
        match id {
            0 => Some(Kind::None),
            _ if u32::from(space) >= spaces => None,
            _ if id % 2 == 1 => Some(Kind::Onward(space)),
            _ => Some(Kind::ByPage(space)),
        }
    }
}

/// The longest run that starts at the first of these pages.
fn longest(pages: &[u64], places: &[Option<(u8, i64)>], step: i64) -> Run {
    let Some((space, first)) = places[0] else {
        let pages = places.iter().take_while(|place| place.is_none()).count() as u64;
        return Run { pages, kind: Kind::None, value: 0 };
    };
    let shift = |index: usize| first.wrapping_sub(step.wrapping_mul(pages[index] as i64));
    let value = shift(0);
    let onward =
        (0i64..).zip(places).take_while(|&(i, &place)| place == Some((space, first.wrapping_add(step * i))));
    let by_page = places.iter().zip(pages).take_while(|&(&place, &page)| {
        place == Some((space, value.wrapping_add(step.wrapping_mul(page as i64))))
    });
    let (onward, by_page) = (onward.count() as u64, by_page.count() as u64);
    // Of equals, the one that goes on for as long as the block does, if anything came in between.
    if onward > by_page {
        Run { pages: onward, kind: Kind::Onward(space), value: first }
    } else {
        Run { pages: by_page, kind: Kind::ByPage(space), value }
    }
}

/// What adapts while placements are coded.
struct Models {
    step: i64,
    spaces: u32,
    kind: [Tree<KIND_BITS>; 2],
    was_placed: bool,
    length: [Number<6>; 3],
    values: HashMap<u32, Positions>,
}

impl Models {
    fn new(spaces: usize, step: i64) -> Self {
        Models {
            step,
            spaces: spaces as u32,
            kind: std::array::from_fn(|_| Tree::new()),
            was_placed: false,
            length: std::array::from_fn(|_| Number::new()),
            values: HashMap::new(),
        }
    }

    fn code<C: Coder>(&mut self, coder: &mut C, run: Run) -> Result<Run, &'static str> {
        let id = self.kind[usize::from(self.was_placed)].code(coder, run.kind.id());
        let kind = Kind::from_id(id, self.spaces).ok_or("unknown kind of placement")?;
        self.was_placed = kind != Kind::None;
        let form = match kind {
            Kind::None => 0,
            Kind::Onward(_) => 1,
            Kind::ByPage(_) => 2,
        };
        let pages = self.length[form].code(coder, run.pages - 1).saturating_add(1);
        if kind == Kind::None {
            return Ok(Run { pages, kind, value: 0 });
        }
        let step = if form == 1 { self.step.saturating_mul(pages.min(1 << 16) as i64) } else { 0 };
        let values = self.values.entry(id).or_insert_with(Positions::new);
        let value = values.code(coder, run.value, |value| [value.saturating_add(step)])?;
        Ok(Run { pages, kind, value })
    }
}

/// Codes the places of residual pages with these numbers; `step` is how far a page's place goes on to the next.
///
/// # Panics
///
/// If a place is so far out that a decoder would find another one.
pub(crate) fn encode(pages: &[u64], places: &[Option<(u8, i64)>], spaces: usize, step: i64) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let mut models = Models::new(spaces, step);
    let mut at = 0;
    while at < places.len() {
        let run = longest(&pages[at..], &places[at..], step);
        let coded = models.code(&mut encoder, run);
        assert_eq!(coded, Ok(run), "a place is out of range");
        at += run.pages as usize;
    }
    encoder.finish()
}

/// Reads the places of residual pages with these numbers, in any of `spaces` spaces.
///
/// # Errors
///
/// Runs that do not add up, unknown spaces, places at [`PLACE_LIMIT`] or beyond, and bytes too few or too many.
pub(crate) fn decode(
    bytes: &[u8],
    pages: &[u64],
    spaces: usize,
    step: i64,
) -> Result<Placements, DecodeError> {
    let mut decoder = Decoder::new(bytes)?;
    let mut models = Models::new(spaces, step);
    let mut places: Placements = Vec::with_capacity(pages.len());
    let blank = Run { pages: 1, kind: Kind::None, value: 0 };
    while places.len() < pages.len() {
        let run = models.code(&mut decoder, blank).map_err(invalid)?;
        if decoder.overrun() {
            break; // `finish` says so
        }
        if run.pages > (pages.len() - places.len()) as u64 {
            return Err(invalid("placements reach beyond the block"));
        }
        for i in 0..run.pages as i64 {
            let page = pages[places.len()] as i64;
            let (space, by) = match run.kind {
                Kind::None => {
                    places.push(None);
                    continue;
                }
                Kind::Onward(space) => (space, i),
                Kind::ByPage(space) => (space, page),
            };
            let place = step.checked_mul(by).and_then(|by| run.value.checked_add(by));
            let place = place.filter(|place| (-PLACE_LIMIT..PLACE_LIMIT).contains(place));
            places.push(Some((space, place.ok_or(invalid("a place is out of range"))?)));
        }
    }
    decoder.finish()?;
    Ok(places)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> impl Strategy<Value = Option<(u8, i64)>> {
        let value = prop_oneof![-1000i64..1000, -PLACE_LIMIT..PLACE_LIMIT - (1 << 20)];
        prop_oneof![Just(None), (0u8..3, value).prop_map(Some)]
    }

    proptest! {
        #[test]
        fn placements_round_trip(runs in proptest::collection::vec((1usize..40, place(), any::<bool>()), 1..40), far in any::<bool>()) {
            let (mut pages, mut places): (Vec<u64>, Placements) = Default::default();
            for (count, place, by_page) in runs {
                for i in 0..count as u64 {
                    let page = pages.last().map_or(7, |last| last + 1 + u64::from(far && i % 3 == 0) * 1000);
                    let by = if by_page { page.min(1 << 10) } else { i } as i64;
                    places.push(place.map(|(space, value)| (space, value + 512 * by)));
                    pages.push(page);
                }
            }
            let bytes = encode(&pages, &places, 3, 512);
            prop_assert_eq!(&decode(&bytes, &pages, 3, 512).unwrap(), &places);
            let longer = [bytes.as_slice(), &[0]].concat();
            prop_assert!(decode(&longer, &pages, 3, 512).is_err());
            if places.iter().any(|place| place.is_some_and(|(space, _)| space == 2)) {
                prop_assert!(decode(&bytes, &pages, 2, 512).is_err());
            }
        }

        #[test]
        fn hostile_bytes_are_errors_or_places_in_range(mut bytes in proptest::collection::vec(any::<u8>(), 5..300)) {
            bytes[0] = 0;
            let pages: Vec<u64> = (0..3000).map(|i| i * i).collect();
            if let Ok(places) = decode(&bytes, &pages, 5, 512) {
                prop_assert_eq!(places.len(), pages.len());
                prop_assert!(places.iter().flatten().all(|&(space, place)| space < 5 && place.abs() <= PLACE_LIMIT));
            }
        }
    }

    #[test]
    fn both_kinds_of_runs_are_short() {
        // Addresses that go on while page numbers jump, then a direct map.
        let pages: Vec<u64> =
            (0..2000u64).map(|i| if i < 1000 { i * 7919 % 100_003 } else { 3 * i }).collect();
        let places: Placements = (0..2000i64)
            .map(|i| {
                Some((0, if i < 1000 { 0x7f12_3456 + i } else { -(0x73f1 << 20) + pages[i as usize] as i64 }))
            })
            .collect();
        assert!(encode(&pages, &places, 1, 1).len() < 40);
    }
}
