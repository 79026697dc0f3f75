//! What tests have in common.

/// Whether a test must not be left out for want of something: `MIG_REQUIRE` is a list of names. Says so where it may be.
pub(crate) fn skip(name: &str, why: &str) {
    let required = std::env::var("MIG_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|required| required == name), "{name} is required: {why}");
    println!("SKIPPED: {why}");
}
