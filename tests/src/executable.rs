//! Windows executables, as far as their loader needs them.

use object::pe::{IMAGE_REL_BASED_DIR64, IMAGE_REL_BASED_HIGHLOW, ImageNtHeaders32, ImageNtHeaders64};
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile};

use crate::reference::PAGE;

/// An executable file.
#[derive(Clone, Debug)]
pub struct Executable {
    /// The file's name.
    pub name: String,
    /// Its bytes.
    pub file: Vec<u8>,
    /// Where it would like to be loaded.
    pub base: u64,
    /// Bytes of the loaded image.
    pub size: usize,
    /// Address in the image, place in the file, and length of each section, headers first.
    pub sections: Vec<(usize, usize, usize)>,
    /// Addresses of the pointers that change with the base, and their lengths.
    pub relocations: Vec<(usize, usize)>,
}

impl Executable {
    /// What a loader makes of it at another address.
    pub fn load(&self, at: u64) -> Vec<u8> {
        let mut image = vec![0; self.size.next_multiple_of(PAGE)];
        for &(address, place, len) in &self.sections {
            image[address..address + len].copy_from_slice(&self.file[place..place + len]);
        }
        let delta = at.wrapping_sub(self.base);
        for &(address, len) in &self.relocations {
            let mut pointer = [0; 8];
            pointer[..len].copy_from_slice(&image[address..address + len]);
            let moved = u64::from_le_bytes(pointer).wrapping_add(delta).to_le_bytes();
            image[address..address + len].copy_from_slice(&moved[..len]);
        }
        image
    }

    /// Reads a PE file of either width; `None` for what is none.
    pub fn parse(name: &str, file: &[u8]) -> Option<Self> {
        Self::parse_as::<ImageNtHeaders64>(name, file)
            .or_else(|| Self::parse_as::<ImageNtHeaders32>(name, file))
    }

    fn parse_as<H: ImageNtHeaders>(name: &str, file: &[u8]) -> Option<Self> {
        let parsed: PeFile<'_, H> = PeFile::parse(file).ok()?;
        let optional = parsed.nt_headers().optional_header();
        let size = optional.size_of_image() as usize;
        let mut sections = vec![(0, 0, optional.size_of_headers() as usize)];
        for section in parsed.section_table().iter() {
            let number = |field: object::U32<object::LittleEndian>| field.get(object::LittleEndian) as usize;
            let len = number(section.size_of_raw_data).min(number(section.virtual_size));
            sections.push((number(section.virtual_address), number(section.pointer_to_raw_data), len));
        }
        let fits = |&(address, place, len): &(usize, usize, usize)| {
            address + len <= size && place + len <= file.len()
        };
        let mut relocations = Vec::new();
        let mut blocks =
            parsed.data_directories().relocation_blocks(file, &parsed.section_table()).ok()??;
        while let Some(block) = blocks.next().ok()? {
            for relocation in block {
                let len = match relocation.typ {
                    IMAGE_REL_BASED_DIR64 => 8,
                    IMAGE_REL_BASED_HIGHLOW => 4,
                    _ => continue,
                };
                relocations.push((relocation.virtual_address as usize, len));
            }
        }
        let inside = relocations.iter().all(|(address, len)| address + len <= size);
        let (name, file, base) = (name.to_owned(), file.to_vec(), optional.image_base());
        (inside && sections.iter().all(fits)).then_some(Executable {
            name,
            file,
            base,
            size,
            sections,
            relocations,
        })
    }
}
