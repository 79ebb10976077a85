//! The GPU: adapters, device and limits; remembers the first error that nobody asked for and the loss of the device.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::engine::Device;
use crate::error::{Error, Result};
use crate::executor::gpu::{Pipelines, TIMESTAMPS};
use crate::kernel::Tier;
use crate::platform;
use crate::tuning::{INVOCATIONS, Tuning};

/// All adapters of this machine, best first: discrete, integrated, others, software last. In a browser the one it offers.
pub async fn adapters() -> Vec<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => 2,
        wgpu::DeviceType::Cpu => 3,
    });
    adapters
}

/// Whether the adapter is software (llvmpipe, SwiftShader, WARP): slower than the CPU executor.
pub fn is_software(adapter: &wgpu::Adapter) -> bool {
    adapter.get_info().device_type == wgpu::DeviceType::Cpu
}

/// Most bytes that a dispatch can bind of one buffer; on the CPU there is no such limit.
pub fn binding_bytes(gpu: Option<&Gpu>) -> u64 {
    let limits = gpu.map(|gpu| gpu.device.limits());
    limits.map_or(u64::MAX, |limits| limits.max_storage_buffer_binding_size.min(limits.max_buffer_size))
}

/// What wgpu knows of an adapter, for reports.
pub fn describe(index: usize, adapter: &wgpu::Adapter) -> Value {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    json!({
        "index": index,
        "name": info.name,
        "backend": info.backend.to_string(),
        "driver": format!("{} {}", info.driver, info.driver_info).trim(),
        "type": format!("{:?}", info.device_type),
        "tier": Tier::default().name(),
        "tiers": Tier::ALL
            .into_iter()
            .filter(|tier| resolve(*tier, adapter.features(), matrix_tier(adapter)).is_some())
            .map(Tier::name)
            .collect::<Vec<_>>(),
        "features": FEATURES.into_iter().filter(|(_, feature)| adapter.features().contains(*feature)).map(|(name, _)| name).collect::<Vec<_>>(),
        "limits": {
            "max_buffer_size": limits.max_buffer_size,
            "max_storage_buffer_binding_size": limits.max_storage_buffer_binding_size,
            "max_storage_buffers_per_shader_stage": limits.max_storage_buffers_per_shader_stage,
            "max_compute_invocations_per_workgroup": limits.max_compute_invocations_per_workgroup,
            "max_compute_workgroup_storage_size": limits.max_compute_workgroup_storage_size,
        },
    })
}

/// A tier as it runs where there are these features and this of the two tiers `matrix`; `None` if it does not.
fn resolve(tier: Tier, features: wgpu::Features, matrix: Option<Tier>) -> Option<Tier> {
    match tier {
        Tier::Portable => Some(tier),
        Tier::Subgroup => features.contains(wgpu::Features::SUBGROUP).then_some(tier),
        Tier::Matrix | Tier::SmallMatrix => matrix,
    }
}

/// What the tier `matrix` asks of a device.
const MATRIX: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16);
/// Bytes of workgroup memory that it takes at most, with one buffer of operands and with two.
pub const MATRIX_MEMORY: [u32; 2] = [32 << 10, 48 << 10];
/// Bytes of it that the largest workgroups of `shaders/shared/matvec_integers.wgsl` take at most.
pub const INTEGERS_MEMORY: u32 = 48 << 10;

/// Whether products with integers run on an adapter. Not but on Vulkan: neighbours write components of one vector, which
/// Metal and Direct3D may do by writing the whole.
fn has_integers(info: &wgpu::AdapterInfo) -> bool {
    !platform::MATVEC_INTEGERS.is_empty() && info.backend == wgpu::Backend::Vulkan
}

/// Invocations of a workgroup that it takes at most: eight subgroups.
fn matrix_invocations(adapter: &wgpu::Adapter) -> u32 {
    8 * adapter.get_info().subgroup_max_size.max(32)
}

