//! A memory image that is open for reading.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{FormatChoice, ImageError, ImageLayout, PAGE};
use super::{cloud_hypervisor, detect, spool};
use crate::map::{self, FileMap};

/// A memory image file, mapped, with its layout and its holes known.
///
/// The file must rest while this lives; [`crate::map`] tells why and what happens otherwise.
#[derive(Debug)]
pub struct MemoryImage {
    map: FileMap,
    layout: ImageLayout,
    /// The parts of the file that hold data: ascending, apart from each other.
    extents: Vec<Range<u64>>,
    path: Option<PathBuf>,
}

/// Consecutive pages that lie one after the other in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run<'a> {
    /// This many pages that lie in holes of the file, so they are zero.
    Hole(u64),
    /// The bytes of pages that hold data (which may be zeros all the same): a multiple of 4096 bytes,
    /// at no particular alignment.
    Data(&'a [u8]),
}

impl Run<'_> {
    /// The number of pages.
    pub fn pages(&self) -> u64 {
        match self {
            Self::Hole(pages) => *pages,
            Self::Data(bytes) => bytes.len() as u64 / PAGE,
        }
    }
}

impl MemoryImage {
    /// Opens the image at `path`, which may also be the folder of a Cloud Hypervisor snapshot.
    ///
    /// What the file is, is found out from its bytes unless `format` says it. The file must not be changed
    /// or cut short while the image is open.
    ///
    /// # Errors
    ///
    /// [`ImageError::Read`] where the system refuses; otherwise what is wrong with the content.
    pub fn open(path: &Path, format: Option<FormatChoice>) -> Result<Self, ImageError> {
        let read = |path: &Path, source| ImageError::Read { path: path.to_owned(), source };
        // Nothing in a snapshot's memory file says what it is, but its place does.
        let (memory, format, state) = match (format, cloud_hypervisor::locate(path)) {
            (None | Some(FormatChoice::CloudHypervisor), Some((memory, state))) => {
                (memory, Some(FormatChoice::CloudHypervisor), Some(state))
            }
            (Some(FormatChoice::CloudHypervisor), None) => {
                (path.to_owned(), format, Some(cloud_hypervisor::state_beside(path)))
            }
            // `--format raw` with a folder: its memory file, as it is.
            (_, Some((memory, _))) => (memory, format, None),
            (_, None) => (path.to_owned(), format, None),
        };
        let map = FileMap::open(&memory).map_err(|source| read(&memory, source))?;
        let state = match state {
            Some(state) => Some(read_state(&state).map_err(|source| read(&state, source))?),
            None => None,
        };
        Self::new(map, format, state.as_deref(), Some(memory))
    }

    /// Opens an image from a file that is open already, say standard input redirected from a file.
    ///
    /// All of the file is the image, wherever its offset is. [`FormatChoice::CloudHypervisor`] is an
    /// error here, as the state beside the file can't be found.
    ///
    /// # Errors
    ///
    /// As for [`MemoryImage::open`], with [`ImageError::Spool`] where the system refuses.
    pub fn from_file(file: File, format: Option<FormatChoice>) -> Result<Self, ImageError> {
        let map = FileMap::from_file(file)
            .map_err(|source| ImageError::Spool { what: "map the input file", source })?;
        Self::new(map, format, None, None)
    }

    /// Reads an image to its end from a pipe, and keeps it in a nameless temporary file in `dir`.
    ///
    /// The file takes as much room in `dir` as the image has pages that are not zero, and is gone when the
    /// image is closed, even if the process is killed.
    ///
    /// # Errors
    ///
    /// As for [`MemoryImage::from_file`], also where `dir` can't be written to or is full.
    pub fn spool(reader: impl Read, dir: &Path, format: Option<FormatChoice>) -> Result<Self, ImageError> {
        Self::from_file(spool::spool(reader, dir)?, format)
    }

    fn new(
        map: FileMap,
        format: Option<FormatChoice>,
        state: Option<&[u8]>,
        path: Option<PathBuf>,
    ) -> Result<Self, ImageError> {
        let extents = map::data_extents(map.file(), 0..map.len());
        let layout = match detect::parse(map.bytes(), &extents, format, state) {
            Err(ImageError::Stream) => return Self::of_stream(&map, path),
            parsed => parsed?,
        };
        Ok(Self { map, layout, extents, path })
    }

