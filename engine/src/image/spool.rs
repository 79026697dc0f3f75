//! Keeping piped input in a file, so that it can be mapped.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{ImageError, PAGE, is_zero};

const CHUNK: usize = 1 << 20;

/// Copies all of `reader` into a nameless temporary file in `dir`, leaving holes for pages of zeros.
pub(super) fn spool(mut reader: impl Read, dir: &Path) -> Result<File, ImageError> {
    let fail = |what| move |source| ImageError::Spool { what, source };
    let file = tempfile::tempfile_in(dir).map_err(fail("make a temporary file"))?;
    let mut chunk = vec![0; CHUNK];
    let mut len = 0;
    loop {
        let filled = fill(&mut reader, &mut chunk).map_err(fail("read the input"))?;
        write_data(&file, &chunk[..filled], len).map_err(fail("write to the temporary file"))?;
        len += filled as u64;
        if filled < chunk.len() {
            break;
        }
    }
    // What ends in a hole is not as long as it should be yet.
    file.set_len(len).map_err(fail("write to the temporary file"))?;
    Ok(file)
}

/// Reads until the buffer is full or the input ends.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            // A reader that claims more than there was room for is broken; don't index by its word.
            Ok(got) => filled = (filled + got).min(buffer.len()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes `bytes` at `offset` of a file that has no data there yet, leaving out pages of zeros.
///
/// `offset` need not be a multiple of 4096; pages are counted from it.
pub(super) fn write_data(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    let write = |from: usize, to: usize| file.write_all_at(&bytes[from..to], offset + from as u64);
    // Where the run of data that we are in began.
    let mut data = None;
    for (index, page) in bytes.chunks(PAGE as usize).enumerate() {
        let at = index * PAGE as usize;
        if !is_zero(page) {
            data.get_or_insert(at);
        } else if let Some(from) = data.take() {
            write(from, at)?;
        }
    }
    if let Some(from) = data {
        write(from, bytes.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_BYTES: usize = PAGE as usize;

    /// Gives its bytes in pieces of 1, 2, 3 ... bytes, with an interruption now and then.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(7) {
                return Err(ErrorKind::Interrupted.into());
            }
            let len = self.1.min(buffer.len()).min(self.0.len());
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    #[test]
    fn a_spooled_file_is_the_input() {
        let dir = tempfile::tempdir().unwrap();
        for len in [0, 1, PAGE_BYTES - 1, PAGE_BYTES, 3 * PAGE_BYTES + 5, CHUNK, CHUNK + 1, 2 * CHUNK + 4097]
        {
            let mut input = vec![0u8; len];
            // Data in every third page, and at the very end for odd lengths.
            for page in input.chunks_mut(PAGE_BYTES).step_by(3) {
                page[page.len() / 2] = 9;
            }
            if len % 2 == 1 {
                input[len - 1] = 7;
            }
            let file = spool(Dribble(&input, 0), dir.path()).unwrap();
            let mut back = Vec::new();
            let size = file.metadata().unwrap().len();
            assert_eq!(size, len as u64);
            back.resize(len, 1);
            file.read_exact_at(&mut back, 0).unwrap();
            assert!(back == input, "{len} bytes");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
    }

    #[test]
    fn trouble_is_told() {
        let error = spool(&b"x"[..], Path::new("/proc/no/such/dir")).unwrap_err();
        assert!(matches!(error, ImageError::Spool { .. }), "{error:?}");
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(ErrorKind::ConnectionReset.into())
            }
        }
        let error = spool(Broken, &std::env::temp_dir()).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the input");
    }
}