/// The tier `matrix` as an adapter runs it: by the largest matrices of f16 with f32 sums; `None` if it has none.
fn matrix_tier(adapter: &wgpu::Adapter) -> Option<Tier> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let kinds = adapter.cooperative_matrix_properties();
    let is_able = adapter.features().contains(MATRIX)
        && adapter.limits().max_compute_workgroup_storage_size >= MATRIX_MEMORY[0]
        && adapter.limits().max_compute_invocations_per_workgroup >= matrix_invocations(adapter)
        && adapter.limits().max_compute_workgroup_size_x >= matrix_invocations(adapter)
        && (8..=64).contains(&adapter.get_info().subgroup_max_size);
    let has = |size: u32| {
        let fits = |kind: &wgpu::CooperativeMatrixProperties| {
            [kind.m_size, kind.n_size, kind.k_size] == [size; 3] && (kind.ab_type, kind.cr_type) == (F16, F32)
        };
        is_able && kinds.iter().any(fits)
    };
    [(16, Tier::Matrix), (8, Tier::SmallMatrix)].into_iter().find(|(size, _)| has(*size)).map(|(_, tier)| tier)
}

/// The features that faster tiers ask for, or may.
const FEATURES: [(&str, wgpu::Features); 4] = [
    ("shader-f16", wgpu::Features::SHADER_F16),
    ("subgroups", wgpu::Features::SUBGROUP),
    ("timestamp-query", wgpu::Features::TIMESTAMP_QUERY),
    ("cooperative-matrix", wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
];

/// An open device. Clones share it, and what was compiled for it.
#[derive(Clone, Debug)]
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    tier: Tier,
    /// Which of the two tiers `matrix` it runs, if any.
    matrix: Option<Tier>,
    pub(crate) pipelines: Arc<Mutex<Pipelines>>,
    faults: Arc<Mutex<Faults>>,
    /// If it was opened here.
    _opened: Option<Arc<Opened>>,
}

/// Gives a device up with the last of its users: a browser would free its buffers only when it collects them.
#[derive(Debug)]
struct Opened(wgpu::Device);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

/// What went wrong behind our back.
#[derive(Debug, Default)]
struct Faults {
    /// Why the device was lost, or is as good as lost.
    lost: Option<String>,
    /// The first error outside every error scope.
    error: Option<String>,
}

