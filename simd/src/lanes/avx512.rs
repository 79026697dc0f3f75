//! The vector operations in AVX-512 (F, BW, DQ): 512 bits.

use std::arch::x86_64::*;

use super::Lanes;
use crate::level::Avx512;

/// Runs intrinsics that touch registers only.
macro_rules! op {
    ($proof:expr, $op:expr) => {{
        let _proof: Avx512 = $proof;
        // SAFETY: an `Avx512` exists only where `Avx512::detect` saw the features on this CPU
        // (level.rs), which is all that intrinsics without pointers require.
        unsafe { $op }
    }};
}

impl Lanes for Avx512 {
    type Vector = __m512i;

    const BYTES: usize = 64;

    #[inline(always)]
    fn zero(self) -> __m512i {
        op!(self, _mm512_setzero_si512())
    }

    #[inline(always)]
    fn splat64(self, word: u64) -> __m512i {
        op!(self, _mm512_set1_epi64(word.cast_signed()))
    }

    #[inline(always)]
    fn splat8(self, byte: u8) -> __m512i {
        op!(self, _mm512_set1_epi8(byte.cast_signed()))
    }

    #[inline(always)]
    fn load(self, from: &[u8]) -> __m512i {
        let from: &[u8; 64] = from.first_chunk().expect("a vector of bytes");
        // SAFETY: 64 readable bytes at any alignment, and `self` proves AVX-512.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_words(self, from: &[u64]) -> __m512i {
        let from: &[u64; 8] = from.first_chunk().expect("a vector of words");
        // SAFETY: 64 readable bytes at any alignment, and `self` proves AVX-512.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, vector: __m512i, to: &mut [u8]) {
        let to: &mut [u8; 64] = to.first_chunk_mut().expect("room for a vector of bytes");
        // SAFETY: 64 writable bytes at any alignment, and `self` proves AVX-512.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), vector) }
    }

    #[inline(always)]
    fn store_words(self, vector: __m512i, to: &mut [u64]) {
        let to: &mut [u64; 8] = to.first_chunk_mut().expect("room for a vector of words");
        // SAFETY: 64 writable bytes at any alignment, and `self` proves AVX-512.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), vector) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        super::prefetch_x86(at);
    }

    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        op!(self, _mm512_xor_si512(a, b))
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        op!(self, _mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        op!(self, _mm512_and_si512(a, b))
    }

    #[inline(always)]
    fn blend(self, mask: __m512i, a: __m512i, b: __m512i) -> __m512i {
        op!(self, _mm512_ternarylogic_epi64::<0xca>(mask, a, b))
    }

    #[inline(always)]
    fn add64(self, a: __m512i, b: __m512i) -> __m512i {
        op!(self, _mm512_add_epi64(a, b))
    }

    #[inline(always)]
    fn sub64(self, a: __m512i, b: __m512i) -> __m512i {
        op!(self, _mm512_sub_epi64(a, b))
    }

    #[inline(always)]
    fn shl64<const N: i32>(self, a: __m512i) -> __m512i {
        op!(self, _mm512_sll_epi64(a, _mm_cvtsi32_si128(N)))
    }

    #[inline(always)]
    fn shr64<const N: i32>(self, a: __m512i) -> __m512i {
        op!(self, _mm512_srl_epi64(a, _mm_cvtsi32_si128(N)))
    }

    #[inline(always)]
    fn rotl64<const L: i32, const R: i32>(self, a: __m512i) -> __m512i {
        op!(self, _mm512_rol_epi64::<L>(a))
    }

    #[inline(always)]
    fn mul32(self, a: __m512i, b: __m512i) -> __m512i {
        op!(self, _mm512_mul_epu32(a, b))
    }

    #[inline(always)]
    fn mul_halves(self, a: __m512i) -> __m512i {
        self.mul32(a, self.shr64::<32>(a))
    }

    #[inline(always)]
    fn swap_pairs(self, a: __m512i) -> __m512i {
        op!(self, _mm512_shuffle_epi32::<0b01_00_11_10>(a))
    }

    #[inline(always)]
    fn even32(self, a: __m512i, b: __m512i) -> __m512i {
        op!(self, {
            let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
            _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(a, b))
        })
    }

    #[inline(always)]
    fn odd32(self, a: __m512i, b: __m512i) -> __m512i {
        op!(self, {
            let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
            _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(a, b))
        })
    }

    #[inline(always)]
    fn pack32(self, a: __m512i, b: __m512i) -> __m512i {
        op!(self, _mm512_packs_epi32(a, b))
    }

    #[inline(always)]
    fn sar32<const N: u32>(self, a: __m512i) -> __m512i {
        op!(self, _mm512_srai_epi32::<N>(a))
    }

    #[inline(always)]
    fn sar16<const N: u32>(self, a: __m512i) -> __m512i {
        op!(self, _mm512_srai_epi16::<N>(a))
    }

    #[inline(always)]
    fn pack16(self, a: __m512i, b: __m512i) -> __m512i {
        op!(self, _mm512_packs_epi16(a, b))
    }

    #[inline(always)]
    fn add8(self, a: __m512i, b: __m512i) -> __m512i {
        op!(self, _mm512_add_epi8(a, b))
    }

    #[inline(always)]
    fn sub8(self, a: __m512i, b: __m512i) -> __m512i {
        op!(self, _mm512_sub_epi8(a, b))
    }

    #[inline(always)]
    fn sub_or_zero8(self, a: __m512i, b: __m512i) -> __m512i {
        op!(self, _mm512_subs_epu8(a, b))
    }

    #[inline(always)]
    fn sum8(self, counters: __m512i) -> u16 {
        let sums = op!(self, _mm512_sad_epu8(counters, _mm512_setzero_si512()));
        self.sum64(sums) as u16
    }

    #[inline(always)]
    fn sum64(self, a: __m512i) -> u64 {
        op!(self, _mm512_reduce_add_epi64(a).cast_unsigned())
    }

    #[inline(always)]
    fn eq64(self, a: __m512i, b: __m512i) -> __m512i {
        op!(self, _mm512_movm_epi64(_mm512_cmpeq_epi64_mask(a, b)))
    }

    #[inline(always)]
    fn mask64(self, bits: u32) -> __m512i {
        op!(self, _mm512_movm_epi64(bits as __mmask8))
    }

    #[inline(always)]
    fn eq64_bits(self, a: __m512i, b: __m512i) -> u32 {
        op!(self, u32::from(_mm512_cmpeq_epi64_mask(a, b)))
    }

    #[inline(always)]
    fn any(self, a: __m512i) -> bool {
        op!(self, _mm512_test_epi64_mask(a, a) != 0)
    }

    #[inline(always)]
    fn compress64(self, a: __m512i, bits: u32) -> __m512i {
        op!(self, _mm512_maskz_compress_epi64(bits as __mmask8, a))
    }

    #[inline(always)]
    fn expand64(self, a: __m512i, bits: u32) -> __m512i {
        op!(self, _mm512_maskz_expand_epi64(bits as __mmask8, a))
    }
}
