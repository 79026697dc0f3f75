//! `mig devices`: which adapters there are, whether they can read guest memory where it lies, and how fast each worker scans.

use anyhow::Result;
use mig_engine::Gpu;
use mig_engine::gpu::{Adapter, ScanRate, measure_all};
use serde_json::json;

use crate::cli::DevicesArgs;
use crate::run::Run;
use mig_service::human;
use mig_service::output::print;

pub(crate) fn run(args: &DevicesArgs, run: &Run) -> Result<()> {
    let adapters = Gpu::adapters();
    if !args.json {
        print(&describe(&adapters))?;
    }
    let rates = if args.seconds > 0.0 { measure_all(args.seconds, &run.cancel)? } else { Vec::new() };
    if args.json {
        let report = json!({
            "adapters": adapters.iter().map(adapter_json).collect::<Vec<_>>(),
            "scan": rates.iter().map(rate_json).collect::<Vec<_>>(),
        });
        return print(&format!("{report:#}\n"));
    }
    print(&table(&rates))
}

fn describe(adapters: &[Adapter]) -> String {
    if adapters.is_empty() {
        let why = if cfg!(feature = "gpu") {
            "is a Vulkan driver installed?"
        } else {
            "built without the feature `gpu`"
        };
        return format!("no GPU adapters ({why})\n");
    }
    let mut text = String::new();
    for adapter in adapters {
        let import = match &adapter.import {
            Ok(alignment) => format!("memory can be imported, in multiples of {alignment} bytes"),
            Err(why) => format!("memory can't be imported: {why}"),
        };
        text += &format!(
            "{} ({}), driver {}\n  buffers of {} ({} for a shader), batches of {} pages\n  {import}\n",
            adapter.name,
            adapter.kind.name(),
            adapter.driver,
            human::bytes(adapter.max_buffer),
            human::bytes(adapter.max_binding),
            human::count(adapter.batch_pages as u64),
        );
        if let Some(why) = &adapter.unusable {
            text += &format!("  NOT USABLE: {why}\n");
        }
    }
    text
}

fn table(rates: &[ScanRate]) -> String {
    if rates.is_empty() {
        return String::new();
    }
    let mut text = "\nscan of memory, one worker of each kind:\n".to_owned();
    for rate in rates {
        let figure = match &rate.gb_per_second {
            Ok(rate) => format!("{rate:.2} GB/s"),
            Err(why) => why.clone(),
        };
        text += &format!("  {:<60} {figure:>12}\n", rate.worker);
    }
    text
}

fn adapter_json(adapter: &Adapter) -> serde_json::Value {
    json!({
        "name": adapter.name,
        "kind": adapter.kind.name(),
        "driver": adapter.driver,
        "max_buffer": adapter.max_buffer,
        "max_binding": adapter.max_binding,
        "batch_pages": adapter.batch_pages,
        "import_alignment": adapter.import.as_ref().ok(),
        "import_refused": adapter.import.as_ref().err(),
        "unusable": adapter.unusable,
    })
}

fn rate_json(rate: &ScanRate) -> serde_json::Value {
    json!({
        "worker": rate.worker,
        "gb_per_second": rate.gb_per_second.as_ref().ok(),
        "error": rate.gb_per_second.as_ref().err(),
    })
}
