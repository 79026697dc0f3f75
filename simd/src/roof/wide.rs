//! The sum's loop, shared by all vector levels.

use super::scalar;
use crate::lanes::Lanes;

/// Bytes that one turn takes: eight independent sums of the widest level.
const TURN: usize = 512;

#[inline(always)]
pub(super) fn sum<L: Lanes>(lanes: L, bytes: &[u8]) -> u64 {
    let (turns, rest) = bytes.as_chunks::<TURN>();
    let mut sums = [lanes.zero(); 8];
    for turn in turns {
        for i in 0..TURN / L::BYTES {
            sums[i % 8] = lanes.add64(sums[i % 8], lanes.load(&turn[i * L::BYTES..]));
        }
    }
    let mut total = lanes.zero();
    for sum in sums {
        total = lanes.add64(total, sum);
    }
    lanes.sum64(total).wrapping_add(scalar::sum(rest))
}
