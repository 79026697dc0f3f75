//! The `result` of a `gpu` report, and how it is printed.

use serde::Serialize;

use crate::human;
use crate::measure::{Samples, Timing};
use crate::report::Table;

/// GB/s are decimal gigabytes of pages.
#[derive(Debug, Serialize)]
pub(super) struct GpuResult {
    /// The adapter's name.
    pub(super) adapter: String,
    /// Discrete, integrated, software.
    pub(super) kind: &'static str,
    /// Driver with its version.
    pub(super) driver: String,
    /// At which alignment it imports host memory, or why it does not.
    pub(super) import: String,
    pub(super) memory_bytes: u64,
    pub(super) threads: usize,
    /// SIMD level of the CPU where none is said.
    pub(super) level: &'static str,
    /// GB/s at which all threads read memory.
    pub(super) host_read: Samples,
    /// GB/s of copies from host memory to the device.
    pub(super) upload: f64,
    /// GB/s of the scan of pages that are on the device.
    pub(super) scan_on_device: f64,
    /// From host memory to records in host memory.
    pub(super) scans: Vec<Scan>,
    pub(super) settles: Vec<Settle>,
    pub(super) pipelines: Vec<Pipeline>,
}

/// A scan, end to end.
#[derive(Debug, Serialize)]
pub(super) struct Scan {
    /// Imported or copied.
    pub(super) way: &'static str,
    /// GB/s.
    pub(super) rate: Samples,
}

/// Scan and settle of all blocks.
#[derive(Debug, Serialize)]
pub(super) struct Settle {
    /// A SIMD level, or the GPU.
    pub(super) who: String,
    pub(super) cpu_seconds_per_gb: Samples,
    pub(super) gb_per_second: Samples,
}

/// Who scans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    CpuOnly,
    GpuOnly,
    Both,
}

/// One effort, in turns.
#[derive(Debug, Serialize)]
pub(super) struct Pipeline {
    pub(super) effort: &'static str,
    /// Whether the memory is held, so that a device may read it where it lies.
    pub(super) memory: &'static str,
    pub(super) stream_bytes: u64,
    pub(super) timings: Vec<(Way, Timing)>,
}

impl Pipeline {
    pub(super) fn timing(&self, way: Way) -> Option<&Timing> {
        self.timings.iter().find(|(one, _)| *one == way).map(|(_, timing)| timing)
    }
}

impl GpuResult {
    pub(super) fn describe(&self) -> String {
        let mut text = format!(
            "{} ({}), driver {}; imports host memory: {}\n{} of memory, {} threads, SIMD {}\n\n",
            self.adapter,
            self.kind,
            self.driver,
            self.import,
            human::bytes(self.memory_bytes),
            self.threads,
            self.level,
        );
        let mut table = Table::new(&["", "GB/s"]);
        table.row(&["host: reading memory".to_owned(), self.host_read.to_string()]);
        table.row(&["host to device".to_owned(), human::number(self.upload)]);
        table.row(&["scan on the device alone".to_owned(), human::number(self.scan_on_device)]);
        for scan in &self.scans {
            table.row(&[format!("scan end to end, pages {}", scan.way), scan.rate.to_string()]);
        }
        text += &table.left(1);
        let mut table = Table::new(&["scan and settle", "CPU s/GB", "GB/s"]);
        for settle in &self.settles {
            let cells =
                [settle.who.clone(), settle.cpu_seconds_per_gb.to_string(), settle.gb_per_second.to_string()];
            table.row(&cells);
        }
        text += &format!("\n{}", table.left(1));
        let mut table =
            Table::new(&["pipeline", "memory", "bytes", "CPU only GB/s", "GPU scan GB/s", "both GB/s"]);
        for pipeline in &self.pipelines {
            let rate =
                |way| pipeline.timing(way).map_or(String::new(), |timing| timing.gb_per_second.to_string());
            table.row(&[
                pipeline.effort.to_owned(),
                pipeline.memory.to_owned(),
                human::count(pipeline.stream_bytes),
                rate(Way::CpuOnly),
                rate(Way::GpuOnly),
                rate(Way::Both),
            ]);
        }
        text + &format!("\n{}", table.left(2))
    }
}
