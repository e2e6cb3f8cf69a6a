use std::time::Duration;

/// A point on the driver's monotonic clock, in nanoseconds since an arbitrary start.
///
/// It is always handed in by the driver; nothing below the driver reads a clock, so the simulator
/// can decide what time it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    pub const ZERO: Instant = Instant(0);

    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Saturates at the end of time (584 years) instead of wrapping.
    pub const fn after(self, delay: Duration) -> Instant {
        let nanos = delay.as_nanos();
        let nanos = if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 };
        Instant(self.0.saturating_add(nanos))
    }

    /// Zero when `earlier` is in fact later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let t = Instant::from_nanos(5);
        assert_eq!(t.after(Duration::from_nanos(7)).nanos(), 12);
        assert_eq!(t.after(Duration::MAX).nanos(), u64::MAX);
        assert_eq!(Instant::ZERO.since(t), Duration::ZERO);
        assert_eq!(t.since(Instant::ZERO), Duration::from_nanos(5));
    }
}
