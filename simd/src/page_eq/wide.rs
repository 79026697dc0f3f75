//! The comparison's loop, shared by all vector levels.

use crate::Page;
use crate::lanes::Lanes;

/// Bytes between two tests: enough to make the tests cheap, few enough to be out early.
const STEP: usize = 256;

#[inline(always)]
pub(super) fn page_eq<L: Lanes>(lanes: L, a: &Page, b: &Page) -> bool {
    for (a, b) in a.as_chunks::<STEP>().0.iter().zip(b.as_chunks::<STEP>().0) {
        let mut differs = lanes.zero();
        for i in 0..STEP / L::BYTES {
            let (a, b) = (lanes.load(&a[i * L::BYTES..]), lanes.load(&b[i * L::BYTES..]));
            differs = lanes.or(differs, lanes.xor(a, b));
        }
        if lanes.any(differs) {
            return false;
        }
    }
    true
}
