//! What a kernel is: a name, its WGSL, its bindings, and its twin in plain Rust.
//!
//! A kernel stands in four places under one name: `shaders/x.wgsl`, `src/kernels/x.rs`, entry point `x`, label `x`.
//! [`crate::plan`] strings dispatches of kernels together; the executors run them.

use crate::error::Error;
use crate::executor::cpu::Call;
use crate::platform;

/// How a kernel uses one of its bindings, in the order of `@binding(0)`, `@binding(1)`, ….
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `var<uniform>`.
    Uniform,
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    Write,
}

/// One binding of a kernel: its name in the WGSL and how it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Name of the WGSL variable.
    pub name: &'static str,
    /// Uniform, read or read-write storage.
    pub access: Access,
}

/// A uniform binding.
pub const fn uniform(name: &'static str) -> Binding {
    Binding { name, access: Access::Uniform }
}
/// A read-only storage binding.
pub const fn read(name: &'static str) -> Binding {
    Binding { name, access: Access::Read }
}
/// A read-write storage binding.
pub const fn write(name: &'static str) -> Binding {
    Binding { name, access: Access::Write }
}

/// Which of a kernel's compositions a dispatch takes: the same entry point, bindings and twin, other files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// What every kernel has, and all that software adapters run.
    #[default]
    Plain,
    /// Attention over parts of the cache (`attention_split.wgsl`), and `project` that puts the parts together.
    Split,
    /// Products of one column with inputs as integers: `shared/matvec_integers.wgsl` in the place of `shared/matvec.wgsl`. On Vulkan,
    /// where [`crate::tuning`] finds it to be faster.
    Integers,
    /// [`Self::Integers`] of what attention left in parts, as [`Self::Split`].
    SplitIntegers,
    /// Products in tiles for many columns: `shared/matmul.wgsl` in the place of `shared/matvec.wgsl`. Attention of chunks whose
    /// columns share what they read (`attention_tiled.wgsl`).
    Tiled,
}

/// Which of the features that not every device has the shaders use. A tier changes no plan and no twin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tier {
    /// What every WebGPU device has. The default, where [`crate::tuning`] finds nothing faster.
    #[default]
    Portable,
    /// Lanes add up their sums by subgroup operations ([`SHARE`]). Sums in another order, else the same.
    Subgroup,
    /// Tiles of products ([`MATMUL`]) by cooperative matrices of 16 rows and columns, natively. Weights are
    /// rounded to f16 there, inputs come in two parts of it (`docs/checks.md`). Natively the default where [`crate::tuning`] finds
    /// it to be faster.
    Matrix,
    /// The same by matrices of 8 rows and columns: what `matrix` is on adapters that have no others ([`crate::gpu::Gpu::at`]).
    SmallMatrix,
}

impl Tier {
    /// All that have a name of their own.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Subgroup, Self::Matrix];

    /// As users name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Subgroup => "subgroup",
            Self::Matrix | Self::SmallMatrix => "matrix",
        }
    }
}

impl std::str::FromStr for Tier {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|tier| tier.name() == name);
        known.ok_or_else(|| {
            Error::Settings(format!("no tier {name:?}; there are {}", Self::ALL.map(Self::name).join(", ")))
        })
    }
}

/// The text of a shader file, without its comments: they would be a part of every download of the engine.
macro_rules! wgsl {
    ($path:literal) => {{
        const TEXT: &[u8] = include_str!($path).as_bytes();
        const LENGTH: usize = $crate::kernel::without_comments::<0>(TEXT).1;
        const CODE: [u8; LENGTH] = $crate::kernel::without_comments::<LENGTH>(TEXT).0;
        match std::str::from_utf8(&CODE) {
            Ok(code) => code,
            Err(_) => panic!("not UTF-8"),
        }
    }};
}
pub(crate) use wgsl;

