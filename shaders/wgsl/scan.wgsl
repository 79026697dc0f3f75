// One pass over each page of a batch: fingerprint, uniform word, counts, and the spread of 256 of its bytes.
//
// A workgroup takes a page and reads it once, eight words an invocation, side by side. XXH3 only adds within a block
// of 128 words, so each invocation sums its own stripes' products and words, and the sums meet in workgroup memory:
// 64 invocations, then 32 (a block's lane each), then 8 (a lane each, block after block).

//! import page
//! import u64
//! import xxh3

@group(0) @binding(0) var<uniform> dispatch: Dispatch;
@group(0) @binding(1) var<storage, read> memory: array<vec2<u32>>;
// For each page, where it starts in `memory`, in words.
@group(0) @binding(2) var<storage, read> places: array<u32>;
@group(0) @binding(3) var<storage, read_write> records: array<PageRecord>;
// For each page: bytes 7, 23, 39 ... are 256; how often each value is among them, squared, and summed.
@group(0) @binding(4) var<storage, read_write> spreads: array<u32>;

const BLOCKS: u32 = 4u;

var<workgroup> products: array<vec2<u32>, 256>;
var<workgroup> sums: array<vec2<u32>, 256>;
var<workgroup> accumulators: array<vec2<u32>, 8>;
var<workgroup> folds: array<vec2<u32>, 8>;
// Three counts of ten bits in each.
var<workgroup> counts: array<atomic<u32>, 2>;
// How often each byte was sampled, two counts in each word.
var<workgroup> sampled: array<atomic<u32>, 128>;
var<workgroup> spread: atomic<u32>;

@compute @workgroup_size(64)
fn scan(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let page = dispatch.first + workgroup.x;
    if page >= dispatch.end {
        return;
    }
    let start = places[page];
    let first = memory[start];
    let lane = invocation & 7u;
    let stripe = invocation >> 3u;

    var low_counts = 0u;
    var high_counts = 0u;
    for (var block = 0u; block < BLOCKS; block += 1u) {
        var product = vec2<u32>(0u, 0u);
        var sum = vec2<u32>(0u, 0u);
        for (var half = 0u; half < 2u; half += 1u) {
            let word = memory[start + block * 128u + half * LANES + invocation];
            let mixed = word ^ stripe_key(block, stripe + 8u * half, lane);
            product = add64(product, mul32(mixed.x, mixed.y));
            sum = add64(sum, word);
            low_counts += count_low(word);
            high_counts += count_high(word) + select(0u, 1u << 20u, all(word == first));
            if (lane & 1u) == 0u {
                let byte = word.y >> 24u;
                atomicAdd(&sampled[byte >> 1u], 1u << (16u * (byte & 1u)));
            }
        }
        products[block * LANES + invocation] = product;
        sums[block * LANES + invocation] = sum;
    }
    atomicAdd(&counts[0], low_counts);
    atomicAdd(&counts[1], high_counts);
    workgroupBarrier();

    var squares = 0u;
    for (var half = 0u; half < 2u; half += 1u) {
        let pair = atomicLoad(&sampled[invocation + half * LANES]);
        squares += (pair & 0xffffu) * (pair & 0xffffu) + (pair >> 16u) * (pair >> 16u);
    }
    atomicAdd(&spread, squares);
    // What a block adds to a lane: its own products, and its neighbour's words.
    var added = vec2<u32>(0u, 0u);
    if invocation < 32u {
        let block = invocation >> 3u;
        for (var row = 0u; row < 8u; row += 1u) {
            let at = block * LANES + row * 8u;
            added = add64(added, add64(products[at + lane], sums[at + (lane ^ 1u)]));
        }
    }
    workgroupBarrier();
    if invocation < 32u {
        products[invocation] = added;
    }
    workgroupBarrier();

    if invocation < 8u {
        var accumulator = START[lane];
        for (var block = 0u; block < BLOCKS; block += 1u) {
            accumulator = add64(accumulator, products[block * 8u + lane]);
            if block + 1u < BLOCKS {
                // A shift by 47 leaves 17 bits of the upper half.
                let mixed = accumulator ^ vec2<u32>(accumulator.y >> 15u, 0u) ^ SCRAMBLE[lane];
                accumulator = mul64(mixed, vec2<u32>(PRIME32_1, 0u));
            }
        }
        accumulators[lane] = accumulator;
    }
    workgroupBarrier();
    // Four for the lower half of the fingerprint, four for the upper.
    if invocation < 8u {
        let pair = 2u * (invocation & 3u);
        let key = 8u * (invocation >> 2u) + pair;
        folds[invocation] = fold64(accumulators[pair] ^ MERGE[key], accumulators[pair + 1u] ^ MERGE[key + 1u]);
    }
    workgroupBarrier();
    if invocation < 2u {
        var hash = MERGE_START[invocation];
        for (var pair = 0u; pair < 4u; pair += 1u) {
            hash = add64(hash, folds[invocation * 4u + pair]);
        }
        records[page].fingerprint[invocation] = avalanche(hash);
    }
    if invocation == 0u {
        let low = atomicLoad(&counts[0]);
        let high = atomicLoad(&counts[1]);
        let uniform_page = (high >> 20u) == PAGE_WORDS;
        records[page].first_word = first;
        records[page].zero_and_small = (low & 0x3ffu) | (((low >> 10u) & 0x3ffu) << 16u);
        records[page].pointers = (low >> 20u) | ((high & 0x3ffu) << 16u);
        records[page].text_and_flags = ((high >> 10u) & 0x3ffu) | (select(0u, UNIFORM, uniform_page) << 16u);
        records[page].reserved = 0u;
        spreads[page] = atomicLoad(&spread);
    }
}

// Zero, small and user-pointer words.
fn count_low(word: vec2<u32>) -> u32 {
    let zero = select(0u, 1u, all(word == vec2<u32>(0u, 0u)));
    let small = select(0u, 1u << 10u, word.y == 0u && word.x != 0u);
    let user = select(0u, 1u << 20u, (word.y >> 15u) == 0u && (word.y >> 8u) != 0u);
    return zero + small + user;
}

// Kernel-pointer and text words.
fn count_high(word: vec2<u32>) -> u32 {
    let kernel = select(0u, 1u, (word.y >> 15u) == 0x1ffffu);
    let ascii = ((word.x | word.y) & 0x80808080u) == 0u;
    return kernel + select(0u, 1u << 10u, ascii && (word.y >> 16u) != 0u);
}
