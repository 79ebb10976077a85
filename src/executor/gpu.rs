//! stub
use crate::{
    Result,
    gpu::Gpu,
    plan::{BufferId, Buffers, Plan},
};
/// stub
#[derive(Debug)]
pub struct GpuExecutor;
#[allow(missing_docs, clippy::all)]
impl GpuExecutor {
    pub async fn new(_: Gpu, _: &Buffers, _: Vec<Plan>) -> Result<Self> {
        Ok(Self)
    }
    pub fn write(&mut self, _: BufferId, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
    pub fn run(&mut self, _: usize, _: u32) -> Result<()> {
        Ok(())
    }
    pub async fn read(&mut self, _: BufferId, _: u64, _: &mut [u8]) -> Result<()> {
        Ok(())
    }
    pub fn bytes(&self) -> u64 {
        0
    }
    pub fn adapter(&self) -> String {
        String::new()
    }
    pub fn dispatches(&self) -> u64 {
        0
    }
}
