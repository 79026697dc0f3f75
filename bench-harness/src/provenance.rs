//! Where and of what figures were taken: a number from an unnamed machine is worth nothing.
//!
//! What the system does not tell is `unknown`, never guessed. Nothing here names the machine or its user.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use mig_engine::{Gpu, Level, default_threads};
use mig_simd::level::LEVEL_VARIABLE;
use serde::Serialize;

use crate::human;

/// One report's provenance.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Provenance {
    /// When the run began, in UTC.
    pub(crate) date: String,
    /// The commit that was built, and whether there were changes besides.
    pub(crate) commit: &'static str,
    /// The compiler, its target, profile and flags.
    pub(crate) toolchain: String,
    /// The processor's own name.
    pub(crate) cpu: String,
    /// Processors that the system shows to this process.
    pub(crate) cpus: usize,
    /// Which processors are threads of the core of processor 0.
    pub(crate) core_siblings: String,
    /// Size of the last-level cache.
    pub(crate) last_cache: String,
    /// What the processor has of what matters here.
    pub(crate) flags: String,
    /// SIMD levels that were found, and the one in use.
    pub(crate) levels: String,
    /// Frequency governor.
    pub(crate) governor: String,
    /// Whether this is a virtual machine.
    pub(crate) virtual_machine: bool,
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Bytes of memory that were free to use at the start.
    pub(crate) memory_available: u64,
    /// The system's huge page setting.
    pub(crate) huge_pages: String,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Load averages at the start: above 0.1 or so, other work disturbs the figures.
    pub(crate) load: String,
    /// Versions of peers.
    pub(crate) tools: Vec<String>,
    /// The GPU that is used, with its driver.
    pub(crate) gpu: Option<String>,
}

/// Flags that the kernels and peers make use of, as /proc/cpuinfo names them on x86-64 and ARM.
const FLAGS: [&str; 17] = [
    "sse4_2",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512vbmi",
    "pclmulqdq",
    "vpclmulqdq",
    "erms",
    "fsrm",
    "asimd",
    "pmull",
    "crc32",
];

impl Provenance {
    /// What there is to say now, before anything is measured.
    pub(crate) fn now() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = field(&cpuinfo, "flags").or_else(|| field(&cpuinfo, "Features")).unwrap_or_default();
        let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
        let present: Vec<_> = Level::present().into_iter().map(Level::name).collect();
        let used = Level::from_env().map_or_else(|error| error.to_string(), |level| level.name().to_owned());
        let forced = if std::env::var_os(LEVEL_VARIABLE).is_some() { " as MIG_SIMD says" } else { "" };
        Provenance {
            date: date(SystemTime::now()),
            commit: env!("MIG_BENCH_COMMIT"),
            toolchain: concat!(
                env!("MIG_BENCH_RUSTC"),
                ", ",
                env!("MIG_BENCH_TARGET"),
                ", ",
                env!("MIG_BENCH_PROFILE"),
                ", RUSTFLAGS \"",
                env!("MIG_BENCH_RUSTFLAGS"),
                "\""
            )
            .to_owned(),
            cpu: cpu_name(&cpuinfo),
            cpus: default_threads(),
            core_siblings: line_of("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list"),
            last_cache: last_cache(),
            flags: FLAGS.into_iter().filter(|name| has(name)).collect::<Vec<_>>().join(" "),
            levels: format!("{}; {used} in use{forced}", present.join(", ")),
            governor: line_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            virtual_machine: has("hypervisor"),
            memory: meminfo("MemTotal").unwrap_or(0),
            memory_available: meminfo("MemAvailable").unwrap_or(0),
            huge_pages: line_of("/sys/kernel/mm/transparent_hugepage/enabled"),
            kernel: line_of("/proc/sys/kernel/osrelease"),
            load: line_of("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" "),
            tools: tools(),
            gpu: None,
        }
    }

    /// The same, with the GPU that is used, if one is.
    pub(crate) fn with_gpu(mut self, gpu: Option<&Gpu>) -> Self {
        self.gpu = gpu.map(|gpu| format!("{}, driver {}", gpu.adapter().name, gpu.adapter().driver));
        self
    }

