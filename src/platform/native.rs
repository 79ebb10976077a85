//! Threads, vector instructions, clock and GPU waiting on an operating system.

mod memory;
mod team;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use self::team::Team;
use super::{Plain, Work};
use crate::error::{Error, Result};
use crate::kernel::wgsl;

/// The cores that the CPU executor may use.
#[derive(Debug)]
pub struct Cores {
    team: Team,
}

impl Cores {
    /// `threads` of them, or all.
    ///
    /// # Errors
    /// [`Error::Settings`] if the system gives no threads.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        let all = || std::thread::available_parallelism().map_or(1, NonZero::get);
        let team = Team::new(threads.filter(|threads| *threads > 0).unwrap_or_else(all));
        Ok(Self { team: team.map_err(|error| Error::Settings(format!("cannot start threads: {error}")))? })
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.team.count()
    }

    /// Does `work` to every item: each core takes the next one when it is done with another.
    pub fn each<T: Send>(&self, items: impl ExactSizeIterator<Item = T> + Send, work: impl Fn(T) + Sync) {
        if items.len() < 2 {
            return items.for_each(work);
        }
        let items = Mutex::new(items);
        self.team.run(&|| {
            loop {
                // Not in the condition of a loop, where the lock would be held during the work.
                let item = items.lock().unwrap_or_else(PoisonError::into_inner).next();
                match item {
                    Some(item) => work(item),
                    None => break,
                }
            }
        });
    }
}

/// Runs `work` compiled for the widest vectors that this processor has. Only what is inlined into it profits.
#[inline(always)]
pub fn vectorised(work: impl Work) {
    #[cfg(target_arch = "x86_64")]
    let Some(work) = x86::with_avx512(work).and_then(x86::with_avx2) else { return };
    // ARM has 32 registers of four floats, x86 without AVX2 16.
    work.run(Plain::<{ if cfg!(target_arch = "x86_64") { 8 } else { 16 } }>);
}

/// The ways that [`vectorised`] takes on some machine or other.
#[cfg(test)]
pub const WAYS: [&str; 4] = ["AVX-512", "AVX2", "plain, 8 registers", "plain, 16 registers"];

/// Does `work` in one of the [`WAYS`], or gives `false` if this processor cannot.
#[cfg(test)]
pub fn vectorised_in(way: &str, work: impl Work) -> bool {
    match way {
        #[cfg(target_arch = "x86_64")]
        "AVX-512" => x86::with_avx512(work).is_none(),
        #[cfg(target_arch = "x86_64")]
        "AVX2" => x86::with_avx2(work).is_none(),
        "plain, 8 registers" => {
            work.run(Plain::<8>);
            true
        }
        "plain, 16 registers" => {
            work.run(Plain::<16>);
            true
        }
        _ => false,
    }
}

/// Bytes of memory that a new executor may take: with more, the system would end somebody. `None` where it does not tell.
pub fn available_bytes() -> Option<u64> {
    memory::available_bytes(Path::new("/"))
}

/// Products of one column with inputs as integers.
pub const MATVEC_INTEGERS: &str = wgsl!("../../shaders/shared/matvec_integers.wgsl");
/// The files of the tier `matrix`, of which browsers know nothing: tiles of products, and the matrices that they are made with.
pub const MATMUL_COOP: &str = wgsl!("../../shaders/shared/matmul_coop.wgsl");
/// Of 16 rows and columns.
pub const COOP_16: &str = wgsl!("../../shaders/shared/coop_16.wgsl");
/// Of 8.
pub const COOP_8: &str = wgsl!("../../shaders/shared/coop_8.wgsl");

/// wgpu's leave to use what it calls experimental: cooperative matrices.
pub fn experimental() -> wgpu::ExperimentalFeatures {
    #[allow(unsafe_code, reason = "wgpu gives it in no other way")]
    // SAFETY: no promise is asked for but to know that wgpu may be wrong there. Our shaders use matrices as its documentation says.
    unsafe {
        wgpu::ExperimentalFeatures::enabled()
    }
}

/// A shader without the counters that wgpu ends loops by, and without checks of indices where a driver checks those into buffers
/// itself: Vulkan's (robust access).
pub fn trusted_module(
    device: &wgpu::Device,
    backend: wgpu::Backend,
    descriptor: wgpu::ShaderModuleDescriptor<'_>,
) -> wgpu::ShaderModule {
    let checks = wgpu::ShaderRuntimeChecks {
        bounds_checks: backend != wgpu::Backend::Vulkan,
        force_loop_bounding: false,
        ..wgpu::ShaderRuntimeChecks::checked()
    };
    #[allow(unsafe_code, reason = "wgpu leaves out checks in no other way")]
    // SAFETY: the shaders are the program's own. Their loops end, and indices into workgroup and private memory stay inside by
    // the sizes of the plan; the tests run them with the checks too.
    unsafe {
        device.create_shader_module_trusted(descriptor, checks)
    }
}

/// Whether [`remember`] does.
pub const REMEMBERS: bool = true;

/// This program's folder for what can be found out again: the user's cache folder, if there is one.
fn cache_folder() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || from("HOME").map(|home| home.join(".cache"));
    Some(from("XDG_CACHE_HOME").or_else(home).or_else(|| from("LOCALAPPDATA"))?.join("sinkstream"))
}

/// What was last remembered under this name, if it can be read.
pub fn remembered(name: &str) -> Option<String> {
    std::fs::read_to_string(cache_folder()?.join(name)).ok()
}

/// Remembers a text under a name, if it can: nothing depends on it.
pub fn remember(name: &str, text: &str) {
    let Some(folder) = cache_folder() else { return };
    let part = folder.join(format!("{name}.{}", std::process::id())); // renamed when whole: others may read now
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&part, text));
    let _ = written.and_then(|()| std::fs::rename(&part, folder.join(name)));
}

/// Seconds since some fixed moment.
pub fn seconds() -> f64 {
    use std::sync::LazyLock;
    use std::time::Instant;
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_secs_f64()
}

/// Seconds that the processor has worked for this program, all cores together; `None` where the system does not tell.
pub fn cpu_seconds() -> Option<f64> {
    #[cfg(unix)]
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).ok();
    #[cfg(not(unix))]
    let time: Option<std::time::Duration> = None;
    time.map(|time| std::time::Duration::from(time).as_secs_f64())
}

/// Seconds since 1970 in UTC.
pub fn unix_seconds() -> i64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_1970.map_or(0, |since| since.as_secs() as i64)
}

/// Waits until a submission is done and what wgpu has to tell of it has been told.
///
/// # Errors
/// [`Error::Gpu`] if the device cannot be waited for.
pub async fn wait(
    device: &wgpu::Device,
    _queue: &wgpu::Queue,
    submission: wgpu::SubmissionIndex,
    _is_told: impl Fn() -> bool,
) -> Result<()> {
    let until = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
    device.poll(until).map(|_| ()).map_err(|error| {
        let _ = device.poll(wgpu::PollType::wait_indefinitely()); // a lost device says so when all is done
        Error::Gpu(format!("waiting: {error}"))
    })
}
