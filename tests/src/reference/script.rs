//! Section 10: scripts.

use super::PAGE;
use super::bytes::Cursor;

const MAX_BLOCKS: usize = 4096;
/// The longest output of one script that this decoder builds, in bytes.
const MAX_OUT: usize = 1 << 30;

/// Runs a script; `ram` are the blocks that earlier ones have defined: name, first page, pages.
pub(super) fn run<'p>(
    script: &[u8],
    page_count: u64,
    ram: &mut Vec<(Vec<u8>, u64, u64)>,
    page: impl Fn(u64) -> &'p [u8],
) -> Result<Vec<u8>, String> {
    let mut cursor = Cursor::new(script);
    let mut out = Vec::new();
    let mut records = 0;
    while !cursor.is_empty() {
        match cursor.u8("script operation")? {
            0 => {
                let len = cursor.varint("script bytes: length")?;
                out.extend_from_slice(cursor.take(len, "script bytes")?);
            }
            1 => {
                let len = cursor.varint_to(255, "script block: length of the name")?;
                let name = cursor.take(len, "script block: name")?.to_vec();
                let first = cursor.varint_to(page_count, "script block: first page")?;
                let pages = cursor.varint_to(page_count - first, "script block: pages")?;
                if ram.len() == MAX_BLOCKS {
                    return Err("script block: too many".into());
                }
                ram.push((name, first, pages));
            }
            2 => {
                let flags = cursor.u8("script records: flags")?;
                let number = cursor.varint("script records: block")?;
                let block = usize::try_from(number).ok().and_then(|number| ram.get(number));
                let Some((name, start, pages)) = block else {
                    return Err(format!("script records: there is no block {number}"));
                };
                let first = cursor.varint_to(*pages, "script records: first page")?;
                let count = cursor.varint_to(*pages - first, "script records: count")?;
                records += count;
                if flags > 3 || count == 0 || records > page_count {
                    return Err(format!("script records: flags {flags}, {count} of {records} records"));
                }
                for n in first..first + count {
                    let content = page(start + n);
                    let zero = content.iter().all(|byte| *byte == 0) && flags & 2 == 0;
                    let named = n == first && flags & 1 != 0;
                    let word = n * PAGE as u64 + if zero { 2 } else { 8 } + if named { 0 } else { 32 };
                    out.extend(word.to_be_bytes());
                    if named {
                        out.push(name.len() as u8);
                        out.extend_from_slice(name);
                    }
                    if zero {
                        out.push(0);
                    } else {
                        out.extend_from_slice(content);
                    }
                    if out.len() > MAX_OUT {
                        return Err("script: it writes more than this decoder builds".into());
                    }
                }
            }
            other => return Err(format!("script operation: {other} is not known")),
        }
    }
    Ok(out)
}
