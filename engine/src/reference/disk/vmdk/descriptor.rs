//! The text of a vmdk image: which extents it has, and which parent.

use crate::reference::ReferenceError;
use crate::reference::disk::host::HostFile;

/// How the text begins.
const HEAD: &[u8] = b"# disk descriptorfile";
/// The longest text that is looked at.
const MAX_LEN: u64 = 1 << 20;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) extents: Vec<ExtentLine>,
    /// Whether there is a parent, by its content id.
    pub(super) has_parent: bool,
    /// The parent's file name.
    pub(super) parent: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub(super) sectors: u64,
    pub(super) kind: ExtentKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    Zero,
    Flat { name: String, sector: u64 },
    Sparse { name: String },
}

/// Whether a file is a descriptor by itself.
pub(super) fn is_one(host: &HostFile) -> bool {
    host.len() <= MAX_LEN
        && host.bytes(0, HEAD.len() as u64).is_some_and(|start| start.eq_ignore_ascii_case(HEAD))
}

impl Descriptor {
    /// Parses the text in `bytes`, which ends at the first zero byte.
    pub(super) fn parse(host: &HostFile, bytes: &[u8]) -> Result<Self, ReferenceError> {
        if bytes.len() as u64 > MAX_LEN {
            return Err(host.damaged("length of the descriptor", bytes.len() as u64));
        }
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        // Names in other encodings than UTF-8 will not be found, which the message then shows.
        let text = String::from_utf8_lossy(&bytes[..end]);
        let mut descriptor = Self::default();
        for (number, line) in text.lines().enumerate() {
            let failed = |why| ReferenceError::Descriptor { path: host.path.clone(), line: number + 1, why };
            let line = line.trim();
            let access = line.split_whitespace().next().unwrap_or("");
            if matches!(access, "RW" | "RDONLY") {
                descriptor.extents.push(parse_extent(line).map_err(failed)?);
            } else if access == "NOACCESS" {
                return Err(failed("an extent without access is not supported"));
            } else if let Some((key, value)) = line.split_once('=') {
                let value = value.trim().trim_matches('"');
                match key.trim().to_ascii_lowercase().as_str() {
                    "parentcid" => descriptor.has_parent = !value.eq_ignore_ascii_case("ffffffff"),
                    "parentfilenamehint" => descriptor.parent = Some(value.to_owned()),
                    _ => {}
                }
            }
        }
        Ok(descriptor)
    }
}

/// Parses `RW 4192256 FLAT "name.vmdk" 0`.
fn parse_extent(line: &str) -> Result<ExtentLine, &'static str> {
    let (front, name, back) = match line.split_once('"') {
        None => (line, None, ""),
        Some((front, rest)) => {
            let (name, back) = rest.rsplit_once('"').ok_or("the file name has no end")?;
            (front, Some(name), back)
        }
    };
    let mut words = front.split_whitespace().skip(1);
    let sectors = words.next().and_then(|word| word.parse().ok()).ok_or("no number of sectors")?;
    let kind = words.next().ok_or("no type of extent")?;
    let name = || name.map(str::to_owned).ok_or("no file name");
    let kind = match kind {
        "ZERO" => ExtentKind::Zero,
        "FLAT" | "VMFS" => {
            let sector = match back.split_whitespace().next() {
                None => 0,
                Some(word) => word.parse().map_err(|_| "the first sector is no number")?,
            };
            ExtentKind::Flat { name: name()?, sector }
        }
        "SPARSE" => ExtentKind::Sparse { name: name()? },
        _ => return Err("this type of extent is not supported"),
    };
    Ok(ExtentLine { sectors, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extent_lines_are_read_as_vmware_writes_them() {
        let flat = |name: &str, sector| ExtentKind::Flat { name: name.to_owned(), sector };
        let cases = [
            (r#"RW 4192256 FLAT "a disk-f001.vmdk" 7"#, 4192256, flat("a disk-f001.vmdk", 7)),
            (r#"RDONLY 8 VMFS "d-flat.vmdk""#, 8, flat("d-flat.vmdk", 0)),
            (r#"RW  8  SPARSE  "s.vmdk""#, 8, ExtentKind::Sparse { name: "s.vmdk".to_owned() }),
            ("RW 63 ZERO", 63, ExtentKind::Zero),
        ];
        for (line, sectors, kind) in cases {
            assert_eq!(parse_extent(line), Ok(ExtentLine { sectors, kind }), "{line}");
        }
        let bad = [
            "RW",
            "RW x FLAT \"a\" 0",
            "RW 8",
            "RW 8 FLAT",
            "RW 8 FLAT \"a",
            "RW 8 FLAT \"a\" x",
            "RW 8 X \"a\"",
        ];
        for line in bad {
            assert!(parse_extent(line).is_err(), "{line}");
        }
    }
}
