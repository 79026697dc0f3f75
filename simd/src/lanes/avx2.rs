//! The vector operations in AVX2: 256 bits.

use std::arch::x86_64::*;

use super::Lanes;
use crate::level::Avx2;

/// Runs intrinsics that touch registers only.
macro_rules! op {
    ($proof:expr, $op:expr) => {{
        let _proof: Avx2 = $proof;
        // SAFETY: an `Avx2` exists only where `Avx2::detect` saw the feature on this CPU (level.rs),
        // which is all that intrinsics without pointers require.
        unsafe { $op }
    }};
}

impl Lanes for Avx2 {
    type Vector = __m256i;

    const BYTES: usize = 32;

    #[inline(always)]
    fn zero(self) -> __m256i {
        op!(self, _mm256_setzero_si256())
    }

    #[inline(always)]
    fn splat64(self, word: u64) -> __m256i {
        op!(self, _mm256_set1_epi64x(word.cast_signed()))
    }

    #[inline(always)]
    fn splat8(self, byte: u8) -> __m256i {
        op!(self, _mm256_set1_epi8(byte.cast_signed()))
    }

    #[inline(always)]
    fn load(self, from: &[u8]) -> __m256i {
        let from: &[u8; 32] = from.first_chunk().expect("a vector of bytes");
        // SAFETY: 32 readable bytes at any alignment, and `self` proves AVX2.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_words(self, from: &[u64]) -> __m256i {
        let from: &[u64; 4] = from.first_chunk().expect("a vector of words");
        // SAFETY: 32 readable bytes at any alignment, and `self` proves AVX2.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, vector: __m256i, to: &mut [u8]) {
        let to: &mut [u8; 32] = to.first_chunk_mut().expect("room for a vector of bytes");
        // SAFETY: 32 writable bytes at any alignment, and `self` proves AVX2.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), vector) }
    }

    #[inline(always)]
    fn store_words(self, vector: __m256i, to: &mut [u64]) {
        let to: &mut [u64; 4] = to.first_chunk_mut().expect("room for a vector of words");
        // SAFETY: 32 writable bytes at any alignment, and `self` proves AVX2.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), vector) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        super::prefetch_x86(at);
    }

    #[inline(always)]
    fn xor(self, a: __m256i, b: __m256i) -> __m256i {
        op!(self, _mm256_xor_si256(a, b))
    }

    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        op!(self, _mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        op!(self, _mm256_and_si256(a, b))
    }

    #[inline(always)]
    fn blend(self, mask: __m256i, a: __m256i, b: __m256i) -> __m256i {
        op!(self, _mm256_or_si256(_mm256_and_si256(mask, a), _mm256_andnot_si256(mask, b)))
    }

    #[inline(always)]
    fn add64(self, a: __m256i, b: __m256i) -> __m256i {
        op!(self, _mm256_add_epi64(a, b))
    }

    #[inline(always)]
    fn sub64(self, a: __m256i, b: __m256i) -> __m256i {
        op!(self, _mm256_sub_epi64(a, b))
    }

    #[inline(always)]
    fn shl64<const N: i32>(self, a: __m256i) -> __m256i {
        op!(self, _mm256_slli_epi64::<N>(a))
    }

    #[inline(always)]
    fn shr64<const N: i32>(self, a: __m256i) -> __m256i {
        op!(self, _mm256_srli_epi64::<N>(a))
    }

    #[inline(always)]
    fn rotl64<const L: i32, const R: i32>(self, a: __m256i) -> __m256i {
        self.or(self.shl64::<L>(a), self.shr64::<R>(a))
    }

    #[inline(always)]
    fn mul32(self, a: __m256i, b: __m256i) -> __m256i {
        op!(self, _mm256_mul_epu32(a, b))
    }

    #[inline(always)]
    fn mul_halves(self, a: __m256i) -> __m256i {
        self.mul32(a, self.shr64::<32>(a))
    }

    #[inline(always)]
    fn swap_pairs(self, a: __m256i) -> __m256i {
        op!(self, _mm256_shuffle_epi32::<0b01_00_11_10>(a))
    }

