//! Hugging Face folders: `config.json`, safetensors and `tokenizer.json`, read as if they were a GGUF file.
//!
//! [`open`] makes the header of that file and a [`Source`] whose tensor data are converted row by row when they are
//! read: the rest of the program sees a GGUF file, and the model is never in memory. [`convert`] writes these bytes out.

mod family;
mod folder;
pub(crate) mod header;
mod metadata;
mod quantize;
mod rope;
mod safetensors;
mod tensors;
mod vocabulary;

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::engine::Progress;
use crate::error::{Error, Result};
use crate::quant::{BLOCK, TensorType};
use crate::source::{LocalBoxFuture, RandomBytes, Source};
use family::Shape;
use folder::{Folder, Json};
use header::{Entry, Metadata, Value};
use safetensors::{Stored, Weights};
use tensors::{Order, Wanted};

/// Bytes that [`convert`] moves at once.
const PIECE_BYTES: u64 = 4 << 20;

/// What matrices become on the way in. Vectors are always F32, and rows that are not whole blocks of 32 become F16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// 16-bit floats.
    F16,
    /// 8-bit blocks.
    Q8_0,
    /// 4-bit blocks; the output matrix, which suffers most, becomes `Q8_0`.
    Q4_0,
}

/// For whom the vocabulary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// For us: the `tokenizer.json` as it is.
    Here,
    /// For every program that reads GGUF files.
    Everyone,
}

/// A folder as the bytes of a GGUF file. Without `quant`, matrices keep their type.
///
/// # Errors
/// [`Error::Read`] for files that cannot be read, [`Error::Format`] for damaged ones, [`Error::Unsupported`] and
/// [`Error::Model`] for what we cannot bring over; each names the file, the value or the tensor.
pub async fn open(folder: &Path, quant: Option<Quant>) -> Result<Source> {
    open_for(folder, quant, Reader::Here).await
}

/// The vocabulary of a folder alone, as the bytes of a GGUF file without tensors. Needs only `tokenizer.json`.
///
/// # Errors
/// [`Error::Read`] if there is none.
pub fn open_vocabulary(folder: &Path) -> Result<Source> {
    let files = Folder { path: folder.to_owned() };
    files.required("tokenizer.json")?;
    let (bytes, _) = header::header(&vocabulary::as_it_is(&files)?, &[]);
    Ok(Source::memory(folder.display().to_string(), bytes))
}

/// Writes a folder as a GGUF file, through a temporary file beside it: a file that is there already is replaced only
/// in the end. `progress` gets the bytes done and may stop it with an error.
///
/// # Errors
/// As [`open`]; [`Error::Unsupported`] for a tokenizer that GGUF has no name for; [`Error::Write`].
pub async fn convert(
    folder: &Path,
    target: &Path,
    quant: Option<Quant>,
    progress: &mut dyn FnMut(Progress) -> Result<()>,
) -> Result<()> {
    let mut source = open_for(folder, quant, Reader::Everyone).await?;
    let failed = |error: std::io::Error| Error::Write { what: target.display().to_string(), reason: error.to_string() };
    let name = target.file_name().filter(|_| !target.is_dir());
    let name = name.ok_or_else(|| failed(std::io::Error::other("it is not the name of a file")))?;
    let temporary = target.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
    let mut write = async || -> Result<()> {
        let mut file = File::create(&temporary).map_err(failed)?;
        let total = source.len().unwrap_or(0);
        let mut bytes = vec![];
        for at in (0..total).step_by(PIECE_BYTES as usize) {
            bytes.resize(PIECE_BYTES.min(total - at) as usize, 0);
            source.read(at, &mut bytes).await?;
            file.write_all(&bytes).map_err(failed)?;
            progress(Progress { loaded: at + bytes.len() as u64, total })?;
        }
        file.sync_all().map_err(failed)?;
        std::fs::rename(&temporary, target).map_err(failed)
    };
    let written = write().await;
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary); // there may be none
    }
    written
}