    /// For people: a few lines.
    pub(crate) fn describe(&self) -> String {
        let machine = if self.virtual_machine { ", in a virtual machine" } else { "" };
        let mut text = format!(
            "{}, {} processors{machine}, last cache {}, {} of memory; kernel {}; load {}\n",
            self.cpu,
            self.cpus,
            self.last_cache,
            human::bytes(self.memory),
            self.kernel,
            self.load,
        );
        text += &format!("{}; commit {}; SIMD {}; {}\n", self.date, self.commit, self.levels, self.toolchain);
        text += &format!("{}\n", self.tools.join("; "));
        if let Some(gpu) = &self.gpu {
            text += &format!("GPU {gpu}\n");
        }
        if let Some(warning) = self.warning() {
            text += &format!("WARNING: {warning}\n");
        }
        text
    }

    /// Why the figures are not worth quoting, if something here says so.
    pub(crate) fn warning(&self) -> Option<String> {
        let load: f64 = self.load.split_whitespace().next()?.parse().ok()?;
        if !env!("MIG_BENCH_PROFILE").starts_with("release") {
            return Some("built without --release: the figures are not those of a user's program".into());
        }
        (load > 0.5)
            .then(|| format!("the load was {load} before this began: other work may disturb the figures"))
    }
}

/// A field of /proc/cpuinfo: of the first processor.
fn field(cpuinfo: &str, name: &str) -> Option<String> {
    let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

/// The name, and the numbers that tell models of a vague name apart.
fn cpu_name(cpuinfo: &str) -> String {
    let name = field(cpuinfo, "model name").unwrap_or_else(|| "unknown".into());
    let numbers: Vec<String> = ["cpu family", "model", "stepping", "CPU part"]
        .into_iter()
        .filter_map(|key| field(cpuinfo, key).map(|value| format!("{key} {value}")))
        .collect();
    if numbers.is_empty() { name } else { format!("{name} ({})", numbers.join(", ")) }
}

/// Bytes that /proc/meminfo gives for a name.
pub(crate) fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let value = field(&text, name)?;
    let kib: u64 = value.strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// The size of the highest level of cache that processor 0 has.
fn last_cache() -> String {
    let folder = Path::new("/sys/devices/system/cpu/cpu0/cache");
    let size = |level: u32| folder.join(format!("index{level}/size"));
    let last = (0..8).rev().find(|level| size(*level).exists());
    last.map_or_else(|| "unknown".into(), |level| line_of(size(level)))
}

/// A file's first line.
fn line_of(path: impl AsRef<Path>) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().map_or_else(|| "unknown".into(), |line| line.trim().to_owned())
}

fn tools() -> Vec<String> {
    let mut tools =
        vec![format!("libzstd {}", zstd::zstd_safe::version_string()), "zlib-rs through flate2".into()];
    for program in ["zstd", "gzip", "makedumpfile", crate::contender::QEMU] {
        let version = version_of(program);
        tools.push(
            version.map_or_else(|| format!("no {program} program"), |version| format!("program {version}")),
        );
    }
    tools
}

/// The first line of what a program says of its version; `None` where it is not installed.
pub(crate) fn version_of(program: &str) -> Option<String> {
    let flag = if program == "makedumpfile" { "-v" } else { "--version" };
    let output = Command::new(program).arg(flag).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).lines().next()?.trim_matches([' ', '*']).to_owned();
    output.status.success().then_some(text)
}

/// A moment in UTC: `2026-07-01T12:30:00Z`.
fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years are counted from March, so that the leap day is the last one: 400 of them have 146,097 days.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(date(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn processors_are_named() {
        let x86 = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: Some CPU\nflags\t\t: avx2 bmi2\n\n";
        assert_eq!(cpu_name(x86), "Some CPU (cpu family 25, model 17)");
        assert_eq!(field(x86, "flags").as_deref(), Some("avx2 bmi2"));
        assert_eq!(cpu_name("CPU part\t: 0xd0c\n"), "unknown (CPU part 0xd0c)");
        assert_eq!(cpu_name(""), "unknown");
    }

    #[test]
    fn this_machine_tells_the_main_things() {
        let now = Provenance::now();
        assert!(now.memory > 0 && now.cpus > 0 && now.levels.contains("scalar"), "{now:?}");
        assert!(now.toolchain.contains("rustc"), "{}", now.toolchain);
        assert!(now.describe().contains(&now.kernel));
    }
}
