//! The exchange's loop, shared by all vector levels.

use super::{RANGE_BITS, REACH, TAG};
use crate::lanes::Lanes;
use crate::{PAGE_SIZE, Page};

#[inline(always)]
pub(super) fn self_relative<L: Lanes>(lanes: L, page: &Page, address: u64, out: &mut Page) {
    const BITS: i32 = RANGE_BITS.cast_signed();
    let address = address.wrapping_sub(REACH);
    let places: [u64; 8] = std::array::from_fn(|i| address.wrapping_add(8 * i as u64));
    let mut start = lanes.load_words(&places);
    let (tag, step, zero) = (lanes.splat64(TAG), lanes.splat64(L::BYTES as u64), lanes.zero());
    for i in 0..PAGE_SIZE / L::BYTES {
        let word = lanes.load(&page[i * L::BYTES..]);
        let (distance, tagged) = (lanes.sub64(word, start), lanes.sub64(word, tag));
        let near = lanes.eq64(lanes.shr64::<BITS>(distance), zero);
        let marked = lanes.eq64(lanes.shr64::<BITS>(tagged), zero);
        let restored = lanes.blend(marked, lanes.add64(start, tagged), word);
        lanes.store(lanes.blend(near, lanes.add64(tag, distance), restored), &mut out[i * L::BYTES..]);
        start = lanes.add64(start, step);
    }
}
