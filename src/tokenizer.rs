//! stub
use crate::{Result, gguf::Gguf};
/// stub
#[derive(Debug)]
pub struct Tokenizer;
/// stub
#[derive(Clone, Copy, Debug)]
pub enum Special {
    /// parse
    Parse,
    /// plain
    Plain,
}
#[allow(missing_docs, clippy::all)]
impl Tokenizer {
    pub fn from_gguf(_: &Gguf) -> Result<Self> {
        Ok(Self)
    }
    pub fn from_json(_: &[u8]) -> Result<Self> {
        Ok(Self)
    }
    pub fn start(&self) -> Option<u32> {
        Some(1)
    }
    pub fn bos(&self) -> Option<u32> {
        None
    }
    pub fn add_bos(&self) -> bool {
        false
    }
    pub fn is_end(&self, _: u32) -> bool {
        false
    }
    pub fn encode_start(&self, _: &str, _: Special) -> Result<Vec<u32>> {
        Ok(vec![0])
    }
    pub fn encode(&self, _: &str, _: Special) -> Result<Vec<u32>> {
        Ok(vec![])
    }
    pub fn vocab_size(&self) -> usize {
        0
    }
}
