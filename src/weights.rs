//! From tensors in the file to packed buffers, one tensor at a time.
//!
//! [`Directory`] first says which tensor goes where, from the header alone: enough for plans and memory plans.
//! [`Directory::load`] then reads the tensors in the file's order and packs them piece by piece.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::gguf::{Gguf, TensorInfo};
use crate::plan::{BufferId, Buffers, Purpose};
use crate::quant::{BLOCK, Layout, TensorType, repack};
use crate::random;
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
    /// Words of the two buffers before those of this matrix: of another one, which shares them.
    pub before: [u64; 2],
}

impl Matrix {
    /// Words of the quant plane and of the scale plane.
    pub fn words(&self) -> [u64; 2] {
        words(self.layout, self.rows, self.blocks)
    }
}

fn words(layout: Layout, rows: u32, blocks: u32) -> [u64; 2] {
    let blocks = blocks as usize;
    [blocks * layout.words_per_block(), layout.row_scales(blocks)].map(|words| u64::from(rows) * words as u64)
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
    /// Which rows of the tensor.
    rows: Range<u64>,
    target: Target,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Rows {
        matrix: Matrix,
        first_row: u32,
    },
    /// From this float of the buffer on.
    Floats {
        buffer: BufferId,
        first: u64,
    },
}

/// Which tensor goes where.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    placements: Vec<Placement>,
}

