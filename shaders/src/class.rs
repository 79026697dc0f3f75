// Numbers of the content classes and the borders between them. build.rs includes this file and writes them into WGSL; the
// engine's decision table (engine/src/class.rs) is held to them by the compiler, in engine/src/gpu.

/// Already compressed or encrypted.
pub const INCOMPRESSIBLE: u32 = 0;
/// Words of ASCII.
pub const TEXT: u32 = 1;
/// User-space pointers.
pub const USER_POINTERS: u32 = 2;
/// Kernel pointers.
pub const KERNEL_POINTERS: u32 = 3;
/// Zero words.
pub const SPARSE: u32 = 4;
/// Anything else.
pub const OTHER: u32 = 5;

/// Zero and small words of a page that may be incompressible, at most.
pub const MAX_PLAIN: u32 = 16;
/// What an incompressible page's spread is below.
pub const RANDOM_LIMIT: u32 = 600;
/// Text words of a page of text, at least.
pub const MIN_TEXT: u32 = 256;
/// Pointers of a page of pointers, at least.
pub const MIN_POINTERS: u32 = 64;
/// Zero words of a sparse page, at least.
pub const MIN_SPARSE: u32 = 256;

/// All of the above, by name.
#[allow(dead_code, reason = "for build.rs, which includes this file")]
pub(crate) const NAMED: [(&str, u32); 11] = [
    ("INCOMPRESSIBLE", INCOMPRESSIBLE),
    ("TEXT", TEXT),
    ("USER_POINTERS", USER_POINTERS),
    ("KERNEL_POINTERS", KERNEL_POINTERS),
    ("SPARSE", SPARSE),
    ("OTHER", OTHER),
    ("MAX_PLAIN", MAX_PLAIN),
    ("RANDOM_LIMIT", RANDOM_LIMIT),
    ("MIN_TEXT", MIN_TEXT),
    ("MIN_POINTERS", MIN_POINTERS),
    ("MIN_SPARSE", MIN_SPARSE),
];
