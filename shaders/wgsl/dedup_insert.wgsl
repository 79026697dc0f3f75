// Second of three stages: each page enters the table; of equal fingerprints the lowest page number stays.

//! import page
//! import table

@group(0) @binding(0) var<uniform> dispatch: Dispatch;
@group(0) @binding(1) var<storage, read> records: array<PageRecord>;
@group(0) @binding(2) var<storage, read> numbers: array<u32>;
@group(0) @binding(3) var<storage, read> fingerprints: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> slots: array<atomic<u32>>;

@compute @workgroup_size(64)
fn dedup_insert(@builtin(global_invocation_id) invocation: vec3<u32>) {
    let page = dispatch.first + invocation.x;
    if page >= dispatch.end || is_uniform(records[page]) {
        return;
    }
    let number = numbers[page];
    let fingerprint = fingerprints[number];
    let count = arrayLength(&slots);
    var slot = first_slot(fingerprint, count);
    for (var probe = 0u; probe < PROBES; probe += 1u) {
        // Whoever finds the slot empty has it; the exchange may also fail for no reason, and is tried again.
        var holder = atomicLoad(&slots[slot]);
        while holder == 0u {
            let exchange = atomicCompareExchangeWeak(&slots[slot], 0u, number + 1u);
            if exchange.exchanged {
                return;
            }
            holder = exchange.old_value;
        }
        // The holder may change meanwhile, but only to one with the same fingerprint.
        if all(fingerprints[holder - 1u] == fingerprint) {
            atomicMin(&slots[slot], number + 1u);
            return;
        }
        slot = (slot + 1u) & (count - 1u);
    }
}
