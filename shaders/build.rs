//! Joins each stage with what it imports, has naga validate it as core WGSL, and writes down what Rust needs to know of it.
//!
//! The output is one Rust file: for each stage a module with its source, entry point, workgroup size and bindings; and for
//! the structs the sizes and offsets that naga gives them, against which `layout.rs` checks its own.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, Module, StorageAccess, TypeInner};

#[path = "src/class.rs"]
#[allow(clippy::duplicate_mod, unreachable_pub, reason = "the numbers are for here and for there")]
mod class;
#[path = "src/xxh3.rs"]
mod xxh3;

/// The stages, each a file and an entry point of that name.
const STAGES: [&str; 6] = ["scan", "classify", "dedup_note", "dedup_insert", "dedup_find", "lookup"];
/// Structs whose layout Rust has to match.
const STRUCTS: [&str; 2] = ["PageRecord", "Dispatch"];
/// Constants that Rust has to match, and the shared files that have them.
const CONSTANTS: [(&str, &str, &str); 3] = [
    ("scan", "LANES", "LANES"),
    ("dedup_find", "PROBES", "DEDUP_PROBES"),
    ("lookup", "PROBES", "LOOKUP_PROBES"),
];

fn main() {
    println!("cargo::rerun-if-changed=wgsl");
    println!("cargo::rerun-if-changed=src/class.rs");
    println!("cargo::rerun-if-changed=src/xxh3.rs");
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo says where we are")).join("wgsl");
    let mut out = String::new();
    let mut structs = BTreeSet::new();
    for stage in STAGES {
        let file = format!("{stage}.wgsl");
        let source = join(&folder, stage);
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|error| panic!("{}", error.emit_to_string_with_path(&source, &file)));
        // No capability: what is valid here is valid on every adapter.
        Validator::new(ValidationFlags::all(), Capabilities::empty())
            .validate(&module)
            .unwrap_or_else(|error| panic!("{}", error.emit_to_string_with_path(&source, &file)));
        write_stage(&mut out, stage, &source, &module);
        for name in STRUCTS {
            if structs.insert(name) && !write_struct(&mut out, &module, name) {
                structs.remove(name);
            }
        }
        for (_, name, rust) in CONSTANTS.iter().filter(|(of, ..)| *of == stage) {
            writeln!(out, "pub(crate) const {rust}: u32 = {};", constant(&module, name))
                .expect("a string grows");
        }
    }
    assert_eq!(structs.len(), STRUCTS.len(), "a struct is in no stage");
    let path = Path::new(&env::var("OUT_DIR").expect("cargo says where to write")).join("wgsl.rs");
    fs::write(&path, out).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A stage's source with what it imports in front.
fn join(folder: &Path, stage: &str) -> String {
    let own = read(&folder.join(format!("{stage}.wgsl")));
    let mut source = String::new();
    for line in own.lines() {
        match line.strip_prefix("//! import ") {
            Some(name) => {
                match name {
                    "xxh3" => source += &xxh3_numbers(),
                    "class" => source += &class_numbers(),
                    _ => {}
                }
                // The classes are numbers and nothing else.
                if name != "class" {
                    source += &read(&folder.join("shared").join(format!("{name}.wgsl")));
                }
            }
            None => {
                source += line;
                source += "\n";
            }
        }
    }
    source
}

fn word(value: u64) -> String {
    format!("vec2<u32>({:#x}u, {:#x}u)", value as u32, value >> 32)
}

fn words(name: &str, values: impl IntoIterator<Item = u64>) -> String {
    let values: Vec<String> = values.into_iter().map(word).collect();
    format!("const {name} = array<vec2<u32>, {}>({});\n", values.len(), values.join(", "))
}

fn xxh3_numbers() -> String {
    let keys = |at: usize, count: usize| (0..count).map(move |i| xxh3::key(at + 8 * i));
    let mut text =
        format!("const PRIME32_1 = {:#x}u;\nconst AVALANCHE = {};\n", xxh3::PRIME32_1, word(xxh3::AVALANCHE));
    text += &words("START", xxh3::START);
    text += &words("SCRAMBLE", keys(xxh3::SCRAMBLE_AT, 8));
    text += &words("MERGE", keys(xxh3::MERGE_AT[0], 8).chain(keys(xxh3::MERGE_AT[1], 8)));
    text += &words("MERGE_START", xxh3::MERGE_START);
    text += &words("SECRET", keys(0, xxh3::SECRET.len() / 8));
    text += &words("LAST_STRIPE", keys(xxh3::LAST_STRIPE_AT, 8));
    text
}

fn class_numbers() -> String {
    class::NAMED.iter().map(|(name, value)| format!("const {name} = {value}u;\n")).collect()
}

fn write_stage(out: &mut String, stage: &str, source: &str, module: &Module) {
    let [entry] = &module.entry_points[..] else { panic!("{stage}: a stage has one entry point") };
    assert_eq!(entry.name, stage, "an entry point is named for its stage");
    let mut bindings: Vec<(u32, String)> = Vec::new();
    for (_, variable) in module.global_variables.iter() {
        let Some(binding) = variable.binding else { continue };
        assert_eq!(binding.group, 0, "{stage}: one group");
        let access = match variable.space {
            AddressSpace::Uniform => "Uniform",
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => "ReadWrite",
            AddressSpace::Storage { .. } => "ReadOnly",
            other => panic!("{stage}: {other:?} has a binding"),
        };
        let name = variable.name.as_deref().expect("variables have names");
        bindings.push((binding.binding, format!("Binding {{ name: {name:?}, access: Access::{access} }}")));
    }
    bindings.sort();
    assert!(bindings.iter().enumerate().all(|(at, (binding, _))| at as u32 == *binding), "{stage}: a gap");
    let bindings: Vec<String> = bindings.into_iter().map(|(_, text)| text).collect();
    let [x, 1, 1] = entry.workgroup_size else { panic!("{stage}: workgroups are rows") };
    writeln!(
        out,
        "/// `wgsl/{stage}.wgsl`.\npub static {}: Shader = Shader {{ name: {stage:?}, workgroup_size: {x}, bindings: &[{}], \
         source: {source:?} }};",
        stage.to_uppercase(),
        bindings.join(", ")
    )
    .expect("a string grows");
}

/// Writes a struct's size and offsets, if the module has it.
fn write_struct(out: &mut String, module: &Module, name: &str) -> bool {
    let Some((_, found)) = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some(name)) else {
        return false;
    };
    let TypeInner::Struct { members, span } = &found.inner else { panic!("{name} is no struct") };
    let upper: String = name.chars().fold(String::new(), |text, c| {
        let gap = if c.is_uppercase() && !text.is_empty() { "_" } else { "" };
        text + gap + &c.to_uppercase().to_string()
    });
    writeln!(out, "pub(crate) const {upper}_SIZE: usize = {span};").expect("a string grows");
    for member in members {
        let field = member.name.as_deref().expect("members have names").to_uppercase();
        writeln!(out, "pub(crate) const {upper}_{field}: usize = {};", member.offset)
            .expect("a string grows");
    }
    true
}

/// The value of an integer constant.
fn constant(module: &Module, name: &str) -> u32 {
    let found = module.constants.iter().find(|(_, constant)| constant.name.as_deref() == Some(name));
    let (_, constant) = found.unwrap_or_else(|| panic!("there is no constant {name}"));
    match module.global_expressions[constant.init] {
        naga::Expression::Literal(naga::Literal::U32(value)) => value,
        ref other => panic!("{name} is {other:?}"),
    }
}
