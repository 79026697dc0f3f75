// Third of three stages: each page asks the table for the first page with its fingerprint, and names it if it is earlier.

//! import page
//! import table

@group(0) @binding(0) var<uniform> dispatch: Dispatch;
@group(0) @binding(1) var<storage, read> records: array<PageRecord>;
@group(0) @binding(2) var<storage, read> numbers: array<u32>;
@group(0) @binding(3) var<storage, read> fingerprints: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> slots: array<u32>;
// For each page of the batch, an earlier page with the same fingerprint, or NO_PAGE.
@group(0) @binding(5) var<storage, read_write> earlier: array<u32>;

@compute @workgroup_size(64)
fn dedup_find(@builtin(global_invocation_id) invocation: vec3<u32>) {
    let page = dispatch.first + invocation.x;
    if page >= dispatch.end {
        return;
    }
    earlier[page] = NO_PAGE;
    if is_uniform(records[page]) {
        return;
    }
    let number = numbers[page];
    let fingerprint = fingerprints[number];
    let count = arrayLength(&slots);
    var slot = first_slot(fingerprint, count);
    for (var probe = 0u; probe < PROBES; probe += 1u) {
        let holder = slots[slot];
        if holder == 0u {
            return;
        }
        if all(fingerprints[holder - 1u] == fingerprint) {
            if holder - 1u < number {
                earlier[page] = holder - 1u;
            }
            return;
        }
        slot = (slot + 1u) & (count - 1u);
    }
}
