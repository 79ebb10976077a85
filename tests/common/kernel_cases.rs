//! Every kernel on the GPU against its CPU twin, at awkward sizes, with fixed seeds.
//!
//! Included by `tests/kernels.rs` and by the browser's tests: no files, no threads, no clock.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "part of a test, included by path")]

use bytemuck::{Pod, Zeroable, bytes_of, cast_slice};
use half::f16;
use sinkstream::executor::cpu::CpuExecutor;
use sinkstream::executor::gpu::GpuExecutor;
use sinkstream::gpu::Gpu;
use sinkstream::kernel::{Access, Kernel, Tier, Variant, WORKGROUP};
use sinkstream::kernels::activation::Activation;
use sinkstream::kernels::cache::CacheType;
use sinkstream::kernels::rope::turns_per_position;
use sinkstream::kernels::{
    attention, embed, gate_up, head_norm, linear, matmul, memory, memory_fold, memory_read, nll, probe, project, qkv,
    sample,
};
use sinkstream::plan::{BufferId, Buffers, Column, ColumnsHeader, Dispatch, MAX_COLUMNS, Plan, Purpose};
use sinkstream::quant::{BLOCK, Layout};

/// What was compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub cases: usize,
    pub values: usize,
    /// How many of the values were compared bit for bit.
    pub exact: usize,
}

