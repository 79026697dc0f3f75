//! Memory image files of every format: no panic, and every layout keeps the promises of its type.
//!
//! The first byte chooses the format, 0 lets the bytes speak. What lies behind the mark `~json~` is the `state.json` of
//! a Cloud Hypervisor snapshot.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mig_engine::image::parse_layout;
use mig_engine::{FormatChoice, ImageLayout};

const MARK: &[u8] = b"~json~";

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let choice = usize::from(choice) % (FormatChoice::ALL.len() + 1);
    let choice = choice.checked_sub(1).map(|at| FormatChoice::ALL[at]);
    let mark = bytes.windows(MARK.len()).position(|window| window == MARK);
    let (bytes, json) = match mark {
        Some(at) => (&bytes[..at], Some(&bytes[at + MARK.len()..])),
        None => (bytes, None),
    };
    if let Ok(layout) = parse_layout(bytes, choice, json) {
        check(&layout, bytes.len() as u64);
    }
});

fn check(layout: &ImageLayout, file_len: u64) {
    assert_eq!(layout.file_len(), file_len);
    // The same checks that a header from a stream gets.
    let again = ImageLayout::new(layout.format(), file_len, layout.segments().to_vec());
    assert_eq!(again.expect("a layout that is not one"), *layout);
    let opaque: u64 = layout.opaque_ranges().iter().map(|range| range.end - range.start).sum();
    assert_eq!(opaque + layout.page_count() * 4096, file_len, "every byte is in a page or opaque");
    for segment in layout.segments() {
        assert_eq!(layout.file_offset_of(segment.first_page), Some(segment.file_offset));
        if let Some(gpa) = segment.gpa {
            assert_eq!(layout.page_at(gpa), Some(segment.first_page));
        }
    }
}
