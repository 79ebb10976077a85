//! The header of a GGUF file: metadata and the directory of tensors. Touches no tensor data.
//!
//! Second stage of loading: reads from a [`Source`], gives [`Gguf`] to whoever needs metadata (configuration,
//! tokenizer, `info`) and the places of the tensors to whoever loads weights. Versions 2 and 3, little-endian, as in
//! ggml's `docs/gguf.md`.
//!
//! No number in the file is trusted. Every count and length is checked against the bytes that can still follow before
//! anything is allocated for it, and memory grows with what was actually read: numbers take the room that they have in
//! the file, strings and directory entries at most a few times theirs (a `String` of 24 bytes for a length of 8). What
//! is wrong is reported with its field and its byte offset.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod directory;
mod reader;
mod value;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use crate::error::{Error, Result};
use crate::quant::{GgmlType, TensorType};
use crate::source::Source;

use reader::Reader;
pub use value::{ArrayValue, Value};

/// Tensors start at multiples of this many bytes unless `general.alignment` says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Bytes of the shortest metadata entry: length, one byte of key, type, one byte of value.
const MIN_ENTRY_BYTES: u64 = 8 + 1 + 4 + 1;
/// Longest key or tensor name, in bytes. The specification's limit for keys.
const MAX_NAME_BYTES: u64 = 65_535;

/// The header of a GGUF file.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors in the order of their data, so that a stream can be read forwards.
    pub tensors: Vec<TensorInfo>,
    /// Where the header ends and tensor data may start, in bytes from the start of the file; a multiple of the
    /// alignment, and beyond the end of a file without tensors if it is not padded.
    pub data_offset: u64,
    /// Byte offsets of the metadata values, in the order of the keys: for error messages.
    value_offsets: Vec<u64>,
    /// Indices into `tensors`, in the order of the names.
    by_name: Vec<usize>,
}

/// A tensor as the directory has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the file.
    pub name: String,
    /// Type, possibly one that we do not know.
    pub kind: GgmlType,
    /// Sizes as in the file, columns first: one to four, none zero, their product below 2⁶⁴. Columns are a multiple of
    /// the type's block.
    pub shape: Vec<u64>,
    /// Where the data starts, in bytes from the start of the file.
    pub offset: u64,
    /// Bytes of the data; 0 if the type's size is not known.
    pub bytes: u64,
}

impl TensorInfo {
    /// Weights in a row: `shape[0]`.
    pub fn cols(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Rows: the product of the other sizes.
    pub fn rows(&self) -> u64 {
        self.shape.iter().skip(1).fold(1, |product: u64, size| product.saturating_mul(*size))
    }

    /// The type, if it is one that we run.
    ///
    /// # Errors
    /// [`Error::Unsupported`], with what works instead.
    pub fn tensor_type(&self) -> Result<TensorType> {
        self.kind.tensor_type().ok_or_else(|| Error::Unsupported {
            what: format!("tensor {} of type {}", Shown(&self.name), self.kind),
            supported: format!("these types work: {}", TensorType::ALL.map(TensorType::name).join(", ")),
        })
    }
}

impl Gguf {
    /// Reads and checks the header. A stream is left where the header ends.
    ///
    /// # Errors
    /// [`Error::Format`] for anything wrong in the file, with field and byte offset; [`Error::Read`] if the source
    /// cannot be read.
    pub async fn read(source: &mut Source) -> Result<Self> {
        let file_len = source.len();
        let mut reader = Reader::new(source);
        let version = read_version(&mut reader).await?;
        let n_tensors = reader.number::<u64>(format_args!("tensor count")).await?;
        reader.check_count(n_tensors, directory::MIN_ENTRY_BYTES, 8, format_args!("tensor count"))?;
        let n_metadata = reader.number::<u64>(format_args!("metadata count")).await?;
        reader.check_count(n_metadata, MIN_ENTRY_BYTES, 8, format_args!("metadata count"))?;

        let mut entries = BTreeMap::new();
        for index in 0..n_metadata {
            read_entry(&mut reader, index, &mut entries).await?;
        }
        let mut metadata = BTreeMap::new();
        let mut value_offsets = Vec::new();
        for (key, (offset, value)) in entries {
            metadata.insert(key, value);
            value_offsets.push(offset);
        }
        let mut gguf =
            Self { version, metadata, tensors: Vec::new(), data_offset: 0, value_offsets, by_name: Vec::new() };

        let alignment = gguf.alignment()?;
        let entries = directory::read(&mut reader, n_tensors).await?;
        let header_end = reader.position();
        gguf.data_offset = header_end.checked_next_multiple_of(alignment).ok_or_else(|| {
            broken(
                format_args!("metadata general.alignment"),
                header_end,
                format!("{alignment} leaves no room for data"),
            )
        })?;
        let file_len = file_len.or(source.len()); // a stream may have ended
        (gguf.tensors, gguf.by_name) = directory::place(entries, gguf.data_offset, alignment, file_len)?;
        Ok(gguf)
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let named = |index: &usize| self.tensors.get(*index).map_or("", |tensor| &tensor.name);
        let place = self.by_name.binary_search_by(|index| named(index).cmp(name)).ok()?;
        self.tensors.get(*self.by_name.get(place)?)
    }

    /// `general.architecture`.
    ///
    /// # Errors
    /// [`Error::Format`] if it is missing or not a string.
    pub fn architecture(&self) -> Result<&str> {
        const KEY: &str = "general.architecture";
        self.get_str(KEY)?.ok_or_else(|| broken(format_args!("metadata {KEY}"), METADATA_COUNT_OFFSET, "it is missing"))
    }

