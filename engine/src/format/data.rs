//! A frame's data, as it came: in one part or in several.
//!
//! What comes over a network comes in parts, and there are gigabytes of it: they stay where they were received.

use std::borrow::Cow;
use std::ops::Range;

/// Bytes in parts, one behind the other.
#[derive(Clone, Default)]
pub(crate) struct Data(Vec<Part>);

#[derive(Clone)]
struct Part {
    /// Where it ends among all bytes.
    end: usize,
    bytes: Vec<u8>,
    /// Bytes at its start that are not meant.
    skip: usize,
}

impl Data {
    /// All bytes of these parts.
    pub(crate) fn of_parts(parts: Vec<Vec<u8>>) -> Self {
        let mut end = 0;
        let parts = parts.into_iter().filter(|bytes| !bytes.is_empty()).map(|bytes| {
            end += bytes.len();
            Part { end, bytes, skip: 0 }
        });
        Data(parts.collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.last().map_or(0, |part| part.end)
    }

    /// What follows the first `count` bytes.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub(crate) fn split_off(mut self, count: usize) -> Self {
        assert!(count <= self.len(), "{count} bytes of {}", self.len());
        self.0.drain(..self.0.partition_point(|part| part.end <= count));
        if let Some(first) = self.0.first_mut() {
            first.skip = first.skip + count - (first.end - (first.bytes.len() - first.skip));
        }
        self.0.iter_mut().for_each(|part| part.end -= count);
        self
    }

    /// These bytes; copied only where they lie in several parts.
    ///
    /// # Panics
    ///
    /// If they are not all there, as for slices.
    pub(crate) fn get(&self, range: Range<usize>) -> Cow<'_, [u8]> {
        if range.is_empty() {
            return Cow::Borrowed(&[]);
        }
        let Range { start, end } = range;
        let first = self.0.partition_point(|part| part.end <= start);
        let from = |part: &Part, start: usize| part.bytes.len() - (part.end - start);
        let part = &self.0[first];
        if end <= part.end {
            let at = from(part, start);
            return Cow::Borrowed(&part.bytes[at..at + end - start]);
        }
        let mut bytes = Vec::with_capacity(end - start);
        for part in &self.0[first..] {
            let at = from(part, start + bytes.len());
            let count = part.bytes.len().min(at + end - start - bytes.len()) - at;
            bytes.extend_from_slice(&part.bytes[at..at + count]);
            if bytes.len() == end - start {
                break;
            }
        }
        assert_eq!(bytes.len(), end - start, "bytes {start} to {end} of {}", self.len());
        Cow::Owned(bytes)
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Self {
        Self::of_parts(vec![bytes])
    }
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Data").field("len", &self.len()).field("parts", &self.0.len()).finish()
    }
}

impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        self.get(0..self.len()) == other.get(0..other.len())
    }
}

impl Eq for Data {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_same_however_they_are_parted() {
        let all: Vec<u8> = (0..40).collect();
        for cuts in [&[][..], &[0, 40], &[1], &[13, 14, 27], &[20, 20, 39]] {
            let mut parts = Vec::new();
            let mut start = 0;
            for &cut in cuts.iter().chain(&[40]) {
                parts.push(all[start..cut].to_vec());
                start = cut;
            }
            let whole = Data::of_parts(parts);
            for count in 0..=40 {
                let data = whole.clone().split_off(count);
                assert_eq!(data.len(), 40 - count);
                assert_eq!(data, Data::from(all[count..].to_vec()));
                for start in 0..data.len() {
                    for end in start..=data.len() {
                        assert_eq!(data.get(start..end), &all[count + start..count + end], "{cuts:?}");
                    }
                }
            }
            let twice = whole.split_off(5).split_off(10);
            assert_eq!(twice.get(0..25), &all[15..]);
        }
    }

    #[test]
    #[should_panic(expected = "of 3")]
    fn what_is_not_there_is_not_given() {
        let _ = Data::of_parts(vec![vec![1, 2], vec![3]]).get(1..4);
    }
}
