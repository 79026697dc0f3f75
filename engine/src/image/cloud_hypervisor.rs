//! Cloud Hypervisor snapshots: a folder with `memory-ranges` (the memory, without any header), `state.json`
//! and `config.json`.
//!
//! The memory manager's part of `state.json` lists the saved ranges of guest memory, in the order in
//! which their bytes follow each other in `memory-ranges`. The state of each component is a string that is
//! JSON itself (an object, in some versions), so we look for the list by its name, wherever it is.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::arrange::Arranger;
use super::input::Input;
use super::{ImageError, ImageLayout};

/// The name of the file with the memory.
const MEMORY: &str = "memory-ranges";
const STATE: &str = "state.json";
/// The list we look for: `{"data": [{"gpa": N, "length": N}]}`, or the array alone.
const RANGES: &str = "memory_ranges";
/// A list with the same use, should the first be missing: `[{"gpa": N, "size": N}]`.
const MAPPINGS: &str = "guest_ram_mappings";

/// How much of `state.json` we read. Real ones have a few hundred kilobytes; parsed, two bytes can become 32 and more.
pub(super) const MAX_STATE: u64 = 8 << 20;
/// Strings within strings that we look into: real files have one level.
const MAX_NESTING: u32 = 4;

/// The memory file and the state file, if `path` is a snapshot folder or the memory file in one.
pub(super) fn locate(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let memory = if path.is_dir() { path.join(MEMORY) } else { path.to_owned() };
    let state = memory.with_file_name(STATE);
    (memory.file_name()? == MEMORY && memory.is_file() && state.is_file()).then_some((memory, state))
}

/// Where `state.json` should be for a memory file.
pub(super) fn state_beside(memory: &Path) -> PathBuf {
    memory.with_file_name(STATE)
}

pub(super) fn parse(input: Input<'_>, state: &[u8]) -> Result<ImageLayout, ImageError> {
    let state: Value = serde_json::from_slice(state)?;
    let ranges = find(&state, RANGES, "length", MAX_NESTING)
        .or_else(|| find(&state, MAPPINGS, "size", MAX_NESTING))
        .ok_or(ImageError::Snapshot { why: "it lists no memory ranges" })?;
    let mut arranger = Arranger::new(input.format);
    let mut at = 0;
    for (gpa, len) in ranges {
        input.slice("a memory range of state.json", at, len)?;
        arranger.add(at..at + len, Some(gpa))?;
        at += len;
    }
    if at < input.len() {
        log::warn!("state.json lists {at} bytes of memory, but memory-ranges has {}", input.len());
    }
    arranger.finish(input.len())
}

/// The first list of ranges by this name that isn't empty, as (address, length).
///
/// The depth of the recursion is bounded by the JSON parser (128 levels a document) and by `nesting`.
fn find(value: &Value, name: &str, length: &str, nesting: u32) -> Option<Vec<(u64, u64)>> {
    match value {
        Value::Object(fields) => {
            let here = fields.get(name).and_then(|list| ranges(list, length));
            here.or_else(|| fields.values().find_map(|field| find(field, name, length, nesting)))
        }
        Value::Array(items) => items.iter().find_map(|item| find(item, name, length, nesting)),
        Value::String(text) if nesting > 0 && text.contains(name) => {
            let inner: Value = serde_json::from_str(text).ok()?;
            find(&inner, name, length, nesting - 1)
        }
        _ => None,
    }
}

fn ranges(list: &Value, length: &str) -> Option<Vec<(u64, u64)>> {
    let items = list.get("data").unwrap_or(list).as_array()?;
    let ranges: Option<Vec<_>> =
        items.iter().map(|item| Some((item.get("gpa")?.as_u64()?, item.get(length)?.as_u64()?))).collect();
    ranges.filter(|ranges| !ranges.is_empty())
}
