//! Coded bytes back to words.

use super::model::{History, Model, base_word};
use super::range::Decoder;
use crate::error::DecodeError;

const fn invalid(why: &'static str) -> DecodeError {
    DecodeError::Invalid { field: "words", why }
}

/// Decodes to exactly `raw_len` bytes.
pub(super) fn decode(model: &mut Model, coded: &[u8], out: &mut [u8]) -> Result<(), DecodeError> {
    let mut coder = Decoder::new(coded);
    let coder = &mut coder;
    let mut history = History::NEW;
    let mut at = 0;
    while at < out.len() {
        let phase = at & 7;
        let last = history.distances[0] as usize;
        let expected = if last <= at { out[at - last] } else { 0 };
        let prev = if at > 0 { out[at - 1] } else { 0 };
        if !model.is_match(coder, history.state, phase, prev, expected, false) {
            if phase == 0 && model.is_pointer(coder, history.state, expected, false) {
                let base = model.pointer_base(coder, 0);
                let delta = model.pointer_delta(coder, base, 0);
                let word = base_word(out, at, history.distances[0], base).wrapping_add(delta as u64);
                let Some(place) = out[at..].first_chunk_mut::<8>() else {
                    return Err(invalid("a word reaches past the end"));
                };
                *place = word.to_le_bytes();
                history.pointer();
                at += 8;
                continue;
            }
            let above = if at > 7 { out[at - 8] } else { 0 };
            out[at] = model.literal(coder, history.state, phase, expected, prev, above, 0);
            history.literal();
            at += 1;
            continue;
        }
        let len = if model.is_repeat(coder, history.state, phase, expected, false) {
            let nth = model.repeat_nth(coder, history.state, 0);
            history.repeat(nth);
            model.repeat_len(coder, phase, 0)
        } else {
            let len = model.match_len(coder, phase, 0);
            let distance = model.match_distance(coder, phase, len, 0);
            history.distance(distance);
            len
        };
        let (distance, len) = (history.distances[0] as usize, len as usize);
        if distance > at || distance == 0 {
            return Err(invalid("a match starts before the beginning"));
        }
        if len > out.len() - at {
            return Err(invalid("a match reaches past the end"));
        }
        if coder.overrun() {
            break;
        }
        copy(out, at, distance, len);
        at += len;
    }
    coder.finish()
}

/// Copies `len` bytes to `at` from `distance` before; they may overlap.
#[inline(always)]
fn copy(out: &mut [u8], at: usize, distance: usize, len: usize) {
    if distance >= 8 && out.len() - at >= len + 8 {
        // Eight at a time, up to seven too many: what comes next goes over them.
        let (mut from, mut to) = (at - distance, at);
        while to < at + len {
            let chunk: [u8; 8] = *out[from..].first_chunk().unwrap_or(&[0; 8]);
            if let Some(place) = out[to..].first_chunk_mut() {
                *place = chunk;
            }
            from += 8;
            to += 8;
        }
        return;
    }
    for to in at..at + len {
        out[to] = out[to - distance];
    }
}
