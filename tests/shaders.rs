//! Level 1: every shader is valid, keeps the default limits of WebGPU, and agrees with its Rust descriptor.
//!
//! With `SINKSTREAM_WGSL_DIR` set, the composed sources are written there, for Tint.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, Module, Scalar, ScalarKind, StorageAccess, TypeInner};
use sinkstream::Error;
use sinkstream::executor::gpu::GpuExecutor;
use sinkstream::gpu::{Gpu, INTEGERS_MEMORY, MATRIX_MEMORY};
use sinkstream::kernel::{Access, Kernel, Tier, Variant};
use sinkstream::kernels::matmul::Cut;
use sinkstream::kernels::{
    ALL, attention, embed, gate_up, head_norm, linear, memory_fold, memory_read, nll, probe, project, qkv, sample,
};
use sinkstream::plan::{BufferId, Buffers, Column, ColumnsHeader, Dispatch, Plan, Purpose};
use sinkstream::quant::Layout;

/// What core WebGPU has: `unpack2x16float`, and nothing optional.
const CORE: Capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;

fn module(kernel: &Kernel) -> Module {
    module_of(kernel, Variant::Plain)
}

fn module_of(kernel: &Kernel, variant: Variant) -> Module {
    let source = kernel.source(variant, Tier::Portable);
    naga::front::wgsl::parse_str(&source).unwrap_or_else(|error| panic!("{}", error.emit_to_string(&source)))
}

/// Every composition of every kernel.
fn compositions() -> impl Iterator<Item = (&'static Kernel, Variant)> {
    ALL.into_iter().flat_map(|kernel| kernel.compositions().map(move |variant| (kernel, variant)))
}

#[test]
fn all_are_valid() {
    for (kernel, variant) in compositions() {
        let (module, source) = (module_of(kernel, variant), kernel.source(variant, Tier::Portable));
        let mut validator = Validator::new(ValidationFlags::all(), CORE);
        validator
            .validate(&module)
            .unwrap_or_else(|error| panic!("{kernel:?} {variant:?}: {}", error.emit_to_string(&source)));
        if let Some(folder) = std::env::var_os("SINKSTREAM_WGSL_DIR") {
            std::fs::create_dir_all(&folder).unwrap();
            let name = match variant {
                Variant::Plain => format!("{kernel:?}.wgsl"),
                variant => format!("{kernel:?}.{}.wgsl", format!("{variant:?}").to_lowercase()),
            };
            std::fs::write(std::path::Path::new(&folder).join(name), source).unwrap();
        }
    }
}

/// For browsers' compilers the text needs a first line that naga does not take.
#[test]
fn those_with_subgroups_are_valid_too() {
    let mut count = 0;
    for (kernel, variant) in compositions().filter(|(kernel, variant)| kernel.differs(*variant, Tier::Subgroup)) {
        let source = kernel.source(variant, Tier::Subgroup);
        let module =
            naga::front::wgsl::parse_str(&source).unwrap_or_else(|error| panic!("{}", error.emit_to_string(&source)));
        let mut validator = Validator::new(ValidationFlags::all(), CORE | Capabilities::SUBGROUP);
        validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
        validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
        validator
            .validate(&module)
            .unwrap_or_else(|error| panic!("{kernel:?} {variant:?}: {}", error.emit_to_string(&source)));
        let refused = Validator::new(ValidationFlags::all(), CORE).validate(&module);
        assert!(refused.is_err(), "{kernel:?} {variant:?} uses subgroups");
        if let Some(folder) = std::env::var_os("SINKSTREAM_WGSL_DIR") {
            let name = format!("{kernel:?}.{}.subgroup.wgsl", format!("{variant:?}").to_lowercase());
            std::fs::write(std::path::Path::new(&folder).join(name), format!("enable subgroups;\n{source}")).unwrap();
        }
        count += 1;
    }
    assert_eq!(count, 5, "qkv, linear, gate_up and both of project");
}

