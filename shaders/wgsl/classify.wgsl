// From what the scan found to the class of each page: the decision table of engine/src/class.rs.

//! import page
//! import class

@group(0) @binding(0) var<uniform> dispatch: Dispatch;
@group(0) @binding(1) var<storage, read> records: array<PageRecord>;
@group(0) @binding(2) var<storage, read> spreads: array<u32>;
@group(0) @binding(3) var<storage, read_write> classes: array<u32>;

@compute @workgroup_size(64)
fn classify(@builtin(global_invocation_id) invocation: vec3<u32>) {
    let page = dispatch.first + invocation.x;
    if page >= dispatch.end {
        return;
    }
    let record = records[page];
    let zero = record.zero_and_small & 0xffffu;
    let small = record.zero_and_small >> 16u;
    let user = record.pointers & 0xffffu;
    let kernel = record.pointers >> 16u;
    let text = record.text_and_flags & 0xffffu;

    var class_id = OTHER;
    if zero + small <= MAX_PLAIN && spreads[page] < RANDOM_LIMIT {
        class_id = INCOMPRESSIBLE;
    } else if text >= MIN_TEXT {
        class_id = TEXT;
    } else if user >= MIN_POINTERS {
        class_id = USER_POINTERS;
    } else if kernel >= MIN_POINTERS {
        class_id = KERNEL_POINTERS;
    } else if zero >= MIN_SPARSE {
        class_id = SPARSE;
    }
    classes[page] = class_id;
}
