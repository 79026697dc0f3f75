//! The vector operations in NEON: 128 bits.

use std::arch::aarch64::*;

use super::Lanes;
use crate::level::Neon;

/// Runs intrinsics that touch registers only.
macro_rules! op {
    ($proof:expr, $op:expr) => {{
        let _proof: Neon = $proof;
        // SAFETY: a `Neon` exists only where `Neon::detect` saw the feature on this CPU (level.rs),
        // which is all that intrinsics without pointers require.
        unsafe { $op }
    }};
}

impl Lanes for Neon {
    type Vector = uint64x2_t;

    const BYTES: usize = 16;

    #[inline(always)]
    fn zero(self) -> uint64x2_t {
        self.splat64(0)
    }

    #[inline(always)]
    fn splat64(self, word: u64) -> uint64x2_t {
        op!(self, vdupq_n_u64(word))
    }

    #[inline(always)]
    fn splat8(self, byte: u8) -> uint64x2_t {
        op!(self, vreinterpretq_u64_u8(vdupq_n_u8(byte)))
    }

    #[inline(always)]
    fn load(self, from: &[u8]) -> uint64x2_t {
        let from: &[u8; 16] = from.first_chunk().expect("a vector of bytes");
        // SAFETY: 16 readable bytes at any alignment, and `self` proves NEON.
        unsafe { vreinterpretq_u64_u8(vld1q_u8(from.as_ptr())) }
    }

    #[inline(always)]
    fn load_words(self, from: &[u64]) -> uint64x2_t {
        let from: &[u64; 2] = from.first_chunk().expect("a vector of words");
        // SAFETY: two readable words, and `self` proves NEON.
        unsafe { vld1q_u64(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, vector: uint64x2_t, to: &mut [u8]) {
        let to: &mut [u8; 16] = to.first_chunk_mut().expect("room for a vector of bytes");
        // SAFETY: 16 writable bytes at any alignment, and `self` proves NEON.
        unsafe { vst1q_u8(to.as_mut_ptr(), vreinterpretq_u8_u64(vector)) }
    }

    #[inline(always)]
    fn store_words(self, vector: uint64x2_t, to: &mut [u64]) {
        let to: &mut [u64; 2] = to.first_chunk_mut().expect("room for a vector of words");
        // SAFETY: two writable words, and `self` proves NEON.
        unsafe { vst1q_u64(to.as_mut_ptr(), vector) }
    }

    #[inline(always)]
    fn prefetch(self, _at: *const u8) {
        // Stable Rust has no prefetch for this architecture; its own prefetchers cross pages.
    }

    #[inline(always)]
    fn xor(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, veorq_u64(a, b))
    }

    #[inline(always)]
    fn or(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, vorrq_u64(a, b))
    }