/// Those that browsers know nothing of: with matrices of 16 rows and of 8. No compiler of theirs sees them.
#[test]
fn those_with_cooperative_matrices_are_valid_too() {
    let mut count = 0;
    for tier in [Tier::Matrix, Tier::SmallMatrix] {
        for (kernel, variant) in compositions().filter(|(kernel, variant)| kernel.differs(*variant, tier)) {
            let source = kernel.source(variant, tier);
            let module = naga::front::wgsl::parse_str(&source);
            let module = module.unwrap_or_else(|error| panic!("{}", error.emit_to_string(&source)));
            let needed = CORE | Capabilities::SHADER_FLOAT16 | Capabilities::COOPERATIVE_MATRIX;
            Validator::new(ValidationFlags::all(), needed)
                .validate(&module)
                .unwrap_or_else(|error| panic!("{kernel:?} {tier:?}: {}", error.emit_to_string(&source)));
            for missing in [Capabilities::SHADER_FLOAT16, Capabilities::COOPERATIVE_MATRIX] {
                let refused = Validator::new(ValidationFlags::all(), needed - missing).validate(&module);
                assert!(refused.is_err(), "{kernel:?} {tier:?} uses no {missing:?}");
            }
            for (tile, buffers) in (0..3).flat_map(|tile| [(tile, 1), (tile, 2)]) {
                let constants = [("TILE", tile), ("SUBGROUP", 32), ("ROOM", buffers)];
                let bytes = workgroup_memory(&specialised(&module, needed, &constants));
                let case =
                    format!("{kernel:?} {tier:?}, tile {tile}, buffers {buffers}: {bytes} bytes of workgroup memory");
                println!("{case}");
                assert!((1..=MATRIX_MEMORY[buffers as usize - 1]).contains(&bytes), "{case}");
            }
            count += 1;
        }
    }
    assert_eq!(count, 8, "qkv, linear, gate_up and project");
}

#[test]
fn integers_fit_what_a_device_has() {
    let of_integers = |(_, variant): &(_, Variant)| matches!(variant, Variant::Integers | Variant::SplitIntegers);
    for (kernel, variant) in compositions().filter(of_integers) {
        let module = module_of(kernel, variant);
        for (invocations, most) in [(256, 16 << 10), (1024, INTEGERS_MEMORY)] {
            for (pairs, blocks) in
                [1, 31, 96, 2_048, 128_256].iter().flat_map(|&pairs| [2, 48, 256, 344].map(|blocks| (pairs, blocks)))
            {
                let Cut { lanes, workgroup, stage } = Cut::of_integers(invocations, pairs, blocks);
                let constants = [("LANES", lanes), ("WORKGROUP", workgroup), ("STAGE", stage), ("SPLITS", 8)];
                let bytes = workgroup_memory(&specialised(&module, CORE, &constants));
                assert!((1..=most).contains(&bytes), "{kernel:?}, {pairs} pairs of {blocks} blocks: {bytes} bytes");
            }
        }
    }
}

/// The shader with these constants, and 0 for the others that have no value.
fn specialised(module: &Module, needed: Capabilities, constants: &[(&str, u32)]) -> Module {
    let mut values = naga::back::PipelineConstants::default();
    for (_, constant) in module.overrides.iter().filter(|(_, constant)| constant.init.is_none()) {
        let name = constant.name.clone().unwrap();
        let value = constants.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value);
        values.insert(name, f64::from(value));
    }
    let info = Validator::new(ValidationFlags::all(), needed).validate(module).unwrap();
    let (module, _) = naga::back::pipeline_constants::process_overrides(module, &info, None, &values).unwrap();
    module.into_owned()
}

/// Bytes that the workgroups of a shader share.
fn workgroup_memory(module: &Module) -> u32 {
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    let of_workgroup = module.global_variables.iter().filter(|(_, variable)| variable.space == AddressSpace::WorkGroup);
    of_workgroup.map(|(_, variable)| layouter[variable.ty].size.next_multiple_of(16)).sum()
}

#[test]
fn what_a_variant_replaces_is_there() {
    for kernel in ALL {
        for (variant, places) in kernel.variants {
            assert!(places.iter().all(|(plain, _)| kernel.wgsl.contains(plain)), "{kernel:?} {variant:?}");
        }
    }
}

