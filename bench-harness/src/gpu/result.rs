//! The `result` of a `gpu` report, and how it is printed.

use anyhow::{Context, Result};
use mig_engine::Gpu;
use mig_engine::gpu::Imported;
use serde::Serialize;

use super::host::Guest;
use crate::human;
use crate::measure::{Cost, Samples, Timing};
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
    /// What it does with imported memory, where it imports any.
    pub(super) imported: Option<InPlace>,
    pub(super) scans: Vec<Scan>,
    /// The same and settling, block by block.
    pub(super) settles: Vec<Scan>,
    pub(super) pipelines: Vec<Pipeline>,
}

/// Memory that the device reads where it lies, in GB/s.
#[derive(Debug, Serialize)]
pub(super) struct InPlace {
    /// Pinned for the device, and let go of.
    pub(super) pinning: f64,
    /// Scanned in place.
    pub(super) scan: f64,
}

/// How a device gets at the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Memory {
    /// Imported before the clock starts, and for as long as is measured.
    Imported,
    /// Held, so that it can be imported, which is part of what is measured.
    Held,
    /// Not held, so that it must be copied.
    Copied,
}

impl Memory {
    pub(super) fn name(self) -> &'static str {
        match self {
            Memory::Imported => "imported before",
            Memory::Held => "imported",
            Memory::Copied => "copied",
        }
    }

    /// The guest in such memory, and what keeps it imported.
    pub(super) fn of(self, guest: &Guest, gpu: &Gpu) -> Result<(Guest, Option<Imported>)> {
        let guest = guest.held(self != Memory::Copied);
        let imported = (self == Memory::Imported).then(|| gpu.import(&guest, u64::MAX)).transpose();
        Ok((guest, imported.context("the device failed")?))
    }
}

/// A scan from memory to records in memory.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Scan {
    /// A SIMD level, or the GPU.
    pub(super) who: String,
    /// For the GPU.
    pub(super) memory: Option<Memory>,
    /// GB/s.
    pub(super) rate: Samples,
    pub(super) cpu_seconds_per_gb: Samples,
}

impl Scan {
    pub(super) fn new(who: String, memory: Option<Memory>, bytes: usize, costs: &[Cost]) -> Result<Self> {
        let gigabytes = bytes as f64 / 1e9;
        let samples = |value: &dyn Fn(&Cost) -> f64| {
            Samples::new(costs.iter().map(value)).context("it took no time at all")
        };
        let rate = samples(&|cost| gigabytes / cost.wall)?;
        Ok(Scan { who, memory, rate, cpu_seconds_per_gb: samples(&|cost| cost.cpu / gigabytes)? })
    }
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
    pub(super) memory: Memory,
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
        if let Some(imported) = &self.imported {
            table.row(&["pinning memory for the device".to_owned(), human::number(imported.pinning)]);
            table.row(&["scanning pinned memory in place".to_owned(), human::number(imported.scan)]);
        }
        text += &table.left(1);
        for (what, scans) in [("scan, end to end", &self.scans), ("scan and settle", &self.settles)] {
            let mut table = Table::new(&[what, "CPU s/GB", "GB/s"]);
            for scan in scans {
                table.row(&[scan.who.clone(), scan.cpu_seconds_per_gb.to_string(), scan.rate.to_string()]);
            }
            text += &format!("\n{}", table.left(1));
        }
        let mut table = Table::new(&[
            "pipeline",
            "memory",
            "bytes",
            "CPU only GB/s",
            "GPU scan GB/s",
            "both GB/s",
            "CPU only s/GB",
            "both s/GB",
        ]);
        for pipeline in &self.pipelines {
            let rate =
                |way| pipeline.timing(way).map_or(String::new(), |timing| timing.gb_per_second.to_string());
            let seconds = |way| {
                let seconds = pipeline.timing(way).map(|timing| timing.cpu_seconds.median());
                seconds
                    .map_or(String::new(), |seconds| human::number(seconds / self.memory_bytes as f64 * 1e9))
            };
            table.row(&[
                pipeline.effort.to_owned(),
                pipeline.memory.name().to_owned(),
                human::count(pipeline.stream_bytes),
                rate(Way::CpuOnly),
                rate(Way::GpuOnly),
                rate(Way::Both),
                seconds(Way::CpuOnly),
                seconds(Way::Both),
            ]);
        }
        text + &format!("\n{}", table.left(2))
    }
}
