// What the stages share: the record of a page, and what a dispatch is about.

// `mig_simd::PageRecord`, in 32-bit words.
struct PageRecord {
    // XXH3-128: the lower 64 bits, then the upper.
    fingerprint: array<vec2<u32>, 2>,
    // The page's first 64-bit word.
    first_word: vec2<u32>,
    // zero_words in the lower half, small_words in the upper.
    zero_and_small: u32,
    // user_pointers, kernel_pointers.
    pointers: u32,
    // text_words, flags.
    text_and_flags: u32,
    reserved: u32,
}

// `Dispatch` of layout.rs.
struct Dispatch {
    // The pages of the batch that this dispatch is for: `first` up to `end`.
    first: u32,
    end: u32,
    // Of the reference index that is asked: 64-byte buckets that are somebody's home, and blocks of the reference.
    buckets: u32,
    reserved: u32,
    blocks: vec2<u32>,
}

// Invocations of a workgroup, in all stages.
const LANES: u32 = 64u;
const PAGE_WORDS: u32 = 512u;
const UNIFORM: u32 = 1u;
// Where a page number would be, if there is none.
const NO_PAGE: u32 = 0xffffffffu;

fn is_uniform(record: PageRecord) -> bool {
    return ((record.text_and_flags >> 16u) & UNIFORM) != 0u;
}
