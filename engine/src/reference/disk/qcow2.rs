//! One qcow2 image without its backing image, through the `imago` crate.
//!
//! imago reads the header, the tables and the compressed clusters; where data lies, it only tells us, and the chain
//! reads it from the mapping. Backing images are the chain's business too, so that any format can lie below any
//! other and no file is opened unchecked. What imago overlooks (encryption) or says unclearly (features that it does
//! not know) is looked at here first.

use std::ops::Range;

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, ShallowMapping};

use super::DiskFormat;
use super::chain::{Backing, Files, Piece, Place};
use super::host::HostFile;
use crate::reference::ReferenceError;

/// What the bits of the header's incompatible features mean; bit 2, an external data file, is the one we read.
const FEATURES: [(u32, &str); 4] = [
    (0, "a qcow2 image that is marked dirty (check it with `qemu-img check -r leaks`)"),
    (1, "a qcow2 image that is marked corrupt"),
    (3, "a qcow2 image whose clusters are compressed with another method than deflate"),
    (4, "a qcow2 image with extended L2 entries"),
];

#[derive(Debug)]
pub(super) struct Qcow2Layer {
    image: FormatAccess<ImagoFile>,
    /// The image itself, for messages.
    file: u32,
    /// The file with the guest's data: mostly the image itself.
    data: u32,
    cluster: u64,
}

impl Qcow2Layer {
    pub(super) fn open(file: u32, files: &mut Files) -> Result<(Self, Option<Backing>), ReferenceError> {
        let host = files.get(file);
        let cluster = check_header(host)?;
        let failed = |source| ReferenceError::Qcow2 { path: host.path.clone(), source };
        let handle = |host: &HostFile| {
            let handle = host.map.file().try_clone().and_then(ImagoFile::try_from);
            handle.map_err(|source| ReferenceError::Io { path: host.path.clone(), source })
        };
        let mut image = Qcow2::<ImagoFile>::open_image(handle(host)?, false).map_err(failed)?;
        image.set_backing(None);
        let backing = match image.implicit_backing_file() {
            None => None,
            Some(name) => {
                let format = match image.implicit_backing_format().map(String::as_str) {
                    None => None,
                    Some("raw" | "file" | "host_device") => Some(DiskFormat::Raw),
                    Some("qcow2") => Some(DiskFormat::Qcow2),
                    Some("vmdk") => Some(DiskFormat::Vmdk),
                    Some(_) => return Err(host.unsupported("a backing image of another format")),
                };
                Some(Backing { path: host.neighbour(name)?, format })
            }
        };
        let mut data = file;
        if image.requires_external_data_file() {
            let Some(name) = image.implicit_external_data_file() else {
                return Err(host.unsupported("an external data file without a name"));
            };
            let path = host.neighbour(name)?;
            data = files.add(&path)?;
            image.set_data_file(Some(handle(files.get(data))?));
        } else {
            image.set_data_file(None);
        }
        Ok((Self { image: FormatAccess::new(image), file, data, cluster }, backing))
    }

    pub(super) fn size(&self) -> u64 {
        self.image.size()
    }

    pub(super) fn piece(&self, offset: u64, max: u64, files: &Files) -> Result<(Piece, u64), ReferenceError> {
        let (mapping, len) = self
            .image
            .get_shallow_mapping(offset, max)
            .map_err(|source| ReferenceError::Qcow2 { path: files.get(self.file).path.clone(), source })?;
        let piece = match mapping {
            ShallowMapping::Raw { offset, .. } => Piece::Here(Place::Data { file: self.data, at: offset }),
            ShallowMapping::Zero { explicit: true, .. } => Piece::Here(Place::Zero),
            ShallowMapping::Zero { explicit: false, .. } => Piece::Below,
            ShallowMapping::Special { .. } => Piece::Here(Place::Coded),
            // Neither has a cause left: the offset is below the size, and no backing image was set.
            _ => return Err(files.get(self.file).damaged("mapping of guest offset", offset)),
        };
        if len == 0 {
            return Err(files.get(self.file).damaged("empty mapping of guest offset", offset));
        }
        Ok((piece, len.min(max)))
    }

    pub(super) fn unit(&self, offset: u64) -> Range<u64> {
        let start = offset / self.cluster * self.cluster;
        start..(start + self.cluster).min(self.size())
    }

    pub(super) fn decode(&self, offset: u64, buf: &mut [u8], files: &Files) -> Result<(), ReferenceError> {
        self.image
            .read(buf, offset)
            .map_err(|source| ReferenceError::Qcow2 { path: files.get(self.file).path.clone(), source })
    }
}

/// Refuses what imago would not, or would refuse less clearly, and returns the cluster size in bytes.
fn check_header(host: &HostFile) -> Result<u64, ReferenceError> {
    let version = u32::from_be_bytes(host.array(4, "header of length")?);
    if !(2..=3).contains(&version) {
        return Err(host.unsupported("another version of qcow than 2 and 3"));
    }
    let cluster_bits = u32::from_be_bytes(host.array(20, "header of length")?);
    if !(9..=21).contains(&cluster_bits) {
        return Err(host.damaged("number of cluster bits", cluster_bits.into()));
    }
    // QEMU demands this too. It keeps a small file from claiming a disk whose every table would be looked for.
    let size = u64::from_be_bytes(host.array(24, "header of length")?);
    let tables = u32::from_be_bytes(host.array(36, "header of length")?);
    if size.div_ceil(1 << (2 * cluster_bits - 3)) > tables.into() {
        return Err(host.damaged("number of tables", tables.into()));
    }
    if u32::from_be_bytes(host.array(32, "header of length")?) != 0 {
        return Err(host.unsupported("an encrypted qcow2 image"));
    }
    if version == 3 {
        let features = u64::from_be_bytes(host.array(72, "header of length")?);
        if let Some((_, feature)) = FEATURES.into_iter().find(|(bit, _)| features >> bit & 1 == 1) {
            return Err(host.unsupported(feature));
        }
    }
    Ok(1 << cluster_bits)
}
