//! stub
use crate::{Error, Result, engine::Device};
/// stub
#[derive(Debug)]
pub struct Gpu;
#[allow(missing_docs, clippy::all)]
impl Gpu {
    pub fn is_software(&self) -> bool {
        true
    }
    pub async fn open(_: &wgpu::Adapter) -> Result<Self> {
        Ok(Self)
    }
}
#[allow(missing_docs)]
pub async fn adapters() -> Vec<wgpu::Adapter> {
    vec![]
}
#[allow(missing_docs)]
pub fn is_software(_: &wgpu::Adapter) -> bool {
    true
}
#[allow(missing_docs)]
pub fn describe(index: usize, _: &wgpu::Adapter) -> serde_json::Value {
    serde_json::json!({"index":index})
}

impl Gpu {
    /// The GPU to run on; `None` for the CPU executor.
    ///
    /// # Errors
    /// [`Error::NoGpu`].
    pub async fn choose(device: &Device) -> Result<Option<Self>> {
        let adapters = match device {
            Device::Cpu => return Ok(None),
            _ => adapters().await,
        };
        let names = || adapters.iter().map(|adapter| adapter.get_info().name).collect::<Vec<_>>().join(", ");
        let chosen = match device {
            Device::Auto => match adapters.iter().find(|adapter| !is_software(adapter)) {
                None => return Ok(None),
                real => real,
            },
            Device::Named(wanted) => match wanted.parse::<usize>() {
                Ok(number) => adapters.get(number),
                Err(_) => adapters
                    .iter()
                    .find(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted.to_lowercase())),
            },
            _ => adapters.iter().find(|adapter| !is_software(adapter)).or(adapters.first()),
        };
        match (chosen, device) {
            (Some(adapter), _) => Ok(Some(Self::open(adapter).await?)),
            (None, Device::Named(wanted)) => {
                Err(Error::NoGpu(format!("no adapter {wanted:?}; there are: [{}]", names())))
            }
            (None, _) => Err(Error::NoGpu("no adapter found; --device cpu runs without one".into())),
        }
    }
}