#[test]
fn bindings_are_those_of_the_descriptor() {
    for (kernel, variant) in compositions() {
        let module = module_of(kernel, variant);
        let mut found = vec![];
        for (_, variable) in module.global_variables.iter() {
            let Some(binding) = variable.binding else { continue };
            assert_eq!(binding.group, 0, "{kernel:?}");
            let access = match variable.space {
                AddressSpace::Uniform => Access::Uniform,
                AddressSpace::Storage { access } if access == StorageAccess::LOAD => Access::Read,
                AddressSpace::Storage { .. } => Access::Write,
                space => panic!("{kernel:?}: a binding in {space:?}"),
            };
            found.push((binding.binding, variable.name.clone().unwrap(), access));
        }
        found.sort_by_key(|(number, ..)| *number);
        let expected: Vec<_> =
            (0..).zip(kernel.bindings).map(|(i, binding)| (i, binding.name.to_string(), binding.access)).collect();
        assert_eq!(found, expected, "{kernel:?} {variant:?}");
    }
}

#[test]
fn default_limits_are_kept() {
    for (kernel, variant) in compositions() {
        let module = module_of(kernel, variant);
        let storage = kernel.bindings.iter().filter(|binding| binding.access != Access::Uniform).count();
        assert!(storage <= 8, "{kernel:?}: {storage} storage buffers");
        let bytes = workgroup_memory(&module);
        println!("{kernel:?} {variant:?}: {bytes} bytes of workgroup memory");
        assert!(bytes <= 16 << 10, "{kernel:?} {variant:?}: {bytes} bytes of workgroup memory");
        let [entry] = &module.entry_points[..] else { panic!("{kernel:?}: not one entry point") };
        assert_eq!(entry.name, kernel.name);
        // Where a constant sizes the workgroup it is the plans that keep it at 256: tests/families.rs.
        assert!(entry.workgroup_size.iter().product::<u32>() <= 256, "{kernel:?}: {:?}", entry.workgroup_size);
    }
}

/// A struct's fields: name, byte offset, type.
type Fields = Vec<(String, u32, String)>;

/// The fields of a Rust struct that mirrors a WGSL one.
macro_rules! fields {
    ($type:ty { $($field:ident),* }) => {{
        let value: $type = bytemuck::Zeroable::zeroed();
        let fields: Fields = vec![$((
            stringify!($field).to_string(),
            std::mem::offset_of!($type, $field) as u32,
            std::any::type_name_of_val(&value.$field).to_string(),
        )),*];
        (fields, size_of::<$type>() as u32)
    }};
}

/// The fields and size of a WGSL struct. Words that WGSL reserves end in an underscore there.
fn fields_of(kernel: &Kernel, name: &str) -> (Fields, u32) {
    let module = module(kernel);
    let (_, found) = module.types.iter().find(|(_, known)| known.name.as_deref() == Some(name)).unwrap();
    let TypeInner::Struct { members, span } = &found.inner else { panic!("{name} is no struct") };
    let fields = members.iter().map(|member| {
        let kind = match module.types[member.ty].inner {
            TypeInner::Scalar(Scalar { kind: ScalarKind::Uint, width: 4 }) => "u32".to_string(),
            TypeInner::Scalar(Scalar { kind: ScalarKind::Float, width: 4 }) => "f32".to_string(),
            ref other => format!("{other:?}"),
        };
        (member.name.clone().unwrap().trim_end_matches('_').to_string(), member.offset, kind)
    });
    (fields.collect(), *span)
}

#[test]
fn params_lie_as_in_rust() {
    let params = [
        (&embed::KERNEL, fields!(embed::Params { blocks, stride, rows, first_row, scale })),
        (
            &qkv::KERNEL,
            fields!(qkv::Params {
                n_heads,
                n_kv_heads,
                head_dim,
                rotary_dim,
                halves,
                first_pair,
                pairs,
                other_pair,
                blocks,
                stride,
                dim,
                eps,
                added,
                scale,
                rope_scale,
                limit,
                slots,
                columns
            }),
        ),
        (
            &head_norm::KERNEL,
            fields!(head_norm::Params {
                n_heads,
                n_kv_heads,
                head_dim,
                rotary_dim,
                halves,
                stride,
                eps,
                scale,
                rope_scale,
                slots,
                columns
            }),
        ),
        (
            &attention::KERNEL,
            fields!(attention::Params { n_heads, n_kv_heads, heads, half, slots, columns, stride, reach, cap }),
        ),
        (
            &memory_read::KERNEL,
            fields!(memory_read::Params { n_heads, n_kv_heads, half, slots, columns, stride, segment, copies }),
        ),
        (&memory_fold::KERNEL, fields!(memory_fold::Params { n_kv_heads, half, slots, segment, copies, delta })),
        (
            &project::KERNEL,
            fields!(project::Params { rows, blocks, in_stride, out_stride, n_heads, half, columns, left, added, eps }),
        ),
        (&gate_up::KERNEL, fields!(gate_up::Params { ffn_dim, blocks, in_stride, out_stride, dim, eps, added })),
        (
            &linear::KERNEL,
            fields!(linear::Params { rows, other_row, first_row, blocks, in_stride, out_stride, dim, eps, added, cap }),
        ),
        (&nll::KERNEL, fields!(nll::Params { vocab_size, stride })),
        (&sample::KERNEL, fields!(sample::Params { vocab_size, stride, slots })),
        (&probe::KERNEL, fields!(probe::Params { vectors })),
    ];
    assert_eq!(params.len(), ALL.len());
    for (kernel, expected) in params {
        assert_eq!(fields_of(kernel, "Params"), expected, "Params of {kernel:?}");
    }
}

