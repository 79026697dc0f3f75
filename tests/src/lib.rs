//! What the tests of the whole workspace share.
//!
//! [`mod@reference`] is a slow decoder of MiG streams, written from `docs/format.md` alone; [`handmade`] writes small
//! streams, good and bad ones, from the same document. Neither shares code with the engine, and that is their use:
//! where they and the engine disagree, one of them or the document is wrong.

#![forbid(unsafe_code)]

pub mod handmade;
pub mod reference;
