//! What the tests of the whole workspace share.
//!
//! [`mod@reference`] is a slow decoder of MiG streams, written from `docs/format.md` alone; [`handmade`] writes small
//! streams, good and bad ones, from the same document. Neither shares code with the engine, and that is their use:
//! where they and the engine disagree, one of them or the document is wrong.
//!
//! [`sample`], [`guests`] and [`images`] are what the tests pack; [`engine`] packs and unpacks it as a caller would;
//! [`compare`] holds the two decoders against each other; [`hostile`] is a list of bad streams;
//! [`golden`] keeps files of both sorts, and [`spread`] asks many questions at once.

#![forbid(unsafe_code)]

pub mod captured;
pub mod compare;
pub mod engine;
pub mod executable;
pub mod golden;
pub mod guests;
pub mod handmade;
pub mod hostile;
pub mod images;
pub mod qemu;
pub mod reference;
pub mod sample;
pub mod spread;

/// Whether a test must not be left out for want of something: `MIG_REQUIRE` is a list of names.
pub fn requires(what: &str) -> bool {
    std::env::var("MIG_REQUIRE").unwrap_or_default().split(',').any(|name| name.trim() == what)
}
