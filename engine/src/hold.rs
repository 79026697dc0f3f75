//! Memory that outlives whoever reads it: what a device needs before it may read pages where they lie.
//!
//! A device reads on its own, and goes on when the thread that asked it has given up waiting. So a borrow is not enough:
//! it gets a share in the memory, and the memory stays mapped, at its address and unchanged, until the last share is gone.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};

/// A share in bytes that stay where and what they are while it exists.
#[derive(Clone)]
pub struct Hold {
    /// Addresses; a pointer is made of them where one is needed.
    addresses: Range<usize>,
    _owner: Arc<dyn Send + Sync>,
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Hold {
    /// A share in a mapping. If it is of a file, the file must rest, as for everyone who reads it: see [`crate::map`].
    pub fn of_map(map: Arc<Mmap>) -> Self {
        Self::new(&map[..], map.clone())
    }

    /// A share in a mapping that may be written to, but is not: whoever shares it has no way to. This is what a VMM's guest
    /// memory is, and the only kind of mapping that some drivers import (see `docs/gpu.md`).
    pub fn of_map_mut(map: Arc<MmapMut>) -> Self {
        Self::new(&map[..], map.clone())
    }

    /// A share in bytes on the heap.
    pub fn of_bytes(bytes: Arc<[u8]>) -> Self {
        Self::new(&bytes[..], Arc::new(bytes.clone()))
    }

    fn new(bytes: &[u8], owner: Arc<dyn Send + Sync>) -> Self {
        let start = bytes.as_ptr().expose_provenance();
        Hold { addresses: start..start + bytes.len(), _owner: owner }
    }

    /// Where the bytes are.
    pub fn addresses(&self) -> Range<usize> {
        self.addresses.clone()
    }

    /// Whether all of these bytes are among those that are held.
    pub fn covers(&self, bytes: &[u8]) -> bool {
        let start = bytes.as_ptr().addr();
        self.addresses.start <= start && start + bytes.len() <= self.addresses.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_its_own_bytes_and_no_others() {
        let bytes: Arc<[u8]> = vec![1; 100].into();
        let hold = Hold::of_bytes(bytes.clone());
        assert!(hold.covers(&bytes) && hold.covers(&bytes[3..7]) && hold.covers(&bytes[100..]));
        assert!(!hold.covers(&[1; 100]));
        assert_eq!(hold.addresses().len(), 100);
    }

    #[test]
    fn keeps_its_bytes() {
        let bytes: Arc<[u8]> = vec![1; 100].into();
        let weak = Arc::downgrade(&bytes);
        let hold = Hold::of_bytes(bytes);
        assert_eq!(weak.strong_count(), 1);
        drop(hold.clone());
        assert_eq!(weak.strong_count(), 1);
        drop(hold);
        assert_eq!(weak.strong_count(), 0);
    }
}
