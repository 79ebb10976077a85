//! From tensors in the file to packed buffers, one tensor at a time.
//!
//! [`Directory`] first says which tensor goes where, from the header alone: enough for plans and memory plans.
//! [`Directory::load`] then reads the tensors in the file's order and packs them piece by piece.

use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::gguf::{Gguf, TensorInfo};
use crate::plan::{BufferId, Buffers, Purpose};
use crate::quant::{BLOCK, Layout, TensorType, repack};
use crate::source::Source;

/// Bytes read at once: whole rows, at least one.
const PIECE_BYTES: u64 = 4 << 20;

/// A matrix of packed weights: one tensor, or several with the same columns on top of each other.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// How it is packed.
    pub layout: Layout,
    /// Rows.
    pub rows: u32,
    /// Blocks of 32 columns; the last one is filled up with zeros.
    pub blocks: u32,
    /// The quant plane: `[rows][blocks][words]`.
    pub quants: BufferId,
    /// The scale plane: `[rows][word]`, see [`Layout::row_scales`]; a dummy for layouts without scales.
    pub scales: BufferId,
}

/// A tensor wanted by the forward pass: its name and shape.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// GGUF name.
    pub name: String,
    /// Rows.
    pub rows: u32,
    /// Columns.
    pub cols: u32,
}

#[derive(Clone, Debug)]
struct Placement {
    tensor: TensorInfo,
    kind: TensorType,
    target: Target,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Rows { matrix: Matrix, first_row: u32 },
    Floats(BufferId),
}

/// Which tensor goes where.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    placements: Vec<Placement>,
}

impl Directory {
    /// Places matrices on top of each other. Neighbours of the same layout become one [`Matrix`].
    ///
    /// # Errors
    /// A missing tensor, a wrong shape, a type that we do not run.
    pub fn stack(&mut self, gguf: &Gguf, buffers: &mut Buffers, wanted: &[Wanted]) -> Result<Vec<Matrix>> {
        let found = find_all(gguf, wanted)?;
        let groups = found.chunk_by(|a, b| Layout::for_type(a.kind) == Layout::for_type(b.kind));
        Ok(groups.map(|group| self.place(buffers, group, Layout::for_type(group[0].kind))).collect())
    }

    /// Places matrices on top of each other as one [`Matrix`]; unpacks them to f32 if their layouts differ.
    ///
    /// # Errors
    /// As [`Self::stack`].
    pub fn matrix(&mut self, gguf: &Gguf, buffers: &mut Buffers, wanted: &[Wanted]) -> Result<Matrix> {
        let found = find_all(gguf, wanted)?;
        let first = Layout::for_type(found[0].kind);
        let is_uniform = found.iter().all(|found| Layout::for_type(found.kind) == first);
        Ok(self.place(buffers, &found, if is_uniform { first } else { Layout::F32 }))
    }