#[test]
fn columns_and_settings_lie_as_in_rust() {
    let column = fields!(Column { token, position, slot, cached, sinks, capacity, lane, target });
    let settings =
        fields!(sample::Settings { temperature, top_k, top_p, ln_min_p, repeat_penalty, repeat_last_n, seed, wanted });
    for kernel in ALL.into_iter().filter(|kernel| kernel.name != "probe") {
        assert_eq!(fields_of(kernel, "Column"), column, "{kernel:?}");
        let (fields, size) = fields_of(kernel, "Columns");
        assert_eq!(fields[0], ("active".into(), std::mem::offset_of!(ColumnsHeader, active) as u32, "u32".into()));
        let (name, offset, _) = fields.last().unwrap();
        assert_eq!((name.as_str(), *offset), ("column", size_of::<ColumnsHeader>() as u32));
        assert_eq!(
            size,
            (size_of::<ColumnsHeader>() + sinkstream::plan::MAX_COLUMNS as usize * size_of::<Column>()) as u32
        );
    }
    assert_eq!(fields_of(&sample::KERNEL, "Settings"), settings);
}

#[test]
fn shaders_come_without_their_comments() {
    for (kernel, variant) in compositions() {
        let source = kernel.source(variant, Tier::Portable);
        assert!(!source.contains("//"), "{kernel:?}");
        let bindings = source.lines().filter(|line| line.contains("@binding(")).count();
        assert_eq!(bindings, kernel.bindings.len(), "{kernel:?}: one binding a line");
    }
}

/// A device that checks everything and computes nothing, with the default limits.
fn noop() -> (wgpu::Device, Gpu) {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    assert_eq!(device.limits().max_storage_buffers_per_shader_stage, 8);
    let info = device.adapter_info();
    (device.clone(), Gpu::new(device, queue, info))
}

/// The kernel with buffers of one size for all bindings and these constants, of those that it has.
fn dispatch(kernel: &'static Kernel, buffers: &mut Buffers, bytes: u64, constants: &[(&'static str, u32)]) -> Dispatch {
    dispatch_of(kernel, Variant::Plain, buffers, bytes, constants)
}

