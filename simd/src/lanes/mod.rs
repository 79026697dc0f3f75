//! The few vector operations that the kernels are written in, once for each level.
//!
//! A kernel's `wide.rs` is one generic loop over [`Lanes`]; each level implements the trait on its
//! proof token, so an operation can only be reached on a CPU that has it. Everything is
//! `inline(always)`: the code is generated inside the kernel's `#[target_feature]` entry.
//!
//! Lane order: operations on whole words keep it. The narrowing ones ([`Lanes::even32`],
//! [`Lanes::odd32`], [`Lanes::pack32`], [`Lanes::pack16`]) permute it, all in the same way, but
//! differently on each level: good for counting, not for positions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;

/// The operations of one vector level.
pub(crate) trait Lanes: Copy {
    /// A vector register.
    type Vector: Copy;

    /// Bytes in a vector: 16, 32 or 64.
    const BYTES: usize;
    /// Words in a vector.
    const WORDS: usize = Self::BYTES / 8;

    /// All bits zero.
    fn zero(self) -> Self::Vector;
    /// Every 64-bit lane is `word`.
    fn splat64(self, word: u64) -> Self::Vector;
    /// Every 8-bit lane is `byte`.
    fn splat8(self, byte: u8) -> Self::Vector;

    /// The first `BYTES` bytes of `from`. Panics where there are fewer.
    fn load(self, from: &[u8]) -> Self::Vector;
    /// The first `WORDS` words of `from`. Panics where there are fewer.
    fn load_words(self, from: &[u64]) -> Self::Vector;
    /// Writes the first `BYTES` bytes of `to`. Panics where there are fewer.
    fn store(self, vector: Self::Vector, to: &mut [u8]);
    /// Writes the first `WORDS` words of `to`. Panics where there are fewer.
    fn store_words(self, vector: Self::Vector, to: &mut [u64]);
    /// Asks for the cache line at `at`, which may be any address.
    fn prefetch(self, at: *const u8);

    /// Bitwise exclusive or.
    fn xor(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Bitwise or.
    fn or(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Bitwise and.
    fn and(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The bits of `a` where `mask` has ones, those of `b` elsewhere.
    fn blend(self, mask: Self::Vector, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// Sum of the 64-bit lanes, wrapping.
    fn add64(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Difference of the 64-bit lanes, wrapping.
    fn sub64(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// 64-bit lanes shifted left by `N` (1..=63).
    fn shl64<const N: i32>(self, a: Self::Vector) -> Self::Vector;
    /// 64-bit lanes shifted right by `N` (1..=63), zeros coming in.
    fn shr64<const N: i32>(self, a: Self::Vector) -> Self::Vector;
    /// 64-bit lanes rotated left by `L`, where `R` is `64 - L`.
    fn rotl64<const L: i32, const R: i32>(self, a: Self::Vector) -> Self::Vector;
    /// 64-bit products of the lower halves of the 64-bit lanes.
    fn mul32(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// 64-bit products of the two halves of each 64-bit lane.
    fn mul_halves(self, a: Self::Vector) -> Self::Vector;
    /// 64-bit lanes 0 and 1 exchanged, 2 and 3 exchanged, and so on.
    fn swap_pairs(self, a: Self::Vector) -> Self::Vector;

    /// The lower halves of all words of `a` and `b`, as 32-bit lanes.
    fn even32(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The upper halves of all words of `a` and `b`, as 32-bit lanes in the order of `even32`.
    fn odd32(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The signed 32-bit lanes of `a` and `b`, clamped to signed 16-bit lanes.
    fn pack32(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Signed 32-bit lanes shifted right by `N` (1..=31), the sign coming in.
    fn sar32<const N: u32>(self, a: Self::Vector) -> Self::Vector;
    /// Signed 16-bit lanes shifted right by `N` (1..=15), the sign coming in.
    fn sar16<const N: u32>(self, a: Self::Vector) -> Self::Vector;

    /// The signed 16-bit lanes of `a` and `b`, clamped to signed 8-bit lanes.
    fn pack16(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// Sum of the 8-bit lanes, wrapping.
    fn add8(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Difference of the 8-bit lanes, wrapping.
    fn sub8(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Difference of the unsigned 8-bit lanes, or 0 where it would be negative.
    fn sub_or_zero8(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Sum of all unsigned 8-bit lanes, which is below 2^16.
    fn sum8(self, counters: Self::Vector) -> u16;

    /// Sum of the 64-bit lanes, wrapping.
    fn sum64(self, a: Self::Vector) -> u64;
    /// All ones in the words that are equal, zeros in the others.
    fn eq64(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// All ones in the words whose bit is set, zeros in the others.
    fn mask64(self, bits: u32) -> Self::Vector;
    /// Bit `i` is set where words `i` are equal.
    fn eq64_bits(self, a: Self::Vector, b: Self::Vector) -> u32;
    /// Whether any bit is set.
    fn any(self, a: Self::Vector) -> bool;
    /// The words whose bit is set, moved to the front in order; the others are unspecified.
    fn compress64(self, a: Self::Vector, bits: u32) -> Self::Vector;
    /// The inverse: the first words of `a` go where bits are set, zeros elsewhere.
    fn expand64(self, a: Self::Vector, bits: u32) -> Self::Vector;
}

/// All bits that [`Lanes::eq64_bits`] can set.
#[inline(always)]
pub(crate) fn all_words<L: Lanes>() -> u32 {
    (1 << L::WORDS) - 1
}

/// Asks for the cache line in which something begins: a hint, which changes nothing. On x86-64; elsewhere stable Rust has no such
/// instruction.
#[inline(always)]
pub fn prefetch<T>(at: &T) {
    #[cfg(target_arch = "x86_64")]
    prefetch_x86(std::ptr::from_ref(at).cast());
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks for the cache line at `at`, on x86-64.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_x86(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch is a hint: it reads nothing and faults at no address, and every x86-64
    // CPU has it (it is part of SSE).
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

#[cfg(test)]
mod tests;