    fn place(&mut self, buffers: &mut Buffers, found: &[Found<'_>], layout: Layout) -> Matrix {
        let name =
            found.iter().map(|found| found.tensor.name.trim_end_matches(".weight")).collect::<Vec<_>>().join("+");
        let rows: u32 = found.iter().map(|found| found.wanted.rows).sum();
        let blocks = found[0].wanted.cols.div_ceil(BLOCK as u32);
        let words = u64::from(rows) * u64::from(blocks) * layout.words_per_block() as u64;
        let scale_words = u64::from(rows) * layout.row_scales(blocks as usize) as u64;
        let quants = buffers.add(name.clone(), 4 * words, Purpose::Weights);
        let scales = buffers.add(name + ".scales", 4 * scale_words, Purpose::Weights);
        let matrix = Matrix { layout, rows, blocks, quants, scales };
        let mut first_row = 0;
        for found in found {
            let target = Target::Rows { matrix, first_row };
            self.placements.push(Placement { tensor: found.tensor.clone(), kind: found.kind, target });
            first_row += found.wanted.rows;
        }
        matrix
    }

    /// Places a vector of `length` floats, filled up with zeros to a multiple of 32.
    ///
    /// # Errors
    /// As [`Self::stack`].
    pub fn vector(&mut self, gguf: &Gguf, buffers: &mut Buffers, name: String, length: u32) -> Result<BufferId> {
        let wanted = [Wanted { name, rows: 1, cols: length }];
        let found = &find_all(gguf, &wanted)?[0];
        let padded = length.next_multiple_of(BLOCK as u32);
        let buffer = buffers.add(found.tensor.name.clone(), 4 * u64::from(padded), Purpose::Weights);
        self.placements.push(Placement {
            tensor: found.tensor.clone(),
            kind: found.kind,
            target: Target::Floats(buffer),
        });
        Ok(buffer)
    }

    /// Checks that the file holds nothing else.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it holds a tensor that nothing uses: the model is not what we take it for.
    pub fn check_complete(&self, gguf: &Gguf) -> Result<()> {
        let is_used = |name: &str| self.placements.iter().any(|placement| placement.tensor.name == name);
        match gguf.tensors.iter().find(|tensor| !is_used(&tensor.name)) {
            None => Ok(()),
            Some(tensor) => Err(Error::Unsupported {
                what: format!("tensor {}", tensor.name),
                supported: "the forward pass of this architecture has no use for it".into(),
            }),
        }
    }

    /// The tensors and how they are packed: what the executors read instead of the file's blocks.
    pub fn layouts(&self) -> impl Iterator<Item = (&TensorInfo, Layout)> {
        self.placements.iter().map(|placement| (&placement.tensor, placement.target.layout()))
    }

    /// Bytes of the tensors in the file.
    pub fn file_bytes(&self) -> u64 {
        self.placements.iter().map(|placement| placement.tensor.bytes).sum()
    }

    /// Reads all tensors in the file's order and writes them, packed, to the executor. `progress` gets the bytes done.
    ///
    /// # Errors
    /// Those of the source and the executor.
    pub async fn load(
        &mut self,
        source: &mut Source,
        executor: &mut Executor,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        self.placements.sort_by_key(|placement| placement.tensor.offset);
        let mut done = 0;
        let (mut bytes, mut quants, mut scales) = (Vec::new(), Vec::new(), Vec::new());
        for Placement { tensor, kind, target } in &self.placements {
            let cols = tensor.shape[0];
            let rows = tensor.shape.get(1).copied().unwrap_or(1);
            let row_bytes = tensor.bytes / rows;
            let rows_at_once = (PIECE_BYTES / row_bytes).max(1);
            for row in (0..rows).step_by(rows_at_once as usize) {
                let count = rows_at_once.min(rows - row) as usize;
                bytes.resize(count * row_bytes as usize, 0);
                source.read(tensor.offset + row * row_bytes, &mut bytes).await?;
                let layout = target.layout();
                let cols = cols as usize;
                let (quant_words, scale_words) = (layout.quant_words(1, cols), layout.scale_words(1, cols));
                quants.resize(count * quant_words, 0);
                scales.resize(count * scale_words, 0);
                repack(*kind, &bytes, count, cols, layout, &mut quants, &mut scales);
                let (quants_to, scales_to, first_row) = target.place();
                let at = u64::from(first_row) + row;
                executor.write(quants_to, at * 4 * quant_words as u64, bytemuck::cast_slice(&quants))?;
                if let Some(scales_to) = scales_to.filter(|_| scale_words > 0) {
                    executor.write(scales_to, at * 4 * scale_words as u64, bytemuck::cast_slice(&scales))?;
                }
                done += bytes.len() as u64;
                progress(done);
            }
        }
        Ok(())
    }
}

impl Target {
    fn layout(self) -> Layout {
        match self {
            Self::Rows { matrix, .. } => matrix.layout,
            Self::Floats(_) => Layout::F32,
        }
    }

    fn place(self) -> (BufferId, Option<BufferId>, u32) {
        match self {
            Self::Rows { matrix, first_row } => (matrix.quants, Some(matrix.scales), first_row),
            Self::Floats(buffer) => (buffer, None, 0),
        }
    }
}

struct Found<'a> {
    wanted: &'a Wanted,
    tensor: &'a TensorInfo,
    kind: TensorType,
}

fn find_all<'a>(gguf: &'a Gguf, wanted: &'a [Wanted]) -> Result<Vec<Found<'a>>> {
    wanted.iter().map(|wanted| find(gguf, wanted)).collect()
}

fn find<'a>(gguf: &'a Gguf, wanted: &'a Wanted) -> Result<Found<'a>> {
    let name = &wanted.name;
    let tensor = gguf.tensor(name).ok_or_else(|| Error::Model(format!("tensor {name} is missing")))?;
    let (rows, cols) = (u64::from(wanted.rows), u64::from(wanted.cols));
    let is_right = match tensor.shape[..] {
        [length] => rows == 1 && length == cols,
        [length, count] => length == cols && count == rows,
        _ => false,
    };
    if !is_right {
        return Err(Error::Model(format!("tensor {name} has shape {:?}, not [{cols}, {rows}]", tensor.shape)));
    }
    let kind = tensor.tensor_type()?;
    Ok(Found { wanted, tensor, kind })
}
