use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// `MaxStartups start:rate:full`: unauthenticated connections a process holds, with random early
/// refusal between `start` and `full`, so that a storm cannot shut honest logins out altogether.
#[derive(Debug)]
pub struct Startups {
    start: usize,
    /// Per cent of connections refused at `start`, rising to 100 at `full`.
    rate: u32,
    full: usize,
    open: AtomicUsize,
    /// Steps through the percentages; which connection is refused need not be unpredictable.
    dice: AtomicU32,
    refused: AtomicUsize,
}

impl Startups {
    pub const fn new(start: usize, rate: u32, full: usize) -> Startups {
        Startups {
            start,
            rate,
            full,
            open: AtomicUsize::new(0),
            dice: AtomicU32::new(0),
            refused: AtomicUsize::new(0),
        }
    }

    /// Takes a slot; `false` when the connection is to be refused.
    pub fn admit(&self) -> bool {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        if open < self.start {
            return true;
        }
        let refuse = open >= self.full || {
            let span = (self.full - self.start).max(1) as u64;
            let over = (open - self.start) as u64;
            let chance = u64::from(self.rate) + u64::from(100 - self.rate.min(100)) * over / span;
            // 37 is coprime to 100: every percentage comes up once in a hundred.
            let roll = self.dice.fetch_add(37, Ordering::Relaxed) % 100;
            u64::from(roll) < chance
        };
        if refuse {
            self.over();
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        !refuse
    }

    /// Gives a slot back: the connection has logged in or ended.
    pub fn over(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_some_from_start_and_all_from_full() {
        let startups = Startups::new(10, 30, 100);
        let admitted = (0..1000).filter(|_| startups.admit()).count();
        assert_eq!(admitted, startups.open());
        assert!((20..=100).contains(&admitted), "{admitted}");
        assert_eq!(startups.refused(), 1000 - admitted);
        for _ in 0..admitted {
            startups.over();
        }
        assert_eq!(startups.open(), 0);
        assert!(startups.admit());
    }
}
