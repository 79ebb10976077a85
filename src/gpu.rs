//! stub
use crate::Result;
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
