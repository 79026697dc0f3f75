//! The pipelines of all stages, made from what `mig-shaders` says of them.

use mig_shaders::{Access, Dispatch, SHADERS, Shader};
use wgpu::{
    BindGroupDescriptor, BindGroupEntry, BindGroupLayoutDescriptor, BindGroupLayoutEntry, BindingResource,
    BindingType, BufferBinding, BufferBindingType, BufferSize, BufferUsages, MapMode, ShaderStages,
};

use super::device::Inner;
use super::fault::Fault;

/// Bytes between two [`Dispatch`]es in the buffer of uniforms: the coarsest alignment that an adapter may ask for.
pub(super) const UNIFORM_STRIDE: u32 = 256;

/// One stage, ready to run.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) shader: &'static Shader,
    layout: wgpu::BindGroupLayout,
    pipeline: wgpu::ComputePipeline,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Stages(Vec<Stage>);

impl Stages {
    pub(super) fn new(device: &wgpu::Device) -> Self {
        Stages(SHADERS.iter().map(|shader| Stage::new(device, shader)).collect())
    }

    /// The stage of a shader.
    pub(super) fn get(&self, shader: &'static Shader) -> &Stage {
        let found = self.0.iter().find(|stage| stage.shader.name == shader.name);
        found.expect("every shader is in the list")
    }
}

impl Stage {
    fn new(device: &wgpu::Device, shader: &'static Shader) -> Self {
        let entries: Vec<BindGroupLayoutEntry> = (0..)
            .zip(shader.bindings)
            .map(|(binding, buffer)| BindGroupLayoutEntry {
                binding,
                visibility: ShaderStages::COMPUTE,
                ty: BindingType::Buffer {
                    ty: match buffer.access {
                        Access::Uniform => BufferBindingType::Uniform,
                        Access::ReadOnly => BufferBindingType::Storage { read_only: true },
                        Access::ReadWrite => BufferBindingType::Storage { read_only: false },
                    },
                    has_dynamic_offset: buffer.access == Access::Uniform,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let label = Some(shader.name);
        let layout = device.create_bind_group_layout(&BindGroupLayoutDescriptor { label, entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let source = wgpu::ShaderSource::Wgsl(shader.source.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(shader.name),
            compilation_options: Default::default(),
            cache: None,
        });
        Stage { shader, layout, pipeline }
    }

    /// The stage's buffers in the order of its bindings, the first being that of the uniforms.
    pub(super) fn bind(&self, device: &wgpu::Device, buffers: &[&wgpu::Buffer]) -> wgpu::BindGroup {
        assert_eq!(
            buffers.len(),
            self.shader.bindings.len(),
            "{}: as many buffers as bindings",
            self.shader.name
        );
        let entries: Vec<BindGroupEntry<'_>> = (0..)
            .zip(buffers.iter().zip(self.shader.bindings))
            .map(|(binding, (buffer, kind))| {
                let size = (kind.access == Access::Uniform)
                    .then(|| BufferSize::new(size_of::<Dispatch>() as u64))
                    .flatten();
                let resource = BindingResource::Buffer(BufferBinding { buffer, offset: 0, size });
                BindGroupEntry { binding, resource }
            })
            .collect();
        let (label, layout) = (Some(self.shader.name), &self.layout);
        device.create_bind_group(&BindGroupDescriptor { label, layout, entries: &entries })
    }

    /// Has the stage run over the pages of the `uniform`th dispatch, `pages` in number.
    pub(super) fn run(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        group: &wgpu::BindGroup,
        uniform: usize,
        pages: u32,
    ) {
        // The scan takes a workgroup for a page, the others an invocation.
        let a_page = if self.shader.name == mig_shaders::SCAN.name { 1 } else { self.shader.workgroup_size };
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, group, &[uniform as u32 * UNIFORM_STRIDE]);
        pass.dispatch_workgroups(pages.div_ceil(a_page), 1, 1);
    }
}

/// The buffer of uniforms with these dispatches in it.
pub(super) fn uniforms(dispatches: &[Dispatch]) -> Vec<u8> {
    let mut bytes = vec![0; dispatches.len() * UNIFORM_STRIDE as usize];
    for (dispatch, place) in dispatches.iter().zip(bytes.chunks_exact_mut(UNIFORM_STRIDE as usize)) {
        place[..size_of::<Dispatch>()].copy_from_slice(bytemuck::bytes_of(dispatch));
    }
    bytes
}

/// Runs one stage by itself: `buffers` are what it is given after the uniform, and those that it writes are what it left.
pub(super) fn run_once(
    gpu: &Inner,
    shader: &'static Shader,
    dispatch: Dispatch,
    buffers: &mut [Vec<u8>],
) -> Result<(), Fault> {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
    let uniform =
        gpu.buffer("dispatch", UNIFORM_STRIDE.into(), BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;
    let mut on_device = Vec::new();
    let mut back = Vec::new();
    for bytes in &*buffers {
        on_device.push(gpu.buffer("input", bytes.len() as u64, usage)?);
        back.push(gpu.buffer(
            "output",
            bytes.len() as u64,
            BufferUsages::MAP_READ | BufferUsages::COPY_DST,
        )?);
    }
    let submission = gpu.checked(|| {
        gpu.queue.write_buffer(&uniform, 0, &uniforms(&[dispatch]));
        for (buffer, bytes) in on_device.iter().zip(&*buffers) {
            gpu.queue.write_buffer(buffer, 0, bytes);
        }
        let all: Vec<&wgpu::Buffer> = std::iter::once(&uniform).chain(&on_device).collect();
        let stage = gpu.stages.get(shader);
        let group = stage.bind(&gpu.device, &all);
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        stage.run(&mut pass, &group, 0, dispatch.end - dispatch.first);
        drop(pass);
        for (from, to) in on_device.iter().zip(&back) {
            encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
        }
        let submission = gpu.queue.submit([encoder.finish()]);
        back.iter().for_each(|buffer| buffer.map_async(MapMode::Read, .., |_| {}));
        submission
    })?;
    gpu.wait(submission)?;
    for ((buffer, bytes), binding) in back.iter().zip(buffers).zip(&shader.bindings[1..]) {
        if binding.access == Access::ReadWrite {
            let view = buffer.get_mapped_range(..).map_err(|error| Fault::Map(error.to_string()))?;
            let len = bytes.len();
            bytes.copy_from_slice(&view[..len]);
        }
    }
    Ok(())
}
