//! Section 6.6 from the encoder's side: addresses and bases.

use std::collections::BTreeMap;

use super::{NumberEncoder, PositionsEncoder, RangeEncoder, TreeEncoder};

/// The step of addresses, which count pages.
pub(crate) const PAGES: i64 = 1;

/// The step of bases, which count words.
pub(crate) const WORDS: i64 = 512;

/// A run of residual pages that have places, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// How many pages.
    pub pages: u64,
    /// Where they are.
    pub at: Where,
}

/// Where the pages of a run are, with `space` and `value` as the document names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// No places.
    Nowhere,
    /// The place goes up by a step from one page of the run to the next.
    Onward {
        /// The space; 0 for addresses.
        space: u64,
        /// The place of the run's first page.
        value: i64,
    },
    /// The place goes up with the page's number.
    ByPage {
        /// The space; 0 for addresses.
        space: u64,
        /// The place that page 0 would have.
        value: i64,
    },
}

impl Places {
    /// Pages without places.
    pub fn none(pages: u64) -> Self {
        Self { pages, at: Where::Nowhere }
    }

    /// Pages whose places go onward.
    pub fn onward(pages: u64, space: u64, value: i64) -> Self {
        Self { pages, at: Where::Onward { space, value } }
    }

    /// Pages whose places go by page.
    pub fn by_page(pages: u64, space: u64, value: i64) -> Self {
        Self { pages, at: Where::ByPage { space, value } }
    }
}

/// The bytes of these runs. They may be wrong in any way that can be written.
pub(crate) fn encode(runs: &[Places], step: i64) -> Vec<u8> {
    let mut coder = RangeEncoder::new();
    let mut kinds = [TreeEncoder::new(8), TreeEncoder::new(8)];
    let mut lengths = [6, 6, 6].map(NumberEncoder::new);
    let mut values: BTreeMap<u64, PositionsEncoder> = BTreeMap::new();
    let mut tree = 0;
    for run in runs {
        let (kind, length) = match run.at {
            Where::Nowhere => (0, 0),
            Where::Onward { space, .. } => (2 * space + 1, 1),
            Where::ByPage { space, .. } => (2 * space + 2, 2),
        };
        kinds[tree].encode(&mut coder, kind);
        tree = usize::from(kind != 0);
        lengths[length].encode(&mut coder, run.pages - 1);
        let values = values.entry(kind).or_default();
        match run.at {
            Where::Nowhere => {}
            Where::Onward { value, .. } => {
                values.encode(&mut coder, value);
                values.put(&[value + step * run.pages as i64]);
            }
            Where::ByPage { value, .. } => {
                values.encode(&mut coder, value);
                values.put(&[value]);
            }
        }
    }
    coder.finish()
}

/// The place, or none, of each of the residual pages, whose numbers are `pages`; none for pages that the runs do not reach.
pub fn of_pages(runs: &[Places], pages: &[u64], step: i64) -> Vec<Option<i64>> {
    let mut places = vec![];
    for run in runs {
        for i in 0..run.pages {
            let Some(&page) = pages.get(places.len()) else { return places };
            places.push(match run.at {
                Where::Nowhere => None,
                Where::Onward { value, .. } => Some(value.wrapping_add(step * i as i64)),
                Where::ByPage { value, .. } => Some(value.wrapping_add(step * page as i64)),
            });
        }
    }
    places.resize(pages.len(), None);
    places
}
