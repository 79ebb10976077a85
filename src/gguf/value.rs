//! Metadata values: all 13 types, arrays packed by type.

use std::fmt;

use super::reader::{Reader, grow};
use super::{Shown, broken};
use crate::error::Result;
use crate::source::LocalBoxFuture;

/// Deepest nesting of arrays in arrays. No model is known to have any; each level costs a few hundred bytes of stack.
const MAX_ARRAY_DEPTH: u32 = 8;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are the format's own types")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(ArrayValue),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of one type.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are the format's own types")]
pub enum ArrayValue {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Self>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl Value {
    /// The value as an integer, if it is one of any type.
    pub(super) fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }

    /// The value as a float, rounded to 32 bits, if it is a float.
    pub(super) fn float(&self) -> Option<f32> {
        match *self {
            Self::F32(value) => Some(value),
            #[expect(clippy::cast_possible_truncation, reason = "rounding is what is wanted")]
            Self::F64(value) => Some(value as f32),
            _ => None,
        }
    }

    /// The array, if it is one.
    pub fn array(&self) -> Option<&ArrayValue> {
        if let Self::Array(array) = self { Some(array) } else { None }
    }
}

impl ArrayValue {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::String(values) => values.len(),
            Self::Array(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as i64, if they are integers that fit.
    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        Some(match self {
            Self::U8(values) => values.iter().copied().map(i64::from).collect(),
            Self::I8(values) => values.iter().copied().map(i64::from).collect(),
            Self::U16(values) => values.iter().copied().map(i64::from).collect(),
            Self::I16(values) => values.iter().copied().map(i64::from).collect(),
            Self::U32(values) => values.iter().copied().map(i64::from).collect(),
            Self::I32(values) => values.iter().copied().map(i64::from).collect(),
            Self::U64(values) => values.iter().map(|value| i64::try_from(*value).ok()).collect::<Option<_>>()?,
            Self::I64(values) => values.clone(),
            _ => return None,
        })
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }
}

/// Type and value on one short line; of an array only type and length.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(value) => write!(f, "u8 {value}"),
            Self::I8(value) => write!(f, "i8 {value}"),
            Self::U16(value) => write!(f, "u16 {value}"),
            Self::I16(value) => write!(f, "i16 {value}"),
            Self::U32(value) => write!(f, "u32 {value}"),
            Self::I32(value) => write!(f, "i32 {value}"),
            Self::F32(value) => write!(f, "f32 {value}"),
            Self::Bool(value) => write!(f, "bool {value}"),
            Self::String(value) => write!(f, "string \"{}\"", Shown(value)),
            Self::Array(value) => write!(f, "array of {} {}", value.len(), value.type_name()),
            Self::U64(value) => write!(f, "u64 {value}"),
            Self::I64(value) => write!(f, "i64 {value}"),
            Self::F64(value) => write!(f, "f64 {value}"),
        }
    }
}

/// Reads a type and a value of it.
pub(super) async fn read(reader: &mut Reader<'_>, key: &str) -> Result<Value> {
    let key = Shown(key);
    let tag = reader.number::<u32>(format_args!("metadata {key}: type")).await?;
    read_tagged(reader, tag, format_args!("metadata {key}")).await
}

async fn read_tagged(reader: &mut Reader<'_>, tag: u32, field: fmt::Arguments<'_>) -> Result<Value> {
    Ok(match tag {
        0 => Value::U8(reader.number(field).await?),
        1 => Value::I8(reader.number(field).await?),
        2 => Value::U16(reader.number(field).await?),
        3 => Value::I16(reader.number(field).await?),
        4 => Value::U32(reader.number(field).await?),
        5 => Value::I32(reader.number(field).await?),
        6 => Value::F32(reader.number(field).await?),
        7 => {
            let offset = reader.position();
            Value::Bool(truth(reader.number(field).await?, offset, field)?)
        }
        8 => Value::String(reader.string(field).await?),
        9 => Value::Array(read_array(reader, 1, field).await?),
        10 => Value::U64(reader.number(field).await?),
        11 => Value::I64(reader.number(field).await?),
        12 => Value::F64(reader.number(field).await?),
        _ => return Err(unknown_type(tag, reader, field)),
    })
}

/// Reads an element type, a count and that many elements. Boxed, because arrays may hold arrays.
fn read_array<'a>(
    reader: &'a mut Reader<'_>,
    depth: u32,
    field: fmt::Arguments<'a>,
) -> LocalBoxFuture<'a, Result<ArrayValue>> {
    Box::pin(async move {
        if depth > MAX_ARRAY_DEPTH {
            let reason = format!("arrays in arrays, more than {MAX_ARRAY_DEPTH} deep");
            return Err(broken(field, reader.position(), reason));
        }
        let tag = reader.number::<u32>(format_args!("{field}: element type")).await?;
        if tag > 12 {
            return Err(unknown_type(tag, reader, field));
        }
        let count = reader.number::<u64>(format_args!("{field}: count")).await?;
        Ok(match tag {
            0 => ArrayValue::U8(reader.numbers(count, field).await?),
            1 => ArrayValue::I8(reader.numbers(count, field).await?),
            2 => ArrayValue::U16(reader.numbers(count, field).await?),
            3 => ArrayValue::I16(reader.numbers(count, field).await?),
            4 => ArrayValue::U32(reader.numbers(count, field).await?),
            5 => ArrayValue::I32(reader.numbers(count, field).await?),
            6 => ArrayValue::F32(reader.numbers(count, field).await?),
            7 => {
                let start = reader.position();
                let bytes = reader.numbers::<u8>(count, field).await?.into_iter();
                let values = (start..).zip(bytes).map(|(offset, byte)| truth(byte, offset, field));
                ArrayValue::Bool(values.collect::<Result<_>>()?)
            }
            8 => {
                reader.check_count(count, 8, 8, format_args!("{field}: count"))?;
                let mut strings = Vec::new();
                for index in 0..count {
                    let string = reader.string(format_args!("{field}[{index}]")).await?;
                    grow(&mut strings, count.saturating_sub(index));
                    strings.push(string);
                }
                ArrayValue::String(strings)
            }
            9 => {
                reader.check_count(count, 12, 8, format_args!("{field}: count"))?;
                let mut arrays = Vec::new();
                for index in 0..count {
                    let array = read_array(reader, depth.saturating_add(1), format_args!("{field}[{index}]")).await?;
                    grow(&mut arrays, count.saturating_sub(index));
                    arrays.push(array);
                }
                ArrayValue::Array(arrays)
            }
            10 => ArrayValue::U64(reader.numbers(count, field).await?),
            11 => ArrayValue::I64(reader.numbers(count, field).await?),
            _ => ArrayValue::F64(reader.numbers(count, field).await?),
        })
    })
}

/// The specification knows 0 and 1 only.
fn truth(byte: u8, offset: u64, field: fmt::Arguments<'_>) -> Result<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(broken(field, offset, format!("a bool is 0 or 1, not {byte}"))),
    }
}

/// For a type that was just read.
fn unknown_type(tag: u32, reader: &Reader<'_>, field: fmt::Arguments<'_>) -> crate::Error {
    broken(field, reader.position().saturating_sub(4), format!("unknown value type {tag}"))
}
