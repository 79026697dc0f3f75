//! Pages that gather until they are sent together.

use std::io;

use crate::page::{PAGE_SIZE, Page, PageSet};

/// Different pages, and their bytes as they came. QEMU goes through its memory in order, so there is hardly ever anything to sort.
#[derive(Debug, Default)]
pub(super) struct Batch {
    numbers: Vec<u64>,
    bytes: Vec<u8>,
    /// The highest number.
    last: u64,
    is_sorted: bool,
}

impl Batch {
    /// Number of pages.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        number <= self.last && self.numbers.contains(&number)
    }

    /// Adds a page that is not in it.
    pub(super) fn push(&mut self, number: u64, content: &Page) {
        self.is_sorted = self.numbers.is_empty() || (self.is_sorted && number > self.last);
        self.last = if self.numbers.is_empty() { number } else { self.last.max(number) };
        self.numbers.push(number);
        self.bytes.extend_from_slice(content);
    }

    /// Gives an empty batch room for its bytes.
    pub(super) fn fill_into(&mut self, room: Vec<u8>) {
        debug_assert!(self.numbers.is_empty() && room.is_empty());
        self.bytes = room;
    }

    /// The pages and their bytes, in the order of the set; none is left.
    ///
    /// # Errors
    ///
    /// More pages than a set holds.
    pub(super) fn take(&mut self) -> io::Result<Option<(PageSet, Vec<u8>)>> {
        let Batch { mut numbers, mut bytes, is_sorted, .. } = std::mem::take(self);
        if numbers.is_empty() {
            return Ok(None);
        }
        if !is_sorted {
            let contents = bytes.as_chunks::<PAGE_SIZE>().0;
            let mut pairs: Vec<(u64, &Page)> = numbers.iter().copied().zip(contents).collect();
            pairs.sort_unstable_by_key(|&(number, _)| number);
            let sorted: Vec<&[u8]> = pairs.iter().map(|(_, content)| &content[..]).collect();
            let sorted = sorted.concat();
            numbers.sort_unstable();
            bytes = sorted;
        }
        let pages = PageSet::from_ranges(numbers.iter().map(|&page| page..page + 1));
        Ok(Some((pages.map_err(io::Error::other)?, bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_out_in_order_however_they_came() {
        for numbers in [&[3u64, 4, 9][..], &[9, 3, 4], &[0], &[4, 900, 5, 901]] {
            let mut batch = Batch::default();
            for &number in numbers {
                assert!(!batch.contains(number));
                batch.push(number, &[number as u8; PAGE_SIZE]);
                assert!(batch.contains(number));
            }
            assert_eq!(batch.len(), numbers.len());
            let (pages, bytes) = batch.take().unwrap().unwrap();
            batch.fill_into(Vec::with_capacity(1));
            let expected = {
                let mut sorted = numbers.to_vec();
                sorted.sort_unstable();
                sorted
            };
            assert_eq!(pages.ranges().flatten().collect::<Vec<_>>(), expected);
            let contents: Vec<Page> = expected.iter().map(|&number| [number as u8; PAGE_SIZE]).collect();
            assert!(bytes == contents.concat());
            assert!(batch.take().unwrap().is_none() && !batch.contains(numbers[0]));
        }
    }
}
