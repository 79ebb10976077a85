//! The headers of safetensors files: which tensors a folder holds, and where. Nothing in them is trusted.
//!
//! The format: 8 bytes length N, N bytes of JSON (`{"name": {"dtype", "shape", "data_offsets": [begin, end]}}`,
//! offsets from the end of the JSON), then the data (github.com/huggingface/safetensors, README).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::folder::{Folder, shown};
use crate::error::{Error, Result};
use crate::quant::TensorType;
use crate::source::Source;

/// Longest JSON header, in bytes: the limit of the format's own reader.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The one file of a model that is not cut in parts.
const SINGLE: &str = "model.safetensors";

/// A tensor in one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// Index of the file.
    pub(super) file: usize,
    /// The format's name of the type.
    dtype: String,
    /// Rows first.
    pub(super) shape: Vec<u64>,
    /// Where the data starts, in bytes from the start of the file.
    pub(super) offset: u64,
}

impl Stored {
    /// Its type: F32, F16 or BF16.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another one; `name` is the tensor's.
    pub(super) fn kind(&self, name: &str) -> Result<TensorType> {
        kind(&self.dtype).ok_or_else(|| Error::Unsupported {
            what: format!("tensor {} of type {}", shown(name), shown(&self.dtype)),
            supported: "safetensors of F32, F16 and BF16 work".into(),
        })
    }
}

/// The tensors of a folder by name, and the files that hold them.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) files: Vec<Source>,
    pub(super) tensors: BTreeMap<String, Stored>,
}

impl Weights {
    /// Reads the headers of `model.safetensors`, or of the parts named in `model.safetensors.index.json`.
    ///
    /// # Errors
    /// [`Error::Read`] for a file that cannot be read, [`Error::Format`] for a damaged header, [`Error::Model`] for a
    /// tensor that the index has and the parts have not, [`Error::Unsupported`] for a type that we do not take.
    pub(super) async fn open(folder: &Folder) -> Result<Self> {
        let index = folder.json("model.safetensors.index.json")?;
        let parts = match &index {
            Some(index) => part_names(index)?,
            None => vec![SINGLE.to_owned()],
        };
        let mut weights = Self { files: vec![], tensors: BTreeMap::new() };
        for (file, part) in parts.iter().enumerate() {
            let mut source = Source::open(&folder.path.join(part))?;
            for (name, tensor) in read_header(&mut source, file, part).await? {
                if let Some(other) = weights.tensors.get(&name) {
                    return Err(Error::Model(format!("tensor {name} stands in {} and in {part}", parts[other.file])));
                }
                weights.tensors.insert(name, tensor);
            }
            weights.files.push(source);
        }
        let listed = index.iter().filter_map(|index| index["weight_map"].as_object()).flatten();
        for (name, part) in listed {
            let found = weights.tensors.get(name).map(|tensor| parts[tensor.file].as_str());
            if found != part.as_str() {
                return Err(Error::Model(format!("tensor {} is missing in {}", shown(name), part)));
            }
        }
        Ok(weights)
    }
}

/// The names of the parts, each once, in order. They are plain names: an index leads to no other folder.
fn part_names(index: &Value) -> Result<Vec<String>> {
    let broken = |reason: String| Error::Model(format!("model.safetensors.index.json: {reason}"));
    let map = index["weight_map"].as_object().ok_or_else(|| broken("weight_map is missing".into()))?;
    let mut names: Vec<String> = vec![];
    for part in map.values() {
        let name =
            part.as_str().filter(|name| is_plain(name)).ok_or_else(|| broken(format!("{part} is no file name")))?;
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn is_plain(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|last| last == name)
        && !name.contains('\\')
        && PathBuf::from(name).is_relative()
}

/// Reads and checks one header: every range within the file, as long as its shape says, none over another.
async fn read_header(source: &mut Source, file: usize, part: &str) -> Result<BTreeMap<String, Stored>> {
    let broken = |field: String, reason: String| Error::Format { field: format!("{part}: {field}"), offset: 0, reason };
    let mut length = [0; 8];
    source.read(0, &mut length).await?;
    let length = u64::from_le_bytes(length);
    let file_bytes = source.len().unwrap_or(0);
    if length > (file_bytes - 8).min(MAX_HEADER_BYTES) {
        return Err(broken("header".into(), format!("{length} bytes in a file of {file_bytes}")));
    }
    let mut json = vec![0; length as usize];
    source.read(8, &mut json).await?;
    let header: Map<String, Value> =
        serde_json::from_slice(&json).map_err(|error| broken("header".into(), error.to_string()))?;
    let data = 8 + length;
    let mut tensors = BTreeMap::new();
    let mut ranges = vec![];
    for (name, entry) in header {
        if name == "__metadata__" {
            continue;
        }
        let shown = shown(&name);
        let wrong = |reason: &str| broken(format!("tensor {shown}"), reason.to_owned());
        let shape = numbers(&entry["shape"]).ok_or_else(|| wrong("its shape is no list of sizes"))?;
        let range = numbers(&entry["data_offsets"]).filter(|range| range.len() == 2 && range[0] <= range[1]);
        let range = range.ok_or_else(|| wrong("its data_offsets are no range"))?;
        if range[1] > file_bytes - data {
            return Err(wrong(&format!("its data end at byte {} of {}", range[1], file_bytes - data)));
        }
        let dtype = entry["dtype"].as_str().ok_or_else(|| wrong("its dtype is no name"))?.to_owned();
        let elements = shape.iter().try_fold(1_u64, |product, size| product.checked_mul(*size));
        let wanted = |kind: TensorType| elements.and_then(|elements| elements.checked_mul(kind.block_bytes() as u64));
        // Others may lie there unused: masks, for example.
        if kind(&dtype).is_some_and(|kind| wanted(kind) != Some(range[1] - range[0])) {
            return Err(wrong(&format!("{} bytes for a shape of {shape:?}", range[1] - range[0])));
        }
        ranges.push((range[0], range[1], shown));
        tensors.insert(name, Stored { file, dtype, shape, offset: data + range[0] });
    }
    ranges.sort_unstable();
    match ranges.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        Some(pair) => Err(broken(format!("tensor {}", pair[1].2), format!("overlaps the data of {}", pair[0].2))),
        None => Ok(tensors),
    }
}

fn numbers(list: &Value) -> Option<Vec<u64>> {
    list.as_array()?.iter().map(Value::as_u64).collect()
}

fn kind(dtype: &str) -> Option<TensorType> {
    match dtype {
        "F32" => Some(TensorType::F32),
        "F16" => Some(TensorType::F16),
        "BF16" => Some(TensorType::Bf16),
        _ => None,
    }
}
