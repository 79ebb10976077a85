//! Threads that do one thing together, many thousand times a second.
//!
//! A token is a hundred and more pieces of work of some ten microseconds each, which depend on each other. Waking a
//! thread takes as long as that, so for a while those without work look for it without pause before they sleep. (A thread
//! pool for large pieces, as rayon has, made two threads slower than one with a small model.)
#![allow(unsafe_code, reason = "work that borrows cannot be handed to threads that live on without")]

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Looks for work before a thread sleeps: about 0.1 ms.
const LOOKS: u32 = 4096;

/// The calling thread and others.
#[derive(Debug)]
pub(super) struct Team {
    shared: Arc<Shared>,
    others: Vec<JoinHandle<()>>,
}

impl Team {
    /// So many threads, the caller's included.
    pub(super) fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let start = |n| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("cpu {n}")).spawn(move || shared.work())
        };
        let others = (1..threads).map(start).collect::<Result<_, _>>();
        // Those that were started before one could not be end with this.
        others.map(|others| Self { shared: Arc::clone(&shared), others }).inspect_err(|_| shared.end())
    }

    pub(super) fn count(&self) -> usize {
        self.others.len() + 1
    }

    /// Calls `work` once on the caller's thread, and meanwhile on every other that finds the time. Returns when all are done.
    pub(super) fn run(&self, work: &(dyn Fn() + Sync)) {
        if self.others.is_empty() || self.shared.is_taken.swap(true, Ordering::Acquire) {
            return work(); // alone, or inside of another `run`
        }
        let closing = Closing(&self.shared);
        self.shared.open(work);
        work();
        drop(closing);
        assert!(!self.shared.has_failed.swap(false, Ordering::Relaxed), "another thread has panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.end();
        for other in self.others.drain(..) {
            // It cannot have panicked: what panics in it is caught.
            let _ = other.join();
        }
    }
}

/// Set in [`Shared::state`] while threads may still begin with the job.
const OPEN: u64 = 1 << 15;
/// One job more in [`Shared::state`]. Below [`OPEN`] the threads at it are counted.
const JOB: u64 = 1 << 16;

#[derive(Default)]
struct Shared {
    /// The number of the job, [`OPEN`], and how many threads are at it.
    state: AtomicU64,
    /// What to do. Written while no job is open and nobody is at one.
    job: UnsafeCell<Option<&'static (dyn Fn() + Sync)>>,
    is_taken: AtomicBool,
    has_failed: AtomicBool,
    is_over: AtomicBool,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    alarm: Condvar,
}

// SAFETY: `job` is read by those alone that have counted themselves in `state` while it was open, and written by the one
// who has taken the team, when none is counted.
unsafe impl Sync for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Shared {
    /// Offers a job. Whoever calls it has taken the team and lives on until [`Closing`] is dropped.
    fn open(&self, work: &(dyn Fn() + Sync)) {
        // SAFETY: `Closing` waits until nobody uses it any more, also if the caller's own part panics; and none is at
        // the job before, for which the same was done.
        unsafe {
            let work = std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(work);
            *self.job.get() = Some(work);
        }
        let number = self.state.load(Ordering::Relaxed) / JOB + 1;
        self.state.store((number * JOB) | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
    }

    fn wake(&self) {
        // Whoever has not seen the news yet holds this, or waits already.
        drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
        self.alarm.notify_all();
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// A thread's life.
    fn work(&self) {
        let mut last = 0;
        while let Some(number) = self.next(last) {
            last = number;
            // SAFETY: this thread is counted, so the job is there and nobody writes it.
            let job = unsafe { *self.job.get() };
            if catch_unwind(AssertUnwindSafe(|| job.map(|job| job()))).is_err() {
                self.has_failed.store(true, Ordering::Relaxed);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a job with another number than `last`, and counts the thread to those at it; `None` when all is over.
    fn next(&self, last: u64) -> Option<u64> {
        let mut looks = 0;
        loop {
            let state = self.state.load(Ordering::SeqCst);
            if is_new(state, last) {
                if self.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    return Some(state / JOB);
                }
                continue;
            }
            if self.is_over.load(Ordering::Relaxed) {
                return None;
            }
            looks += 1;
            if looks < LOOKS {
                spin_loop();
                continue;
            }
            looks = 0;
            let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            while !is_new(self.state.load(Ordering::SeqCst), last) && !self.is_over.load(Ordering::SeqCst) {
                bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn is_new(state: u64, last: u64) -> bool {
    state & OPEN != 0 && state / JOB != last
}

/// Closes the job and waits for those at it, also when the stack unwinds.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let Self(shared) = self;
        shared.state.fetch_and(!OPEN, Ordering::Relaxed);
        let mut looks = 0;
        while shared.state.load(Ordering::Acquire) % OPEN != 0 {
            looks += 1;
            // A machine with more threads than processors must let them go on.
            if looks < LOOKS { spin_loop() } else { thread::yield_now() }
        }
        shared.is_taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;

    #[test]
    fn every_job_is_done_before_the_next_and_by_all() {
        let team = Team::new(4).unwrap();
        let mut sums = vec![0_u64; 1000];
        for round in 1..=500 {
            let rest = Mutex::new(sums.iter_mut());
            team.run(&|| {
                loop {
                    let next = rest.lock().unwrap().next();
                    let Some(sum) = next else { break };
                    *sum += round;
                }
            });
            if round % 100 == 0 {
                thread::sleep(std::time::Duration::from_millis(2)); // all asleep
            }
        }
        assert!(sums.iter().all(|sum| *sum == 500 * 501 / 2));
    }

    #[test]
    fn runs_inside_of_runs_are_done_alone() {
        let team = Team::new(2).unwrap();
        let count = AtomicUsize::new(0);
        team.run(&|| {
            team.run(&|| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert!((1..=2).contains(&count.into_inner()));
    }

    #[test]
    fn panics_come_back_to_the_caller() {
        let team = Team::new(2).unwrap();
        let caller = thread::current().id();
        let arrived = AtomicBool::new(false);
        let result = catch_unwind(AssertUnwindSafe(|| {
            team.run(&|| {
                if thread::current().id() == caller {
                    while !arrived.load(Ordering::Relaxed) {
                        thread::yield_now();
                    }
                } else {
                    arrived.store(true, Ordering::Relaxed);
                    panic!("on purpose");
                }
            });
        }));
        assert!(result.is_err());
        team.run(&|| {});
    }
}