impl Directory {
    /// Places matrices on top of each other. Neighbours of the same layout become one [`Matrix`]; each two of those share their
    /// buffers, so that a dispatch binds both.
    ///
    /// # Errors
    /// A missing tensor, a wrong shape, a type that we do not run.
    pub fn stack(&mut self, gguf: &Gguf, buffers: &mut Buffers, wanted: &[Wanted]) -> Result<Vec<Matrix>> {
        let found = find_all(gguf, wanted)?;
        let groups = found.chunk_by(|a, b| Layout::for_type(a.kind) == Layout::for_type(b.kind));
        let groups: Vec<_> = groups.map(|group| (group, Layout::for_type(group[0].kind))).collect();
        Ok(groups.chunks(2).flat_map(|two| self.place_together(buffers, two)).collect())
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

    /// Places one matrix, cut into as few parts as fit into bindings of `binding_bytes`, each of an even number of rows: whole
    /// `vec4`s in every layout.
    ///
    /// # Errors
    /// As [`Self::stack`].
    pub fn parts(
        &mut self,
        gguf: &Gguf,
        buffers: &mut Buffers,
        wanted: &Wanted,
        binding_bytes: u64,
    ) -> Result<Vec<Matrix>> {
        let found = find(gguf, wanted)?;
        let layout = Layout::for_type(found.kind);
        let row_bytes = 4 * layout.quant_words(1, wanted.cols as usize) as u64;
        let most = (binding_bytes / row_bytes / 2 * 2).clamp(2, u64::from(u32::MAX - 1));
        let rows = 0..u64::from(wanted.rows);
        let parts = rows
            .clone()
            .step_by(most as usize)
            .map(|row| Found { rows: row..(row + most).min(rows.end), ..found.clone() });
        Ok(parts.map(|part| self.place(buffers, &[part], layout)).collect())
    }

    /// Checks that the file has a tensor.
    ///
    /// # Errors
    /// [`Error::Model`] that names it.
    pub fn require(&self, gguf: &Gguf, name: &str) -> Result<()> {
        require(gguf, name).map(|_| ())
    }

    fn place(&mut self, buffers: &mut Buffers, found: &[Found<'_>], layout: Layout) -> Matrix {
        self.place_together(buffers, &[(found, layout)])[0]
    }

    /// Places matrices behind each other in the same two buffers, each of an even number of rows: whole `vec4`s in every layout.
    fn place_together(&mut self, buffers: &mut Buffers, groups: &[(&[Found<'_>], Layout)]) -> Vec<Matrix> {
        let all = groups.iter().flat_map(|(found, _)| *found);
        let name = all.map(|found| found.tensor.name.trim_end_matches(".weight")).collect::<Vec<_>>().join("+");
        let blocks = groups[0].0[0].wanted.cols.div_ceil(BLOCK as u32);
        let rows: Vec<u32> = groups.iter().map(|(found, _)| found.iter().map(Found::row_count).sum()).collect();
        let mut before = vec![[0; 2]];
        for (rows, (_, layout)) in rows.iter().zip(groups) {
            let ([quants, scales], more) = (before[before.len() - 1], words(*layout, *rows, blocks));
            before.push([quants + more[0], scales + more[1]]);
        }
        let [all_quants, all_scales] = before[groups.len()];
        let quants = buffers.add(name.clone(), 4 * all_quants, Purpose::Weights);
        let scales = buffers.add(name + ".scales", 4 * all_scales, Purpose::Weights);
        let mut matrices = vec![];
        for (((found, layout), rows), before) in groups.iter().zip(rows).zip(before) {
            let matrix = Matrix { layout: *layout, rows, blocks, quants, scales, before };
            let mut first_row = 0;
            for found in *found {
                self.placements.push(found.at(Target::Rows { matrix, first_row }));
                first_row += found.row_count();
            }
            matrices.push(matrix);
        }
        matrices
    }

    /// Places vectors of floats behind each other, each filled up with zeros to a multiple of `align`. Those that the
    /// file does not have stay zero.
    ///
    /// # Errors
    /// As [`Self::stack`].
    pub fn vectors(
        &mut self,
        gguf: &Gguf,
        buffers: &mut Buffers,
        wanted: &[(String, u32)],
        align: usize,
    ) -> Result<BufferId> {
        let ends = wanted.iter().scan(0_u64, |end, (_, length)| {
            *end += u64::from(*length).next_multiple_of(align as u64);
            Some(*end)
        });
        let ends: Vec<u64> = ends.collect();
        let name = wanted.iter().map(|(name, _)| name.trim_end_matches(".weight")).collect::<Vec<_>>().join("+");
        let buffer = buffers.add(name, 4 * ends.last().copied().unwrap_or(0), Purpose::Weights);
        for ((name, length), first) in wanted.iter().zip([0].iter().chain(&ends)) {
            if gguf.tensor(name).is_some() {
                let wanted = [Wanted { name: name.clone(), rows: 1, cols: *length }];
                let found = &find_all(gguf, &wanted)?[0];
                let target = Target::Floats { buffer, first: *first };
                self.placements.push(found.at(target));
            }
        }
        Ok(buffer)
    }

    /// Places a vector of `length` floats, filled up with zeros to a multiple of 32.
    ///
    /// # Errors
    /// As [`Self::stack`].
    pub fn vector(&mut self, gguf: &Gguf, buffers: &mut Buffers, name: String, length: u32) -> Result<BufferId> {
        require(gguf, &name)?;
        self.vectors(gguf, buffers, &[(name, length)], BLOCK)
    }

    /// Checks that the file holds nothing else but perhaps the `unused`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it holds a tensor that nothing uses: the model is not what we take it for.
    pub fn check_complete(&self, gguf: &Gguf, unused: &[&str]) -> Result<()> {
        let is_used = |name: &str| {
            unused.contains(&name) || self.placements.iter().any(|placement| placement.tensor.name == name)
        };
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
        // a tensor in several parts counts once
        let first_parts = self.placements.iter().filter(|placement| placement.rows.start == 0);
        first_parts.map(|placement| placement.tensor.bytes).sum()
    }

    /// Fills the matrices with random weights and the norms' gains with ones; biases stay zero. See [`crate::random`].
    ///
    /// # Errors
    /// As [`random::fill`].
    pub(crate) fn fill(&self, executor: &mut Executor, seed: u32) -> Result<()> {
        let first = seed.wrapping_mul(0x9e37_79b9); // seeds that follow each other lie far apart
        for (n, Placement { tensor, target, rows, .. }) in (1..).zip(&self.placements) {
            match *target {
                // Matrices on top of each other are one.
                Target::Rows { matrix, first_row: 0 } => {
                    random::fill(&matrix, executor, first.wrapping_add(n).max(1))?;
                }
                Target::Rows { .. } => {}
                Target::Floats { .. } if tensor.name.ends_with(".bias") => {}
                Target::Floats { buffer, first } => {
                    let ones = vec![1.0_f32; (tensor.cols() * (rows.end - rows.start)) as usize];
                    executor.write(buffer, 4 * first, bytemuck::cast_slice(&ones))?;
                }
            }
        }
        Ok(())
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
        for Placement { tensor, kind, rows: of_tensor, target } in &self.placements {
            let cols = tensor.shape[0];
            let rows = tensor.shape.get(1).copied().unwrap_or(1);
            let row_bytes = tensor.bytes / rows;
            let rows_at_once = (PIECE_BYTES / row_bytes).max(1);
            for row in of_tensor.clone().step_by(rows_at_once as usize) {
                let count = rows_at_once.min(of_tensor.end - row) as usize;
                bytes.resize(count * row_bytes as usize, 0);
                source.read(tensor.offset + row * row_bytes, &mut bytes).await?;
                let layout = target.layout();
                let cols = cols as usize;
                let (quant_words, scale_words) = (layout.quant_words(1, cols), layout.scale_words(1, cols));
                quants.resize(count * quant_words, 0);
                scales.resize(count * scale_words, 0);
                repack(*kind, &bytes, count, cols, layout, &mut quants, &mut scales);
                match *target {
                    Target::Floats { buffer, first } => {
                        executor.write(buffer, 4 * first, bytemuck::cast_slice(&quants[..cols]))?;
                    }
                    Target::Rows { matrix, first_row } => {
                        let at = u64::from(first_row) + row - of_tensor.start;
                        let [first_quant, first_scale] = matrix.before;
                        let to = 4 * (first_quant + at * quant_words as u64);
                        executor.write(matrix.quants, to, bytemuck::cast_slice(&quants))?;
                        if scale_words > 0 {
                            let to = 4 * (first_scale + at * scale_words as u64);
                            executor.write(matrix.scales, to, bytemuck::cast_slice(&scales))?;
                        }
                    }
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
            Self::Floats { .. } => Layout::F32,
        }
    }
}

#[derive(Clone)]
struct Found<'a> {
    wanted: &'a Wanted,
    tensor: &'a TensorInfo,
    kind: TensorType,
    rows: Range<u64>,
}

impl Found<'_> {
    fn row_count(&self) -> u32 {
        (self.rows.end - self.rows.start) as u32
    }

    fn at(&self, target: Target) -> Placement {
        Placement { tensor: self.tensor.clone(), kind: self.kind, rows: self.rows.clone(), target }
    }
}

fn find_all<'a>(gguf: &'a Gguf, wanted: &'a [Wanted]) -> Result<Vec<Found<'a>>> {
    wanted.iter().map(|wanted| find(gguf, wanted)).collect()
}

fn require<'a>(gguf: &'a Gguf, name: &str) -> Result<&'a TensorInfo> {
    gguf.tensor(name).ok_or_else(|| Error::Model(format!("tensor {name} is missing")))
}

fn find<'a>(gguf: &'a Gguf, wanted: &'a Wanted) -> Result<Found<'a>> {
    let name = &wanted.name;
    let tensor = require(gguf, name)?;
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
    Ok(Found { wanted, tensor, kind, rows: 0..rows })
}
