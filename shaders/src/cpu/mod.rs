//! The stages in plain Rust: the same names, the same buffers, in the order of their bindings. Slow, and easy to check.

mod classify;
mod dedup_find;
mod dedup_insert;
mod dedup_note;
mod lookup;
mod scan;

pub use classify::classify;
pub use dedup_find::dedup_find;
pub use dedup_insert::dedup_insert;
pub use dedup_note::dedup_note;
pub use lookup::lookup;
pub use scan::scan;

use crate::Dispatch;

/// The pages of a dispatch.
fn pages(dispatch: &Dispatch) -> std::ops::Range<usize> {
    dispatch.first as usize..dispatch.end as usize
}
