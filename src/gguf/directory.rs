//! The directory of tensors: names, types, shapes, and whether their places in the file make sense.

use super::reader::{Reader, grow};
use super::{MAX_NAME_BYTES, Shown, TensorInfo, broken};
use crate::error::Result;
use crate::quant::GgmlType;

/// Bytes of the shortest entry: length, one byte of name, number of dimensions, one dimension, type, offset.
pub(super) const MIN_ENTRY_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;
/// ggml's limit (`GGML_MAX_DIMS`).
const MAX_DIMS: u32 = 4;

/// A tensor as read; its offset still counts from the start of the data.
pub(super) struct Entry {
    tensor: TensorInfo,
    /// Where the entry's offset field stands, for error messages.
    offset_field: u64,
    /// Where the entry stands.
    start: u64,
}

/// Reads `count` entries.
pub(super) async fn read(reader: &mut Reader<'_>, count: u64) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for index in 0..count {
        let entry = read_entry(reader, index).await?;
        grow(&mut entries, count.saturating_sub(index));
        entries.push(entry);
    }
    Ok(entries)
}

async fn read_entry(reader: &mut Reader<'_>, index: u64) -> Result<Entry> {
    let start = reader.position();
    let name = reader.name(MAX_NAME_BYTES, format_args!("name of tensor {index}")).await?;
    let shown = Shown(&name);

    let at = reader.position();
    let n_dims = reader.number::<u32>(format_args!("tensor {shown}: number of dimensions")).await?;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        let reason = format!("{n_dims}, not 1 to {MAX_DIMS}");
        return Err(broken(format_args!("tensor {shown}: number of dimensions"), at, reason));
    }
    let shape_at = reader.position();
    let mut shape = Vec::new();
    for dimension in 0..n_dims {
        let at = reader.position();
        let size = reader.number::<u64>(format_args!("tensor {shown}: dimension {dimension}")).await?;
        if size == 0 {
            return Err(broken(format_args!("tensor {shown}: dimension {dimension}"), at, "it is zero"));
        }
        shape.push(size);
    }

    let kind = GgmlType(reader.number(format_args!("tensor {shown}: type")).await?);
    let bytes = bytes_of(kind, &shape)
        .map_err(|reason| broken(format_args!("tensor {shown}: shape {shape:?} of type {kind}"), shape_at, reason))?;
    let offset_field = reader.position();
    let offset = reader.number(format_args!("tensor {shown}: offset")).await?;
    Ok(Entry { tensor: TensorInfo { name, kind, shape, offset, bytes }, offset_field, start })
}

/// Bytes of a tensor; 0 if the type is not known.
fn bytes_of(kind: GgmlType, shape: &[u64]) -> std::result::Result<u64, &'static str> {
    const TOO_LARGE: &str = "its size does not fit in 64 bits";
    let elements = shape.iter().try_fold(1, |product: u64, size| product.checked_mul(*size)).ok_or(TOO_LARGE)?;
    let Some((block_len, block_bytes)) = kind.block() else {
        return Ok(0);
    };
    let cols = shape.first().copied().unwrap_or(1);
    if cols.checked_rem(block_len) != Some(0) {
        return Err("columns are not a multiple of the type's block");
    }
    elements.checked_div(block_len).and_then(|blocks| blocks.checked_mul(block_bytes)).ok_or(TOO_LARGE)
}

/// Turns offsets into those in the file and checks them. Returns the tensors in the order of their data, and indices
/// into them in the order of their names. `file_len` is `None` where it cannot be known.
pub(super) fn place(
    mut entries: Vec<Entry>,
    data_offset: u64,
    alignment: u64,
    file_len: Option<u64>,
) -> Result<(Vec<TensorInfo>, Vec<usize>)> {
    for entry in &mut entries {
        let tensor = &mut entry.tensor;
        let name = Shown(&tensor.name);
        let wrong = |reason: String| Err(broken(format_args!("tensor {name}: offset"), entry.offset_field, reason));
        if !tensor.offset.is_multiple_of(alignment) {
            return wrong(format!("{} is not a multiple of the alignment {alignment}", tensor.offset));
        }
        let start = data_offset.checked_add(tensor.offset);
        let Some((start, end)) = start.and_then(|start| Some((start, start.checked_add(tensor.bytes)?))) else {
            return wrong(format!("{} + {} bytes do not fit in 64 bits", tensor.offset, tensor.bytes));
        };
        if let Some(len) = file_len.filter(|len| end > *len) {
            return wrong(format!("its data would be bytes {start} to {end}, but the file ends at byte {len}"));
        }
        tensor.offset = start;
    }

    entries.sort_unstable_by_key(|entry| (entry.tensor.offset, entry.tensor.bytes));
    for (before, after) in entries.iter().zip(entries.iter().skip(1)) {
        let end = before.tensor.offset.saturating_add(before.tensor.bytes);
        if end > after.tensor.offset {
            let name = Shown(&after.tensor.name);
            let reason = format!("overlaps the data of {}, which ends at byte {end}", Shown(&before.tensor.name));
            return Err(broken(format_args!("tensor {name}: offset"), after.offset_field, reason));
        }
    }

    let name = |index: &usize| entries.get(*index).map_or("", |entry| entry.tensor.name.as_str());
    let mut by_name: Vec<usize> = (0..entries.len()).collect();
    by_name.sort_unstable_by_key(|index| name(index));
    for (first, second) in by_name.iter().zip(by_name.iter().skip(1)) {
        if name(first) == name(second) {
            let starts = [first, second].map(|index| entries.get(*index).map_or(0, |entry| entry.start));
            let reason = format!("duplicate of the tensor at byte {}", starts[0].min(starts[1]));
            return Err(broken(format_args!("tensor {}", Shown(name(first))), starts[0].max(starts[1]), reason));
        }
    }
    Ok((entries.into_iter().map(|entry| entry.tensor).collect(), by_name))
}
