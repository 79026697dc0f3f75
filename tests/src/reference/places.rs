//! Section 6.6: where the guest sees residual pages, and what they are like.

use std::collections::BTreeMap;

use super::models::{Number, Positions, Tree};
use super::range::RangeDecoder;

/// Where a residual page is, in a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) space: u64,
    pub(super) at: i64,
}

/// The place, or none, of each of the residual pages, whose numbers are `pages`.
pub(super) fn decode(
    bytes: &[u8],
    pages: &[u64],
    spaces: u64,
    step: i64,
) -> Result<Vec<Option<Place>>, String> {
    let mut coder = RangeDecoder::new(bytes)?;
    let mut kinds = vec![Tree::new(8); 2];
    let mut lengths = vec![Number::new(6); 3];
    let mut values: BTreeMap<u64, Positions> = BTreeMap::new();
    let mut all = Vec::new();
    let mut last_had_places = false;
    while all.len() < pages.len() {
        let kind = kinds[usize::from(last_had_places)].decode(&mut coder)?;
        last_had_places = kind != 0;
        let space = kind.saturating_sub(1) / 2;
        if kind != 0 && space >= spaces {
            return Err(format!("space {space} of {spaces}"));
        }
        let onward = kind % 2 == 1;
        let length = match (kind, onward) {
            (0, _) => 0,
            (_, true) => 1,
            (_, false) => 2,
        };
        let count = 1 + lengths[length].decode(&mut coder)?;
        let left = (pages.len() - all.len()) as u64;
        if count > left {
            return Err(format!("a run of {count} pages, of which {left} are left"));
        }
        if kind == 0 {
            all.extend((0..count).map(|_| None));
            continue;
        }
        let values = values.entry(kind).or_insert_with(Positions::new);
        let value = values.decode(&mut coder)?;
        for i in 0..count as i64 {
            let page = pages[all.len()] as i64;
            let at = value + step * if onward { i } else { page };
            if !(-(1 << 47)..1 << 47).contains(&at) {
                return Err(format!("page {page}: place {at}"));
            }
            all.push(Some(Place { space, at }));
        }
        values.put(&[if onward { value + step * count as i64 } else { value }]);
    }
    coder.finish()?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handmade::{self, NumberEncoder, PositionsEncoder, Random, RangeEncoder, TreeEncoder};

    fn at(space: u64, at: i64) -> Option<Place> {
        Some(Place { space, at })
    }

    /// Three runs, with the models for each step picked by hand.
    #[test]
    fn places_by_hand() {
        let mut encoder = RangeEncoder::new();
        let mut kinds = [TreeEncoder::new(8), TreeEncoder::new(8)];
        let mut lengths = [6, 6, 6].map(NumberEncoder::new);
        let mut values: Vec<PositionsEncoder> = vec![PositionsEncoder::new(); 7];
        // Space 2, onward from 700: the first run is coded as after one without places.
        kinds[0].encode(&mut encoder, 5);
        lengths[1].encode(&mut encoder, 1);
        values[5].encode(&mut encoder, 700);
        values[5].put(&[700 + 2 * 512]);
        // Space 2, by page, 30 words down.
        kinds[1].encode(&mut encoder, 6);
        lengths[2].encode(&mut encoder, 1);
        values[6].encode(&mut encoder, -30);
        values[6].put(&[-30]);
        // None, and then on from where the first ended.
        kinds[1].encode(&mut encoder, 0);
        lengths[0].encode(&mut encoder, 0);
        kinds[0].encode(&mut encoder, 5);
        lengths[1].encode(&mut encoder, 0);
        values[5].encode(&mut encoder, 700 + 1024);
        values[5].put(&[700 + 1536]);
        let coded = encoder.finish();
        let expected = vec![
            at(2, 700),
            at(2, 700 + 512),
            at(2, 9 * 512 - 30),
            at(2, 4 * 512 - 30),
            None,
            at(2, 700 + 1024),
        ];
        let pages = [7, 3, 9, 4, 5, 6];
        assert_eq!(decode(&coded, &pages, 3, 512), Ok(expected));
        assert!(decode(&coded, &pages, 2, 512).unwrap_err().contains("space 2 of 2"));
        assert!(decode(&coded, &pages[..5], 3, 512).unwrap_err().contains("too many"));
        assert!(decode(&coded, &pages[..1], 3, 512).unwrap_err().contains("a run of 2 pages"));
        assert!(decode(&coded, &[&pages[..], &[8]].concat(), 3, 512).is_err());
    }

    #[test]
    fn limits() {
        let one = |run: handmade::Places, page: u64| {
            let coded = handmade::places(&[run], 1);
            decode(&coded, &vec![page; run.pages as usize], 1, 1)
        };
        let (low, high) = (-(1 << 47), (1 << 47) - 1);
        for value in [low, high] {
            assert_eq!(one(handmade::Places::onward(1, 0, value), 5), Ok(vec![at(0, value)]));
        }
        assert_eq!(one(handmade::Places::by_page(1, 0, low - 9), 9), Ok(vec![at(0, low)]));
        for bad in [low - 1, high + 1] {
            assert!(one(handmade::Places::onward(1, 0, bad), 5).unwrap_err().contains("place"));
        }
        assert!(one(handmade::Places::onward(2, 0, high), 5).unwrap_err().contains("place"));
        assert!(one(handmade::Places::by_page(1, 0, high), 1).unwrap_err().contains("place"));
    }

    #[test]
    fn places_come_back() {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let mut runs: Vec<handmade::Places> = vec![];
            let mut pages: Vec<u64> = vec![];
            for _ in 0..200 {
                let bits = random.below(6) as u32;
                let count = 1 + random.bits(bits);
                let value = random.below(1 << 30) as i64 - (1 << 29);
                let again = runs.len().checked_sub(2).and_then(|place| runs.get(place)).copied();
                runs.push(match (random.below(4), again) {
                    (0, _) => handmade::Places::none(count),
                    (1, Some(run)) => handmade::Places { pages: count, ..run },
                    (2, _) => handmade::Places::by_page(count, random.below(65), value),
                    _ => handmade::Places::onward(count, random.below(65), value),
                });
                pages.extend((0..count).map(|_| random.below(1 << 30)));
            }
            let coded = handmade::places(&runs, 512);
            let found = decode(&coded, &pages, 65, 512).unwrap();
            let truth = handmade::places_of(&runs, &pages, 512);
            assert!(found.iter().map(|place| place.map(|place| place.at)).eq(truth), "seed {seed}");
            assert!(decode(&coded[..coded.len() - 1], &pages, 65, 512).is_err());
            assert!(decode(&[&coded[..], &[0]].concat(), &pages, 65, 512).is_err());
        }
    }
}