    /// The memory in a migration stream, copied out into a nameless temporary file: raw, one block of RAM after the other.
    fn of_stream(stream: &FileMap, path: Option<PathBuf>) -> Result<Self, ImageError> {
        let (file, layout) = crate::qemu::flatten(stream.bytes(), &std::env::temp_dir())?;
        Ok(Self { path, ..Self::of_parts(file, layout)? })
    }

    /// The pages of a file that lie there as the layout says.
    pub(crate) fn of_parts(file: File, layout: ImageLayout) -> Result<Self, ImageError> {
        let map = FileMap::from_file(file)
            .map_err(|source| ImageError::Spool { what: "map the stream's memory", source })?;
        let extents = map::data_extents(map.file(), 0..map.len());
        Ok(Self { map, layout, extents, path: None })
    }

    /// What the file is made of.
    pub fn layout(&self) -> &ImageLayout {
        &self.layout
    }

    /// The number of guest pages.
    pub fn page_count(&self) -> u64 {
        self.layout.page_count()
    }

    /// The length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.layout.file_len()
    }

    /// The file that was opened; None for a spooled one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The mapping of the file.
    pub fn map(&self) -> &FileMap {
        &self.map
    }

    /// The pages from `page` on, at most `max` of them, that are all holes or all data and lie in one
    /// segment.
    ///
    /// At least one page, unless `max` is 0 or `page` is past the last one: then `Run::Hole(0)`. A page
    /// that has any data in it counts as data. The run after this one may be of the same kind. O(log n).
    pub fn run(&self, page: u64, max: u64) -> Run<'_> {
        let Some(segment) = self.layout.segment_of(page) else { return Run::Hole(0) };
        let at = segment.file_offset + (page - segment.first_page) * PAGE;
        let max = max.min(segment.end_page() - page);
        let next = self.extents.partition_point(|extent| extent.end <= at);
        let pages = match self.extents.get(next) {
            None => return Run::Hole(max),
            Some(extent) if extent.start >= at + PAGE => {
                return Run::Hole(max.min((extent.start - at) / PAGE));
            }
            Some(extent) => max.min((extent.end - at).div_ceil(PAGE)),
        };
        // In bounds: the layout keeps segments inside the file, whose length is that of the mapping.
        Run::Data(&self.map.bytes()[at as usize..(at + pages * PAGE) as usize])
    }

    /// One page, or None if it is a hole (and so zero) or past the last one.
    pub fn page(&self, page: u64) -> Option<&[u8; PAGE as usize]> {
        match self.run(page, 1) {
            Run::Hole(_) => None,
            Run::Data(bytes) => bytes.try_into().ok(),
        }
    }

    /// Bytes of the file, meant for [`ImageLayout::opaque_ranges`]; None if the range is not in the file.
    pub fn opaque(&self, range: Range<u64>) -> Option<&[u8]> {
        let range = usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?;
        self.map.bytes().get(range)
    }

    /// Brings the data of some pages into memory before they are read, passing over holes.
    ///
    /// # Errors
    ///
    /// Where reading them would end the process: the file was cut short, or its storage can't be read.
    /// See [`FileMap::populate`].
    pub fn prefetch(&self, pages: Range<u64>) -> io::Result<()> {
        let mut page = pages.start;
        while page < pages.end {
            let run = self.run(page, pages.end - page);
            if let (Run::Data(_), Some(at)) = (run, self.layout.file_offset_of(page)) {
                self.map.populate(at..at + run.pages() * PAGE)?;
            }
            if run.pages() == 0 {
                break;
            }
            page += run.pages();
        }
        Ok(())
    }
}

fn read_state(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > cloud_hypervisor::MAX_STATE {
        let why = format!("not a file of at most {} bytes", cloud_hypervisor::MAX_STATE);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut state = Vec::new();
    File::open(path)?.take(cloud_hypervisor::MAX_STATE).read_to_end(&mut state)?;
    Ok(state)
}
