// Asks a reference's index, uploaded as it is in its file, for the block that may hold each page: what `Index::lookup`
// in the engine does. The table's bytes are told in engine/src/reference/index/header.rs.

//! import page
//! import u64

@group(0) @binding(0) var<uniform> dispatch: Dispatch;
@group(0) @binding(1) var<storage, read> records: array<PageRecord>;
// Eight entries a bucket: 24 bits of a fingerprint above 40 bits of a block number plus one; 0 where there is none.
@group(0) @binding(2) var<storage, read> entries: array<vec2<u32>>;
// For each page, a block's number, or all ones.
@group(0) @binding(3) var<storage, read_write> candidates: array<vec2<u32>>;

const SLOTS: u32 = 8u;
// Buckets that are searched, from the page's home on.
const PROBES: u32 = 32u;

@compute @workgroup_size(64)
fn lookup(@builtin(global_invocation_id) invocation: vec3<u32>) {
    let page = dispatch.first + invocation.x;
    if page >= dispatch.end {
        return;
    }
    candidates[page] = vec2<u32>(0xffffffffu, 0xffffffffu);
    if is_uniform(records[page]) {
        return;
    }
    let fingerprint = records[page].fingerprint;
    // The upper 64 bits of the lower half's product with the number of buckets.
    let low = mul32(fingerprint[0].x, dispatch.buckets);
    let home = add64(mul32(fingerprint[0].y, dispatch.buckets), vec2<u32>(low.y, 0u)).y;
    let tag = fingerprint[1].y >> 8u;
    let end = min(home + PROBES, arrayLength(&entries) / SLOTS);
    for (var bucket = home; bucket < end; bucket += 1u) {
        for (var slot = 0u; slot < SLOTS; slot += 1u) {
            let entry = entries[bucket * SLOTS + slot];
            // The block's number plus one, less one: an empty slot's becomes the largest number.
            let block = add64(vec2<u32>(entry.x, entry.y & 0xffu), vec2<u32>(0xffffffffu, 0xffffffffu));
            let below = block.y < dispatch.blocks.y || (block.y == dispatch.blocks.y && block.x < dispatch.blocks.x);
            if (entry.y >> 8u) == tag && below {
                candidates[page] = block;
                return;
            }
        }
        // Buckets are left for the next one only when full.
        if all(entries[bucket * SLOTS + SLOTS - 1u] == vec2<u32>(0u, 0u)) {
            return;
        }
    }
}
