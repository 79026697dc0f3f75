//! Which instruction sets this CPU has, as values that prove it.
//!
//! Each vector level carries a token that only its `detect` can make, and `detect` asks the CPU. A
//! kernel that is handed the token may use the instructions without asking again. The environment
//! variable `MIG_SIMD` can choose among the levels that were found; it cannot make one up.

use std::ffi::OsStr;
use std::fmt;

/// The environment variable that [`Level::from_env`] reads.
pub const LEVEL_VARIABLE: &str = "MIG_SIMD";

/// Proof that this CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// The proof, where the CPU (and the operating system) support AVX2.
    pub fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

/// Proof that this CPU has AVX-512 F, BW, DQ and VL.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512(());

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// The proof, where the CPU (and the operating system) support all four sets.
    pub fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        all.then_some(Self(()))
    }
}

/// Proof that this CPU has NEON.
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neon(());

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
impl Neon {
    /// The proof, where the CPU supports NEON.
    pub fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

/// An instruction set that this CPU has; what every kernel takes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Level {
    /// Plain Rust: always there, and the truth the others are tested against.
    Scalar,
    /// 256-bit vectors on x86-64.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// 512-bit vectors and mask registers on x86-64.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// 128-bit vectors on 64-bit ARM.
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Neon(Neon),
}

impl Level {
    /// The names of all levels there are, on this CPU or another.
    pub const NAMES: [&'static str; 4] = ["scalar", "avx2", "avx512", "neon"];

    /// Every level this CPU has, `Scalar` first and the widest last.
    pub fn present() -> Vec<Self> {
        let mut found = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(Avx2::detect().map(Self::Avx2));
            found.extend(Avx512::detect().map(Self::Avx512));
        }
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        found.extend(Neon::detect().map(Self::Neon));
        found
    }

    /// The widest level this CPU has.
    pub fn best() -> Self {
        Self::present().pop().unwrap_or(Self::Scalar)
    }

    /// The level that `MIG_SIMD` names, or [`Level::best`] where it is unset or empty.
    ///
    /// # Errors
    ///
    /// The variable's value is not the name of a level that this CPU has.
    pub fn from_env() -> Result<Self, LevelError> {
        Self::chosen(std::env::var_os(LEVEL_VARIABLE).as_deref())
    }

    fn chosen(variable: Option<&OsStr>) -> Result<Self, LevelError> {
        match variable {
            Some(name) if !name.is_empty() => Self::named(&name.to_string_lossy()),
            _ => Ok(Self::best()),
        }
    }

    /// The level of that name (as in [`Level::NAMES`], exactly), if this CPU has it.
    ///
    /// # Errors
    ///
    /// There is no such level, or this CPU lacks it.
    pub fn named(name: &str) -> Result<Self, LevelError> {
        if let Some(level) = Self::present().into_iter().find(|level| level.name() == name) {
            return Ok(level);
        }
        let asked = name.to_owned();
        if Self::NAMES.contains(&name) {
            Err(LevelError::Absent { asked })
        } else {
            Err(LevelError::Unknown { asked })
        }
    }

    /// The level's name in lower case: `scalar`, `avx2`, `avx512` or `neon`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::Neon(_) => "neon",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a level that was asked for by name cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LevelError {
    /// No level has this name.
    Unknown {
        /// The name that was asked for.
        asked: String,
    },
    /// The level exists, but not on this CPU.
    Absent {
        /// The name that was asked for.
        asked: String,
    },
}

impl fmt::Display for LevelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { asked } => write!(f, "unknown SIMD level {asked:?}")?,
            Self::Absent { asked } => write!(f, "this CPU has no SIMD level {asked:?}")?,
        }
        let names: Vec<_> = Level::present().into_iter().map(Level::name).collect();
        write!(f, "; it has {}", names.join(", "))
    }
}

impl std::error::Error for LevelError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_is_first_and_best_is_last() {
        let present = Level::present();
        assert_eq!(present.first(), Some(&Level::Scalar));
        assert_eq!(present.last(), Some(&Level::best()));
    }

    #[test]
    fn each_present_level_is_found_by_its_name() {
        for level in Level::present() {
            assert_eq!(Level::named(level.name()), Ok(level));
            assert!(Level::NAMES.contains(&level.name()));
        }
    }

    #[test]
    fn other_names_are_errors_that_list_what_is_present() {
        let present = Level::present();
        for name in Level::NAMES.into_iter().chain(["avx1024", "", "AVX2"]) {
            if present.iter().any(|level| level.name() == name) {
                continue;
            }
            let error = Level::named(name).expect_err(name);
            let unknown = matches!(error, LevelError::Unknown { .. });
            assert_eq!(unknown, !Level::NAMES.contains(&name));
            for level in &present {
                assert!(error.to_string().contains(level.name()), "{error}");
            }
        }
    }

    #[test]
    fn the_variable_chooses_among_what_is_present() {
        assert_eq!(Level::chosen(None), Ok(Level::best()));
        assert_eq!(Level::chosen(Some(OsStr::new(""))), Ok(Level::best()));
        assert_eq!(Level::chosen(Some(OsStr::new("scalar"))), Ok(Level::Scalar));
        let error = Level::chosen(Some(OsStr::new("sclaar"))).expect_err("no such level");
        assert_eq!(error, LevelError::Unknown { asked: "sclaar".to_owned() });
    }

    #[test]
    fn levels_travel_between_threads() {
        fn check<T: Copy + Send + Sync + 'static>() {}
        check::<Level>();
    }
}
