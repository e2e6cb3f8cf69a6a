//! Timing: how long one operation takes, on one thread or on many at once.

#![expect(clippy::disallowed_methods, reason = "measuring is what this is for")]

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// Each measurement is cut into so many parts, whose median counts.
const PARTS: u32 = 5;
/// Operations between two looks at the clock take about this long.
const STRETCH: Duration = Duration::from_micros(200);
/// Operations between two looks at the clock, at most: what a batch may have to hold.
pub const STRETCH_OPERATIONS_MAX: u32 = 4096;

/// Now, by the clock that everything here is measured with.
pub fn now() -> Instant {
    Instant::now()
}

/// What a thread does over and over.
pub trait Work {
    /// Makes ready for `count` operations; not timed.
    fn prepare(&mut self, count: u32);
    /// Does the operation `count` times.
    fn run(&mut self, count: u32);
    /// How many operations can be made ready at once.
    fn batch_max(&self) -> u32 {
        STRETCH_OPERATIONS_MAX
    }
}

/// Work that needs no preparation.
pub struct Plain<F>(pub F);

impl<T, F: FnMut() -> T> Work for Plain<F> {
    fn prepare(&mut self, _: u32) {}

    fn run(&mut self, count: u32) {
        for _ in 0..count {
            black_box((self.0)());
        }
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Nanoseconds an operation takes on one thread: the median of the parts, and over threads
    /// the mean.
    pub nanos: f64,
    /// Between the slowest and the fastest part, in percent of the median.
    pub spread_percent: f64,
    /// Operations a second, of all threads together.
    pub per_second: f64,
}

/// Runs what `make` makes on `threads` threads at once, for about `time`.
///
/// # Errors
/// The work could not be made, or a thread not be started.
pub fn measure<W: Work>(
    threads: usize,
    time: Duration,
    make: impl Fn() -> Result<W> + Sync,
) -> Result<Sample> {
    if threads <= 1 {
        return Ok(of_threads(&[one(&mut make()?, time, None)]));
    }
    let start = Barrier::new(threads);
    let outcomes = thread::scope(|scope| {
        let spawn = |number| {
            let body = || {
                // A thread that fails still has to come to the start, where others wait for it.
                let made = make();
                start.wait();
                Ok(one(&mut made?, time, Some(&start)))
            };
            thread::Builder::new().name(format!("bench-{number}")).spawn_scoped(scope, body)
        };
        let running: Vec<_> = (0..threads).map(spawn).collect::<Result<_, _>>()?;
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Outcome>>| {
            thread.join().map_err(|_| anyhow!("a measuring thread panicked"))?
        };
        running.into_iter().map(join).collect::<Result<Vec<_>>>()
    });
    outcomes.map(|outcomes| of_threads(&outcomes)).context("measuring on several threads")
}

/// One thread's: the median part, and how far the parts lie apart.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    nanos: f64,
    spread_percent: f64,
}

fn of_threads(outcomes: &[Outcome]) -> Sample {
    let count = outcomes.len().max(1) as f64;
    let per_second = outcomes.iter().map(|outcome| 1e9 / outcome.nanos.max(1e-3)).sum();
    let widest = outcomes.iter().map(|outcome| outcome.spread_percent).fold(0.0, f64::max);
    Sample {
        nanos: outcomes.iter().map(|outcome| outcome.nanos).sum::<f64>() / count,
        spread_percent: widest,
        per_second,
    }
}

fn one<W: Work>(work: &mut W, time: Duration, start: Option<&Barrier>) -> Outcome {
    let stretch = calibrate(work);
    if let Some(start) = start {
        start.wait();
    }
    let part = time / PARTS;
    let mut parts: Vec<f64> = (0..PARTS).map(|_| of_part(work, stretch, part)).collect();
    parts.sort_by(f64::total_cmp);
    let (first, last) = (parts.first().copied(), parts.last().copied());
    let median = parts.get(parts.len() / 2).copied().unwrap_or_default();
    let spread = last.unwrap_or_default() - first.unwrap_or_default();
    Outcome { nanos: median, spread_percent: 100.0 * spread / median.max(1e-3) }
}

/// Nanoseconds an operation took over `time`; at least one stretch is run.
fn of_part<W: Work>(work: &mut W, stretch: u32, time: Duration) -> f64 {
    let (mut taken, mut count) = (Duration::ZERO, 0_u64);
    while count == 0 || taken < time {
        taken += timed(work, stretch);
        count += u64::from(stretch);
    }
    taken.as_nanos() as f64 / count as f64
}

fn timed<W: Work>(work: &mut W, count: u32) -> Duration {
    work.prepare(count);
    let started = now();
    work.run(count);
    started.elapsed()
}

/// How many operations make a stretch. Also warms caches and clocks up.
fn calibrate<W: Work>(work: &mut W) -> u32 {
    let most = work.batch_max().clamp(1, STRETCH_OPERATIONS_MAX);
    let mut count = 1;
    while count < most && timed(work, count) < STRETCH {
        count = (count * 2).min(most);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Counted {
        ready: u32,
        done: u64,
    }

    impl Work for &mut Counted {
        fn prepare(&mut self, count: u32) {
            self.ready = count;
        }

        fn run(&mut self, count: u32) {
            assert_eq!(self.ready, count, "made ready for as many as are run");
            self.done += u64::from(count);
        }

        fn batch_max(&self) -> u32 {
            3
        }
    }

    #[test]
    fn work_is_made_ready_before_it_runs_and_no_batch_is_too_large() {
        let mut counted = Counted::default();
        let mut work = &mut counted;
        assert!(calibrate(&mut work) <= 3);
        let nanos = of_part(&mut work, 3, Duration::ZERO);
        assert!(nanos >= 0.0 && counted.done >= 3);
    }

    #[test]
    fn threads_add_up_and_their_failures_do_not_hang() {
        let spin = || Ok(Plain(|| (0..100).map(black_box).sum::<u32>()));
        let sample = measure(3, Duration::from_millis(3), spin).expect("measured");
        assert!(sample.nanos > 0.0 && sample.per_second > 0.0);
        // The sum of the rates is at least that of three threads as slow as their mean.
        assert!(sample.per_second * sample.nanos >= 2.99e9);
        let fails = || Err::<Plain<fn()>, _>(anyhow!("no key"));
        assert!(measure(1, Duration::ZERO, fails).is_err());
        assert!(measure(2, Duration::ZERO, fails).is_err());
    }
}
