//! What the source remembers of the pages that it has sent.
//!
//! Only bytes that are sure to be the destination's are of use, so whoever keeps them may forget any page at any time, and
//! must never give an older version than the last.

use std::collections::{HashMap, VecDeque};

use crate::page::{PAGE_SIZE, Page, PageSet};

/// The versions of pages that were sent last, as far as they are kept.
pub trait LastSent: Send + Sync {
    /// Fills `to` with the version of a page that was sent last; false where it is not kept.
    fn read(&self, page: u64, to: &mut Page) -> bool;

    /// Takes note of consecutive pages that have been sent.
    fn sent(&mut self, first_page: u64, bytes: &[u8]);

    /// The same for all pages of a set, in its order.
    fn sent_all(&mut self, pages: &PageSet, bytes: &[u8]) {
        let mut rest = bytes;
        for range in pages.ranges() {
            let (these, behind) = rest.split_at((range.end - range.start) as usize * PAGE_SIZE);
            self.sent(range.start, these);
            rest = behind;
        }
    }
}

/// No version of any page.
pub(super) struct NothingSent;

impl LastSent for NothingSent {
    fn read(&self, _: u64, _: &mut Page) -> bool {
        false
    }

    fn sent(&mut self, _: u64, _: &[u8]) {}
}

/// The last versions in memory, up to a limit.
///
/// Pages that were sent more than once are likely to come again, so those that were sent once go first, the oldest before
/// the others. Zero pages take no room.
#[derive(Debug)]
pub struct InMemory {
    pages: HashMap<u64, Slot>,
    /// Pages sent once, and more often, oldest first; an entry counts only while its stamp is the page's.
    queues: [VecDeque<(u64, u64)>; 2],
    stamp: u64,
    limit: usize,
}

#[derive(Debug)]
struct Slot {
    /// None for a page of zeros.
    bytes: Option<Box<Page>>,
    stamp: u64,
}

/// What a page costs besides its bytes, about.
const OVERHEAD: usize = 128;

impl InMemory {
    /// Keeps versions in at most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        let limit = (limit as usize) / (PAGE_SIZE + OVERHEAD);
        InMemory { pages: HashMap::new(), queues: Default::default(), stamp: 0, limit }
    }

    /// Pages that are kept.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    fn insert(&mut self, page: u64, bytes: &Page) {
        self.stamp += 1;
        let again = self.pages.contains_key(&page);
        let held = (*bytes != [0; PAGE_SIZE]).then(|| Box::new(*bytes));
        self.pages.insert(page, Slot { bytes: held, stamp: self.stamp });
        self.queues[usize::from(again)].push_back((page, self.stamp));
        while self.pages.len() > self.limit {
            self.forget_one();
        }
        // Entries that no longer count would pile up where few pages are sent again and again.
        for queue in &mut self.queues {
            while let Some(&(page, stamp)) = queue.front()
                && self.pages.get(&page).is_none_or(|slot| slot.stamp != stamp)
            {
                queue.pop_front();
            }
            if queue.len() > 2 * self.pages.len() + 64 {
                queue.retain(|(page, stamp)| self.pages.get(page).is_some_and(|slot| slot.stamp == *stamp));
            }
        }
    }

    fn forget_one(&mut self) {
        for queue in &mut self.queues {
            while let Some((page, stamp)) = queue.pop_front() {
                if self.pages.get(&page).is_some_and(|slot| slot.stamp == stamp) {
                    self.pages.remove(&page);
                    return;
                }
            }
        }
    }
}

impl LastSent for InMemory {
    fn read(&self, page: u64, to: &mut Page) -> bool {
        let Some(slot) = self.pages.get(&page) else { return false };
        match &slot.bytes {
            Some(bytes) => *to = **bytes,
            None => to.fill(0),
        }
        true
    }

    fn sent(&mut self, first_page: u64, bytes: &[u8]) {
        for (page, bytes) in (first_page..).zip(bytes.as_chunks::<PAGE_SIZE>().0) {
            self.insert(page, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(byte: u8) -> Page {
        [byte; PAGE_SIZE]
    }

    #[test]
    fn the_last_version_or_none() {
        let mut past = InMemory::new(1 << 20);
        let mut to = page(9);
        assert!(!past.read(3, &mut to));
        past.sent(3, &[page(1), page(0)].concat());
        assert!(past.read(3, &mut to) && to == page(1));
        assert!(past.read(4, &mut to) && to == page(0));
        past.sent(3, &page(2));
        assert!(past.read(3, &mut to) && to == page(2));
        assert!(!past.read(5, &mut to));
    }

    #[test]
    fn what_is_sent_again_is_kept_longest_and_the_limit_holds() {
        let mut past = InMemory::new(100 * (PAGE_SIZE + OVERHEAD) as u64);
        for round in 1..=3 {
            for hot in 0..10 {
                past.sent(hot, &page(round));
            }
        }
        for cold in 1000..3000 {
            past.sent(cold, &page(7));
        }
        assert_eq!(past.len(), 100);
        let mut to = page(0);
        for hot in 0..10 {
            assert!(past.read(hot, &mut to) && to == page(3), "page {hot}");
        }
        assert!(past.read(2999, &mut to) && !past.read(1000, &mut to));
        // Few pages, rewritten for ever: nothing may grow.
        for _ in 0..10_000 {
            past.sent(5, &page(8));
        }
        assert!(past.queues.iter().map(VecDeque::len).sum::<usize>() < 1000);
        // No room at all is a limit, too.
        let mut none = InMemory::new(0);
        none.sent(1, &page(1));
        assert!(none.is_empty() && !none.read(1, &mut to));
    }
}