/// A kernel's name and its cases.
pub type Suite = (&'static str, fn() -> Cases);

/// One suite a kernel.
pub const SUITES: [Suite; 12] = [
    ("embed", embed_cases),
    ("qkv", qkv_cases),
    ("head_norm", head_norm_cases),
    ("attention", attention_cases),
    ("memory_read", memory_read_cases),
    ("memory_fold", memory_fold_cases),
    ("project", project_cases),
    ("gate_up", gate_up_cases),
    ("linear", linear_cases),
    ("nll", nll_cases),
    ("sample", sample_cases),
    ("probe", probe_cases),
];

/// How the words of an output are to be compared.
#[derive(Clone, Copy, Debug)]
pub enum Compare {
    /// Bit for bit.
    Exact,
    /// Not at all: what is only passed on.
    Nothing,
    /// As f32, to this part of the largest value.
    Float(f32),
    /// As logarithms near 0, which are differences of larger numbers: to this part of the largest value, but at least of 1.
    Logarithms(f32),
    /// As pairs of f16 that were rounded from nearly equal f32: one in fifty may differ, and by one unit at most, or by what f32
    /// sums as large as the largest value are off.
    Halves,
    /// As pairs of f16, to this part of the largest value.
    RoughHalves(f32),
}

/// Dispatches with their data, all on one set of buffers so that they share one executor and its pipelines.
#[derive(Debug, Default)]
pub struct Cases {
    buffers: Buffers,
    plans: Vec<Plan>,
    cases: Vec<Case>,
}

#[derive(Debug)]
struct Case {
    name: String,
    plan: usize,
    times: u32,
    data: Vec<(BufferId, Vec<u8>)>,
    outputs: Vec<(BufferId, Compare)>,
    /// Whether a software adapter, which contracts nothing, must get the twin's bits.
    has_equal_bits: bool,
}

/// A binding's data, and how to compare it if the kernel writes it.
struct Bound(Vec<u8>, Compare);

fn input<T: Pod>(values: &[T]) -> Bound {
    Bound(cast_slice(values).to_vec(), Compare::Exact)
}

fn output<T: Pod>(values: &[T], compare: Compare) -> Bound {
    Bound(cast_slice(values).to_vec(), compare)
}

impl Cases {
    /// Adds a dispatch with a buffer of its own for every binding.
    fn push<P: Pod>(
        &mut self,
        name: String,
        kernel: &'static Kernel,
        params: &P,
        bound: Vec<Bound>,
        overrides: &[(&'static str, u32)],
        workgroups: [u32; 3],
    ) {
        self.push_variant(name, kernel, Variant::Plain, params, bound, overrides, workgroups);
    }

    #[allow(clippy::too_many_arguments, reason = "what makes a case")]
    fn push_variant<P: Pod>(
        &mut self,
        name: String,
        kernel: &'static Kernel,
        variant: Variant,
        params: &P,
        bound: Vec<Bound>,
        overrides: &[(&'static str, u32)],
        workgroups: [u32; 3],
    ) {
        let lanes = overrides.iter().find(|(name, _)| *name == "LANES").map_or(1, |(_, lanes)| *lanes);
        // Compilers turn GELU's polynomials around: only with SiLU, or nothing, are the bits promised.
        let is_gelu = overrides.iter().any(|(name, value)| *name == "ACTIVATION" && *value > Activation::Silu as u32);
        let has_equal_bits =
            variant == Variant::Plain && lanes == 1 && !is_gelu && !["nll", "sample"].contains(&kernel.name);
        let mut case = Case { name, plan: self.plans.len(), times: 1, data: vec![], outputs: vec![], has_equal_bits };
        assert_eq!(kernel.bindings.len(), bound.len() + 1, "bindings of {kernel:?}");
        for (binding, Bound(bytes, compare)) in kernel.bindings[1..].iter().zip(bound) {
            let id = self.buffers.add(binding.name, bytes.len() as u64, Purpose::Work);
            case.data.push((id, bytes));
            if binding.access == Access::Write {
                case.outputs.push((id, compare));
            }
        }
        let dispatch = Dispatch {
            kernel,
            variant,
            label: case.name.clone(),
            params: bytes_of(params).to_vec(),
            buffers: case.data.iter().map(|(id, _)| *id).collect(),
            overrides: overrides.to_vec(),
            workgroups,
        };
        self.plans.push(Plan { name: case.name.clone(), columns: 1, dispatches: vec![dispatch] });
        self.cases.push(case);
    }

    /// Adds a dispatch to the last case, whose buffer `shared.1` it reads as buffer `shared.0`; what it writes is compared.
    #[allow(clippy::too_many_arguments, reason = "what makes a case")]
    fn follow<P: Pod>(
        &mut self,
        kernel: &'static Kernel,
        variant: Variant,
        params: &P,
        bound: Vec<Bound>,
        overrides: &[(&'static str, u32)],
        workgroups: [u32; 3],
        shared: (usize, BufferId),
    ) {
        self.push_variant(String::new(), kernel, variant, params, bound, overrides, workgroups);
        let (mut case, mut plan) = (self.cases.pop().expect("just added"), self.plans.pop().expect("just added"));
        case.data.remove(shared.0);
        let mut dispatch = plan.dispatches.remove(0);
        dispatch.buffers[shared.0] = shared.1;
        let (first, plan) = (self.cases.last_mut().expect("a case"), self.plans.last_mut().expect("its plan"));
        first.data.extend(case.data);
        first.outputs.extend(case.outputs);
        plan.dispatches.push(dispatch);
    }

    /// Those that the tier `matrix` computes otherwise, or every so many of them. It rounds weights to f16.
    #[allow(dead_code, reason = "no browser has that tier")]
    pub fn tiled(mut self, every: usize) -> Self {
        let differs = |dispatch: &Dispatch| dispatch.kernel.differs(dispatch.variant, Tier::Matrix);
        let mut number = 0;
        self.retain(|dispatches| {
            let is_tiled = dispatches.iter().any(differs);
            number += usize::from(is_tiled);
            is_tiled && number % every == 1 % every
        });
        for (_, compare) in self.cases.iter_mut().flat_map(|case| &mut case.outputs) {
            *compare = match *compare {
                Compare::Float(_) => Compare::Float(ROUGH),
                Compare::Halves => Compare::RoughHalves(ROUGH),
                other => other,
            };
        }
        self
    }

    /// What browsers run, where a pipeline takes up to three seconds to compile: so few pipelines as have every value that any
    /// case gives a constant, for each kernel and variant, and all cases that need no others. So each variant meets each layout,
    /// each number of lanes and of columns, each activation; not each pair of these, which natively all are there. Where hundreds
    /// share one pipeline it is every eleventh of them.
    #[allow(dead_code, reason = "natively all are run")]
    pub fn of_every_constant(mut self) -> Self {
        // How many weights come first is any number: it matters that there are some.
        let value = |&(name, value): &(&'static str, u32)| (name, if name.starts_with("FIRST_") { 1 } else { value });
        let (mut met, mut pipelines) = (vec![], vec![]);
        loop {
            let new = |plan: &Plan| {
                let values = plan.dispatches.iter().flat_map(|Dispatch { kernel, variant, overrides, .. }| {
                    let constants = overrides.iter().map(value).chain([("", 0)]); // some kernels have none
                    constants.map(|constant| (kernel.name, *variant, constant))
                });
                values.filter(|value| !met.contains(value)).collect::<Vec<_>>()
            };
            let Some(most) = self.plans.iter().max_by_key(|plan| new(plan).len()) else { break };
            let values = new(most);
            if values.is_empty() {
                break;
            }
            met.extend(values);
            pipelines.extend(most.dispatches.iter().map(pipeline_of));
        }
        self.retain(|dispatches| dispatches.iter().all(|dispatch| pipelines.contains(&pipeline_of(dispatch))));
        let (every, mut number) = (if self.cases.len() / pipelines.len() > 100 { 11 } else { 1 }, 0);
        self.retain(|_| {
            number += 1;
            number % every == 0
        });
        self
    }

    /// Without integers where they do not run, or not in workgroups of so many invocations.
    #[allow(dead_code, reason = "browsers have none")]
    pub fn within(mut self, gpu: &Gpu) -> Self {
        let most = if gpu.invocations() == 0 { 0 } else { gpu.limits().max_compute_invocations_per_workgroup };
        let is_within = |dispatch: &Dispatch| match dispatch.variant {
            Variant::Integers | Variant::SplitIntegers => {
                dispatch.overrides.iter().all(|(name, value)| *name != "WORKGROUP" || *value <= most)
            }
            _ => true,
        };
        self.retain(|dispatches| dispatches.iter().all(is_within));
        self
    }

    /// Keeps the cases whose dispatches are wanted, and their plans.
    fn retain(&mut self, mut is_wanted: impl FnMut(&[Dispatch]) -> bool) {
        self.cases.retain(|case| is_wanted(&self.plans[case.plan].dispatches));
        for (at, case) in self.cases.iter_mut().enumerate() {
            self.plans.swap(at, case.plan); // it is at its place or behind it
            case.plan = at;
        }
        self.plans.truncate(self.cases.len());
    }

    /// Runs all cases on both executors.
    ///
    /// # Errors
    /// The first case and index that differ.
    pub async fn check(self, gpu: &Gpu) -> Result<Summary, String> {
        let text = |error: sinkstream::Error| error.to_string();
        let mut cpu = CpuExecutor::new(&self.buffers, self.plans.clone(), None).map_err(text)?;
        let is_software = gpu.is_software();
        let mut gpu = GpuExecutor::new(gpu.clone(), &self.buffers, self.plans).await.map_err(text)?;
        let mut summary = Summary::default();
        for case in &self.cases {
            for (id, bytes) in &case.data {
                cpu.write(*id, 0, bytes);
                gpu.write(*id, 0, bytes).map_err(text)?;
            }
            cpu.run(case.plan, case.times);
            gpu.run(case.plan, case.times).map_err(text)?;
            for (id, compare) in &case.outputs {
                let spec = self.buffers.spec(*id);
                let mut expected = vec![0_u32; spec.bytes as usize / 4];
                let mut found = expected.clone();
                cpu.read(*id, 0, bytemuck::cast_slice_mut(&mut expected));
                gpu.read(*id, 0, bytemuck::cast_slice_mut(&mut found)).await.map_err(text)?;
                let is_exact = is_software && case.has_equal_bits;
                let compare = match *compare {
                    _ if is_exact => Compare::Exact,
                    Compare::Float(part) if !is_software => Compare::Float(CONTRACTED * part),
                    compare => compare,
                };
                summary.exact += if is_exact { expected.len() } else { 0 };
                compare.check(&expected, &found).map_err(|what| format!("{}, {}: {what}", case.name, spec.name))?;
                summary.values += expected.len();
            }
            summary.cases += 1;
        }
        Ok(summary)
    }
}

/// What decides which pipeline a dispatch needs.
fn pipeline_of(dispatch: &Dispatch) -> (&'static str, Variant, Vec<(&'static str, u32)>) {
    (dispatch.kernel.name, dispatch.variant, dispatch.overrides.clone())
}

/// How many times more than on software adapters results may be off on GPUs that contract multiplications and additions: a
/// quant's offset, subtracted from its product, leaves what the two were rounded by, and activations make it larger.
const CONTRACTED: f32 = 20.0;
/// What products of numbers rounded to f16 may be off, as a part of the largest: a few times 2^-12.
const ROUGH: f32 = 1e-3;

impl Compare {
    fn check(self, expected: &[u32], found: &[u32]) -> Result<(), String> {
        let words = expected.len();
        let different = expected.iter().zip(found).filter(|(a, b)| a != b).count();
        let differs = |at: usize, expected: &dyn std::fmt::Debug, found: &dyn std::fmt::Debug| {
            Err(format!("word {at} of {words}, one of {different}: twin {expected:?}, GPU {found:?}"))
        };
        match self {
            Self::Nothing => Ok(()),
            Self::Exact => match expected.iter().zip(found).position(|(a, b)| a != b) {
                Some(at) => differs(at, &expected[at], &found[at]),
                None => Ok(()),
            },
            Self::RoughHalves(part) => {
                let floats = |words: &[u32]| {
                    let halves = cast_slice::<u32, u16>(words).iter();
                    halves.map(|half| f16::from_bits(*half).to_f32().to_bits()).collect::<Vec<_>>()
                };
                Self::Float(part).check(&floats(expected), &floats(found))
            }
            Self::Float(part) | Self::Logarithms(part) => {
                let floats = |words: &[u32]| words.iter().map(|word| f32::from_bits(*word)).collect::<Vec<_>>();
                let (expected, found) = (floats(expected), floats(found));
                let least = if matches!(self, Self::Logarithms(_)) { 1.0 } else { 0.0_f32 };
                let largest = expected.iter().fold(least, |most, x| most.max(x.abs()));
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= part * largest || a.is_nan() && b.is_nan();
                match expected.iter().zip(&found).position(|pair| !close(pair)) {
                    Some(at) => differs(at, &expected[at], &found[at]),
                    None => Ok(()),
                }
            }
            Self::Halves => {
                let halves = |words: &[u32]| cast_slice::<u32, u16>(words).to_vec();
                let (expected, found) = (halves(expected), halves(found));
                let size = |bits: &u16| f16::from_bits(*bits).to_f32().abs();
                let rounding = 5e-6 * expected.iter().map(size).fold(0.0, f32::max); // of the sums before
                let mut different = 0;
                for (at, (a, b)) in expected.iter().zip(&found).enumerate() {
                    different += usize::from(a != b);
                    let (x, y) = (f16::from_bits(*a).to_f32(), f16::from_bits(*b).to_f32());
                    if (x - y).abs() > x.abs() / 1000.0 + rounding + 1e-6 || different > 3 + expected.len() / 50 {
                        return differs(at / 2, &x, &y);
                    }
                }
                Ok(())
            }
        }
    }
}

/// A small random number generator (splitmix64): the same cases everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }

    /// Below `end`.
    pub fn below(&mut self, end: u32) -> u32 {
        self.word() % end
    }

    /// Uniform in ±`size`.
    pub fn float(&mut self, size: f32) -> f32 {
        (self.word() >> 8) as f32 / 8_388_608.0 * size - size
    }

    pub fn floats(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|_| self.float(size)).collect()
    }
}

/// Random packed weights: quants and scales. Scales may be subnormal, weights are not: hardware may flush those.
fn weights(random: &mut Random, layout: Layout, rows: usize, blocks: usize) -> (Vec<u32>, Vec<u32>) {
    let half = |random: &mut Random, size: f32| {
        let value = random.float(size);
        u32::from(f16::from_f32(if value.abs() < 1e-3 { 0.0 } else { value }).to_bits())
    };
    let scale = |random: &mut Random| match random.below(8) {
        0 => u32::from(f16::from_f32(random.float(6e-5)).to_bits()),
        _ => u32::from(f16::from_f32(random.float(0.02)).to_bits()),
    };
    let words = rows * blocks * layout.words_per_block();
    let quants = (0..words)
        .map(|_| match layout {
            Layout::F32 => random.float(1.0).to_bits(),
            Layout::F16 => half(random, 1.0) | half(random, 1.0) << 16,
            Layout::Bf16 => random.float(1.0).to_bits() >> 16 | random.float(1.0).to_bits() & 0xffff_0000,
            _ => random.word(),
        })
        .collect();
    // A super-block has one word of two f16, then words of four i8.
    let super_words = match layout {
        Layout::K8By32 | Layout::K4By32 => 5,
        Layout::K6By16 | Layout::K4By16 => 9,
        _ => 1,
    };
    let scale_words = layout.scale_words(rows, blocks * BLOCK).max(4);
    let scales = (0..scale_words).map(|at| match at % super_words {
        0 => scale(random) | scale(random) << 16,
        _ => random.word(),
    });
    (quants, scales.collect())
}

/// Planes of packed weights as `embed` and `linear` bind them: the first rows, what follows if there are any, and what says so.
struct Parts {
    first: [Bound; 2],
    more: [Bound; 2],
    overrides: Vec<(&'static str, u32)>,
}

impl Parts {
    /// Cut behind so many rows, an even number; 0 leaves them in one part.
    fn new((quants, scales): &(Vec<u32>, Vec<u32>), layout: Layout, blocks: usize, rows: usize) -> Self {
        let nothing = [0; 4];
        if rows == 0 {
            let [first, more] = [[&quants[..], scales], [&nothing, &nothing]].map(|planes| planes.map(input));
            return Self { first, more, overrides: vec![] };
        }
        let words = rows * blocks * layout.words_per_block();
        let scale_words = rows * layout.row_scales(blocks);
        let (quants, scales) = (quants.split_at(words), scales.split_at(scale_words));
        // The buffer may be larger than the part.
        let first = [[quants.0, &nothing].concat(), [scales.0, &nothing].concat()].map(|plane| input(&plane));
        let overrides = vec![("FIRST_QUANTS", words as u32 / 4), ("FIRST_SCALES", scale_words as u32)];
        Self { first, more: [quants.1, scales.1].map(input), overrides }
    }

    /// Two matrices of these layouts and rows, an even number, behind each other.
    fn two(random: &mut Random, [first, other]: [(Layout, usize); 2], blocks: usize) -> Self {
        let nothing = [0; 4];
        let [mut a, b] = [first, other].map(|(layout, rows)| weights(random, layout, rows, blocks));
        a.1.truncate(first.1 * first.0.row_scales(blocks)); // what has no scales came with some
        let sizes = [("FIRST_QUANTS", a.0.len() as u32 / 4), ("FIRST_SCALES", a.1.len() as u32)];
        let overrides = [&sizes[..], &[("OTHER_LAYOUT", other.0 as u32)]].concat();
        let first = [[a.0, b.0].concat(), [a.1, b.1].concat()].map(|plane| input(&plane));
        Self { first, more: [input(&nothing), input(&nothing)], overrides }
    }
}

/// Columns of activations, zero behind `width`.
fn activations(random: &mut Random, columns: usize, width: usize, stride: usize) -> Vec<f32> {
    (0..columns * stride).map(|i| if i % stride < width { random.float(2.0) } else { 0.0 }).collect()
}

/// The buffer of `columns`: those given are in use, the others hold nonsense.
fn columns_buffer(active: &[Column]) -> Vec<u8> {
    let mut all = vec![Column { token: 7, position: 9, ..Column::default() }; MAX_COLUMNS as usize];
    all[..active.len()].copy_from_slice(active);
    let header = ColumnsHeader { active: active.len() as u32, pad: [0; 3] };
    [bytes_of(&header), cast_slice(&all)].concat()
}

fn columns_of(active: &[Column]) -> Bound {
    Bound(columns_buffer(active), Compare::Exact)
}

/// Whether there are products with integers: not in browsers.
fn has_integers() -> bool {
    !sinkstream::platform::MATVEC_INTEGERS.is_empty()
}

/// How a matrix product is cut up.
#[derive(Clone, Copy, Debug)]
struct Cut {
    layout: Layout,
    lanes: u32,
    /// Columns of the plan and of those in use.
    columns: (u32, u32),
    /// Columns of a workgroup.
    tile: u32,
    variant: Variant,
    /// Other flags than those that its other numbers lead to.
    shift: u32,
}

impl Cut {
    /// The constants, and of the norm, the bias and the activation those that the kernel has. These go with the cut, so
    /// that every value meets every layout without more pipelines.
    fn overrides(self, kernel: &Kernel) -> Vec<(&'static str, u32)> {
        let mut overrides = vec![("LAYOUT", self.layout as u32)];
        match self.variant {
            Variant::Plain => overrides.extend([("LANES", self.lanes), ("COLUMNS", self.tile)]),
            Variant::Integers => {
                // Lanes with several blocks of a tile and with none, workgroups of no power of two; with 64 lanes up to four words of
                // inputs an invocation.
                let stage = match (self.lanes, self.is_large()) {
                    (8, _) => 20,
                    (32, _) => 3,
                    (_, true) => 200,
                    _ => 64,
                };
                overrides.extend([("LANES", self.lanes), ("WORKGROUP", self.workgroup()), ("STAGE", stage)]);
            }
            _ => overrides.push(("TILE", self.number_of_tile())),
        }
        let (norm, bias, activation) = self.flags();
        let source = kernel.source(self.variant, Tier::Portable);
        let added = ("ADDED", u32::from(self.has_added()));
        let more = [("LAYER_NORM", norm), ("BIAS", bias), ("ACTIVATION", activation), added];
        overrides.extend(more.into_iter().filter(|(name, _)| source.contains(&format!("override {name}:"))));
        overrides
    }

    /// Invocations of a workgroup.
    fn workgroup(self) -> u32 {
        match (self.variant, self.lanes) {
            (Variant::Integers, 8) => 72,
            (Variant::Integers, _) if self.is_large() => 1024,
            (Variant::Integers, lanes) => 2 * lanes.max(32),
            _ => WORKGROUP,
        }
    }

    /// Whether a workgroup has as many invocations as only some devices allow.
    fn is_large(self) -> bool {
        self.variant == Variant::Integers && self.shift == 2
    }

    /// Whether an input is no number.
    fn has_nan(self) -> bool {
        self.variant == Variant::Integers && self.shift == 3
    }

    /// `TILE`: each for some layouts and columns.
    fn number_of_tile(self) -> u32 {
        (self.layout as u32 + self.columns.0 / 32) % 3
    }

    /// `LAYER_NORM`, `BIAS` and `ACTIVATION`.
    fn flags(self) -> (u32, u32, u32) {
        let number = self.flags_number();
        (number % 2, number / 2 % 2, number % 4)
    }

    fn flags_number(self) -> u32 {
        self.layout as u32 + self.columns.0 + self.lanes / 4 + self.shift
    }

    /// `ADDED`: never with a layer norm.
    fn has_added(self) -> bool {
        self.flags().0 == 0 && self.flags_number() / 4 % 2 == 1
    }

    /// Floats from x, in this cut's columns of so many floats, to what the block before left.
    fn added(self, stride: usize) -> u32 {
        if self.has_added() { 2 * self.columns.0 * stride as u32 } else { 0 }
    }

    /// x, and behind it two more of the kind where there is something added; zero behind `width`.
    fn residual(self, random: &mut Random, width: usize, stride: usize) -> Vec<f32> {
        let copies = if self.has_added() { 3 } else { 1 };
        activations(random, copies * self.columns.0 as usize, width, stride)
    }

    /// Workgroups for so many row pairs; some are folded into z, as for a large vocabulary.
    fn workgroups(self, pairs: u32) -> [u32; 3] {
        let is_tiled = self.variant == Variant::Tiled;
        let of_workgroup =
            if is_tiled { matmul::pairs_of(self.number_of_tile()) } else { self.workgroup() / self.lanes };
        let columns = if is_tiled { matmul::columns_of(self.number_of_tile()) } else { self.tile };
        let tiles = pairs.div_ceil(of_workgroup);
        let across = tiles.div_ceil(2).max(1);
        [across, self.columns.0.div_ceil(columns), tiles.div_ceil(across)]
    }

    fn active(self) -> Vec<Column> {
        vec![Column::default(); self.columns.1 as usize]
    }
}

/// Layouts with at most one scale a block.
const PLAIN_LAYOUTS: &[Layout] = Layout::ALL.split_at(5).0;

/// Sizes (rows, cols) and cuts that between them meet every edge. Every plain layout meets every number of lanes, the
/// others one invocation a row pair and several; to keep the pipelines few (each takes half a second to compile on a
/// software adapter), not with every number of columns.
fn cuts(layouts: &[Layout]) -> Vec<((u32, u32), Cut)> {
    // (columns of the plan, in use), columns of a workgroup, lanes
    let common = [
        ((1, 1), 1, 1),
        ((9, 9), 8, 1),
        ((128, 77), 8, 1),
        ((2, 2), 2, 4),
        ((1, 1), 1, 16),
        ((8, 8), 8, 16),
        ((9, 8), 8, 16),
        ((8, 3), 8, 16),
    ];
    let rare = [((7, 5), 7, 4), ((3, 3), 3, 64), ((1, 1), 1, 64), ((6, 6), 4, 2)];
    let sizes = [(1, 1), (31, 31), (32, 32), (33, 33), (65, 65), (130, 320), (515, 96)];
    let mut cuts = vec![];
    for &layout in layouts {
        let is_plain = PLAIN_LAYOUTS.contains(&layout);
        let common = common.iter().filter(|(columns, ..)| is_plain || [(9, 9), (1, 1)].contains(columns));
        let rare = rare.iter().filter(|_| layout == Layout::Q4);
        for (i, (columns, tile, lanes)) in common.chain(rare).copied().enumerate() {
            for part in [0, 3] {
                let cut = Cut { layout, lanes, columns, tile, variant: Variant::Plain, shift: 0 };
                let size = match cut.has_added() && lanes == 1 {
                    true if tile == 1 => (33, 2_100), // more than the inputs that are staged at once, `STAGE` in matvec.wgsl
                    true => (130, 320),
                    false => sizes[(i + layout as usize + part) % sizes.len()],
                };
                cuts.push((size, cut));
            }
        }
        for (i, columns) in [(16, 9), (48, 33), (128, 77)].into_iter().enumerate() {
            let size = sizes[(2 * i + layout as usize) % sizes.len()];
            let (lanes, tile, variant) = (4, matmul::COLUMNS, Variant::Tiled);
            cuts.push((size, Cut { layout, lanes, columns, tile, variant, shift: 0 }));
        }
    }
    for &layout in layouts.iter().filter(|layout| layout.is_quantised() && has_integers()) {
        for (i, lanes) in [8, 32, 64].into_iter().enumerate() {
            for shift in 0..2 {
                // More blocks than are brought at once, too.
                let is_long = lanes < 64 && shift == 1;
                let size = if is_long { (33, 2_100) } else { sizes[(i + layout as usize + 3 * shift) % 7] };
                let shift = shift as u32;
                cuts.push((size, Cut { layout, lanes, columns: (1, 1), tile: 1, variant: Variant::Integers, shift }));
            }
        }
    }
    let more = [(Layout::Q4, 2, 6_500), (Layout::Q8, 3, 2_100), (Layout::Q4, 4, 2_100), (Layout::Q8, 4, 2_100)];
    for (layout, shift, cols) in more.into_iter().filter(|_| has_integers()) {
        cuts.push(((33, cols), Cut { layout, lanes: 64, columns: (1, 1), tile: 1, variant: Variant::Integers, shift }));
    }
    cuts
}

fn embed_cases() -> Cases {
    let mut cases = Cases::default();
    let mut random = Random::new(1);
    for layout in Layout::ALL {
        for (vocab_size, cols, of_plan, active) in
            [(1, 1, 1, 1), (31, 31, 2, 2), (97, 32, 7, 5), (65, 33, 8, 8), (513, 65, 9, 1), (70, 2500, 128, 99)]
        {
            let blocks = usize::div_ceil(cols, BLOCK);
            let stride = blocks * BLOCK + 4;
            let in_first = if vocab_size == 513 { 200 } else { 0 };
            let parts =
                Parts::new(&weights(&mut random, layout, vocab_size as usize, blocks), layout, blocks, in_first);
            let active: Vec<_> =
                (0..active).map(|_| Column { token: random.below(vocab_size), ..Column::default() }).collect();
            let (first_row, scale) = (vocab_size / 3, [1.0, 2.5][layout as usize % 2]); // some tokens are in other parts
            let params = embed::Params {
                blocks: blocks as u32,
                stride: stride as u32,
                rows: vocab_size / 2 + 1,
                first_row,
                scale,
            };
            let x = random.floats(of_plan as usize * stride, 1.0);
            let ([quants, scales], [more_quants, more_scales]) = (parts.first, parts.more);
            let x = output(&x, Compare::Float(3e-7)); // real GPUs contract s · q - o
            cases.push(
                format!("{layout:?} {vocab_size} x {cols}, {} of {of_plan} columns", active.len()),
                &embed::KERNEL,
                &params,
                vec![columns_of(&active), quants, scales, x, more_quants, more_scales],
                &[vec![("LAYOUT", layout as u32)], parts.overrides].concat(),
                [params.blocks.div_ceil(WORKGROUP), of_plan, 1],
            );
        }
    }
    cases
}

fn project_cases() -> Cases {
    let mut cases = Cases::default();
    let mut random = Random::new(2);
    for ((rows, cols), cut) in cuts(&Layout::ALL) {
        let blocks = (cols as usize).div_ceil(BLOCK);
        let in_stride = blocks * BLOCK;
        // With something added a column is read by fours; else it may be of any length.
        let out_stride = if cut.has_added() { rows.next_multiple_of(4) as usize } else { rows as usize + 3 };
        let (quants, scales) = weights(&mut random, cut.layout, rows as usize, blocks);
        let params = project::Params {
            rows,
            blocks: blocks as u32,
            in_stride: in_stride as u32,
            out_stride: out_stride as u32,
            left: cut.added(out_stride) / 2,
            added: cut.added(out_stride),
            eps: 1e-5,
            ..Zeroable::zeroed()
        };
        let of_plan = cut.columns.0 as usize;
        let mut inputs = activations(&mut random, of_plan, cols as usize, in_stride);
        if cut.has_nan() {
            inputs[70] = f32::NAN;
        }
        let x = cut.residual(&mut random, rows as usize, out_stride);
        cases.push_variant(
            format!("{rows} x {cols}, {cut:?}"),
            &project::KERNEL,
            cut.variant,
            &params,
            vec![
                columns_of(&cut.active()),
                input(&inputs),
                input(&quants),
                input(&scales),
                input(&random.floats(rows as usize, 1.0)),
                output(&x, Compare::Float(2e-6)),
                input(&random.floats(2 * out_stride, 1.5)),
            ],
            &cut.overrides(&project::KERNEL),
            cut.workgroups(rows.div_ceil(2)),
        );
    }
    cases
}

fn gate_up_cases() -> Cases {
    let mut cases = Cases::default();
    let mut random = Random::new(3);
    for ((ffn_dim, dim), cut) in cuts(PLAIN_LAYOUTS) {
        let blocks = (dim as usize).div_ceil(BLOCK);
        let (in_stride, out_stride) = (blocks * BLOCK, ffn_dim as usize + 3);
        let (quants, scales) = weights(&mut random, cut.layout, 2 * ffn_dim as usize, blocks);
        let params = gate_up::Params {
            ffn_dim,
            blocks: blocks as u32,
            in_stride: in_stride as u32,
            out_stride: out_stride as u32,
            dim,
            eps: 1e-5,
            added: cut.added(in_stride),
        };
        let of_plan = cut.columns.0 as usize;
        let x = cut.residual(&mut random, dim as usize, in_stride);
        let gain = random.floats(2 * in_stride, 1.5);
        let h = random.floats(of_plan * out_stride, 1.0);
        cases.push_variant(
            format!("{ffn_dim} x {dim}, {cut:?}"),
            &gate_up::KERNEL,
            cut.variant,
            &params,
            vec![
                columns_of(&cut.active()),
                input(&x),
                input(&gain),
                input(&quants),
                input(&scales),
                output(&h, Compare::Float(5e-6)),
            ],
            &cut.overrides(&gate_up::KERNEL),
            cut.workgroups(ffn_dim),
        );
    }
    cases
}

fn linear_cases() -> Cases {
    let mut cases = Cases::default();
    let mut random = Random::new(4);
    for (i, ((rows, dim), cut)) in cuts(PLAIN_LAYOUTS).into_iter().enumerate() {
        let blocks = (dim as usize).div_ceil(BLOCK);
        let (in_stride, out_stride) = (blocks * BLOCK, rows as usize + 4);
        let other = (rows % 2 == 0 && i % 2 == 0).then(|| (rows / 4 * 2, Layout::ALL[i % Layout::ALL.len()]));
        let other = other.filter(|(_, layout)| *layout != cut.layout);
        let parts = match other {
            Some((first, layout)) => {
                Parts::two(&mut random, [(cut.layout, first as usize), (layout, (rows - first) as usize)], blocks)
            }
            None => {
                let in_first = if rows == 130 { 34 } else { 0 };
                Parts::new(&weights(&mut random, cut.layout, rows as usize, blocks), cut.layout, blocks, in_first)
            }
        };
        let params = linear::Params {
            rows,
            other_row: other.map_or(rows, |(first, _)| first),
            first_row: 3 * cut.flags().0,
            blocks: blocks as u32,
            in_stride: in_stride as u32,
            out_stride: out_stride as u32,
            dim,
            eps: 1e-6,
            added: cut.added(in_stride),
            cap: [0.0, 4.0][cut.flags().1 as usize],
        };
        let of_plan = cut.columns.0 as usize;
        let mut x = cut.residual(&mut random, dim as usize, in_stride);
        if cut.variant == Variant::Tiled {
            x.iter_mut().for_each(|x| *x *= [1e6, 1e-5][of_plan / 16 % 2]); // whatever the size: the norm takes it out
        }
        let gain = random.floats(2 * in_stride, 1.5);
        let out = random.floats(of_plan * out_stride, 1.0);
        let ([quants, scales], [more_quants, more_scales]) = (parts.first, parts.more);
        cases.push_variant(
            format!("{rows} x {dim}, {cut:?}, other {other:?}"),
            &linear::KERNEL,
            cut.variant,
            &params,
            vec![
                columns_of(&cut.active()),
                input(&x),
                input(&gain),
                quants,
                scales,
                input(&random.floats(rows as usize + 4, 1.0)),
                output(&out, Compare::Float(5e-6)),
                more_quants,
                more_scales,
            ],
            &[cut.overrides(&linear::KERNEL), parts.overrides].concat(),
            cut.workgroups(rows.div_ceil(2)),
        );
    }
    cases
}

fn nll_cases() -> Cases {
    let mut cases = Cases::default();
    let mut random = Random::new(5);
    for (vocab_size, size, of_plan, active) in [
        (1, 1.0, 1, 1),
        (31, 5.0, 2, 1),
        (255, 20.0, 7, 7),
        (256, 90.0, 8, 3),
        (257, 1e-3, 9, 9),
        (5003, 12.0, 128, 50),
    ] {
        let stride = vocab_size + 5;
        let active: Vec<_> =
            (0..active).map(|_| Column { target: random.below(vocab_size), ..Column::default() }).collect();
        let logits = random.floats(of_plan as usize * stride as usize, size);
        let out = random.floats(of_plan as usize, 1.0);
        cases.push(
            format!("{vocab_size}, ±{size}, {} of {of_plan} columns", active.len()),
            &nll::KERNEL,
            &nll::Params { vocab_size, stride },
            vec![columns_of(&active), input(&logits), output(&out, Compare::Float(3e-6))],
            &[],
            [1, of_plan, 1],
        );
    }
    cases
}

fn probe_cases() -> Cases {
    let mut cases = Cases::default();
    let mut random = Random::new(11);
    for (vectors, workgroups, copies) in [(0, 1, 0), (1, 1, 0), (3, 5, 0), (64, 2, 0), (1, 3, 1), (5, 2, 1)] {
        let mut words = |count: u32| (0..count).map(|_| random.word()).collect::<Vec<_>>();
        let read = words(4 * (vectors * workgroups * WORKGROUP).max(1));
        let output_words = words(if copies == 1 { read.len() as u32 } else { workgroups * WORKGROUP });
        cases.push(
            format!("{vectors} vectors, {workgroups} workgroups, copies {copies}"),
            &probe::KERNEL,
            &probe::Params { vectors },
            vec![input(&read), output(&output_words, Compare::Exact)],
            &[("COPIES", copies)],
            [workgroups, 1, 1],
        );
    }
    cases
}

/// Heads, and what of them is rotated.
#[derive(Clone, Copy, Debug)]
struct Heads {
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    rotary_dim: u32,
    halves: u32,
}

const fn heads(n_heads: u32, n_kv_heads: u32, head_dim: u32, rotary_dim: u32, halves: u32) -> Heads {
    Heads { n_heads, n_kv_heads, head_dim, rotary_dim, halves }
}

/// MHA, GQA 3 and 8, MQA; head sizes 2 to 256; whole, partial and no rotation.
const HEADS: [Heads; 7] = [
    heads(1, 1, 2, 2, 0),
    heads(3, 1, 10, 6, 1),
    heads(2, 2, 64, 64, 0),
    heads(8, 1, 80, 32, 1),
    heads(6, 2, 128, 128, 1),
    heads(16, 2, 32, 32, 0),
    heads(2, 1, 256, 0, 0),
];

/// A prefill chunk: neighbouring tokens of a stream that begins at position `start`, after `written` tokens.
fn streaming_columns(count: u32, (sinks, window, written): (u32, u32, u64), start: u32, slots: u32) -> Vec<Column> {
    let column = |ahead: u32| {
        let index = written + u64::from(ahead);
        let capacity = u64::from(sinks + window);
        let ring = u64::from(slots - sinks);
        let slot = if index < u64::from(sinks) { index } else { u64::from(sinks) + (index - u64::from(sinks)) % ring };
        Column {
            token: 0,
            position: start.wrapping_add(index as u32),
            slot: slot as u32,
            cached: index.min(capacity) as u32,
            sinks,
            capacity: capacity as u32,
            lane: 1,
            target: 0,
        }
    };
    (0..count).map(column).collect()
}

fn qkv_cases() -> Cases {
    let mut cases = Cases::default();
    let mut random = Random::new(6);
    let (plain, tiled) = (Variant::Plain, Variant::Tiled);
    let lanes_and_tiles = [
        (1, (1, 1), 1, plain),
        (4, (9, 8), 8, plain),
        (16, (8, 3), 8, plain),
        (1, (20, 20), 8, plain),
        (4, (64, 50), matmul::COLUMNS, tiled),
    ];
    for (i, heads) in HEADS.into_iter().enumerate() {
        for (j, (lanes, columns, tile, variant)) in lanes_and_tiles.into_iter().enumerate() {
            let of_each_tile = [columns, (96, 70), (128, 77)]; // `Cut::number_of_tile`
            let columns = if variant == tiled { of_each_tile[i % 3] } else { columns };
            let cut = Cut { layout: PLAIN_LAYOUTS[j], lanes, columns, tile, variant, shift: i as u32 % 2 };
            let cache = [CacheType::F16, CacheType::F32][i % 2];
            let (sinks, window) = [(0, 40), (1, 20), (4, 9)][j % 3];
            let written = [0, 0, 2, (1 << 32) - 5, 77][j];
            let start = [0, 5000, u32::MAX - 3, 0, 1][j]; // not 0: sinks keep their in-cache position
            let dim = [1, 31, 32, 33, 65, 96, 320][(i + j) % 7];
            push_qkv(&mut cases, &mut random, heads, cut, cache, (sinks, window, written), start, dim, (0..3, None));
            // Matrices of two layouts: the values' is another one, or the keys' and values'. Random weights of other layouts are
            // large, and f16 shows every other order of their sums.
            let cache = if lanes > 1 { CacheType::F32 } else { cache };
            let other = (1 + j as u32 % 2, Layout::ALL[3 + (i + 2 * j) % (Layout::ALL.len() - 3)]);
            if other.1 != cut.layout {
                let cut = Cut { shift: i as u32, ..cut };
                push_qkv(
                    &mut cases,
                    &mut random,
                    heads,
                    cut,
                    cache,
                    (sinks, window, written),
                    start,
                    dim,
                    (0..3, Some(other)),
                );
            }
        }
    }
    // Three dispatches of one layer whose matrices differ in layout: each has its own rows and leaves the others' alone.
    for part in 0..3 {
        let cut = Cut { layout: Layout::Q8, lanes: 16, columns: (9, 9), tile: 8, variant: plain, shift: 0 };
        push_qkv(&mut cases, &mut random, HEADS[4], cut, CacheType::F16, (4, 9, 30), 0, 64, (part..part + 1, None));
    }
    // One column of integers; every other one with matrices of two layouts.
    let quantised: Vec<_> = Layout::ALL.into_iter().filter(|layout| layout.is_quantised()).collect();
    for (i, heads) in HEADS.into_iter().chain(HEADS).filter(|_| has_integers()).enumerate() {
        let (layout, lanes, shift) = (quantised[i % quantised.len()], [8, 32][i / 2 % 2], i as u32 / 4);
        let cut = Cut { layout, lanes, columns: (1, 1), tile: 1, variant: Variant::Integers, shift };
        let other = Some((1 + i as u32 / 2 % 2, quantised[(i + 3) % quantised.len()])).filter(|_| i % 2 == 1);
        let dim = [1, 33, 320, 1_100][i % 4];
        push_qkv(&mut cases, &mut random, heads, cut, CacheType::F32, (4, 9, 77), 1, dim, (0..3, other));
    }
    cases
}

#[allow(clippy::too_many_arguments, reason = "what makes a case")]
fn push_qkv(
    cases: &mut Cases,
    random: &mut Random,
    heads: Heads,
    cut: Cut,
    cache: CacheType,
    stream: (u32, u32, u64),
    start: u32,
    dim: u32,
    (parts, other): (std::ops::Range<u32>, Option<(u32, Layout)>), // of queries, keys and values; from which on another layout
) {
    let Heads { n_heads, n_kv_heads, head_dim, rotary_dim, halves } = heads;
    let (of_plan, active) = cut.columns;
    let slots = stream.0 + stream.1 + of_plan;
    let (half, lanes_of_cache) = (head_dim / 2, 2);
    let pairs_of = [n_heads * half, n_kv_heads * half, n_kv_heads * half];
    let pairs_in = |parts: std::ops::Range<u32>| pairs_of[parts.start as usize..parts.end as usize].iter().sum::<u32>();
    let (first_pair, pairs) = (pairs_in(0..parts.start), pairs_in(parts.clone()));
    let other_pair = other.map_or(pairs, |(first, _)| pairs_in(0..first));
    let blocks = (dim as usize).div_ceil(BLOCK);
    let stride = blocks * BLOCK;
    let params = qkv::Params {
        n_heads,
        n_kv_heads,
        head_dim,
        rotary_dim,
        halves,
        first_pair,
        pairs,
        other_pair,
        blocks: blocks as u32,
        stride: stride as u32,
        dim,
        eps: 1e-5,
        added: cut.added(stride),
        scale: 1.0 / (head_dim as f32).sqrt(),
        rope_scale: 1.3,
        // Large sums that are cut off could not be compared to a part of the largest.
        limit: if cut.flags().0 == 0 && other.is_none() { 2.0 } else { f32::MAX },
        slots,
        columns: of_plan,
    };
    let columns = streaming_columns(active, stream, start, slots);
    let rotary_half = (rotary_dim / 2) as usize;
    let mut rope: Vec<_> = (0..256).map(|_| random.word()).collect(); // nonsense behind what is rotated
    for (i, frequency) in rope.iter_mut().enumerate().take(rotary_half) {
        *frequency = turns_per_position(10_000_f64.powf(-(i as f64) / rotary_half as f64));
    }
    let rows = 2 * pairs as usize;
    let of_other = rows - 2 * other_pair as usize;
    let planes = match other {
        Some((_, layout)) => Parts::two(random, [(cut.layout, rows - of_other), (layout, of_other)], blocks),
        None => Parts::new(&weights(random, cut.layout, rows, blocks), cut.layout, blocks, 0),
    };
    let x = cut.residual(random, dim as usize, stride);
    let gain = random.floats(2 * stride, 1.5);
    let has_memory = stream.0 == 0; // there are no sinks with one
    let raw_keys = if has_memory { n_kv_heads } else { 0 };
    let q = random.floats((of_plan * (2 * n_heads + raw_keys) * head_dim) as usize, 1.0);
    let pairs_of_cache = (lanes_of_cache * n_kv_heads * slots * half) as usize;
    let (k, v) = (cached(random, cache, pairs_of_cache), cached(random, cache, pairs_of_cache));
    let compare = match cache {
        CacheType::F16 => Compare::Halves,
        CacheType::F32 => Compare::Float(5e-6),
    };
    let mut overrides = cut.overrides(&qkv::KERNEL);
    overrides.extend([("CACHE_F32", u32::from(cache == CacheType::F32)), ("MEMORY", u32::from(has_memory))]);
    overrides.extend(planes.overrides);
    let [quants, scales] = planes.first;
    cases.push_variant(
        format!("{heads:?}, dim {dim}, {cut:?}, {cache:?}, {stream:?} from {start}, {parts:?}, other {other:?}"),
        &qkv::KERNEL,
        cut.variant,
        &params,
        vec![
            columns_of(&columns),
            input(&rope),
            input(&x),
            input(&gain),
            quants,
            scales,
            input(&random.floats(2 * (first_pair + pairs) as usize, 1.0)),
            output(&q, Compare::Float(5e-6)),
            output(&k, compare),
            output(&v, compare),
        ],
        &overrides,
        cut.workgroups(pairs),
    );
}

fn head_norm_cases() -> Cases {
    let mut cases = Cases::default();
    let mut random = Random::new(9);
    for (i, heads) in HEADS.into_iter().enumerate() {
        let Heads { n_heads, n_kv_heads, head_dim, rotary_dim, halves } = heads;
        let (of_plan, active) = [(1, 1), (9, 8), (8, 3)][i % 3];
        let (sinks, window, written, start) = [(0, 40, 0, 0), (1, 20, 77, 5000), (4, 9, 2, u32::MAX - 3)][i % 3];
        let slots = sinks + window + of_plan;
        let cache = [CacheType::F16, CacheType::F32][i % 2];
        let stride = ((n_heads + 2 * n_kv_heads) * head_dim).next_multiple_of(32);
        let params = head_norm::Params {
            n_heads,
            n_kv_heads,
            head_dim,
            rotary_dim,
            halves,
            stride,
            eps: 1e-6,
            scale: 0.3,
            rope_scale: 1.2,
            slots,
            columns: of_plan,
        };
        let columns = streaming_columns(active, (sinks, window, written), start, slots);
        let rope: Vec<_> = (0..256).map(|_| random.word()).collect();
        let raw = activations(&mut random, of_plan as usize, stride as usize, stride as usize);
        let gain = random.floats(2 * head_dim.next_multiple_of(32) as usize, 1.5);
        let raw_keys = if sinks == 0 { n_kv_heads } else { 0 }; // with a memory, there are no sinks
        let q = random.floats((of_plan * (2 * n_heads + raw_keys) * head_dim) as usize, 1.0);
        let pairs = (2 * n_kv_heads * slots * head_dim / 2) as usize;
        let (k, v) = (cached(&mut random, cache, pairs), cached(&mut random, cache, pairs));
        let compare = [Compare::Halves, Compare::Float(5e-6)][i % 2];
        cases.push(
            format!("{heads:?}, {cache:?}, {active} of {of_plan} columns"),
            &head_norm::KERNEL,
            &params,
            vec![
                columns_of(&columns),
                input(&rope),
                input(&raw),
                input(&gain),
                output(&q, Compare::Float(5e-6)),
                output(&k, compare),
                output(&v, compare),
            ],
            &[("CACHE_F32", u32::from(cache == CacheType::F32)), ("MEMORY", u32::from(sinks == 0))],
            [n_heads + 2 * n_kv_heads, of_plan, 1],
        );
    }
    cases
}

/// A cache full of random pairs.
fn cached(random: &mut Random, kind: CacheType, pairs: usize) -> Vec<u32> {
    cached_by(random, kind, pairs, |random| random.float(1.5))
}

fn cached_by(random: &mut Random, kind: CacheType, pairs: usize, value: fn(&mut Random) -> f32) -> Vec<u32> {
    let mut words = vec![0; pairs * kind.words_per_pair()];
    for pair in 0..pairs {
        kind.store(&mut words, pair, &mut [value(random), value(random)]);
    }
    words
}

/// Small whole numbers: sums of their products are exact, however large.
fn whole(random: &mut Random) -> f32 {
    random.float(3.0).round()
}

fn attention_cases() -> Cases {
    let mut cases = Cases::default();
    let mut random = Random::new(7);
    // (sinks, window, tokens written before the first column), (columns of the plan, in use)
    let streams = [
        ((0, 300, 0), (1, 1)),
        ((4, 300, 1), (1, 1)),
        ((1, 300, 63), (2, 2)),
        ((4, 300, 64), (7, 5)),
        ((0, 300, 65), (8, 8)),
        ((4, 296, 300), (9, 9)),
        ((4, 60, 1000), (20, 20)),
        ((1, 20, 41), (128, 100)),
        ((0, 64, 70), (3, 2)),
        ((4, 0, 9), (1, 1)),
        ((70, 30, 20), (8, 8)),
        ((70, 30, 500), (8, 8)),
        ((4, 60, 0), (40, 33)),
        ((0, 300, 200), (32, 31)),
        ((3, 200, 1000), (64, 64)),
    ];
    for (i, heads) in HEADS.into_iter().enumerate() {
        for (j, ((sinks, window, written), (of_plan, active))) in streams.into_iter().enumerate() {
            let Heads { n_heads, n_kv_heads, head_dim, .. } = heads;
            let half = head_dim / 2;
            let group = n_heads / n_kv_heads;
            let divisors = (1..=attention::MAX_HEADS).filter(|n| group % n == 0 && n * half <= attention::MAX_ITEMS);
            let divisors: Vec<_> = divisors.collect();
            let of_workgroup = divisors[divisors.len() - 1 - j % divisors.len().min(2)];
            let slots = sinks + window + of_plan;
            let cache = [CacheType::F16, CacheType::F32][(i + j) % 2];
            let stride = (n_heads * head_dim).next_multiple_of(32);
            let params = attention::Params {
                n_heads,
                n_kv_heads,
                heads: of_workgroup,
                half,
                slots,
                columns: of_plan,
                stride,
                reach: [u32::MAX, u32::MAX, 37, 0][(i + 2 * j) % 4],
                cap: [0.0, 0.0, 5.0][(i + j) % 3],
            };
            let slopes = random.floats(n_heads as usize, [0.0, 0.2][j % 2]);
            let is_loud = j % 4 == 3; // scores of some hundreds, whose maximum must be taken off before the exponential
            let sink_logits = match (i + j) % 3 {
                // A logit far above loud scores would leave numbers so small that a GPU may make them 0.
                n if n == 0 || is_loud => vec![attention::NO_SINK_LOGIT; n_heads as usize],
                1 => vec![0.0; n_heads as usize],
                _ => random.floats(n_heads as usize, 4.0),
            };
            let columns = streaming_columns(active, (sinks, window, written), 0, slots);
            let pairs = (2 * n_kv_heads * slots * half) as usize;
            let mut q = random.floats((2 * of_plan * n_heads * head_dim) as usize, 4.0 / (head_dim as f32).sqrt());
            let mut k = cached(&mut random, cache, pairs);
            if is_loud {
                q.fill_with(|| 8.0 * whole(&mut random));
                k = cached_by(&mut random, cache, pairs, whole);
            }
            let v = cached(&mut random, cache, pairs);
            let out = random.floats((of_plan * stride) as usize, 1.0);
            cases.push(
                format!(
                    "{heads:?} by {of_workgroup}, {cache:?}, {sinks} + {window}, {written} written, {active} of {of_plan} columns, {params:?}"
                ),
                &attention::KERNEL,
                &params,
                vec![
                    columns_of(&columns),
                    input(&q),
                    input(&k),
                    input(&v),
                    input(&slopes),
                    input(&sink_logits),
                    output(&out, Compare::Float(3e-6)),
                ],
                &[("CACHE_F32", u32::from(cache == CacheType::F32)), ("HEADS", of_workgroup)],
                [n_heads / of_workgroup, of_plan, 1],
            );
            let bound = vec![
                columns_of(&columns),
                input(&q),
                input(&k),
                input(&v),
                input(&slopes),
                input(&sink_logits),
                output(&out, Compare::Float(3e-6)),
            ];
            push_tiled(&mut cases, cache, params, &bound, &columns, i + j);
            push_split(&mut cases, &mut random, cache, params, bound, active as usize, j);
        }
    }
    cases
}

/// What segments may have left in a memory: `copies` for each of two lanes, normalisers above zero.
fn remembered(random: &mut Random, copies: u32, n_kv_heads: u32, head_dim: u32) -> Vec<f32> {
    let size = memory::size(head_dim as usize);
    let mut floats = random.floats((2 * copies * n_kv_heads) as usize * size, 3.0);
    for memory in floats.chunks_exact_mut(size) {
        memory[size - head_dim as usize..].iter_mut().for_each(|z| *z = z.abs());
    }
    floats
}

/// Columns in the second lane of a stream in segments, the first with so many tokens of its segment before it, which read
/// this copy of the memory.
fn segment_columns(count: u32, (segment, copy, before, first_slot): (u32, u32, u32, u32), slots: u32) -> Vec<Column> {
    let capacity = copy * segment + segment - 1;
    let column =
        |n: u32| Column { slot: (first_slot + n) % slots, cached: before + n, capacity, lane: 1, ..Column::default() };
    (0..count).map(column).collect()
}

fn memory_read_cases() -> Cases {
    let mut cases = Cases::default();
    let mut random = Random::new(11);
    // tokens of a segment, copy, tokens before; (columns of the plan, in use)
    let streams = [
        ((64, 1, 0), (1, 1)),
        ((64, 0, 3), (9, 9)),
        ((5, 6, 1), (4, 3)),
        ((300, 2, 17), (128, 100)),
        ((1, 33, 0), (1, 1)),
        ((33, 2, 30), (3, 3)),
    ];
    for (i, heads) in HEADS.into_iter().enumerate() {
        for (j, ((segment, copy, before), (of_plan, active))) in streams.into_iter().enumerate() {
            let Heads { n_heads, n_kv_heads, head_dim, .. } = heads;
            let copies = memory::copies(segment);
            let slots = segment - 1 + of_plan + 3;
            let stride = (n_heads * head_dim).next_multiple_of(32);
            let cache = [CacheType::F16, CacheType::F32][(i + j) % 2];
            let params = memory_read::Params {
                n_heads,
                n_kv_heads,
                half: head_dim / 2,
                slots,
                columns: of_plan,
                stride,
                segment,
                copies,
            };
            let columns = segment_columns(active, (segment, copy, before, slots - 1), slots);
            let q = random.floats((of_plan * (2 * n_heads + n_kv_heads) * head_dim) as usize, 4.0);
            let gates = random.floats(n_heads as usize, 6.0);
            let memory = remembered(&mut random, copies, n_kv_heads, head_dim);
            let keys = cached(&mut random, cache, (2 * n_kv_heads * slots * head_dim / 2) as usize);
            let out = random.floats((of_plan * stride) as usize, 1.0);
            cases.push(
                format!("{heads:?}, {cache:?}, copy {copy}, {active} of {of_plan} columns, {params:?}"),
                &memory_read::KERNEL,
                &params,
                vec![
                    columns_of(&columns),
                    input(&q),
                    input(&gates),
                    input(&memory),
                    output(&keys, Compare::Exact),
                    output(&out, Compare::Float(3e-6)),
                ],
                &[("CACHE_F32", u32::from(cache == CacheType::F32))],
                [n_heads, of_plan, 1],
            );
        }
    }
    cases
}

fn memory_fold_cases() -> Cases {
    let mut cases = Cases::default();
    let mut random = Random::new(12);
    // tokens of a segment, copy before, slot of the last token
    let streams = [(1, 0, 0), (1, 33, 7), (7, 1, 3), (8, 2, 6), (33, 0, 40), (64, 2, 63), (130, 1, 20)];
    for (i, heads) in HEADS.into_iter().enumerate() {
        for (j, (segment, copy, last_slot)) in streams.into_iter().enumerate() {
            let Heads { n_kv_heads, head_dim, .. } = heads;
            let copies = memory::copies(segment);
            let slots = segment + 33;
            let cache = [CacheType::F16, CacheType::F32][(i + j) % 2];
            let delta = u32::from((i + j / 2) % 2 == 0);
            let half = head_dim / 2;
            let params = memory_fold::Params { n_kv_heads, half, slots, segment, copies, delta };
            let columns = segment_columns(1, (segment, copy, segment - 1, last_slot), slots);
            let pairs = (2 * n_kv_heads * slots * half) as usize;
            let (keys, v) = (cached(&mut random, cache, pairs), cached(&mut random, cache, pairs));
            let memory = remembered(&mut random, copies, n_kv_heads, head_dim);
            cases.push(
                format!("{heads:?}, {cache:?}, copy {copy}, last in slot {last_slot}, {params:?}"),
                &memory_fold::KERNEL,
                &params,
                vec![columns_of(&columns), input(&keys), input(&v), output(&memory, Compare::Float(5e-6))],
                &[("CACHE_F32", u32::from(cache == CacheType::F32))],
                [half.div_ceil(memory_fold::PAIRS), n_kv_heads, 1],
            );
        }
    }
    cases
}

/// Attention of several columns that share what they read: once all of one stream, then of three that begin anywhere in a workgroup.
fn push_tiled(
    cases: &mut Cases,
    cache: CacheType,
    params: attention::Params,
    bound: &[Bound],
    active: &[Column],
    number: usize,
) {
    let attention::Params { n_heads, heads, half, columns, .. } = params;
    let words = half * cache.words_per_pair() as u32;
    let sizes = [8, 4, 2].into_iter().filter(|fours| fours * half / 2 <= attention::INVOCATIONS);
    let sizes: Vec<_> = sizes.filter(|fours| 4 * fours >= 2 * heads).collect();
    if !words.is_multiple_of(4) || columns < 2 || sizes.is_empty() {
        return;
    }
    let fours = sizes[number % sizes.len()];
    let together = (4 * fours / heads).min(columns);
    let overrides = [
        ("CACHE_F32", u32::from(cache == CacheType::F32)),
        ("HEADS", heads),
        ("WORDS", words / 4),
        ("COLUMNS", together),
        ("FOURS", fours),
    ];
    let mut of_three = active.to_vec();
    of_three[active.len() / 3..active.len() / 3 * 2].iter_mut().for_each(|column| column.lane = 0);
    for (active, streams) in [(active, 1), (&of_three, 3)] {
        let others = bound[1..].iter().map(|Bound(bytes, compare)| Bound(bytes.clone(), *compare));
        let bound = [columns_of(active)].into_iter().chain(others).collect();
        let name = format!("{together} together of {streams} streams, {cache:?}, {} columns, {params:?}", active.len());
        let grid = [n_heads / heads, columns.div_ceil(together), 1];
        cases.push_variant(name, &attention::KERNEL, Variant::Tiled, &params, bound, &overrides, grid);
    }
}

/// Attention over parts of the cache: whole, or followed by the product that puts the parts together.
fn push_split(
    cases: &mut Cases,
    random: &mut Random,
    cache: CacheType,
    params: attention::Params,
    mut bound: Vec<Bound>,
    active: usize,
    number: usize,
) {
    let attention::Params { n_heads, heads, half, columns, stride, .. } = params;
    let words = half * cache.words_per_pair() as u32;
    let splits = [1, 2, 5, 16][number % 4];
    let is_planned = splits == 1 || columns <= 8;
    if !words.is_multiple_of(4) || !is_planned {
        return;
    }
    let overrides = |splits: u32| {
        vec![
            ("CACHE_F32", u32::from(cache == CacheType::F32)),
            ("HEADS", heads),
            ("WORDS", words / 4),
            ("SPLITS", splits),
            ("INVOCATIONS", if heads <= attention::WIDE_HEADS && !number.is_multiple_of(3) { 256 } else { 128 }),
        ]
    };
    let name = format!("{splits} parts, {cache:?}, {active} of {columns} columns, {params:?}");
    let grid = [n_heads / heads, columns, splits];
    let (kernel, variant) = (&attention::KERNEL, Variant::Split);
    if splits == 1 {
        cases.push_variant(name, kernel, variant, &params, bound, &overrides(1), grid);
        return;
    }
    let parts = random.floats((columns * splits.next_multiple_of(4) * (stride + 2 * n_heads)) as usize, 1.0); // as left by who knows what
    *bound.last_mut().expect("out") = output(&parts, Compare::Nothing);
    let columns_of_plan = bound[0].0.clone();
    cases.push_variant(name, kernel, variant, &params, bound, &overrides(splits), grid);
    let parts = cases.cases.last().expect("just added").outputs[0].0;

    let (rows, blocks, layout) = (70, stride / 32, [Layout::Q8, Layout::F16][number / 4 % 2]);
    let (quants, scales) = weights(random, layout, rows as usize, blocks as usize);
    let (out_stride, is_added) = (72, number as u32 / 2 % 2);
    let params = project::Params {
        rows,
        blocks,
        in_stride: stride,
        out_stride,
        n_heads,
        half,
        columns,
        left: 2 * is_added * columns * out_stride,
        added: columns * out_stride,
        eps: 1e-5,
    };
    let x = activations(random, ((1 + 2 * is_added) * columns) as usize, rows as usize, out_stride as usize);
    let bound = vec![
        Bound(columns_of_plan, Compare::Exact),
        input(&[0.0_f32; 4]),
        input(&quants),
        input(&scales),
        input(&[0.0_f32; 4]),
        output(&x, Compare::Float(5e-6)),
        input(&random.floats(2 * out_stride as usize, 1.5)),
    ];
    let invocations = [64, 128, 256][number % 3].min(matmul::MAX_SHARES / columns.next_power_of_two());
    let has_integers = columns == 1 && layout.is_quantised() && has_integers();
    let variant = if has_integers { Variant::SplitIntegers } else { variant };
    let overrides = [
        ("LAYOUT", layout as u32),
        ("LANES", 16),
        if has_integers { ("STAGE", 2 + number as u32 % 3) } else { ("COLUMNS", columns) },
        ("WORKGROUP", invocations),
        ("BIAS", 0),
        ("SPLITS", splits),
        ("ADDED", is_added),
    ];
    let grid = [(rows / 2).div_ceil(invocations / 16), 1, 1];
    cases.follow(&project::KERNEL, variant, &params, bound, &overrides, grid, (1, parts));
}

/// Logits of different kinds, many of them with equals among the largest.
fn sample_logits(random: &mut Random, kind: usize, vocab_size: u32) -> Vec<f32> {
    let bell = |random: &mut Random| (0..4).map(|_| random.float(3.0)).sum::<f32>();
    (0..vocab_size)
        .map(|id| match kind {
            0 => bell(random),
            1 => (bell(random) * 2.0).round() / 2.0, // many equals, 0 and -0 among them
            2 => -1.5,
            3 => id as f32 * -1e-3,
            6 => [-1.0, -0.0, 0.0][random.below(3) as usize],
            4 => 20.0 + id as f32 / 16.0,
            _ => bell(random) * 1e-3 - 40.0,
        })
        .collect()
}

fn sample_cases() -> Cases {
    let mut cases = Cases::default();
    let mut random = Random::new(8);
    let vocab_sizes = [1, 2, 31, 255, 256, 257, 511, 512, 513, 1000, 5003, 32_771];
    let usual = sample::Settings {
        temperature: 0.8,
        top_k: 40,
        top_p: 0.95,
        ln_min_p: 0.05_f32.ln(),
        repeat_penalty: 1.0,
        repeat_last_n: 64,
        seed: 0,
        wanted: 1,
    };
    let free = sample::Settings { top_k: 0, top_p: 1.0, ln_min_p: f32::MIN, ..usual };
    let settings = [
        sample::Settings { temperature: 0.0, ..usual },
        sample::Settings { temperature: 0.0, repeat_penalty: 1.3, ..usual },
        usual,
        sample::Settings { repeat_penalty: 1.2, repeat_last_n: 1024, ..usual },
        sample::Settings { repeat_penalty: 0.8, repeat_last_n: 0, ..usual },
        free,
        sample::Settings { ln_min_p: 0.5_f32.ln(), temperature: 2.0, repeat_penalty: 1.1, ..free },
        sample::Settings { top_p: 0.9, ..free },
        sample::Settings { top_p: 1e-6, ..free },
        sample::Settings { top_k: 1, ..free },
        sample::Settings { top_k: 255, temperature: 1.5, ..free },
        sample::Settings { top_k: 256, top_p: 0.999, ..free },
        sample::Settings { top_k: 1000, temperature: 5.0, ..free },
    ];
    for (i, settings) in settings.into_iter().enumerate() {
        for (j, vocab_size) in vocab_sizes.into_iter().enumerate() {
            for kind in 0..7 {
                if vocab_size > 6000 && kind != (i + j) % 7 {
                    continue;
                }
                let settings = sample::Settings { seed: random.word(), ..settings };
                push_sample(&mut cases, &mut random, vocab_size, kind, settings);
            }
        }
    }
    cases
}

/// Three columns of which the middle one is not in use, in lanes 2 and 0; the last one wants log-probabilities too.
fn push_sample(cases: &mut Cases, random: &mut Random, vocab_size: u32, kind: usize, settings: sample::Settings) {
    let sinks = [0, 1, 4][kind % 3];
    let (window, slots) = (20, sinks + 20 + 8);
    let mut column = |lane: u32| {
        let cached = [0, 5, sinks + window][random.below(3) as usize];
        let slot = [slots - 1, slots - 2, cached][random.below(3) as usize];
        let position = if kind == 1 { u32::MAX } else { random.word() };
        Column { token: 1, position, slot, cached, sinks, capacity: sinks + window, lane, target: 0 }
    };
    let columns = [column(2), column(1), column(0)];
    let stride = vocab_size + 3;
    let mut logits = vec![];
    for _ in 0..3 {
        logits.extend(sample_logits(random, kind, vocab_size));
        logits.extend([9.0; 3]); // more than any, and nobody's
    }
    let mut recent = vec![0; 3 * (1 + sample::MAX_RECENT)];
    for recent in recent.chunks_mut(1 + sample::MAX_RECENT) {
        recent[0] = [0, 5, 64, 1500][random.below(4) as usize];
        for id in &mut recent[1..] {
            *id = random.below(vocab_size.min(100));
        }
    }
    let mut of_columns = vec![sample::Settings { wanted: 0, ..settings }; MAX_COLUMNS as usize];
    of_columns[0] = settings;
    of_columns[2] = sample::Settings { wanted: 2, seed: random.word(), ..settings };
    let chosen = 3 * sample::MAX_AHEAD as usize;
    cases.push(
        format!("{vocab_size} of kind {kind}, {settings:?}, {} recent", recent[0]),
        &sample::KERNEL,
        &sample::Params { vocab_size, stride, slots },
        vec![
            input(&of_columns),
            columns_of(&columns),
            output(&logits, Compare::Float(1e-6)),
            output(&recent, Compare::Exact),
            output(&vec![u32::MAX; chosen], Compare::Exact),
            output(&vec![0.0_f32; chosen], Compare::Logarithms(2e-5)),
        ],
        &[("WORKGROUP", [16, 256][cases.plans.len() % 2])],
        [1, 3, 1],
    );
    cases.cases.last_mut().expect("just added").times = 1 + random.below(3);
}