impl Gpu {
    /// The GPU to run on; `None` for the CPU executor.
    ///
    /// # Errors
    /// [`Error::NoGpu`].
    pub async fn choose(device: &Device) -> Result<Option<Self>> {
        let adapters = match device {
            Device::Cpu => return Ok(None),
            Device::Open(gpu) => return Ok(Some(Self::clone(gpu))),
            _ => adapters().await,
        };
        let names = || adapters.iter().map(|adapter| adapter.get_info().name).collect::<Vec<_>>().join(", ");
        let chosen = match device {
            Device::Auto => match adapters.first().filter(|adapter| !is_software(adapter)) {
                None => return Ok(None),
                real => real,
            },
            Device::Named(wanted) => match wanted.parse::<usize>() {
                Ok(number) => adapters.get(number),
                Err(_) => adapters
                    .iter()
                    .find(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted.to_lowercase())),
            },
            Device::Gpu | Device::Cpu | Device::Open(_) => adapters.first(),
        };
        match (chosen, device) {
            (Some(adapter), _) => Ok(Some(Self::open(adapter).await?)),
            (None, Device::Named(wanted)) => {
                Err(Error::NoGpu(format!("no adapter {wanted:?}; there are: [{}]", names())))
            }
            (None, _) => Err(Error::NoGpu("no adapter found; --device cpu runs without one".into())),
        }
    }

    /// Opens a device: the default limits of WebGPU, but buffers and bindings as large as the adapter takes, and workgroups and
    /// their memory as products with integers and the tier `matrix` want them.
    ///
    /// # Errors
    /// [`Error::NoGpu`] if the adapter gives no such device.
    pub async fn open(adapter: &wgpu::Adapter) -> Result<Self> {
        let matrix = matrix_tier(adapter);
        match Self::open_for(adapter, matrix).await {
            Err(_) if matrix.is_some() => Self::open_for(adapter, None).await, // what is experimental is not needed
            opened => opened,
        }
    }

    async fn open_for(adapter: &wgpu::Adapter, matrix: Option<Tier>) -> Result<Self> {
        let info = adapter.get_info();
        let most = adapter.limits();
        let defaults = wgpu::Limits::defaults();
        let of_matrix = matrix.map_or([0; 2], |_| [MATRIX_MEMORY[1], matrix_invocations(adapter)]);
        let of_integers = if has_integers(&info) { [INTEGERS_MEMORY, INVOCATIONS[1]] } else { [0; 2] };
        let [memory, invocations] = [0, 1].map(|i| of_matrix[i].max(of_integers[i]));
        let required_limits = wgpu::Limits {
            max_compute_workgroup_storage_size: defaults
                .max_compute_workgroup_storage_size
                .max(memory.min(most.max_compute_workgroup_storage_size)),
            max_compute_invocations_per_workgroup: defaults
                .max_compute_invocations_per_workgroup
                .max(invocations.min(most.max_compute_invocations_per_workgroup)),
            max_compute_workgroup_size_x: defaults
                .max_compute_workgroup_size_x
                .max(invocations.min(most.max_compute_workgroup_size_x)),
            max_buffer_size: most.max_buffer_size.max(defaults.max_buffer_size),
            max_storage_buffer_binding_size: most
                .max_storage_buffer_binding_size
                .max(defaults.max_storage_buffer_binding_size),
            ..defaults
        };
        let has_timestamps = adapter.features().contains(TIMESTAMPS);
        let timestamps = if has_timestamps { TIMESTAMPS } else { wgpu::Features::empty() };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("sinkstream"),
            required_features: timestamps
                | adapter.features() & wgpu::Features::SUBGROUP
                | if matrix.is_some() { MATRIX } else { wgpu::Features::empty() },
            experimental_features: match matrix {
                Some(_) => platform::experimental(),
                None => wgpu::ExperimentalFeatures::disabled(),
            },
            required_limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage, // everything is allocated once
            ..Default::default()
        };
        let opened = adapter.request_device(&descriptor).await;
        let (device, queue) = opened.map_err(|error| Error::NoGpu(format!("{}: {error}", info.name)))?;
        #[allow(clippy::arc_with_non_send_sync, reason = "in browsers alone, which run this on one thread")]
        let _opened = Some(Arc::new(Opened(device.clone())));
        Ok(Self { matrix, _opened, ..Self::new(device, queue, info) })
    }

    /// The same adapter with a new device, after this one was lost.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if it has gone, [`Error::NoGpu`] if it gives no device.
    pub(crate) async fn reopen(&self) -> Result<Self> {
        let known = |info: &wgpu::AdapterInfo| (info.name.clone(), info.backend, info.vendor, info.device);
        let adapters = adapters().await;
        let same = adapters.iter().find(|adapter| known(&adapter.get_info()) == known(&self.info));
        let same = same.ok_or_else(|| Error::DeviceLost(format!("{} has gone", self.adapter())))?;
        Self::open(same).await?.at(self.tier)
    }

    /// Takes a device, whoever opened it.
    pub fn new(device: wgpu::Device, queue: wgpu::Queue, info: wgpu::AdapterInfo) -> Self {
        let faults = Arc::new(Mutex::new(Faults::default()));
        let seen = Arc::clone(&faults);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let mut faults = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let fault = match error {
                // Something that was asked for is not there, and what needed it was not done.
                wgpu::Error::OutOfMemory { .. } => &mut faults.lost,
                _ => &mut faults.error,
            };
            fault.get_or_insert_with(|| error.to_string());
        }));
        let seen = Arc::clone(&faults);
        device.set_device_lost_callback(move |reason, message| {
            let mut faults = seen.lock().unwrap_or_else(PoisonError::into_inner);
            faults.lost.get_or_insert_with(|| format!("{reason:?} {message}"));
        });
        Self {
            device,
            queue,
            info,
            tier: Tier::default(),
            matrix: None,
            pipelines: Arc::default(),
            faults,
            _opened: None,
        }
    }

    /// The same device in another tier, with pipelines of its own.
    ///
    /// # Errors
    /// [`Error::NoGpu`] if the device has not what the tier needs.
    pub fn at(self, tier: Tier) -> Result<Self> {
        let Some(tier) = resolve(tier, self.device.features(), self.matrix) else {
            let needed = if tier == Tier::Subgroup { "subgroups" } else { "cooperative matrices of f16 with f32 sums" };
            let (name, tier) = (self.adapter(), tier.name());
            return Err(Error::NoGpu(format!(
                "{name} cannot run the tier {tier}: it has no {needed}; --tier portable runs everywhere"
            )));
        };
        Ok(if tier == self.tier { self } else { Self { tier, pipelines: Arc::default(), ..self } })
    }

    /// Its tier.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Gives the device up with everything on it. To those who still work on it, it is lost.
    pub fn destroy(&self) {
        self.device.destroy();
    }

    /// The adapter's name, backend and driver.
    pub fn adapter(&self) -> String {
        let wgpu::AdapterInfo { name, backend, driver, driver_info, .. } = &self.info;
        let name = if name.is_empty() { "unnamed adapter" } else { name };
        match format!("{driver} {driver_info}").trim() {
            "" => format!("{name} ({backend})"),
            driver => format!("{name} ({backend}, {driver})"),
        }
    }

    /// What wgpu knows of the adapter.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }

    /// Whether the device is software; see [`is_software`].
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// Those that the device was opened with.
    pub fn limits(&self) -> wgpu::Limits {
        self.device.limits()
    }

    /// Invocations of a workgroup of products with integers, at most; 0 if there are none. See [`Tuning::invocations`].
    pub fn invocations(&self) -> u32 {
        let limits = self.limits();
        let [few, many] = INVOCATIONS;
        match () {
            () if !has_integers(&self.info) => 0,
            () if limits.max_compute_workgroup_storage_size < INTEGERS_MEMORY => few,
            () => many.min(limits.max_compute_invocations_per_workgroup).min(limits.max_compute_workgroup_size_x),
        }
    }

    /// How kernels are cut up for this device unless something better is known.
    pub fn tuning(&self) -> Tuning {
        if self.is_software() { Tuning::SOFTWARE } else { Tuning::GPU }
    }

    /// Whether all is well so far. Cheap; asked before every submit.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], or [`Error::Gpu`] with the first error that no error scope caught.
    pub fn check(&self) -> Result<()> {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        match &*faults {
            Faults { lost: Some(reason), .. } => Err(Error::DeviceLost(reason.clone())),
            Faults { error: Some(error), .. } => Err(Error::Gpu(error.clone())),
            _ => Ok(()),
        }
    }

    /// Calls `make` and waits for what the device says to it.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] with `what` if memory ran out, [`Error::Gpu`] if the device refused, [`Error::DeviceLost`].
    pub(crate) async fn checked<T>(&self, what: &str, make: impl FnOnce() -> T) -> Result<T> {
        let scopes = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory]
            .map(|filter| self.device.push_error_scope(filter));
        let made = make();
        let [internal, validation, memory] = scopes;
        let (memory, validation, internal) = (memory.pop(), validation.pop(), internal.pop()); // inside out
        if let Some(error) = memory.await {
            return Err(Error::DoesNotFit(format!("{what}: {error}")));
        }
        if let Some(error) = validation.await.or(internal.await) {
            return Err(Error::Gpu(format!("{what}: {error}")));
        }
        self.check()?;
        Ok(made)
    }
}
