//! Headers: a guest or references that cannot be.

use super::*;

pub(super) fn all() -> Vec<Hostile> {
    let with = |name, error, change: &dyn Fn(&mut Head)| {
        let mut head = head(4);
        change(&mut head);
        bad(name, Builder::new(head).bytes().to_vec(), error)
    };
    // The meta part as it would be, with other bytes at its end.
    let meta = |name, error, change: &dyn Fn(&mut Vec<u8>)| {
        let good = Builder::new(head(4)).bytes().to_vec();
        let mut meta = good[32..].to_vec();
        change(&mut meta);
        let mut stream = b"MiGf\x02\x01\0\0".to_vec();
        stream.extend((meta.len() as u32).to_le_bytes());
        stream.extend([0; 12]);
        stream.extend([0; 8]);
        stream.extend(&meta);
        handmade::reseal(&mut stream, 0);
        bad(name, stream, error)
    };
    let segments = |list: &[(u64, u64, u64)]| list.to_vec();
    vec![
        with("header-format", "image format: unknown", &|h| h.format = 5),
        with(
            "qemu-stream-in-a-file",
            "image format: a QEMU stream is rebuilt in another way than an image",
            &|h| h.format = 4,
        ),
        with("header-flags", "stream flags: unknown flags", &|h| h.flags = 2),
        with("header-effort", "effort: unknown", &|h| h.effort = 5),
        with("header-block-pages", "block pages: 65537 is more than the 65536 allowed", &|h| {
            h.block_pages = (1 << 16) + 1
        }),
        with(
            "header-file-length",
            "file length: 9223372036854775808 is more than the 9223372036854775807 allowed",
            &|h| h.file_len = 1 << 63,
        ),
        with("segment-without-pages", "image layout: segment 1 of the layout: it has no pages", &|h| {
            h.segments = segments(&[(0, 3, 0), (3 * 4096, 0, 0)])
        }),
        with(
            "segment-beyond-the-file",
            "image layout: segment 0 of the layout: it ends past the end of the file",
            &|h| h.file_len -= 1,
        ),
        with("segment-end-overflows", "image layout: segment 0 of the layout: its end overflows", &|h| {
            h.segments[0].0 = u64::MAX - 4095
        }),
        with(
            "segments-overlap",
            "image layout: segment 0 of the layout: it overlaps another one in the file",
            &|h| h.segments = segments(&[(4096, 3, 0), (1, 1, 0)]),
        ),
        with(
            "segment-address-odd",
            "image layout: segment 0 of the layout: its guest address is not a multiple of 4096",
            &|h| h.segments[0].2 = 4096,
        ),
        with(
            "segment-addresses-descend",
            "image layout: segment 1 of the layout: its guest address is not above the segment before",
            &|h| h.segments = segments(&[(0, 2, 0x4001), (8192, 2, 0x2001)]),
        ),
        with(
            "segment-addresses-overlap",
            "image layout: segment 1 of the layout: its guest address is not above the segment before",
            &|h| h.segments = segments(&[(0, 2, 0x1001), (8192, 2, 0x2001)]),
        ),
        with(
            "segment-address-after-none",
            "image layout: segment 1 of the layout: it has a guest address, but comes after one without",
            &|h| h.segments = segments(&[(0, 1, 0), (4096, 1, 1)]),
        ),
        with(
            "segment-addresses-overflow",
            "image layout: segment 0 of the layout: its guest addresses overflow",
            &|h| h.segments[0].2 = u64::MAX - 4094,
        ),
        with("page-count", "segment pages: 1099511627777 is more than the 1099511627776 allowed", &|h| {
            h.segments = segments(&[(0, (1 << 40) + 1, 0)])
        }),
        with("reference-kind", "reference kind: unknown", &|h| h.references[0].0 = 3),
        with(
            "reference-too-long",
            "reference length: 1099511627777 is more than the 1099511627776 allowed",
            &|h| h.references[0].2 = (1 << 40) + 1,
        ),
        with("reference-name-too-long", "reference name: 4097 is more than the 4096 allowed", &|h| {
            h.references[0].3 = "x".repeat(4097)
        }),
        with("references-too-many", "reference count: 65 is more than the 64 allowed", &|h| {
            h.references = vec![(0, [0; 16], 0, String::new()); 65]
        }),
        meta("header-cut", "reference name: 15 bytes needed, 14 left", &|meta| meta.truncate(meta.len() - 1)),
        meta("header-with-more", "header: bytes left over at the end", &|meta| meta.push(0)),
        meta("reference-name-not-utf-8", "reference name: not UTF-8", &|meta| {
            let last = meta.len() - 1;
            meta[last] = 0xff;
        }),
        meta("varint-of-65-bits", "block pages: varint does not fit 64 bits", &|meta| {
            meta.truncate(3);
            meta.extend([0xff; 9]);
            meta.push(2);
        }),
        meta("segments-too-many", "segment count: 262145 is more than the 262144 allowed", &|meta| {
            meta.truncate(3);
            meta.extend([1, 0]);
            meta.extend(number((1 << 18) + 1));
        }),
    ]
}
