//! The exchange's loop, shared by all vector levels.

use super::{POINTER_BITS, SMALL_BITS, STEP_BITS};
use crate::lanes::Lanes;
use crate::{PAGE_SIZE, Page, TAG};

#[inline(always)]
pub(super) fn relocated<L: Lanes>(lanes: L, page: &Page, base: &Page, out: &mut Page) {
    const SMALL: i32 = SMALL_BITS.cast_signed();
    const POINTER: i32 = POINTER_BITS.cast_signed();
    const REST: i32 = 64 - STEP_BITS.cast_signed();
    let (zero, tag, half) = (lanes.zero(), lanes.splat64(TAG), lanes.splat64(1 << (POINTER_BITS - 1)));
    // What is no pointer is at least one of these; and what is no distance.
    let small = |word| lanes.eq64(lanes.shr64::<SMALL>(word), zero);
    let canonical = |word| lanes.eq64(lanes.shr64::<POINTER>(lanes.add64(word, half)), zero);
    let multiple = |distance| lanes.eq64(lanes.shl64::<REST>(distance), zero);
    for at in (0..PAGE_SIZE).step_by(L::BYTES) {
        let (word, base) = (lanes.load(&page[at..]), lanes.load(&base[at..]));
        let (moved, tagged) = (lanes.sub64(word, base), lanes.sub64(word, tag));
        let restored = lanes.add64(base, tagged);
        let neither = lanes.or(small(base), lanes.eq64(word, base));
        let moves = lanes.and(lanes.and(canonical(base), canonical(word)), multiple(moved));
        let moves = lanes.blend(lanes.or(neither, small(word)), zero, moves);
        let returns = lanes.and(lanes.and(canonical(base), canonical(restored)), multiple(tagged));
        let none = lanes.or(lanes.or(neither, small(restored)), lanes.eq64(word, tag));
        let returns = lanes.blend(none, zero, returns);
        let out_word = lanes.blend(returns, restored, word);
        lanes.store(lanes.blend(moves, lanes.add64(tag, moved), out_word), &mut out[at..]);
    }
}
