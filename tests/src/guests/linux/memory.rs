//! Physical memory to write structures into.

use crate::reference::{PAGE, Page};

/// Memory from address 0 on.
#[derive(Clone, Debug)]
pub struct Memory {
    bytes: Vec<u8>,
}

impl Memory {
    /// So many pages of zeros.
    pub fn new(pages: u64) -> Self {
        Self { bytes: vec![0; pages as usize * PAGE] }
    }

    /// What these bytes are.
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec() }
    }

    /// All of it.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The word at an address.
    pub fn word(&self, address: u64) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes[address as usize..][..8]);
        u64::from_le_bytes(word)
    }

    /// Changes the word at an address.
    pub fn set_word(&mut self, address: u64, word: u64) {
        self.set_bytes(address, &word.to_le_bytes());
    }

    /// Changes some bytes.
    pub fn set_bytes(&mut self, address: u64, bytes: &[u8]) {
        self.bytes[address as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    /// A frame.
    ///
    /// # Panics
    ///
    /// If there is no such frame.
    pub fn page_mut(&mut self, frame: u64) -> &mut Page {
        let bytes = &mut self.bytes[frame as usize * PAGE..][..PAGE];
        bytes.try_into().expect("a frame has 4096 bytes")
    }
}
