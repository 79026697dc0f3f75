//! Which dirty pages to send now, and when to stop the guest.
//!
//! A page that was dirty in the last rounds will be dirty in the next, and whatever is sent of it now is wasted. So it is
//! held back until it rests for a round, or until the guest is stopped, and then sent once. What is held back is paid for in
//! downtime; the report says how much.

use std::time::Duration;

use super::encoder::Batched;
use crate::error::EncodeError;
use crate::page::PageSet;

/// A page is held back if it was dirty in as many rounds in a row, this one included.
const HOT_ROUNDS: u8 = 3;
const HOT: u8 = (1 << HOT_ROUNDS) - 1;

/// The rounds of a live migration.
///
/// The first round sends everything and is not counted: [`next`](Self::next) is for those after it.
#[derive(Debug)]
pub struct Rounds {
    /// For each page, a bit for each of the last rounds in which it was dirty; this one's is the lowest.
    heat: Vec<u8>,
    /// Pages whose last version was not sent, as bits.
    held: Vec<u64>,
    held_pages: u64,
    round: u64,
    dirty: u64,
    /// Bytes of a page that is sent again, as lately.
    page_bytes: f64,
}

/// What a round came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoundReport {
    /// Its number; the first, of all pages, is 0.
    pub round: u64,
    /// Pages that were dirty at its start.
    pub dirty: u64,
    /// Pages that were sent.
    pub sent: u64,
    /// Pages that turned out to be as they were.
    pub unchanged: u64,
    /// Pages that are held back.
    pub held: u64,
    /// Bytes of its frames.
    pub bytes: u64,
    /// How long the guest would have to rest if it were stopped after a round like this one: for what is held back, and for as
    /// many dirty pages once more.
    pub downtime: Duration,
}

impl Rounds {
    /// For a guest of so many pages.
    pub fn new(page_count: u64) -> Self {
        let pages = page_count as usize;
        let (heat, held) = (vec![0; pages], vec![0; pages.div_ceil(64)]);
        Rounds { heat, held, held_pages: 0, round: 0, dirty: 0, page_bytes: 4096.0 }
    }

    /// The number of the present round.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Pages that are held back.
    pub fn held(&self) -> u64 {
        self.held_pages
    }

    /// Starts the next round with the pages that were dirtied since the last one began; gives those to capture and to send
    /// now. With `stopped` that is all that the destination does not have yet.
    ///
    /// # Errors
    ///
    /// [`EncodeError::PageSet`] for pages beyond the guest's memory.
    pub fn next(&mut self, dirty: Option<&PageSet>, stopped: bool) -> Result<Option<PageSet>, EncodeError> {
        if dirty.is_some_and(|dirty| dirty.end() > self.heat.len() as u64) {
            return Err(EncodeError::PageSet("it reaches beyond the guest's memory"));
        }
        self.round += 1;
        self.dirty = dirty.map_or(0, PageSet::len);
        self.heat.iter_mut().for_each(|heat| *heat <<= 1);
        for page in dirty.into_iter().flat_map(PageSet::ranges).flatten() {
            self.heat[page as usize] |= 1;
        }
        let mut send = Vec::new();
        for page in 0..self.heat.len() {
            let heat = self.heat[page];
            let (word, bit) = (page / 64, 1 << (page % 64));
            let (is_dirty, is_held) = (heat & 1 != 0, self.held[word] & bit != 0);
            if !is_dirty && !is_held {
                continue;
            }
            let hold = is_dirty && heat & HOT == HOT && !stopped;
            self.held_pages = self.held_pages - u64::from(is_held) + u64::from(hold);
            if hold {
                self.held[word] |= bit;
            } else {
                self.held[word] &= !bit;
                send.push(page as u64..page as u64 + 1);
            }
        }
        if send.is_empty() { Ok(None) } else { PageSet::from_ranges(send).map(Some) }
    }

    /// Bytes that would have to be sent if the guest were stopped now and `dirty` pages were not sent yet.
    pub fn pending_bytes(&self, dirty: u64) -> u64 {
        ((self.held_pages + dirty) as f64 * self.page_bytes) as u64
    }

    /// Ends a round; `rate` is what the link carries, in bytes a second.
    pub fn report(&mut self, batched: &Batched, rate: f64) -> RoundReport {
        if self.round > 0 && batched.sent > 0 {
            let now = batched.bytes as f64 / batched.sent as f64;
            self.page_bytes = if self.round == 1 { now } else { (self.page_bytes + now) / 2.0 };
        }
        let seconds = self.pending_bytes(self.dirty) as f64 / rate.max(1.0);
        RoundReport {
            round: self.round,
            dirty: self.dirty,
            sent: batched.sent,
            unchanged: batched.unchanged,
            held: self.held_pages,
            bytes: batched.bytes,
            downtime: Duration::from_secs_f64(seconds.min(1e9)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pages: &[u64]) -> PageSet {
        PageSet::from_ranges(pages.iter().map(|&page| page..page + 1)).unwrap()
    }

    fn pages(set: Option<PageSet>) -> Vec<u64> {
        set.map_or(Vec::new(), |set| set.ranges().flatten().collect())
    }

    #[test]
    fn hot_pages_wait_and_come_once() {
        let mut rounds = Rounds::new(100);
        // Page 7 never rests, 20 rests now and then, 50 to 59 come once.
        assert_eq!(pages(rounds.next(Some(&set(&[7, 20])), false).unwrap()), [7, 20]);
        assert_eq!(pages(rounds.next(Some(&set(&[7, 20])), false).unwrap()), [7, 20]);
        assert!(rounds.next(Some(&set(&[7, 20])), false).unwrap().is_none());
        assert_eq!(rounds.held(), 2);
        // What rests is sent, though it is not dirty any more.
        assert_eq!(pages(rounds.next(Some(&set(&[7, 50, 51])), false).unwrap()), [20, 50, 51]);
        assert!(rounds.next(Some(&set(&[7])), false).unwrap().is_none());
        assert_eq!(rounds.held(), 1);
        // In the end all of it, once.
        assert_eq!(pages(rounds.next(Some(&set(&[7, 99])), true).unwrap()), [7, 99]);
        assert!(rounds.held() == 0 && rounds.next(None, true).unwrap().is_none());
        assert!(rounds.next(Some(&set(&[100])), false).is_err());
    }

    #[test]
    fn downtime_is_what_is_left_at_the_present_rate() {
        let mut rounds = Rounds::new(1000);
        let dirty = set(&(0..100).collect::<Vec<_>>());
        for _ in 0..3 {
            rounds.next(Some(&dirty), false).unwrap();
        }
        let batched = Batched { sent: 10, unchanged: 0, bytes: 10_000 };
        // Nothing is known of the first round's pages; of later ones, that 10 pages took 10 kB.
        let report = rounds.report(&batched, 1e6);
        assert_eq!((report.held, report.dirty), (100, 100));
        assert!(report.downtime > Duration::from_millis(200), "{:?}", report.downtime);
        let slower = rounds.report(&batched, 1e5).downtime;
        assert!(slower > report.downtime * 5, "{slower:?}");
    }
}
