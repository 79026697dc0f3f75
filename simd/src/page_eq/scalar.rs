//! The comparison in plain Rust.

use crate::Page;

pub(super) fn page_eq(a: &Page, b: &Page) -> bool {
    let (a, b) = (a.as_chunks::<256>().0, b.as_chunks::<256>().0);
    a.iter().zip(b).all(|(a, b)| {
        let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
        words.fold(0, |differs, (a, b)| differs | (u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b))) == 0
    })
}
