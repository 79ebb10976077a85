//! Threads, vector instructions, clock and GPU waiting on an operating system.

use std::path::PathBuf;

use super::Work;
use crate::error::{Error, Result};

/// The cores that the CPU executor may use.
#[derive(Debug)]
pub struct Cores {
    pool: rayon::ThreadPool,
}

impl Cores {
    /// `threads` of them, or all.
    ///
    /// # Errors
    /// [`Error::Settings`] if the system gives no threads.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0));
        let pool = builder.build().map_err(|error| Error::Settings(format!("cannot start threads: {error}")))?;
        Ok(Self { pool })
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work`; parallel loops inside it use these cores.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }
}

/// Runs `work` compiled for the widest vectors that this processor has. Only what is inlined into it profits.
#[inline(always)]
pub fn vectorised(work: impl Work) {
    struct Inlined<W>(W);
    impl<W: Work> pulp::NullaryFnOnce for Inlined<W> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            self.0.run();
        }
    }
    pulp::Arch::new().dispatch(Inlined(work));
}

/// Most bytes that an executor may hold in memory: the system says when there is no more.
pub const MOST_BYTES: u64 = 1 << 62;

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
