//! Coded bytes back to raw ones.

use super::model::Model;
use super::range::Decoder;
use super::token::{Around, History, Token, base_word};
use crate::error::DecodeError;

const fn invalid(why: &'static str) -> DecodeError {
    DecodeError::Invalid { field: "word coder", why }
}

/// Fills `out`.
pub(super) fn decode(model: &mut Model, coded: &[u8], out: &mut [u8]) -> Result<(), DecodeError> {
    decode_with(model, coded, out, |_| ())
}

/// The same, and tells every step.
#[inline(always)]
pub(super) fn decode_with(
    model: &mut Model,
    coded: &[u8],
    out: &mut [u8],
    mut step: impl FnMut(Token),
) -> Result<(), DecodeError> {
    let coder = &mut Decoder::new(coded);
    let mut history = History::NEW;
    let mut at = 0;
    while at < out.len() {
        let around = &Around::new(out, at, &history);
        if !model.is_match(coder, around, false) {
            if around.phase == 0 && model.is_pointer(coder, around, false) {
                let base = model.base(coder, 0);
                let delta = model.delta(coder, base, 0);
                let word = base_word(out, at, history.distances[0], base).wrapping_add(delta as u64);
                let Some(place) = out[at..].first_chunk_mut::<8>() else {
                    return Err(invalid("a word reaches past the end"));
                };
                *place = word.to_le_bytes();
                step(Token::Pointer { base, delta });
                history.pointer();
                at += 8;
                continue;
            }
            out[at] = model.literal(coder, around, 0);
            step(Token::Literal);
            history.literal();
            at += 1;
            continue;
        }
        let len = if model.is_repeat(coder, around, false) {
            let nth = model.nth(coder, around.state, 0);
            history.repeat(nth);
            let len = model.repeat_len(coder, around.phase, 0);
            step(Token::Repeat { nth: nth as u8, len });
            len
        } else {
            let len = model.match_len(coder, around.phase, 0);
            let distance = model.distance(coder, around.phase, len, 0);
            history.distance(distance);
            step(Token::Match { distance, len });
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
