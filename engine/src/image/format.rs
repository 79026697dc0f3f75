//! The names and numbers of image formats.

use std::fmt;
use std::str::FromStr;

use super::ImageError;

/// How a memory image is laid out in its file. The numbers are written into containers: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum ImageFormat {
    /// Nothing but memory.
    Raw = 0,
    /// ELF core, 64-bit, little-endian.
    ElfCore = 1,
    /// LiME ranges.
    Lime = 2,
    /// QEMU migration file with the `mapped-ram` capability.
    MappedRam = 3,
    /// QEMU migration stream. Its pages are numbered through its blocks of RAM; the file is rebuilt by scripts.
    Qemu = 4,
}

impl ImageFormat {
    /// The number of the format in containers.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The format with this number in containers.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::Raw),
            1 => Some(Self::ElfCore),
            2 => Some(Self::Lime),
            3 => Some(Self::MappedRam),
            4 => Some(Self::Qemu),
            _ => None,
        }
    }

    /// The name of the format, as [`FormatChoice`] reads it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::ElfCore => "elf",
            Self::Lime => "lime",
            Self::MappedRam => "mapped-ram",
            Self::Qemu => "qemu",
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a user can say that a file is, where looking at its bytes would say otherwise or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FormatChoice {
    /// Memory from guest-physical address 0 on. Takes any file of a page or more.
    Raw,
    /// ELF core.
    Elf,
    /// LiME ranges.
    Lime,
    /// QEMU migration file with the `mapped-ram` capability.
    MappedRam,
    /// QEMU migration stream.
    Qemu,
    /// Firecracker's memory file on x86-64.
    Firecracker,
    /// Cloud Hypervisor's `memory-ranges`, with `state.json` beside it.
    CloudHypervisor,
}

impl FormatChoice {
    /// All choices, in the order in which help should list them.
    pub const ALL: [Self; 7] = [
        Self::Raw,
        Self::Elf,
        Self::Lime,
        Self::MappedRam,
        Self::Qemu,
        Self::Firecracker,
        Self::CloudHypervisor,
    ];

    /// The name of the choice; parsing it gives the choice back.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Elf => "elf",
            Self::Lime => "lime",
            Self::MappedRam => "mapped-ram",
            Self::Qemu => "qemu",
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
        }
    }

    /// The format that a file of this choice has.
    pub const fn format(self) -> ImageFormat {
        match self {
            Self::Raw | Self::Firecracker | Self::CloudHypervisor => ImageFormat::Raw,
            Self::Elf => ImageFormat::ElfCore,
            Self::Lime => ImageFormat::Lime,
            Self::MappedRam => ImageFormat::MappedRam,
            Self::Qemu => ImageFormat::Qemu,
        }
    }
}

impl fmt::Display for FormatChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for FormatChoice {
    type Err = ImageError;

    fn from_str(name: &str) -> Result<Self, ImageError> {
        let known = Self::ALL.into_iter().find(|choice| choice.name() == name);
        known.ok_or_else(|| ImageError::UnknownFormat { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_lead_back() {
        for id in 0..=u8::MAX {
            match ImageFormat::from_id(id) {
                Some(format) => {
                    assert_eq!(format.id(), id);
                    assert_eq!(format.name().parse::<FormatChoice>().unwrap().format(), format);
                }
                None => assert!(id > 4, "{id} is in use"),
            }
        }
        for choice in FormatChoice::ALL {
            assert_eq!(choice.to_string().parse::<FormatChoice>().unwrap(), choice);
        }
        let error = "vmss".parse::<FormatChoice>().unwrap_err();
        assert!(error.to_string().contains("cloud-hypervisor"), "{error}");
    }
}
