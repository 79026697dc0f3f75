// XXH3-128 of 4096 bytes, but for the stripe loop. build.rs puts the keys in front of this, from src/xxh3.rs:
// PRIME32_1, START, SCRAMBLE, MERGE (eight keys for each half), MERGE_START, SECRET (its aligned words) and LAST_STRIPE.

// The key of a block's stripe for a lane: each stripe starts 8 bytes further into the secret than the one before, but the
// page's last one starts at an odd byte.
fn stripe_key(block: u32, stripe: u32, lane: u32) -> vec2<u32> {
    if block == 3u && stripe == 15u {
        return LAST_STRIPE[lane];
    }
    return SECRET[stripe + lane];
}

fn avalanche(hash: vec2<u32>) -> vec2<u32> {
    // Shifts by 37 and by 32.
    let mixed = mul64(hash ^ vec2<u32>(hash.y >> 5u, 0u), AVALANCHE);
    return mixed ^ vec2<u32>(mixed.y, 0u);
}