async fn open_for(folder: &Path, quant: Option<Quant>, reader: Reader) -> Result<Source> {
    let files = Folder { path: folder.to_owned() };
    let config = files.required("config.json")?;
    let config = Json(&config);
    let shape = Shape::new(config)?;
    let (keys, tables) = metadata::metadata(config, &shape)?;
    let weights = Weights::open(&files).await?;
    let mut parts = find(&weights, &shape, quant)?;
    for (name, values) in tables {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let entry = Entry {
            name: name.into(),
            kind: TensorType::F32,
            shape: vec![values.len() as u64],
            bytes: bytes.len() as u64,
        };
        parts.push(Part { entry, data: Data::Made(bytes) });
    }

    let mut metadata: Metadata = vec![
        ("general.architecture".into(), Value::Text(shape.family.name().into())),
        ("general.name".into(), Value::Text(model_name(folder))),
        ("general.quantization_version".into(), Value::U32(2)),
        ("general.file_type".into(), Value::U32(file_type(&parts))),
    ];
    metadata.extend(keys);
    metadata.extend(match reader {
        Reader::Here => vocabulary::as_it_is(&files)?,
        Reader::Everyone => vocabulary::for_everyone(&files, shape.vocab_size)?,
    });
    let entries: Vec<Entry> = parts.iter().map(|part| part.entry.clone()).collect();
    let (header, mut offsets) = header::header(&metadata, &entries);
    let len = offsets.pop().unwrap_or(0);
    let reader =
        Converted { header, parts, offsets, files: weights.files, floats: vec![], input: vec![], rows: vec![] };
    Ok(Source::random(folder.display().to_string(), len, Box::new(reader)))
}

/// The folder's own name.
fn model_name(folder: &Path) -> String {
    let absolute = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    absolute.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// llama.cpp's number for a file whose matrices are mostly of this type (`llama_ftype`).
fn file_type(parts: &[Part]) -> u32 {
    let matrix = parts.iter().rev().find(|part| part.entry.shape.len() > 1);
    match matrix.map(|part| part.entry.kind) {
        Some(TensorType::F16) => 1,
        Some(TensorType::Q4_0) => 2,
        Some(TensorType::Q8_0) => 7,
        Some(TensorType::Bf16) => 32,
        _ => 0,
    }
}

/// A tensor of the file that we show.
#[derive(Debug)]
struct Part {
    entry: Entry,
    data: Data,
}

/// Where its data comes from.
#[derive(Debug)]
enum Data {
    Stored {
        file: usize,
        offset: u64,
        kind: TensorType,
        /// Weights in a row: 1 in a vector, whose weights are ordered like rows.
        cols: u64,
        order: Order,
        /// Added to every weight.
        plus: f32,
    },
    Made(Vec<u8>),
}

/// Finds every tensor that the family wants, with the biases that are there, and checks shapes and leftovers.
fn find(weights: &Weights, shape: &Shape, quant: Option<Quant>) -> Result<Vec<Part>> {
    let (mut parts, mut used) = (vec![], std::collections::BTreeSet::new());
    for wanted in tensors::wanted(shape) {
        let weight = format!("{}.weight", wanted.from);
        let stored = weights.tensors.get(&weight).ok_or_else(|| Error::Model(format!("tensor {weight} is missing")))?;
        parts.push(part(&wanted, &weight, stored, quant, shape)?);
        used.insert(weight);
        let bias = format!("{}.bias", wanted.from);
        if let Some(stored) = weights.tensors.get(&bias) {
            let length = if wanted.rows == 1 { wanted.cols } else { wanted.rows };
            let wanted = Wanted { rows: 1, cols: length, ..wanted };
            parts.push(part(&wanted, &bias, stored, quant, shape)?);
            used.insert(bias);
        }
    }
    match weights.tensors.keys().find(|name| !used.contains(*name) && !tensors::is_ignored(name, shape)) {
        None => Ok(parts),
        Some(name) => Err(Error::Unsupported {
            what: format!("tensor {}", folder::shown(name)),
            supported: format!("a {} model has no place for it", shape.family.name()),
        }),
    }
}

/// One tensor, its shape checked and its type chosen.
fn part(wanted: &Wanted, from: &str, stored: &Stored, quant: Option<Quant>, shape: &Shape) -> Result<Part> {
    let is_vector = wanted.rows == 1;
    let expected = if is_vector { vec![wanted.cols] } else { vec![wanted.rows, wanted.cols] };
    if stored.shape != expected {
        return Err(Error::Model(format!("tensor {from} has shape {:?}, not {expected:?}", stored.shape)));
    }
    let kind = stored.kind(from)?;
    let is_output = wanted.name == "output" || wanted.name == "token_embd" && shape.is_tied;
    let to = match quant {
        _ if is_vector => TensorType::F32,
        None => kind,
        Some(Quant::F16) => TensorType::F16,
        Some(_) if !wanted.cols.is_multiple_of(BLOCK as u64) => TensorType::F16,
        Some(Quant::Q4_0) if !is_output => TensorType::Q4_0,
        Some(Quant::Q4_0 | Quant::Q8_0) => TensorType::Q8_0,
    };
    let is_norm = is_vector && wanted.name.ends_with("norm");
    let data = Data::Stored {
        file: stored.file,
        offset: stored.offset,
        kind,
        cols: if is_vector { 1 } else { wanted.cols },
        order: wanted.order,
        plus: if shape.family.is_gemma() && is_norm { 1.0 } else { 0.0 },
    };
    let end = if from.ends_with(".bias") { "bias" } else { "weight" };
    let entry = Entry {
        name: format!("{}.{end}", wanted.name),
        kind: to,
        shape: if is_vector { vec![wanted.cols] } else { vec![wanted.cols, wanted.rows] },
        bytes: wanted.rows * wanted.cols / to.block_len() as u64 * to.block_bytes() as u64,
    };
    Ok(Part { entry, data })
}

/// The bytes of the file that we show: the header, then rows as they are asked for.
struct Converted {
    header: Vec<u8>,
    parts: Vec<Part>,
    /// Where each part's data starts.
    offsets: Vec<u64>,
    files: Vec<Source>,
    /// Room for a row, as floats; for what was read; for what was made of it.
    floats: Vec<f32>,
    input: Vec<u8>,
    rows: Vec<u8>,
}

impl RandomBytes for Converted {
    fn read<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(self.fill(offset, buf))
    }
}

