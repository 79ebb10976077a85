//! A small writer of GGUF files, for tests. Shares nothing with the reader but the [`Value`] type.

use sinkstream::gguf::{ArrayValue, Value};

/// A file in the making.
pub(crate) struct GgufWriter {
    version: u32,
    alignment: usize,
    metadata: Vec<(String, Value)>,
    tensors: Vec<WrittenTensor>,
}

struct WrittenTensor {
    name: String,
    ggml_type: u32,
    shape: Vec<u64>,
    data: Vec<u8>,
}

impl GgufWriter {
    /// An empty file of version 3 with the default alignment.
    pub(crate) fn new() -> Self {
        Self { version: 3, alignment: 32, metadata: Vec::new(), tensors: Vec::new() }
    }

    /// Another version number; the bytes stay those of versions 2 and 3.
    pub(crate) fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Another alignment, in bytes, with its key.
    pub(crate) fn alignment(mut self, alignment: u32) -> Self {
        self.alignment = alignment as usize;
        self.set("general.alignment", Value::U32(alignment))
    }

    /// A metadata entry, even if there is one of that key already.
    pub(crate) fn set(mut self, key: &str, value: Value) -> Self {
        self.metadata.push((key.into(), value));
        self
    }

    /// A tensor of ggml type number `ggml_type`; `shape` has the columns first. Nothing is checked.
    pub(crate) fn tensor(mut self, name: &str, ggml_type: u32, shape: &[u64], data: &[u8]) -> Self {
        self.tensors.push(WrittenTensor { name: name.into(), ggml_type, shape: shape.into(), data: data.into() });
        self
    }

    /// The header alone: without padding and data.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            string(&mut out, key);
            out.extend(type_number(value).to_le_bytes());
            payload(&mut out, value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            string(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(tensor.ggml_type.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += tensor.data.len().next_multiple_of(self.alignment);
        }
        out
    }

    /// The whole file.
    pub(crate) fn finish(&self) -> Vec<u8> {
        let mut out = self.header();
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&tensor.data);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out
    }
}

fn string(out: &mut Vec<u8>, string: &str) {
    out.extend((string.len() as u64).to_le_bytes());
    out.extend(string.as_bytes());
}

fn type_number(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn payload(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => out.extend(value.to_le_bytes()),
        Value::I8(value) => out.extend(value.to_le_bytes()),
        Value::U16(value) => out.extend(value.to_le_bytes()),
        Value::I16(value) => out.extend(value.to_le_bytes()),
        Value::U32(value) => out.extend(value.to_le_bytes()),
        Value::I32(value) => out.extend(value.to_le_bytes()),
        Value::F32(value) => out.extend(value.to_le_bytes()),
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::String(value) => string(out, value),
        Value::Array(value) => array(out, value),
        Value::U64(value) => out.extend(value.to_le_bytes()),
        Value::I64(value) => out.extend(value.to_le_bytes()),
        Value::F64(value) => out.extend(value.to_le_bytes()),
    }
}

fn array(out: &mut Vec<u8>, array_value: &ArrayValue) {
    let number: u32 = match array_value {
        ArrayValue::U8(_) => 0,
        ArrayValue::I8(_) => 1,
        ArrayValue::U16(_) => 2,
        ArrayValue::I16(_) => 3,
        ArrayValue::U32(_) => 4,
        ArrayValue::I32(_) => 5,
        ArrayValue::F32(_) => 6,
        ArrayValue::Bool(_) => 7,
        ArrayValue::String(_) => 8,
        ArrayValue::Array(_) => 9,
        ArrayValue::U64(_) => 10,
        ArrayValue::I64(_) => 11,
        ArrayValue::F64(_) => 12,
    };
    out.extend(number.to_le_bytes());
    out.extend((array_value.len() as u64).to_le_bytes());
    match array_value {
        ArrayValue::U8(values) => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
        ArrayValue::I8(values) => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
        ArrayValue::U16(values) => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
        ArrayValue::I16(values) => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
        ArrayValue::U32(values) => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
        ArrayValue::I32(values) => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
        ArrayValue::F32(values) => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
        ArrayValue::Bool(values) => values.iter().for_each(|value| out.push(u8::from(*value))),
        ArrayValue::String(values) => values.iter().for_each(|value| string(out, value)),
        ArrayValue::Array(values) => values.iter().for_each(|value| array(out, value)),
        ArrayValue::U64(values) => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
        ArrayValue::I64(values) => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
        ArrayValue::F64(values) => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
    }
}
