// The table of fingerprints seen in the stream, for both stages that probe it.
//
// Open addressing: a slot is 0, or the number of a page plus one. The fingerprints are apart, by page number, and are all
// there before a page enters its number, so a slot says all with its one word, and one atomic operation takes it.

// Slots that are looked at for a page, wrapping around at the table's end. Only hostile or very full tables need more.
const PROBES: u32 = 32u;

// The slot where the search for a fingerprint begins; `slots` is a power of two.
fn first_slot(fingerprint: vec4<u32>, slots: u32) -> u32 {
    return fingerprint.z & (slots - 1u);
}
