//! What is compiled for a device: once for each composition of a kernel and each set of constants.

use crate::gpu::{Gpu, MATRIX_MEMORY};
use crate::kernel::{Access, Kernel, Tier, Variant};
use crate::plan::Dispatch;
use crate::platform;

/// Shader modules, one for each composition of a kernel, and pipelines, one for each of those and set of constants.
#[derive(Debug, Default)]
pub(crate) struct Pipelines {
    modules: Vec<(Composition, wgpu::ShaderModule, wgpu::PipelineLayout)>,
    pipelines: Vec<(Composition, Constants, wgpu::ComputePipeline)>,
}

type Composition = (&'static str, Variant);
type Constants = Vec<(&'static str, u32)>;

impl Pipelines {
    pub(super) fn get(&mut self, gpu: &Gpu, dispatch: &Dispatch) -> wgpu::ComputePipeline {
        let (device, tier) = (&gpu.device, gpu.tier());
        let Dispatch { kernel, variant, overrides, .. } = dispatch;
        let composition = (kernel.name, *variant);
        let known = self.pipelines.iter().find(|(of, constants, _)| *of == composition && constants == overrides);
        if let Some((_, _, pipeline)) = known {
            return pipeline.clone();
        }
        if !self.modules.iter().any(|(of, _, _)| *of == composition) {
            self.modules.push((composition, module(gpu, kernel, *variant), layout(device, kernel)));
        }
        let (_, module, layout) = self.modules.iter().find(|(of, _, _)| *of == composition).expect("compiled just now");
        let mut constants: Vec<_> = overrides.iter().map(|(name, value)| (*name, f64::from(*value))).collect();
        if kernel.differs(*variant, tier) {
            let info = gpu.info();
            let size = if tier == Tier::Subgroup { info.subgroup_min_size } else { info.subgroup_max_size };
            constants.push(("SUBGROUP", f64::from(size)));
            if tier != Tier::Subgroup {
                let has_two = device.limits().max_compute_workgroup_storage_size >= MATRIX_MEMORY[1];
                constants.push(("ROOM", if has_two { 2.0 } else { 1.0 }));
            }
        }
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(layout),
            module,
            entry_point: Some(kernel.name),
            // The kernels write what they read of workgroup memory.
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        self.pipelines.push((composition, overrides.clone(), pipeline.clone()));
        pipeline
    }
}

/// Without run-time checks on real GPUs: the counters that end every loop keep drivers from unrolling it.
fn module(gpu: &Gpu, kernel: &Kernel, variant: Variant) -> wgpu::ShaderModule {
    let source = wgpu::ShaderSource::Wgsl(kernel.source(variant, gpu.tier()).into());
    let descriptor = wgpu::ShaderModuleDescriptor { label: Some(kernel.name), source };
    if gpu.is_software() {
        gpu.device.create_shader_module(descriptor)
    } else {
        platform::trusted_module(&gpu.device, gpu.info().backend, descriptor)
    }
}

/// The layout that the kernel's descriptor gives. An automatic one would depend on what the constants leave in use.
fn layout(device: &wgpu::Device, kernel: &Kernel) -> wgpu::PipelineLayout {
    let entry = |(number, binding): (u32, &crate::kernel::Binding)| wgpu::BindGroupLayoutEntry {
        binding: number,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match binding.access {
                Access::Uniform => wgpu::BufferBindingType::Uniform,
                Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
                Access::Write => wgpu::BufferBindingType::Storage { read_only: false },
            },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let entries: Vec<_> = (0..).zip(kernel.bindings).map(entry).collect();
    let group = device
        .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(kernel.name), entries: &entries });
    device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(kernel.name),
        bind_group_layouts: &[Some(&group)],
        immediate_size: 0,
    })
}
