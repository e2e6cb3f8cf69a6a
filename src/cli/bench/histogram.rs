//! Latencies, counted in buckets that grow with them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bits of a value that are told apart: two values in one bucket differ by less than 1/64.
const BITS: u32 = 6;
const SUB: u64 = 1 << BITS;
/// One linear stretch, then one of `SUB` buckets for each further power of two.
const BUCKETS: usize = (64 - BITS as usize + 1) * SUB as usize;

/// Counts of nanoseconds by size. 30 KiB, whatever is put into it.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u128,
    max: u64,
}

/// What is told of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub mean_nanos: f64,
    pub p50_nanos: f64,
    pub p90_nanos: f64,
    pub p99_nanos: f64,
    #[serde(rename = "p99.9_nanos")]
    pub p999_nanos: f64,
    pub max_nanos: f64,
}

impl Histogram {
    pub fn new() -> Histogram {
        Histogram { buckets: vec![0; BUCKETS], count: 0, sum: 0, max: 0 }
    }

    pub fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get_mut(bucket_of(nanos)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += u128::from(nanos);
        self.max = self.max.max(nanos);
    }

    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The value that this share (0 to 1) of all does not exceed, to 1/64.
    pub fn quantile(&self, share: f64) -> f64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (number, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return (top_of(number) as f64).min(self.max as f64);
            }
        }
        self.max as f64
    }

    pub fn tell(&self) -> Latency {
        Latency {
            count: self.count,
            mean_nanos: self.sum as f64 / self.count.max(1) as f64,
            p50_nanos: self.quantile(0.5),
            p90_nanos: self.quantile(0.9),
            p99_nanos: self.quantile(0.99),
            p999_nanos: self.quantile(0.999),
            max_nanos: self.max as f64,
        }
    }

    /// How far the middle half lies apart, in percent of the median.
    pub fn spread_percent(&self) -> f64 {
        let half = self.quantile(0.75) - self.quantile(0.25);
        100.0 * half / self.quantile(0.5).max(1.0)
    }
}

const fn bucket_of(nanos: u64) -> usize {
    if nanos < SUB {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - BITS;
    (shift as usize + 1) * SUB as usize + ((nanos >> shift) - SUB) as usize
}

/// The largest value of a bucket.
const fn top_of(number: usize) -> u64 {
    let (stretch, at) = (number as u64 / SUB, number as u64 % SUB);
    if stretch == 0 {
        return at;
    }
    let shift = stretch as u32 - 1;
    // The last one ends with the largest number there is.
    ((SUB + at) << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_touch_and_are_narrow() {
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(top_of(BUCKETS - 1), u64::MAX);
        for number in 1..BUCKETS {
            let (below, top) = (top_of(number - 1), top_of(number));
            assert_eq!((bucket_of(below + 1), bucket_of(top)), (number, number));
            assert!(top - below <= below / SUB + 1, "{number}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut histogram = Histogram::new();
        assert!(histogram.is_empty() && histogram.tell().max_nanos == 0.0);
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        let told = histogram.tell();
        assert_eq!((told.count, told.max_nanos), (1000, 1e9));
        for (got, ms) in [
            (told.p50_nanos, 500.0),
            (told.p90_nanos, 900.0),
            (told.p99_nanos, 990.0),
            (told.p999_nanos, 999.0),
            (told.mean_nanos, 500.5),
        ] {
            assert!((got / (ms * 1e6) - 1.0).abs() < 1.0 / 64.0, "{got} for {ms} ms");
        }
        assert!((histogram.spread_percent() - 100.0).abs() < 4.0);
    }
}
