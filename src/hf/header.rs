//! Writes the header of a GGUF file: version 3, little-endian, as in ggml's `docs/gguf.md`. The way back of
//! [`crate::gguf::Gguf::read`], for the metadata types that a model's folder and [`crate::random`] need.

use crate::quant::TensorType;

/// Tensors start at multiples of this many bytes: the format's default.
pub(crate) const ALIGNMENT: u64 = 32;

/// A metadata value to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Floats(Vec<f32>),
    Integers(Vec<i32>),
}

/// Metadata in the order of the file.
pub(crate) type Metadata = Vec<(String, Value)>;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: TensorType,
    /// Columns first.
    pub(crate) shape: Vec<u64>,
    /// Bytes of the data.
    pub(crate) bytes: u64,
}

/// The header, padded to the alignment, and where each tensor's data starts, in bytes from the start of the file. The
/// data follow in the order of `tensors`, each filled up with zeros to the alignment; the last offset is the file's end.
pub(crate) fn header(metadata: &Metadata, tensors: &[Entry]) -> (Vec<u8>, Vec<u64>) {
    let mut bytes = b"GGUF".to_vec();
    number(&mut bytes, 3_u32.to_le_bytes());
    number(&mut bytes, (tensors.len() as u64).to_le_bytes());
    number(&mut bytes, (metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut bytes, key);
        write(&mut bytes, value);
    }
    let (mut offset, mut offsets) = (0, vec![]);
    for tensor in tensors {
        text(&mut bytes, &tensor.name);
        number(&mut bytes, (tensor.shape.len() as u32).to_le_bytes());
        bytes.extend(tensor.shape.iter().flat_map(|size| size.to_le_bytes()));
        number(&mut bytes, (tensor.kind as u32).to_le_bytes());
        number(&mut bytes, u64::to_le_bytes(offset));
        offsets.push(offset);
        offset += tensor.bytes.next_multiple_of(ALIGNMENT);
    }
    offsets.push(offset);
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    let start = bytes.len() as u64;
    (bytes, offsets.into_iter().map(|offset| start + offset).collect())
}

/// The number of a type, then the value.
fn write(bytes: &mut Vec<u8>, value: &Value) {
    let tag = |bytes: &mut Vec<u8>, tag: u32| number(bytes, tag.to_le_bytes());
    let array = |bytes: &mut Vec<u8>, element: u32, count: usize| {
        tag(bytes, 9);
        tag(bytes, element);
        number(bytes, (count as u64).to_le_bytes());
    };
    match value {
        Value::U32(value) => {
            tag(bytes, 4);
            number(bytes, value.to_le_bytes());
        }
        Value::F32(value) => {
            tag(bytes, 6);
            number(bytes, value.to_le_bytes());
        }
        Value::Bool(value) => {
            tag(bytes, 7);
            bytes.push(u8::from(*value));
        }
        Value::Text(value) => {
            tag(bytes, 8);
            text(bytes, value);
        }
        Value::Texts(values) => {
            array(bytes, 8, values.len());
            values.iter().for_each(|value| text(bytes, value));
        }
        Value::Floats(values) => {
            array(bytes, 6, values.len());
            values.iter().for_each(|value| number(bytes, value.to_le_bytes()));
        }
        Value::Integers(values) => {
            array(bytes, 5, values.len());
            values.iter().for_each(|value| number(bytes, value.to_le_bytes()));
        }
    }
}

fn number<const N: usize>(bytes: &mut Vec<u8>, number: [u8; N]) {
    bytes.extend(number);
}

/// Length and bytes.
fn text(bytes: &mut Vec<u8>, text: &str) {
    number(bytes, (text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::gguf::{ArrayValue, Gguf, Value as Read};
    use crate::source::Source;

    #[test]
    fn is_read_back_as_it_was_written() {
        let metadata = vec![
            ("general.architecture".to_owned(), Value::Text("llama".into())),
            ("a".to_owned(), Value::U32(7)),
            ("b".to_owned(), Value::F32(0.5)),
            ("c".to_owned(), Value::Bool(true)),
            ("d".to_owned(), Value::Texts(vec!["é".into(), String::new()])),
            ("e".to_owned(), Value::Floats(vec![-1.0])),
            ("f".to_owned(), Value::Integers(vec![-3, 4])),
        ];
        let entry =
            |name: &str, kind, shape: &[u64], bytes| Entry { name: name.into(), kind, shape: shape.into(), bytes };
        let tensors = [entry("x", TensorType::F32, &[3], 12), entry("y", TensorType::Q8_0, &[64, 3], 204)];
        let (mut bytes, offsets) = header(&metadata, &tensors);
        assert_eq!(offsets, [bytes.len() as u64, bytes.len() as u64 + 32, bytes.len() as u64 + 32 + 224]);
        bytes.resize(offsets[2] as usize, 0);
        let gguf = block_on(Gguf::read(&mut Source::memory("m", bytes))).unwrap();
        assert_eq!(gguf.version, 3);
        assert_eq!(gguf.architecture().unwrap(), "llama");
        let expected = [
            ("a", Read::U32(7)),
            ("b", Read::F32(0.5)),
            ("c", Read::Bool(true)),
            ("d", Read::Array(ArrayValue::String(vec!["é".into(), String::new()]))),
            ("e", Read::Array(ArrayValue::F32(vec![-1.0]))),
            ("f", Read::Array(ArrayValue::I32(vec![-3, 4]))),
        ];
        for (key, value) in expected {
            assert_eq!(gguf.metadata[key], value, "{key}");
        }
        for (tensor, offset) in tensors.iter().zip(offsets) {
            let read = gguf.tensor(&tensor.name).unwrap();
            assert_eq!((&read.shape, read.offset, read.bytes), (&tensor.shape, offset, tensor.bytes));
            assert_eq!(read.kind.0, tensor.kind as u32);
        }
    }
}
