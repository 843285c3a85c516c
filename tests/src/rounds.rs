//! Much work in rounds of its own seed each, on all processors.

use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, ScopedJoinHandle},
};

use anyhow::{Context as _, Result};

/// Runs `round` with `count` seeds from `first` on; each thread adds up in a
/// `T` of its own, and all of them are the result.
///
/// # Errors
///
/// The first round that failed, with its seed.
///
/// # Panics
///
/// If a round does.
pub fn run<T, R>(first: u64, count: usize, round: R) -> Result<Vec<T>>
where
    T: Default + Send,
    R: Fn(u64, &mut T) -> Result<()> + Sync,
{
    let next = AtomicUsize::new(0);
    let work = || {
        let mut sum = T::default();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(sum);
            }
            let seed = first.wrapping_add(index as u64);
            if let Err(error) = round(seed, &mut sum) {
                // The others need not go on.
                next.store(count, Ordering::Relaxed);
                return Err(error)
                    .with_context(|| format!("run it again with `SG_TEST_SEED={seed}`"));
            }
        }
    };
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cpus).map(|_| scope.spawn(work)).collect();
        let join = |thread: ScopedJoinHandle<'_, Result<T>>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}