impl Converted {
    async fn fill(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        buf.fill(0); // between tensors
        let end = offset + buf.len() as u64;
        let mut put = |start: u64, bytes: &[u8]| {
            // Where `bytes`, which stand at `start`, and the range asked for overlap.
            let (from, to) = (start.max(offset), (start + bytes.len() as u64).min(end));
            if from < to {
                let wanted = &bytes[(from - start) as usize..(to - start) as usize];
                buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(wanted);
            }
        };
        put(0, &self.header);
        // The last part that starts at or before the range, and those after it.
        let first = self.offsets.partition_point(|&start| start <= offset).saturating_sub(1);
        for (part, &start) in self.parts.iter().zip(&self.offsets).skip(first).take_while(|(_, start)| **start < end) {
            let Data::Stored { file, offset: from, kind, cols, order, plus } = part.data else {
                if let Data::Made(bytes) = &part.data {
                    put(start, bytes);
                }
                continue;
            };
            let entry = &part.entry;
            let row_bytes = cols / entry.kind.block_len() as u64 * entry.kind.block_bytes() as u64;
            let rows = entry.bytes / row_bytes;
            let wanted = offset.saturating_sub(start) / row_bytes..(end - start).div_ceil(row_bytes).min(rows);
            self.rows.clear();
            let row_in = cols * kind.block_bytes() as u64;
            // Rows that stand together are read together.
            let together = if order == Order::Same { wanted.end.saturating_sub(wanted.start) } else { 1 };
            for row in wanted.clone().step_by(together.max(1) as usize) {
                self.input.resize((together * row_in) as usize, 0);
                self.files[file].read(from + order.source_row(row) * row_in, &mut self.input).await?;
                for input in self.input.chunks_exact(row_in as usize) {
                    quantize::convert(kind, input, plus, entry.kind, &mut self.floats, &mut self.rows);
                }
            }
            put(start + wanted.start * row_bytes, &self.rows);
        }
        Ok(())
    }
}