    /// An integer of any type, from 0 to 2³² − 1; `None` if the key is missing.
    ///
    /// # Errors
    /// [`Error::Format`] if it is something else.
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>> {
        self.get(key, "an integer from 0 to 4294967295", |value| u32::try_from(value.integer()?).ok())
    }

    /// An integer of any type, from 0 to 2⁶⁴ − 1; `None` if the key is missing.
    ///
    /// # Errors
    /// [`Error::Format`] if it is something else.
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>> {
        self.get(key, "an integer from 0 to 18446744073709551615", |value| u64::try_from(value.integer()?).ok())
    }

    /// A float, rounded to 32 bits; `None` if the key is missing.
    ///
    /// # Errors
    /// [`Error::Format`] if it is something else.
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>> {
        self.get(key, "a float", Value::float)
    }

    /// A truth value; `None` if the key is missing.
    ///
    /// # Errors
    /// [`Error::Format`] if it is something else.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "a bool", |value| if let Value::Bool(value) = value { Some(*value) } else { None })
    }

    /// A string; `None` if the key is missing.
    ///
    /// # Errors
    /// [`Error::Format`] if it is something else.
    pub fn get_str(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a string", |value| if let Value::String(value) = value { Some(value.as_str()) } else { None })
    }

    /// An array of integers of any type, as i64 (a u64 beyond that is something else); `None` if the key is missing.
    ///
    /// # Errors
    /// [`Error::Format`] if it is something else.
    pub fn get_integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.get(key, "an array of integers", |value| value.array()?.integers())
    }

    /// An array of strings; `None` if the key is missing or something else.
    pub fn strings(&self, key: &str) -> Option<&[String]> {
        match self.metadata.get(key)?.array()? {
            ArrayValue::String(strings) => Some(strings),
            _ => None,
        }
    }

    /// An array of 32-bit floats; `None` if the key is missing or something else.
    pub fn floats(&self, key: &str) -> Option<&[f32]> {
        match self.metadata.get(key)?.array()? {
            ArrayValue::F32(floats) => Some(floats),
            _ => None,
        }
    }

    /// The value of `key` as `convert` sees it; an error if `convert` gives nothing.
    fn get<'a, T>(&'a self, key: &str, wanted: &str, convert: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        let converted = convert(value).ok_or_else(|| {
            let found = self.metadata.keys().position(|known| known == key);
            let offset = found.and_then(|index| self.value_offsets.get(index)).copied().unwrap_or_default();
            broken(format_args!("metadata {}", Shown(key)), offset, format!("expected {wanted}, found {value}"))
        });
        converted.map(Some)
    }

    /// `general.alignment` in bytes: a power of two.
    fn alignment(&self) -> Result<u64> {
        let wanted = "a power of two below 2³²";
        let alignment = self.get("general.alignment", wanted, |value| {
            u32::try_from(value.integer()?).ok().filter(|alignment| alignment.is_power_of_two())
        })?;
        Ok(alignment.map_or(DEFAULT_ALIGNMENT, u64::from))
    }
}

/// Where the number of metadata entries stands, in bytes.
const METADATA_COUNT_OFFSET: u64 = 16;

/// Reads the magic and the version.
async fn read_version(reader: &mut Reader<'_>) -> Result<u32> {
    let mut magic = [0; 4];
    reader.exact(&mut magic, format_args!("magic")).await?;
    if magic != *b"GGUF" {
        let reason = format!("expected \"GGUF\", found \"{}\"", magic.escape_ascii());
        return Err(broken(format_args!("magic"), 0, reason));
    }
    let version = reader.number::<u32>(format_args!("version")).await?;
    let reason = match (version, version.swap_bytes()) {
        (2 | 3, _) => return Ok(version),
        (_, 1..=3) => {
            format!("big-endian GGUF (version {}); only little-endian files can be read", version.swap_bytes())
        }
        _ => format!("version {version}; only versions 2 and 3 can be read"),
    };
    Err(broken(format_args!("version"), 4, reason))
}

/// Reads metadata entry number `index`: key, type, value.
async fn read_entry(reader: &mut Reader<'_>, index: u64, entries: &mut BTreeMap<String, (u64, Value)>) -> Result<()> {
    let start = reader.position();
    let key = reader.name(MAX_NAME_BYTES, format_args!("metadata key {index}")).await?;
    let offset = reader.position();
    let value = value::read(reader, &key).await?;
    match entries.entry(key) {
        Entry::Vacant(vacant) => {
            vacant.insert((offset, value));
            Ok(())
        }
        Entry::Occupied(taken) => {
            let reason = format!("duplicate of the key whose value stands at byte {}", taken.get().0);
            Err(broken(format_args!("metadata key {}", Shown(taken.key())), start, reason))
        }
    }
}

/// What is wrong with the file, and where.
fn broken(field: fmt::Arguments<'_>, offset: u64, reason: impl Into<String>) -> Error {
    Error::Format { field: field.to_string(), offset, reason: reason.into() }
}

/// A name out of the file as one short line: control characters escaped, cut after 64 characters.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX_CHARS: usize = 64;
        for char in self.0.chars().take(MAX_CHARS) {
            write!(f, "{}", char.escape_debug())?;
        }
        if self.0.chars().nth(MAX_CHARS).is_some() { f.write_str("…") } else { Ok(()) }
    }
}
