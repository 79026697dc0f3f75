// First of three stages: the batch's fingerprints go where the other two find them, by page number.

//! import page

@group(0) @binding(0) var<uniform> dispatch: Dispatch;
@group(0) @binding(1) var<storage, read> records: array<PageRecord>;
// The page number of each page of the batch.
@group(0) @binding(2) var<storage, read> numbers: array<u32>;
// For each page of the guest.
@group(0) @binding(3) var<storage, read_write> fingerprints: array<vec4<u32>>;

@compute @workgroup_size(64)
fn dedup_note(@builtin(global_invocation_id) invocation: vec3<u32>) {
    let page = dispatch.first + invocation.x;
    if page >= dispatch.end {
        return;
    }
    let fingerprint = records[page].fingerprint;
    fingerprints[numbers[page]] = vec4<u32>(fingerprint[0], fingerprint[1]);
}
