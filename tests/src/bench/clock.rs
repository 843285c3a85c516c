//! Time that this process spent, not time that passed: what other programs do
//! on the machine meanwhile is none of the figure's business.

use std::{fs, time::Instant};

use anyhow::{Context as _, Result, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// What this thread has spent on a CPU, in nanoseconds.
pub(super) fn thread_ns() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "two hundred days fit into a double's 53 bits"
    )]
    let ns = (time.tv_sec() * 1_000_000_000 + time.tv_nsec()) as f64;
    Ok(ns)
}

/// A point in time, by the clock on the wall and by the CPU's.
pub(super) struct Moment {
    wall: Instant,
    cpu_ns: f64,
}

impl Moment {
    /// This moment, for a thread that stays on its CPU.
    pub(super) fn now() -> Result<Self> {
        Ok(Self {
            cpu_ns: thread_ns()? + softirq_ns()?,
            wall: Instant::now(),
        })
    }

    /// Nanoseconds that passed, and that this thread spent with the help of
    /// the kernel's own.
    pub(super) fn since(&self) -> Result<(f64, f64)> {
        let wall = self.wall.elapsed();
        let cpu_ns = thread_ns()? + softirq_ns()? - self.cpu_ns;
        Ok((wall.as_secs_f64() * 1e9, cpu_ns))
    }
}

/// What the kernel's thread for packets has spent on this CPU: under load it
/// takes over from whoever sends.
fn softirq_ns() -> Result<f64> {
    let name = format!("ksoftirqd/{}\n", sched_getcpu()?);
    for entry in fs::read_dir("/proc")? {
        let process = entry?.path();
        if fs::read_to_string(process.join("comm")).is_ok_and(|comm| comm == name) {
            let spent = fs::read_to_string(process.join("schedstat"))?;
            let ns = spent.split(' ').next().context("no scheduler statistics")?;
            return Ok(ns.parse()?);
        }
    }
    bail!("no {}", name.trim())
}

/// Keeps this thread on one CPU as long as it lives.
pub(super) struct Pinned(CpuSet);

impl Pinned {
    /// The last CPU that the thread may use, because interrupts prefer the
    /// first.
    pub(super) fn new() -> Result<Self> {
        let allowed = sched_getaffinity(THIS)?;
        let last = (0..CpuSet::count())
            .rev()
            .find(|cpu| allowed.is_set(*cpu).unwrap_or(false))
            .context("this thread may use no CPU")?;
        let mut only = CpuSet::new();
        only.set(last)?;
        sched_setaffinity(THIS, &only)?;
        Ok(Self(allowed))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Where it was allowed to be before, it is allowed to be again.
        let _ = sched_setaffinity(THIS, &self.0);
    }
}

const THIS: Pid = Pid::from_raw(0);
