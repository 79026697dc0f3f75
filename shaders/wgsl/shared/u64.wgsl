// 64-bit integers in a language without them: a vec2<u32>, x the low half and y the high one.

fn add64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

// The whole product of two 32-bit numbers, from products of their halves.
fn mul32(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let cross_a = (a >> 16u) * (b & 0xffffu);
    let cross_b = (a & 0xffffu) * (b >> 16u);
    let high = (a >> 16u) * (b >> 16u);
    let middle = (low >> 16u) + (cross_a & 0xffffu) + (cross_b & 0xffffu);
    return vec2<u32>(a * b, high + (cross_a >> 16u) + (cross_b >> 16u) + (middle >> 16u));
}

// The low half of the product.
fn mul64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = mul32(a.x, b.x);
    return vec2<u32>(low.x, low.y + a.x * b.y + a.y * b.x);
}

// Both halves of the 128-bit product, one exclusive-or'ed with the other.
fn fold64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = mul32(a.x, b.x);
    let cross_a = add64(mul32(a.y, b.x), vec2<u32>(low.y, 0u));
    let cross_b = add64(mul32(a.x, b.y), vec2<u32>(cross_a.x, 0u));
    let high = add64(add64(mul32(a.y, b.y), vec2<u32>(cross_a.y, 0u)), vec2<u32>(cross_b.y, 0u));
    return vec2<u32>(low.x, cross_b.x) ^ high;
}