/// A WGSL text without what is behind `//` in its lines, as far as there is room for it; and its length.
pub(crate) const fn without_comments<const N: usize>(text: &[u8]) -> ([u8; N], usize) {
    let (mut code, mut length, mut at) = ([0; N], 0, 0);
    while at < text.len() {
        if text[at] == b'/' && at + 1 < text.len() && text[at + 1] == b'/' {
            while at < text.len() && text[at] != b'\n' {
                at += 1;
            }
            continue;
        }
        if length < N {
            code[length] = text[at];
        }
        length += 1;
        at += 1;
    }
    (code, length)
}

/// How lanes add up their sums; the tier `subgroup` has another file in its place.
pub const SHARE: &str = wgsl!("../shaders/shared/share.wgsl");
/// Products of a few columns, with [`SHARE`].
pub const MATVEC: &str = wgsl!("../shaders/shared/matvec.wgsl");
/// How tiles of products are made; the tier `matrix` has other files in its place.
pub const MATMUL: &str = wgsl!("../shaders/shared/matmul.wgsl");

/// Files of the plain composition, each with the one that has its place in another; "" for none.
pub type Places = &'static [(&'static str, &'static str)];
/// [`Variant::Integers`] of products.
pub const INTEGERS: Places = &[(MATVEC, platform::MATVEC_INTEGERS), (SHARE, "")];
/// [`Variant::Tiled`] of products.
pub const TILES: Places = &[(MATVEC, MATMUL), (SHARE, "")];

/// Invocations in a workgroup: 64 suits every GPU that WebGPU runs on. Only `nll` and, on GPUs, `sample`,
/// where one workgroup has a whole column of logits, take as many as a default device allows, 256.
pub const WORKGROUP: u32 = 64;

/// A kernel: what both executors need to run it.
///
/// Binding 0 is always `params`, a uniform struct of u32 and f32 scalars written once when the plan is built.
pub struct Kernel {
    /// Name, entry point and label.
    pub name: &'static str,
    /// The whole shader: shared files, then the kernel's own.
    pub wgsl: &'static [&'static str],
    /// Its other compositions.
    pub variants: &'static [(Variant, Places)],
    /// The bindings in order, `params` first.
    pub bindings: &'static [Binding],
    /// The same computation on the CPU.
    pub twin: fn(&mut Call<'_>),
}

impl Kernel {
    /// The files of a composition; the plain one where the kernel has no such variant.
    fn files(&self, variant: Variant) -> impl Iterator<Item = &'static str> {
        let other = self.variants.iter().find(|(known, _)| *known == variant);
        let places = other.map_or(&[][..], |(_, places)| *places);
        let file =
            move |plain: &&'static str| places.iter().find(|(of, _)| of == plain).map_or(*plain, |(_, file)| *file);
        self.wgsl.iter().map(file).filter(|file| !file.is_empty())
    }

    /// Whether a tier has a text of its own for this composition.
    pub fn differs(&self, variant: Variant, tier: Tier) -> bool {
        let own = match tier {
            Tier::Portable => return false,
            Tier::Subgroup => SHARE,
            Tier::Matrix | Tier::SmallMatrix => MATMUL,
        };
        self.files(variant).any(|file| file == own)
    }

    /// The composed WGSL text.
    pub fn source(&self, variant: Variant, tier: Tier) -> String {
        let first = match tier {
            Tier::Matrix if self.differs(variant, tier) => Some(platform::COOP_16), // it says what is enabled
            Tier::SmallMatrix if self.differs(variant, tier) => Some(platform::COOP_8),
            _ => None,
        };
        let in_tier = |file| match (file, tier) {
            (SHARE, Tier::Subgroup) => wgsl!("../shaders/shared/share_subgroup.wgsl"),
            (MATMUL, Tier::Matrix | Tier::SmallMatrix) => platform::MATMUL_COOP,
            (file, _) => file,
        };
        first.into_iter().chain(self.files(variant).map(in_tier)).collect::<Vec<_>>().join("\n")
    }

    /// The plain composition and the others.
    pub fn compositions(&self) -> impl Iterator<Item = Variant> {
        std::iter::once(Variant::Plain).chain(self.variants.iter().map(|(variant, _)| *variant))
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
