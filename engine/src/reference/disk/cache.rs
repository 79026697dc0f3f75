//! The pieces of compressed images that were decoded last.
//!
//! Blocks are asked for one at a time, and clusters hold many: without this, each of them would be decoded again for
//! every block. Small and locked as a whole, since what it saves costs a thousand times more than the lock.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::reference::ReferenceError;

/// Bytes kept, unless a single piece is larger.
const MAX_BYTES: usize = 8 << 20;

#[derive(Debug)]
struct Entry {
    layer: usize,
    start: u64,
    bytes: Arc<Vec<u8>>,
}

/// Decoded pieces by layer and offset, the last used at the front.
#[derive(Debug, Default)]
pub(super) struct CodedCache(Mutex<VecDeque<Entry>>);

impl CodedCache {
    /// The piece of `layer` that begins at `start`, decoded now if it is not kept.
    pub(super) fn get(
        &self,
        layer: usize,
        start: u64,
        decode: impl FnOnce() -> Result<Vec<u8>, ReferenceError>,
    ) -> Result<Arc<Vec<u8>>, ReferenceError> {
        if let Some(bytes) = self.find(layer, start) {
            return Ok(bytes);
        }
        // Unlocked, so that threads decode side by side; two may decode the same, which is only wasteful.
        let bytes = Arc::new(decode()?);
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push_front(Entry { layer, start, bytes: Arc::clone(&bytes) });
        let mut kept = 0;
        let end = entries.iter().position(|entry| {
            kept += entry.bytes.len();
            kept > MAX_BYTES
        });
        entries.truncate(end.unwrap_or(usize::MAX).max(1));
        Ok(bytes)
    }

    fn find(&self, layer: usize, start: u64) -> Option<Arc<Vec<u8>>> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = entries.iter().position(|entry| entry.layer == layer && entry.start == start)?;
        let entry = entries.remove(at)?;
        let bytes = Arc::clone(&entry.bytes);
        entries.push_front(entry);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_used_within_its_bound() {
        let cache = CodedCache::default();
        let mut decoded = 0;
        let mut get = |start: u64| {
            let bytes = cache.get(0, start, || {
                decoded += 1;
                Ok(vec![start as u8; MAX_BYTES / 4])
            });
            assert_eq!(bytes.unwrap()[7], start as u8);
            decoded
        };
        assert_eq!((get(1), get(2), get(3), get(4)), (1, 2, 3, 4));
        assert_eq!((get(1), get(5), get(1)), (4, 5, 5), "1 was used again before 5 pushed out 2");
        assert_eq!((get(2), get(4)), (6, 6));
        let large = cache.get(1, 1, || Ok(vec![9; MAX_BYTES + 1])).unwrap();
        assert_eq!(cache.get(1, 1, || unreachable!("it is kept")).unwrap(), large);
        assert_eq!(cache.0.lock().unwrap().len(), 1);
    }
}
