//! The head of an x86 kernel file: where its payload is, and which release it is.
//!
//! Source: Linux' `Documentation/arch/x86/boot.rst`.

use std::ops::Range;

/// Bytes of a file that are looked at.
pub(super) const HEAD_LEN: usize = 0x10000;
/// Protocol versions before this one do not tell where the payload is.
const LEAST_VERSION: u16 = 0x208;
/// Longest payload that is believed.
pub(super) const MAX_PAYLOAD: u64 = 1 << 27;

/// What the head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BzImage {
    /// As `uname -r` prints it.
    pub(super) release: String,
    /// Bytes of the file.
    pub(super) payload: Range<u64>,
}

/// Whether a file that starts with these 4096 bytes can be such a kernel.
pub(crate) fn begins_here(block: &[u8]) -> bool {
    block.get(0x1fe..0x200) == Some(b"\x55\xaa") && block.get(0x202..0x206) == Some(b"HdrS")
}

impl BzImage {
    /// Reads the head of a file, of which `head` are the first [`HEAD_LEN`] bytes, or all.
    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        if !begins_here(head) {
            return None;
        }
        let int16 = |at: usize| head.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
        let int32 = |at: usize| head.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        if int16(0x206)? < LEAST_VERSION {
            return None;
        }
        // Real-mode code, in sectors after the first; an old kernel says 0 for 4.
        let sectors = match head[0x1f1] {
            0 => 4,
            sectors => u64::from(sectors),
        };
        let start = (sectors + 1) * 512 + u64::from(int32(0x248)?);
        let len = Some(u64::from(int32(0x24c)?)).filter(|len| (1..=MAX_PAYLOAD).contains(len))?;
        // The version is text: the release, a space, and who built it.
        let text = head.get(0x200 + usize::from(int16(0x20e)?)..)?;
        let release = text.split(|&byte| byte == b' ' || byte == 0).next()?;
        let printable = !release.is_empty() && release.iter().all(u8::is_ascii_graphic);
        let release = printable.then(|| String::from_utf8_lossy(release).into_owned())?;
        Some(BzImage { release, payload: start..start + len })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn head() -> Vec<u8> {
        let mut head = vec![0; 8192];
        head[0x1f1] = 15;
        head[0x1fe..0x206].copy_from_slice(b"\x55\xaa\xeb\x66HdrS");
        head[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        head[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
        head[0x248..0x24c].copy_from_slice(&0x2e1u32.to_le_bytes());
        head[0x24c..0x250].copy_from_slice(&5000u32.to_le_bytes());
        head[0x500..0x520].copy_from_slice(b"6.1.0-56-amd64 (builder@host) #1");
        head
    }

    #[test]
    fn a_head_tells_release_and_payload() {
        let expected =
            BzImage { release: "6.1.0-56-amd64".into(), payload: 16 * 512 + 0x2e1..16 * 512 + 0x2e1 + 5000 };
        assert_eq!(BzImage::parse(&head()), Some(expected));
    }

    #[test]
    fn other_files_are_none() {
        let damage = |at: usize, byte: u8| {
            let mut head = head();
            head[at] = byte;
            BzImage::parse(&head)
        };
        assert_eq!(damage(0x202, b'h'), None);
        assert_eq!(damage(0x1ff, 0), None);
        assert_eq!(damage(0x206, 7), None, "an old protocol");
        assert_eq!(damage(0x24f, 0xff), None, "too long a payload");
        assert_eq!(damage(0x20f, 0xff), None, "a version beyond the head");
        assert_eq!(damage(0x500, 0), None, "no release");
        for len in 0..0x508 {
            assert_eq!(BzImage::parse(&head()[..len]).filter(|found| found.release.len() > 7), None);
        }
    }
}
