//! Finding an adapter: the discrete before the integrated before the others, and a reason for each that is not used.

use std::fs;
use std::path::Path;

use wgpu::{DeviceType, Limits};

use super::choice::{Adapter, AdapterKind, GpuChoice, GpuError, GpuMode, Refused};
use super::device::{Gpu, Sizes};
use super::import;

/// Bytes of workgroup memory that the scan needs.
const WORKGROUP_BYTES: u32 = 5 << 10;
/// Storage buffers of the stage that has the most.
const STORAGE_BUFFERS: u32 = 5;

/// An adapter of wgpu's with what there is to know of it.
struct Found {
    adapter: wgpu::Adapter,
    about: Adapter,
}

/// All adapters, the ones to prefer first.
fn find() -> Vec<Found> {
    let descriptor = wgpu::InstanceDescriptor {
        backends: wgpu::Backends::VULKAN,
        // No validation layers, no debug names: the drivers' own checks are what users have, too.
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    };
    let instance = wgpu::Instance::new(descriptor);
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::VULKAN));
    let mut found: Vec<Found> = adapters
        .into_iter()
        .map(|adapter| {
            let about = about(&adapter);
            Found { adapter, about }
        })
        .collect();
    found.sort_by_key(|found| found.about.kind);
    found
}

fn about(adapter: &wgpu::Adapter) -> Adapter {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let sizes = Sizes::of(&limits);
    Adapter {
        name: info.name,
        kind: match info.device_type {
            DeviceType::DiscreteGpu => AdapterKind::Discrete,
            DeviceType::IntegratedGpu => AdapterKind::Integrated,
            DeviceType::VirtualGpu => AdapterKind::Virtual,
            DeviceType::Cpu => AdapterKind::Software,
            DeviceType::Other => AdapterKind::Other,
        },
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        max_binding: sizes.binding,
        max_buffer: limits.max_buffer_size,
        batch_pages: sizes.batch_pages,
        import: import::alignment(adapter),
        unusable: unusable(&limits, &sizes),
    }
}

fn unusable(limits: &Limits, sizes: &Sizes) -> Option<String> {
    if sizes.batch_pages == 0 {
        return Some(format!("a buffer holds no more than {} bytes", sizes.binding));
    }
    let needs = [
        ("bytes of workgroup memory", limits.max_compute_workgroup_storage_size, WORKGROUP_BYTES),
        (
            "invocations a workgroup",
            limits.max_compute_invocations_per_workgroup,
            mig_shaders::SCAN.workgroup_size,
        ),
        ("storage buffers a stage", limits.max_storage_buffers_per_shader_stage, STORAGE_BUFFERS),
    ];
    let missing = needs.into_iter().find(|(_, has, needs)| has < needs);
    missing.map(|(what, has, needs)| format!("it has {has} {what}, and {needs} are needed"))
}

impl Gpu {
    /// All adapters that the system has, in the order in which they would be tried.
    pub fn adapters() -> Vec<Adapter> {
        find().into_iter().map(|found| found.about).collect()
    }

    /// Opens the adapter to scan on: the first that can be used, the discrete before the integrated. `None` where none is
    /// wanted, or none helps; why is logged.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if one is required and there is none, with what was seen.
    pub fn open(choice: &GpuChoice) -> Result<Option<Self>, GpuError> {
        if choice.mode == GpuMode::Off {
            return Ok(None);
        }
        if choice.mode == GpuMode::Auto && !hardware_in_sight(Path::new("/dev")) {
            log::info!("scanning on the CPU alone: this system shows no GPU (in /dev)");
            return Ok(None);
        }
        let mut refused = Vec::new();
        for found in find() {
            let name = found.about.name.clone();
            match try_open(found, choice) {
                Ok(gpu) => {
                    let (name, driver) = (&gpu.adapter().name, &gpu.adapter().driver);
                    log::info!("scanning on {name} ({driver}) besides the CPU");
                    return Ok(Some(gpu));
                }
                Err(why) => refused.push(Refused { adapter: name, why }),
            }
        }
        let error = if refused.is_empty() { GpuError::NoAdapter } else { GpuError::Refused(refused) };
        if choice.mode == GpuMode::Require {
            return Err(error);
        }
        log::info!("scanning on the CPU alone: {error}");
        Ok(None)
    }
}

/// Device nodes that every driver of a GPU needs one of, by how their names begin.
const NODES: [&str; 4] = ["dri/renderD", "nvidia", "kfd", "dxg"];

/// Whether there can be any adapter but a software one: without a device node there is no hardware to find, and no reason to
/// load all Vulkan drivers, with the compilers that come with them, only to find that out.
fn hardware_in_sight(dev: &Path) -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    NODES.iter().any(|node| {
        let (folder, name) =
            node.rsplit_once('/').map_or((dev.to_owned(), *node), |(at, name)| (dev.join(at), name));
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(name))
    })
}

/// # Errors
///
/// Why not, in words.
fn try_open(found: Found, choice: &GpuChoice) -> Result<Gpu, String> {
    let about = &found.about;
    let named = choice.adapter.as_deref();
    if let Some(name) = named
        && !about.name.to_lowercase().contains(&name.to_lowercase())
    {
        return Err(format!("its name does not have {name:?} in it"));
    }
    if about.kind == AdapterKind::Software && choice.mode == GpuMode::Auto {
        return Err("it is software, which is slower than the CPU's own kernels".into());
    }
    if about.kind == AdapterKind::Software && named.is_none() {
        return Err(
            "it is software, which is slower than the CPU's own kernels; name it to use it all the same"
                .into(),
        );
    }
    if let Some(why) = &about.unusable {
        return Err(why.clone());
    }
    if let (Err(why), GpuMode::Auto) = (&about.import, choice.mode) {
        return Err(format!("{why}, and copying pages to it costs the CPU as much as scanning them"));
    }
    let gpu = Gpu::from_adapter(&found.adapter, found.about, choice.mode == GpuMode::Require)?;
    gpu.self_test()?;
    Ok(gpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn nodes_tell_of_hardware() {
        let dev = tempfile::tempdir().unwrap();
        assert!(!hardware_in_sight(dev.path()));
        fs::create_dir(dev.path().join("dri")).unwrap();
        fs::write(dev.path().join("null"), "").unwrap();
        assert!(!hardware_in_sight(dev.path()));
        for node in ["dri/renderD128", "nvidia0", "kfd", "dxg"] {
            let path = dev.path().join(node);
            fs::write(&path, "").unwrap();
            assert!(hardware_in_sight(dev.path()), "{node}");
            fs::remove_file(&path).unwrap();
        }
    }
}