    #[inline(always)]
    fn even32(self, a: __m256i, b: __m256i) -> __m256i {
        op!(self, {
            let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
            _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b))
        })
    }

    #[inline(always)]
    fn odd32(self, a: __m256i, b: __m256i) -> __m256i {
        op!(self, {
            let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
            _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b))
        })
    }

    #[inline(always)]
    fn pack32(self, a: __m256i, b: __m256i) -> __m256i {
        op!(self, _mm256_packs_epi32(a, b))
    }

    #[inline(always)]
    fn sar32<const N: u32>(self, a: __m256i) -> __m256i {
        op!(self, _mm256_sra_epi32(a, _mm_cvtsi32_si128(N.cast_signed())))
    }

    #[inline(always)]
    fn sar16<const N: u32>(self, a: __m256i) -> __m256i {
        op!(self, _mm256_sra_epi16(a, _mm_cvtsi32_si128(N.cast_signed())))
    }

    #[inline(always)]
    fn pack16(self, a: __m256i, b: __m256i) -> __m256i {
        op!(self, _mm256_packs_epi16(a, b))
    }

    #[inline(always)]
    fn add8(self, a: __m256i, b: __m256i) -> __m256i {
        op!(self, _mm256_add_epi8(a, b))
    }

    #[inline(always)]
    fn sub8(self, a: __m256i, b: __m256i) -> __m256i {
        op!(self, _mm256_sub_epi8(a, b))
    }

    #[inline(always)]
    fn sub_or_zero8(self, a: __m256i, b: __m256i) -> __m256i {
        op!(self, _mm256_subs_epu8(a, b))
    }

    #[inline(always)]
    fn sum8(self, counters: __m256i) -> u16 {
        let sums = op!(self, _mm256_sad_epu8(counters, _mm256_setzero_si256()));
        self.sum64(sums) as u16
    }

    #[inline(always)]
    fn sum64(self, a: __m256i) -> u64 {
        op!(self, {
            let half = _mm_add_epi64(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let sum = _mm_add_epi64(half, _mm_unpackhi_epi64(half, half));
            _mm_cvtsi128_si64(sum).cast_unsigned()
        })
    }

    #[inline(always)]
    fn eq64(self, a: __m256i, b: __m256i) -> __m256i {
        op!(self, _mm256_cmpeq_epi64(a, b))
    }

    #[inline(always)]
    fn mask64(self, bits: u32) -> __m256i {
        self.load_words(&KEEP.0[bits as usize % 16])
    }

    #[inline(always)]
    fn eq64_bits(self, a: __m256i, b: __m256i) -> u32 {
        op!(self, {
            let equal = _mm256_castsi256_pd(_mm256_cmpeq_epi64(a, b));
            _mm256_movemask_pd(equal).cast_unsigned()
        })
    }

    #[inline(always)]
    fn any(self, a: __m256i) -> bool {
        op!(self, _mm256_testz_si256(a, a) == 0)
    }

    #[inline(always)]
    fn compress64(self, a: __m256i, bits: u32) -> __m256i {
        let order = self.load_words(&COMPRESS.0[bits as usize % 16]);
        op!(self, _mm256_permutevar8x32_epi32(a, order))
    }

    #[inline(always)]
    fn expand64(self, a: __m256i, bits: u32) -> __m256i {
        let order = self.load_words(&EXPAND.0[bits as usize % 16]);
        self.and(op!(self, _mm256_permutevar8x32_epi32(a, order)), self.mask64(bits))
    }
}

/// A row of four words for each set of four bits.
#[repr(align(32))]
struct Rows([[u64; 4]; 16]);

/// The 32-bit lane numbers that select word `word`.
const fn lane_pair(word: u64) -> u64 {
    (2 * word + 1) << 32 | (2 * word)
}

/// Where each word of the compressed vector comes from.
static COMPRESS: Rows = {
    let mut rows = [[0; 4]; 16];
    let mut bits = 0;
    while bits < 16 {
        let (mut word, mut packed) = (0, 0);
        while word < 4 {
            if bits >> word & 1 == 1 {
                rows[bits][packed] = lane_pair(word);
                packed += 1;
            }
            word += 1;
        }
        bits += 1;
    }
    Rows(rows)
};

/// Where each word of the expanded vector comes from, if its bit is set.
static EXPAND: Rows = {
    let mut rows = [[0; 4]; 16];
    let mut bits = 0;
    while bits < 16 {
        let (mut word, mut packed) = (0, 0);
        while word < 4 {
            if bits >> word & 1 == 1 {
                rows[bits][word] = lane_pair(packed);
                packed += 1;
            }
            word += 1;
        }
        bits += 1;
    }
    Rows(rows)
};

/// All ones in the words whose bit is set.
static KEEP: Rows = {
    let mut rows = [[0; 4]; 16];
    let mut bits = 0;
    while bits < 16 {
        let mut word = 0;
        while word < 4 {
            if bits >> word & 1 == 1 {
                rows[bits][word] = u64::MAX;
            }
            word += 1;
        }
        bits += 1;
    }
    Rows(rows)
};
