//! `mig-bench sparse`: a raw image far larger than its data, for measuring peak memory.
//!
//! SYNTHETIC: the sample's pages, repeated with changes ([`Tiles`]), in pieces all over a file that is otherwise
//! holes. The first page says so in words that survive copying and renaming, and [`synthetic`] finds them: each report
//! about such a file carries them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use mig_engine::PAGE_SIZE;

use crate::cli::SparseArgs;
use crate::corpus::sample_memory;
use crate::corpus::tile::{Tiles, mix};
use crate::exit::Problem;
use crate::human;
use crate::run::{Run, Steps};

/// How the first page of a synthetic image begins.
const MARK: &str = "SYNTHETIC image made by mig-bench: not a guest's memory. ";
const PAGE: u64 = PAGE_SIZE as u64;
/// Pages that are made at a time.
const BATCH_PAGES: u64 = 64;

pub(crate) fn run(args: &SparseArgs, run: &Run) -> Result<()> {
    let piece = u64::from(args.piece_mib.min(args.data_mib)) << 20;
    let plan = Plan {
        len: u64::from(args.gib) << 30,
        piece,
        pieces: (u64::from(args.data_mib) << 20) / piece,
        seed: args.seed,
    };
    if plan.data() > plan.len / 2 {
        let text = format!("--data-mib {}: more than half of {} GiB is not sparse", args.data_mib, args.gib);
        return Err(Problem::Usage(text).into());
    }
    if let Ok(metadata) = fs::metadata(&args.out)
        && !(args.force && metadata.is_file())
    {
        let hint = if metadata.is_file() { "; say --force to replace it" } else { " and is no regular file" };
        return Err(Problem::Usage(format!("{} exists{hint}", args.out.display())).into());
    }
    let context = || format!("cannot write {}", args.out.display());
    let file = File::create(&args.out).with_context(context)?;
    let written = write(&file, &plan, run);
    if written.is_err() {
        // Half an image would be taken for a whole one.
        let _ = fs::remove_file(&args.out);
    }
    written.with_context(context)?;
    println!(
        "{}: SYNTHETIC, {} with {} of data in pieces of {} (the built-in sample, tiled and changed; seed {})",
        args.out.display(),
        human::bytes(plan.len),
        human::bytes(plan.data()),
        human::bytes(plan.piece),
        plan.seed
    );
    Ok(())
}

/// Where data lies. It is at most half of the image, in at least one piece of whole pages.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Bytes of the image.
    len: u64,
    /// Bytes of a piece.
    piece: u64,
    pieces: u64,
    seed: u64,
}

impl Plan {
    fn data(&self) -> u64 {
        self.piece * self.pieces
    }

    /// Where a piece lies: anywhere in its own part of the image, on a page and not on the first one.
    fn place(&self, piece: u64) -> u64 {
        let part = self.len / self.pieces / PAGE;
        let spare = part - self.piece / PAGE;
        let offset = 1 + mix(self.seed ^ mix(!piece)) % spare;
        (piece * part + offset) * PAGE
    }
}

/// Writes an image of which only the first page and the pieces are not holes.
fn write(file: &File, plan: &Plan, run: &Run) -> Result<()> {
    let tiles = Tiles::new(sample_memory()?, plan.seed)?;
    let steps = Steps::new(plan.pieces);
    steps.now("writing pieces");
    file.set_len(plan.len)?;
    let mark = format!("{MARK}{} data bytes of {}, seed {}.\n", plan.data(), plan.len, plan.seed);
    file.write_all_at(mark.as_bytes(), 0)?;
    let mut bytes = vec![0; (BATCH_PAGES * PAGE) as usize];
    for piece in 0..plan.pieces {
        let place = plan.place(piece);
        for at in (0..plan.piece).step_by(bytes.len()) {
            run.check()?;
            let bytes = &mut bytes[..(plan.piece - at).min(BATCH_PAGES * PAGE) as usize];
            tiles.fill((piece * plan.piece + at) / PAGE, bytes);
            file.write_all_at(bytes, place + at)?;
        }
        steps.done();
    }
    file.sync_all()?;
    Ok(())
}

/// What a synthetic image says of itself; `None` for any other file.
///
/// # Errors
///
/// The file can't be read.
pub(crate) fn synthetic(image: &Path) -> Result<Option<String>> {
    let context = || format!("cannot read {}", image.display());
    if !fs::metadata(image).with_context(context)?.is_file() {
        return Ok(None);
    }
    let file = File::open(image).with_context(context)?;
    let mut start = [0; 256];
    if file.read_at(&mut start, 0).with_context(context)? < MARK.len() || !start.starts_with(MARK.as_bytes())
    {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&start);
    Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use mig_engine::MemoryImage;
    use mig_engine::map::data_extents;

    use super::*;

    #[test]
    fn pieces_keep_apart_and_inside() {
        const MIB: u64 = 1 << 20;
        let plans =
            [(1 << 30, MIB, 512), (64 << 30, 64 * MIB, 32), (1 << 30, MIB, 3), (1 << 30, 512 * MIB, 1)];
        for (seed, (len, piece, pieces)) in (1..).zip(plans) {
            let plan = Plan { len, piece, pieces, seed };
            let mut end = PAGE;
            for number in 0..pieces {
                let start = plan.place(number);
                assert!(start >= end && start.is_multiple_of(PAGE), "piece {number} of {plan:?}");
                end = start + piece;
            }
            assert!(end <= len, "{plan:?}");
        }
    }

    #[test]
    fn an_image_says_that_it_is_synthetic_and_holds_what_it_says() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let plan = Plan { len: 1 << 30, piece: 1 << 20, pieces: 4, seed: 9 };
        write(file.as_file(), &plan, &Run::quiet()).unwrap();
        let found = synthetic(file.path()).unwrap().expect("the mark");
        assert!(found.contains("SYNTHETIC") && found.contains("4194304 data bytes"), "{found}");
        // The file system may keep more than a page for each piece's ends.
        let held: u64 = data_extents(file.as_file(), 0..1 << 30).iter().map(|e| e.end - e.start).sum();
        assert!((4 << 20..16 << 20).contains(&held), "{held}");
        let image = MemoryImage::open(file.path(), None).unwrap();
        assert_eq!(image.page_count(), 1 << 18);
    }

    #[test]
    fn real_memory_is_not_called_synthetic() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(synthetic(file.path()).unwrap(), None);
        file.as_file().write_all_at(&sample_memory().unwrap(), 0).unwrap();
        assert_eq!(synthetic(file.path()).unwrap(), None);
    }
}