    #[inline(always)]
    fn and(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, vandq_u64(a, b))
    }

    #[inline(always)]
    fn blend(self, mask: uint64x2_t, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, vbslq_u64(mask, a, b))
    }

    #[inline(always)]
    fn add64(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, vaddq_u64(a, b))
    }

    #[inline(always)]
    fn sub64(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, vsubq_u64(a, b))
    }

    #[inline(always)]
    fn shl64<const N: i32>(self, a: uint64x2_t) -> uint64x2_t {
        op!(self, vshlq_n_u64::<N>(a))
    }

    #[inline(always)]
    fn shr64<const N: i32>(self, a: uint64x2_t) -> uint64x2_t {
        op!(self, vshrq_n_u64::<N>(a))
    }

    #[inline(always)]
    fn rotl64<const L: i32, const R: i32>(self, a: uint64x2_t) -> uint64x2_t {
        op!(self, vsriq_n_u64::<R>(vshlq_n_u64::<L>(a), a))
    }

    #[inline(always)]
    fn mul32(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, vmull_u32(vmovn_u64(a), vmovn_u64(b)))
    }

    #[inline(always)]
    fn mul_halves(self, a: uint64x2_t) -> uint64x2_t {
        op!(self, vmull_u32(vmovn_u64(a), vshrn_n_u64::<32>(a)))
    }

    #[inline(always)]
    fn swap_pairs(self, a: uint64x2_t) -> uint64x2_t {
        op!(self, vextq_u64::<1>(a, a))
    }

    #[inline(always)]
    fn even32(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, vreinterpretq_u64_u32(vuzp1q_u32(vreinterpretq_u32_u64(a), vreinterpretq_u32_u64(b))))
    }

    #[inline(always)]
    fn odd32(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, vreinterpretq_u64_u32(vuzp2q_u32(vreinterpretq_u32_u64(a), vreinterpretq_u32_u64(b))))
    }

    #[inline(always)]
    fn pack32(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, {
            let low = vqmovn_s32(vreinterpretq_s32_u64(a));
            vreinterpretq_u64_s16(vqmovn_high_s32(low, vreinterpretq_s32_u64(b)))
        })
    }

    #[inline(always)]
    fn sar32<const N: u32>(self, a: uint64x2_t) -> uint64x2_t {
        op!(self, {
            let by = vdupq_n_s32(-N.cast_signed());
            vreinterpretq_u64_s32(vshlq_s32(vreinterpretq_s32_u64(a), by))
        })
    }

    #[inline(always)]
    fn sar16<const N: u32>(self, a: uint64x2_t) -> uint64x2_t {
        op!(self, {
            let by = vdupq_n_s16(-(N as i16));
            vreinterpretq_u64_s16(vshlq_s16(vreinterpretq_s16_u64(a), by))
        })
    }

    #[inline(always)]
    fn pack16(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, {
            let low = vqmovn_s16(vreinterpretq_s16_u64(a));
            vreinterpretq_u64_s8(vqmovn_high_s16(low, vreinterpretq_s16_u64(b)))
        })
    }

    #[inline(always)]
    fn add8(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, vreinterpretq_u64_u8(vaddq_u8(vreinterpretq_u8_u64(a), vreinterpretq_u8_u64(b))))
    }

    #[inline(always)]
    fn sub8(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, vreinterpretq_u64_u8(vsubq_u8(vreinterpretq_u8_u64(a), vreinterpretq_u8_u64(b))))
    }

    #[inline(always)]
    fn sub_or_zero8(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, vreinterpretq_u64_u8(vqsubq_u8(vreinterpretq_u8_u64(a), vreinterpretq_u8_u64(b))))
    }

    #[inline(always)]
    fn sum8(self, counters: uint64x2_t) -> u16 {
        op!(self, vaddlvq_u8(vreinterpretq_u8_u64(counters)))
    }

    #[inline(always)]
    fn sum64(self, a: uint64x2_t) -> u64 {
        op!(self, vaddvq_u64(a))
    }

    #[inline(always)]
    fn eq64(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        op!(self, vceqq_u64(a, b))
    }

    #[inline(always)]
    fn mask64(self, bits: u32) -> uint64x2_t {
        self.load_words(&[
            0u64.wrapping_sub(u64::from(bits & 1)),
            0u64.wrapping_sub(u64::from(bits >> 1 & 1)),
        ])
    }

    #[inline(always)]
    fn eq64_bits(self, a: uint64x2_t, b: uint64x2_t) -> u32 {
        op!(self, {
            let halves = vmovn_u64(vceqq_u64(a, b));
            vget_lane_u32::<0>(halves) & 1 | vget_lane_u32::<1>(halves) & 2
        })
    }

    #[inline(always)]
    fn any(self, a: uint64x2_t) -> bool {
        op!(self, vmaxvq_u32(vreinterpretq_u32_u64(a)) != 0)
    }

    #[inline(always)]
    fn compress64(self, a: uint64x2_t, bits: u32) -> uint64x2_t {
        // Only `0b10` moves anything: the second word to the front.
        let move_second = op!(self, vdupq_n_u64(if bits == 2 { u64::MAX } else { 0 }));
        op!(self, vbslq_u64(move_second, vdupq_laneq_u64::<1>(a), a))
    }

    #[inline(always)]
    fn expand64(self, a: uint64x2_t, bits: u32) -> uint64x2_t {
        let (first, second) = op!(self, (vgetq_lane_u64::<0>(a), vgetq_lane_u64::<1>(a)));
        let words = match bits & 3 {
            0 => [0, 0],
            1 => [first, 0],
            2 => [0, first],
            _ => [first, second],
        };
        self.load_words(&words)
    }
}