fn dispatch_of(
    kernel: &'static Kernel,
    variant: Variant,
    buffers: &mut Buffers,
    bytes: u64,
    constants: &[(&'static str, u32)],
) -> Dispatch {
    let module = module_of(kernel, variant);
    let has = |name: &str| module.overrides.iter().any(|(_, known)| known.name.as_deref() == Some(name));
    Dispatch {
        kernel,
        variant,
        label: kernel.name.into(),
        params: vec![0; 80],
        buffers: kernel.bindings[1..].iter().map(|binding| buffers.add(binding.name, bytes, Purpose::Work)).collect(),
        overrides: constants.iter().filter(|(name, _)| has(name)).copied().collect(),
        workgroups: [1, 1, 1],
    }
}

fn plan(dispatches: Vec<Dispatch>) -> Plan {
    Plan { name: "test".into(), columns: 1, dispatches }
}

#[test]
fn all_pipelines_can_be_built() {
    let (_, gpu) = noop();
    let mut buffers = Buffers::default();
    let mut dispatches = vec![];
    for (kernel, variant) in compositions() {
        for layout in 0..Layout::ALL.len() as u32 {
            for (lanes, columns, cache) in [(1, 1, 0), (1, 8, 1), (4, 7, 0), (16, 1, 1), (16, 8, 0), (64, 2, 1)] {
                let (flag, activation) = (layout % 2, layout % 4);
                let constants = [
                    ("LAYOUT", layout),
                    ("LANES", lanes),
                    ("COLUMNS", columns),
                    ("CACHE_F32", cache),
                    ("MEMORY", flag),
                    ("LAYER_NORM", flag),
                    ("BIAS", flag),
                    ("ACTIVATION", activation),
                    (
                        "WORKGROUP",
                        if variant == Variant::Split { 256.min(512 / columns.next_power_of_two()) } else { 64 },
                    ),
                    ("SPLITS", 2 + layout),
                    ("STAGE", 32),
                    ("HEADS", 1 + layout % 8),
                    ("INVOCATIONS", if layout % 8 < attention::WIDE_HEADS { 256 } else { 128 }),
                    ("WORDS", 4 * lanes.min(32)),
                    ("FOURS", 2 << (layout % 3)),
                ];
                dispatches.push(dispatch_of(kernel, variant, &mut buffers, 1 << 15, &constants));
            }
        }
    }
    let count = dispatches.len() as u64;
    pollster::block_on(async {
        let mut executor = GpuExecutor::new(gpu, &buffers, vec![plan(vec![]), plan(dispatches)]).await.unwrap();
        executor.run(1, 3).unwrap();
        executor.run(0, 1).unwrap();
        assert_eq!((executor.counts().dispatches, executor.counts().submits), (3 * count, 2));
        let of_buffers = buffers.bytes(Purpose::Work);
        assert!(executor.bytes() >= of_buffers + 256 * count, "{} of {of_buffers}", executor.bytes());
    });
}

/// What the executor says to one dispatch with buffers of so many bytes.
fn refusal(bytes: u64, change: impl FnOnce(&mut Dispatch)) -> Error {
    let (_, gpu) = noop();
    let mut buffers = Buffers::default();
    let mut dispatch =
        dispatch(&project::KERNEL, &mut buffers, bytes, &[("LAYOUT", 3), ("LANES", 1), ("COLUMNS", 1), ("BIAS", 0)]);
    change(&mut dispatch);
    let executor = pollster::block_on(GpuExecutor::new(gpu, &buffers, vec![plan(vec![dispatch])]));
    executor.expect_err("refused")
}

#[test]
fn refuses_with_numbers_what_does_not_fit() {
    let text = |error: Error| match error {
        Error::DoesNotFit(text) => text,
        error => panic!("{error:?}"),
    };
    let too_large = text(refusal(257 << 20, |_| {}));
    assert!(too_large.contains("269484032") && too_large.contains("268435456"), "{too_large}");
    let too_large = text(refusal(1 << 17, |_| {})); // the columns are a uniform
    assert!(
        too_large.contains("columns") && too_large.contains("131072") && too_large.contains("65536"),
        "{too_large}"
    );
    let too_many = text(refusal(1 << 15, |dispatch| dispatch.workgroups[0] = 65_536));
    assert!(too_many.contains("65536") && too_many.contains("65535"), "{too_many}");
}

#[test]
fn says_what_the_device_refuses() {
    let unbound = refusal(1 << 15, |dispatch| dispatch.buffers.truncate(2));
    assert!(matches!(&unbound, Error::Gpu(text) if text.contains("project")), "{unbound:?}");
}

#[test]
fn notices_that_the_device_is_lost() {
    let (device, gpu) = noop();
    let mut buffers = Buffers::default();
    let constants = [("LAYOUT", 3), ("LANES", 1), ("COLUMNS", 1), ("BIAS", 0)];
    let dispatch = dispatch(&project::KERNEL, &mut buffers, 1 << 15, &constants);
    pollster::block_on(async {
        let mut executor = GpuExecutor::new(gpu, &buffers, vec![plan(vec![dispatch])]).await.unwrap();
        executor.run(0, 1).unwrap();
        device.destroy();
        device.poll(wgpu::PollType::Poll).unwrap();
        assert!(matches!(executor.run(0, 1), Err(Error::DeviceLost(_))));
        assert!(matches!(executor.write(BufferId(0), 0, &[0; 4]), Err(Error::DeviceLost(_))));
        assert!(matches!(executor.read(BufferId(0), 0, &mut [0; 4]).await, Err(Error::DeviceLost(_))));
    });
}
